"""The score's bars of the ladder's figure: axis, whiskers, single seeds, numbers, the dashed line of a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.figures import looks
from analysis.figures.style import BAR, INK, LETTER, NORMAL, QUIET, SMALL, Look
from analysis.results.paper import PRINTED
from analysis.results.results import Analysis, Result, Role
from analysis.wording import spread
from roadmap.ladder import Reference, find_ladder
from roadmap.runs.metric import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARS = 2.62  # inches
NUMBER, ASIDE = 0.072, 0.07  # width of a letter of a bold number, and how far it stands from the whisker, in inches
ABOVE = 1.06  # the axis ends this far above the largest value
HEAD = -0.62
EMPTY = {True: 100.0, False: 1.0}  # the end of an axis without a bar, of a percentage and of another metric
LEAST_SPAN = 0.5  # of a percentage; that of another metric is this share of its largest value
LEAST_SHARE = 0.02


def limits(analysis: Analysis) -> tuple[float, float]:
    """Return the ends of the axis.

    From a round number so far below the smallest value that its bar holds its number, to a little
    above the largest.
    """
    metric = analysis.metric
    shown = [looks.values(result) for result in analysis.results]
    drawn = [values for values in shown if values.mean is not None]
    low = min((values.low for values in drawn), default=0.0)
    high = max((values.high for values in drawn), default=EMPTY[metric.proportion])
    span = max(high - low, LEAST_SPAN if metric.proportion else LEAST_SHARE * high)
    unit = 10 ** math.floor(math.log10(span))
    widest = f"{99.99:.{metric.decimals}f} ± {9.99:.{metric.decimals}f}"
    number = (NUMBER * len(widest) + ASIDE) / BARS  # the share of the axis that a number beside a whisker takes
    start = max(0.0, math.floor((high - span / (1 - number * ABOVE)) / unit) * unit)
    return start, start + (high - start) * ABOVE


def reference_in_view(analysis: Analysis) -> Reference | None:
    """The network beside the ladder, where the regime has one and the axis of what is printed reaches it."""
    reference = find_ladder(analysis.ladder).find_regime(analysis.regime).reference
    left, right = limits(analysis)
    in_view = reference is not None and analysis.metric is PRINTED and left < reference.top1 < right
    return reference if in_view else None


def draw_scores(axes: Axes, analysis: Analysis, shades: Mapping[str, str]) -> None:
    """Draw all bars. shades: each group's background."""
    left, right = limits(analysis)
    axes.set_xlim(left, right)
    axes.patch.set_alpha(0)
    for y, result in enumerate(analysis.results):
        _row(axes, y, result, left, (right - left) / BARS, shades[result.group])
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(False)
    most = min(right, 100.0) if analysis.metric.proportion else right
    ticks = [tick for tick in _ticks(left, right) if tick <= most]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], size=SMALL, color=INK)
    axes.tick_params(length=2.5, width=0.6, pad=2)
    axes.set_xlabel(_label(analysis, left), size=SMALL, color=INK, labelpad=2)
    reference = reference_in_view(analysis)
    if reference:
        _reference(axes, reference, analysis.metric, left, right)
    else:
        _head(axes, (left + right) / 2, _title(analysis))


def _title(analysis: Analysis) -> str:
    return f"{'measured' if analysis.measured else 'paper'} {analysis.metric.heading}"


def _label(analysis: Analysis, left: float) -> str:
    better = "" if analysis.metric.higher_is_better else ", less is better"
    start = f"; the axis starts at {left:g}, not at 0" if left else ""
    return f"{_title(analysis)}{better}{start}"


def _ticks(left: float, right: float) -> list[float]:
    """Four to eight round numbers."""
    rough = (right - left) / 6
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    first, last = math.ceil(left / step - 1e-9), math.floor(right / step + 1e-9)
    return [round(step * i, 6) for i in range(first, last + 1)]


def _row(axes: Axes, y: int, result: Result, left: float, inch: float, paper: str) -> None:
    """One row's bar, whisker, seeds and number; `inch` is an inch in units of the score, `paper` the colour behind."""
    values = looks.values(result)
    if values.mean is None:
        style: Look = {"size": SMALL, "color": QUIET, "style": "italic", "va": "center"}
        axes.text(left + 0.06 * inch, y, _nothing(result), bbox=_behind(paper), **style)
        return
    on_path = result.role is Role.STEP
    axes.barh(
        y,
        values.mean - left,
        left=left,
        height=0.68,
        color=looks.face(result),
        edgecolor=INK if on_path else BAR,
        linewidth=0.5,
        hatch=looks.hatch(result),
        zorder=2,
    )
    if values.std is not None:
        for colour, thick in (("white", 2.2), (INK, 0.9)):  # a light rim keeps the whisker visible inside a dark bar
            line: Look = {"color": colour, "linewidth": thick, "capsize": 2, "capthick": thick}
            axes.errorbar(values.mean, y, xerr=values.std, zorder=4, **line)
    if len(values.seeds) > 1:
        look: Look = {"markersize": 2.4, "markerfacecolor": "white", "markeredgecolor": INK, "markeredgewidth": 0.5}
        axes.plot(values.seeds, [y - 0.19] * len(values.seeds), "o", zorder=5, **look)
    _number(axes, y, result, values, left, inch, paper)


def _nothing(result: Result) -> str:
    """Why a row has no bar."""
    if result.role is Role.UNDEFINED:
        return "not defined"
    return f"0 of {result.runs.planned} finished" if result.runs.planned else "not run"


def _number(axes: Axes, y: int, result: Result, values: looks.Values, left: float, inch: float, paper: str) -> None:
    """The number inside the bar where it fits, else beyond its end."""
    text = spread(values.mean, values.std, result.metric.decimals)
    adopted = looks.is_adopted(result)
    style: Look = {"size": NORMAL, "va": "center", "weight": "bold" if adopted else "normal", "zorder": 6}
    inner, outer = values.low - ASIDE * inch, values.high + ASIDE * inch
    if inner - left > NUMBER * len(text) * inch:
        colour = "white" if adopted else INK
        axes.text(inner, y, text, color=colour, ha="right", bbox=_behind(looks.face(result)), **style)
    else:
        axes.text(outer, y, text, color=INK, ha="left", bbox=_behind(paper), **style)


def _behind(colour: str) -> dict[str, Any]:
    """A box that keeps hatching and the dashed line off a text."""
    return {"facecolor": colour, "edgecolor": "none", "pad": 0.8}


def _reference(axes: Axes, reference: Reference, metric: Metric, left: float, right: float) -> None:
    """The reference's dashed line with its name above."""
    axes.axvline(reference.top1, color=INK, linewidth=1.0, linestyle=(0, (4, 2.5)), zorder=1)
    label = f"{reference.name} (paper): {reference.top1:.2f} {metric.unit}, {reference.gflops:.2f} G"
    half = len(label) * LETTER * SMALL / NORMAL / 2 * (right - left) / BARS
    _head(axes, min(max(reference.top1, left + half), right - half), label)


def _head(axes: Axes, x: float, text: str) -> None:
    axes.text(x, HEAD, text, size=SMALL, color=INK, ha="center", va="bottom")
