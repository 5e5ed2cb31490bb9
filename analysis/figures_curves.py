"""Runs -> curves.svg: training loss and watched top-1 by epoch, one panel a step and one line a seed. Sizes are inches at the printed width.

All panels share their axes, so that heights compare between steps. A run that did not finish is drawn in red and ends with a cross: it is shown, never averaged.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.figures import INK, NORMAL, SMALL, STYLE
from analysis.figures_svg import ALARM, DASHES, RULE, SERIES, svg_bytes
from analysis.gather import Entry, outcome
from roadmap.record import FINISHED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, HIGH, COLUMNS = 3.5, 1.72, 2
LEFT, GAP, PLOT, BASE, HEAD = 0.36, 0.42, 1.24, 0.44, 0.44
MOST_POINTS = 80  # a line an inch wide shows no more, and the page stays small

Limits = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One step: its title, those of its trials' entries that hold curves, and the seeds planned for it: a seed's place among them gives its line's colour and dashes."""

    title: str
    runs: list[Entry]
    seeds: list[Any]


def has_curves(entry: Entry) -> bool:
    return bool((entry.get("curves") or {}).get("epoch"))


def shared_limits(panels: Sequence[Panel]) -> Limits:
    """Axes of epoch, loss and top-1 that fit all panels. Those that did not finish only lengthen the epochs.

    Top-1 starts where half-trained runs are: what lies below is left out, and the caption says so.
    """
    runs = [run["curves"] for panel in panels for run in panel.runs if outcome(run) == FINISHED]
    epochs = [e for panel in panels for run in panel.runs for e in run["curves"]["epoch"]] or [1]
    losses = [v for c in runs for v in _numbers(c.get("train_loss"))] or [0.0, 1.0]
    late = [v for c in runs for key in ("top1", "ema_top1") for v in _numbers((c.get(key) or [])[len(c["epoch"]) // 2 :])] or [0.0, 100.0]
    span = max(max(late) - min(late), 1.0)
    rise = max(max(losses) - min(losses), 1e-3)
    return (0, max(epochs)), (min(losses) - 0.05 * rise, max(losses) + 0.05 * rise), (max(0.0, min(late) - 0.15 * span), min(100.0, max(late) + 0.06 * span))


def curves_svg(panels: Sequence[Panel], limits: Limits | None = None, columns: int = COLUMNS) -> bytes:
    """All panels in a grid; the same drawing of a single panel serves the page."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return svg_bytes(_draw(panels, limits or shared_limits(panels), columns))


def _draw(panels: Sequence[Panel], limits: Limits, columns: int) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(min(columns, len(panels)), 1)
    width, height = WIDE * columns, HIGH * max(math.ceil(len(panels) / columns), 1)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    for i, panel in enumerate(panels):
        left, top = WIDE * (i % columns), height - HIGH * (i // columns)
        plots = [
            figure.add_axes(((left + x) / width, (top - HIGH + BASE) / height, PLOT / width, (HIGH - BASE - HEAD) / height)) for x in (LEFT, LEFT + PLOT + GAP)
        ]
        title = textwrap.shorten(panel.title, 46, placeholder=" …")
        figure.text((left + 0.06) / width, (top - 0.13) / height, title, size=NORMAL, weight="bold", color=INK, va="center")
        _plot(plots[0], panel, ("train_loss",), limits[0], limits[1], "training loss")
        _plot(plots[1], panel, ("top1", "ema_top1"), limits[0], limits[2], "top-1 (%)")
        handles = [_line(run, panel.seeds.index(run["seed"])) for run in panel.runs]
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=((left + 0.02) / width, (top - HIGH + 0.0) / height), ncols=4, fontsize=SMALL, labelcolor=INK,
                      frameon=False, handlelength=2.2, columnspacing=1.0, handletextpad=0.4, borderpad=0.2)  # fmt: skip
    return figure


def _plot(axes: Axes, panel: Panel, keys: Sequence[str], across: tuple[float, float], up: tuple[float, float], title: str) -> None:
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(*across)
    axes.set_ylim(*up)
    axes.locator_params(nbins=4)
    axes.tick_params(length=2, width=0.6, pad=1.5, labelsize=SMALL, labelcolor=INK)
    axes.grid(axis="y", color=RULE, linewidth=0.35)
    axes.set_axisbelow(True)
    axes.text(0, 1.04, title, size=SMALL, color=INK, va="bottom", transform=axes.transAxes)
    axes.text(1, 1.04, "by epoch", size=SMALL, color=INK, va="bottom", ha="right", transform=axes.transAxes)
    for run in panel.runs:
        curves = run["curves"]
        place = panel.seeds.index(run["seed"])
        averaged = bool(_numbers(curves.get("ema_top1")))
        for key in keys:
            x, y = _thinned(curves["epoch"], curves.get(key) or [])
            if x:
                line = _line(run, place, faint=averaged and key == "top1")
                line.set_data(x, y)
                axes.add_line(line)
                if outcome(run) != FINISHED:
                    axes.plot(x[-1], min(max(y[-1], up[0]), up[1]), "x", color=ALARM, markersize=4, clip_on=False)


def _line(run: Entry, place: int, *, faint: bool = False) -> Any:
    """A run's line: colour and dashes by its seed's place, red where it did not finish, faint where an average of weights replaces it."""
    from matplotlib.lines import Line2D

    finished = outcome(run) == FINISHED
    label = f"seed {run['seed']}" if finished else f"seed {run['seed']}: {run['status']}"
    colour = SERIES[place % len(SERIES)] if finished else ALARM
    return Line2D([], [], color=colour, linestyle=DASHES[place % len(DASHES)], linewidth=0.5 if faint else 1.0, label=label)


def _numbers(values: Iterable[Any] | None) -> list[float]:
    return [v for v in values or [] if isinstance(v, (int, float)) and math.isfinite(v)]


def _thinned(epochs: Sequence[float], values: Sequence[Any]) -> tuple[list[float], list[float]]:
    """At most MOST_POINTS pairs, evenly chosen, first and last included; epochs without a value are left out."""
    pairs = [(e, v) for e, v in zip(epochs, values, strict=False) if isinstance(v, (int, float)) and math.isfinite(v)]
    if len(pairs) > MOST_POINTS:
        pairs = [pairs[round(i * (len(pairs) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]
    return [e for e, _ in pairs], [v for _, v in pairs]
