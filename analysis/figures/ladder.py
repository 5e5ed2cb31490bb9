"""Results -> ladder.png and ladder.svg: one horizontal bar a row, from a ladder's first step down.

The score with its standard deviation, single seeds as circles, the change from the parent,
multiply-adds as a second, thinner bar that starts at 0, groups as bands. Lengths are inches and
points at the printed width, so that no letter is smaller than 7 pt.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from typing import TYPE_CHECKING, NamedTuple

from analysis.figures import looks
from analysis.figures.bars import BARS, draw_scores
from analysis.figures.footnotes import footnotes
from analysis.figures.style import (
    BAND,
    INK,
    LARGE,
    LETTER,
    NORMAL,
    PALE,
    QUIET,
    RULE,
    SMALL,
    Look,
    StyledFigure,
    styled,
)
from analysis.results.results import Analysis, Result, Role
from analysis.wording import scaled, signed
from roadmap.ladder import find_ladder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches, from the left: group names, step names, the score's bars, the change, the multiply-adds, runs finished.
GROUPS, NAMES, CHANGE, COSTS, RUNS = 0.80, 1.58, 0.52, 0.78, 0.50
ROW, TALL, TOP, BOTTOM, LINE, MARGIN = 0.27, 0.37, 0.68, 0.46, 0.13, 0.06
HEAD = -0.62  # where headings stand, in rows


class Name(NamedTuple):
    """A row's name: where it starts, in inches, and its lines."""

    left: float
    lines: list[str]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes in inches and all running text, broken into lines."""

    width: float
    height: float
    top: float
    bottom: float
    names: Sequence[Name]
    subtitle: Sequence[str]
    notes: Sequence[str]
    grouped: bool


def ladder_figure(analysis: Analysis, *, title: str = "", subtitle: str = "") -> StyledFigure:
    """Draw the rows of an analysis, measured ones or a paper's; rows sit at y = 0, 1, 2, ... downwards."""
    with styled():
        return _draw(analysis, _layout(analysis, subtitle), title)


def _layout(analysis: Analysis, subtitle: str) -> Layout:
    results = analysis.results
    width = GROUPS + NAMES + BARS + CHANGE + COSTS + (RUNS if analysis.measured else 0.0) + 0.1
    small = LETTER * SMALL / NORMAL
    notes: list[str] = []
    for note in footnotes(analysis):  # running text is narrower than names
        notes += textwrap.wrap(note, int(1.1 * width / small), break_on_hyphens=False)
    under_title = textwrap.wrap(subtitle, int(width / small), max_lines=2, placeholder=" …", break_on_hyphens=False)
    grouped = len({result.group for result in results}) > 1
    names = [_name(result, grouped=grouped) for result in results]
    most_lines = max((len(name.lines) for name in names), default=1)
    row = TALL if most_lines > 2 else ROW
    top, bottom = TOP + LINE * (len(under_title) - 1), BOTTOM + LINE * len(notes)
    return Layout(
        width=width,
        height=top + row * max(len(results), 1) + bottom,
        top=top,
        bottom=bottom,
        names=names,
        subtitle=under_title,
        notes=notes,
        grouped=grouped,
    )


def _name(result: Result, *, grouped: bool) -> Name:
    """Wrapped into what is left of the page.

    Without groups that is more, and up to three lines, for a study's cells differ in their last words.
    """
    indent = 0.12 if result.role in (Role.SIDE, Role.VARIANT) else 0.0
    left = (GROUPS if grouped else MARGIN) + indent
    words = result.as_change if result.role is Role.VARIANT else result.what
    letter, lines = (LETTER, 2) if grouped else (LETTER * SMALL / NORMAL, 3)
    letters = int((GROUPS + NAMES - left - 0.1) / letter)
    return Name(left, textwrap.wrap(words, letters, max_lines=lines, placeholder=" …", break_on_hyphens=False))


def _draw(analysis: Analysis, layout: Layout, title: str) -> StyledFigure:
    figure = StyledFigure(layout.width, layout.height)
    rows = len(analysis.results)
    page = _panel(figure, layout, rows, 0, layout.width)
    page.set_axis_off()
    shades = _shades(analysis)
    _bands(page, analysis.results, layout, shades)
    _names(page, layout.names)
    draw_scores(_panel(figure, layout, rows, GROUPS + NAMES, BARS), analysis, shades)
    _changes(page, analysis)
    _costs(_panel(figure, layout, rows, GROUPS + NAMES + BARS + CHANGE + 0.08, COSTS - 0.16), analysis)
    if analysis.measured:
        _runs(page, analysis.results)
    _running_text(figure, layout, title)
    return figure


def _panel(figure: StyledFigure, layout: Layout, rows: int, left: float, wide: float) -> Axes:
    """Axes `wide` inches wide over all rows."""
    high = layout.height - layout.top - layout.bottom
    width, height = layout.width, layout.height
    axes = figure.add_axes((left / width, layout.bottom / height, wide / width, high / height))
    axes.set_ylim(max(rows, 1) - 0.5, -0.5)
    axes.set_xlim(0, wide)
    return axes


def _running_text(figure: StyledFigure, layout: Layout, title: str) -> None:
    width, height = layout.width, layout.height
    left = MARGIN / width
    figure.text(left, 1 - 0.17 / height, title, size=LARGE, weight="bold", color=INK, va="center")
    for i, line in enumerate(layout.subtitle):
        figure.text(left, 1 - (0.35 + LINE * i) / height, line, size=SMALL, color=QUIET, va="center")
    for i, note in enumerate(layout.notes):
        y = (0.09 + LINE * (len(layout.notes) - 1 - i)) / height
        figure.text(left, y, note, size=SMALL, color=QUIET, va="center")


def _shades(analysis: Analysis) -> dict[str, str]:
    """{group: its background}: every other one in the ladder's order is shaded, then what is of no ladder."""
    shown = dict.fromkeys(result.group for result in analysis.results)
    of_ladder = [group for group in find_ladder(analysis.ladder).groups if group in shown]
    order = dict.fromkeys([*of_ladder, *shown])
    return dict(zip(order, cycle(("white", BAND)), strict=False))


def _bands(page: Axes, results: Sequence[Result], layout: Layout, shades: dict[str, str]) -> None:
    """Groups as bands across the page, their names at the left where there are several."""
    start = 0
    for group, members in groupby(results, key=lambda result: result.group):
        end = start + len(list(members))
        page.axhspan(start - 0.5, end - 0.5, color=shades[group], linewidth=0, zorder=0)
        _rule(page, start, layout.width)
        if layout.grouped:
            words = group.replace(" ", "\n", 1)
            style: Look = {"size": SMALL, "weight": "bold", "color": QUIET, "va": "center", "linespacing": 1.1}
            page.text(MARGIN, (start + end - 1) / 2, words, **style)
        start = end
    _rule(page, start, layout.width)


def _rule(page: Axes, row: int, width: float) -> None:
    page.plot([0, width], [row - 0.5] * 2, color=RULE, linewidth=0.5, zorder=1, clip_on=False)


def _names(page: Axes, names: Sequence[Name]) -> None:
    for y, name in enumerate(names):
        size = NORMAL if len(name.lines) < 2 else SMALL
        page.text(name.left, y, "\n".join(name.lines), size=size, color=INK, va="center", linespacing=1.0)


def _changes(page: Axes, analysis: Analysis) -> None:
    right = GROUPS + NAMES + BARS + CHANGE - MARGIN
    page.text(right, HEAD, "change", size=SMALL, color=INK, ha="right", va="bottom")
    for y, result in enumerate(analysis.results):
        mark = "‡" if looks.is_confounded(result) else ""
        text = signed(looks.effect(result), analysis.metric.decimals) + mark
        page.text(right, y, text, size=NORMAL, color=INK, ha="right", va="center")


def _costs(axes: Axes, analysis: Analysis) -> None:
    """Multiply-adds: a thin bar from 0 under its number."""
    costs = [looks.macs(result) for result in analysis.results]
    most = max((cost for cost in costs if cost), default=1e9)
    unit, name = (1e9, "GMACs") if most >= 1e8 else (1e6, "MMACs")
    axes.set_axis_off()
    axes.set_xlim(0, most)
    axes.text(0, HEAD, name, size=SMALL, color=INK, ha="left", va="bottom")
    for y, (result, cost) in enumerate(zip(analysis.results, costs, strict=True)):
        if cost:
            mark = "†" if looks.is_misprinted(result) else ""
            colour = QUIET if result.role is Role.STEP else PALE
            axes.text(0, y - 0.08, scaled(cost, unit) + mark, size=NORMAL, color=INK, va="center")
            axes.barh(y + 0.3, cost, height=0.13, color=colour, linewidth=0, zorder=2)


def _runs(page: Axes, results: Sequence[Result]) -> None:
    right = GROUPS + NAMES + BARS + CHANGE + COSTS + RUNS
    page.text(right, HEAD, "finished", size=SMALL, color=INK, ha="right", va="bottom")
    for y, result in enumerate(results):
        text = f"{result.n} of {result.runs.planned}" if result.runs.planned else "–"
        page.text(right, y, text, size=NORMAL, color=INK, ha="right", va="center")
