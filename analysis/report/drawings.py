"""The report's figures: as files of their own, and as parts of the page with a text alternative each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.attribution.shares import Attribution
from analysis.figures.attribution import attribution_figure, unit_of
from analysis.figures.axes import Scales, has_curves, numbers
from analysis.figures.cost import cost_figure, on_front
from analysis.figures.curves import Panel, curves_svg, scales_of
from analysis.figures.style import StyledFigure
from analysis.figures.svg import inline
from analysis.report.phrases import score_text, with_unit
from analysis.report.view import View
from analysis.results.analyse import seed_order
from analysis.results.costs import Measure, Point, comparable, measures, points
from analysis.results.results import Analysis
from analysis.study import DEVICE_HOURS, Run, Study
from analysis.wording import number, one_line, spread
from roadmap.runs.metric import Metric


@dataclass(frozen=True)
class Drawing:
    """A figure of the page: `svg` is markup, `text` a caption."""

    svg: str
    text: str


def figure_files(study: Study, analysis: Analysis, found: Sequence[View], shares: Attribution | None) -> dict[str, str]:
    """File name -> content.

    Cost.svg, curves.svg where runs hold curves, attribution.svg where there is an attribution.
    """
    files = {"cost.svg": cost_figure(analysis, costs_of(study, analysis)).svg()}
    panels = [_panel(view) for view in found if any(map(has_curves, view.behind))]
    if panels:
        files["curves.svg"] = curves_svg(panels, analysis.metric)
    if shares and shares.values:
        files["attribution.svg"] = attribution_figure(shares.values, shares.metric).svg()
    return files


def hours_name(study: Study, metric: Metric) -> str:
    """'GPU-hours' or 'core-hours' by the devices of the finished runs, 'device-hours' where they
    are mixed or unknown.
    """
    units = {run.hours.unit for run in study.runs if run.finished(metric)}
    return units.pop() if len(units) == 1 else DEVICE_HOURS


def costs_of(study: Study, analysis: Analysis) -> tuple[Measure, ...]:
    """The costs that the study's records hold."""
    return measures(analysis.results, hours_name(study, analysis.metric))


def ladder_drawing(figure: StyledFigure, metric: Metric, found: Sequence[View]) -> Drawing:
    """The ladder's figure."""
    measured = [view for view in found if view.result.score.mean is not None]
    means = [f"{view.name} {score_text(view.result)} (n = {view.result.n})" for view in measured]
    beside = "with the change, the multiply-adds and the finished runs beside it"
    alt = (
        f"Bars of {in_unit(metric)}, one per row, {beside}: {'; '.join(means) or 'no run finished'}. "
        "The table holds the same numbers."
    )
    return Drawing(inline(figure.svg(), "ladder", alt), "One bar a row, from the ladder's start down.")


def in_unit(metric: Metric) -> str:
    """'top-1 in percent', 'test loss in nats'."""
    unit = "percent" if metric.proportion else metric.unit
    return f"{metric.title} in {unit}" if unit else metric.title


def cost_drawings(study: Study, analysis: Analysis, found: Sequence[View]) -> list[Drawing]:
    """One panel a cost, its Pareto front named."""
    return [_cost_drawing(measure, analysis, found) for measure in costs_of(study, analysis)]


def _cost_drawing(measure: Measure, analysis: Analysis, found: Sequence[View]) -> Drawing:
    shown = points(analysis.results, measure)
    best = on_front(shown)
    names = "; ".join(_point_text(point, measure, analysis, found) for point in best)
    front = f"Pareto front of the means: {names}." if best else f"{measure.title}: not recorded."
    alt = f"{analysis.metric.capital} against {measure.title}, {len(shown)} rows. {front}"
    svg = cost_figure(analysis, [measure]).svg()
    return Drawing(inline(svg, f"cost-{measure.key.replace('_', '-')}", alt), front)


def _point_text(point: Point, measure: Measure, analysis: Analysis, found: Sequence[View]) -> str:
    score = with_unit(spread(point.score, point.std, analysis.metric.decimals), analysis.metric)
    cost = measure.text(point.cost * measure.unit)
    return f"{found[point.index].name} ({cost}, {score}, n = {analysis.results[point.index].n})"


def left_out(analysis: Analysis, found: Sequence[View]) -> list[tuple[str, list[str]]]:
    """(why, rows with a mean that share no axis with the others)."""
    same, alike = comparable(analysis.results), comparable(analysis.results, machine=True)
    measured = [i for i, view in enumerate(found) if view.result.score.mean is not None]
    other_data = [found[i].name for i in measured if i not in same]
    other_machine = [found[i].name for i in same if i not in alike]
    machines = "Not drawn beside images/s and hours, for they were trained on another machine or on several"
    whys = (("Not drawn, for they were tested on other data", other_data), (machines, other_machine))
    return [(why, names) for why, names in whys if names]


def curve_drawings(found: Sequence[View], metric: Metric) -> list[Drawing]:
    """One panel a row whose runs hold curves, all on the same axes."""
    shown = [view for view in found if any(map(has_curves, view.behind))]
    scales = scales_of([_panel(view) for view in shown], metric)
    return [_curve_drawing(view, metric, scales) for view in shown]


def _curve_drawing(view: View, metric: Metric, scales: Scales) -> Drawing:
    svg = curves_svg([_panel(view)], metric, scales)
    return Drawing(inline(svg, f"curves-{view.key}", _curves_alt(view, metric)), "")


def _panel(view: View) -> Panel:
    runs = sorted(view.behind, key=seed_order)
    seeds = list(dict.fromkeys(run.seed for run in runs))
    return Panel(f"{view.mark}  {one_line(view.result.what)}", list(filter(has_curves, runs)), seeds)


def _curves_alt(view: View, metric: Metric) -> str:
    """Where each line ends: its last loss and score."""
    ends = [_end(run, metric) for run in view.behind if has_curves(run)]
    return f"Training loss and {metric.title} by epoch of {view.name}: {'; '.join(ends)}."


def _end(run: Run, metric: Metric) -> str:
    shown = (
        ("train_loss", "loss", 2),
        (metric.curve, metric.title, metric.decimals),
        (metric.averaged_curve, f"{metric.title} of the averaged weights", metric.decimals),
    )
    parts: list[str] = []
    for name, words, decimals in shown:
        if values := numbers(run, name):
            parts.append(f"{words} {number(values[-1], decimals)}")
    status = "" if run.finished(metric) else f" ({run.status}, not averaged)"
    epoch = (run.record.curves or {})["epoch"][-1]
    return f"seed {run.seed}{status} ends after epoch {epoch} with {', '.join(parts) or 'no value'}"


def attribution_drawing(shares: Attribution) -> Drawing:
    """The figure of the Shapley values."""
    metric = shares.metric
    values = [f"{one_line(value.player)} {value.value:+.{metric.decimals}f}" for value in shares.values]
    alt = f"Shapley values in {unit_of(metric)}: {'; '.join(values)}. The table holds their intervals."
    return Drawing(inline(attribution_figure(shares.values, metric).svg(), "attribution", alt), "")
