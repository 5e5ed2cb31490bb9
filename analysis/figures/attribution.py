"""Attribution -> attribution.svg: each player's share of the gain as a bar with its interval.

Hatched where the interval holds 0. Sizes are inches at the printed width.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.attribution.shapley import Estimate, Value
from analysis.figures.style import BAR, INK, LETTER, NORMAL, SMALL, TINT, Look, StyledFigure, styled
from analysis.wording import signed_interval
from roadmap.runs.metric import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES, BARS, NUMBERS, ROW, TOP, BOTTOM = 1.9, 3.2, 1.55, 0.24, 0.12, 0.62
MARGIN = 0.06
LEGEND = "lines: 95 % interval; hatched: the interval holds 0, or there is none"


def attribution_figure(values: Sequence[Value], metric: Metric) -> StyledFigure:
    """Draw the values in the given order."""
    with styled():
        return _draw(values, metric)


def resolved(value: Estimate) -> bool:
    """Whether the interval excludes 0; without an interval nothing is resolved."""
    return value.low is not None and value.high is not None and not value.low <= 0 <= value.high


def _draw(values: Sequence[Value], metric: Metric) -> StyledFigure:
    width, height = NAMES + BARS + NUMBERS, TOP + BOTTOM + ROW * max(len(values), 1)
    figure = StyledFigure(width, height)
    axes = figure.add_axes((NAMES / width, BOTTOM / height, BARS / width, (height - TOP - BOTTOM) / height))
    axes.set_ylim(max(len(values), 1) - 0.5, -0.5)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=3)
    for row, value in enumerate(values):
        _bar(axes, row, value)
        height_of_row = 1 - (TOP + ROW * (row + 0.5)) / height
        name = textwrap.shorten(value.player, int(NAMES / LETTER), placeholder=" …")
        figure.text(MARGIN / width, height_of_row, name, size=NORMAL, color=INK, va="center")
        number = interval_text(value, metric)
        figure.text(1 - MARGIN / width, height_of_row, number, size=NORMAL, color=INK, va="center", ha="right")
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=7)
    axes.tick_params(length=2.5, width=0.6, pad=2, labelsize=SMALL, labelcolor=INK)
    axes.set_xlabel(f"Shapley value, {unit_of(metric)}", size=SMALL, color=INK, labelpad=2)
    figure.text(MARGIN / width, 0.1 / height, LEGEND, size=SMALL, color=INK, va="center")
    return figure


def _bar(axes: Axes, row: int, value: Value) -> None:
    sure = resolved(value)
    look: Look = (
        {"color": BAR, "edgecolor": INK, "hatch": ""} if sure else {"color": TINT, "edgecolor": BAR, "hatch": "/////"}
    )
    axes.barh(row, value.value, height=0.62, linewidth=0.5, zorder=2, **look)
    if value.low is not None and value.high is not None:
        for colour, thick in (("white", 2.2), (INK, 0.9)):  # a light rim keeps the line visible inside a dark bar
            axes.plot([value.low, value.high], [row, row], color=colour, linewidth=thick, zorder=4)


def unit_of(metric: Metric) -> str:
    """'points of top-1', 'nats of test loss'."""
    return f"{metric.difference_unit} of {metric.title}"


def interval_text(value: Estimate, metric: Metric) -> str:
    """'+1.20 [+0.90, +1.50]'; without an interval the value alone."""
    return signed_interval(value.value, value.low, value.high, metric.decimals)
