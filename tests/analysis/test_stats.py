"""The statistics agree with scipy and statsmodels on shared cases; what the data cannot support is None.

Coverage is in test_simulations.py.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped,unused-ignore]
from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped,unused-ignore]

from analysis.stats.comparisons import (
    Change,
    Summary,
    Verdict,
    against_paper,
    change,
    change_sampling_se,
    false_positives,
    summarize,
    verdicts,
)
from analysis.stats.error_term import ErrorTerm, error_term
from roadmap.config.errors import RoadmapError
from roadmap.runs.metric import LOSS, TOP1
from tests.helpers.cells import draw, listed


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


@pytest.mark.parametrize(
    "child", [{0: 80.3, 1: 81.5}, {3: 80.3, 4: 81.5, 5: 80.2}, {0: 80.3, 1: 81.5, 2: 80.0, 3: 80.4}]
)
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
    assert TOP1.sampling_se(80.0, 10_000) == pytest.approx(100 * stats.binom(10_000, 0.8).std() / 10_000)
    assert TOP1.sampling_se(100.0, 10_000) == 0.0 == TOP1.sampling_se(100.0001, 10)
    assert TOP1.sampling_se(80.0, None) is LOSS.sampling_se(0.3, 10_000) is None


def test_a_change_of_two_cells_alone_has_scipys_p() -> None:
    parent, child = {0: 80.0, 1: 80.9, 2: 79.5}, {0: 80.3, 1: 81.5, 2: 79.9}
    paired, welch = change(child, parent), change({3: 80.3, 4: 81.5, 5: 79.9}, parent)
    assert (
        paired is not None
        and paired.df == 2
        and paired.p == pytest.approx(stats.ttest_rel(listed(child), listed(parent)).pvalue)
    )
    test = stats.ttest_ind(listed(child), listed(parent), equal_var=False)
    assert welch is not None and welch.df == pytest.approx(test.df) and welch.p == pytest.approx(test.pvalue)


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = [80.0, 80.9, 79.5]
    s = summarize(values)
    assert (s.low, s.high) == pytest.approx(stats.t(2, np.mean(values), stats.sem(values)).interval(0.95))
    assert summarize([80.0]) == Summary(80.0, None, 1)


def test_holm_agrees_with_statsmodels_and_the_sign_names_the_verdict() -> None:
    p = {"a": 0.001, "b": 0.04, "c": 0.015, "d": 0.2, "e": 0.9}
    mean = {"a": 0.5, "b": 0.2, "c": -0.4, "d": 0.1, "e": 0.0}
    changes: dict[str, Change | None] = {key: Change(mean[key], 0.1, None, None, 28, p[key], "pooled") for key in p}
    found = verdicts({**changes, "f": Change(3.0, None, None, None, None, None, "none"), "g": None})
    assert [found[key].p_holm for key in p] == pytest.approx(list(multipletests(list(p.values()), method="holm")[1]))
    assert {key: v.verdict for key, v in found.items()} == {
        "a": "gain",
        "b": "unresolved",
        "c": "unresolved",
        "d": "unresolved",
        "e": "unresolved",
        "f": "unresolved",
        "g": "unresolved",
    }
    assert {v.family for v in found.values()} == {5} and found["f"].p_holm is None and list(found) == [*p, "f", "g"]
    assert verdicts({"c": changes["c"]}) == {"c": Verdict(pytest.approx(0.015), "loss", 1)}
    assert verdicts({}) == {}


def test_false_positives_are_counted_among_tested_controls() -> None:
    controls = [Verdict(1.0, "unresolved", 20)] * 19 + [Verdict(0.01, "loss", 20), Verdict(None, "unresolved", 20)]
    found = false_positives(controls)
    assert (found.resolved, found.total, found.untested) == (1, 20, 1)
    assert (found.low, found.high) == pytest.approx(proportion_confint(1, 20, method="beta"))
    assert (found.low, found.high) == pytest.approx((0.0013, 0.2487), abs=1e-4)
    none = false_positives([])
    assert (none.resolved, none.total, none.low, none.high) == (0, 0, None, None)


def test_sampling_error_of_a_change_is_that_of_independent_predictions_at_most() -> None:
    rng, images, sims = np.random.default_rng(0), 2000, 4000
    bound = change_sampling_se(TOP1, 82.0, 80.0, images, images)
    assert bound is not None
    alone = rng.binomial(images, 0.82, sims) - rng.binomial(images, 0.80, sims)
    both, child, parent = rng.multinomial(images, [0.75, 0.07, 0.05, 0.13], sims).T[
        :3
    ]  # right: both, the child alone, the parent alone
    assert 100 * np.std(alone) / images == pytest.approx(bound, rel=0.05)
    assert (
        np.mean(both + child) / images == pytest.approx(0.82, abs=0.001)
        and 100 * np.std(child - parent) / images < 0.7 * bound
    )


def test_against_the_paper_both_errors_and_the_rounding_count() -> None:
    measured = Summary(81.80, 0.09, 3, se=0.05, df=28.0)
    found = against_paper(measured, 81.97, 0.06)
    se = math.sqrt(0.05**2 + 0.06**2 / 3 + 0.01**2 / 12)
    df = se**4 / (0.05**4 / 28 + (0.06**2 / 3) ** 2 / 2)
    assert (found.difference, found.se, found.z, found.df, found.note) == (
        pytest.approx(-0.17),
        pytest.approx(se),
        pytest.approx(-0.17 / se),
        pytest.approx(df),
        "",
    )
    assert found.p == pytest.approx(2 * stats.t(df).sf(0.17 / se))
    wide = against_paper(measured, 82.1, 0.06, rounding=0.1)
    assert (
        wide.se is not None
        and found.se is not None
        and wide.se**2 - found.se**2 == pytest.approx((0.1**2 - 0.01**2) / 12)
    )


def test_the_papers_tests_are_scipys_where_nothing_is_rounded() -> None:
    values, paper = [81.8, 81.95, 81.83], (81.97, 0.06)
    found = against_paper(summarize(values), *paper, rounding=0.0)
    test = stats.ttest_ind_from_stats(
        float(np.mean(values)), float(np.std(values, ddof=1)), 3, *paper, 3, equal_var=False
    )
    assert (found.z, found.p) == pytest.approx((test.statistic, test.pvalue))


def test_an_unknown_uncertainty_of_the_paper_is_said_not_taken_for_0() -> None:
    found = against_paper(Summary(78.0, 0.1, 3, se=0.06, df=28.0), 76.13, None)
    assert found.se == pytest.approx(math.hypot(0.06, 0.01 / math.sqrt(12))) and found.note.startswith(
        "the paper prints no deviation over seeds"
    )
    single = against_paper(summarize([78.0]), 76.13, None)
    assert (single.se, single.z, single.p, single.df) == (
        None,
        None,
        None,
        None,
    ) and single.difference == pytest.approx(1.87)
    assert "no error known from n = 1" in single.note and "prints no deviation" in single.note
    exact = against_paper(Summary(78.0, 0.0, 3, se=0.0, df=28.0), 78.01, None)
    assert exact.df is None and exact.p == pytest.approx(2 * stats.norm.sf(0.01 / (0.01 / math.sqrt(12))))


def test_a_comparison_with_the_paper_that_cannot_be_is_refused() -> None:
    with pytest.raises(RoadmapError, match=r"^paper\.measured has no finished run; legal: .+; .+"):
        against_paper(summarize([]), 81.97, 0.06)
    with pytest.raises(RoadmapError, match=r"^paper\.paper_n is 1 beside a standard deviation of 0\.06; legal: .+; .+"):
        against_paper(summarize([80.0, 81.0]), 81.97, 0.06, paper_n=1)


def test_everything_found_is_plain_json() -> None:
    cells = draw(0.7)
    error = error_term(cells)
    c, s = change(cells[1], cells[0], error), summarize(listed(cells[1]), error)
    for value in (
        error,
        c,
        s,
        verdicts({"a": c})["a"],
        false_positives([Verdict(1.0, "unresolved", 1)]),
        against_paper(s, 80.0, 0.1),
        change({0: 1.0, 1: 1.0}, {2: 1.0, 3: 1.0}),
    ):
        assert value is not None
        json.dumps(vars(value), allow_nan=False)
    assert isinstance(error, ErrorTerm) and all(type(v) in (bool, int, float, str) for v in vars(error).values())


def test_importing_the_statistics_imports_no_scientific_library() -> None:
    code = (
        "import sys, analysis.stats.comparisons, analysis.stats.power; print([m for m in ('numpy', 'scipy', "
        "'statsmodels', 'pandas', 'matplotlib', 'torch') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
