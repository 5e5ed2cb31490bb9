"""The run folder: what a run writes, and how anyone reads it back. JSON only, nothing is ever unpickled here. No torch.

runs/<study>/study.json            the planned trials, so that a missing one is noticed
runs/<study>/<trial>/trial.json    the resolved trial with its fingerprint
                     metrics.jsonl one line an epoch; losses.jsonl the loss of each iteration
                     attempts.jsonl one line each time the run was started
                     data.jsonl    one line each time it opened its data: their digests
                     previous/<n>/ what `--force` set aside
                     heartbeat.json where the run is now, and its time so far
                     record.json   how it ended
                     checkpoints/  see roadmap.train.checkpoints
                     ranks/        why a rank but the first failed, see roadmap.train.distributed
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadmap.config.trial import Trial
from roadmap.runs.io import RunError, read_json, read_lines, write_bytes, write_json
from roadmap.runs.lease import hold
from roadmap.runs.record import Record, damage_of


def read_record(path: Path | str) -> Record | None:
    """The record in a file, None where there is none. Raises RunError on one that is damaged."""
    content = read_json(path)
    if content is None:
        return None
    if damage := damage_of(content):
        raise RunError(f"{path} is damaged: {damage}; legal: what this program wrote; move it away")
    return Record.from_json(content)


@dataclass(frozen=True)
class RunFolder:
    """The files of one trial."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def newest_checkpoint(self) -> int:
        """Iteration of the newest checkpoint on disk, whole or not; 0 where there is none."""
        found = (re.fullmatch(r"checkpoint-(\d+)\.pt", p.name) for p in self.checkpoints.glob("checkpoint-*.pt"))
        return max((int(m[1]) for m in found if m), default=0)

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def trial(self) -> Trial:
        content = read_json(self.path / "trial.json")
        if content is None:
            raise RunError(f"{self.path} has no trial.json; legal: a folder that `roadmap run` made; check the path")
        return Trial.from_json(content)

    def prepare(self, trial: Trial) -> None:
        """Create the folder for this trial, or accept it as it is.

        Raises RunError if it belongs to another trial or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as e:
            raise RunError(
                f"output folder {self.path} cannot be made: {e.strerror}; legal: a writable folder; choose "
                "another with --runs"
            ) from e
        if not os.access(self.path, os.W_OK):
            raise RunError(
                f"output folder {self.path} is not writable; legal: a writable folder; choose another with --runs"
            )
        present = read_json(self.path / "trial.json")
        if present is None:
            write_json(self.path / "trial.json", trial.to_json())
        elif present.get("fingerprint") != trial.fingerprint:
            raise RunError(
                f"{self.path} holds trial {str(present.get('fingerprint'))[:10]}, not "
                f"{trial.fingerprint[:10]}; legal: one trial in one folder; choose another folder"
            )

    def record(self) -> Record | None:
        """None where there is none. Raises RunError on one that is damaged."""
        return read_record(self.path / "record.json")

    def write_record(self, record: Record | Mapping[str, Any]) -> None:
        """Write a record, or one of the few values that are known of a run that never began."""
        whole = record if isinstance(record, Record) else Record.from_json(dict(record))
        write_json(self.path / "record.json", whole.to_json())

    def metrics(self) -> list[dict[str, Any]]:
        return read_lines(self.path / "metrics.jsonl")[0]

    def keep_epochs(self, epochs: int) -> None:
        """Drop metrics and losses of epochs after `epochs`: a resumed run trains them again."""
        for name in ("metrics.jsonl", "losses.jsonl"):
            kept = [line for line in read_lines(self.path / name)[0] if line["epoch"] <= epochs]
            write_bytes(self.path / name, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def append_epoch(self, metrics: Mapping[str, Any], losses: list[float]) -> None:
        """Note an epoch: its metrics, and the loss of each of its iterations."""
        self.append("losses.jsonl", {"epoch": metrics["epoch"], "losses": losses})
        self.append("metrics.jsonl", metrics)

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        with open(self.path / name, "a") as f:
            f.write(json.dumps(dict(line)) + "\n")

    def heartbeat(self) -> dict[str, Any] | None:
        beat: dict[str, Any] | None = read_json(self.path / "heartbeat.json")
        return beat

    def beat(self, state: Mapping[str, Any]) -> None:
        # Not written safely: it is out of date in seconds anyway, and must not cost the run a disk's round trip.
        content = json.dumps({**state, "time": time.time(), "pid": os.getpid(), "host": socket.gethostname()})
        temporary = self.path / ".heartbeat.tmp"
        temporary.write_text(content)
        os.replace(temporary, self.path / "heartbeat.json")

    def lease(self) -> AbstractContextManager[None]:
        """Hold the run for this process, see roadmap.runs.lease. Raises RunHeld naming the holder."""
        return hold(self.path / "lease")
