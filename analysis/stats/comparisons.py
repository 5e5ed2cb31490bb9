"""A metric by seed -> means, changes from the parent, verdicts, and how sure they are.

Means are in the metric's unit (top-1: percent), changes in its difference unit (percentage points).

    summarize(values, error)       a cell's mean with its 95 % interval
    change(child, parent, error)   a difference of two cells with its 95 % interval and p
    contrast(later, first, error)  a difference of two changes
    verdicts(changes, metric)      Holm over a ladder: gain, loss or unresolved
    false_positives(verdicts)      how often comparisons without an effect are nevertheless resolved
    change_sampling_se(...)        the test set's own sampling error, which is no part of the seeds'
    against_paper(summary, ...)    the difference from a printed number

Intervals are 95 % for each comparison by itself; verdicts hold for all comparisons of a ladder
together, so a change may be unresolved although its interval leaves 0 out.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from analysis.stats.error_term import (
    ALPHA,
    NOISE,
    NONE,
    PAIRED,
    POOLED,
    SEPARATE,
    WELCH,
    Cell,
    ErrorTerm,
    mean_of,
    quantile,
)
from roadmap.config.errors import RoadmapError
from roadmap.runs.metric import TOP1, Metric

GAIN, LOSS, UNRESOLVED = "gain", "loss", "unresolved"

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """Of n finished runs; `mean` is None for n = 0, `std` for n < 2.

    `se`, `df` and the 95 % interval are the mean's; None where no error is known.
    """

    mean: float | None
    std: float | None
    n: int
    se: float | None = None
    df: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Change:
    """Child minus parent with its standard error, 95 % interval and two-sided p against no change.

    `method`: 'paired' by seed, 'pooled' (the study's error term), 'welch' (unequal variances), or
    'none' where no error is known: then all but the mean are None.
    """

    mean: float
    se: float | None
    low: float | None
    high: float | None
    df: float | None
    p: float | None
    method: str


@dataclass(frozen=True)
class Verdict:
    """`p_holm` is adjusted for the `family` of comparisons that have a p.

    None where this one has none, which leaves it unresolved.
    """

    p_holm: float | None
    verdict: str
    family: int


@dataclass(frozen=True)
class FalsePositives:
    """Controls, which have no effect, that were resolved:

    `resolved` of `total`, the rate's exact 95 % interval (fractions). `untested` had no p and count
    in neither.
    """

    resolved: int
    total: int
    low: float | None
    high: float | None
    untested: int


@dataclass(frozen=True)
class PaperComparison:
    """Measured minus paper in points.

    `note` says which uncertainty is unknown and therefore not in `se`; without a measured error se,
    z, p and df are None.

    `df` are p's degrees of freedom, None also where no part of the error is an estimate.
    """

    difference: float
    se: float | None
    z: float | None
    p: float | None
    df: float | None
    note: str


def _two_sided(mean: float, se: float, df: float) -> float:
    """p of Student's t for mean / se.

    Without any error, which only a caller without a floor can have, every difference is certain.
    """
    from scipy.special import ndtr, stdtr

    if se == 0:
        return 1.0 if abs(mean) < NOISE else 0.0
    t = -abs(mean) / se
    return float(2 * (stdtr(df, t) if math.isfinite(df) else ndtr(t)))


def _std(values: Sequence[float], mean: float) -> float | None:
    if len(values) < 2:
        return None
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return std if std > NOISE else 0.0


def summarize(values: Sequence[float], error: ErrorTerm | None = None, *, floor: float | None = 0.0) -> Summary:
    """Mean, standard deviation and n of one cell.

    The interval is from the study's error term, without one (or with 'separate') from the cell's
    own scatter, at least `floor`.
    """
    n = len(values)
    if n == 0:
        return Summary(None, None, 0)
    mean = mean_of(values)
    std = _std(values, mean)
    own = _own_std(std, error.floor if error else floor)
    one, df = (own, float(n - 1)) if error is None or error.method == SEPARATE else (error.within, error.mean_df)
    if one is None or df is None:
        return Summary(mean, std, n)
    se = one / math.sqrt(n)
    half = quantile(df) * se
    return Summary(mean, std, n, se, df, mean - half, mean + half)


def _own_std(std: float | None, floor: float | None) -> float | None:
    """The scatter of a cell's own runs, at least `floor`.

    Without one (None) runs that coincide tell nothing.
    """
    if std is None or (floor is None and std == 0):
        return None
    return max(std, floor or 0.0)


def change(child: Cell, parent: Cell, error: ErrorTerm | None = None, *, floor: float | None = 0.0) -> Change | None:
    """The change with its standard error, 95 % interval and p; values are keyed by seed.

    None if either has no run.

    With the study's error term: its scatter, paired only where both cells have the same seeds.
    Without one, or with 'separate': the two cells' own scatter, at least `floor`, paired where both
    have the same seeds and at least two of them (with 'separate' only if pairing helps), otherwise
    Welch's interval.
    """
    if not child or not parent:
        return None
    same = child.keys() == parent.keys()
    if error is None or error.method == SEPARATE:
        return _own(
            child,
            parent,
            paired=same and len(child) > 1 and (error is None or error.pairs),
            floor=error.floor if error else floor,
        )
    mean = mean_of(list(child.values())) - mean_of(list(parent.values()))
    if error.std is None or error.df is None or error.within is None or error.mean_df is None:
        return _unknown(mean)
    if error.method == PAIRED and same:
        return _interval(mean, error.std * math.sqrt(2 / len(child)), error.df, PAIRED)
    # Where seeds matter but these two cells do not share them, the seeds' effect is part of the error,
    # and only as many seeds tell about it.
    df = error.mean_df if error.method == PAIRED else error.df
    return _interval(mean, error.within * math.sqrt(1 / len(child) + 1 / len(parent)), df, POOLED)


def contrast(later: Change, first: Change, error: ErrorTerm) -> Change:
    """The difference of two changes of four cells, with the study's error term: whether a change
    depends on what a study is crossed with."""
    mean = later.mean - first.mean
    if error.df is None or later.se is None or first.se is None:
        return _unknown(mean)
    return _interval(mean, math.hypot(later.se, first.se), error.df, error.method)


def _own(child: Cell, parent: Cell, *, paired: bool, floor: float | None) -> Change:
    """The change by nothing but the runs of these two cells."""
    if paired:
        least = None if floor is None else floor * math.sqrt(2)
        d = summarize([child[seed] - parent[seed] for seed in child], floor=least)
        assert d.mean is not None
        if d.se is None:
            return _unknown(d.mean)
        return _interval(d.mean, d.se, d.n - 1, PAIRED)
    a, b = (summarize(list(cell.values()), floor=floor) for cell in (child, parent))
    assert a.mean is not None and b.mean is not None
    if a.se is None or b.se is None:
        return _unknown(a.mean - b.mean)
    df = min(_satterthwaite(((a.se, a.n - 1), (b.se, b.n - 1))), float(a.n + b.n - 2))  # infinite where both are 0
    return _interval(a.mean - b.mean, math.hypot(a.se, b.se), df, WELCH)


def _satterthwaite(parts: Iterable[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent (standard error, degrees of freedom), after Welch
    and Satterthwaite; infinite where all errors are known or 0."""
    listed = list(parts)
    each = math.fsum(se**4 / df for se, df in listed)
    if not each:
        return math.inf
    return math.fsum(se**2 for se, _ in listed) ** 2 / each


def _unknown(mean: float) -> Change:
    return Change(mean, None, None, None, None, None, NONE)


def _interval(mean: float, se: float, df: float, method: str) -> Change:
    half = quantile(df) * se if se else 0.0
    return Change(mean, se, mean - half, mean + half, df, _two_sided(mean, se, df), method)


def verdicts(changes: Mapping[K, Change | None], metric: Metric = TOP1) -> dict[K, Verdict]:
    """Holm's step-down test over all changes of a ladder that have a p.

    The chance of any false gain or loss among them stays below 5 %. A gain is a change for the
    better, whether more of the metric is better or less.
    """
    tested = {key: (c.mean, c.p) for key, c in changes.items() if c is not None and c.p is not None}
    ps = [p for _, p in tested.values()]
    found = {key: Verdict(None, UNRESOLVED, len(tested)) for key in changes}
    for (key, (mean, _)), p in zip(tested.items(), holm(ps), strict=True):
        resolved = GAIN if metric.gain(mean) else LOSS
        found[key] = Verdict(p, resolved if p < ALPHA else UNRESOLVED, len(tested))
    return found


def holm(ps: Sequence[float]) -> list[float]:
    """Each p, adjusted for all of them (Holm 1979).

    statsmodels' multipletests gives the same, but collects garbage at each call, which in a process
    with torch takes longer than all else that is computed here.
    """
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, k in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, ps[k] * (len(ps) - rank)))
        adjusted[k] = largest
    return adjusted


def false_positives(controls: Iterable[Verdict]) -> FalsePositives:
    """Of comparisons known to have no effect (a step with itself, a change that changes nothing),
    those that were resolved; Clopper and Pearson's interval."""
    from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped,unused-ignore]

    listed = list(controls)
    tested = [v for v in listed if v.p_holm is not None]
    resolved = sum(v.verdict != UNRESOLVED for v in tested)
    low, high = (
        map(float, proportion_confint(resolved, len(tested), alpha=ALPHA, method="beta")) if tested else (None, None)
    )
    return FalsePositives(resolved, len(tested), low, high, len(listed) - len(tested))


def change_sampling_se(
    metric: Metric, child: float | None, parent: float | None, images: int | None, parent_images: int | None
) -> float | None:
    """Sampling error of the difference of two proportions, an upper bound; None for other metrics.

    It is exact for independent predictions. Two networks tend to fail on the same images, which
    makes the true error smaller; how much, totals cannot tell. Apart from the seeds' error: more
    seeds do not reduce it. `images` are the child's test images, None where not known.
    """
    parts = metric.sampling_se(child, images), metric.sampling_se(parent, parent_images)
    return None if parts[0] is None or parts[1] is None else math.hypot(parts[0], parts[1])


def against_paper(
    measured: Summary, paper_top1: float, paper_std: float | None, paper_n: int = 3, *, rounding: float = 0.01
) -> PaperComparison:
    """A measured mean beside a printed one: z with the error of both means and of the print, which
    may lie anywhere within `rounding` (uniform: rounding / sqrt(12)).

    p is Student's, with Satterthwaite's degrees of freedom, for both deviations are estimates
    themselves. The test images are the same on both sides, so their sampling error is left out.
    Where the paper prints no deviation its seeds' error is unknown: z is then too large and p too
    small, and `note` says so. Raises RoadmapError where nothing is measured or a deviation is said
    to come from fewer than two runs.
    """
    if measured.mean is None:
        raise RoadmapError("paper.measured has no finished run; legal: a step with at least one; finish its runs first")
    if paper_std is not None and paper_n < 2:
        raise RoadmapError(
            f"paper.paper_n is {paper_n} beside a standard deviation of {paper_std}; "
            "legal: 2 or more runs; leave the deviation out for a single run"
        )
    difference = measured.mean - paper_top1
    notes = (
        ["the paper prints no deviation over seeds: z and p count the measured error and the rounding only"]
        if paper_std is None
        else []
    )
    if measured.se is None or measured.df is None:
        return PaperComparison(
            difference, None, None, None, None, "; ".join([f"no error known from n = {measured.n} measured", *notes])
        )
    parts = [(measured.se, measured.df), (rounding / math.sqrt(12), math.inf)]
    parts += [(paper_std / math.sqrt(paper_n), paper_n - 1)] if paper_std is not None else []
    se, df = math.hypot(*(part for part, _ in parts)), _satterthwaite(parts)
    z = _ratio(difference, se)
    p, known_df = _two_sided(difference, se, df), df if math.isfinite(df) else None
    return PaperComparison(difference, se, z, p, known_df, "; ".join(notes))


def _ratio(difference: float, se: float) -> float:
    """The difference in standard errors; without any error every difference is infinitely many."""
    if se:
        return difference / se
    return math.copysign(math.inf, difference) if difference else 0.0
