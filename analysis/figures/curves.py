"""Runs -> curves.svg: training loss and the watched metric by epoch, one panel a step and one line a seed.

Lengths are points at the printed width. All panels share their axes, so that heights compare between
steps. A run that did not finish is drawn in red and ends with a cross: it is shown, never averaged.
A study may have hundreds of panels, and matplotlib takes 50 ms for each: it chooses the ticks, which
all panels share, and the lines are written as SVG here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from analysis.figures.axes import Scale, Scales, numbers, shared_scales
from analysis.figures.style import ALARM, DASHES, INK, LETTER, NORMAL, RULE, SERIES, SMALL
from analysis.study import Run
from analysis.wording import one_line
from roadmap.runs.metric import Metric

INCH = 72.0
WIDE, HIGH, COLUMNS = 3.5 * INCH, 1.72 * INCH, 2
LEFT, GAP, PLOT, BASE, HEAD = 0.36 * INCH, 0.42 * INCH, 1.24 * INCH, 0.44 * INCH, 0.44 * INCH
TALL = HIGH - BASE - HEAD
# A line of the legend, how many of them fit below the axis, and the sample of a line in it.
LEGEND, LEGEND_LINES, HANDLE = 9.5, 2, 15.4
MOST_POINTS = 80  # a line an inch wide shows no more, and the page stays small


@dataclass(frozen=True)
class Panel:
    """One step.

    runs    those that hold curves
    seeds   those planned for it: a seed's place among them gives its line's colour and dashes
    """

    title: str
    runs: Sequence[Run]
    seeds: Sequence[int]


class Plotted(NamedTuple):
    """What of a run's curves a plot shows: the title, and the curve of the last weights, then of averaged ones."""

    title: str
    names: tuple[str, ...]


def scales_of(panels: Sequence[Panel], metric: Metric) -> Scales:
    """Return the axes that fit all panels."""
    runs = [run for panel in panels for run in panel.runs]
    return shared_scales(runs, metric, PLOT, TALL)


def curves_svg(panels: Sequence[Panel], metric: Metric, scales: Scales | None = None, columns: int = COLUMNS) -> str:
    """Write all panels in a grid; the same drawing of a single panel serves the page."""
    scales = scales or scales_of(panels, metric)
    columns = max(min(columns, len(panels)), 1)
    legends = [_legend(panel, metric) for panel in panels]
    extra = [lines - LEGEND_LINES for _, lines in legends]
    tall = HIGH + LEGEND * max([0, *extra])
    parts = [*_opening(WIDE * columns, tall * max(math.ceil(len(panels) / columns), 1))]
    for i, (panel, (legend, _)) in enumerate(zip(panels, legends, strict=True)):
        place = f"{short(WIDE * (i % columns))} {short(tall * (i // columns))}"
        parts += [f'<g transform="translate({place})">', *_panel(panel, metric, scales), legend, "</g>"]
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _opening(width: float, height: float) -> Iterator[str]:
    wide, high = short(width), short(height)
    font = f"font: {SMALL}px 'DejaVu Sans', Arial, Helvetica, sans-serif"
    clip = f"M0 0H{short(PLOT)}V{short(-TALL)}H0Z"
    size = f'width="{wide}pt" height="{high}pt" viewBox="0 0 {wide} {high}"'
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} version="1.1">'
    yield f'<defs><clipPath id="plot"><path d="{clip}"/></clipPath></defs>'
    yield f'<g style="fill: {INK}; {font}; stroke-linejoin: round">'


def _panel(panel: Panel, metric: Metric, scales: Scales) -> Iterator[str]:
    title = textwrap.shorten(one_line(panel.title), 46, placeholder=" …")
    yield _text(0.06 * INCH, 0.13 * INCH + 0.36 * NORMAL, title, f"font-size: {NORMAL}px; font-weight: bold")
    loss = Plotted("training loss", ("train_loss",))
    watched = Plotted(metric.heading, (metric.curve, metric.averaged_curve))
    yield from _plot(LEFT, panel, metric, loss, scales.epoch, scales.loss)
    yield from _plot(LEFT + PLOT + GAP, panel, metric, watched, scales.epoch, scales.watched)


def _plot(left: float, panel: Panel, metric: Metric, shown: Plotted, across: Scale, up: Scale) -> Iterator[str]:
    """One plot with its origin at the axes' lower left corner; y grows downwards, so heights are negative."""
    yield f'<g transform="translate({short(left)} {short(HIGH - BASE)})">'
    yield from _frame(shown.title, across, up)
    yield '<g clip-path="url(#plot)">'
    ends: list[tuple[float, float]] = []
    for run in panel.runs:
        for name in shown.names:
            line = _thinned(run, name)
            if line:
                faint = name == metric.curve and bool(numbers(run, metric.averaged_curve))
                yield _stroke(_path(line, across, up), *_look(run, panel, metric, faint=faint))
                if not run.finished(metric):
                    epoch, value = line[-1]
                    ends.append((across.at(epoch), -min(max(up.at(value), 0.0), up.length)))
    yield "</g>"  # a cross at the edge is drawn whole
    yield from (_stroke(f"M{short(x - 2)} {short(y - 2)}l4 4m0 -4l-4 4", ALARM, 1.0) for x, y in ends)
    yield "</g>"


def _frame(title: str, across: Scale, up: Scale) -> Iterator[str]:
    """Axes, ticks, grid and the title above."""
    yield _stroke("".join(f"M0 {short(-up.at(tick))}h{short(PLOT)}" for tick, _ in up.ticks), RULE, 0.35)
    below = "".join(f"M{short(across.at(tick))} 0v2" for tick, _ in across.ticks)
    beside = "".join(f"M0 {short(-up.at(tick))}h-2" for tick, _ in up.ticks)
    yield _stroke(f"M0 {short(-TALL)}V0H{short(PLOT)}{below}{beside}", "#000000", 0.6)
    for tick, label in across.ticks:
        yield _text(across.at(tick), 3.5 + 0.8 * SMALL, label, "text-anchor: middle")
    for tick, label in up.ticks:
        yield _text(-3.5, 0.36 * SMALL - up.at(tick), label, "text-anchor: end")
    yield _text(0, -1.04 * TALL - 1.5, title)
    yield _text(PLOT, -1.04 * TALL - 1.5, "by epoch", "text-anchor: end")


def _path(line: Sequence[tuple[float, float]], across: Scale, up: Scale) -> str:
    """A tenth of the line's width is fine enough."""
    return "M" + " ".join(f"{across.at(epoch):.1f} {-up.at(value):.1f}" for epoch, value in line)


def _look(run: Run, panel: Panel, metric: Metric, *, faint: bool = False) -> tuple[str, float, str]:
    """A run's (colour, width, dashes).

    By its seed's place, red where it did not finish, thin where an average of weights replaces it.
    """
    place = panel.seeds.index(run.seed)
    width = 0.5 if faint else 1.0
    dashes: Any = DASHES[place % len(DASHES)]
    lengths = () if isinstance(dashes, str) else dashes[1]
    colour = SERIES[place % len(SERIES)] if run.finished(metric) else ALARM
    return colour, width, " ".join(short(width * length) for length in lengths)


def _legend(panel: Panel, metric: Metric) -> tuple[str, int]:
    """Return the legend at the panel's foot and its lines: entries one after the other, as many in a line as fit."""
    parts: list[str] = []
    x, line = 3.0, 0
    for run in panel.runs:
        status = "" if run.finished(metric) else f": {one_line(run.status)}"
        label = f"seed {one_line(run.seed)}{status}"
        wide = HANDLE + 2.8 + len(label) * LETTER * INCH * SMALL / NORMAL
        if x > 3.0 and x + wide > WIDE:
            x, line = 3.0, line + 1
        y = HIGH - 4.5 - LEGEND * (LEGEND_LINES - 1 - line)
        parts.append(_stroke(f"M{short(x)} {short(y)}h{HANDLE}", *_look(run, panel, metric)))
        parts.append(_text(x + HANDLE + 2.8, y + 0.36 * SMALL, label))
        x += wide + SMALL
    return "\n".join(parts), line + 1


def _stroke(path: str, colour: str, width: float, dashes: str = "") -> str:
    dashed = f"; stroke-dasharray: {dashes}" if dashes else ""
    return f'<path d="{path}" style="fill: none; stroke: {colour}; stroke-width: {width}{dashed}"/>'


def _text(x: float, y: float, words: str, style: str = "") -> str:
    styled = f' style="{style}"' if style else ""
    return f'<text x="{short(x)}" y="{short(y)}"{styled}>{escape(words)}</text>'


def short(number: float) -> str:
    """Two decimals of a point: a hundredth of a pixel."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _thinned(run: Run, name: str) -> list[tuple[float, float]]:
    """(epoch, value) of a curve, at most MOST_POINTS of them.

    Evenly chosen, first and last included; epochs without a value are left out.
    """
    curves = run.record.curves or {}
    pairs = zip(curves.get("epoch") or (), curves.get(name) or (), strict=False)
    known = [(epoch, value) for epoch, value in pairs if isinstance(value, (int, float)) and math.isfinite(value)]
    if len(known) > MOST_POINTS:
        known = [known[round(i * (len(known) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]
    return known
