"""A study's analysis -> report.html: one page that needs no network, no other file and, but for sorting, no script.

The same study gives the same bytes: no dates, no random ids. Everything that a record says is escaped
by the template; `analysis.report.render` states the page's policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from analysis.attribution.shapley import Interaction, Value
from analysis.attribution.shares import Attribution, MissingCell
from analysis.figures.attribution import interval_text, unit_of
from analysis.figures.style import StyledFigure
from analysis.report import drawings, latex, tables
from analysis.report.caption import Caption
from analysis.report.columns import columns
from analysis.report.drawings import Drawing
from analysis.report.headline import headline, warnings
from analysis.report.phrases import verdict_text
from analysis.report.render import render
from analysis.report.view import View
from analysis.results.results import Analysis
from analysis.stats.comparisons import GAIN, LOSS, UNRESOLVED
from analysis.study import Study
from analysis.wording import one_line, signed, signed_interval
from roadmap.config.errors import RoadmapError
from roadmap.runs.metric import Metric

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a page is made of.

    frame   of the results, as tables are written from it
    views   of the results, a row each
    ladder  the ladder's figure
    """

    study: Study
    analysis: Analysis
    caption: Caption
    frame: pd.DataFrame
    views: Sequence[View]
    ladder: StyledFigure
    attribution: Attribution | None = None


class Group(NamedTuple):
    """The rows of one verdict, with its name and what it means."""

    name: str
    meaning: str
    rows: list[View]


@dataclass(frozen=True, kw_only=True)
class AttributionView:
    """An attribution as the page shows it: texts, with the values by which tables sort."""

    headline: str
    orders: str
    unit: str
    values: list[tuple[str, str, float]]
    interactions: list[tuple[str, str, str, float | None]]
    missing: list[tuple[str, str]]
    notes: list[str]
    ids: list[str]
    drawing: Drawing | None


def page(content: Content, *, refresh: int | None = None) -> str:
    """Write the page of one study.

    With `refresh` it fetches itself every so many seconds, for a server that makes it anew.
    Raises RoadmapError for a refresh below one second.
    """
    if refresh is not None and refresh < 1:
        raise RoadmapError(
            f"page.refresh is {refresh}; legal: whole seconds from 1, or none; wait at least a second between two looks"
        )
    study, analysis, caption, found = content.study, content.analysis, content.caption, content.views
    metric = analysis.metric
    return render(
        "report.html.jinja",
        refresh=refresh,
        metric=metric,
        signed=signed,
        verdict_text=verdict_text,
        title=caption.title,
        question=one_line(study.question),
        sentences=headline(found, caption.runs),
        warnings=warnings(found),
        facts=caption.facts,
        problems=caption.problems,
        where=_rows_of_runs(found),
        undefined=_undefined(study),
        views=found,
        crossed=caption.crossed,
        columns=columns(found, metric, drawings.hours_name(study, metric)),
        groups=_groups(found, metric),
        ladder=drawings.ladder_drawing(content.ladder, metric, found),
        costs=drawings.cost_drawings(study, analysis, found),
        left_out=drawings.left_out(analysis, found),
        curves=drawings.curve_drawings(found, metric),
        attribution=content.attribution and _attribution(content.attribution),
        downloads=_downloads(content),
    )


def _rows_of_runs(found: Sequence[View]) -> dict[str, View]:
    """The row that each run stands behind."""
    return {run.id: view for view in found for run in view.runs}


def _undefined(study: Study) -> list[tuple[str, str]]:
    """Planned cells that cannot be built, and why."""
    return [(one_line(cell.label), one_line(cell.reason)) for cell in study.undefined]


def _downloads(content: Content) -> list[tuple[str, str]]:
    """The page carries its own table files."""
    metric = content.analysis.metric
    csv, tex = tables.csv(content.frame, metric), latex.latex(content.frame, metric, content.caption)
    return [("table.csv", data_link("text/csv", csv)), ("table.tex", data_link("application/x-tex", tex))]


def data_link(kind: str, content: str) -> str:
    """The content as a link that saves it."""
    return f"data:{kind};charset=utf-8,{quote(content)}"


def _groups(found: Sequence[View], metric: Metric) -> list[Group]:
    """The rows of each verdict, then those without one, then controls."""
    measured = [view for view in found if view.result.effect.value is not None]
    changes = [view for view in measured if not view.is_control]
    controls = [view for view in measured if view.is_control]
    silent = [view for view in changes if not view.result.effect.verdict]
    more, less = ("raises", "lowers") if metric.higher_is_better else ("lowers", "raises")
    groups = [
        Group("Gain", f"The change {more} {metric.title}: p is below 0.05 after Holm.", _of(changes, GAIN)),
        Group("Loss", f"The change {less} {metric.title}: p is below 0.05 after Holm.", _of(changes, LOSS)),
        Group(
            "Unresolved",
            "These runs do not tell it from no change; that is no proof of no change.",
            _of(changes, UNRESOLVED),
        ),
    ]
    if silent:
        without = "Measured, but confounded, unproven, unchanged or with no known error"
        groups.append(Group("No verdict", f"{without}: no verdict on the declared change.", silent))
    if controls:
        nothing = "Nothing differs on purpose: what these resolve is a false positive, and 5 % are expected to."
        groups.append(Group("Controls", nothing, controls))
    return groups


def _of(changes: Sequence[View], verdict: str) -> list[View]:
    return [view for view in changes if view.result.effect.verdict == verdict]


def _attribution(shares: Attribution) -> AttributionView:
    metric = shares.metric
    return AttributionView(
        headline=one_line(shares.headline),
        orders=one_line(shares.orders),
        unit=unit_of(metric),
        values=list(map(_value, shares.values, repeat(metric))),
        interactions=list(map(_interaction, shares.interactions, repeat(metric))),
        missing=list(map(_missing, shares.missing)),
        notes=list(map(one_line, shares.notes)),
        ids=list(map(one_line, shares.ids)),
        drawing=drawings.attribution_drawing(shares) if shares.values else None,
    )


def _value(value: Value, metric: Metric) -> tuple[str, str, float]:
    return one_line(value.player), interval_text(value, metric), value.value


def _interaction(pair: Interaction, metric: Metric) -> tuple[str, str, str, float | None]:
    text = "no square of trained cells"
    if pair.value is not None:
        text = signed_interval(pair.value, pair.low, pair.high, metric.decimals)
    return one_line(pair.a), one_line(pair.b), text, pair.value


def _missing(cell: MissingCell) -> tuple[str, str]:
    return one_line(cell.cell), one_line(cell.cost)
