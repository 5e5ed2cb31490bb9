"""The local queue: runs wait for one of `jobs` slots, each a process that takes one run after another.

A slot keeps torch loaded, so a further run costs no start; one that dies takes only its own run with it. No torch here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from roadmap.config.errors import RoadmapError
from roadmap.config.runtime import Runtime, cores, limit_threads
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import FAILED, FINISHED, INTERRUPTED, Record

Finished = Callable[[RunFolder, Record], None]


@dataclass
class Slot:
    """One worker process and the run it is at."""

    process: BaseProcess
    connection: Connection
    folder: RunFolder | None = None


def run_here(folders: Sequence[RunFolder], machine: Runtime, *, force: bool, finished: Finished) -> None:
    """Train one run after another in this process; stops after one that was told to stop."""
    os.environ.update({k: v for k, v in limit_threads(machine.threads or cores()).items() if k not in os.environ})
    from roadmap.train.execute import execute

    for folder in folders:
        record = execute(folder, machine, force=force)
        finished(folder, record)
        if record.status == INTERRUPTED or (record.status == FAILED and int(os.environ.get("WORLD_SIZE", 1)) > 1):
            return  # ranks that have lost each other must not meet again in another run


def run_side_by_side(
    folders: Sequence[RunFolder], machine: Runtime, *, jobs: int, force: bool, finished: Finished
) -> None:
    """Train runs in `jobs` slots, threads = cores / jobs. A stop signal is passed on; runs then save themselves and end."""
    machine = replace(machine, threads=machine.threads or max(1, cores() // jobs))
    waiting, slots = deque(folders), list[Slot]()
    with _passing_on_signals(slots) as stopping:
        slots += [_open_slot(machine, k, force) for k in range(min(jobs, len(folders)))]
        for slot in slots:
            _hand_out(slot, waiting)
        while any(s.folder for s in slots):
            for connection in wait([s.connection for s in slots if s.folder]):
                k = next(k for k, s in enumerate(slots) if s.connection is connection)
                slot, folder = slots[k], slots[k].folder
                assert folder is not None
                record = _result(slot, folder, stopping)
                slot.folder = None
                finished(folder, record)
                if not slot.process.is_alive() and waiting and not stopping:
                    slots[k] = slot = _open_slot(machine, k, force)
                if not stopping:
                    _hand_out(slot, waiting)
        for slot in slots:
            with contextlib.suppress(OSError):
                slot.connection.close()
            slot.process.join(timeout=10)


def _open_slot(machine: Runtime, number: int, force: bool) -> Slot:
    """Start a worker; its thread limits must be in its environment before it imports torch."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with _environment({**limit_threads(machine.threads), **_gpu_of(number)}):
        process = context.Process(target=_work, args=(theirs, machine.to_json(), force), daemon=True)
        process.start()
    theirs.close()
    return Slot(process, ours)


def _gpu_of(slot: int) -> dict[str, str]:
    """Slots take the visible GPUs in turn, as the environment or else the driver lists them; torch is not asked."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        [g for g in visible.split(",") if g]
        if visible is not None
        else [str(i) for i in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]
    )
    return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k, None) if v is None else os.environ.__setitem__(k, v)


@contextlib.contextmanager
def _passing_on_signals(slots: list[Slot]) -> Iterator[list[str]]:
    """On SIGTERM or Ctrl-C: hand out no more runs, tell every worker to save and stop. Yields a list that is then not empty."""
    received: list[str] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        for slot in slots:
            if slot.folder and slot.process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(slot.process.pid, signal.SIGTERM)

    previous = {s: signal.signal(s, pass_on) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)


def _hand_out(slot: Slot, waiting: deque[RunFolder]) -> None:
    if waiting:
        slot.folder = waiting.popleft()
        with contextlib.suppress(
            BrokenPipeError
        ):  # a process that died while it waited is noticed where its answer is read
            slot.connection.send(str(slot.folder.path))


def _result(slot: Slot, folder: RunFolder, stopping: Sequence[str]) -> Record:
    """The run's record; one whose process died left none, and gets one that says so. A stop before training began is no failure."""
    try:
        answer = slot.connection.recv()
    except (EOFError, ConnectionResetError):
        slot.process.join()
        code = slot.process.exitcode or 0
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        trial = folder.trial()
        record = Record(
            status=INTERRUPTED if stopping and code == -signal.SIGTERM else FAILED,
            id=trial.id,
            fingerprint=trial.fingerprint,
            study=folder.path.parent.name,
            ladder=trial.ladder,
            regime=trial.regime,
            step=trial.step,
            change=trial.change,
            seed=trial.seed,
            error=f"its process {cause}; see {folder.log}; start it again to go on from its last checkpoint",
        )
        left = folder.record()
        if left is None or left.status != FINISHED:  # with --force, what an earlier run left may still be in place
            folder.write_record(record)
        return record
    assert isinstance(answer, Record)
    return answer


def _work(connection: Connection, machine_json: dict[str, Any], force: bool) -> None:
    """A worker's life: one run folder after another, its output in the run's log.

    Between runs it ignores Ctrl-C (the parent passes on what concerns it), and ends when the parent closes the line.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from roadmap.train.execute import execute

    machine = Runtime.from_json(machine_json)
    while True:
        try:
            folder = RunFolder(Path(connection.recv()))
        except EOFError:
            return
        with _output_to(folder.log):
            try:
                answer = execute(folder, machine, force=force)
            except RoadmapError as e:
                answer = Record(status=FAILED, error=str(e))
        connection.send(answer)


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send this process's output, that of libraries in C included, to the end of a file."""
    saved = os.dup(1), os.dup(2)
    with open(path, "ab", buffering=0) as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in zip((1, 2), saved, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)
