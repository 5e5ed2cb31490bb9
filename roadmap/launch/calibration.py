"""Measure what a study's runs cost on this machine, as they will run: in as many processes side by side. No torch.

Every process measures the same network at the same time as the others, part by part, so that each
has neighbours that take cores, memory and disk from it; a cost is the mean over the processes.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

from roadmap.config.errors import RoadmapError
from roadmap.config.runtime import Runtime, cores, limit_threads
from roadmap.config.trial import Trial
from roadmap.launch.slots import environment_with, gpu_of
from roadmap.runs.record import Hardware
from roadmap.study.cost import Calibration, Cost, distinct, settings_of

Measured = Callable[[Trial, Cost], None]
PATIENCE = 3600.0  # seconds that a process waits for its neighbours before it gives up


@dataclass(frozen=True)
class Task:
    """What a process is to measure. started: when it was, in seconds of the epoch."""

    trials: Sequence[Trial]
    runtime: Runtime
    threads: int
    iterations: int
    scratch: Path
    started: float


@dataclass(frozen=True)
class Ready:
    """What a process says before its first measurement: what it runs on, and how long it took to get ready."""

    hardware: Hardware
    ranks: int
    seconds: float


def calibrate(
    trials: Sequence[Trial], runtime: Runtime, *, jobs: int, iterations: int, folder: Path, measured: Measured
) -> Calibration:
    """The costs of all distinct trials, with `jobs` runs side by side.

    folder: the study's; nothing is left there. measured: called with each cost. Raises
    RoadmapError where a trial cannot be trained here.
    """
    wanted, costs = distinct(trials), dict[str, Cost]()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=".calibration-", dir=folder) as scratch:
        threads = _threads(runtime, jobs)
        own = replace(runtime, threads=threads) if jobs > 1 else runtime
        task = Task(list(wanted.values()), own, threads, iterations, Path(scratch), time.time())
        with _Processes(min(jobs, len(trials)), task) as processes:
            ready = processes.answers()
            for key, trial in wanted.items():
                costs[key] = _mean(processes.answers())
                measured(trial, costs[key])
    first = costs[next(iter(wanted))]
    return Calibration(
        hardware=ready[0].hardware,
        jobs=jobs,
        ranks=ready[0].ranks,
        settings=settings_of(runtime),
        iterations=iterations,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        process=max(statistics.fmean(r.seconds for r in ready) - first.start, 0.0),
        costs=costs,
    )


def _threads(runtime: Runtime, jobs: int) -> int:
    """Threads of each run: as given, alone by its environment, side by side the cores are shared out."""
    around = os.environ.get("OMP_NUM_THREADS") if jobs == 1 else None
    return int(runtime.threads or around or max(1, cores() // jobs))


def _mean(costs: Sequence[Cost]) -> Cost:
    """The mean of each part; the highest peak of memory."""

    def mean(part: str) -> float:
        return statistics.fmean(getattr(cost, part) for cost in costs)

    def means(part: str) -> Mapping[str, float]:
        return {split: statistics.fmean(getattr(c, part)[split] for c in costs) for split in getattr(costs[0], part)}

    return Cost(
        start=mean("start"),
        image=mean("image"),
        waiting_share=mean("waiting_share"),
        first_evaluation=means("first_evaluation"),
        evaluation=means("evaluation"),
        checkpoint=mean("checkpoint"),
        end=mean("end"),
        images=costs[0].images,
        peak_memory=max(cost.peak_memory for cost in costs),
    )


class _Processes:
    """Processes that measure side by side, and one list of their answers after another."""

    def __init__(self, count: int, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self.barrier = context.Barrier(count)
        self.processes: list[BaseProcess] = []
        self.connections: list[Connection] = []
        for number in range(count):
            ours, theirs = context.Pipe()
            gpu = gpu_of(number) if count > 1 else {}
            with environment_with({**limit_threads(task.threads), **gpu}):
                # Not a daemon: loaders are its children.
                process = context.Process(target=_measure_all, args=(theirs, self.barrier, number, task))
                process.start()
            theirs.close()
            self.processes.append(process)
            self.connections.append(ours)

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.terminate()
            process.join()

    def answers(self) -> list[Any]:
        """The next answer of each. Raises RoadmapError with the first refusal among them.

        A death is told at once: its neighbours would wait for it at the barrier, and may hang in
        aborting that, for it wakes those who wait there. They are ended from outside.
        """
        found: dict[Connection, Any] = {}
        while len(found) < len(self.connections):
            for connection in wait([c for c in self.connections if c not in found]):
                found[connection] = _answer(connection)  # type: ignore[index, arg-type]
            _refuse(list(found.values()), len(self.connections))
        return [found[connection] for connection in self.connections]


def _refuse(answers: Sequence[Any], count: int) -> None:
    """Raise RoadmapError where one of `count` processes has refused or died."""
    refusals = [answer for answer in answers if isinstance(answer, RoadmapError)]
    if refusals:
        raise refusals[0]
    if None in answers:
        raise RoadmapError(
            f"{answers.count(None)} of {count} processes that measured have died; legal: runs that fit into "
            "memory side by side; see what they printed above, or calibrate with fewer --jobs"
        )


def _answer(connection: Connection) -> Any:
    """What a process says next, None if it has died."""
    try:
        return connection.recv()
    except EOFError:
        return None


def _measure_all(connection: Connection, barrier: Barrier, number: int, task: Task) -> None:
    """A process's life: how long it took to get ready, then the cost of each trial, or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    try:
        for answer in _answers(barrier, number, task):
            connection.send(answer)
    except BrokenBarrierError:
        return  # a neighbour has said why
    except RoadmapError as e:
        connection.send(e)
    finally:
        barrier.abort()


def _answers(barrier: Barrier, number: int, task: Task) -> Iterator[Ready | Cost]:
    from roadmap.train.calibrate import measure, warm_up
    from roadmap.train.circumstances import hardware
    from roadmap.train.distributed import Ranks

    ranks = Ranks.start(task.runtime.device)
    runtime = task.runtime.on(ranks.device.type)
    warm_up(task.trials[0], runtime, ranks)
    yield Ready(hardware(ranks), ranks.world_size, time.time() - task.started)
    for trial in task.trials:
        yield measure(
            trial,
            runtime,
            ranks,
            iterations=task.iterations,
            scratch=task.scratch / str(number),
            together=lambda: barrier.wait(PATIENCE),
        )
    barrier.wait(PATIENCE)  # nobody ends while another still measures
