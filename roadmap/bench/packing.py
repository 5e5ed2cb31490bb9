"""Several runs packed on one device beside the same runs one at a time: how much sooner all are done.

`python -m roadmap.bench.packing` measures both in turn and writes results/bench/packing.json. Each
seed has a process, as a slot has; the first process also trains all seeds one after another while
the others wait. Nothing is timed but iterations through the pipeline: no imports, no start. Images
are the embedded digits at the network's size, augmented in batches on the device, so that a bare
machine can measure.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from roadmap.bench.pairs import Paired, of_pairs
from roadmap.config.runtime import Runtime, cores
from roadmap.config.trial import Trial
from roadmap.data.loader import Stream
from roadmap.data.registry import NAMED
from roadmap.ladder.convnext import CONVNEXT, convnext_spec
from roadmap.runs.io import write_json
from roadmap.train.circumstances import measured_on
from roadmap.train.distributed import Ranks
from roadmap.train.execute import open_training
from roadmap.train.loop import Trainer

STEPS, SEEDS = ("baseline", "separate-downsampling"), (2, 4)
WARM_UP = 5  # iterations before any that is timed; the losses of the first are compared
PATIENCE = 300.0  # seconds that a process waits for the others
Training = tuple[Trainer, Stream]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """One at a time over packed: from 1.0 on packing pays.

    difference: the largest of a loss, of the same seed and iteration, between the two, relative.
    """

    ratio: Paired
    difference: float


@dataclass(frozen=True)
class Task:
    """What each process is to do."""

    trials: Sequence[Trial]
    device: str
    iterations: int
    pairs: int


@dataclass(frozen=True)
class Times:
    """What a process has seen: (begin, end) of each of its packed turns; the first losses by seed.

    alone: seconds for all seeds one after another, of the first process only.
    """

    packed: list[tuple[float, float]]
    alone: list[float]
    losses: list[float]
    losses_alone: list[list[float]]


def trial_of(step: str, seed: int, *, regime: str = "cifar") -> Trial:
    """A step of the ladder on the embedded digits, by its own recipe, augmented on the device."""
    size = CONVNEXT.find_regime(regime).image_size
    recipe = replace(CONVNEXT.recipe(step, regime), pipeline="tensor", epochs=100_000)
    model = convnext_spec(step, regime, in_chans=1, num_classes=10)
    data = replace(NAMED["digits"], image_size=size)
    return Trial(model=model, recipe=recipe, data=data, seed=seed, regime=regime, step=step)


def packing(trials: Sequence[Trial], device: str, *, iterations: int = 100, pairs: int = 5) -> Packing:
    """Train these runs packed and one at a time, in turn, for so many iterations each.

    Raises EOFError where a process dies, as one without memory on the device does.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(trials))
    task = Task(trials, device, iterations, pairs)
    connections, processes = [], []
    for number in range(len(trials)):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, barrier, number, task), daemon=True)
        process.start()
        theirs.close()
        connections.append(ours)
        processes.append(process)
    try:
        times: list[Times] = [connection.recv() for connection in connections]
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return _packing(trials[0].step, times)


def _packing(step: str, times: Sequence[Times]) -> Packing:
    turns = list(zip(*(of.packed for of in times), strict=True))
    packed = [max(end for _, end in turn) - min(begin for begin, _ in turn) for turn in turns]
    seeds = len(times)
    ratio = of_pairs(
        f"packed-{step}-{seeds}",
        f"{step}, {seeds} seeds",
        "one at a time",
        f"{seeds} at a time",
        list(zip(times[0].alone, packed, strict=True)),
    )
    both = zip(times, times[0].losses_alone, strict=True)
    difference = max(abs(x - y) / abs(y) for of, alone in both for x, y in zip(of.losses, alone, strict=True))
    return Packing(ratio=ratio, difference=difference)


def _work(connection: Connection, barrier: Barrier, number: int, task: Task) -> None:
    """A process's life: its own seed packed with the others, and the first process's turn alone."""
    ranks, threads = Ranks.start(task.device), max(1, cores() // len(task.trials))
    runtime = Runtime(device=task.device).on(ranks.device.type)  # type: ignore[arg-type]
    torch.set_num_threads(threads)
    with ExitStack() as stack:

        def opened(trial: Trial) -> Training:
            return stack.enter_context(open_training(trial, runtime, ranks))

        own = opened(task.trials[number])
        losses = _first_losses(own)
        all_seeds = [opened(trial) for trial in task.trials] if number == 0 else []
        losses_alone = [_first_losses(one) for one in all_seeds]
        packed, alone = [], list[float]()
        for _ in range(task.pairs):
            barrier.wait(PATIENCE)
            packed.append(_timed([own], task.iterations, ranks))
            barrier.wait(PATIENCE)
            if number == 0:
                torch.set_num_threads(cores())  # one run at a time has them all
                begin, end = _timed(all_seeds, task.iterations, ranks)
                alone.append(end - begin)
                torch.set_num_threads(threads)
        barrier.wait(PATIENCE)  # nobody ends while the first still measures
        connection.send(Times(packed, alone, losses, losses_alone))


def _first_losses(training: Training) -> list[float]:
    """The losses of the first iterations, which also warm up."""
    trainer, stream = training
    for _ in range(WARM_UP):
        trainer.step(stream)
    losses: list[float] = trainer.losses[: min(WARM_UP, trainer.per_epoch)].tolist()
    return losses


def _timed(trainings: Sequence[Training], iterations: int, ranks: Ranks) -> tuple[float, float]:
    """When these runs, one after another, began and ended; the clock is the same for all processes."""
    _wait(ranks)
    begin = time.monotonic()
    for trainer, stream in trainings:
        for _ in range(iterations):
            trainer.step(stream)
        _wait(ranks)
    return begin, time.monotonic()


def _wait(ranks: Ranks) -> None:
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all steps and numbers of seeds; write the file, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m roadmap.bench.packing", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--iterations", type=int, default=100, help="of each seed and turn")
    parser.add_argument("--pairs", type=int, default=5, help="turns of each kind")
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    args = parser.parse_args(argv)
    ranks = Ranks.start(args.device)  # refuses a GPU that is not there
    measured = []
    for step in STEPS:
        for seeds in SEEDS:
            trials = [trial_of(step, seed) for seed in range(seeds)]
            found = packing(trials, args.device, iterations=args.iterations, pairs=args.pairs)
            measured.append({**asdict(found.ratio), "difference": found.difference})
            r = found.ratio
            text = f"{r.name}: packed {r.value:.2f} times as fast ({r.low:.2f} to {r.high:.2f}, n = {r.pairs})"
            print(f"{text}; losses differ by {found.difference:.1g} of their size", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "packing.json", {**measured_on(ranks), "ratios": measured})
    print(args.out / "packing.json", file=sys.stderr)


if __name__ == "__main__":
    main()
