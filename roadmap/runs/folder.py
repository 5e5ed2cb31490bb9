"""The run folder: what a run writes, and how anyone reads it back. JSON only, nothing is ever unpickled here. No torch.

runs/<study>/study.json            the planned trials, so that a missing one is noticed
runs/<study>/<trial>/trial.json    the resolved trial with its fingerprint
                     metrics.jsonl one line an epoch; losses.jsonl the loss of each iteration
                     attempts.jsonl one line each time the run was started
                     heartbeat.json where the run is now, and its time so far
                     record.json   how it ended
                     checkpoints/  see roadmap.train.checkpoints
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from roadmap.config.errors import listing
from roadmap.config.trial import Trial
from roadmap.runs.io import RunError, RunHeld, read_json, read_lines, write_bytes, write_json


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

    def record(self) -> dict[str, Any] | None:
        return read_json(self.path / "record.json")

    def write_record(self, record: Mapping[str, Any]) -> None:
        write_json(self.path / "record.json", dict(record))

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
        return read_json(self.path / "heartbeat.json")

    def beat(self, state: Mapping[str, Any]) -> None:
        # Not written safely: it is out of date in seconds anyway, and must not cost the run a disk's round trip.
        content = json.dumps({**state, "time": time.time(), "pid": os.getpid(), "host": socket.gethostname()})
        temporary = self.path / ".heartbeat.tmp"
        temporary.write_text(content)
        os.replace(temporary, self.path / "heartbeat.json")

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """Hold the run for this process; the system frees it when the process ends, however it ends.

        Raises RunHeld naming the holder.
        """
        with open(self.path / "lease", "a+") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                raise RunHeld(
                    f"{self.path.name} is being trained by {_holder(f)}; legal: one process a run; wait for "
                    "it, or stop it first"
                ) from e
            f.truncate(0)
            f.write(
                json.dumps(
                    {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
                )
            )
            f.flush()
            yield


def _holder(lease: IO[str]) -> str:
    lease.seek(0)
    try:
        owner = json.loads(lease.read())
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError):
        return "another process"


def study_folder(out: Path, study: str) -> Path:
    return out / study


def write_study(
    out: Path,
    study: str,
    question: str,
    regime: str,
    trials: Iterable[Trial],
    *,
    header: Mapping[str, Any] | None = None,
) -> Path:
    """Note the planned trials in study.json, adding to those of earlier calls; returns the study's
    folder. `header`: `Study.header`, the design and what is compared.

    Raises RunError where earlier calls planned trials of another regime: a comparison names its
    cells by step and change alone, so those of two regimes would be one.
    """
    folder = study_folder(out, study)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise RunError(
            f"output folder {folder} cannot be made: {e.strerror}; legal: a writable folder; choose another with --runs"
        ) from e
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two calls at once shall both be noted
        known = read_json(folder / "study.json") or {"trials": []}
        if others := sorted({t["regime"] for t in known["trials"]} - {regime}):
            raise RunError(
                f"study.regime is {regime!r}, but {folder} has trials of regime {listing(others)}; legal: one "
                "regime a study; reason: its cells are told apart by step and change alone; choose another "
                "--name"
            )
        planned = {t["id"]: t for t in known["trials"]}
        planned |= {
            t.id: {
                "id": t.id,
                "fingerprint": t.fingerprint,
                "regime": t.regime,
                "step": t.step,
                "change": t.change,
                "seed": t.seed,
            }
            for t in trials
        }
        content = {
            **_joined(known, header or {}),
            "name": study,
            "question": question,
            "regime": regime,
            "trials": list(planned.values()),
        }
        if content != known:
            write_json(folder / "study.json", content)
    return folder


def _joined(known: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, Any]:
    """The design as it is asked for now, with the comparisons and undefined cells of earlier calls."""
    compared = {}
    for key in ("comparisons", "crossings"):
        old, new = known.get(key, []), header.get(key, [])
        renewed = [c["child"] for c in new]  # a cell is compared with one other: the one that is asked for now
        compared[key] = [*(c for c in old if c["child"] not in renewed), *new]
    undefined = {**known.get("undefined", {}), **header.get("undefined", {})}
    lists = {key: list(header.get(key, known.get(key, []))) for key in ("notes", "points")}
    return {"design": header.get("design", known.get("design", "ladder")), **lists, **compared, "undefined": undefined}
