"""The columns of the page's table: what they show, and by what they sort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.report.phrases import change_text, count_text, p_text, paper_text, score_text
from analysis.report.view import View
from analysis.stats.comparisons import GAIN, LOSS, UNRESOLVED
from analysis.wording import NONE, median_text, number, scaled, signed
from roadmap.config.metric import Metric

Value = float | str | None
ORDER = {GAIN: 0, UNRESOLVED: 1, LOSS: 2}


@dataclass(frozen=True)
class Column:
    """A column: `text` is shown, `value` sorts (None last); `about` explains the heading, `style` is its class in the page."""

    heading: str
    about: str
    text: Callable[[View], str]
    value: Callable[[View], Value]
    style: str = "number"


def columns(found: Sequence[View], metric: Metric, hours: str) -> list[Column]:
    """The table's columns after the row's heading; those that no row can fill are left out.

    hours: the name of the device-hours.
    """
    regime = found[0].result.paper.regime if found else ""
    every = [*_scores(metric), *_judgements(metric), *_costs(hours), *_printed(metric, regime)]
    return [column for column in every if any(column.value(view) is not None for view in found)]


def _scores(metric: Metric) -> list[Column]:
    return [
        Column("what changed", "", lambda v: v.title, lambda v: v.title, style="what"),
        Column(
            metric.heading,
            "mean ± standard deviation (n − 1) over the finished seeds",
            lambda v: score_text(v.result),
            lambda v: v.result.score.mean,
        ),
        Column("n", "finished of planned runs", lambda v: count_text(v.result), lambda v: v.result.n),
    ]


def _judgements(metric: Metric) -> list[Column]:
    better = "" if metric.higher_is_better else "; less is better"
    return [
        Column(
            "change [95 %]",
            f"{metric.difference_unit} against the row's parent, with the 95 % interval{better}",
            lambda v: change_text(v.result),
            lambda v: v.result.effect.value,
        ),
        Column(
            "p (Holm)",
            "two-sided, adjusted for all changes of the ladder after Holm",
            lambda v: p_text(v.result.effect.p_holm),
            lambda v: v.result.effect.p_holm,
        ),
        Column(
            "verdict",
            "gain or loss where the adjusted p is below 0.05, else unresolved",
            lambda v: v.verdict,
            lambda v: ORDER.get(v.result.effect.verdict or ""),
            style="words",
        ),
        Column(
            "proof",
            "controlled: only what was declared differs from the parent",
            lambda v: v.proof.label if v.proof else NONE,
            lambda v: v.proof.status if v.proof else None,
            style="words",
        ),
        Column("95 % of mean", "95 % interval of the mean", _interval, lambda v: v.result.score.low),
    ]


def _costs(hours: str) -> list[Column]:
    return [
        Column(
            "params (M)",
            "parameters in millions",
            lambda v: scaled(v.result.params, 1e6),
            lambda v: v.result.params,
        ),
        Column(
            "GMACs",
            "multiply-adds of one image, in billions",
            lambda v: scaled(v.result.macs, 1e9),
            lambda v: v.result.macs,
        ),
        Column(
            "ms an image",
            "latency of one image in evaluation: median and quartiles",
            _latency,
            lambda v: v.result.latency.ms if v.result.latency else None,
        ),
        Column(
            "images/s",
            "in training, mean over the finished runs; none where they ran on different machines",
            lambda v: _whole(v.result.speed.images_per_second),
            lambda v: v.result.speed.images_per_second,
        ),
        Column(
            f"{hours} a run",
            "mean over the finished runs, of all devices together",
            lambda v: scaled(v.result.speed.hours, 1),
            lambda v: v.result.speed.hours,
        ),
    ]


def _printed(metric: Metric, regime: str) -> list[Column]:
    return [
        Column(
            f"paper ({metric.unit})" if metric.unit else "paper",
            f"as printed, regime {regime}",
            lambda v: paper_text(v.result),
            lambda v: v.result.paper.score,
        ),
        Column(
            "paper's change",
            "as printed",
            lambda v: signed(v.result.paper.effect, metric.decimals),
            lambda v: v.result.paper.effect,
        ),
    ]


def _interval(view: View) -> str:
    score, decimals = view.result.score, view.result.metric.decimals
    if score.low is None or score.high is None:
        return NONE
    return f"{number(score.low, decimals)} to {number(score.high, decimals)}"


def _latency(view: View) -> str:
    timed = view.result.latency
    return median_text(timed.ms, timed.low, timed.high) if timed else NONE


def _whole(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}".replace(",", " ")
