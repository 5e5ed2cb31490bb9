"""How sure an attribution is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from analysis.attribution.shapley import RESAMPLES, Estimate, Weights, estimates, shapley_weights
from analysis.attribution.summary import to_json
from tests.helpers.games import (
    FREE,
    PAIRS,
    SINGLE,
    attribute,
    entry_of,
    factorial,
    game,
    ladder_study,
    micro_trial,
    pairwise,
    study_of,
    table,
    trial_of,
)


def test_without_a_cell_trained_twice_there_is_no_interval() -> None:
    found = attribute(factorial(pairwise(SINGLE, PAIRS)), game=game(FREE))
    assert (
        all(v.low is None and v.high is None for v in found.values)
        and found.error == "no interval: no cell has two finished runs"
    )
    twice = attribute(factorial(pairwise(SINGLE, PAIRS), noise=(0.1, -0.1, 0.03)), game=game(FREE))
    assert all(
        v.low is not None and v.high is not None and v.low <= v.value <= v.high
        for v in (*twice.values, *twice.interactions)
    )
    assert "32 cells" in twice.error and "62 degrees of freedom" in twice.error


def test_seeds_own_effects_cancel_where_all_cells_share_the_seeds() -> None:
    found = attribute(factorial(pairwise(SINGLE, PAIRS), noise=(5.0, -3.0, 1.0)), game=game(FREE))
    assert all(v.high - v.low < 1e-9 for v in found.values)  # type: ignore[operator]
    uneven = factorial(pairwise(SINGLE, PAIRS), noise=(5.0, -3.0, 1.0))
    uneven = study_of(uneven.trials[1:])
    assert all(v.high - v.low > 0.5 for v in attribute(uneven, game=game(FREE)).values)  # type: ignore[operator]


def test_what_stands_in_headline_and_table_has_one_interval() -> None:
    study = ladder_study("separate-downsampling")
    for i, t in enumerate(study.trials):
        t["top1"] += (0.31, -0.22, 0.4, -0.17, 0.05)[i % 5]
    found = attribute(study)
    recipe = next(v for v in found.values if v.player == "recipe")
    assert found.shares and found.shares.recipe and found.shares.error == found.error and "14 cells" in found.error
    shown = found.shares.recipe
    assert recipe.low is not None and (shown.value, shown.low, shown.high) == pytest.approx(
        (recipe.value, recipe.low, recipe.high), abs=1e-9
    )
    assert not any("In the headline" in note for note in found.notes)


def test_a_cell_of_the_headline_with_other_seeds_takes_no_seeds_effect_out() -> None:
    study = ladder_study()
    lacking = next(m for m in attribute(study).shares.missing if m.on == ("recipe",))  # type: ignore[union-attr]
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in lacking.settings.items()}
    other = study_of(
        [entry_of(trial_of(seed, settings, micro_trial("baseline", seed)), 84.0) for seed in (7, 8)], "crossed"
    )
    found = attribute(study, others=[other])
    assert "less the effect of the seeds they share" in found.error
    note = next(
        note for note in found.notes if note.startswith("In the headline recipe and architecture have 95 % intervals")
    )
    assert "16 cells with two runs or more (48 runs, 32 degrees of freedom)" in note


def test_the_same_runs_give_the_same_answer_in_any_order() -> None:
    study = study_of(factorial(table(3), noise=(0.2, -0.1, 0.4)).trials[1:])
    found = to_json(attribute(study, game=game(FREE)))
    assert found["values"][0]["low"] < found["values"][0]["high"]
    assert (
        to_json(attribute(study_of(study.trials[::-1]), game=game(FREE)))["values"]
        == found["values"]
        == to_json(attribute(study, game=game(FREE)))["values"]
    )


def coverage(rows: list[Weights], cells: int, seeds: Sequence[int], shared: float, studies: int) -> float:
    """How often the interval of the first row holds the truth, 0.

    Cells that differ by noise alone, with a `shared` effect of each seed.
    """
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(studies):
        common = rng.normal(0, shared, max(seeds))
        found = estimates(
            {c: {s: float(common[s] + rng.normal()) for s in range(seeds[c])} for c in range(cells)}, rows
        )[0][0]
        assert isinstance(found, Estimate) and found.low is not None and found.high is not None
        hits += found.low <= 0 <= found.high
    return hits / studies


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("cells", "seeds", "shared"), [(8, 3, 0.0), (8, 3, 2.0), (8, 2, 1.0), (16, 3, 1.0), (4, 3, 0.0)]
)
def test_intervals_cover_the_truth_in_simulated_studies(
    cells: int, seeds: int, shared: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.attribution.shapley.RESAMPLES", 2000)
    size = cells.bit_length() - 1
    rows = [shapley_weights(dict.fromkeys(range(cells)), size)[0][0]]
    assert 0.92 <= coverage(rows, cells, [seeds] * cells, shared, 500) <= 0.98


def test_intervals_cover_the_truth_with_unequal_numbers_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.attribution.shapley.RESAMPLES", 2000)
    rows = [shapley_weights(dict.fromkeys(range(8)), 3)[0][1]]
    assert 0.92 <= coverage(rows, 8, [3, 1, 2, 3, 3, 2, 3, 3], 0.0, 500) <= 0.98


def test_at_least_two_thousand_resamples_are_drawn() -> None:
    assert RESAMPLES >= 2000
