"""Top-1 by seed -> means, changes from the parent, verdicts, and how sure they are. Accuracies in percent, changes in percentage points.

A cell is one configuration; its runs differ in the seed only. Standard deviations divide by n - 1 everywhere; what n cannot support is None, never 0.

    rounding_std(images)           the least scatter of a top-1, from counting whole images
    error_term(cells)              one decision for a whole study: whose scatter is the error of its comparisons
    summarize(values, error)       a cell's mean with its 95 % interval
    contrast(later, first, error)  a difference of two changes
    change(child, parent, error)   a difference of two cells with its 95 % interval and p
    verdicts(changes)              Holm over a ladder: gain, loss or unresolved
    false_positives(verdicts)      how often comparisons without an effect are nevertheless resolved
    binomial_se, change_sampling_se   the test set's own sampling error, which is no part of the seeds'
    against_paper(summary, ...)    the difference from a printed number

Intervals are 95 % for each comparison by itself; verdicts hold for all comparisons of a ladder together, so a change may be unresolved although its interval leaves 0 out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from roadmap.config.errors import RoadmapError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIDENCE = 0.95
ALPHA = 0.05
PAIRED, POOLED, SEPARATE, WELCH, NONE = "paired", "pooled", "separate", "welch", "none"
GAIN, LOSS, UNRESOLVED = "gain", "loss", "unresolved"

# Points. A top-1 moves in whole images, at least 0.001 points of 100,000; what is smaller than this comes from binary fractions and counts as equal.
NOISE = 1e-9

K = TypeVar("K", bound=Hashable)
Cell = Mapping[int, float]


@dataclass(frozen=True)
class Summary:
    """Of n finished runs; `mean` is None for n = 0, `std` for n < 2. `se`, `df` and the 95 % interval are the mean's; None where no error is known."""

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

    `method`: 'paired' by seed, 'pooled' (the study's error term), 'welch' (unequal variances), or 'none' where no error is known: then all but the mean are None.
    """

    mean: float
    se: float | None
    low: float | None
    high: float | None
    df: float | None
    p: float | None
    method: str


@dataclass(frozen=True)
class ErrorTerm:
    """The error of a study's comparisons, chosen once from all its cells.

    method       'pooled', 'paired', 'separate' (each comparison has its own) or 'none' (no cell has two runs)
    std, df      of one run in a comparison, points, and the degrees of freedom; None for 'separate' and 'none'
    within       pooled standard deviation of the runs of one cell; `mean_df` are its degrees of freedom for the interval of a single mean
    correlation  of two cells' top-1 over seeds (intraclass), p_seed its significance; None where the cells' seeds differ
    p_equal      of the test that all cells scatter alike; None where it cannot be computed
    pairs        whether 'separate' pairs comparisons by seed
    cells, runs  how many cells have a run, and all their runs
    floor        what no standard deviation of a run is taken to be below, points: see `rounding_std`
    """

    method: str
    std: float | None
    df: float | None
    within: float | None
    mean_df: float | None
    correlation: float | None
    p_seed: float | None
    p_equal: float | None
    pairs: bool
    cells: int
    runs: int
    floor: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """`p_holm` is adjusted for the `family` of comparisons that have a p; None where this one has none, which leaves it unresolved."""

    p_holm: float | None
    verdict: str
    family: int


@dataclass(frozen=True)
class FalsePositives:
    """Controls, which have no effect, that were resolved: `resolved` of `total`, the rate's exact 95 % interval (fractions). `untested` had no p and count in neither."""

    resolved: int
    total: int
    low: float | None
    high: float | None
    untested: int


@dataclass(frozen=True)
class PaperComparison:
    """Measured minus paper in points. `note` says which uncertainty is unknown and therefore not in `se`; without a measured error se, z, p and df are None.

    `df` are p's degrees of freedom, None also where no part of the error is an estimate.
    """

    difference: float
    se: float | None
    z: float | None
    p: float | None
    df: float | None
    note: str


def rounding_std(images: int) -> float:
    """Standard deviation, in points, of what a top-1 of `images` test images loses by counting whole images (uniform: 1 / sqrt(12) of an image).

    Runs that coincide do not prove that seeds have no effect: of few runs on few images some do by chance. This is the least scatter that an error is made of.
    """
    return 100 / images / math.sqrt(12)


def error_term(cells: Mapping[K, Cell], *, floor: float = 0.0) -> ErrorTerm:
    """Choose the error of a study's comparisons from {cell: {seed: top-1}}; `floor` as in ErrorTerm.

    'pooled', the scatter within cells with sum(n_i - 1) degrees of freedom, unless equal variances are rejected at 5 %: then 'separate'; or unless all cells have the same
    seeds, the seeds' effect is significant at 5 % (F test of the additive model cell + seed) and the intervals become narrower: then 'paired', the residual of that model.
    One choice from all cells is nearly independent of each single difference, so it leaves the intervals' coverage as it is; choosing for each comparison would not.
    `cells` are the study's own configurations. A control that repeats one run for run adds no evidence and belongs outside.
    """
    filled = [cell for cell in cells.values() if cell]
    count, runs = len(filled), sum(map(len, filled))
    total, residual, df_residual = _sums(filled)
    df = runs - count
    if df == 0:
        return ErrorTerm(NONE, None, None, None, None, None, None, None, False, count, runs, floor)
    total, residual = max(total, df * floor**2), max(residual, df_residual * floor**2)
    p_equal = _p_equal([list(cell.values()) for cell in filled])
    shared = count > 1 and df_residual > 0 and len({frozenset(cell) for cell in filled}) == 1
    correlation, p_seed = _seed_effect(total, residual, df, df_residual, count) if shared else (None, None)
    significant = p_seed is not None and p_seed < ALPHA
    within, mean_df = math.sqrt(total / df), _mean_df(total, residual, df, df_residual)
    rest = math.sqrt(residual / df_residual) if df_residual else within
    if p_equal is not None and p_equal < ALPHA:
        pairs = significant and correlation is not None and _pairing_helps(correlation, len(filled[0]))
        return ErrorTerm(SEPARATE, None, None, within, mean_df, correlation, p_seed, p_equal, pairs, count, runs, floor)
    if significant and quantile(df_residual) * rest < quantile(df) * within:
        return ErrorTerm(
            PAIRED, rest, df_residual, within, mean_df, correlation, p_seed, p_equal, True, count, runs, floor
        )
    return ErrorTerm(POOLED, within, df, within, mean_df, correlation, p_seed, p_equal, False, count, runs, floor)


def _sums(cells: Sequence[Cell]) -> tuple[float, float, int]:
    """(sum of squares within cells, what of it remains beside a common effect of each seed, the remainder's degrees of freedom).

    Least squares of the additive model cell + seed, so that missing seeds need no case of their own. A run whose seed no other cell has is fitted exactly: it adds to the
    first sum only.
    """
    import numpy as np

    total = math.fsum((value - _mean(list(cell.values()))) ** 2 for cell in cells for value in cell.values())
    often = Counter(seed for cell in cells for seed in cell)
    common = [kept for cell in cells if (kept := {seed: value for seed, value in cell.items() if often[seed] > 1})]
    residuals, df_residual = _residuals(common) if common else (np.zeros(0), 0)
    residual = float(np.sum(residuals**2))
    least = sum(map(len, cells)) * NOISE**2
    return (total if total > least else 0.0), (residual if residual > least and df_residual else 0.0), df_residual


def _residuals(cells: Sequence[Cell]) -> tuple[NDArray[np.float64], int]:
    """(what cell + seed leaves of each run, how many of them are free), by the theorem of Frisch and Waugh (1933) and Lovell (1963).

    Subtracting each cell's mean from values and seed indicators leaves the seeds' effects alone as unknowns, of which there are few however many cells there are.
    """
    import numpy as np

    seeds = {seed: i for i, seed in enumerate(dict.fromkeys(seed for cell in cells for seed in cell))}
    of_cell = np.repeat(np.arange(len(cells)), [len(cell) for cell in cells])
    of_seed = np.array([seeds[seed] for cell in cells for seed in cell])
    centred = np.array(
        [value - mean for cell in cells for mean in [_mean(list(cell.values()))] for value in cell.values()]
    )
    size = np.bincount(of_cell)
    shares = np.zeros((len(seeds), len(cells)))
    shares[of_seed, of_cell] = 1 / np.sqrt(size[of_cell])
    normal = np.diag(np.bincount(of_seed).astype(float)) - shares @ shares.T
    effects, _, rank, _ = np.linalg.lstsq(normal, np.bincount(of_seed, centred), rcond=None)
    mean_effect = np.bincount(of_cell, effects[of_seed]) / size
    return centred - effects[of_seed] + mean_effect[of_cell], len(of_cell) - len(cells) - int(rank)


def _seed_effect(
    total: float, residual: float, df: int, df_residual: int, cells: int
) -> tuple[float | None, float | None]:
    """(intraclass correlation, p of the F test) of a common seed effect; both None where nothing varies. The correlation is ICC(3,1) of Shrout and Fleiss (1979)."""
    from scipy.special import fdtrc  # type: ignore[import-untyped,unused-ignore]

    df_seed = df - df_residual
    seed, rest = (total - residual) / df_seed, residual / df_residual
    if total == 0:
        return None, None
    correlation = (seed - rest) / (seed + (cells - 1) * rest)
    return correlation, float(fdtrc(df_seed, df_residual, seed / rest)) if rest else 0.0


def _mean_df(total: float, residual: float, df: int, df_residual: int) -> float:
    """Degrees of freedom of the scatter within cells where one seed's luck is common to all of them (Satterthwaite).

    Three seeds that move all cells together say about a single mean what three runs say, however many cells there are; where nothing is common, this is close to df.
    """
    seed, df_seed = total - residual, df - df_residual
    parts = (seed**2 / df_seed if df_seed else 0.0) + (residual**2 / df_residual if df_residual else 0.0)
    return min(total**2 / parts, df) if parts else df


def _pairing_helps(correlation: float, n: int) -> bool:
    """Whether n pairs with this correlation give a narrower interval than two samples of n: fewer degrees of freedom against a smaller variance."""
    return quantile(n - 1) * math.sqrt(max(1 - correlation, 0.0)) < quantile(2 * (n - 1))


def _p_equal(cells: Sequence[Sequence[float]]) -> float | None:
    """p of equal variances: Bartlett's test over the cells that vary.

    Of scipy's tests it alone keeps its 5 % at three runs a cell (14 cells, simulated: 4 %; Levene's rejects 35 % around means and none around medians, where one deviation
    of three is always 0). It cannot take a cell without any scatter, of which Levene's around medians says a little for three runs and more for many: where there are such
    cells, the smaller p of both counts twice (Bonferroni). None with fewer than two cells to compare.
    """
    from scipy.stats import bartlett, levene  # type: ignore[import-untyped,unused-ignore]

    several = [cell for cell in cells if len(cell) > 1]
    vary = [cell for cell in several if max(cell) - min(cell) > NOISE]
    found = [float(bartlett(*vary).pvalue)] if len(vary) > 1 else []
    if len(vary) == len(several):
        return found[0] if found else None
    larger = [
        cell for cell in several if len(cell) > 2
    ]  # two runs deviate from their median by the same amount, which Levene's test would take for certainty
    if len(larger) > 1 and any(cell in vary for cell in larger):
        found.append(float(levene(*larger, center="median").pvalue))
    return min(1.0, len(found) * min(found)) if found else None


def quantile(df: float) -> float:
    """Half the width of a 95 % interval in standard errors: the t quantile."""
    from scipy.special import stdtrit  # scipy.stats takes three times as long to import

    return float(stdtrit(df, 0.5 + CONFIDENCE / 2))


def _two_sided(mean: float, se: float, df: float) -> float:
    """p of Student's t for mean / se; without any error, which only a caller without a floor can have, every difference is certain."""
    from scipy.special import ndtr, stdtr

    if se == 0:
        return 1.0 if abs(mean) < NOISE else 0.0
    t = -abs(mean) / se
    return float(2 * (stdtr(df, t) if math.isfinite(df) else ndtr(t)))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _std(values: Sequence[float], mean: float) -> float | None:
    if len(values) < 2:
        return None
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return std if std > NOISE else 0.0


def summarize(values: Sequence[float], error: ErrorTerm | None = None, *, floor: float = 0.0) -> Summary:
    """Mean, standard deviation and n of one cell; the interval is from the study's error term, without one (or with 'separate') from the cell's own scatter, at least `floor`."""
    n = len(values)
    if n == 0:
        return Summary(None, None, 0)
    mean = _mean(values)
    std = _std(values, mean)
    own = None if std is None else max(std, error.floor if error else floor)
    one, df = (own, float(n - 1)) if error is None or error.method == SEPARATE else (error.within, error.mean_df)
    if one is None or df is None:
        return Summary(mean, std, n)
    se = one / math.sqrt(n)
    half = quantile(df) * se
    return Summary(mean, std, n, se, df, mean - half, mean + half)


def change(child: Cell, parent: Cell, error: ErrorTerm | None = None, *, floor: float = 0.0) -> Change | None:
    """The change with its standard error, 95 % interval and p; values are keyed by seed. None if either has no run.

    With the study's error term: its scatter, paired only where both cells have the same seeds. Without one, or with 'separate': the two cells' own scatter, at least `floor`,
    paired where both have the same seeds and at least two of them (with 'separate' only if pairing helps), otherwise Welch's interval.
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
    mean = _mean(list(child.values())) - _mean(list(parent.values()))
    if error.std is None or error.df is None or error.within is None or error.mean_df is None:
        return _unknown(mean)
    if error.method == PAIRED and same:
        return _interval(mean, error.std * math.sqrt(2 / len(child)), error.df, PAIRED)
    # Where seeds matter but these two cells do not share them, the seeds' effect is part of the error, and only as many seeds tell about it.
    df = error.mean_df if error.method == PAIRED else error.df
    return _interval(mean, error.within * math.sqrt(1 / len(child) + 1 / len(parent)), df, POOLED)


def contrast(later: Change, first: Change, error: ErrorTerm) -> Change:
    """The difference of two changes of four cells, with the study's error term: whether a change depends on what a study is crossed with."""
    mean = later.mean - first.mean
    if error.df is None or later.se is None or first.se is None:
        return _unknown(mean)
    return _interval(mean, math.hypot(later.se, first.se), error.df, error.method)


def _own(child: Cell, parent: Cell, *, paired: bool, floor: float) -> Change:
    """The change by nothing but the runs of these two cells."""
    if paired:
        d = summarize([child[seed] - parent[seed] for seed in child], floor=floor * math.sqrt(2))
        assert d.mean is not None and d.se is not None
        return _interval(d.mean, d.se, d.n - 1, PAIRED)
    a, b = (summarize(list(cell.values()), floor=floor) for cell in (child, parent))
    assert a.mean is not None and b.mean is not None
    if a.se is None or b.se is None:
        return _unknown(a.mean - b.mean)
    df = min(_satterthwaite(((a.se, a.n - 1), (b.se, b.n - 1))), float(a.n + b.n - 2))  # infinite where both are 0
    return _interval(a.mean - b.mean, math.hypot(a.se, b.se), df, WELCH)


def _satterthwaite(parts: Iterable[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent (standard error, degrees of freedom), after Welch and Satterthwaite; infinite where all errors are known or 0."""
    listed = list(parts)
    each = math.fsum(se**4 / df for se, df in listed)
    return math.fsum(se**2 for se, _ in listed) ** 2 / each if each else math.inf


def _unknown(mean: float) -> Change:
    return Change(mean, None, None, None, None, None, NONE)


def _interval(mean: float, se: float, df: float, method: str) -> Change:
    half = quantile(df) * se if se else 0.0
    return Change(mean, se, mean - half, mean + half, df, _two_sided(mean, se, df), method)


def verdicts(changes: Mapping[K, Change | None]) -> dict[K, Verdict]:
    """Holm's step-down test over all changes of a ladder that have a p: the chance of any false gain or loss among them stays below 5 %."""
    from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped,unused-ignore]

    tested = {key: (c.mean, c.p) for key, c in changes.items() if c is not None and c.p is not None}
    adjusted = multipletests([p for _, p in tested.values()], alpha=ALPHA, method="holm")[1] if tested else []
    found = {key: Verdict(None, UNRESOLVED, len(tested)) for key in changes}
    for (key, (mean, _)), p in zip(tested.items(), adjusted, strict=True):
        resolved = GAIN if mean > 0 else LOSS
        found[key] = Verdict(float(p), resolved if p < ALPHA else UNRESOLVED, len(tested))
    return found


def false_positives(controls: Iterable[Verdict]) -> FalsePositives:
    """Of comparisons known to have no effect (a step with itself, a change that changes nothing), those that were resolved; Clopper and Pearson's interval."""
    from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped,unused-ignore]

    listed = list(controls)
    tested = [v for v in listed if v.p_holm is not None]
    resolved = sum(v.verdict != UNRESOLVED for v in tested)
    low, high = (
        map(float, proportion_confint(resolved, len(tested), alpha=ALPHA, method="beta")) if tested else (None, None)
    )
    return FalsePositives(resolved, len(tested), low, high, len(listed) - len(tested))


def binomial_se(top1: float, images: int) -> float:
    """Standard error, in points, of a top-1 (percent) that `images` independent test images give: what another test set of that size would change."""
    p = min(max(top1 / 100, 0.0), 1.0)
    return 100 * math.sqrt(p * (1 - p) / images)


def change_sampling_se(child: float, parent: float, images: int, parent_images: int | None = None) -> float:
    """Sampling error, in points, of the difference of two top-1 (percent) on one test set of `images`, an upper bound; or on two, of `images` and `parent_images`.

    It is exact for independent predictions. Two networks tend to fail on the same images, which makes the true error smaller; how much, totals cannot tell. Apart from the
    seeds' error: more seeds do not reduce it.
    """
    return math.hypot(
        binomial_se(child, images), binomial_se(parent, images if parent_images is None else parent_images)
    )


def against_paper(
    measured: Summary, paper_top1: float, paper_std: float | None, paper_n: int = 3, *, rounding: float = 0.01
) -> PaperComparison:
    """A measured mean beside a printed one: z with the error of both means and of the print, which may lie anywhere within `rounding` (uniform: rounding / sqrt(12)).

    p is Student's, with Satterthwaite's degrees of freedom, for both deviations are estimates themselves. The test images are the same on both sides, so their sampling
    error is left out. Where the paper prints no deviation its seeds' error is unknown: z is then too large and p too small, and `note` says so.
    Raises RoadmapError where nothing is measured or a deviation is said to come from fewer than two runs.
    """
    if measured.mean is None:
        raise RoadmapError("paper.measured has no finished run; legal: a step with at least one; finish its runs first")
    if paper_std is not None and paper_n < 2:
        raise RoadmapError(
            f"paper.paper_n is {paper_n} beside a standard deviation of {paper_std}; legal: 2 or more runs; leave the deviation out for a single run"
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
    z = difference / se if se else math.copysign(math.inf, difference) if difference else 0.0
    return PaperComparison(
        difference, se, z, _two_sided(difference, se, df), df if math.isfinite(df) else None, "; ".join(notes)
    )
