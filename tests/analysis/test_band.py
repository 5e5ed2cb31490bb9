"""The band of first epochs holds what it says of sound runs, and none where too few runs tell."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.stats.band import band, mean_of_first


def test_a_sound_run_is_inside_all_ranges_in_nineteen_of_twenty_cases() -> None:
    rng, inside, studies = np.random.default_rng(0), 0, 1000
    for _ in range(studies):
        losses = rng.normal(2.0, 0.1, (4, 3)).tolist()  # three stored runs and a fresh one, three epochs
        scores = rng.normal(50.0, 5.0, (4, 3)).tolist()
        runs = [{"train_loss": losses[k], "top1": scores[k]} for k in range(4)]
        ranges = band(runs[:3], ("train_loss", "top1"), 3)
        inside += all(r.holds(mean_of_first(runs[3][r.curve], 3) or 0.0) for r in ranges)
    assert 0.94 < inside / studies < 0.985


def test_a_run_of_another_learning_rate_is_outside() -> None:
    runs = [{"train_loss": [2.1608, 1.2497]}, {"train_loss": [2.1162, 1.1552]}, {"train_loss": [1.9798, 1.1618]}]
    [loss] = band(runs, ["train_loss"], 2)
    assert loss.runs == 3 and loss.holds(1.65) and not loss.holds(2.30) and not loss.holds(float("nan"))


@pytest.mark.parametrize("runs", [[], [{"top1": [1.0]}], [{"top1": [1.0]}, {"top1": [None]}], [{}, {}]])
def test_fewer_than_two_runs_make_no_band(runs: list[dict[str, list[float | None]]]) -> None:
    assert band(runs, ["top1"], 1) == []
