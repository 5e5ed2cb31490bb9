from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped,unused-ignore]

from analysis.statistics import binomial_se, change, summarize


def test_mean_and_deviation_divide_by_n_minus_1() -> None:
    values = [81.91, 82.03, 81.97, 80.5]
    s = summarize(values)
    assert s.n == 4
    assert s.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert s.std == pytest.approx(np.std(values, ddof=1), rel=1e-12)


def test_what_n_cannot_support_is_none() -> None:
    assert summarize([]) == summarize(()) and summarize([]).mean is None and summarize([]).std is None
    assert (summarize([80.0]).mean, summarize([80.0]).std) == (80.0, None)
    assert summarize([80.0, 80.0]).std == 0.0


def test_same_seeds_are_paired() -> None:
    parent, child = {0: 80.0, 1: 80.9, 2: 79.5}, {2: 79.9, 0: 80.3, 1: 81.5}
    c = change(child, parent)
    test = stats.ttest_rel([child[s] for s in range(3)], [parent[s] for s in range(3)])
    interval = test.confidence_interval(0.95)
    assert c is not None and c.se is not None and c.method == "paired"
    assert [c.low, c.high] == pytest.approx([interval.low, interval.high])
    assert c.mean / c.se == pytest.approx(test.statistic)


@pytest.mark.parametrize("child", [{0: 80.3, 1: 81.5}, {3: 80.3, 4: 81.5, 5: 80.2}, {0: 80.3, 1: 81.5, 2: 80.0, 3: 80.4}])
def test_other_seeds_are_compared_with_welch(child: dict[int, float]) -> None:
    parent = {0: 80.0, 1: 80.9, 2: 79.5}
    c = change(child, parent)
    test = stats.ttest_ind(list(child.values()), list(parent.values()), equal_var=False)
    interval = test.confidence_interval(0.95)
    assert c is not None and c.se is not None and c.method == "welch"
    assert [c.low, c.high] == pytest.approx([interval.low, interval.high])
    assert c.mean / c.se == pytest.approx(test.statistic)


def test_a_single_run_gives_a_difference_without_an_interval() -> None:
    for child, parent in (({0: 81.0}, {0: 80.0}), ({0: 81.0}, {0: 80.0, 1: 80.0})):
        c = change(child, parent)
        assert c is not None and (c.mean, c.se, c.low, c.high, c.method) == (1.0, None, None, None, "none")
    assert change({}, {0: 80.0}) is None and change({0: 80.0}, {}) is None


def test_equal_values_give_an_interval_of_no_width() -> None:
    for child in ({0: 81.0, 1: 81.0}, {2: 81.0, 3: 81.0}):
        c = change(child, {0: 80.0, 1: 80.0})
        assert c is not None and (c.mean, c.se, c.low, c.high) == (1.0, 0.0, 1.0, 1.0)


def test_binomial_error_of_the_test_split() -> None:
    assert binomial_se(80.0, 10_000) == pytest.approx(100 * stats.binom(10_000, 0.8).std() / 10_000)
    assert binomial_se(100.0, 10_000) == 0.0 and math.isfinite(binomial_se(100.0001, 10))
