"""Top-1 by seed -> mean, standard deviation, change from the parent. Accuracies in percent, changes in percentage points.

Standard deviations divide by n - 1 everywhere; what n cannot support is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Of n finished runs; `mean` is None for n = 0, `std` for n < 2."""

    mean: float | None
    std: float | None
    n: int


@dataclass(frozen=True)
class Change:
    """Child minus parent. `method`: 'paired' by seed, 'welch' (unequal variances), or 'none' where a step has one run: then no error is known."""

    mean: float
    se: float | None
    low: float | None
    high: float | None
    method: str


def summarize(values: Sequence[float]) -> Summary:
    n = len(values)
    if n == 0:
        return Summary(None, None, 0)
    mean = math.fsum(values) / n
    return Summary(mean, math.sqrt(_variance(values, mean)) if n > 1 else None, n)


def _variance(values: Sequence[float], mean: float) -> float:
    return math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)


def change(child: Mapping[int, float], parent: Mapping[int, float]) -> Change | None:
    """The change with its standard error and 95 % interval; values are keyed by seed.

    Paired where both have the same seeds and at least two of them; otherwise Welch's interval. None if either has no run.
    """
    if not child or not parent:
        return None
    if child.keys() == parent.keys() and len(child) > 1:
        return _paired([child[seed] - parent[seed] for seed in child])
    a, b = summarize(list(child.values())), summarize(list(parent.values()))
    assert a.mean is not None and b.mean is not None
    if a.std is None or b.std is None:
        return Change(a.mean - b.mean, None, None, None, "none")
    return _welch(a.mean - b.mean, a.std**2 / a.n, b.std**2 / b.n, a.n, b.n)


def _paired(differences: Sequence[float]) -> Change:
    s = summarize(differences)
    assert s.mean is not None and s.std is not None
    return _interval(s.mean, s.std / math.sqrt(s.n), s.n - 1, "paired")


def _welch(mean: float, va: float, vb: float, na: int, nb: int) -> Change:
    """va, vb: squared standard errors of the two means. Degrees of freedom after Welch and Satterthwaite."""
    if va + vb == 0:
        return Change(mean, 0.0, mean, mean, "welch")
    df = (va + vb) ** 2 / (va**2 / (na - 1) + vb**2 / (nb - 1))
    return _interval(mean, math.sqrt(va + vb), df, "welch")


def _interval(mean: float, se: float, df: float, method: str) -> Change:
    from scipy.special import stdtrit  # type: ignore[import-untyped,unused-ignore]  # the t quantile; scipy.stats takes three times as long to import

    half = float(stdtrit(df, 0.5 + CONFIDENCE / 2)) * se
    return Change(mean, se, mean - half, mean + half, method)


def binomial_se(top1: float, images: int) -> float:
    """Standard error, in points, of a top-1 (percent) that `images` independent test images give: what another test set of that size would change."""
    p = min(max(top1 / 100, 0.0), 1.0)
    return 100 * math.sqrt(p * (1 - p) / images)
