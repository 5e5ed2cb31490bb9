"""The report's figures beside the ladder: as files of their own, and as parts of the page with a text alternative each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.figures.attribution import attribution_svg
from analysis.figures.cost import cost_svg
from analysis.figures.curves import Panel, curves_svg, has_curves, shared_scales
from analysis.figures.svg import inline
from analysis.load import DEVICE_HOURS, Study, device_hours, outcome, seed_order
from analysis.report.view import View, views
from analysis.wording import one_line, spread
from analysis.results.costs import Measure, comparable, measures, points
from analysis.results.rows import Row
from roadmap.runs.record import FINISHED


@dataclass(frozen=True)
class Drawing:
    """A figure of the page: `svg` is markup, `text` a caption."""

    svg: str
    text: str


def figure_files(
    study: Study, rows: Sequence[Row], attribution: Mapping[str, Any] | None = None, regime: str = ""
) -> dict[str, bytes]:
    """File name -> content: cost.svg, curves.svg where runs hold curves, attribution.svg where there is an attribution."""
    found = views(study, rows, regime)
    files = {"cost.svg": cost_svg(rows, measures(rows, hours_name(study)))}
    if panels := [_panel(v) for v in found if any(map(has_curves, v.entries))]:
        files["curves.svg"] = curves_svg(panels)
    if attribution and attribution.get("values"):
        files["attribution.svg"] = attribution_svg(attribution["values"])
    return files


def hours_name(study: Study) -> str:
    """'GPU-hours' or 'core-hours' by the devices of the finished runs, 'device-hours' where they are mixed or unknown."""
    units = {device_hours(t)[1] for t in study.trials if outcome(t) == FINISHED}
    return units.pop() if len(units) == 1 else DEVICE_HOURS


def ladder_drawing(svg: str, found: Sequence[View]) -> Drawing:
    means = "; ".join(
        f"{v.name} {spread(v.row['top1'], v.row['std'])} (n = {v.row['n']})" for v in found if v.row["top1"] is not None
    )
    alt = f"Bars of top-1 in percent, one per row, with the change, the multiply-adds and the finished runs beside it: {means or 'no run finished'}. The table holds the same numbers."
    return Drawing(inline(svg, "ladder", alt), "One bar a row, from the baseline down.")


def cost_drawings(study: Study, rows: Sequence[Row], found: Sequence[View]) -> list[Drawing]:
    """One panel a cost, its Pareto front named."""
    return [_cost_drawing(measure, rows, found) for measure in measures(rows, hours_name(study))]


def _cost_drawing(measure: Measure, rows: Sequence[Row], found: Sequence[View]) -> Drawing:
    shown = points(rows, measure)
    best = sorted((p for p in shown if p.on_front), key=lambda p: p.cost)
    names = "; ".join(
        f"{found[p.index].name} ({measure.text(p.cost * measure.unit)}, {spread(p.top1, p.std)} %, n = {rows[p.index]['n']})"
        for p in best
    )
    front = f"Pareto front of the means: {names}." if best else f"{measure.title}: not recorded."
    alt = f"Top-1 against {measure.title}, {len(shown)} rows. {front}"
    return Drawing(inline(cost_svg(rows, [measure]).decode(), f"cost-{measure.key.replace('_', '-')}", alt), front)


def left_out(rows: Sequence[Row], found: Sequence[View]) -> list[tuple[str, list[str]]]:
    """(why, rows with a mean that share no axis with the others)."""
    same, alike = comparable(rows), comparable(rows, machine=True)
    other_data = [v.name for i, v in enumerate(found) if v.row["top1"] is not None and i not in same]
    other_machine = [found[i].name for i in same if i not in alike]
    whys = (
        ("Not drawn, for they were tested on other data", other_data),
        ("Not drawn beside images/s and hours, for they were trained on another machine or on several", other_machine),
    )
    return [(why, names) for why, names in whys if names]


def curve_drawings(found: Sequence[View]) -> list[Drawing]:
    """One panel a row whose runs hold curves, all on the same axes."""
    panels = {v.key: _panel(v) for v in found}
    shown = [v for v in found if panels[v.key].runs]
    scales = shared_scales([panels[v.key] for v in shown])
    return [
        Drawing(inline(curves_svg([panels[v.key]], scales).decode(), f"curves-{v.key}", _curves_alt(v)), "")
        for v in shown
    ]


def _panel(view: View) -> Panel:
    title = f"{view.mark}  {one_line(view.row['what'])}"
    entries = sorted(view.entries, key=seed_order)
    return Panel(title, [e for e in entries if has_curves(e)], list(dict.fromkeys(e["seed"] for e in entries)))


def _curves_alt(view: View) -> str:
    """Where each line ends: its last loss and top-1."""
    ends = []
    for run in view.entries:
        if has_curves(run):
            curves = run["curves"]
            parts = [
                f"{words} {values[-1]:.2f}"
                for key, words in (
                    ("train_loss", "loss"),
                    ("top1", "top-1"),
                    ("ema_top1", "top-1 of the averaged weights"),
                )
                if (values := _known(curves.get(key)))
            ]
            status = "" if outcome(run) == FINISHED else f" ({run['status']}, not averaged)"
            ends.append(
                f"seed {run['seed']}{status} ends after epoch {curves['epoch'][-1]} with {', '.join(parts) or 'no value'}"
            )
    return f"Training loss and top-1 by epoch of {view.name}: " + "; ".join(ends) + "."


def _known(values: Sequence[Any] | None) -> list[float]:
    return [v for v in values or [] if v is not None]


def attribution_drawing(values: Sequence[Mapping[str, Any]]) -> Drawing:
    said = "; ".join(f"{one_line(v['player'])} {v['value']:+.2f}" for v in values)
    return Drawing(
        inline(
            attribution_svg(values).decode(),
            "attribution",
            f"Shapley values in points of top-1: {said}. The table holds their intervals.",
        ),
        "",
    )
