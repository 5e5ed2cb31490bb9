"""One decision for a whole study: whose scatter is the error of its comparisons.

A cell is one configuration; its runs differ in the seed only. Values are in the metric's unit
(top-1: percent), differences in its difference unit (percentage points). Standard deviations divide
by n - 1 everywhere; what n cannot support is None, never 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIDENCE = 0.95
ALPHA = 0.05
PAIRED, POOLED, SEPARATE, WELCH, NONE = "paired", "pooled", "separate", "welch", "none"

# A top-1 moves in whole images, at least 0.001 points of 100,000, a loss is printed with four decimals:
# what is smaller than this comes from binary fractions and counts as equal.
NOISE = 1e-9

K = TypeVar("K", bound=Hashable)
Cell = Mapping[int, float]  # {seed: value}


@dataclass(frozen=True)
class ErrorTerm:
    """The error of a study's comparisons, chosen once from all its cells.

    method       'pooled', 'paired', 'separate' (each comparison has its own) or 'none' (nothing
                 tells an error: no cell has two runs)
    std, df      of one run in a comparison, and its degrees of freedom; None for 'separate', 'none'
    within       pooled standard deviation of the runs of one cell
    mean_df      its degrees of freedom for the interval of a single mean
    correlation  of two cells' values over seeds (intraclass), p_seed its significance; None where
                 the cells' seeds differ
    p_equal      of the test that all cells scatter alike; None where it cannot be computed
    pairs        whether 'separate' pairs comparisons by seed
    cells, runs  how many cells have a run, and all their runs
    floor        what no standard deviation of a run is taken to be below, from counting whole
                 images (`Metric.floor`); None for a metric that is not counted: there runs without
                 scatter tell no error
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
    floor: float | None = 0.0


def error_term(cells: Mapping[K, Cell], *, floor: float | None = 0.0) -> ErrorTerm:
    """Choose the error of a study's comparisons from {cell: {seed: value}}.

    `floor` as in ErrorTerm.

    'pooled', the scatter within cells with sum(n_i - 1) degrees of freedom, unless equal variances
    are rejected at 5 %: then 'separate'; or unless all cells have the same seeds, the seeds' effect
    is significant at 5 % (F test of the additive model cell + seed) and the intervals become
    narrower: then 'paired', the residual of that model. One choice from all cells is nearly
    independent of each single difference, so it leaves the intervals' coverage as it is; choosing
    for each comparison would not. `cells` are the study's own configurations. A control that
    repeats one run for run adds no evidence and belongs outside.
    """
    filled = [cell for cell in cells.values() if cell]
    count, runs = len(filled), sum(map(len, filled))
    total, residual, df_residual = _sums(filled)
    df = runs - count
    if df == 0 or (floor is None and total == 0):
        return ErrorTerm(NONE, None, None, None, None, None, None, None, False, count, runs, floor)
    least = (floor or 0.0) ** 2
    total, residual = max(total, df * least), max(residual, df_residual * least)
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
    """(sum of squares within cells, what of it remains beside a common effect of each seed, the
    remainder's degrees of freedom).

    Least squares of the additive model cell + seed, so that missing seeds need no case of their
    own. A run whose seed no other cell has is fitted exactly: it adds to the first sum only.
    """
    import numpy as np

    total = math.fsum((value - mean_of(list(cell.values()))) ** 2 for cell in cells for value in cell.values())
    common = _shared(cells)
    residuals, df_residual = _residuals(common) if common else (np.zeros(0), 0)
    residual = float(np.sum(residuals**2))
    least = sum(map(len, cells)) * NOISE**2
    if residual <= least or not df_residual:
        residual = 0.0
    return (total if total > least else 0.0), residual, df_residual


def _shared(cells: Sequence[Cell]) -> list[Cell]:
    """The cells' runs whose seed another cell has too; cells without one left out."""
    often = Counter(seed for cell in cells for seed in cell)
    shared: list[Cell] = []
    for cell in cells:
        if kept := {seed: value for seed, value in cell.items() if often[seed] > 1}:
            shared.append(kept)
    return shared


def _residuals(cells: Sequence[Cell]) -> tuple[NDArray[np.float64], int]:
    """(what cell + seed leaves of each run, how many of them are free), by the theorem of Frisch
    and Waugh (1933) and Lovell (1963).

    Subtracting each cell's mean from values and seed indicators leaves the seeds' effects alone as
    unknowns, of which there are few however many cells there are.
    """
    import numpy as np

    names = dict.fromkeys(seed for cell in cells for seed in cell)
    seeds = {seed: i for i, seed in enumerate(names)}
    of_cell = np.repeat(np.arange(len(cells)), [len(cell) for cell in cells])
    of_seed = np.array([seeds[seed] for cell in cells for seed in cell])
    centred = np.array([x for cell in cells for x in _centred(list(cell.values()))])
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
    """(intraclass correlation, p of the F test) of a common seed effect; both None where nothing
    varies. The correlation is ICC(3,1) of Shrout and Fleiss (1979)."""
    from scipy.special import fdtrc  # type: ignore[import-untyped,unused-ignore]

    df_seed = df - df_residual
    seed, rest = (total - residual) / df_seed, residual / df_residual
    if total == 0:
        return None, None
    correlation = (seed - rest) / (seed + (cells - 1) * rest)
    return correlation, float(fdtrc(df_seed, df_residual, seed / rest)) if rest else 0.0


def _mean_df(total: float, residual: float, df: int, df_residual: int) -> float:
    """Degrees of freedom of the scatter within cells where one seed's luck is common to all of them
    (Satterthwaite).

    Three seeds that move all cells together say about a single mean what three runs say, however
    many cells there are; where nothing is common, this is close to df.
    """
    seed, df_seed = total - residual, df - df_residual
    pairs = ((seed, df_seed), (residual, df_residual))
    parts = sum(squares**2 / df for squares, df in pairs if df)
    return min(total**2 / parts, df) if parts else df


def _pairing_helps(correlation: float, n: int) -> bool:
    """Whether n pairs with this correlation give a narrower interval than two samples of n: fewer
    degrees of freedom against a smaller variance."""
    return quantile(n - 1) * math.sqrt(max(1 - correlation, 0.0)) < quantile(2 * (n - 1))


def _p_equal(cells: Sequence[Sequence[float]]) -> float | None:
    """p of equal variances: Bartlett's test over the cells that vary.

    Of scipy's tests it alone keeps its 5 % at three runs a cell (14 cells, simulated: 4 %; Levene's
    rejects 35 % around means and none around medians, where one deviation of three is always 0). It
    cannot take a cell without any scatter, of which Levene's around medians says a little for three
    runs and more for many: where there are such cells, the smaller p of both counts twice
    (Bonferroni). None with fewer than two cells to compare.
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


def _centred(values: Sequence[float]) -> list[float]:
    mean = mean_of(values)
    return [value - mean for value in values]


def mean_of(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
