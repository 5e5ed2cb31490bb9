"""The axes that all panels of curves share: epoch, training loss and the watched metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from analysis.study import Run
from analysis.wording import minus
from roadmap.runs.metric import Metric

TICKS = 4
FAR = 100.0  # plot heights beyond the axes: a loss of 1e30 goes no further, for browsers lose such numbers
LEAST_RISE = 1e-3  # of a loss, over all panels
LEAST_SPAN = 1.0  # of a percentage

Limits = tuple[float, float]


class Scale(NamedTuple):
    """Values from `low` to `high` over `length` points, and the ticks between them with their labels."""

    low: float
    high: float
    length: float
    ticks: list[tuple[float, str]]

    def at(self, value: float) -> float:
        """Points from the low end, none too far away for a browser."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return min(max(share, -FAR), FAR) * self.length


class Scales(NamedTuple):
    """Of epoch, training loss and the watched metric."""

    epoch: Scale
    loss: Scale
    watched: Scale


def has_curves(run: Run) -> bool:
    return bool((run.record.curves or {}).get("epoch"))


def numbers(run: Run, name: str, *, late: bool = False) -> list[float]:
    """A curve's finite values; with `late` those of the second half of the epochs."""
    curves = run.record.curves or {}
    first = len(curves.get("epoch") or ()) // 2 if late else 0
    values = list(curves.get(name) or ())[first:]
    return [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]


def shared_scales(runs: Sequence[Run], metric: Metric, across: float, up: float) -> Scales:
    """Axes that fit all runs' curves, `across` and `up` points long.

    Those that did not finish only lengthen the epochs. The metric's axis is that of half-trained runs:
    what lies outside is left out.
    """
    epochs = [epoch for run in runs for epoch in numbers(run, "epoch")] or [1.0]
    finished = [run for run in runs if run.finished(metric)]
    return Scales(scale((0, max(epochs)), across), scale(_loss(finished), up), scale(_watched(finished, metric), up))


def _loss(runs: Sequence[Run]) -> Limits:
    losses = [value for run in runs for value in numbers(run, "train_loss")] or [0.0, 1.0]
    rise = max(max(losses) - min(losses), LEAST_RISE)
    return min(losses) - 0.05 * rise, max(losses) + 0.05 * rise


def _watched(runs: Sequence[Run], metric: Metric) -> Limits:
    """More room on the side from which the curves come."""
    names = metric.curve, metric.averaged_curve
    late = [value for run in runs for name in names for value in numbers(run, name, late=True)]
    late = late or [0.0, 100.0 if metric.proportion else 1.0]
    span = max(max(late) - min(late), LEAST_SPAN if metric.proportion else LEAST_RISE)
    below, above = (0.15, 0.06) if metric.higher_is_better else (0.06, 0.15)
    high = max(late) + above * span
    return max(0.0, min(late) - below * span), min(100.0, high) if metric.proportion else high


def scale(limits: Limits, length: float) -> Scale:
    """Round ticks, as matplotlib chooses them, with as many decimals as tell them apart."""
    low, high = limits
    chosen = MaxNLocator(nbins=TICKS, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ticks = [float(tick) for tick in chosen if low <= tick <= high]
    least = 1e-9 * max(1.0, high - low)
    decimals = 0
    while decimals < 9 and any(abs(round(tick, decimals) - tick) >= least for tick in ticks):
        decimals += 1
    return Scale(low, high, length, [(tick, minus(f"{tick:.{decimals}f}")) for tick in ticks])
