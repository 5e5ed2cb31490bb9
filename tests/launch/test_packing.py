"""The measurement of packed runs: pairs of turns, and the same losses either way."""

from __future__ import annotations

import pytest
import torch

from roadmap.bench.packing import STEPS, Packing, Times, _packing, packing, trial_of


def test_the_speed_up_is_of_the_time_until_all_runs_are_done() -> None:
    one = Times([(0.0, 3.0), (10.0, 13.0)], [6.0, 8.0], [2.0, 1.0], [[2.0, 1.0], [4.0, 2.0]])
    other = Times([(1.0, 4.0), (10.0, 12.0)], [], [4.0, 2.2], [])
    found = _packing("baseline", [one, other])
    assert (found.ratio.value, found.ratio.low, found.ratio.high) == pytest.approx((2.083, 1.5, 2.667), abs=0.001)
    assert found.difference == pytest.approx(0.1)


def test_a_trial_of_each_step_needs_no_data_set_but_the_embedded_one() -> None:
    for step in STEPS:
        trial = trial_of(step, 1)
        assert (trial.data.name, trial.data.image_size, trial.recipe.pipeline) == ("digits", 32, "tensor")
        assert trial.recipe.batch_size <= 1166


@pytest.mark.soak
@pytest.mark.slow
def test_packed_runs_and_runs_one_at_a_time_train_the_same() -> None:
    found = packing([trial_of("gelu", seed, regime="micro") for seed in (0, 1)], "cpu", iterations=2, pairs=2)
    assert found.difference == 0
    assert found.ratio.pairs == 2 and found.ratio.low > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("step", STEPS)
def test_packing_four_seeds_on_a_gpu_is_never_slower(step: str) -> None:
    found: Packing = packing([trial_of(step, seed) for seed in range(4)], "cuda", iterations=50, pairs=3)
    assert found.difference < 0.02
    assert found.ratio.value > 1.0
