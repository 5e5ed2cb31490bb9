"""Rows -> ladder.png and ladder.svg: Figure 2 of the ConvNeXt paper with its axis, spread and costs in view.

One horizontal bar a row, from the baseline down to ConvNeXt: top-1 with its standard deviation, single seeds as circles, the change from the parent, multiply-adds as a
second, thinner bar that starts at 0, groups as bands. Lengths are inches and points at the printed width, so that no letter is smaller than 7 pt.
Same rows, same bytes: no dates, fixed ids. No pyplot, which would cost half a second of start.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.wording import as_change, scaled, signed, spread
from analysis.results.rows import Row
from roadmap.ladder.convnext import Regime
from roadmap.runs.io import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches, from the left: group names, step names, the top-1 bars, the change, the multiply-adds, runs finished.
GROUPS, NAMES, BARS, CHANGE, COSTS, RUNS = 0.80, 1.58, 2.62, 0.52, 0.78, 0.50
ROW, TALL, TOP, BOTTOM, LINE = 0.27, 0.37, 0.68, 0.46, 0.13
SMALL, NORMAL, LARGE = 7.0, 7.5, 9.0
LETTER = 0.062  # width of an average letter at 7.5 pt, in inches
NUMBER, ASIDE = 0.072, 0.07  # width of a letter of a bold number, and how far it stands from the whisker, in inches
ABOVE = 1.06  # the axis ends this far above the largest value
DPI = 300

# Okabe and Ito's blue and its tints: told apart by colour-blind eyes and by their lightness alone.
BAR, TINT, INK, QUIET, BAND = "#2b6c99", "#cfe3f1", "#1a1a1a", "#595959", "#f1f1f1"
MIDDLE = "#8fb8d4"  # a step whose change is not resolved: lighter than a resolved one, and hatched
HATCH = {"step": "", "side": "/////", "variant": ".....", "other": "", "control": "|||||", "undefined": ""}
UNRESOLVED, CONFOUNDED = "/////", "xxxxx"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and set in the document's fonts
    "svg.hashsalt": "convnext-roadmap",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "text.parse_math": False,  # names and messages may hold a $
    "hatch.linewidth": 0.6,
    "axes.linewidth": 0.6,
}


def ladder_figure(
    rows: Sequence[Row], regime: Regime, folder: Path, source: str = "measured", *, title: str = "", subtitle: str = ""
) -> list[Path]:
    """Draw the rows and write ladder.png and ladder.svg into `folder`; `source` 'measured' or 'paper' says which numbers are the bars."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = draw(rows, regime, source, title, subtitle)
        return [_save(figure, folder / f"ladder.{kind}", kind) for kind in ("png", "svg")]


def ladder_svg(
    rows: Sequence[Row], regime: Regime, source: str = "measured", *, title: str = "", subtitle: str = ""
) -> str:
    """The content of ladder.svg."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return _content(draw(rows, regime, source, title, subtitle), "svg").decode()


def draw(rows: Sequence[Row], regime: Regime, source: str, title: str, subtitle: str) -> Figure:
    """The whole figure; rows sit at y = 0, 1, 2, ... downwards."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = RUNS if source == "measured" else 0.0
    width = GROUPS + NAMES + BARS + CHANGE + COSTS + runs + 0.1
    letters = int(1.1 * width / (LETTER * SMALL / NORMAL))  # running text is narrower than names
    notes = [
        line
        for note in footnotes(rows, source, regime)
        for line in textwrap.wrap(note, letters, break_on_hyphens=False)
    ]
    bottom = BOTTOM + LINE * len(notes)
    under_title = textwrap.wrap(
        subtitle, int(width / (LETTER * SMALL / NORMAL)), max_lines=2, placeholder=" …", break_on_hyphens=False
    )
    top = TOP + LINE * (len(under_title) - 1)
    grouped = len({r["group"] for r in rows}) > 1
    names = [_name(row, GROUPS if grouped else 0.06) for row in rows]
    height = top + (TALL if any(len(name.lines) > 2 for name in names) else ROW) * max(len(rows), 1) + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)

    def panel(left: float, wide: float) -> Axes:
        axes = figure.add_axes((left / width, bottom / height, wide / width, (height - top - bottom) / height))
        axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axes.set_xlim(0, wide)
        return axes

    page = panel(0, width)
    page.set_axis_off()
    _bands(page, rows, width, named=grouped)
    for y, name in enumerate(names):
        page.text(
            name.left,
            y,
            "\n".join(name.lines),
            size=NORMAL if len(name.lines) < 2 else SMALL,
            color=INK,
            va="center",
            linespacing=1.0,
        )
    _accuracies(panel(GROUPS + NAMES, BARS), rows, regime, source)
    _changes(page, rows, source)
    _costs(panel(GROUPS + NAMES + BARS + CHANGE + 0.08, COSTS - 0.16), rows, source)
    if runs:
        _runs(page, rows)
    figure.text(0.06 / width, 1 - 0.17 / height, title, size=LARGE, weight="bold", color=INK, va="center")
    for i, line in enumerate(under_title):
        figure.text(0.06 / width, 1 - (0.35 + LINE * i) / height, line, size=SMALL, color=QUIET, va="center")
    for i, note in enumerate(notes):
        figure.text(
            0.06 / width, (0.09 + LINE * (len(notes) - 1 - i)) / height, note, size=SMALL, color=QUIET, va="center"
        )
    return figure


def footnotes(rows: Sequence[Row], source: str, regime: Regime) -> list[str]:
    spreads = any(_values(r, source)[1] is not None for r in rows)
    marks = (
        [
            "whiskers: one standard deviation"
            + (", n − 1; circles: single seeds" if source == "measured" else ", as printed")
        ]
        if spreads
        else []
    )
    marks += _kinds_of_bars(rows, source)
    marks += ["GMACs: the paper's GFLOPs, as printed"] if source == "paper" else []
    notes = ["; ".join(marks)] if marks else []
    if (
        source == "measured"
        and regime.reference
        and limits(rows, source)[0] < regime.reference[1] < limits(rows, source)[1]
    ):
        notes.append(f"dashed: {regime.reference[0]} on ImageNet-1k as the paper prints it, not measured here")
    if odd := [r for r in rows if source == "paper" and _misprinted(r)]:
        notes.append(
            "† counting the network gives " + ", ".join(f"{scaled(r['macs'], 1e9)} ({r['step']})" for r in odd)
        )
    return notes


def _kinds_of_bars(rows: Sequence[Row], source: str) -> list[str]:
    kinds = {r["kind"] for r in rows}
    if source == "paper":
        return ["hatched: side step, not adopted"] if "side" in kinds else []
    found = {_hatch(r, source) for r in rows}
    words = [
        "pale: side step, change or other training" if kinds & {"side", "variant", "other"} else "",
        "striped: control" if "control" in kinds else "",
    ]
    words += [
        "hatched: the change is not resolved" if UNRESOLVED in found else "",
        "crossed, ‡: confounded, more than the declared change differs" if CONFOUNDED in found else "",
    ]
    return [w for w in words if w]


def _hatch(row: Row, source: str) -> str:
    """The paper's side steps are hatched; measured bars show how sure the change is."""
    if source == "paper":
        return HATCH[row["kind"]]
    if row["proof"] and row["proof"]["status"] != "controlled":
        return CONFOUNDED
    return (
        UNRESOLVED
        if row["verdict"] == "unresolved" and row["kind"] != "control"
        else HATCH["control"]
        if row["kind"] == "control"
        else ""
    )


def _misprinted(row: Row) -> bool:
    """Whether the printed multiply-adds differ from counted ones by more than rounding and the smallest layers explain."""
    return row["paper_gflops"] is not None and abs(row["paper_gflops"] - row["macs"] / 1e9) > 0.02


def _bands(page: Axes, rows: Sequence[Row], width: float, *, named: bool) -> None:
    """Groups: every other one shaded across the page, its name at the left where there are several."""
    start = 0
    for i, (group, members) in enumerate(groupby(rows, key=lambda r: r["group"])):
        end = start + len(list(members))
        page.axhspan(start - 0.5, end - 0.5, color=_shade(i), linewidth=0, zorder=0)
        page.plot([0, width], [start - 0.5] * 2, color="#bdbdbd", linewidth=0.5, zorder=1, clip_on=False)
        if named:
            page.text(
                0.06,
                (start + end - 1) / 2,
                group.replace(" ", "\n", 1),
                size=SMALL,
                weight="bold",
                color=QUIET,
                va="center",
                linespacing=1.1,
            )
        start = end
    page.plot([0, width], [start - 0.5] * 2, color="#bdbdbd", linewidth=0.5, zorder=1, clip_on=False)


def _shade(group: int) -> str:
    """The background of the i-th group."""
    return BAND if group % 2 else "white"


class Name(NamedTuple):
    """A row's name: where it starts, in inches, and its lines."""

    left: float
    lines: list[str]


def _name(row: Row, start: float) -> Name:
    """Wrapped into what is left of the page; of a study without groups that is more, and up to three lines, for its cells differ in their last words."""
    left = start + (0.12 if row["kind"] in ("side", "variant") else 0.0)
    words = as_change(row["what"]) if row["kind"] == "variant" else row["what"]
    letters = int((GROUPS + NAMES - left - 0.1) / (LETTER if start == GROUPS else LETTER * SMALL / NORMAL))
    return Name(
        left,
        textwrap.wrap(words, letters, max_lines=2 if start == GROUPS else 3, placeholder=" …", break_on_hyphens=False),
    )


def _values(row: Row, source: str) -> tuple[float | None, float | None, list[float]]:
    """(top-1, standard deviation, single seeds) of the bar."""
    return (
        (row["paper_top1"], row["paper_std"], [])
        if source == "paper"
        else (row["top1"], row["std"], list(row["by_seed"].values()))
    )


def limits(rows: Sequence[Row], source: str) -> tuple[float, float]:
    """The axis: starts at a round number so far below the smallest value that its bar holds its number, ends a little above the largest."""
    drawn = [_values(r, source) for r in rows]
    low = min((min([mean - (std or 0), *seeds]) for mean, std, seeds in drawn if mean is not None), default=0.0)
    high = max((max([mean + (std or 0), *seeds]) for mean, std, seeds in drawn if mean is not None), default=100.0)
    span = max(high - low, 0.5)
    unit = 10 ** math.floor(math.log10(span))
    number = (NUMBER * len("99.99 ± 9.99") + ASIDE) / BARS  # the share of the axis that a number beside a whisker takes
    start = max(0.0, math.floor((high - span / (1 - number * ABOVE)) / unit) * unit)
    return start, start + (high - start) * ABOVE


def _accuracies(axes: Axes, rows: Sequence[Row], regime: Regime, source: str) -> None:
    left, right = limits(rows, source)
    axes.set_xlim(left, right)
    axes.patch.set_alpha(0)
    groups = list(dict.fromkeys(row["group"] for row in rows))
    for y, row in enumerate(rows):
        _bar(axes, y, row, source, left, (right - left) / BARS, _shade(groups.index(row["group"])))
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(False)
    ticks = [t for t in _ticks(left, right) if t <= 100]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks], size=SMALL, color=INK)
    axes.tick_params(length=2.5, width=0.6, pad=2)
    label = f"{source} top-1 (%)" if left == 0 else f"{source} top-1 (%); the axis starts at {left:g}, not at 0"
    axes.set_xlabel(label, size=SMALL, color=INK, labelpad=2)
    if not _reference(axes, regime, left, right):
        _head(axes, (left + right) / 2, f"{source} top-1 (%)")


def _ticks(left: float, right: float) -> list[float]:
    """Four to eight round numbers."""
    rough = (right - left) / 6
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    first = math.ceil(left / step - 1e-9)
    return [round(step * i, 6) for i in range(first, math.floor(right / step + 1e-9) + 1)]


def _bar(axes: Axes, y: int, row: Row, source: str, left: float, inch: float, paper: str) -> None:
    """One row's bar, whisker, seeds and number; `inch` is an inch in points of accuracy, `paper` the colour behind."""
    mean, std, seeds = _values(row, source)
    if mean is None:
        text = (
            "not defined"
            if row["kind"] == "undefined"
            else f"0 of {row['planned']} finished"
            if row.get("planned")
            else "not run"
        )
        axes.text(
            left + 0.06 * inch, y, text, size=SMALL, color=QUIET, style="italic", va="center", bbox=_behind(paper)
        )
        return
    hatch = _hatch(row, source)
    adopted = row["kind"] == "step" and not hatch
    face = BAR if adopted else MIDDLE if row["kind"] == "step" else TINT
    axes.barh(
        y,
        mean - left,
        left=left,
        height=0.68,
        color=face,
        edgecolor=INK if row["kind"] == "step" else BAR,
        linewidth=0.5,
        hatch=hatch,
        zorder=2,
    )
    if std is not None:
        for colour, thick in (("white", 2.2), (INK, 0.9)):  # a light rim keeps the whisker visible inside a dark bar
            axes.errorbar(mean, y, xerr=std, color=colour, linewidth=thick, capsize=2, capthick=thick, zorder=4)
    if len(seeds) > 1:
        axes.plot(
            seeds,
            [y - 0.19] * len(seeds),
            "o",
            markersize=2.4,
            markerfacecolor="white",
            markeredgecolor=INK,
            markeredgewidth=0.5,
            zorder=5,
        )
    text = spread(mean, std)
    inner, outer = min([mean - (std or 0), *seeds]) - ASIDE * inch, max([mean + (std or 0), *seeds]) + ASIDE * inch
    fits = inner - left > NUMBER * len(text) * inch
    colour, behind = ("white" if adopted else INK, face) if fits else (INK, paper)
    weight = "bold" if adopted else "normal"
    axes.text(
        inner if fits else outer,
        y,
        text,
        size=NORMAL,
        color=colour,
        ha="right" if fits else "left",
        va="center",
        weight=weight,
        zorder=6,
        bbox=_behind(behind),
    )


def _behind(colour: str) -> dict[str, Any]:
    """A box that keeps hatching and the Transformer's line off a text."""
    return {"facecolor": colour, "edgecolor": "none", "pad": 0.8}


def _reference(axes: Axes, regime: Regime, left: float, right: float) -> bool:
    """The Transformer's dashed line, where the regime has one and the axis reaches it; says whether it was drawn."""
    if regime.reference is None or not left < regime.reference[1] < right:
        return False
    name, top1, gflops = regime.reference
    axes.axvline(top1, color=INK, linewidth=1.0, linestyle=(0, (4, 2.5)), zorder=1)
    label = f"{name} (paper): {top1:.2f} %, {gflops:.2f} G"
    half = len(label) * LETTER * SMALL / NORMAL / 2 * (right - left) / BARS
    _head(axes, min(max(top1, left + half), right - half), label)
    return True


def _head(axes: Axes, x: float, text: str, align: str = "center") -> None:
    axes.text(x, -0.62, text, size=SMALL, color=INK, ha=align, va="bottom")


def _changes(page: Axes, rows: Sequence[Row], source: str) -> None:
    right = GROUPS + NAMES + BARS + CHANGE - 0.06
    page.text(right, -0.62, "change", size=SMALL, color=INK, ha="right", va="bottom")
    for y, row in enumerate(rows):
        mark = "‡" if source != "paper" and _hatch(row, source) == CONFOUNDED else ""
        page.text(
            right,
            y,
            signed(row["paper_change" if source == "paper" else "change"]) + mark,
            size=NORMAL,
            color=INK,
            ha="right",
            va="center",
        )


def _costs(axes: Axes, rows: Sequence[Row], source: str) -> None:
    """Multiply-adds: a thin bar from 0 under its number."""
    costs = [((row["paper_gflops"] or 0) * 1e9 if source == "paper" else row["macs"]) for row in rows]
    most = max((c for c in costs if c), default=1e9)
    unit, name = (1e9, "GMACs") if most >= 1e8 else (1e6, "MMACs")
    axes.set_axis_off()
    axes.set_xlim(0, most)
    _head(axes, 0, name, "left")
    for y, (row, cost) in enumerate(zip(rows, costs, strict=True)):
        if cost:
            mark = "†" if source == "paper" and _misprinted(row) else ""
            axes.text(0, y - 0.08, scaled(cost, unit) + mark, size=NORMAL, color=INK, va="center")
            axes.barh(
                y + 0.3, cost, height=0.13, color=QUIET if row["kind"] == "step" else "#b0b0b0", linewidth=0, zorder=2
            )


def _runs(page: Axes, rows: Sequence[Row]) -> None:
    right = GROUPS + NAMES + BARS + CHANGE + COSTS + RUNS
    page.text(right, -0.62, "finished", size=SMALL, color=INK, ha="right", va="bottom")
    for y, row in enumerate(rows):
        page.text(
            right,
            y,
            f"{row['n']} of {row['planned']}" if row["planned"] else "–",
            size=NORMAL,
            color=INK,
            ha="right",
            va="center",
        )


def _content(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(content, format=kind, dpi=DPI, metadata=metadata)
    return content.getvalue()


def _save(figure: Figure, path: Path, kind: str) -> Path:
    write_bytes(path, _content(figure, kind))
    return path
