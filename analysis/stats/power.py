"""How many seeds a step needs to resolve a change, and what a number of seeds can resolve.

Effects and standard deviations are in the metric's difference unit (top-1: points).

The test planned for is the one that is run: two-sided Student's t between two steps of n seeds
each, by statsmodels' TTestIndPower. Of the two sides only the right one counts: a gain that is
called a loss is not resolved. For a ladder, alpha / comparisons is Holm's first threshold: every
later one is easier, so the plan is on the safe side. The chance is for one given comparison; that
all of a ladder are resolved is rarer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from analysis.stats.error_term import ALPHA, CONFIDENCE, PAIRED, SEPARATE, ErrorTerm
from analysis.study import Study
from roadmap.config.errors import ConfigError, RoadmapError

EFFECTS = (0.05, 0.1, 0.2, 0.5, 1.0)
SEEDS = (2, 3, 5, 10)
POWER = 0.8
MOST = 1_000_000

# Seeds per step -> degrees of freedom of the error.
DfRule = Callable[[int], float]


def two_steps(n: int) -> float:
    """The error is estimated from the two compared steps alone: the safe rule, and the ordinary
    two-sample test."""
    return 2.0 * (n - 1)


def pooled_over(cells: int) -> DfRule:
    """The error is pooled over all `cells` of a study: 14 steps x 3 seeds give 28.

    Raises ConfigError below two.
    """
    _check_cells(cells)
    return lambda n: float(cells * (n - 1))


def paired_over(cells: int) -> DfRule:
    """The error is what all `cells` and their common seeds leave over: 14 steps x 3 seeds give 26.

    Raises ConfigError below two.
    """
    _check_cells(cells)
    return lambda n: float((cells - 1) * (n - 1))


def _check_cells(cells: int) -> None:
    if cells < 2:
        raise ConfigError(f"power.cells is {cells}; legal: 2 or more; a comparison has two steps")


@dataclass(frozen=True)
class PooledStd:
    """Standard deviation of one run in a comparison, from `runs` finished runs of `cells` cells,
    with its 95 % interval (chi-squared on `df`). `method`: the error term's."""

    std: float
    df: float
    low: float
    high: float
    cells: int
    runs: int
    method: str

    @property
    def df_error(self) -> DfRule:
        """The degrees of freedom that the study's own comparisons would have with n seeds per step.

        A pilot of one cell plans for a comparison of two.
        """
        if self.method == SEPARATE or self.cells < 2:
            return two_steps
        return paired_over(self.cells) if self.method == PAIRED else pooled_over(self.cells)


@dataclass(frozen=True)
class SeedsRow:
    """`seeds` per step resolve `effect` with a chance of `power`.

    `asked` marks the row that the user asked for.
    """

    effect: float
    seeds: int
    power: float
    df: float
    asked: bool


@dataclass(frozen=True)
class EffectRow:
    """The smallest effect that `seeds` per step resolve with the table's power."""

    seeds: int
    effect: float
    df: float


@dataclass(frozen=True)
class PowerTable:
    """Seeds for effects, effects for seeds, and all that both were computed from.

    `threshold` is alpha / comparisons.
    """

    std: float
    power: float
    alpha: float
    comparisons: int
    threshold: float
    by_effect: list[SeedsRow]
    by_seeds: list[EffectRow]


def pooled_std(error: ErrorTerm, study: str) -> PooledStd:
    """The error of a study's own comparisons, as its report uses it (`Findings.error`).

    Where the cells do not scatter alike ('separate') no one number is right for all of them: then
    it is their mean scatter. Raises RoadmapError where no cell of the `study` has two finished
    runs, or where nothing tells their scatter from 0.
    """
    from scipy.special import chdtri  # type: ignore[import-untyped,unused-ignore]

    std, df = (error.within, error.mean_df) if error.method == SEPARATE else (error.std, error.df)
    if std is None or df is None:
        raise RoadmapError(
            f"power.study {study} has no step with two finished runs ({error.runs} in {error.cells} steps); "
            "legal: two seeds or more; run more seeds or state --std"
        )
    if std == 0:
        # The error term is at least the rounding to whole test images; only without their number can it be 0.
        raise RoadmapError(
            f"power.study {study} has a standard deviation of 0 and no record with its number of test_images; "
            "legal: runs that differ, or records that say how finely the metric is counted; state --std"
        )
    tail = (1 - CONFIDENCE) / 2
    low, high = (std * math.sqrt(df / float(chdtri(df, p))) for p in (tail, 1 - tail))
    return PooledStd(std, df, low, high, error.cells, error.runs, error.method)


def planned_comparisons(study: Study, regime: str = "") -> int:
    """How many comparisons Holm will count once all planned runs have finished.

    Those of two planned cells that are no controls.
    """
    planned = {run.cell.id for run in study.runs_in(regime)}
    counted = [c for c in study.comparisons if not c.kind.control]
    return sum({c.child, c.parent} <= planned for c in counted)


def power_of(effect: float, n: int, std: float, *, df_error: DfRule = two_steps, alpha: float = ALPHA) -> float:
    """Chance that n seeds per step resolve the effect, with its right sign.

    Raises RoadmapError where statsmodels finds no number.
    """
    from statsmodels.stats.power import TTestIndPower  # type: ignore[import-untyped,unused-ignore]

    if std == 0:
        return 1.0
    # The noncentral t distribution is not a number at single points far out; a hair smaller an effect is a lower bound.
    for nearly in (1.0, 0.999, 0.99):
        power = float(TTestIndPower().power(nearly * effect / std, n, alpha / 2, df=df_error(n), alternative="larger"))
        if math.isfinite(power):
            return power
    raise RoadmapError(
        f"power.resolve {effect:g} with std {std:g} and {n} seeds has no power that can be computed; "
        "legal: an effect of the order of std; ask for a smaller one"
    )


def seeds_needed(
    resolve: float,
    std: float,
    *,
    df_error: DfRule = two_steps,
    power: float = POWER,
    alpha: float = ALPHA,
    comparisons: int = 1,
) -> int:
    """The fewest seeds per step, 2 or more, that resolve a change of `resolve` points.

    Raises ConfigError for arguments outside their range, or beyond a million seeds.
    """
    _check(resolve, std, power, alpha, comparisons)

    def enough(n: int) -> bool:
        return power_of(resolve, n, std, df_error=df_error, alpha=alpha / comparisons) >= power

    high = 2
    while not enough(high):
        if high >= MOST:
            raise ConfigError(
                f"power.resolve {resolve:g} with std {std:g} needs more than {MOST:,} seeds a step; "
                "legal: an effect nearer to std; ask for a larger one"
            )
        high = min(2 * high, MOST)
    low = max(high // 2, 1)  # not enough, or below the least
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def smallest_effect(
    n: int,
    std: float,
    *,
    df_error: DfRule = two_steps,
    power: float = POWER,
    alpha: float = ALPHA,
    comparisons: int = 1,
) -> float:
    """The smallest change, in points, that n seeds per step resolve.

    Raises ConfigError as `seeds_needed`, and for fewer than two seeds.
    """
    from scipy.optimize import brentq  # type: ignore[import-untyped,unused-ignore]

    _check(1.0, std, power, alpha, comparisons)
    if n < 2:
        raise ConfigError(f"power.seeds is {n}; legal: 2 or more; one run has no error")
    if std == 0:
        return 0.0
    threshold = alpha / comparisons

    def missing(effect: float) -> float:
        return power_of(effect, n, 1.0, df_error=df_error, alpha=threshold) - power

    if missing(0.0) >= 0:
        return 0.0
    high = 1.0
    while missing(high) < 0:
        high *= 2
    return std * float(brentq(missing, 0.0, high))


def power_table(
    std: float,
    asked: float | None = None,
    *,
    df_error: DfRule = two_steps,
    power: float = POWER,
    alpha: float = ALPHA,
    comparisons: int = 1,
    seeds: Iterable[int] = SEEDS,
) -> PowerTable:
    """Seeds for the usual effects and the asked one, and the smallest effect for the usual numbers
    of seeds. Raises ConfigError as `seeds_needed`."""
    threshold = alpha / comparisons if comparisons else 0.0
    by_effect = []
    for effect in sorted({*EFFECTS, *([asked] if asked is not None else [])}):
        n = seeds_needed(effect, std, df_error=df_error, power=power, alpha=alpha, comparisons=comparisons)
        by_effect.append(
            SeedsRow(
                effect, n, power_of(effect, n, std, df_error=df_error, alpha=threshold), df_error(n), effect == asked
            )
        )
    by_seeds = [
        EffectRow(
            n,
            smallest_effect(n, std, df_error=df_error, power=power, alpha=alpha, comparisons=comparisons),
            df_error(n),
        )
        for n in seeds
    ]
    return PowerTable(std, power, alpha, comparisons, threshold, by_effect, by_seeds)


def _check(resolve: float, std: float, power: float, alpha: float, comparisons: int) -> None:
    """Raise ConfigError for the first argument outside its range."""
    legal = {
        "resolve": (
            resolve,
            resolve > 0 and math.isfinite(resolve),
            "a number of points above 0",
            "ask for the smallest change that matters, such as 0.1",
        ),
        "std": (
            std,
            std >= 0 and math.isfinite(std),
            "a standard deviation in points, 0 or more",
            "take it from finished runs, such as 0.08",
        ),
        "power": (power, 0 < power < 1, "above 0 and below 1", "0.8 is usual"),
        "alpha": (alpha, 0 < alpha < 1, "above 0 and below 1", "0.05 is usual"),
        "comparisons": (comparisons, comparisons >= 1, "1 or more", "count the changes of the ladder, 13 for 14 steps"),
    }
    for name, (value, fine, range_, advice) in legal.items():
        if not fine:
            raise ConfigError(f"power.{name} is {value!r}; legal: {range_}; {advice}")
