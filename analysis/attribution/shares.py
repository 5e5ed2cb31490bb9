"""What an attribution finds: cells, shares, prices, and all of it together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.attribution.shapley import Estimate, Interaction, Value
from analysis.wording import count
from roadmap.runs.metric import Metric


@dataclass(frozen=True)
class TrainedCell:
    """A cell with finished runs:

    `on` are its players, `mean` the mean over `n` runs of these `ids`.
    """

    cell: str
    on: tuple[str, ...]
    mean: float
    n: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class MissingCell:
    """A legal cell without a finished run.

    `settings` differ from the base's; `completes` counts the orders that this cell alone would
    complete, `orders` all that pass it.
    """

    cell: str
    on: tuple[str, ...]
    settings: Mapping[str, Any]
    completes: int
    orders: int
    cost: str


@dataclass(frozen=True)
class Shares:
    """The game of two: what recipe and architecture give of the gain, over `orders` of `legal`
    ones, and together beyond each alone; `missing` are the cells that lack."""

    recipe: Estimate | None
    architecture: Estimate | None
    interaction: Interaction | None
    orders: int
    legal: int
    cells: tuple[TrainedCell, ...]
    missing: tuple[MissingCell, ...]
    error: str


@dataclass(frozen=True)
class Attribution:
    """What `roadmap attribute` says.

    Counts: orders and cells that were trained, that are legal (None: too many players to count),
    cells in all; `ids` are all runs behind it.
    """

    study: str
    metric: Metric
    base: str
    top: str
    headline: str
    orders: str
    gain: Estimate | None
    values: tuple[Value, ...]
    interactions: tuple[Interaction, ...]
    shares: Shares | None
    orders_used: int
    orders_legal: int | None
    cells_trained: int
    cells_legal: int | None
    cells_total: int
    cells: tuple[TrainedCell, ...]
    missing: tuple[MissingCell, ...]
    missing_total: int | None
    missing_cost: str
    error: str
    notes: tuple[str, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Price:
    """Mean hours of a finished run, of `runs` runs on devices that are counted alike.

    None where no run says how long it took.
    """

    hours: float | None
    unit: str
    runs: int

    def of(self, cells: int, seeds: int) -> str:
        work = f"{count(cells, 'cell')} x {count(seeds, 'seed')}"
        if self.hours is None:
            return f"{work}, no finished run says how long it took"
        total = cells * seeds * self.hours
        amount = f"{total:,.0f}" if total >= 100 else f"{total:.3g}"
        return f"{work} = {amount} {self.unit}"
