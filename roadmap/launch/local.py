"""This machine as a launcher: runs wait for one of `jobs` slots, each a process of its own. No torch here.

On a GPU that several slots share, a run starts when the memory that it is known to take is free;
one that fails for lack of memory beside others is trained once more, alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Literal

from roadmap.config.runtime import Runtime, cores, limit_threads
from roadmap.launch.base import MAX_AGE, JobReport, Launched, Launcher
from roadmap.launch.prepared import unfinished_record
from roadmap.launch.resources import Resources
from roadmap.launch.room import MOST_OF_FREE, fits
from roadmap.launch.run_queue import RunQueue, Waiting
from roadmap.launch.slots import SAVE_SECONDS, Ready, Slot, Start, open_slot, visible_gpus
from roadmap.runs.changes import EACH_TIME, Files
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import FAILED, FINISHED, INTERRUPTED, OUT_OF_MEMORY, Record

Finished = Callable[[RunFolder, Record], None]
Jobs = int | Literal["auto"]
AUTO: Literal["auto"] = "auto"
SLOTS_OF_A_GPU = 4  # with --jobs auto, as far as there are cores for them
END_SECONDS = 10.0  # within which a slot without a run has ended
PUT_BACK = "put_back.jsonl"  # in a run's folder: when it lacked memory, beside which runs


def _tell_nobody(folder: RunFolder, record: Record) -> None:
    """What a launcher does with a run that has ended, unless told otherwise."""


def slots_for(jobs: Jobs, runtime: Runtime) -> int:
    """Runs side by side; `auto`: one a core on a CPU, up to four on each GPU, each with a core.

    It depends on the machine alone, not on how many runs are left, so that all runs of a study have
    the same number of threads.
    """
    if isinstance(jobs, int):
        return jobs
    gpus = [] if runtime.device == "cpu" else visible_gpus()
    return max(len(gpus), min(SLOTS_OF_A_GPU * len(gpus), cores())) if gpus else cores()


class LocalLauncher(Launcher):
    """Runs on this machine, and returns when all have ended; their folders tell the rest.

    jobs: runs side by side. force: train finished ones again. finished: called with each run and
    its record.
    """

    name = "local"
    asks_first = False

    def __init__(self, *, jobs: Jobs = 1, force: bool = False, finished: Finished = _tell_nobody) -> None:
        self.jobs, self.force, self.finished = jobs, force, finished

    def launch(
        self, study: Path, runs: Sequence[RunFolder], runtime: Runtime, resources: Resources, *, code: Path
    ) -> Sequence[Launched]:
        """Train the runs with this process's code; `resources` and `code` are for other launchers."""
        if slots_for(self.jobs, runtime) == 1:
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


def run_here(folders: Sequence[RunFolder], runtime: Runtime, *, force: bool, finished: Finished) -> None:
    """Train one run after another in this process; stops after one that was told to stop."""
    for name, value in limit_threads(runtime.threads or cores()).items():
        os.environ.setdefault(name, value)
    from roadmap.data.opened import OpenedImages
    from roadmap.train.execute import execute

    images = OpenedImages()
    for folder in folders:
        record = execute(folder, runtime, force=force, images=images)
        finished(folder, record)
        lost = record.status == FAILED and int(os.environ.get("WORLD_SIZE", 1)) > 1
        if lost or record.stopped_by or record.status == INTERRUPTED:
            return  # ranks that have lost each other must not meet again in another run


def run_side_by_side(
    folders: Sequence[RunFolder], runtime: Runtime, *, jobs: Jobs, force: bool, finished: Finished
) -> None:
    """Train runs in `jobs` slots, with threads = cores / jobs.

    A stop signal is passed on; runs then save themselves and end.
    """
    count = slots_for(jobs, runtime)
    runtime = replace(runtime, threads=runtime.threads or max(1, cores() // count))
    queue = RunQueue.of(folders, runtime, count)
    pool = SlotPool(queue, lambda k: open_slot(runtime, k, force=force), finished, trusting=jobs != AUTO)
    try:
        with _passing_on_signals(pool.slots) as pool.stopping:
            # Counting needs torch. All slots do it: what one has counted it need not count for its runs' records.
            networks = queue.uncounted()
            for k in range(min(count, len(folders))):
                pool.slots.append(open_slot(runtime, k, force=force, networks=networks))
            pool.train_all()
    finally:
        _end(pool.slots)


@dataclass
class SlotPool:
    """The slots, the runs that wait for one, and the memory of the devices that slots share.

    open: starts the slot of a number. trusting: someone has said how many runs fit on a device.
    stopping: the signals that were received. free: bytes of each device without any run.
    """

    queue: RunQueue
    open: Callable[[int], Slot]
    finished: Finished
    trusting: bool = True
    slots: list[Slot] = field(default_factory=list)
    stopping: Sequence[str] = ()
    free: dict[str, int] = field(default_factory=dict)
    begun: bool = False  # all slots were ready: order and memory are known
    held_back: Waiting | None = None  # said of this one already

    def train_all(self) -> None:
        """Hand out the runs until all have ended."""
        while True:
            self.begun = self.begun or all(slot.ready for slot in self.slots)
            if self.begun and not self.stopping:
                self.hand_out()
            at_work = [slot.connection for slot in self.slots if slot.run or not slot.ready]
            if not at_work:
                return
            for connection in wait(at_work):
                self.take_answer(next(slot for slot in self.slots if slot.connection is connection))

    def hand_out(self) -> None:
        """Give each idle slot the run that goes next, if that fits on its device; start dead slots anew."""
        for number, slot in enumerate(self.slots):
            if not slot.ready or slot.run or not (run := self.queue.first()):
                continue
            if not slot.process.is_alive():
                self.slots[number] = self.open(number)
            elif self.has_room(slot, run):
                self.start(slot, run)

    def start(self, slot: Slot, run: Waiting) -> None:
        """Have a slot train a run."""
        self.queue.take(run)
        beside = self.beside(slot)
        slot.run, slot.shared = run, bool(beside)
        for other in beside:
            other.shared = True
        need, free = self.queue.need(run), self.free.get(slot.device)
        need = min(need, int(free * MOST_OF_FREE)) if need and free else None
        # A process that died while it waited is noticed where its answer is read.
        with contextlib.suppress(BrokenPipeError):
            slot.connection.send(Start(run.folder.path, need))

    def beside(self, slot: Slot) -> list[Slot]:
        """The other slots that are at a run on the same GPU."""
        return [s for s in self.slots if s is not slot and s.run and s.device and s.device == slot.device]

    def has_room(self, slot: Slot, run: Waiting) -> bool:
        """Whether a run may start in a slot now; says once of each that it must wait."""
        others = [s.run for s in self.beside(slot) if s.run]
        free, needs = self.free.get(slot.device), [self.queue.need(other) for other in others]
        alone = bool(others) and any(r.alone for r in (run, *others))
        if not alone and fits(self.queue.need(run), needs, free, trusting=self.trusting):
            return True
        if self.held_back is not run:
            self.held_back = run
            print(f"{run.folder.path.name} waits until its GPU has room beside {len(others)} runs", file=sys.stderr)
        return False

    def take_answer(self, slot: Slot) -> None:
        """Note what a slot says: that it is ready, or how its run has ended."""
        try:
            answer: Ready | Record = slot.connection.recv()
        except (EOFError, ConnectionResetError):
            self.take_death(slot)
            return
        if isinstance(answer, Ready):
            self.note_ready(slot, answer)
        else:
            self.end_run(slot, answer)

    def note_ready(self, slot: Slot, answer: Ready) -> None:
        """A slot can train. What its device has free is what the last of its slots leaves of it."""
        slot.ready = True
        if answer.macs:
            self.queue.known.macs = answer.macs
        if answer.free is not None and not self.beside(slot):
            self.free[slot.device] = min(answer.free, self.free.get(slot.device, answer.free))

    def take_death(self, slot: Slot) -> None:
        """A slot has died, with the run that it was at or would have been given."""
        slot.process.join()
        if slot.run is None and (run := self.queue.first()):
            self.queue.take(run)
            slot.run = run
        slot.ready = True  # nothing more is to come from it
        if slot.run:
            self.end_run(slot, _record_of_death(slot, slot.run.folder, self.stopping))

    def end_run(self, slot: Slot, record: Record) -> None:
        """A run has ended; one that lacked memory beside others goes back into the queue."""
        run, slot.run = slot.run, None
        assert run is not None
        if record.error_kind == OUT_OF_MEMORY and slot.shared and not self.stopping:
            beside = [s.run.folder.path.name for s in self.beside(slot) if s.run]
            run.folder.append(PUT_BACK, {"time": time.time(), "beside": beside, "error": record.error})
            print(f"{run.folder.path.name} lacked memory beside other runs: goes on alone, later", file=sys.stderr)
            self.queue.put_back(run)
            return
        self.queue.known.learn(record)
        self.finished(run.folder, record)


def _end(slots: Sequence[Slot]) -> None:
    """End all slots: an idle one by closing its line, one that still trains, after an error here, by a stop.

    One that does not go is killed: this process would wait for it at its exit.
    """
    for slot in slots:
        if slot.run:
            slot.process.terminate()
        with contextlib.suppress(OSError):
            slot.connection.close()
    for slot in slots:
        slot.process.join(SAVE_SECONDS if slot.run else END_SECONDS)
        if slot.process.is_alive():
            slot.process.kill()
            slot.process.join()


@contextlib.contextmanager
def _passing_on_signals(slots: list[Slot]) -> Iterator[list[str]]:
    """Tell every worker to save and stop, on SIGTERM or Ctrl-C. Yields a list that is then not empty."""
    received: list[str] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        for slot in slots:
            if (slot.run or not slot.ready) and slot.process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(slot.process.pid, signal.SIGTERM)

    previous = {s: signal.signal(s, pass_on) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)


def _record_of_death(slot: Slot, folder: RunFolder, stopping: Sequence[str]) -> Record:
    """The record of a run whose process died and left none; a stop before training began is no failure."""
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
