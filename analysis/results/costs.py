"""What a score costs: each row's multiply-adds, latency, throughput and hours, and the Pareto
front.

On the front are the rows that no other row beats on both. It is one of means: two rows whose
intervals overlap may change places with other seeds, and the wording says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.results.results import Result
from analysis.study import DEVICE_HOURS
from analysis.wording import NONE, scaled

DATA = ("data", "data_name", "data_digest", "image_size", "train_images", "test_images")


@dataclass(frozen=True)
class Measure:
    """A cost of a result.

    key       names it in files and anchors; `title` is its heading, `short` that in a few words
    of        the result's cost, None where it was not measured
    unit      the factor to the printed unit
    more_is_better   as for images/s
    of_machine       whether it depends on the machine that trained
    """

    key: str
    title: str
    of: Callable[[Result], float | None]
    unit: float = 1.0
    more_is_better: bool = False
    of_machine: bool = False
    short: str = ""

    @property
    def name(self) -> str:
        return self.short or self.title

    @property
    def best(self) -> str:
        return "most" if self.more_is_better else "least"

    def text(self, value: float | None) -> str:
        if value is None:
            return NONE
        return f"{value:.0f}" if self.more_is_better and value >= 100 else scaled(value, self.unit)


@dataclass(frozen=True)
class Point:
    """A row with a mean and a cost.

    `index` of the row, `mark` its short label, `cost` in the measure's unit, `score` and `std` in
    the metric's.
    """

    index: int
    mark: str
    cost: float
    score: float
    std: float | None
    on_front: bool


def measures(results: Sequence[Result], hours: str = DEVICE_HOURS) -> tuple[Measure, ...]:
    """The costs of the report, latency only where it was measured.

    `hours` names whose were counted.
    """
    spent = f"{hours[0].upper()}{hours[1:]}"
    macs = Measure("macs", "GMACs", _macs, 1e9)
    latency = Measure("latency", "Latency of one image, ms", _latency, short="Latency")
    rate = Measure(
        "images_per_second", "Images/s in training", _rate, more_is_better=True, of_machine=True, short="Images/s"
    )
    used = Measure("hours", f"{spent} of a run", _hours, of_machine=True, short=spent)
    timed = any(result.latency for result in results)
    return (macs, latency, rate, used) if timed else (macs, rate, used)


def _macs(result: Result) -> float | None:
    return result.macs


def _latency(result: Result) -> float | None:
    return result.latency.ms if result.latency else None


def _rate(result: Result) -> float | None:
    return result.speed.images_per_second


def _hours(result: Result) -> float | None:
    return result.speed.hours


def marks(results: Sequence[Result]) -> list[str]:
    """One short label a row: the step's id, a side step's name, letters for single changes."""
    found: list[str] = []
    letters = 0
    for result in results:
        if result.is_step:
            found.append(result.id or _abbreviated(result.step))
        else:
            found.append(_letters(letters))
            letters += 1
    return found


def _abbreviated(name: str) -> str:
    """A side step's name in a few letters: 'k5' of 'kernel-5'."""
    first, dash, rest = name.partition("-")
    return first[:1] + rest if dash else first


def _letters(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(65 + rest) + text
    return text


def comparable(results: Sequence[Result], *, machine: bool = False) -> list[int]:
    """Indices of the rows with a mean that share an axis: those on the same data as the first of
    them.

    With `machine` also those that were trained on the same.
    """
    measured = [i for i, result in enumerate(results) if result.score.mean is not None]
    return [i for i in measured if _alike(results[i], results[measured[0]], machine=machine)]


def _alike(a: Result, b: Result, *, machine: bool) -> bool:
    same_data = all(getattr(a.setup, name) == getattr(b.setup, name) for name in DATA)
    same_machine = (a.speed.machine, a.speed.several) == (b.speed.machine, b.speed.several)
    return same_data and (same_machine or not machine)


def points(results: Sequence[Result], measure: Measure) -> list[Point]:
    """The rows with a mean and this cost, with the Pareto front of their means marked."""
    labels = marks(results)
    pairs: dict[int, tuple[float, float]] = {}
    for i in comparable(results, machine=measure.of_machine):
        cost, mean = measure.of(results[i]), results[i].score.mean
        if cost is not None and mean is not None:
            pairs[i] = (cost, mean)
    best = _best(results, measure, pairs)
    return [
        Point(i, labels[i], cost / measure.unit, mean, results[i].score.std, i in best)
        for i, (cost, mean) in pairs.items()
    ]


def _best(results: Sequence[Result], measure: Measure, pairs: dict[int, tuple[float, float]]) -> set[int]:
    """The rows on the front, with each axis turned so that less cost and more gain are better."""
    cost_sign = -1.0 if measure.more_is_better else 1.0
    turned = {}
    for i, (cost, mean) in pairs.items():
        gain_sign = 1.0 if results[i].metric.higher_is_better else -1.0
        turned[i] = (cost_sign * cost, gain_sign * mean)
    order = list(turned)
    return {order[k] for k in front(list(turned.values()))}


def front(pairs: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of the (cost, gain) pairs that no other pair beats.

    None of the others costs as little and gains more, or gains as much and costs less.
    """
    return {i for i, pair in enumerate(pairs) if not _beaten(pair, pairs)}


def _beaten(pair: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    return any(cost <= pair[0] and gain >= pair[1] and (cost, gain) != pair for cost, gain in others)
