"""Ranks, signs and decisions of two studies: the numbers against plain loops, the intervals against simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import kendalltau  # type: ignore[import-untyped,unused-ignore]

from analysis.stats.agreement import FEWEST, _resampled, drawn_interval, drawn_means, rank_agreement, share
from analysis.stats.error_term import error_term

RNG = np.random.default_rng(5)


def test_tau_and_p_are_scipys_with_ties_too() -> None:
    a, b = [0.1, 0.1 + 1e-12, -0.4, 2.0, 0.7], [1.0, 0.2, -0.3, 0.5, 0.5]
    found, theirs = rank_agreement(a, b), kendalltau([0.1, 0.1, -0.4, 2.0, 0.7], b)
    assert (found.tau, found.p) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))


def test_a_resamples_tau_is_that_of_the_drawn_pairs() -> None:
    a, b = RNG.normal(size=9), RNG.normal(size=9)
    often = np.random.default_rng(0).multinomial(9, np.full(9, 1 / 9), size=10_000)
    drawn = [np.repeat(np.arange(9), row) for row in often[:50]]
    assert _resampled(a, b)[:50] == pytest.approx([kendalltau(a[i], b[i]).statistic for i in drawn], nan_ok=True)


def test_few_comparisons_have_no_interval_and_equal_effects_no_rank() -> None:
    few = rank_agreement(range(FEWEST - 1), range(FEWEST - 1))
    assert (few.tau, few.low) == (1.0, None)
    assert rank_agreement([1.0] * 9, list(range(9))).tau is None
    assert rank_agreement([], []).tau is None


def test_full_agreement_is_not_certainty() -> None:
    found = rank_agreement(range(12), range(12))
    assert (found.tau, found.high) == (pytest.approx(1.0), pytest.approx(1.0))
    assert found.low is not None and 0.3 < found.low < 0.7
    against = rank_agreement(range(12), range(0, -12, -1))
    assert against.high is not None and -0.7 < against.high < -0.3


def test_pairs_that_share_cells_count_as_so_many_free_choices() -> None:
    alone, shared = share(60, 91), share(60, 91, independent=13)
    assert alone.value == shared.value == pytest.approx(60 / 91)
    assert alone.low is not None and shared.low is not None and shared.low < alone.low
    assert share(0, 0).value is None and share(0, 0).low is None


def test_drawn_means_scatter_as_the_studys_error_says() -> None:
    cells = {i: dict(enumerate(i + RNG.normal(0, 0.5, 3))) for i in range(14)}
    error = error_term(cells)
    drawn = drawn_means(cells, error, seed=0)
    assert drawn is not None and error.std is not None
    std = np.mean([draws.std() for draws in drawn.values()])
    assert std == pytest.approx(error.std / math.sqrt(3), rel=0.1)
    assert drawn_means({0: {0: 1.0}}, error_term({0: {0: 1.0}}), seed=0) is None, "one run tells no error"


def test_effects_far_beyond_their_error_keep_their_ranks_with_other_seeds() -> None:
    cells = {i: {seed: 10.0 * i**2 + 0.1 * seed for seed in range(3)} for i in range(6)}
    drawn = drawn_means(cells, error_term(cells), seed=1)
    assert drawn is not None
    effects = [drawn[j] - drawn[i] for i, j in itertools.pairwise(range(6))]
    assert drawn_interval(effects, effects) == (1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [FEWEST, 13])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_interval_over_comparisons_holds_the_truth(n: int, correlation: float) -> None:
    truth = 2 / math.pi * math.asin(correlation)  # Kendall's tau of two normal variables (Greiner, 1909)
    held = shared = 0
    for _ in range(200):
        a = RNG.normal(size=n)
        b = correlation * a + math.sqrt(1 - correlation**2) * RNG.normal(size=n)
        found = rank_agreement(a.tolist(), b.tolist())
        assert found.tau is not None and found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
        pairs = n * (n - 1) // 2
        part = share((1 + found.tau) / 2 * pairs, pairs, independent=n - 1)
        assert part.low is not None and part.high is not None
        shared += part.low <= (1 + truth) / 2 <= part.high
    assert held / 200 > 0.9 and shared / 200 > 0.95
