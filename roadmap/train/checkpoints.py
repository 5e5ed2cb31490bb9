"""Checkpoints: written whole or not at all, verified before use, the last two kept.

checkpoints/checkpoint-000001230.pt         torch.save of tensors and plain values, read with weights_only=True
            checkpoint-000001230.pt.sha256  its checksum, in place before the checkpoint is

A checkpoint counts when its checksum fits. One that does not is set aside, never deleted, and the
one before is used.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from roadmap.runs.io import RunError, write_bytes

KEEP = 2
log = logging.getLogger(__name__)


class TrainingState(TypedDict):
    """All that the rest of a run depends on, as tensors and plain values.

    losses: of this epoch's iterations so far. best: what BestEpoch.to_json gives, where the recipe
    looks for one.
    """

    fingerprint: str
    iteration: int
    world_size: int
    precision: str
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    ema: dict[str, Tensor] | None
    losses: Tensor
    train_seconds: float
    waited_seconds: NotRequired[float]  # not in checkpoints that are older than it
    best: dict[str, float] | None


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run."""

    folder: Path

    def save(self, state: TrainingState, iteration: int) -> Path:
        """Write a checkpoint, then remove those beyond the last two.

        Raises RunError; earlier ones stay intact.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        path = self.folder / f"checkpoint-{iteration:09d}.pt"
        write_bytes(_checksum_file(path), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())
        write_bytes(path, content)
        for old in self._present()[:-KEEP]:
            old.unlink()
            _checksum_file(old).unlink(missing_ok=True)
        return path

    def load(self, fingerprint: str) -> TrainingState | None:
        """The newest whole checkpoint, or None where none was ever written.

        Raises RunError where all are broken, or where it is another trial's.
        """
        if not self.folder.is_dir():
            return None
        for path in reversed(self._present()):
            state = self._read(path)
            if state is None:
                self._set_aside(path)
                continue
            if state["fingerprint"] != fingerprint:
                raise RunError(
                    f"checkpoint {path} is of trial {state['fingerprint'][:10]}, not {fingerprint[:10]}; "
                    "legal: the same trial's; use another folder, or --force to train anew"
                )
            return state
        if broken := sorted(self.folder.glob("*.broken*")):
            raise RunError(
                f"checkpoints in {self.folder}: all {len(broken)} are broken; legal: at least one whole; "
                "restore one, or use --force to train anew"
            )
        return None

    def _present(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("checkpoint-*.pt") if re.fullmatch(r"checkpoint-\d{9}\.pt", p.name))

    def _read(self, path: Path) -> TrainingState | None:
        """The checkpoint's content, None if it is damaged. Nothing in it is executed."""
        try:
            content, stated = path.read_bytes(), _checksum_file(path).read_text().split()[0]
        except (OSError, IndexError, UnicodeDecodeError):
            return None
        if hashlib.sha256(content).hexdigest() != stated:
            return None
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError):
            return None

    def _set_aside(self, path: Path) -> None:
        aside = next(p for n in range(1000) if not (p := path.with_name(f"{path.name}.broken-{n}")).exists())
        path.rename(aside)
        log.warning(
            "checkpoint %s is damaged (its checksum does not fit, or it is not plain data); "
            "set aside as %s, the one before is used",
            path,
            aside.name,
        )


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
