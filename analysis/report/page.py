"""A study's rows -> report.html: one page that needs no network, no other file and, but for sorting, no script.

The same study gives the same bytes: no dates, no random ids. Everything that a record says is escaped by the template; the page's own policy forbids any
script but its own, whose digest it states, and any request at all.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from analysis.figures.attribution import interval_text
from analysis.load import Study
from analysis.report import drawings as drawn
from analysis.report import tables
from analysis.report.caption import Caption
from analysis.report.headline import headline, warnings
from analysis.report.view import View, columns, verdict_text, views
from analysis.wording import one_line, signed
from analysis.results.rows import Row
from roadmap.config.errors import RoadmapError

if TYPE_CHECKING:
    from jinja2 import Environment


def page(
    study: Study,
    rows: list[Row],
    caption: Caption,
    *,
    attribution: Mapping[str, Any] | None = None,
    ladder_svg: str,
    refresh: int | None = None,
    regime: str = "",
) -> str:
    """The page of one study.

    `ladder_svg` is the content of ladder.svg; `attribution` holds "headline", "values", "interactions", "orders", "missing" and "notes"; with `refresh` the page
    fetches itself every so many seconds, for a server that makes it anew. Raises RoadmapError for a refresh below one second.
    """
    if refresh is not None and refresh < 1:
        raise RoadmapError(
            f"page.refresh is {refresh}; legal: whole seconds from 1, or none; wait at least a second between two looks"
        )
    found = views(study, rows, regime)
    facts = [(label, one_line(text)) for label, text in caption.facts]
    return render(
        "report.html.jinja",
        title=caption.title,
        question=one_line(study.question),
        sentences=headline(found, dict(facts).get("Runs") or _runs(rows)),
        warnings=warnings(found),
        facts=facts,
        problems=caption.problems,
        where={one_line(e["id"]): v for v in found for e in v.entries},
        undefined={one_line(k): one_line(v) for k, v in study.undefined.items()},
        views=found,
        crossed=caption.crossed,
        columns=columns(found, drawn.hours_name(study)),
        groups=_verdict_groups(found),
        ladder=drawn.ladder_drawing(ladder_svg, found),
        costs=drawn.cost_drawings(study, rows, found),
        left_out=drawn.left_out(rows, found),
        curves=drawn.curve_drawings(found),
        attribution=_attribution(attribution),
        downloads=[
            ("table.csv", data_link("text/csv", tables.csv(rows))),
            ("table.tex", data_link("application/x-tex", tables.latex(rows, caption))),
        ],
        refresh=refresh,
    )


def _runs(rows: Sequence[Row]) -> str:
    return f"{sum(r['n'] for r in rows)} of {sum(r['planned'] for r in rows)} runs finished"


def _verdict_groups(found: Sequence[View]) -> list[tuple[str, str, list[View]]]:
    """(name, what it means, rows) of each verdict; a change without one is in the last group."""
    meanings = (
        ("Gain", "The change raises top-1: p is below 0.05 after Holm."),
        ("Loss", "The change lowers top-1: p is below 0.05 after Holm."),
        ("Unresolved", "These runs do not tell it from no change; that is no proof of no change."),
    )
    changes = [v for v in found if v.row["change"] is not None and v.row["kind"] != "control"]
    groups = [(name, meaning, [v for v in changes if v.row["verdict"] == name.lower()]) for name, meaning in meanings]
    silent = [v for v in changes if not v.row["verdict"]]
    controls = [v for v in found if v.row["change"] is not None and v.row["kind"] == "control"]
    groups += (
        [
            (
                "No verdict",
                "Measured, but confounded, unproven, unchanged or with no known error: no verdict on the declared change.",
                silent,
            )
        ]
        if silent
        else []
    )
    return groups + (
        [
            (
                "Controls",
                "Nothing differs on purpose: what these resolve is a false positive, and 5 % are expected to.",
                controls,
            )
        ]
        if controls
        else []
    )


def _attribution(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not given:
        return None
    values = list(given.get("values") or [])
    pairs = list(given.get("interactions") or [])
    return {
        "headline": one_line(given.get("headline") or ""),
        "orders": one_line(given.get("orders") or ""),
        "values": [(one_line(v["player"]), interval_text(v), v["value"]) for v in values],
        "interactions": [
            (
                one_line(p["a"]),
                one_line(p["b"]),
                interval_text(p) if p.get("value") is not None else "no square of trained cells",
                p.get("value"),
            )
            for p in pairs
        ],
        "missing": [(one_line(m["cell"]), one_line(m["cost"])) for m in given.get("missing") or []],
        "notes": [one_line(note) for note in given.get("notes") or []],
        "ids": [one_line(i) for i in given.get("ids") or []],
        "drawing": drawn.attribution_drawing(values) if values else None,
    }


def data_link(kind: str, content: str) -> str:
    """The content as a link that saves it: the page carries its own table files."""
    return f"data:{kind};charset=utf-8,{quote(content)}"


def render(template: str, **values: Any) -> str:
    """A template filled in, with the page's style, scripts and policy."""
    scripts = [_source("page.js")] + ([_source("live.js")] if values.get("refresh") else [])
    digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    connect = "; connect-src 'self'" if values.get("refresh") else ""
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; img-src data:; script-src {digests}{connect}"
    return (
        _environment()
        .get_template(template)
        .render(
            style=_source("page.css"),
            scripts=scripts,
            policy=policy,
            signed=signed,
            verdict_text=verdict_text,
            **values,
        )
    )


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("analysis.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@functools.cache
def _source(name: str) -> str:
    return files("analysis.report").joinpath("templates", name).read_text(encoding="utf-8")
