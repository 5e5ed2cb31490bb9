"""Rows -> cost.svg: top-1 against multiply-adds, images per second and device-hours, the Pareto front of the means marked. Sizes are inches at the printed width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from analysis.figures.ladder import BAR, INK, NORMAL, QUIET, SMALL, STYLE
from analysis.figures.svg import PALE, svg_bytes
from analysis.results.costs import Measure, Point, points
from analysis.results.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, HIGH, LEFT, BOTTOM, TOP = 2.33, 2.5, 0.42, 0.46, 0.3
LETTER, LINE, MARKER = (
    0.062,
    0.105,
    0.045,
)  # inches: a letter's width, half a label's height included gap, a marker's radius


def cost_svg(rows: Sequence[Row], shown: Sequence[Measure]) -> bytes:
    """The panels side by side, one a measure, four of them two by two; a measure without values says so in its panel."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return svg_bytes(_draw(rows, shown))


def _draw(rows: Sequence[Row], shown: Sequence[Measure]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = 2 if len(shown) == 4 else len(shown)
    down = -(-len(shown) // across)
    width, height = WIDE * across + 0.05, HIGH * down
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    for i, measure in enumerate(shown):
        row, column = divmod(i, across)
        box = (
            (WIDE * column + LEFT) / width,
            (HIGH * (down - 1 - row) + BOTTOM) / height,
            (WIDE - LEFT - 0.06) / width,
            (HIGH - BOTTOM - TOP) / height,
        )
        _panel(figure.add_axes(box), points(rows, measure), measure)
    return figure


def _panel(axes: Axes, found: Sequence[Point], measure: Measure) -> None:
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2.5, width=0.6, pad=2, labelsize=SMALL, labelcolor=INK)
    axes.set_xlabel(f"{measure.title} ({measure.best} is best)", size=SMALL, color=INK, labelpad=2)
    axes.set_title(
        f"Top-1 (%) against {measure.title.split(' ')[0]}", size=NORMAL, weight="bold", color=INK, loc="left", pad=8
    )
    if not found:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "not recorded", size=NORMAL, color=QUIET, style="italic", ha="center", transform=axes.transAxes
        )
        return
    _limits(axes, found)
    _front(axes, found, measure)
    for p in found:
        if p.std is not None:
            axes.errorbar(p.cost, p.top1, yerr=p.std, color=PALE, linewidth=0.7, zorder=2)
        axes.plot(
            p.cost,
            p.top1,
            "o" if p.on_front else "s",
            markersize=5 if p.on_front else 4,
            markerfacecolor=BAR if p.on_front else "white",
            markeredgecolor=INK,
            markeredgewidth=0.6,
            zorder=4,
        )
    _labels(axes, found, measure)


def _limits(axes: Axes, found: Sequence[Point]) -> None:
    """Room for labels on every side; ticks at few, round places."""
    for values, setter in (
        ([p.cost for p in found], axes.set_xlim),
        ([v for p in found for v in (p.top1 - (p.std or 0), p.top1 + (p.std or 0))], axes.set_ylim),
    ):
        span = max(values) - min(values) or max(abs(max(values)), 1.0) * 0.1
        setter(min(values) - 0.14 * span, max(values) + 0.16 * span)
    axes.locator_params(nbins=5)
    axes.set_yticks([t for t in axes.get_yticks() if axes.get_ylim()[0] <= t <= min(axes.get_ylim()[1], 100)])


def _front(axes: Axes, found: Sequence[Point], measure: Measure) -> None:
    """The front as stairs: what can be had for at most a cost, or at least a speed."""
    best = sorted((p for p in found if p.on_front), key=lambda p: p.cost)
    axes.step(
        [p.cost for p in best],
        [p.top1 for p in best],
        where="pre" if measure.more_is_better else "post",
        color=BAR,
        linewidth=1.2,
        zorder=3,
    )


CROWD = 60  # points, above which only the front's have labels


def _labels(axes: Axes, found: Sequence[Point], measure: Measure) -> None:
    """Each label at the first of eight places around its point that covers no point, error bar, stair or earlier label; the front's points choose first."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    wide, high = WIDE - LEFT - 0.06, HIGH - BOTTOM - TOP
    spots = {p.index: ((p.cost - x0) / (x1 - x0) * wide, (p.top1 - y0) / (y1 - y0) * high) for p in found}
    taken = [(x - MARKER, x + MARKER, y - MARKER, y + MARKER) for x, y in spots.values()]
    rods = [(spots[p.index], (p.std or 0) / (y1 - y0) * high) for p in found]
    taken += [(x - 0.02, x + 0.02, y - rod, y + rod) for (x, y), rod in rods]
    taken += _stairs([spots[p.index] for p in sorted((p for p in found if p.on_front), key=lambda p: p.cost)], measure)
    shown = [p for p in found if p.on_front or len(found) <= CROWD]
    for p in sorted(shown, key=lambda p: not p.on_front):
        x, y = spots[p.index]
        half = LETTER * len(p.mark) / 2
        boxes = [_box(x, y, half, turn, ring) for ring in (1.0, 1.7, 2.5) for turn in range(8)]
        inside = [b for b in boxes if b[0] >= 0 and b[1] <= wide and b[2] >= 0 and b[3] <= high] or boxes
        box = min(inside, key=lambda b: sum(_overlap(b, t) for t in taken))
        taken.append(box)
        weight = "bold" if p.on_front else "normal"
        cx, cy = (box[0] + box[1]) / 2 / wide, (box[2] + box[3]) / 2 / high
        axes.text(
            cx,
            cy,
            p.mark,
            size=SMALL,
            color=INK,
            weight=weight,
            ha="center",
            va="center_baseline",
            transform=axes.transAxes,
            zorder=6,
        )


def _stairs(corners: Sequence[tuple[float, float]], measure: Measure) -> list[tuple[float, float, float, float]]:
    """The front's line as thin boxes: it rises at the dearer point of a cost, falls at the slower point of a speed."""
    found = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        level, turn = (y1, x0) if measure.more_is_better else (y0, x1)
        found += [(x0, x1, level - 0.02, level + 0.02), (turn - 0.02, turn + 0.02, min(y0, y1), max(y0, y1))]
    return found


def _box(x: float, y: float, half: float, turn: int, ring: float) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) in inches of a label beside a point, `turn` eighths of a circle from above."""
    angle = math.pi / 2 - turn * math.pi / 4
    cx = x + math.cos(angle) * (half + MARKER + 0.03) * ring
    cy = y + math.sin(angle) * (LINE / 2 + MARKER + 0.02) * ring
    return cx - half, cx + half, cy - LINE / 2, cy + LINE / 2


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[2], b[2]))
