"""This machine as a launcher: runs wait for one of `jobs` slots, each a process of its own.

A slot keeps torch loaded, so a further run costs no start; one that dies takes only its own run
with it. It may start loader workers, so it is no daemon, and watches its parent itself: it never
outlives it. No torch here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from roadmap.config.errors import RoadmapError
from roadmap.config.runtime import Runtime, cores, limit_threads
from roadmap.launch.base import MAX_AGE, JobReport, Launched, Launcher
from roadmap.launch.prepared import unfinished_record
from roadmap.launch.resources import Resources
from roadmap.runs.changes import EACH_TIME, Files
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import FAILED, FINISHED, INTERRUPTED, Record

Finished = Callable[[RunFolder, Record], None]
SAVE_SECONDS = 60.0  # that a run gets to save itself once its parent is gone, before its slot is killed
END_SECONDS = 10.0  # within which a slot without a run has ended


def _tell_nobody(folder: RunFolder, record: Record) -> None:
    """What a launcher does with a run that has ended, unless told otherwise."""


class LocalLauncher(Launcher):
    """Runs on this machine, and returns when all have ended; their folders tell the rest.

    jobs: runs side by side. force: train finished ones again. finished: called with each run and
    its record.
    """

    name = "local"
    asks_first = False

    def __init__(self, *, jobs: int = 1, force: bool = False, finished: Finished = _tell_nobody) -> None:
        self.jobs, self.force, self.finished = jobs, force, finished

    def launch(
        self, study: Path, runs: Sequence[RunFolder], runtime: Runtime, resources: Resources, *, code: Path
    ) -> Sequence[Launched]:
        """Train the runs with this process's code; `resources` and `code` are for other launchers."""
        if self.jobs == 1:
            run_here(runs, runtime, force=self.force, finished=self.finished)
        else:
            run_side_by_side(runs, runtime, jobs=self.jobs, force=self.force, finished=self.finished)
        names = tuple(run.path.name for run in runs)
        return [Launched(runs=names, job="", text=f"trained {len(names)} runs")]

    def where(
        self,
        study: Path,
        runs: Sequence[str],
        *,
        finished: Collection[str] = (),
        max_age: float = MAX_AGE,
        files: Files = EACH_TIME,
    ) -> Mapping[str, JobReport]:
        """Nothing: there is no queue, and heartbeats tell who trains."""
        return {}


@dataclass
class Slot:
    """One worker process and the run it is at."""

    process: BaseProcess
    connection: Connection
    folder: RunFolder | None = None


def run_here(folders: Sequence[RunFolder], runtime: Runtime, *, force: bool, finished: Finished) -> None:
    """Train one run after another in this process; stops after one that was told to stop."""
    for name, value in limit_threads(runtime.threads or cores()).items():
        os.environ.setdefault(name, value)
    from roadmap.train.execute import execute

    for folder in folders:
        record = execute(folder, runtime, force=force)
        finished(folder, record)
        lost = record.status == FAILED and int(os.environ.get("WORLD_SIZE", 1)) > 1
        if lost or record.stopped_by or record.status == INTERRUPTED:
            return  # ranks that have lost each other must not meet again in another run


def run_side_by_side(
    folders: Sequence[RunFolder], runtime: Runtime, *, jobs: int, force: bool, finished: Finished
) -> None:
    """Train runs in `jobs` slots, with threads = cores / jobs.

    A stop signal is passed on; runs then save themselves and end.
    """
    threads = runtime.threads or max(1, cores() // jobs)
    runtime = Runtime.from_json({**runtime.to_json(), "threads": threads})
    waiting, slots = deque(folders), list[Slot]()
    try:
        with _passing_on_signals(slots) as stopping:
            slots += [_open_slot(runtime, k, force) for k in range(min(jobs, len(folders)))]
            _train_all(slots, waiting, stopping, finished, reopen=lambda k: _open_slot(runtime, k, force))
    finally:
        _end(slots)


def _train_all(
    slots: list[Slot],
    waiting: deque[RunFolder],
    stopping: Sequence[str],
    finished: Finished,
    *,
    reopen: Callable[[int], Slot],
) -> None:
    """Hand out the runs until all have ended; `reopen` starts a slot whose process has died anew."""
    for slot in slots:
        if not stopping:
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
                slots[k] = slot = reopen(k)
            if not stopping:
                _hand_out(slot, waiting)


def _end(slots: Sequence[Slot]) -> None:
    """End all slots: an idle one by closing its line, one that still trains, after an error here, by a stop.

    One that does not go is killed: this process would wait for it at its exit.
    """
    for slot in slots:
        if slot.folder:
            slot.process.terminate()
        with contextlib.suppress(OSError):
            slot.connection.close()
    for slot in slots:
        slot.process.join(SAVE_SECONDS if slot.folder else END_SECONDS)
        if slot.process.is_alive():
            slot.process.kill()
            slot.process.join()


def _open_slot(runtime: Runtime, number: int, force: bool) -> Slot:
    """Start a worker; its thread limits must be in its environment before it imports torch."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with environment_with({**limit_threads(runtime.threads), **gpu_of(number)}):
        process = context.Process(target=_work, args=(theirs, runtime.to_json(), force))
        process.start()
    theirs.close()
    return Slot(process, ours)


def gpu_of(slot: int) -> dict[str, str]:
    """The GPU of a slot: the visible ones in turn, as the environment or else the driver lists them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        installed = list(Path("/proc/driver/nvidia/gpus").glob("*"))
        visible = ",".join(map(str, range(len(installed))))
    gpus = [g for g in visible.split(",") if g]
    return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}


@contextlib.contextmanager
def environment_with(values: dict[str, str]) -> Iterator[None]:
    """Set these variables for the processes that are started meanwhile."""
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k, None) if v is None else os.environ.__setitem__(k, v)


@contextlib.contextmanager
def _passing_on_signals(slots: list[Slot]) -> Iterator[list[str]]:
    """Tell every worker to save and stop, on SIGTERM or Ctrl-C. Yields a list that is then not empty."""
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
        # A process that died while it waited is noticed where its answer is read.
        with contextlib.suppress(BrokenPipeError):
            slot.connection.send(str(slot.folder.path))


def _result(slot: Slot, folder: RunFolder, stopping: Sequence[str]) -> Record:
    """The run's record; one whose process died left none, and gets one that says so.

    A stop before training began is no failure.
    """
    try:
        answer = slot.connection.recv()
    except (EOFError, ConnectionResetError):
        slot.process.join()
        code = slot.process.exitcode or 0
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        status = INTERRUPTED if stopping and code == -signal.SIGTERM else FAILED
        error = f"its process {cause}; see {folder.log}; start it again to go on from its last checkpoint"
        record = unfinished_record(folder, status, error)
        left = folder.record()
        # With --force, what an earlier run left may still be in place.
        if left is None or left.status != FINISHED:
            folder.write_record(record)
        return record
    assert isinstance(answer, Record)
    return answer


def _work(connection: Connection, runtime_json: dict[str, Any], force: bool) -> None:
    """A worker's life: one run folder after another, its output in the run's log.

    Between runs it ignores Ctrl-C (the parent passes on what concerns it), and ends when the parent
    closes the line.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from roadmap.train.execute import execute

    runtime = Runtime.from_json(runtime_json)
    while True:
        try:
            folder = RunFolder(Path(connection.recv()))
        except (EOFError, ConnectionError):
            return
        with _output_to(folder.log):
            try:
                answer = execute(folder, runtime, force=force)
            except RoadmapError as e:
                answer = Record(status=FAILED, error=str(e))
        try:
            connection.send(answer)
        except ConnectionError:
            return


def _end_with_parent() -> None:
    """Wait until the parent is gone, however it went; then stop the run, which saves itself, or end at once.

    Its parent's death closes a pipe that this process holds the other end of.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


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
