"""How well one study's numbers order what another's do: ranks, signs, decisions, and how sure that is.

    rank_agreement(a, b)      Kendall's tau-b of paired effects, its interval over comparisons
    drawn_means(cells, ...)   cells' means as other seeds might have given them
    drawn_interval(a, b)      tau-b's interval over such draws
    share(hits, total, ...)   a share with Wilson's interval

Two things are uncertain. Which comparisons were made: other changes might agree better or worse. And
each effect itself, for it is a difference of means over few seeds. Resampling comparisons answers the
first, with the seeds' error in it, for each comparison brings its own; drawing means anew answers the
second alone, for these very comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from analysis.stats.error_term import ALPHA, SEPARATE, Cell, ErrorTerm, mean_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

RESAMPLES, DRAWS = 10_000, 2_000
DECIMALS = 9  # beyond them two equal effects differ by binary fractions
# Comparisons below which a bootstrap of tau does not keep its 95 % (simulated: 77 to 99 % at five, 95 to
# 98 % from eight on; `tests/analysis/test_agreement.py`).
FEWEST = 8

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Share:
    """`hits` of `total` (a tie counts half) with a 95 % interval, as fractions; None of none."""

    hits: float
    total: int
    low: float | None = None
    high: float | None = None

    @property
    def value(self) -> float | None:
        return self.hits / self.total if self.total else None


@dataclass(frozen=True)
class RankAgreement:
    """Kendall's tau-b of `n` pairs of effects, None where either side has no two different values.

    p           two-sided, of no association: exact without ties
    low, high   95 % interval over comparisons, None with fewer than FEWEST
    """

    n: int
    tau: float | None = None
    p: float | None = None
    low: float | None = None
    high: float | None = None


def share(hits: float, total: int, *, independent: int | None = None) -> Share:
    """A share with Wilson's interval, as of so many `independent` trials: all of them unless given.

    Pairs of k cells share these: only k - 1 differences are free, so that is how many count. The
    interval is then too wide rather than too narrow (simulated: it holds the truth in 98 to 100 %).
    """
    from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped,unused-ignore]

    if not total:
        return Share(hits, 0)
    n = total if independent is None else min(independent, total)
    low, high = proportion_confint(hits / total * n, n, alpha=ALPHA, method="wilson")
    return Share(hits, total, float(low), float(high))


def rank_agreement(a: Sequence[float], b: Sequence[float]) -> RankAgreement:
    """Tau-b of paired effects with a percentile bootstrap over the pairs (Efron and Tibshirani, 1993).

    Where all pairs of comparisons agree, or none, no resample says otherwise: the interval is then
    the share's, by Wilson.
    """
    import numpy as np
    from scipy.stats import kendalltau  # type: ignore[import-untyped,unused-ignore]

    n = len(a)
    a, b = ([round(value, DECIMALS) for value in values] for values in (a, b))
    found = kendalltau(a, b) if n > 1 else None
    if found is None or math.isnan(found.statistic):
        return RankAgreement(n)
    tau, p = float(found.statistic), float(found.pvalue)
    if n < FEWEST:
        return RankAgreement(n, tau, p)
    if abs(tau) > 1 - 1e-9:
        whole = share(n if tau > 0 else 0, n, independent=n - 1)
        assert whole.low is not None and whole.high is not None
        return RankAgreement(n, tau, p, 2 * whole.low - 1, 2 * whole.high - 1)
    low, high = np.nanquantile(_resampled(np.asarray(a), np.asarray(b)), [ALPHA / 2, 1 - ALPHA / 2])
    return RankAgreement(n, tau, p, float(low), float(high))


def _resampled(a: Numbers, b: Numbers) -> Numbers:
    """Tau-b of RESAMPLES draws with replacement.

    A pair drawn twice is tied with itself on both sides, so tau-b leaves it out.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    n = len(a)
    often = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
    before, after = _signs(a), _signs(b)
    agree, untied = _summed(often, before * after), [_summed(often, np.abs(s)) for s in (before, after)]
    with np.errstate(invalid="ignore"):
        return np.asarray(agree / np.sqrt(untied[0] * untied[1]))


def _signs(values: Numbers) -> Numbers:
    """(..., n) -> (..., n, n): which of two is more."""
    import numpy as np

    return np.asarray(np.sign(values[..., :, None] - values[..., None, :]))


def _summed(often: Numbers, pairs: Numbers) -> Numbers:
    """(resamples, n), (n, n) -> (resamples,): the pairs' sum in each resample."""
    import numpy as np

    return np.asarray(((often @ pairs) * often).sum(axis=1))


def drawn_means(cells: Mapping[K, Cell], error: ErrorTerm, *, seed: int) -> dict[K, Numbers] | None:
    """DRAWS means of each cell, around the measured one with its error; None where none is known.

    Student's t by the study's error term, one scatter for all cells in a draw, or by the cell's own
    where each has its own.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    common = None
    if error.std is not None and error.df is not None:
        common = error.std * np.sqrt(error.df / rng.chisquare(error.df, DRAWS))
    drawn: dict[K, Numbers] = {}
    for key, cell in cells.items():
        scatter = common if common is not None else _own_scatter(cell, error, rng)
        if scatter is None:
            return None
        values = list(cell.values())
        drawn[key] = mean_of(values) + scatter * rng.standard_normal(DRAWS) / math.sqrt(len(values))
    return drawn


def _own_scatter(cell: Cell, error: ErrorTerm, rng: Any) -> Numbers | None:
    """Draws of one cell's standard deviation, by its own runs."""
    import numpy as np

    df = len(cell) - 1
    if error.method != SEPARATE or df < 1:
        return None
    std = max(float(np.std(list(cell.values()), ddof=1)), error.floor or 0.0)
    return np.asarray(std * np.sqrt(df / rng.chisquare(df, DRAWS)))


def drawn_interval(a: Sequence[Numbers], b: Sequence[Numbers]) -> tuple[float, float] | None:
    """95 % interval of tau-b over draws: a and b are each comparison's drawn effects, (draws,).

    None with fewer than two comparisons.
    """
    import numpy as np

    if len(a) < 2:
        return None
    before, after = _signs(np.stack(a, axis=-1)), _signs(np.stack(b, axis=-1))
    pairs = (-2, -1)
    with np.errstate(invalid="ignore"):
        untied = np.sqrt(np.abs(before).sum(axis=pairs) * np.abs(after).sum(axis=pairs))
        taus = (before * after).sum(axis=pairs) / untied
    low, high = np.nanquantile(taus, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)
