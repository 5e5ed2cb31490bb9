"""What accuracy costs: each row's multiply-adds, throughput and hours, and which rows no other row beats on both (the Pareto front).

The front is one of means: two rows whose intervals overlap may change places with other seeds, and the wording says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.load import DEVICE_HOURS
from analysis.wording import NONE, scaled
from analysis.results.rows import DATA, Row


@dataclass(frozen=True)
class Measure:
    """A cost: the row's key, its heading, the factor to the printed unit, whether more of it is better (images/s) or worse, and whether it depends on the machine that trained."""

    key: str
    title: str
    unit: float = 1.0
    more_is_better: bool = False
    of_machine: bool = False

    @property
    def best(self) -> str:
        return "most" if self.more_is_better else "least"

    def text(self, value: float | None) -> str:
        if value is None:
            return NONE
        return f"{value:.0f}" if self.more_is_better and value >= 100 else scaled(value, self.unit)


@dataclass(frozen=True)
class Point:
    """A row with a mean and a cost: `index` of the row, `mark` its short label, `cost` in the measure's unit, `top1` and `std` in percent."""

    index: int
    mark: str
    cost: float
    top1: float
    std: float | None
    on_front: bool


def measures(rows: Sequence[Row], hours: str = DEVICE_HOURS) -> tuple[Measure, ...]:
    """The costs of the report, latency only where it was measured; `hours` names the device whose hours were counted."""
    latency = (Measure("latency", "Latency of one image, ms"),) if any(r.get("latency") for r in rows) else ()
    return (
        Measure("macs", "GMACs", 1e9),
        *latency,
        Measure("images_per_second", "Images/s in training", more_is_better=True, of_machine=True),
        Measure("hours", f"{hours[0].upper()}{hours[1:]} of a run", of_machine=True),
    )


def marks(rows: Sequence[Row]) -> list[str]:
    """One short label a row: the step's id, a side step's name, letters for single changes."""
    found: list[str] = []
    letters = 0
    for row in rows:
        if row["kind"] in ("step", "side") and row["step"] and not row["key"][1]:
            found.append(row["id"] or row["step"].replace("kernel-", "k"))
        else:
            found.append(_letters(letters))
            letters += 1
    return found


def _letters(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(65 + rest) + text
    return text


def comparable(rows: Sequence[Row], *, machine: bool = False) -> list[int]:
    """Indices of the rows with a mean on the same data as the first of them, with `machine` also trained on the same: otherwise they share no axis."""
    measured = [i for i, row in enumerate(rows) if row.get("top1") is not None]
    same = (*DATA, "machine") if machine else DATA
    return [i for i in measured if all(rows[i].get(key) == rows[measured[0]].get(key) for key in same)]


def points(rows: Sequence[Row], measure: Measure) -> list[Point]:
    """The rows with a mean and this cost, with the Pareto front of their means marked."""
    labels = marks(rows)
    shown = [i for i in comparable(rows, machine=measure.of_machine) if rows[i].get(measure.key) is not None]
    sign = -1.0 if measure.more_is_better else 1.0
    best = front([(sign * rows[i][measure.key], rows[i]["top1"]) for i in shown])
    return [
        Point(i, labels[i], rows[i][measure.key] / measure.unit, rows[i]["top1"], rows[i].get("std"), k in best)
        for k, i in enumerate(shown)
    ]


def front(pairs: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of the (cost, gain) pairs that no other pair beats: none costs as little and gains more, or gains as much and costs less."""
    return {
        i
        for i, (cost, gain) in enumerate(pairs)
        if not any(c <= cost and g >= gain and (c < cost or g > gain) for c, g in pairs)
    }
