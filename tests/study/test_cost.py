"""What a run does is counted, what it costs is looked up, and both together are its time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from roadmap.config.runtime import Runtime
from roadmap.runs.io import RunError
from roadmap.runs.record import Hardware
from roadmap.study.cost import (
    CALIBRATION,
    PREDICTION,
    Calibration,
    Cost,
    add_calibration,
    cost_key,
    latest,
    note_prediction,
    read_calibrations,
    settings_of,
    work_of,
)
from tests.helpers.small_runs import make_trial

IMAGES = {"train": 1000, "validation": 100, "test": 500}
COST = Cost(
    start=2.0,
    image=0.01,
    waiting_share=0.25,
    first_evaluation={"validation": 3.0, "test": 5.0},
    evaluation={"validation": 1.0, "test": 5.0},
    checkpoint=0.5,
    end=0.25,
    images=IMAGES,
    peak_memory=10**9,
)


def calibration(*costs: str, jobs: int = 1, process: float = 4.0, runtime: Runtime | None = None) -> Calibration:
    return Calibration(
        hardware=Hardware("cpu", "a processor", 2, 2),
        jobs=jobs,
        ranks=1,
        settings=settings_of(runtime or Runtime()),
        iterations=50,
        measured_at="2026-01-01T00:00:00+00:00",
        process=process,
        costs=dict.fromkeys(costs, COST),
    )


def test_a_runs_time_is_start_training_evaluations_checkpoints_and_end() -> None:
    trial = make_trial(epochs=4, batch_size=128)  # 7 iterations an epoch
    runtime = Runtime(checkpoint_every=3)
    work = work_of(trial, IMAGES, runtime)
    assert (work.trained, work.evaluations, work.checkpoints) == (4 * 7 * 128, {"validation": 4, "test": 1}, 2)
    seconds = calibration(cost_key(trial)).seconds(trial, runtime)
    assert seconds == pytest.approx(2 + 4 * 7 * 128 * 0.01 + (3 + 3 * 1) + 5 + 2 * 0.5 + 0.25)


def test_what_costs_no_time_shares_a_cost_and_all_else_has_its_own() -> None:
    trial = make_trial()
    for same in (make_trial(seed=7), make_trial(epochs=9), make_trial(lr=0.5, weight_decay=0.1)):
        assert cost_key(same) == cost_key(trial)
    others = (
        make_trial("gelu"),
        make_trial(settings={"kernel_size": 9}),
        make_trial(group_size=32),
        make_trial(ema_decay=None),
        make_trial(augmentation="rand-m9-mstd0.5-inc1"),
        replace(trial, data=replace(trial.data, validation=0.2)),
    )
    assert len({cost_key(t) for t in (trial, *others)}) == 1 + len(others)


def test_a_rule_that_may_end_runs_early_needs_no_calibration_of_its_own() -> None:
    assert calibration().is_of(1, Runtime(stop_hopeless=True))
    assert not calibration().is_of(1, Runtime(compile=True))


def test_runs_wait_for_the_first_process_that_is_free() -> None:
    two = calibration(jobs=2)
    assert two.elapsed([10, 1, 2]) == 4 + 10
    assert two.elapsed([10, 10, 1]) == 4 + 11
    assert two.elapsed([3.0]) == 7 and two.elapsed([]) == 0


def test_more_ranks_share_images_and_nothing_else() -> None:
    trial = make_trial(epochs=4)
    one, four = (calibration(cost_key(trial)).seconds(trial, Runtime(), ranks=ranks) for ranks in (1, 4))
    fixed = 2 + 4 * 0.5 + 0.25
    assert one is not None and four == pytest.approx(fixed + (one - fixed) / 4)


def test_a_calibration_survives_its_file_and_replaces_only_its_like(tmp_path: Path) -> None:
    add_calibration(tmp_path, calibration("a", "b"))
    add_calibration(tmp_path, calibration("a", jobs=2))
    add_calibration(tmp_path, calibration("c", process=9.0))
    first, second = read_calibrations(tmp_path)
    assert first == calibration("a", jobs=2)
    assert second == calibration("a", "b", "c", process=9.0)
    assert latest([first, second], jobs=2) == first and latest([first, second]) == second
    assert latest([first], jobs=3) is None
    content = json.loads((tmp_path / CALIBRATION).read_text())
    assert content[0]["hardware"] == {"device": "cpu", "cpu": "a processor", "cores": 2, "threads": 2}


def test_a_damaged_calibration_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION).write_text('[{"jobs": 1}]')
    with pytest.raises(RunError, match=r"calibration.json is no calibration .*; legal: .*; remove it"):
        read_calibrations(tmp_path)


def test_a_launch_notes_what_it_predicts_and_a_run_that_has_begun_keeps_its_first(tmp_path: Path) -> None:
    trials = [make_trial(seed=seed) for seed in range(3)]
    assert note_prediction(tmp_path, trials, Runtime(), jobs=1) is None and not list(tmp_path.iterdir())

    add_calibration(tmp_path, calibration(cost_key(trials[0])))
    other_way = Runtime(compile=True)
    assert note_prediction(tmp_path, trials, other_way, jobs=1) is None
    assert note_prediction(tmp_path, trials, Runtime(), jobs=2) is None
    each = calibration(cost_key(trials[0])).seconds(trials[0], Runtime())
    assert each is not None
    assert note_prediction(tmp_path, trials[:2], Runtime(), jobs=1) == pytest.approx(4 + 2 * each)

    (tmp_path / trials[0].id).mkdir()
    (tmp_path / trials[0].id / "attempts.jsonl").write_text("{}\n")
    note_prediction(tmp_path, trials, Runtime(), jobs=1)
    first, second = json.loads((tmp_path / PREDICTION).read_text())
    assert set(first["seconds"]) == {t.id for t in trials[:2]}
    assert set(second["seconds"]) == {t.id for t in trials[1:]}
    assert second["seconds"][trials[2].id] == pytest.approx(each, abs=0.001)
    assert first["where"] == "a processor, 2 cores, 2 threads"
