"""Attribution -> attribution.svg: each player's share of the gain as a bar with its interval; hatched where the interval holds 0."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.figures.ladder import BAR, INK, LETTER, NORMAL, SMALL, STYLE, TINT
from analysis.figures.svg import svg_bytes
from analysis.wording import signed_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES, BARS, NUMBERS, ROW, TOP, BOTTOM = 1.9, 3.2, 1.55, 0.24, 0.12, 0.62


def attribution_svg(values: Sequence[Mapping[str, Any]]) -> bytes:
    """`values`: {"player", "value", "low", "high"} in points, drawn in the given order."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return svg_bytes(_draw(values))


def resolved(value: Mapping[str, Any]) -> bool:
    """Whether the interval excludes 0; without an interval nothing is resolved."""
    low, high = value.get("low"), value.get("high")
    return low is not None and high is not None and not low <= 0 <= high


def _draw(values: Sequence[Mapping[str, Any]]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = NAMES + BARS + NUMBERS, TOP + BOTTOM + ROW * max(len(values), 1)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((NAMES / width, BOTTOM / height, BARS / width, (height - TOP - BOTTOM) / height))
    axes.set_ylim(max(len(values), 1) - 0.5, -0.5)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=3)
    for y, value in enumerate(values):
        sure = resolved(value)
        axes.barh(
            y,
            value["value"],
            height=0.62,
            color=BAR if sure else TINT,
            edgecolor=INK if sure else BAR,
            linewidth=0.5,
            hatch="" if sure else "/////",
            zorder=2,
        )
        if value.get("low") is not None and value.get("high") is not None:
            for colour, thick in (("white", 2.2), (INK, 0.9)):
                axes.plot([value["low"], value["high"]], [y, y], color=colour, linewidth=thick, zorder=4)
        name = textwrap.shorten(str(value["player"]), int(NAMES / LETTER), placeholder=" …")
        figure.text(0.06 / width, 1 - (TOP + ROW * (y + 0.5)) / height, name, size=NORMAL, color=INK, va="center")
        figure.text(
            1 - 0.06 / width,
            1 - (TOP + ROW * (y + 0.5)) / height,
            interval_text(value),
            size=NORMAL,
            color=INK,
            va="center",
            ha="right",
        )
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=7)
    axes.tick_params(length=2.5, width=0.6, pad=2, labelsize=SMALL, labelcolor=INK)
    axes.set_xlabel("Shapley value, points of top-1", size=SMALL, color=INK, labelpad=2)
    figure.text(
        0.06 / width,
        0.1 / height,
        "lines: 95 % interval; hatched: the interval holds 0, or there is none",
        size=SMALL,
        color=INK,
        va="center",
    )
    return figure


def interval_text(value: Mapping[str, Any]) -> str:
    """'+1.20 [+0.90, +1.50]'; without an interval the value alone."""
    return signed_interval(value["value"], value.get("low"), value.get("high"))
