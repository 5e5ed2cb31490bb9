"""Which run goes next: every cell has its first seed before any its second, and the longest go first."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.launch.room import MARGIN, UNSEEN
from roadmap.launch.run_queue import RunQueue
from roadmap.launch.selection import seeds_in_turn
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import Hardware, Record
from roadmap.runs.study_folder import write_study
from roadmap.study.cost import Calibration, Cost, add_calibration, cost_key, settings_of
from tests.helpers.launches import make_trial

STEPS = ("baseline", "patchify-stem", "gelu", "grn")
GPU = Hardware(device="A GPU", cpu="A CPU", cores=8, threads=2)


@pytest.fixture
def folders(tmp_path: Path) -> list[RunFolder]:
    """Three seeds of four steps, prepared, in the order in which a launch hands them over."""
    trials = [make_trial(seed, step) for step in STEPS for seed in range(3)]
    write_study(tmp_path, "study", "?", "micro", trials)
    found = []
    for trial in seeds_in_turn(trials, lambda t: t.step):
        folder = RunFolder(tmp_path / "study" / trial.id)
        folder.prepare(trial)
        found.append(folder)
    return found


def in_order(queue: RunQueue) -> list[tuple[int, str]]:
    """(seed, step) of all that waits, as it goes."""
    order = []
    while run := queue.first():
        queue.take(run)
        order.append((run.trial.seed, run.trial.step))
    return order


def counted(queue: RunQueue, macs: Callable[[Trial], int]) -> RunQueue:
    queue.known.macs = {run.network: macs(run.trial) for run in queue.waiting}
    return queue


def finished(trial: Trial, seconds: float, **more: Any) -> Record:
    return Record(status="finished", configuration=trial.configuration, wall_seconds=seconds, **more)


def test_of_each_seed_the_largest_network_goes_first_and_no_second_seed_before_a_first(
    folders: list[RunFolder],
) -> None:
    queue = counted(RunQueue.of(folders, Runtime(), 2), lambda t: STEPS.index(t.step) + 1)
    assert set(queue.uncounted()) == {run.network for run in queue.waiting}
    assert in_order(queue) == [(seed, step) for seed in range(3) for step in reversed(STEPS)]


def test_what_runs_have_taken_decides_as_soon_as_one_of_them_has_ended(folders: list[RunFolder]) -> None:
    queue = counted(RunQueue.of(folders, Runtime(), 2), lambda t: STEPS.index(t.step) + 1)
    for seconds, run in zip((50.0, 10.0, 20.0, 40.0), queue.waiting[:4], strict=True):
        queue.take(run)
        queue.known.learn(finished(run.trial, seconds))
    assert queue.uncounted() == ()
    assert in_order(queue)[:4] == [(1, "baseline"), (1, "grn"), (1, "gelu"), (1, "patchify-stem")]


def test_the_unknown_is_held_against_the_known_by_its_size(folders: list[RunFolder]) -> None:
    sizes = dict(zip(STEPS, (100, 300, 200, 10), strict=True))
    queue = counted(RunQueue.of(folders, Runtime(), 2), lambda t: sizes[t.step])
    queue.known.learn(finished(queue.waiting[0].trial, 60.0))  # 100 take 60 s, though its size says less
    assert [step for _, step in in_order(queue)[:4]] == ["patchify-stem", "gelu", "baseline", "grn"]


def test_records_and_calibrations_of_earlier_launches_count(folders: list[RunFolder]) -> None:
    study, runtime = folders[0].path.parent, Runtime()
    for folder, taken in zip(folders, (10.0, 90.0), strict=False):
        folder.write_record(finished(folder.trial(), taken))
    assert [step for _, step in in_order(RunQueue.of(folders[4:], runtime, 2))[:4:3]] == ["patchify-stem", "baseline"]
    trials = {step: make_trial(0, step) for step in STEPS}
    seconds = zip(STEPS, (0.1, 0.2, 0.4, 0.3), strict=True)
    costs = {cost_key(trials[step]): cost_of(image) for step, image in seconds}
    add_calibration(study, calibration(costs, runtime))
    queue = RunQueue.of(folders, runtime, 2)
    assert queue.uncounted() == ()
    assert [step for _, step in in_order(queue)[:4]] == ["gelu", "grn", "patchify-stem", "baseline"]


def cost_of(image: float, peak: int = 0) -> Cost:
    images = {"train": 1166, "validation": 131, "test": 500}
    splits = {"validation": 0.1, "test": 0.1}
    return Cost(
        start=0.1,
        image=image,
        waiting_share=0.0,
        first_evaluation=splits,
        evaluation=splits,
        checkpoint=0.1,
        end=0.1,
        images=images,
        peak_memory=peak,
    )


def calibration(costs: dict[str, Cost], runtime: Runtime) -> Calibration:
    return Calibration(
        hardware=GPU,
        jobs=2,
        ranks=1,
        settings=settings_of(runtime),
        iterations=50,
        measured_at="2026-11-21",
        process=5.0,
        costs=costs,
    )


def test_a_study_that_goes_on_gives_every_cell_its_first_seed_before_any_its_second(folders: list[RunFolder]) -> None:
    queue = counted(RunQueue.of(folders[2:], Runtime(), 2), lambda t: 10 - STEPS.index(t.step))
    assert in_order(queue)[:3] == [(0, "gelu"), (0, "grn"), (1, "baseline")]


def test_a_damaged_calibration_or_record_stops_no_study(folders: list[RunFolder]) -> None:
    (folders[0].path.parent / "calibration.json").write_text("[{}]")
    (folders[0].path / "record.json").write_text("{")
    assert len(RunQueue.of(folders, Runtime(), 2)) == 12


def end_of(lengths: Sequence[float], jobs: int) -> tuple[float, float]:
    """When all have ended, and for how long the last one was at work alone."""
    ends = [0.0] * jobs
    for seconds in lengths:
        heapq.heapreplace(ends, ends[0] + seconds)
    *others, last = sorted(ends)
    return last, last - others[-1]


def test_a_study_does_not_end_with_one_long_run_beside_an_idle_slot(folders: list[RunFolder]) -> None:
    took = dict(zip(STEPS, (2.0, 3.0, 4.0, 6.0), strict=True))
    queue = RunQueue.of(folders, Runtime(), 2)
    for run in queue.waiting:
        queue.known.learn(finished(run.trial, took[run.trial.step]))
    as_planned = [took[run.trial.step] for run in queue.waiting]
    (whole, alone), (usual, tail) = end_of([took[step] for _, step in in_order(queue)], 2), end_of(as_planned, 2)
    assert (whole, usual) == (23.0, 24.0), "22.5 is the least"
    assert alone < min(took.values()) < tail


# Memory ---------------------------------------------------------------------------------------------------------------


def test_memory_is_known_from_finished_runs_of_a_gpu_and_else_taken_to_be_more_than_the_largest(
    folders: list[RunFolder],
) -> None:
    queue = RunQueue.of(folders, Runtime(), 2)
    first, second = queue.waiting[:2]
    assert queue.need(first) is None
    on_cpu = Hardware(device="cpu")
    queue.known.learn(finished(first.trial, 1.0, peak_memory_bytes=7_000, device_batch=64, hardware=on_cpu))
    assert queue.need(first) is None, "of a process, not of a device"
    batch = first.trial.recipe.group_size
    queue.known.learn(finished(first.trial, 1.0, peak_memory_bytes=1_000, device_batch=batch, hardware=GPU))
    assert queue.need(first) == int(1_000 * MARGIN)
    assert queue.need(second) == int(1_000 * UNSEEN * MARGIN)
    assert replace(queue, micro_batch=2 * batch).need(first) == queue.need(second), "another batch, another peak"


def test_memory_is_known_from_a_calibration(folders: list[RunFolder]) -> None:
    costs = {cost_key(make_trial(0, "gelu")): cost_of(0.1, peak=4_000)}
    add_calibration(folders[0].path.parent, calibration(costs, Runtime()))
    queue = RunQueue.of(folders, Runtime(), 2)
    needs = {run.trial.step: queue.need(run) for run in queue.waiting}
    assert needs == {"baseline": None, "patchify-stem": None, "gelu": int(4_000 * MARGIN), "grn": None}
