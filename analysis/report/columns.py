"""The columns of the page's table: what they show, and by what they sort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.report.phrases import change_text, count_text, p_text, paper_text, score_text
from analysis.report.view import View
from analysis.stats.comparisons import GAIN, LOSS, UNRESOLVED
from analysis.wording import NONE, median_text, number, scaled, signed
from roadmap.runs.metric import Metric

ORDER = {GAIN: 0, UNRESOLVED: 1, LOSS: 2}


class Cell(NamedTuple):
    """What a cell shows, and the value by which its column is sorted; None comes last."""

    text: str
    value: float | str | None


@dataclass(frozen=True)
class Column:
    """A column of the page's table.

    about   explains the heading
    style   its class in the page
    """

    heading: str
    about: str
    cell: Callable[[View], Cell]
    style: str = "number"

    def is_filled(self, found: Sequence[View]) -> bool:
        """Whether any row has a value of it."""
        return any(self.cell(view).value is not None for view in found)


def columns(found: Sequence[View], metric: Metric, hours: str) -> list[Column]:
    """The table's columns after the row's heading; those that no row can fill are left out.

    hours: the name of the device-hours.
    """
    regime = found[0].result.paper.regime if found else ""
    every = [*_scores(metric), *_judgements(metric), *_costs(hours), *_printed(metric, regime)]
    return [column for column in every if column.is_filled(found)]


def _scores(metric: Metric) -> list[Column]:
    return [
        Column("what changed", "", _what, style="what"),
        Column(metric.heading, "mean ± standard deviation (n − 1) over the finished seeds", _score),
        Column("n", "finished of planned runs", _count),
    ]


def _judgements(metric: Metric) -> list[Column]:
    better = "" if metric.higher_is_better else "; less is better"
    against = f"{metric.difference_unit} against the row's parent, with the 95 % interval{better}"
    verdict = "gain or loss where the adjusted p is below 0.05, else unresolved"
    return [
        Column("change [95 %]", against, _change),
        Column("p (Holm)", "two-sided, adjusted for all changes of the ladder after Holm", _p),
        Column("verdict", verdict, _verdict, style="words"),
        Column("proof", "controlled: only what was declared differs from the parent", _proof, style="words"),
        Column("95 % of mean", "95 % interval of the mean", _interval),
    ]


def _costs(hours: str) -> list[Column]:
    speed = "in training, mean over the finished runs; none where they ran on different machines"
    return [
        Column("params (M)", "parameters in millions", _params),
        Column("GMACs", "multiply-adds of one image, in billions", _macs),
        Column("ms an image", "latency of one image in evaluation: median and quartiles", _latency),
        Column("images/s", speed, _speed),
        Column(f"{hours} a run", "mean over the finished runs, of all devices together", _hours),
    ]


def _printed(metric: Metric, regime: str) -> list[Column]:
    heading = f"paper ({metric.unit})" if metric.unit else "paper"
    return [
        Column(heading, f"as printed, regime {regime}", _paper),
        Column("paper's change", "as printed", _paper_change),
    ]


def _what(view: View) -> Cell:
    return Cell(view.title, view.title)


def _score(view: View) -> Cell:
    return Cell(score_text(view.result), view.result.score.mean)


def _count(view: View) -> Cell:
    return Cell(count_text(view.result), view.result.n)


def _change(view: View) -> Cell:
    return Cell(change_text(view.result), view.result.effect.value)


def _p(view: View) -> Cell:
    p = view.result.effect.p_holm
    return Cell(p_text(p), p)


def _verdict(view: View) -> Cell:
    return Cell(view.verdict, ORDER.get(view.result.effect.verdict or ""))


def _proof(view: View) -> Cell:
    return Cell(view.proof.label, view.proof.status) if view.proof else Cell(NONE, None)


def _interval(view: View) -> Cell:
    score, decimals = view.result.score, view.result.metric.decimals
    if score.low is None or score.high is None:
        return Cell(NONE, None)
    return Cell(f"{number(score.low, decimals)} to {number(score.high, decimals)}", score.low)


def _params(view: View) -> Cell:
    return Cell(scaled(view.result.params, 1e6), view.result.params)


def _macs(view: View) -> Cell:
    return Cell(scaled(view.result.macs, 1e9), view.result.macs)


def _latency(view: View) -> Cell:
    timed = view.result.latency
    return Cell(median_text(timed.ms, timed.low, timed.high), timed.ms) if timed else Cell(NONE, None)


def _speed(view: View) -> Cell:
    images = view.result.speed.images_per_second
    return Cell(NONE if images is None else f"{images:,.0f}".replace(",", " "), images)


def _hours(view: View) -> Cell:
    return Cell(scaled(view.result.speed.hours, 1), view.result.speed.hours)


def _paper(view: View) -> Cell:
    return Cell(paper_text(view.result), view.result.paper.score)


def _paper_change(view: View) -> Cell:
    effect = view.result.paper.effect
    return Cell(signed(effect, view.result.metric.decimals), effect)
