"""Runs -> curves.svg: training loss and watched top-1 by epoch, one panel a step and one line a seed. Lengths are points at the printed width.

All panels share their axes, so that heights compare between steps. A run that did not finish is drawn in red and ends with a cross: it is shown, never averaged.
A study may have hundreds of panels, and matplotlib takes 50 ms for each: it chooses the ticks, which all panels share, and the lines are written as SVG here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from analysis.figures.ladder import INK, LETTER, NORMAL, SMALL
from analysis.figures.svg import ALARM, DASHES, RULE, SERIES
from analysis.load import Entry, outcome
from analysis.wording import minus, one_line
from roadmap.runs.record import FINISHED

INCH = 72.0
WIDE, HIGH, COLUMNS = 3.5 * INCH, 1.72 * INCH, 2
LEFT, GAP, PLOT, BASE, HEAD = 0.36 * INCH, 0.42 * INCH, 1.24 * INCH, 0.44 * INCH, 0.44 * INCH
TALL = HIGH - BASE - HEAD
LEGEND, LEGEND_LINES, HANDLE = (
    9.5,
    2,
    15.4,
)  # a line of the legend, how many of them fit below the axis, and the sample of a line in it
TICKS = 4
MOST_POINTS = 80  # a line an inch wide shows no more, and the page stays small
FAR = 100.0  # plot heights beyond the axes: a loss of 1e30 goes no further, for browsers lose such numbers

Limits = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One step: its title, those of its trials' entries that hold curves, and the seeds planned for it: a seed's place among them gives its line's colour and dashes."""

    title: str
    runs: list[Entry]
    seeds: list[Any]


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
    """Of epoch, loss and top-1, which all panels share."""

    epoch: Scale
    loss: Scale
    top1: Scale


def has_curves(entry: Entry) -> bool:
    return bool((entry.get("curves") or {}).get("epoch"))


def shared_limits(panels: Sequence[Panel]) -> Limits:
    """Axes of epoch, loss and top-1 that fit all panels. Those that did not finish only lengthen the epochs.

    Top-1 starts where half-trained runs are: what lies below is left out, and the caption says so.
    """
    runs = [run["curves"] for panel in panels for run in panel.runs if outcome(run) == FINISHED]
    epochs = [e for panel in panels for run in panel.runs for e in run["curves"]["epoch"]] or [1]
    losses = [v for c in runs for v in _numbers(c.get("train_loss"))] or [0.0, 1.0]
    late = [
        v for c in runs for key in ("top1", "ema_top1") for v in _numbers((c.get(key) or [])[len(c["epoch"]) // 2 :])
    ] or [0.0, 100.0]
    span = max(max(late) - min(late), 1.0)
    rise = max(max(losses) - min(losses), 1e-3)
    return (
        (0, max(epochs)),
        (min(losses) - 0.05 * rise, max(losses) + 0.05 * rise),
        (max(0.0, min(late) - 0.15 * span), min(100.0, max(late) + 0.06 * span)),
    )


def shared_scales(panels: Sequence[Panel]) -> Scales:
    across, loss, top1 = shared_limits(panels)
    return Scales(_scale(across, PLOT), _scale(loss, TALL), _scale(top1, TALL))


def _scale(limits: tuple[float, float], length: float) -> Scale:
    """Round ticks, as matplotlib chooses them, with as many decimals as tell them apart."""
    from matplotlib.ticker import MaxNLocator

    low, high = limits
    ticks = [
        float(t) for t in MaxNLocator(nbins=TICKS, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= t <= high
    ]
    decimals = next((d for d in range(9) if all(abs(round(t, d) - t) < 1e-9 * max(1.0, high - low) for t in ticks)), 9)
    return Scale(low, high, length, [(t, minus(f"{t:.{decimals}f}")) for t in ticks])


def curves_svg(panels: Sequence[Panel], scales: Scales | None = None, columns: int = COLUMNS) -> bytes:
    """All panels in a grid; the same drawing of a single panel serves the page."""
    scales = scales or shared_scales(panels)
    columns = max(min(columns, len(panels)), 1)
    legends = [_legend(panel) for panel in panels]
    tall = HIGH + LEGEND * max([0, *(lines - LEGEND_LINES for _, lines in legends)])
    width, height = WIDE * columns, tall * max(math.ceil(len(panels) / columns), 1)
    font = f"font: {SMALL}px 'DejaVu Sans', Arial, Helvetica, sans-serif"
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_short(width)}pt" height="{_short(height)}pt" viewBox="0 0 {_short(width)} {_short(height)}" version="1.1">',
        f'<defs><clipPath id="plot"><path d="M0 0H{_short(PLOT)}V{_short(-TALL)}H0Z"/></clipPath></defs>',
        f'<g style="fill: {INK}; {font}; stroke-linejoin: round">',
    ]
    for i, (panel, (legend, _)) in enumerate(zip(panels, legends, strict=True)):
        parts += [
            f'<g transform="translate({_short(WIDE * (i % columns))} {_short(tall * (i // columns))})">',
            *_panel(panel, scales),
            legend,
            "</g>",
        ]
    return "\n".join([*parts, "</g>", "</svg>", ""]).encode()


def _panel(panel: Panel, scales: Scales) -> Iterator[str]:
    yield _text(
        0.06 * INCH,
        0.13 * INCH + 0.36 * NORMAL,
        textwrap.shorten(one_line(panel.title), 46, placeholder=" …"),
        f"font-size: {NORMAL}px; font-weight: bold",
    )
    yield from _plot(LEFT, panel, ("train_loss",), scales.epoch, scales.loss, "training loss")
    yield from _plot(LEFT + PLOT + GAP, panel, ("top1", "ema_top1"), scales.epoch, scales.top1, "top-1 (%)")


def _plot(left: float, panel: Panel, keys: Sequence[str], across: Scale, up: Scale, title: str) -> Iterator[str]:
    """One plot with its origin at the axes' lower left corner; y grows downwards, so heights are negative."""
    yield f'<g transform="translate({_short(left)} {_short(HIGH - BASE)})">'
    yield _stroke("".join(f"M0 {_short(-up.at(t))}h{_short(PLOT)}" for t, _ in up.ticks), RULE, 0.35)
    marks = "".join(f"M{_short(across.at(t))} 0v2" for t, _ in across.ticks) + "".join(
        f"M0 {_short(-up.at(t))}h-2" for t, _ in up.ticks
    )
    yield _stroke(f"M0 {_short(-TALL)}V0H{_short(PLOT)}{marks}", "#000000", 0.6)
    yield from (_text(across.at(t), 3.5 + 0.8 * SMALL, label, "text-anchor: middle") for t, label in across.ticks)
    yield from (_text(-3.5, 0.36 * SMALL - up.at(t), label, "text-anchor: end") for t, label in up.ticks)
    yield _text(0, -1.04 * TALL - 1.5, title)
    yield _text(PLOT, -1.04 * TALL - 1.5, "by epoch", "text-anchor: end")
    yield '<g clip-path="url(#plot)">'
    ends = []
    for run in panel.runs:
        averaged = bool(_numbers(run["curves"].get("ema_top1")))
        for key in keys:
            x, y = _thinned(run["curves"]["epoch"], run["curves"].get(key) or [])
            if x:
                points = " ".join(
                    f"{across.at(a):.1f} {-up.at(b):.1f}" for a, b in zip(x, y, strict=True)
                )  # a tenth of the line's width is fine enough
                yield _stroke(f"M{points}", *_look(run, panel, faint=averaged and key == "top1"))
                ends += (
                    [(across.at(x[-1]), -min(max(up.at(y[-1]), 0.0), up.length))] if outcome(run) != FINISHED else []
                )
    yield "</g>"  # a cross at the edge is drawn whole
    yield from (_stroke(f"M{_short(x - 2)} {_short(y - 2)}l4 4m0 -4l-4 4", ALARM, 1.0) for x, y in ends)
    yield "</g>"


def _look(run: Entry, panel: Panel, *, faint: bool = False) -> tuple[str, float, str]:
    """A run's (colour, width, dashes): by its seed's place, red where it did not finish, thin where an average of weights replaces it."""
    place = panel.seeds.index(run["seed"])
    width, dashes = 0.5 if faint else 1.0, DASHES[place % len(DASHES)]
    lengths = dashes[1] if isinstance(dashes, tuple) else ()
    colour = SERIES[place % len(SERIES)] if outcome(run) == FINISHED else ALARM
    return colour, width, " ".join(_short(width * length) for length in lengths)


def _legend(panel: Panel) -> tuple[str, int]:
    """(the legend at the panel's foot, its lines): entries one after the other, as many in a line as fit."""
    parts, x, line = [], 3.0, 0
    for run in panel.runs:
        label = f"seed {one_line(run['seed'])}" + ("" if outcome(run) == FINISHED else f": {one_line(run['status'])}")
        wide = HANDLE + 2.8 + len(label) * LETTER * INCH * SMALL / NORMAL
        if x > 3.0 and x + wide > WIDE:
            x, line = 3.0, line + 1
        y = HIGH - 4.5 - LEGEND * (LEGEND_LINES - 1 - line)
        parts += [
            _stroke(f"M{_short(x)} {_short(y)}h{HANDLE}", *_look(run, panel)),
            _text(x + HANDLE + 2.8, y + 0.36 * SMALL, label),
        ]
        x += wide + SMALL
    return "\n".join(parts), line + 1


def _stroke(path: str, colour: str, width: float, dashes: str = "") -> str:
    dashed = f"; stroke-dasharray: {dashes}" if dashes else ""
    return f'<path d="{path}" style="fill: none; stroke: {colour}; stroke-width: {width}{dashed}"/>'


def _text(x: float, y: float, words: str, style: str = "") -> str:
    styled = f' style="{style}"' if style else ""
    return f'<text x="{_short(x)}" y="{_short(y)}"{styled}>{escape(words)}</text>'


def _short(number: float) -> str:
    """Two decimals of a point: a hundredth of a pixel."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _numbers(values: Iterable[Any] | None) -> list[float]:
    return [v for v in values or [] if isinstance(v, (int, float)) and math.isfinite(v)]


def _thinned(epochs: Sequence[float], values: Sequence[Any]) -> tuple[list[float], list[float]]:
    """At most MOST_POINTS pairs, evenly chosen, first and last included; epochs without a value are left out."""
    pairs = [(e, v) for e, v in zip(epochs, values, strict=False) if isinstance(v, (int, float)) and math.isfinite(v)]
    if len(pairs) > MOST_POINTS:
        pairs = [pairs[round(i * (len(pairs) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]
    return [e for e, _ in pairs], [v for _, v in pairs]
