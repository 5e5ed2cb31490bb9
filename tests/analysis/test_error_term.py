"""The error that all comparisons of a study share: pooled, paired, unequal, missing."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from statsmodels.formula.api import ols  # type: ignore[import-untyped,unused-ignore]
from statsmodels.stats.anova import anova_lm  # type: ignore[import-untyped,unused-ignore]

from analysis.stats.comparisons import (
    Change,
    Summary,
    change,
    summarize,
    verdicts,
)
from analysis.stats.error_term import _sums, error_term
from roadmap.runs.metric import LOSS, TOP1
from tests.helpers.cells import Cells, draw, listed


def frame(cells: Cells) -> pd.DataFrame:
    return pd.DataFrame(
        [{"cell": f"c{i:02d}", "seed": f"s{seed}", "top1": v} for i, cell in cells.items() for seed, v in cell.items()]
    )


def test_fourteen_steps_of_three_seeds_give_28_degrees_of_freedom() -> None:
    cells = draw(0.0)
    error = error_term(cells)
    within = [np.var(listed(c), ddof=1) for c in cells.values()]
    assert (error.method, error.df, error.cells, error.runs) == ("pooled", 28, 14, 42)
    assert error.std == pytest.approx(math.sqrt(np.mean(within))) == error.within
    c, s = change(cells[5], cells[4], error), summarize(listed(cells[5]), error)
    assert c is not None and c.se is not None and error.std is not None and error.mean_df is not None
    assert (c.method, c.df, c.se) == ("pooled", 28, pytest.approx(error.std * math.sqrt(2 / 3)))
    assert c.p == pytest.approx(2 * stats.t(28).sf(abs(c.mean) / c.se))
    assert (s.low, s.high) == pytest.approx(
        stats.t(error.mean_df, s.mean, error.std / math.sqrt(3)).interval(0.95)
    ) and 20 < error.mean_df <= 28


def test_two_cells_of_unequal_size_pool_as_students_t_test() -> None:
    a, b = {0: 80.0, 1: 80.9, 2: 79.5}, {3: 80.3, 4: 81.5, 5: 80.2, 6: 80.8}
    c = change(b, a, error_term({"a": a, "b": b}))
    test = stats.ttest_ind(listed(b), listed(a))
    interval = test.confidence_interval(0.95)
    assert c is not None and (c.method, c.df, c.p) == ("pooled", 5, pytest.approx(test.pvalue))
    assert [c.low, c.high] == pytest.approx([interval.low, interval.high])


def test_two_cells_of_correlated_seeds_pair_as_the_paired_t_test() -> None:
    a = {seed: 80.0 + seed for seed in range(6)}
    b = {seed: 80.5 + seed + (0.1, -0.1, 0.05, 0.0, -0.05, 0.02)[seed] for seed in range(6)}
    error = error_term({"a": a, "b": b})
    c, test = change(b, a, error), stats.ttest_rel(listed(b), listed(a))
    interval = test.confidence_interval(0.95)
    assert c is not None and (error.method, c.method, c.df) == ("paired", "paired", 5)
    assert c.p == pytest.approx(test.pvalue) and [c.low, c.high] == pytest.approx([interval.low, interval.high])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_paired_error_is_that_of_the_two_way_model() -> None:
    cells = draw(0.7)
    error = error_term(cells)
    fit = ols("top1 ~ C(cell) + C(seed)", frame(cells)).fit()
    anova = anova_lm(fit)
    assert (error.method, error.df) == ("paired", 26) and fit.df_resid == 26
    assert error.std == pytest.approx(math.sqrt(fit.mse_resid))
    assert error.p_seed == pytest.approx(anova.loc["C(seed)", "PR(>F)"])
    seed, rest = anova.loc["C(seed)", "mean_sq"], fit.mse_resid
    assert error.correlation == pytest.approx((seed - rest) / (seed + 13 * rest))
    for child, parent in ((1, 0), (6, 5), (13, 2)):
        c = change(cells[child], cells[parent], error)
        contrast = fit.t_test(
            f"C(cell)[T.c{child:02d}] = 0" if parent == 0 else f"C(cell)[T.c{child:02d}] - C(cell)[T.c{parent:02d}] = 0"
        )
        assert c is not None and c.method == "paired"
        assert [c.mean, c.se, c.p, c.low, c.high] == pytest.approx(
            [float(np.squeeze(x)) for x in (contrast.effect, contrast.sd, contrast.pvalue, *contrast.conf_int()[0])]
        )


def dense_sums(cells: Cells) -> tuple[float, float, int]:
    """(squares within cells, squares beside cell + seed, their degrees of freedom) from one
    least-squares problem with a column per cell and per seed.
    """
    runs = [(i, seed, value) for i, cell in cells.items() for seed, value in cell.items()]
    columns = [*((0, i) for i in cells), *((1, seed) for seed in {seed for _, seed, _ in runs})]
    y = np.array([value - 80 for *_, value in runs])
    squares, free = [], 0
    for design in (
        np.array([[(0, i) == c for c in columns[: len(cells)]] for i, _, _ in runs], float),
        np.array([[c in ((0, i), (1, seed)) for c in columns] for i, seed, _ in runs], float),
    ):
        solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
        squares.append(float(np.sum((y - design @ solution) ** 2)))
        free = len(runs) - int(rank)
    return squares[0], squares[1] if free else 0.0, free


@pytest.mark.parametrize("seed", range(40))
def test_unbalanced_cells_have_the_sums_of_the_dense_least_squares(seed: int) -> None:
    g = np.random.default_rng(seed)
    planned = int(g.integers(2, 30 if seed % 4 else 6))  # few seeds in common, or many
    cells = {
        i: {
            int(s): 80 + float(g.normal())
            for s in g.choice(planned, size=int(g.integers(1, min(planned, 5) + 1)), replace=False)
        }
        for i in range(int(g.integers(1, 15)))
    }
    assert _sums(list(cells.values())) == pytest.approx(dense_sums(cells), abs=1e-9)


def test_seeds_that_explain_all_leave_exactly_nothing() -> None:
    cells = {i: {seed: 80 + i / 3 + seed / 7 for seed in range(5) if (i + seed) % 4} for i in range(9)}
    total, residual, df = _sums(list(cells.values()))
    assert total > 1 and residual == 0.0 and df == dense_sums(cells)[2] > 0


def test_cells_without_a_common_seed_leave_nothing_to_pair_by() -> None:
    cells = {i: {10 * i + k: 80 + 0.1 * k * k for k in range(3)} for i in range(4)}
    assert _sums(list(cells.values())) == (pytest.approx(dense_sums(cells)[0]), 0.0, 0) and dense_sums(cells)[2] == 0
    assert error_term(cells).mean_df == 8


def test_two_groups_of_cells_with_seeds_of_their_own_count_them_apart() -> None:
    g = np.random.default_rng(0)
    cells = {i: {100 * (i % 2) + seed: 80 + float(g.normal()) for seed in range(4)} for i in range(6)}
    assert _sums(list(cells.values())) == pytest.approx(dense_sums(cells)) and dense_sums(cells)[2] == 12


def test_thousands_of_cells_take_a_moment() -> None:
    cells = list(draw(0.2, steps=3300).values())
    _sums(cells[:9])
    start = time.process_time()
    _sums(cells)
    assert time.process_time() - start < 0.2


def test_pairing_is_dropped_where_two_cells_do_not_share_their_seeds() -> None:
    cells = draw(0.7)
    error = error_term(cells)
    c = change({7: 80.2, 8: 80.4, 9: 80.1}, cells[0], error)
    assert c is not None and error.within is not None and c.method == "pooled"
    assert (c.se, c.df) == (pytest.approx(error.within * math.sqrt(2 / 3)), error.mean_df)
    assert error.mean_df is not None and error.mean_df < 14 and error.std is not None and error.std < error.within


def test_seeds_that_all_cells_share_without_effect_do_not_pair() -> None:
    error = error_term(draw(0.0))
    assert (
        error.method == "pooled" and error.p_seed is not None and error.p_seed >= 0.05 and error.correlation is not None
    )


def test_a_missing_seed_leaves_the_pooled_error_of_what_there_is() -> None:
    cells = draw(0.7)
    del cells[3][1]
    error = error_term(cells)
    assert (error.method, error.df, error.runs, error.correlation, error.p_seed) == ("pooled", 27, 41, None, None)
    fit, one_way = ols("top1 ~ C(cell) + C(seed)", frame(cells)).fit(), ols("top1 ~ C(cell)", frame(cells)).fit()
    seed = one_way.ssr - fit.ssr
    assert error.std == pytest.approx(math.sqrt(one_way.mse_resid))
    assert error.mean_df == pytest.approx(one_way.ssr**2 / (seed**2 / 2 + fit.ssr**2 / fit.df_resid))


def test_a_single_run_beside_others_is_compared_with_their_error() -> None:
    cells = {"a": {0: 80.0, 1: 80.4, 2: 80.1}, "b": {0: 81.0}, "empty": {}}
    error = error_term(cells)
    c, s = change(cells["b"], cells["a"], error), summarize(listed(cells["b"]), error)
    assert (error.method, error.df, error.cells, error.runs, error.p_equal) == ("pooled", 2, 2, 4, None)
    assert c is not None and error.std is not None and c.se == pytest.approx(error.std * math.sqrt(1 + 1 / 3))
    assert s.std is None and s.se == pytest.approx(error.std)


def test_single_runs_alone_have_no_error() -> None:
    error = error_term({"a": {0: 80.0}, "b": {0: 81.0}})
    assert (error.method, error.std, error.df, error.cells, error.runs) == ("none", None, None, 2, 2)
    assert change({0: 81.0}, {0: 80.0}, error) == Change(1.0, None, None, None, None, None, "none")
    assert summarize([81.0], error) == Summary(81.0, None, 1)
    assert error_term({}).method == "none" and error_term({"a": {}}).runs == 0


def test_without_any_scatter_equal_is_certain_and_different_is_certain() -> None:
    cells = {"a": dict.fromkeys(range(3), 97.8), "b": dict.fromkeys(range(7), 97.8), "c": dict.fromkeys(range(3), 98.0)}
    error = error_term(cells)
    same, other = change(cells["b"], cells["a"], error), change(cells["c"], cells["a"], error)
    assert (error.method, error.std, error.p_equal) == ("pooled", 0.0, None)
    assert same is not None and other is not None
    assert (same.se, same.p, other.se, other.p) == (
        0.0,
        1.0,
        0.0,
        0.0,
    ) and other.low == other.high == other.mean == pytest.approx(0.2)
    shifted = change({0: 98.2, 1: 98.6, 2: 98.4}, {0: 97.8, 1: 98.2, 2: 98.0})
    assert shifted is not None and (shifted.se, shifted.p) == (
        0.0,
        0.0,
    )  # the three differences differ in their last binary digits only


def test_no_error_is_smaller_than_that_of_counting_whole_images() -> None:
    floor = TOP1.floor(500)
    assert floor is not None
    assert floor == pytest.approx(0.2 / math.sqrt(12))
    equal = {"a": {0: 98.0, 1: 98.0}, "b": {0: 98.2, 1: 98.2}}
    error = error_term(equal, floor=floor)
    assert (error.within, error.df) == (pytest.approx(floor), 2)
    found = change(equal["b"], equal["a"], error)
    assert found is not None and found.low < 0 < found.high and verdicts({"b": found})["b"].verdict == "unresolved"
    alone = change(equal["b"], equal["a"], floor=floor)
    assert alone is not None and alone.se == pytest.approx(floor) and summarize([98.0, 98.0], floor=floor).std == 0
    scattered = {"a": {0: 90.0, 1: 94.0}, "b": {0: 91.0, 1: 96.0}}
    assert error_term(scattered, floor=floor).within == error_term(scattered).within


def test_a_metric_that_is_not_counted_has_no_floor_and_without_scatter_no_error() -> None:
    assert LOSS.floor(500) is None
    equal = {"a": {0: 0.3, 1: 0.3}, "b": {0: 0.2, 1: 0.2}}
    error = error_term(equal, floor=None)
    assert (error.method, error.within) == ("none", None)
    for found in (change(equal["b"], equal["a"], error), change(equal["b"], equal["a"], floor=None)):
        assert found is not None and (found.mean, found.se, found.p) == (pytest.approx(-0.1), None, None)
    assert verdicts({"b": change(equal["b"], equal["a"], error)}, LOSS)["b"].verdict == "unresolved"
    assert summarize([0.3, 0.3], floor=None).low is None


def test_a_gain_is_what_is_better_whichever_way_the_metric_goes() -> None:
    less = Change(-0.2, 0.01, -0.22, -0.18, 10.0, 1e-6, "pooled")
    assert (verdicts({0: less}, LOSS)[0].verdict, verdicts({0: less}, TOP1)[0].verdict) == ("gain", "loss")


def test_equal_variances_are_tested_as_scipy_does() -> None:
    cells = draw(0.0, seeds=5)
    assert error_term(cells).p_equal == pytest.approx(stats.bartlett(*map(listed, cells.values())).pvalue)
    uneven = draw(0.0, seeds=5, scale={2: 4.0})
    constant: Cells = {**uneven, 14: dict.fromkeys(range(5), 99.0)}
    smaller = min(
        stats.bartlett(*map(listed, uneven.values())).pvalue,
        stats.levene(*map(listed, constant.values()), center="median").pvalue,
    )
    assert smaller < 0.5 and error_term(constant).p_equal == pytest.approx(2 * smaller)


def test_two_runs_a_cell_are_not_taken_for_certainty() -> None:
    cells: Cells = {0: {0: 80.0, 1: 80.2}, 1: {0: 80.1, 1: 80.4}, 2: {0: 80.0, 1: 80.0}}
    error = error_term(cells)
    assert (
        error.p_equal == pytest.approx(stats.bartlett([80.0, 80.2], [80.1, 80.4]).pvalue) and error.method == "pooled"
    )


def test_unequal_variances_leave_each_comparison_its_own_error() -> None:
    cells = draw(0.0, scale={7: 30.0})
    error = error_term(cells)
    assert (
        (error.method, error.std, error.df, error.pairs) == ("separate", None, None, False)
        and error.p_equal is not None
        and error.p_equal < 0.05
    )
    c, test = change(cells[7], cells[6], error), stats.ttest_ind(listed(cells[7]), listed(cells[6]), equal_var=False)
    assert c is not None and (c.method, c.p) == ("welch", pytest.approx(test.pvalue))
    s = summarize(listed(cells[7]), error)
    assert s.df == 2 and s.se == pytest.approx(stats.sem(listed(cells[7])))
    assert change({0: 80.0}, cells[6], error) == Change(
        80.0 - float(np.mean(listed(cells[6]))), None, None, None, None, None, "none"
    )


def test_unequal_variances_pair_where_the_measured_correlation_helps() -> None:
    cells = draw(0.97, seeds=6, scale={3: 6.0, 9: 0.2})
    error = error_term(cells)
    assert (error.method, error.pairs) == ("separate", True)
    c, test = change(cells[5], cells[4], error), stats.ttest_rel(listed(cells[5]), listed(cells[4]))
    assert c is not None and (c.method, c.p) == ("paired", pytest.approx(test.pvalue))
