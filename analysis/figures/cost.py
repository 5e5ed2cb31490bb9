"""Results -> cost.svg: the score against multiply-adds, images per second and device-hours.

The Pareto front of the means is marked. Sizes are inches at the printed width.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

from analysis.figures.places import Spot, placed
from analysis.figures.style import BAR, INK, NORMAL, PALE, QUIET, SMALL, Look, StyledFigure, styled
from analysis.results.costs import Measure, Point, points
from analysis.results.results import Analysis
from roadmap.runs.metric import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, HIGH, LEFT, BOTTOM, TOP = 2.33, 2.5, 0.42, 0.46, 0.3
PLOT = (WIDE - LEFT - 0.06, HIGH - BOTTOM - TOP)  # width and height of a panel's axes
LETTERS = 30  # of a title above a panel
CROWD = 60  # points, above which only the front's have labels


def cost_figure(analysis: Analysis, shown: Sequence[Measure]) -> StyledFigure:
    """Draw one panel a measure side by side, four of them two by two.

    A measure without values says so in its panel.
    """
    with styled():
        return _draw(analysis, shown)


def _draw(analysis: Analysis, shown: Sequence[Measure]) -> StyledFigure:
    across = 2 if len(shown) == 4 else len(shown)
    down = -(-len(shown) // across)
    width, height = WIDE * across + 0.05, HIGH * down
    figure = StyledFigure(width, height)
    for i, measure in enumerate(shown):
        row, column = divmod(i, across)
        left, bottom = WIDE * column + LEFT, HIGH * (down - 1 - row) + BOTTOM
        axes = figure.add_axes((left / width, bottom / height, PLOT[0] / width, PLOT[1] / height))
        _panel(axes, points(analysis.results, measure), measure, analysis.metric)
    return figure


def _panel(axes: Axes, found: Sequence[Point], measure: Measure, metric: Metric) -> None:
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2.5, width=0.6, pad=2, labelsize=SMALL, labelcolor=INK)
    axes.set_xlabel(f"{measure.title} ({measure.best} is best)", size=SMALL, color=INK, labelpad=2)
    _title(axes, measure, metric)
    if not found:
        _nothing(axes)
        return
    _limits(axes, found, metric)
    _front(axes, found, measure)
    for point in found:
        if point.std is not None:
            axes.errorbar(point.cost, point.score, yerr=point.std, color=PALE, linewidth=0.7, zorder=2)
        _marker(axes, point)
    _labels(axes, found, measure)


def _title(axes: Axes, measure: Measure, metric: Metric) -> None:
    with_unit = f"{metric.capital} ({metric.unit}) against {measure.name}"
    fits = metric.unit and len(with_unit) <= LETTERS
    title = with_unit if fits else f"{metric.capital} against {measure.name}"
    axes.set_title(title, size=NORMAL, weight="bold", color=INK, loc="left", pad=8)


def _nothing(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    style: Look = {"size": NORMAL, "color": QUIET, "style": "italic", "ha": "center"}
    axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, **style)


def _marker(axes: Axes, point: Point) -> None:
    """A round, filled one on the front, else a small open square."""
    shape, size, face = ("o", 5, BAR) if point.on_front else ("s", 4, "white")
    look: Look = {"markersize": size, "markerfacecolor": face, "markeredgecolor": INK, "markeredgewidth": 0.6}
    axes.plot(point.cost, point.score, shape, zorder=4, **look)


def _limits(axes: Axes, found: Sequence[Point], metric: Metric) -> None:
    """Room for labels on every side; ticks at few, round places."""
    costs = [point.cost for point in found]
    ends = [end for p in found for end in (p.score - (p.std or 0), p.score + (p.std or 0))]
    axes.set_xlim(*_with_room(costs))
    axes.set_ylim(*_with_room(ends))
    axes.locator_params(nbins=5)
    low, high = axes.get_ylim()
    most = min(high, 100) if metric.proportion else high
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= most])


def _with_room(values: Sequence[float]) -> tuple[float, float]:
    span = max(values) - min(values) or max(abs(max(values)), 1.0) * 0.1
    return min(values) - 0.14 * span, max(values) + 0.16 * span


def on_front(found: Sequence[Point]) -> list[Point]:
    """The front's points by their cost."""
    return sorted(filter(attrgetter("on_front"), found), key=attrgetter("cost"))


def _front(axes: Axes, found: Sequence[Point], measure: Measure) -> None:
    """The front as stairs: what can be had for at most a cost, or at least a speed."""
    best = on_front(found)
    costs = [point.cost for point in best]
    scores = [point.score for point in best]
    where: Literal["pre", "post"] = "pre" if measure.more_is_better else "post"
    axes.step(costs, scores, where=where, color=BAR, linewidth=1.2, zorder=3)


def _labels(axes: Axes, found: Sequence[Point], measure: Measure) -> None:
    """Each point's short label beside it; the front's points choose their places first."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    wide, tall = PLOT

    def spot(point: Point) -> Spot:
        x, y = (point.cost - left) / (right - left) * wide, (point.score - low) / (high - low) * tall
        return Spot(x, y, (point.std or 0) / (high - low) * tall)

    stairs = [spot(point) for point in on_front(found)]
    shown = [point for point in found if point.on_front or len(found) <= CROWD]
    order = sorted(shown, key=lambda point: not point.on_front)
    labels = [(spot(point), point.mark) for point in order]
    boxes = placed(labels, [spot(point) for point in found], stairs, PLOT, before=measure.more_is_better)
    for point, box in zip(order, boxes, strict=True):
        weight = "bold" if point.on_front else "normal"
        centre = box.x / wide, box.y / tall
        look: Look = {"size": SMALL, "color": INK, "weight": weight, "ha": "center", "va": "center_baseline"}
        axes.text(*centre, point.mark, transform=axes.transAxes, zorder=6, **look)
