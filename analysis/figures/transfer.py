"""A transfer -> transfer.svg: each change's effect in the second study against that in the first.

Both 95 % intervals, the identity line, and quadrants: in the lower left and the upper right the signs
agree. Sizes are inches at the printed width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.figures.places import Box, Spot, placed
from analysis.figures.style import BAR, INK, PALE, QUIET, RULE, SMALL, Look, StyledFigure, styled
from analysis.results.transfer import PAPER, Shared, SideEffect, Transfer
from analysis.wording import minus, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE, LEFT, BOTTOM, RIGHT, TOP = 3.4, 0.46, 0.66, 0.08, 0.06
PLOT = (SIDE - LEFT - RIGHT, SIDE - BOTTOM - TOP)
ROOM = 0.06  # beside the outermost interval, as a share of the axis
NAME = 24  # letters of a study's name on an axis
NEAR = 0.09  # a label further away has a line to its point
THIN = 0.008  # half the room that a line takes from labels

Limits = tuple[float, float]


def transfer_figure(found: Transfer) -> StyledFigure:
    """Draw one point a comparison."""
    with styled():
        return _draw(found)


def _draw(found: Transfer) -> StyledFigure:
    figure = StyledFigure(SIDE, SIDE)
    axes = figure.add_axes((LEFT / SIDE, BOTTOM / SIDE, PLOT[0] / SIDE, PLOT[1] / SIDE))
    across, up = _limits([one.a for one in found.shared]), _limits([one.b for one in found.shared])
    _frame(axes, found, across, up)
    for one in found.shared:
        _point(axes, one)
    _labels(axes, found.shared, across, up)
    note = "dashed: the same effect in both; bars: 95 % intervals;\nfilled: resolved in both"
    figure.text(LEFT / SIDE, 0.05 / SIDE, note, size=SMALL, color=QUIET, linespacing=1.3)
    return figure


def _limits(effects: Sequence[SideEffect]) -> Limits:
    """From the lowest to the highest end of an interval, 0 among them, with some room."""
    ends = [0.0]
    for effect in effects:
        ends += [end for end in (effect.value, effect.low, effect.high) if end is not None]
    room = ROOM * (max(ends) - min(ends) or 1.0)
    return min(ends) - room, max(ends) + room


def _frame(axes: Axes, found: Transfer, across: Limits, up: Limits) -> None:
    """Axes, the two zero lines, the identity line."""
    axes.set_xlim(*across)
    axes.set_ylim(*up)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(nbins=6)
    axes.tick_params(length=2.5, width=0.6, pad=2, labelsize=SMALL, labelcolor=INK)
    axes.xaxis.set_major_formatter(_signed)
    axes.yaxis.set_major_formatter(_signed)
    axes.axhline(0, color=RULE, linewidth=0.6, zorder=1)
    axes.axvline(0, color=RULE, linewidth=0.6, zorder=1)
    ends = min(across[0], up[0]), max(across[1], up[1])
    axes.plot(ends, ends, color=QUIET, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1.5)
    label: Look = {"size": SMALL, "color": INK, "labelpad": 2}
    unit = found.metric.difference_unit
    axes.set_xlabel(f"change in {_short(found.a.name)} ({unit} of {found.metric.title})", **label)
    axes.set_ylabel(f"change in {_short(found.b.name)} ({unit} of {found.metric.title})", **label)


def _signed(value: float, _position: float) -> str:
    return minus(f"{value:g}")


def _short(name: str) -> str:
    line = f"the {PAPER}" if name == PAPER else one_line(name)
    return line if len(line) <= NAME else f"{line[: NAME - 1]}…"


def _point(axes: Axes, one: Shared) -> None:
    """A circle with both intervals, filled where both studies resolve it."""
    bars: Look = {"color": PALE, "linewidth": 0.7, "zorder": 2}
    axes.errorbar(one.a.value, one.b.value, xerr=_arms(one.a), yerr=_arms(one.b), **bars)
    face = BAR if one.resolved else "white"
    look: Look = {"markersize": 4.5, "markerfacecolor": face, "markeredgecolor": INK, "markeredgewidth": 0.6}
    axes.plot(one.a.value, one.b.value, "o", zorder=4, **look)


def _arms(effect: SideEffect) -> list[list[float]] | None:
    """How far the interval reaches below and above the effect."""
    if effect.low is None or effect.high is None:
        return None
    return [[effect.value - effect.low], [effect.high - effect.value]]


def _labels(axes: Axes, shared: Sequence[Shared], across: Limits, up: Limits) -> None:
    """Each point's short label beside it, on no other point and on no interval where that can be."""
    wide, tall = PLOT

    def x(value: float) -> float:
        return (value - across[0]) / (across[1] - across[0]) * wide

    def y(value: float) -> float:
        return (value - up[0]) / (up[1] - up[0]) * tall

    def rod(one: Shared) -> float:
        return 0.0 if one.b.high is None else y(one.b.high) - y(one.b.value)

    spots = [Spot(x(one.a.value), y(one.b.value), rod(one)) for one in shared]
    lines = [Box(0, wide, y(0) - THIN, y(0) + THIN), Box(x(0) - THIN, x(0) + THIN, 0, tall)]
    for one, spot in zip(shared, spots, strict=True):
        if one.a.low is not None and one.a.high is not None:
            lines.append(Box(x(one.a.low), x(one.a.high), spot.y - THIN, spot.y + THIN))
    labels = list(zip(spots, (one.a.mark for one in shared), strict=True))
    boxes = placed(labels, spots, [], PLOT, before=False, lines=lines)
    for one, spot, box in zip(shared, spots, boxes, strict=True):
        weight = "bold" if one.resolved else "normal"
        look: Look = {"size": SMALL, "color": INK, "weight": weight, "ha": "center", "va": "center_baseline"}
        axes.text(box.x / wide, box.y / tall, one.a.mark, transform=axes.transAxes, zorder=6, **look)
        _leader(axes, spot, box)


def _leader(axes: Axes, spot: Spot, box: Box) -> None:
    """A hair from a label to its point, where the point is not next to it."""
    end = min(max(spot.x, box.left), box.right), min(max(spot.y, box.bottom), box.top)
    if math.hypot(end[0] - spot.x, end[1] - spot.y) < NEAR:
        return
    across, up = zip((spot.x / PLOT[0], spot.y / PLOT[1]), (end[0] / PLOT[0], end[1] / PLOT[1]), strict=True)
    axes.plot(across, up, color=INK, linewidth=0.4, transform=axes.transAxes, zorder=3)
