"""Simulated ladders, 14 steps x 3 seeds with known effects: how often the intervals hold the truth,
and how often Holm's verdicts are wrong.

The whole chain is simulated, the choice of the error term included. `correlation` is that of two
steps' top-1 over seeds. All draws are fixed.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped,unused-ignore]
import statsmodels.stats.multitest  # type: ignore[import-untyped,unused-ignore]  # noqa: F401 - now, before the heap is frozen

from analysis.stats.comparisons import change, summarize, verdicts
from analysis.stats.error_term import error_term
from roadmap.runs.metric import TOP1

LADDERS, STEPS, SEEDS, STD = 2000, 14, 3, 0.1
NULL = np.zeros(STEPS - 1)
EFFECTS = np.array([0.5, 0, 0.2, 0, -0.3, 0, 0.1, 0, 1.0, 0, -0.5, 0, 0.3])


@dataclass(frozen=True)
class Found:
    """Fractions of all simulated ladders.

    `changes` and `means`: intervals that hold the truth, per comparison and step; `wrong`: ladders
    with any verdict against the truth.
    """

    changes: np.ndarray
    means: np.ndarray
    wrong: float
    methods: Counter[str]


def simulate(
    effects: np.ndarray, correlation: float, *, scale: np.ndarray | float = 1.0, ladders: int = LADDERS, seed: int = 0
) -> Found:
    """Draw ladders, analyse each one as a study is, and compare with the truth.

    `scale` multiplies a step's standard deviation.
    """
    rng = np.random.default_rng(seed)
    truth = 80 + np.concatenate([[0.0], np.cumsum(effects)])
    common, own = rng.normal(size=(ladders, 1, SEEDS)), rng.normal(size=(ladders, STEPS, SEEDS))
    scatter = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
    runs = truth[:, None] + STD * np.broadcast_to(scale, STEPS)[:, None] * scatter
    changes, means, wrong, methods = np.zeros(STEPS - 1), np.zeros(STEPS), 0, Counter[str]()
    right = {i: {1: "gain", -1: "loss", 0: "unresolved"}[int(np.sign(e))] for i, e in enumerate(effects)}
    for ladder, p_equal in zip(runs.tolist(), scipy.stats.bartlett(*runs.swapaxes(0, 1), axis=1).pvalue, strict=True):
        cells = [dict(enumerate(values)) for values in ladder]
        with mock.patch(
            "scipy.stats.bartlett", lambda *_, p=p_equal: SimpleNamespace(pvalue=p)
        ):  # called once for all ladders: one by one it takes most of the time
            error = error_term(dict(enumerate(cells)))
        assert error.p_equal == p_equal
        methods[error.method] += 1
        found = {i: change(cells[i + 1], cells[i], error) for i in range(STEPS - 1)}
        changes += [
            c is not None and c.low is not None and c.high is not None and c.low <= effects[i] <= c.high
            for i, c in found.items()
        ]
        summaries = [summarize(values, error) for values in ladder]
        means += [
            s.low is not None and s.high is not None and s.low <= t <= s.high
            for s, t in zip(summaries, truth, strict=True)
        ]
        wrong += any(v.verdict not in ("unresolved", right[i]) for i, v in verdicts(found).items())
    return Found(changes / ladders, means / ladders, wrong / ladders, methods)


def noise(rate: float, ladders: int = LADDERS) -> float:
    """Three standard errors of a simulated rate."""
    return 3 * math.sqrt(rate * (1 - rate) / ladders)


def within_reach(coverage: np.ndarray) -> bool:
    """95 +- 1.5 % on average; each single one, which is known less exactly, within its noise of that."""
    return abs(coverage.mean() - 0.95) <= 0.015 and bool(np.all(np.abs(coverage - 0.95) <= 0.015 + noise(0.95)))


@pytest.mark.slow
def test_without_effects_and_correlation_intervals_hold_and_false_verdicts_stay_below_5_percent() -> None:
    found = simulate(NULL, 0.0)
    assert within_reach(found.changes) and within_reach(found.means)
    assert 0.005 < found.wrong <= 0.05 + noise(0.05)
    assert found.methods["pooled"] > 0.85 * LADDERS


@pytest.mark.slow
def test_runs_that_coincide_by_chance_are_no_certainty() -> None:
    """Two seeds that scatter by 0.3 points on 500 images often have the same top-1.

    Taken as no scatter, one study of nine would have a false verdict.
    """
    runs = np.round((98 + 0.3 * np.random.default_rng(0).normal(size=(1000, 2, 2))) * 5) / 5
    wrong = {}
    for floor in (0.0, TOP1.floor(500)):
        studies = [[dict(enumerate(cell)) for cell in study] for study in runs.tolist()]
        changes = [change(child, parent, error_term({0: parent, 1: child}, floor=floor)) for parent, child in studies]
        wrong[floor] = sum(v.verdict != "unresolved" for c in changes for v in verdicts({0: c}).values()) / len(runs)
    assert wrong[TOP1.floor(500)] <= 0.05 + noise(0.05, 1000) < 0.09 < wrong[0.0]


@pytest.mark.slow
def test_with_known_effects_and_correlated_seeds_intervals_hold_and_false_verdicts_stay_below_5_percent() -> None:
    found = simulate(EFFECTS, 0.5)
    assert within_reach(found.changes) and within_reach(found.means)
    assert found.wrong <= 0.05 + noise(0.05)
    assert found.methods["paired"] > 0.5 * LADDERS


@pytest.mark.soak
@pytest.mark.slow
def test_a_weak_correlation_where_the_choice_is_a_toss_up_does_not_break_the_intervals() -> None:
    found = simulate(EFFECTS, 0.2)
    assert within_reach(found.changes) and within_reach(found.means)
    assert found.wrong <= 0.05 + noise(0.05)
    assert min(found.methods["paired"], found.methods["pooled"]) > 0.2 * LADDERS


@pytest.mark.slow
def test_a_strong_correlation_leaves_changes_right_and_single_means_a_little_too_sure() -> None:
    """Three seeds common to all steps say little about a single mean: 93 % instead of 95 at a correlation of 0.8.

    Changes are not affected.
    """
    ladders = 500
    found = simulate(NULL, 0.8, ladders=ladders)
    assert abs(found.changes.mean() - 0.95) <= 0.015 + noise(0.95, ladders) / 2
    assert 0.90 < found.means.mean() < 0.96


@pytest.mark.slow
def test_one_step_with_three_times_the_scatter_is_a_known_weakness() -> None:
    """Three runs seldom show unequal variances, so the pooled error is used for most such ladders:
    the two intervals that touch the step hold in about 80 % instead of 95 (the step's own mean in
    70 %), all others in more than 95 %, and a false verdict is made in about one ladder of eight.
    Whoever sees such a step runs more seeds.
    """
    ladders, scale = 500, np.ones(STEPS)
    scale[7] = 3
    found = simulate(NULL, 0.0, scale=scale, ladders=ladders)
    touched = np.array([6, 7])
    others = np.delete(found.changes, touched)
    assert np.all((found.changes[touched] > 0.72) & (found.changes[touched] < 0.90))
    assert others.mean() > 0.95 and 0.6 < found.means[7] < 0.8
    assert found.wrong < 0.125 + noise(0.125, ladders)
    assert found.methods["separate"] > 0.2 * ladders
