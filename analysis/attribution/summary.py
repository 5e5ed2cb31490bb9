"""Study -> how much of the gain is whose: the Shapley value of each toggle, the interaction of each
pair, and recipe against architecture.

A step's change on the ladder is its effect after the steps before it, and would be another one
elsewhere. The Shapley value averages a toggle's effect over all orders in which the toggles can be
switched on (Shapley 1953); where some combinations cannot be built, over the orders that pass only
combinations that can, as under precedence constraints (Faigle and Kern 1992); where some were not
trained, over those whose every cell was, and how many these are is always said. Values of two
toggles differ from the sum of their changes by interactions: the Shapley interaction index
(Grabisch and Roubens 1999), a weighted mean of second differences v(S+i+j) - v(S+i) - v(S+j) +
v(S), here over the squares whose four cells were trained, with the index's weights made to sum to
one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from analysis.attribution import notes, text
from analysis.attribution.assignment import Placed, place
from analysis.attribution.coalitions import Game, Lattice, Player
from analysis.attribution.games import game_of, halves, players_of, training_toggles
from analysis.attribution.shapley import Estimate, Solved, solve
from analysis.attribution.shares import Attribution, MissingCell, Price, Shares, TrainedCell
from analysis.study import DEVICE_HOURS, Run, Study
from roadmap.runs.metric import TOP1, Metric

__all__ = ["Attribution", "Game", "Player", "attribute", "game_of", "players_of", "to_json"]

LISTED = 32  # missing cells that are written out one by one; numbers and costs count all


def attribute(
    study: Study,
    *,
    metric: Metric = TOP1,
    others: Sequence[Study] = (),
    seeds: Sequence[int] = (),
    game: Game | None = None,
) -> Attribution:
    """Attribute a study's gain to its toggles.

    With every finished run of it and of `others` that lies on the lattice and was made as the
    base's runs were. seeds: those that a missing cell would be trained with, for its cost; as many
    as most of the study's cells have, unless given. game: other players than the study's own.
    Raises RoadmapError where the study defines no game; see `game_of`.
    """
    studies = [study, *others]
    lattice = Lattice(game or game_of(study, metric))
    placed = place(lattice, studies, metric)
    price, planned = _price(placed), len(set(seeds)) or _planned(study)
    toggles = training_toggles(study)
    solved = solve(lattice, placed, toggles)
    cost = price.of(1, planned)
    placed_two, shares = _recipe_and_architecture(lattice, placed, studies, toggles, cost)
    ids = _ids(placed, shares)
    listed = solved.missing[:LISTED]
    missing = [_missing(lattice, cell, lattice.words(cell), ways, cost) for cell, *ways in listed]
    on_cells = notes.on_cells(study, lattice, solved, shares, price, metric)
    on_runs = notes.on_runs(placed, placed_two, lattice, planned, ids)
    lacking = None if solved.legal_cells is None else len(solved.missing)
    return Attribution(
        study=study.name,
        metric=metric,
        base=lattice.game.bottom,
        top=lattice.game.top,
        headline=text.headline(lattice, solved, shares, placed),
        orders=text.orders(solved.used, solved.legal_orders),
        gain=solved.gain,
        values=solved.values,
        interactions=solved.interactions,
        shares=shares,
        orders_used=solved.used,
        orders_legal=solved.legal_orders,
        cells_trained=len(placed.runs),
        cells_legal=solved.legal_cells,
        cells_total=1 << lattice.size,
        cells=_trained(lattice, placed),
        missing=tuple(missing),
        missing_total=lacking,
        missing_cost=price.of(lacking, planned) if lacking else "",
        error=solved.error,
        notes=(*lattice.game.notes, *on_cells, *on_runs),
        ids=ids,
    )


def _ids(placed: Placed, shares: Shares | None) -> tuple[str, ...]:
    """All runs behind the numbers, each once."""
    of_lattice = [run.id for cell in sorted(placed.runs) for run in placed.runs[cell]]
    cells = shares.cells if shares else ()
    of_shares = [id_ for cell in cells for id_ in cell.ids]
    return tuple(dict.fromkeys([*of_lattice, *of_shares]))


def _planned(study: Study) -> int:
    """How many seeds the study plans for a cell; for most of them, where cells differ."""
    seeds = Counter(run.cell.id for run in study.runs)
    return Counter(seeds.values()).most_common(1)[0][0] if seeds else 1


def _price(placed: Placed) -> Price:
    """Device time of the placed runs, of the kind that most of them used."""
    hours: dict[str, list[float]] = defaultdict(list)
    for run in (run for runs in placed.runs.values() for run in runs):
        spent = run.hours
        if spent.hours and spent.unit != DEVICE_HOURS:
            hours[spent.unit].append(spent.hours)
    if not hours:
        return Price(None, "", 0)
    unit = Counter({unit: len(spent) for unit, spent in hours.items()}).most_common(1)[0][0]
    return Price(sum(hours[unit]) / len(hours[unit]), unit, len(hours[unit]))


def _missing(lattice: Lattice, cell: int, words: str, ways: Sequence[int], cost: str) -> MissingCell:
    """ways: the orders that the cell alone completes, and all through it."""
    on = tuple(player.name for player in lattice.members(cell))
    return MissingCell(words, on, lattice.changed(cell), ways[0], ways[1], cost)


def _trained(lattice: Lattice, placed: Placed) -> tuple[TrainedCell, ...]:
    order = sorted(placed.runs, key=lambda cell: (cell.bit_count(), cell))
    return tuple(_trained_cell(lattice, cell, placed.runs[cell], placed.metric) for cell in order)


def _trained_cell(lattice: Lattice, cell: int, runs: Sequence[Run], metric: Metric) -> TrainedCell:
    mean = sum(run.value(metric) for run in runs) / len(runs)
    on = tuple(player.name for player in lattice.members(cell))
    return TrainedCell(lattice.words(cell), on, mean, len(runs), tuple(run.id for run in runs))


def _recipe_and_architecture(
    lattice: Lattice, placed: Placed, studies: Sequence[Study], toggles: frozenset[str], cost: str
) -> tuple[Placed | None, Shares | None]:
    """The game of two, where there is one: recipe against architecture. cost: of one cell.

    With the whole study's error, so that what stands in headline and table has one interval.
    """
    two = Lattice(halves(lattice, toggles))
    if two.size != 2:
        return None, None
    placed_two = place(two, studies, placed.metric, placed.like)
    return placed_two, _shares(two, placed_two, solve(two, placed_two, toggles, placed), cost)


def _shares(two: Lattice, placed: Placed, solved: Solved, cost: str) -> Shares:
    """The game of two, solved like any other. cost: of one cell."""
    by_name = {value.player: Estimate(value.value, value.low, value.high) for value in solved.values}
    return Shares(
        recipe=by_name.get("recipe"),
        architecture=by_name.get("architecture"),
        interaction=solved.interactions[0],
        orders=solved.used,
        legal=solved.legal_orders or 0,
        cells=_trained(two, placed),
        missing=tuple(_missing(two, cell, _half(two, cell), ways, cost) for cell, *ways in solved.missing),
        error=solved.error,
    )


def _half(two: Lattice, cell: int) -> str:
    """A cell of the game of two in words."""
    game = two.game
    words: Mapping[tuple[str, ...], str] = {
        ("recipe",): f"the network of {game.bottom} with the training of {game.top}",
        ("architecture",): f"the network of {game.top} with the training of {game.bottom}",
    }
    return words.get(tuple(player.name for player in two.members(cell)), two.words(cell))


def to_json(found: Attribution) -> dict[str, Any]:
    """Plain data, whole and JSON-ready."""
    return {**asdict(found), "metric": found.metric.name}
