"""Where the first epochs of a further run are expected, from those of earlier runs of the same configuration."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95  # that one sound run is inside all ranges

Curve = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where a curve's mean over its first epochs is expected: bounds, and of how many runs they are made."""

    curve: str
    low: float
    high: float
    runs: int

    def holds(self, value: float) -> bool:
        """Whether a value is inside; one that is not finite never is."""
        return self.low <= value <= self.high


def band(runs: Sequence[Mapping[str, Curve]], curves: Sequence[str], epochs: int) -> list[Range]:
    """The range of each curve's mean over the first epochs; none where fewer than two runs tell.

    A normal distribution's prediction interval for one more run, at such a level (Bonferroni) that
    a sound run is inside all of them in at least LEVEL of cases. One number a curve and not one an
    epoch: few runs would make the ranges of many numbers so wide that nothing is outside.
    """
    by_curve = {curve: [mean_of_first(run.get(curve, ()), epochs) for run in runs] for curve in curves}
    known = {curve: [mean for mean in means if mean is not None] for curve, means in by_curve.items()}
    return [_range(curve, means, (1 - LEVEL) / len(curves)) for curve, means in known.items() if len(means) > 1]


def mean_of_first(curve: Curve, epochs: int) -> float | None:
    """The mean of a curve's first values; None where one of them is not there."""
    first = list(curve[:epochs])
    values = [value for value in first if value is not None]
    return statistics.fmean(values) if len(values) == epochs else None


def _range(curve: str, means: Sequence[float], alpha: float) -> Range:
    """The interval that leaves out `alpha`; nothing that is measured here is below zero."""
    from scipy.special import stdtrit  # scipy.stats takes three times as long to import

    n, mean = len(means), statistics.fmean(means)
    half = float(stdtrit(n - 1, 1 - alpha / 2)) * math.sqrt(1 + 1 / n) * statistics.stdev(means)
    return Range(curve=curve, low=max(mean - half, 0.0), high=mean + half, runs=n)
