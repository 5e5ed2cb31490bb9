"""Time each part of a trial's run, on its own images and through its own pipeline, for some dozens of iterations."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.loader import Stream
from roadmap.data.tensor_stream import images_at_a_time
from roadmap.model.complexity import complexity
from roadmap.runs.folder import RunFolder
from roadmap.study.cost import TEST, TRAIN, VALIDATION, Cost, work_of
from roadmap.train.checkpoints import CheckpointStore, CheckpointWriter
from roadmap.train.distributed import Ranks
from roadmap.train.execute import forget_peak_memory, keep_network, open_training, peak_memory
from roadmap.train.loop import Trainer

WARM_UP = 5  # iterations before the first that is timed: memory is allocated, loaders fill their queues
LATER = 10_000  # iterations, more than fill up chunks and pass while checkpoints are written
SAVES = 3  # checkpoints, for a disk answers each at another speed

Together = Callable[[], object]  # returns when the processes that measure side by side have all come to it


def warm_up(trial: Trial, runtime: Runtime, ranks: Ranks) -> None:
    """Train one iteration: what a process does once, such as importing, then counts for no trial."""
    with open_training(trial, runtime, ranks) as (trainer, stream):
        trainer.step(stream)


def measure(
    trial: Trial, runtime: Runtime, ranks: Ranks, *, iterations: int, scratch: Path, together: Together
) -> Cost:
    """The cost of each part of the trial's run. Collective.

    iterations: at least so many are timed. scratch: a folder for what is written, on the disk of the
    runs, removed afterwards. together: called before what all processes shall do at the same time.
    Raises RoadmapError as a run would.
    """
    forget_peak_memory(ranks)
    together()
    clock = Clock(ranks)
    complexity(trial.model, trial.data.image_size)  # as a run does for its record
    with open_training(_long_enough(trial, WARM_UP + iterations), runtime, ranks) as (trainer, stream):
        warm, iterations = whole_chunks(trainer, WARM_UP), whole_chunks(trainer, iterations)
        _train(trainer, stream, warm)
        opened = clock.lap()
        together()
        clock.lap()
        stream.take_waited()
        _train(trainer, stream, iterations)
        trained, waited = clock.lap(), stream.take_waited()
        images = _images(trainer)
        first, later = _evaluations(trial, trainer, images, clock, together)
        together()
        checkpoint, end = _writes(trainer, stream, trained / iterations, scratch, clock)
    return Cost(
        start=max(opened - warm * trained / iterations, 0.0),
        image=trained / (iterations * trial.recipe.batch_size),
        waiting_share=waited / trained,
        first_evaluation=first,
        evaluation=later,
        checkpoint=checkpoint,
        end=end,
        images=images,
        peak_memory=peak_memory(ranks),
    )


@dataclass
class Clock:
    """Tells the seconds between two moments at which the device has done all its work."""

    ranks: Ranks
    since: float = 0.0

    def __post_init__(self) -> None:
        self.lap()

    def lap(self) -> float:
        """Seconds since the last call."""
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)
        before, self.since = self.since, time.monotonic()
        return self.since - before


def _long_enough(trial: Trial, iterations: int) -> Trial:
    """The trial with epochs enough for so many iterations, however few an epoch has."""
    return replace(trial, recipe=replace(trial.recipe, epochs=max(trial.recipe.epochs, iterations) + LATER))


def whole_chunks(trainer: Trainer, iterations: int) -> int:
    """At least so many iterations, and as many as take whole chunks of the images that are augmented together.

    `pipeline: tensor` augments for several iterations in the first of them: part of a chunk, timed,
    would count what it does for others, or miss what others did for it.
    """
    images, recipe = trainer.pipeline.augmented_at_once, trainer.trial.recipe
    if images is None:
        return iterations
    loads = recipe.loads_per_rank(trainer.ranks.world_size)
    of_chunk = max(loads, math.ceil(images_at_a_time(images) / recipe.load_size))
    period = math.lcm(loads, of_chunk) // loads
    return math.ceil(iterations / period) * period


def _train(trainer: Trainer, stream: Stream, iterations: int) -> None:
    for _ in range(iterations):
        trainer.step(stream)


def _images(trainer: Trainer) -> dict[str, int]:
    pipeline = trainer.pipeline
    train, validation = len(pipeline.train_indices), len(pipeline.validation_indices)
    return {TRAIN: train, VALIDATION: validation, TEST: len(pipeline.test)}


def _evaluations(
    trial: Trial, trainer: Trainer, images: dict[str, int], clock: Clock, together: Together
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of a whole split, the first time and after that, for each split that the run evaluates."""
    first, later = {}, {}
    for split, times in work_of(trial, images, trainer.runtime).evaluations.items():
        if not times:
            continue
        together()
        clock.lap()
        trainer.evaluate(split)
        first[split] = later[split] = clock.lap()
        if times > 1:
            trainer.evaluate(split)
            later[split] = clock.lap()
    return first, later


def _writes(trainer: Trainer, stream: Stream, usual: float, scratch: Path, clock: Clock) -> tuple[float, float]:
    """Seconds that a checkpoint costs training, on average, and those of writing the trained network.

    usual: seconds of an iteration. A thread writes while training goes on, which it may slow down:
    what iterations take longer meanwhile counts too.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with CheckpointWriter(CheckpointStore(scratch) if trainer.ranks.is_main else None) as writer:
            writer.reserve(trainer.state())
            writer.wait()
            clock.lap()
            meanwhile = sum(_iterations_during_save(trainer, stream, writer, number) for number in range(SAVES))
            checkpoint = max(clock.lap() - meanwhile * usual, 0.0) / SAVES
        if trainer.ranks.is_main:
            keep_network(RunFolder(scratch), trainer)
        return checkpoint, clock.lap()
    finally:
        if trainer.ranks.is_main:
            shutil.rmtree(scratch, ignore_errors=True)


def _iterations_during_save(trainer: Trainer, stream: Stream, writer: CheckpointWriter, number: int) -> int:
    """Train until a checkpoint is written, to the end of a chunk; returns for how many iterations. Collective."""
    writer.save(trainer.state(), number)
    count = 0
    while trainer.ranks.largest(writer.busy):
        trainer.step(stream)
        count += 1
    _train(trainer, stream, whole_chunks(trainer, count) - count)
    return whole_chunks(trainer, count)
