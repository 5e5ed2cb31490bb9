"""Checkpoints: written whole or not at all, verified before use, the last two kept.

checkpoints/checkpoint-000001230.pt         torch.save of tensors and plain values, read with weights_only=True
            checkpoint-000001230.pt.sha256  its checksum, in place before the checkpoint is

A checkpoint counts when its checksum fits. One that does not is set aside, never deleted, and the
one before is used. Training stops only while the state is copied; `CheckpointWriter` writes the
copy in a thread.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NotRequired, TypedDict

import torch
from torch import Tensor

from roadmap.runs.io import RunError, write_bytes, writing

KEEP = 2
log = logging.getLogger(__name__)


class TrainingState(TypedDict):
    """All that the rest of a run depends on, as tensors and plain values.

    statistics: BatchNorm's of each rank, where they differ (ranks, values). losses: of this epoch's
    iterations so far. best: what EpochScores.to_json gives of the best epoch, where the recipe
    looks for one; best_weights: the weights that it is reported by. scaler: of the loss in fp16, with
    the number of updates it left out.
    """

    fingerprint: str
    iteration: int
    world_size: int
    precision: str
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    ema: dict[str, Tensor] | None
    statistics: Tensor | None
    losses: Tensor
    train_seconds: float
    waited_seconds: NotRequired[float]  # not in checkpoints that are older than it
    best: dict[str, Any] | None
    best_weights: dict[str, Tensor] | None
    scaler: dict[str, float] | None


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run."""

    folder: Path

    def save(self, state: TrainingState, iteration: int) -> Path:
        """Write a checkpoint, then remove those beyond the last two.

        Raises RunError; earlier ones stay intact.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"checkpoint-{iteration:09d}.pt"
        with writing(path, size=sum(t.nbytes for t in _tensors(state))) as file:
            content = _Hashed(file)
            torch.save(state, content)  # type: ignore[arg-type]  # all it asks of a file is to be written to
            checksum = content.checksum()
            write_bytes(_checksum_file(path), f"{checksum}  {path.name}\n".encode())
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


class _Hashed:
    """Passes on to a file what is written, and knows its SHA-256: no second copy in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it; an error is kept for `checksum`, as torch's writer in C++ cannot pass it on."""
        rest = memoryview(data)
        self.digest.update(rest)
        try:
            while rest and not self.error:
                rest = rest[self.file.write(rest) :]
        except OSError as e:
            self.error = e
        return len(data)

    def flush(self) -> None:
        """Do nothing, as nothing is buffered."""

    def checksum(self) -> str:
        """SHA-256 of what was written, in hexadecimal. Raises the OSError that stopped the writing."""
        if self.error:
            raise self.error
        return self.digest.hexdigest()


class CheckpointWriter:
    """Writes checkpoints in a thread, one at a time, from copies of the state.

    The copies are made in the same memory each time, pinned where the state is on a GPU. As a
    context it ends when the last one is written. store: None on a rank that writes nothing.
    """

    def __init__(self, store: CheckpointStore | None) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[Any] | None = None
        self._memory: Any = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._thread.shutdown()
        failure = self._last.exception() if self._last else None
        if failure and not error:
            raise failure
        if failure and failure is not error:
            log.warning("%s", failure)

    @property
    def busy(self) -> bool:
        return self._last is not None and not self._last.done()

    def reserve(self, state: TrainingState) -> None:
        """Take the memory for copies of such states, in the thread: the system hands it out slowly."""
        if self.store:
            self.wait()
            self._last = self._thread.submit(self._reserve, state)

    def _reserve(self, state: TrainingState) -> None:
        self._memory = _mapped(state, None, lambda tensor, _: _on_host(tensor).zero_())

    def save(self, state: TrainingState, iteration: int) -> None:
        """Copy the state and have it written.

        Waits until the one before is written; raises RunError where that failed. A GPU copies when
        it comes to it: what is launched later does not change the copy.
        """
        if not self.store:
            return
        self.wait()
        self._memory = copy = _mapped(state, self._memory, _copied)
        ready = None
        if any(t.is_cuda for t in _tensors(state)):
            ready = torch.cuda.Event()
            ready.record()
        self._last = self._thread.submit(self._write, self.store, copy, iteration, ready)

    @staticmethod
    def _write(store: CheckpointStore, copy: TrainingState, iteration: int, ready: torch.cuda.Event | None) -> None:
        if ready:
            ready.synchronize()
        store.save(copy, iteration)

    def check(self) -> None:
        """Raise RunError if the last checkpoint could not be written. Does not wait."""
        if self._last and self._last.done():
            self._last.result()

    def wait(self) -> None:
        """Wait until the last checkpoint is written. Raises RunError if it could not be."""
        if self._last:
            self._last.result()


def _mapped(value: Any, memory: Any, act: Callable[[Tensor, Any], Tensor]) -> Any:
    """The value with act(tensor, what `memory` has in its place) for each tensor."""
    if isinstance(value, Tensor):
        return act(value, memory)
    if isinstance(value, dict):
        known = memory if isinstance(memory, dict) else {}
        return {key: _mapped(part, known.get(key), act) for key, part in value.items()}
    if isinstance(value, list):
        olds = memory if isinstance(memory, list) and len(memory) == len(value) else [None] * len(value)
        return [_mapped(part, old, act) for part, old in zip(value, olds, strict=True)]
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _on_host(tensor: Tensor) -> Tensor:
    """Memory for a copy, in the same memory format."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)


def _copied(tensor: Tensor, memory: Any) -> Tensor:
    if not isinstance(memory, Tensor) or _layout(memory) != _layout(tensor):
        memory = _on_host(tensor)
    return memory.copy_(tensor.detach(), non_blocking=True)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype
