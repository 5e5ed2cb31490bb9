"""Results -> table.md, table.csv and the terminal's table; `analysis.report.latex` makes table.tex.

All of them are made from one frame (`analysis.results.frames.results_frame`): the CSV holds its
numbers, the tables that people read the texts that `columns` writes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.report.caption import Caption, Problem
from analysis.report.crossed import CrossTable, effect_mark
from analysis.results.confounds import Status
from analysis.results.results import Role
from analysis.stats.comparisons import UNRESOLVED
from analysis.wording import (
    NONE,
    markdown_text,
    median_text,
    number,
    one_line,
    scaled,
    signed,
    signed_interval,
    spread,
)
from roadmap.runs.metric import Metric
from roadmap.runs.record import HOPELESS

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


RULES = {True: " :-- ", False: " --: "}  # of Markdown: words are set flush left, numbers flush right


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the tables that people read: a heading and a text for each row.

    narrow, narrow_texts   in LaTeX, where they are shorter there
    words   set flush left
    wide    left out where there is little room: `roadmap check` prints the proof too
    """

    heading: str
    texts: list[str]
    narrow: str | None = None
    narrow_texts: list[str] | None = None
    words: bool = False
    wide: bool = False

    @property
    def short_heading(self) -> str:
        """The heading in LaTeX."""
        return self.heading if self.narrow is None else self.narrow

    @property
    def short_texts(self) -> list[str]:
        """The texts in LaTeX."""
        return self.texts if self.narrow_texts is None else self.narrow_texts


def each(frame: pd.DataFrame, write: Callable[..., str], *names: str) -> list[str]:
    """Write one text for each row, from the values of the named columns."""
    return [write(*values) for values in zip(*map(frame.get, names), strict=True)]


def is_of_paper(frame: pd.DataFrame) -> bool:
    """Whether the rows are a paper's own, or none."""
    return not (frame["source"] == "measured").any()


def columns(frame: pd.DataFrame, metric: Metric) -> list[Column]:
    """The readable columns; a paper's own table has no measured ones."""
    if is_of_paper(frame):
        gflops = Column(heading="paper GFLOPs", texts=each(frame, number, "paper_gflops"))
        return [*_shared(frame, metric), gflops, *_printed(frame, metric, metric.unit)]
    shown = [*_shared(frame, metric), *_timed(frame), *_measured(frame, metric)]
    if frame["paper_score"].notna().any():
        regime = str(frame["paper_regime"].iloc[0])
        shown += _printed(frame, metric, ", ".join(filter(None, [metric.unit, regime])))
    failed = Column(heading="failed", texts=each(frame, str, "failed"), narrow="fail")
    missing = Column(heading="missing", texts=each(frame, str, "missing"), narrow="miss")
    return [*shown, failed, missing, *_hopeless(frame)]


def _hopeless(frame: pd.DataFrame) -> list[Column]:
    """The runs that ended early by their own rule, where there are any."""
    texts = each(frame, str, HOPELESS)
    return [Column(heading=HOPELESS, texts=texts)] if frame[HOPELESS].any() else []


def _shared(frame: pd.DataFrame, metric: Metric) -> list[Column]:
    def what(kind: str, text: str, as_change: str, averaged: bool, note: str | None) -> str:
        return _what(kind, text, as_change, note) + (f" ({metric.title} of the EMA)" if averaged else "")

    return [
        Column(
            heading="step",
            texts=each(frame, _step, "kind", "id", "step"),
            narrow="",
            narrow_texts=each(frame, _id, "id"),
            words=True,
        ),
        Column(
            heading="what changed",
            texts=each(frame, what, "kind", "what", "as_change", "averaged", "effect_note"),
            words=True,
        ),
        Column(heading="params (M)", texts=each(frame, _millions, "params"), narrow="M params"),
        Column(heading="GMACs", texts=each(frame, _billions, "macs")),
    ]


def _timed(frame: pd.DataFrame) -> list[Column]:
    """The latency, where any was measured."""
    texts = each(frame, median_text, "latency", "latency_low", "latency_high")
    return [Column(heading="ms an image", texts=texts)] if frame["latency"].notna().any() else []


def _measured(frame: pd.DataFrame, metric: Metric) -> list[Column]:
    def effect(value: float | None, low: float | None, high: float | None, *marks: str) -> str:
        return signed_interval(value, low, high, metric.decimals) + effect_mark(*marks)

    def half_width(value: float | None, low: float | None, high: float | None, *marks: str) -> str:
        if value is None or low is None or high is None:
            return signed(value, metric.decimals)
        half = number((high - low) / 2, metric.decimals)
        return f"{signed(value, metric.decimals)} ± {half}{effect_mark(*marks)}"

    interval = ("effect", "effect_low", "effect_high", "status", "effect_mark")
    return [
        Column(
            heading=f"measured {metric.heading}",
            texts=each(frame, _scores(metric), "mean", "std"),
            narrow=_with_unit("measured", metric.unit),
        ),
        Column(
            heading="n",
            texts=each(frame, _finished, "n", "planned"),
            narrow_texts=each(frame, _finished_of, "n", "planned"),
        ),
        Column(
            heading="change [95 %]",
            texts=each(frame, effect, *interval),
            narrow="change ± 95 %",
            narrow_texts=each(frame, half_width, *interval),
        ),
        Column(
            heading="verdict",
            texts=each(frame, _verdict, "verdict", "status"),
            narrow_texts=each(frame, _short_verdict, "verdict", "status"),
        ),
        Column(heading="proof", texts=each(frame, _proof, "proof"), wide=True),
    ]


def _printed(frame: pd.DataFrame, metric: Metric, unit: str) -> list[Column]:
    """A paper's numbers. unit: what stands behind its title in the heading."""

    def change(value: float | None) -> str:
        return signed(value, metric.decimals)

    return [
        Column(
            heading=_with_unit(f"paper {metric.title}", unit),
            texts=each(frame, _scores(metric), "paper_score", "paper_std"),
            narrow=_with_unit("paper", metric.unit),
        ),
        Column(heading="paper change", texts=each(frame, change, "paper_effect"), narrow="change"),
    ]


def _with_unit(title: str, unit: str) -> str:
    return f"{title} ({unit})" if unit else title


# Texts of single cells ---------------------------------------------------------------------------


def _step(kind: str, id_: str | None, step: str) -> str:
    shown_id = id_ if kind == Role.STEP else None
    return " ".join(word for word in (shown_id, step) if word) or NONE


def _id(id_: str | None) -> str:
    return id_ or ""


def _what(kind: str, text: str, as_change: str, note: str | None) -> str:
    """What a row changed, and as what it counts; `note` says why it cannot be built."""
    what = one_line(text)
    named = {
        Role.SIDE: f"{what} (side step)",
        Role.VARIANT: one_line(as_change),
        Role.CONTROL: f"{what} (control)",
        Role.UNDEFINED: f"{what}: {one_line(note)}",
    }
    return named.get(Role(kind), what)


def _millions(count: int | None) -> str:
    return scaled(count, 1e6)


def _billions(count: int | None) -> str:
    return scaled(count, 1e9)


def _scores(metric: Metric) -> Callable[[float | None, float | None], str]:
    """Return the writer of means with their standard deviations."""
    return lambda mean, std: spread(mean, std, metric.decimals)


def _finished(n: int, planned: int) -> str:
    return f"{n} of {planned}" if planned else "not run"


def _finished_of(n: int, planned: int) -> str:
    return f"{n}/{planned}" if planned else NONE


def _verdict(verdict: str | None, status: str | None) -> str:
    """The verdict; without one, why: 'confounded', 'unproven', 'unchanged'."""
    if verdict:
        return verdict
    return status if status and status != Status.CONTROLLED else NONE


def _short_verdict(verdict: str | None, status: str | None) -> str:
    return "unres." if verdict == UNRESOLVED else _verdict(verdict, status)


def _proof(text: str | None) -> str:
    return one_line(text) if text else NONE


# Markdown ---------------------------------------------------------------------------------------


def markdown(frame: pd.DataFrame, metric: Metric, caption: Caption) -> str:
    """table.md: what a reader must know, the table, then the runs that did not finish."""
    shown = columns(frame, metric)
    facts = [f"- {fact.label}: {markdown_text(fact.text)}" for fact in caption.facts]
    headings = [column.heading for column in shown]
    rules = [RULES[column.words] for column in shown]
    rows = zip(*(column.texts for column in shown), strict=True)
    lines = [f"# {markdown_text(caption.title)}", "", *facts, "", *_markdown_table(headings, rules, rows)]
    if caption.crossed:
        lines += _markdown_crossed(caption.crossed, metric)
    if caption.problems:
        lines += ["", f"## Not averaged: {len(caption.problems)}", ""]
        lines += map(_markdown_problem, caption.problems)
    return "\n".join(lines) + "\n"


def _markdown_problem(problem: Problem) -> str:
    return f"- `{problem.run.replace('`', '')}`: {markdown_text(problem.reason)}"


def _markdown_table(headings: Iterable[str], rules: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    return [_markdown_line(headings), "|" + "|".join(rules) + "|", *map(_markdown_line, rows)]


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def _markdown_crossed(crossed: CrossTable, metric: Metric) -> list[str]:
    title = f"## Crossed: {metric.heading} with its 95 % interval, and the change in the same column"
    rules = [" :-- "] * len(crossed.headings)
    rows = [[arm, *texts] for arm, texts in crossed.rows]
    return ["", title, "", *_markdown_table(crossed.headings, rules, rows)]


DESCRIBED = ("source", "kind", "id", "step", "what", "group", "parent", "params", "macs")


# CSV --------------------------------------------------------------------------------------------


def csv(frame: pd.DataFrame, metric: Metric) -> str:
    """table.csv: numbers unrounded but for the sixth decimal, `measured_` in front of what was measured.

    Seeds, their values and their runs stand in one order, divided by spaces.
    """
    import pandas as pd

    written = frame.assign(proof=each(frame, _proof, "proof"))
    headings = _csv_of_paper(metric) if is_of_paper(frame) else _csv_measured(metric)
    if frame[HOPELESS].any():
        headings |= _same(HOPELESS)
    texts = {heading: each(written, _raw, name) for name, heading in headings.items()}
    return str(pd.DataFrame(texts, dtype=object).to_csv(index=False, lineterminator="\n"))


def _csv_of_paper(metric: Metric) -> dict[str, str]:
    """{the frame's column: the file's}, for a paper's own table."""
    return {**_same(*DESCRIBED), **_csv_printed(metric)}


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _csv_printed(metric: Metric) -> dict[str, str]:
    return {
        "paper_regime": "paper_regime",
        "paper_score": f"paper_{metric.name}",
        "paper_std": "paper_std",
        "paper_effect": "paper_change",
        "paper_gflops": "paper_gflops",
    }


def _csv_measured(metric: Metric) -> dict[str, str]:
    """{the frame's column: the file's}, for measured results."""
    return {
        **_same(*DESCRIBED),
        "averaged": "ema",
        "mean": f"measured_{metric.name}",
        "std": "measured_std",
        "low": "measured_low",
        "high": "measured_high",
        "n": "n",
        "sampling_se": "measured_sampling_se",
        **_same("planned", "failed", "missing"),
        "effect": "measured_change",
        "effect_se": "measured_change_se",
        "effect_low": "measured_change_low",
        "effect_high": "measured_change_high",
        "effect_p": "measured_change_p",
        "effect_method": "change_method",
        "effect_sampling_se": "measured_change_sampling_se",
        **_same("p_holm", "verdict"),
        "latency": "measured_latency",
        "latency_low": "measured_latency_low",
        "latency_high": "measured_latency_high",
        "images_per_second": "measured_images_per_second",
        "hours": "measured_hours",
        **_csv_printed(metric),
        **_same("paper_difference", "paper_z", "proof", "seeds"),
        "values": f"measured_{metric.name}_by_seed",
        "runs": "runs",
    }


def _raw(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(_raw(item) for item in value)
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else one_line(value)


# Terminal ---------------------------------------------------------------------------------------


def terminal(frame: pd.DataFrame, metric: Metric, title: str = "") -> Table:
    """The readable table for the terminal, without the proof, which `roadmap check` prints."""
    from rich.table import Table
    from rich.text import Text

    shown = [column for column in columns(frame, metric) if not column.wide]
    table = Table(title=Text(title) if title else None, title_justify="left")
    for column in shown:
        table.add_column(Text(column.heading), justify="left" if column.words else "right")
    rows = zip(*(column.texts for column in shown), strict=True)
    ends = frame["group"] != frame["group"].shift(-1)
    for cells, last_of_group in zip(rows, ends, strict=True):
        table.add_row(*map(Text, cells), end_section=bool(last_of_group))
    return table
