"""Study -> how much of the gain is whose: the Shapley value of each toggle, the interaction of each pair, and recipe against architecture.

A step's change on the ladder is its effect after the steps before it, and would be another one elsewhere. The Shapley value averages a toggle's effect over all orders
in which the toggles can be switched on (Shapley 1953); where some combinations cannot be built, over the orders that pass only combinations that can, as under
precedence constraints (Faigle and Kern 1992); where some were not trained, over those whose every cell was, and how many these are is always said.
Values of two toggles differ from the sum of their changes by interactions: the Shapley interaction index (Grabisch and Roubens 1999), a weighted mean of second
differences v(S+i+j) - v(S+i) - v(S+j) + v(S), here over the squares whose four cells were trained, with the index's weights made to sum to one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from analysis.attribution.assignment import Placed, doubts, place
from analysis.attribution.coalitions import LIMIT, Game, Lattice, Player, game_of, halves, players_of
from analysis.attribution.shapley import Estimate, Interaction, Solved, Value, solve
from analysis.load import DEVICE_HOURS, Entry, Study, accuracy, device_hours, reason
from analysis.report.tables import markdown_text
from analysis.wording import NONE, one_line, signed_interval
from analysis.results.proof import prove
from roadmap.config.errors import listing

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["Attribution", "Game", "Player", "attribute", "game_of", "markdown", "players_of", "terminal", "to_json"]

FEW = 5  # runs, and differences of runs, that a note names
LISTED = 32  # missing cells, and runs that count nowhere, that are written out one by one; numbers and costs count all


@dataclass(frozen=True)
class TrainedCell:
    """A cell with finished runs: `on` are its players, `top1` the mean over `n` runs of these `ids`."""

    cell: str
    on: tuple[str, ...]
    top1: float
    n: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class MissingCell:
    """A legal cell without a finished run. `settings` differ from the base's; `completes` counts the orders that this cell alone would complete, `orders` all that pass it."""

    cell: str
    on: tuple[str, ...]
    settings: Mapping[str, Any]
    completes: int
    orders: int
    cost: str


@dataclass(frozen=True)
class Shares:
    """The game of two: what recipe and architecture give of the gain, over `orders` of `legal` ones, and together beyond each alone; `missing` are the cells that lack."""

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
    """What `roadmap attribute` says. Counts: orders and cells that were trained, that are legal (None: too many players to count), cells in all; `ids` are all runs behind it."""

    study: str
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
    """Mean hours of a finished run, of `runs` runs on devices that are counted alike; None where no run says how long it took."""

    hours: float | None
    unit: str
    runs: int

    def of(self, cells: int, seeds: int) -> str:
        work = f"{cells:,} cell{'s' if cells > 1 else ''} x {seeds} seed{'s' if seeds > 1 else ''}"
        if self.hours is None:
            return f"{work}, no finished run says how long it took"
        total = cells * seeds * self.hours
        return f"{work} = {total:,.0f} {self.unit}" if total >= 100 else f"{work} = {total:.3g} {self.unit}"


def attribute(
    study: Study, *, others: Sequence[Study] = (), seeds: Sequence[int] = (), game: Game | None = None
) -> Attribution:
    """Attribute a study's gain to its toggles, with every finished run of it and of `others` that lies on the lattice and was made as the base's runs were.

    seeds: those that a missing cell would be trained with, for its cost; as many as most of the study's cells have, unless given. game: other players than the study's own.
    Raises RoadmapError where the study defines no game; see `game_of`.
    """
    lattice = Lattice(game or game_of(study))
    placed = place(lattice, [study, *others])
    price, planned = _price(placed), len(set(seeds)) or _planned(study)
    solved = solve(lattice, placed, study.regime)
    two = Lattice(halves(lattice, study.regime))
    placed_two = place(two, [study, *others], placed.like) if two.size == 2 else None
    # With the whole study's error, so that what stands in headline and table has one interval.
    shares = (
        _shares(two, placed_two, solve(two, placed_two, study.regime, placed), price.of(1, planned))
        if placed_two
        else None
    )
    runs = [t["id"] for cell in sorted(placed.runs) for t in placed.runs[cell]]
    ids = tuple(dict.fromkeys([*runs, *(i for c in (shares.cells if shares else ()) for i in c.ids)]))
    return Attribution(
        study=study.name,
        base=lattice.game.bottom,
        top=lattice.game.top,
        headline=_headline(lattice, solved, shares, placed),
        orders=_orders(solved.used, solved.legal_orders),
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
        missing=tuple(
            _missing(lattice, cell, lattice.words(cell), ways, price.of(1, planned))
            for cell, *ways in solved.missing[:LISTED]
        ),
        missing_total=None if solved.legal_cells is None else len(solved.missing),
        missing_cost=price.of(len(solved.missing), planned) if solved.missing else "",
        error=solved.error,
        notes=(
            *lattice.game.notes,
            *_notes_on_cells(study, lattice, solved, shares, price),
            *_notes_on_runs(placed, placed_two, lattice, planned, ids),
        ),
        ids=ids,
    )


def _planned(study: Study) -> int:
    """How many seeds the study plans for a cell; for most of them, where cells differ."""
    trials = Counter((t["step"], t["change"]) for t in study.trials)
    return Counter(trials.values()).most_common(1)[0][0] if trials else 1


def _price(placed: Placed) -> Price:
    """Device time of the placed runs, of the kind that most of them used."""
    hours: dict[str, list[float]] = defaultdict(list)
    for spent, unit in (device_hours(t) for found in placed.runs.values() for t in found):
        if spent and unit != DEVICE_HOURS:
            hours[unit].append(spent)
    if not hours:
        return Price(None, "", 0)
    unit = Counter({u: len(found) for u, found in hours.items()}).most_common(1)[0][0]
    return Price(sum(hours[unit]) / len(hours[unit]), unit, len(hours[unit]))


def _missing(lattice: Lattice, cell: int, words: str, ways: Sequence[int], cost: str) -> MissingCell:
    """ways: the orders that the cell alone completes, and all through it."""
    return MissingCell(
        words, tuple(p.name for p in lattice.members(cell)), lattice.changed(cell), ways[0], ways[1], cost
    )


def _trained(lattice: Lattice, placed: Placed) -> tuple[TrainedCell, ...]:
    def one(cell: int, found: list[Entry]) -> TrainedCell:
        top1 = sum(float(accuracy(t)) for t in found) / len(found)
        return TrainedCell(
            lattice.words(cell),
            tuple(p.name for p in lattice.members(cell)),
            top1,
            len(found),
            tuple(t["id"] for t in found),
        )

    return tuple(one(cell, placed.runs[cell]) for cell in sorted(placed.runs, key=lambda c: (c.bit_count(), c)))


def _shares(two: Lattice, placed: Placed, solved: Solved, cost: str) -> Shares:
    """The game of two, solved like any other. cost: of one cell."""
    game = two.game
    words: dict[tuple[str, ...], str] = {
        ("recipe",): f"the network of {game.bottom} with the training of {game.top}",
        ("architecture",): f"the network of {game.top} with the training of {game.bottom}",
    }
    missing = tuple(
        _missing(two, cell, words.get(tuple(p.name for p in two.members(cell)), two.words(cell)), ways, cost)
        for cell, *ways in solved.missing
    )
    by_name = {v.player: Estimate(v.value, v.low, v.high) for v in solved.values}
    return Shares(
        by_name.get("recipe"),
        by_name.get("architecture"),
        solved.interactions[0],
        solved.used,
        solved.legal_orders or 0,
        _trained(two, placed),
        missing,
        solved.error,
    )


def points(found: Estimate | Interaction | None) -> str:
    """'+0.54 [+0.20, +0.88]'; the value alone where no error is known."""
    return NONE if found is None else signed_interval(found.value, found.low, found.high)


def _orders(used: int, legal: int | None) -> str:
    """Over which orders the values are averages."""
    other = "other orders may divide the gain otherwise"
    if legal is None:
        return f"{_count(used, 'order')}; with more than {LIMIT} players the legal orders are not counted, and {other}"
    if not legal:
        return "no legal order: on every way to the top stands a combination that cannot be built"
    if not used:
        return f"none of {_count(legal, 'legal order')}: on each stands a cell that was not trained"
    if used == legal:
        return f"all {legal:,} legal orders" if legal > 1 else "the one legal order"
    return f"{'one order' if used == 1 else f'{used:,} orders'} of {legal:,} legal ones; {other}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _headline(lattice: Lattice, solved: Solved, shares: Shares | None, placed: Placed) -> str:
    """Recipe against architecture in a sentence: by the game of two where one of its orders was trained, else by the players' sums, else why not."""
    game = lattice.game
    if solved.gain is None:
        without = listing(lattice.words(cell) for cell in (0, lattice.top) if cell not in placed.runs)
        alike = " that was made as the others were" if placed.apart else ""
        return f"There is no gain to attribute from {game.bottom} to {game.top}: no finished run of {without}{alike}."
    runs = f"{_count(len(placed.runs[lattice.top]), 'run')} against {len(placed.runs[0])}"
    if shares is None:
        kind = "training" if set(solved.kinds) == {"recipe"} else "architecture"
        other = "network" if kind == "training" else "training"
        return f"All of the {points(solved.gain)} points from {game.bottom} to {game.top} ({runs}) is the {kind}'s: no setting of the {other} differs."
    start = f"Of the {points(solved.gain)} points from {game.bottom} to {game.top} ({runs})"
    lacking = " and ".join(m.cell for m in shares.missing)
    if shares.recipe and shares.architecture:
        order = (
            "mean over both orders"
            if shares.orders == 2
            else f"in one of {_count(shares.legal, 'order')}; the other needs {lacking}"
            if shares.legal > 1
            else "in the one legal order"
        )
        return f"{start} the recipe gives {points(shares.recipe)} and the architecture {points(shares.architecture)} ({order})."
    if solved.sums:
        recipe, architecture = (
            [v.player for v in solved.values if v.kind == kind] for kind in ("recipe", "architecture")
        )
        which = f"{listing(recipe)}, and {_count(len(architecture), 'player')} of the network, summed"
        return f"{start} the recipe gives {points(solved.sums[0])} and the architecture {points(solved.sums[1])} ({which} over {_orders(solved.used, solved.legal_orders)})."
    return (
        f"{start} it cannot be told what is the recipe's and what the architecture's: not trained are {lacking}."
        if lacking
        else f"{start} recipe and architecture cannot be told apart."
    )


def _notes_on_cells(
    study: Study, lattice: Lattice, solved: Solved, shares: Shares | None, price: Price
) -> Iterable[str]:
    """What the lattice lacks, and why."""
    untold = sum(pair.value is None for pair in solved.interactions)
    if untold:
        yield f"{untold} of {_count(len(solved.interactions), 'pair')} of players have no trained square of four cells, so whether they interact is not known."
    if shares and shares.interaction and shares.interaction.value is not None:
        yield f"Recipe and architecture together give {points(shares.interaction)} points beyond the sum of each alone."
    if solved.values and shares and shares.orders == 2:
        yield "Recipe and architecture are switched as two wholes in the headline; the sums of their players' values weigh other orders and may differ."
    if shares and shares.recipe and shares.error != solved.error:
        yield f"In the headline recipe and architecture have {shares.error}."
    if solved.legal_cells is not None and solved.legal_cells < 1 << lattice.size:
        first = next(cell for cell in range(1 << lattice.size) if lattice.refusal(cell))
        cells = f"{(1 << lattice.size) - solved.legal_cells:,} of {1 << lattice.size:,} cells cannot be built and are in no order"
        yield f"{cells}; such as {lattice.words(first)}: {one_line(lattice.refusal(first))}."
    for name, why in study.undefined.items():
        yield f"{one_line(name)} is not defined: {one_line(why)}."
    if price.hours is not None:
        yield f"Costs are the mean of {_count(price.runs, 'finished run')}: {price.hours:.3g} {price.unit} each."


def _notes_on_runs(
    placed: Placed, two: Placed | None, lattice: Lattice, planned: int, ids: Sequence[str]
) -> Iterable[str]:
    """Which runs count, which do not, and what they do not share."""
    fewer = [
        f"{lattice.words(cell)} ({len(found)})" for cell, found in sorted(placed.runs.items()) if len(found) < planned
    ]
    if fewer:
        yield f"Fewer than {_count(planned, 'finished run')}: {listing(fewer)}."
    for t in placed.lost[:LISTED]:
        yield f"Not averaged: {one_line(t['id'])} ({one_line(reason(t))})."
    if len(placed.lost) > LISTED:
        yield f"Not averaged: {_count(len(placed.lost) - LISTED, 'run')} more."
    if placed.repeated:
        yield f"{_count(placed.repeated, 'finished run')} listed again in another study counted once."
    for run in placed.disagree:
        yield f"{one_line(run)} has another result where it is listed again; the first is counted."
    apart = {id(t): (t, why) for t, why in (*placed.apart, *(two.apart if two else ()))}
    yield from _notes_on_circumstances(list(apart.values()), placed.like)
    if placed.controls:
        yield f"{_count(placed.controls, 'finished run')} of controls not used: cells are compared with them and do not consist of them."
    if aside := sum(t["id"] not in ids and id(t) not in apart for t in placed.aside):
        yield f"{_count(aside, 'finished run')} with settings or data of no cell not used."
    if placed.silent:
        yield f"{_count(len(placed.silent), 'finished run')} whose record does not say its resolved settings not used."


def _notes_on_circumstances(apart: Sequence[tuple[Entry, tuple[str, ...]]], like: Entry | None) -> Iterable[str]:
    """Which runs were made otherwise than those that count, and what the records of those that count leave open."""
    if apart:
        runs, reasons = (
            list(dict.fromkeys(one_line(t["id"]) for t, _ in apart)),
            list(dict.fromkeys(one_line(reason) for _, why in apart for reason in why)),
        )
        which, what = (
            listing(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
            for names in (runs, reasons)
        )
        yield f"{_count(len(apart), 'finished run')} of other code, packages, hardware, ranks, precision or data not used: {which}. What differs, the base's first: {what}."
    if like and (open_ := doubts(like)):
        yield f"What the records of the runs that count leave open: {listing(map(one_line, open_))}."
    if like and (unsaid := prove([like], [like], ()).unsaid):
        yield f"Not recorded, so not shown to be alike in all runs: {listing(unsaid)}."


def to_json(found: Attribution) -> dict[str, Any]:
    """Plain data, whole and JSON-ready."""
    return asdict(found)


Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def _tables(found: Attribution) -> list[Table]:
    """(title, headings, rows of text) of what both the terminal and Markdown show; tables without a row are left out."""
    pairs = sorted((p for p in found.interactions if p.value is not None), key=lambda p: -abs(p.value or 0))
    squares = [(p, f"{p.squares:,} of {p.legal:,}" if p.legal is not None else f"{p.squares:,}") for p in pairs]
    lacking = "not counted" if found.missing_total is None else f"{found.missing_total:,}"
    rest = (
        f"; the {len(found.missing)} most useful"
        if found.missing_total and found.missing_total > len(found.missing)
        else ""
    )
    legal = "not counted" if found.cells_legal is None else f"{found.cells_legal:,}"
    tables: list[Table] = [
        (f"Shares of the gain over {found.orders}", ("toggle", "what it switches", "Shapley value [95 %]"), [(v.player, v.settings, points(v)) for v in found.values]),
        ("Interactions: points beyond the sum of each alone", ("toggles", "interaction [95 %]", "squares"), [(f"{p.a} x {p.b}", points(p), of) for p, of in squares]),
        (f"Trained cells: {found.cells_trained} (legal: {legal}; all: {found.cells_total:,})", ("cell", "top-1 (%)", "n"), [(c.cell, f"{c.top1:.2f}", str(c.n)) for c in found.cells]),
        (f"Missing cells: {lacking}{f' ({found.missing_cost})' if found.missing_cost else ''}{rest}", ("cell", "orders it completes", "orders through it", "cost"),
         [(m.cell, f"{m.completes:,}", f"{m.orders:,}", m.cost) for m in found.missing]),
    ]  # fmt: skip
    return [t for t in tables if t[2]]


def markdown(found: Attribution) -> str:
    """attribution.md: headline, tables, notes, and the runs behind them."""
    lines = [f"# {markdown_text(f'Attribution: study {one_line(found.study)}')}", "", markdown_text(found.headline), ""]
    for title, headings, rows in _tables(found):
        lines += [
            f"## {markdown_text(title)}",
            "",
            "| " + " | ".join(headings) + " |",
            "|" + "|".join([" :-- "] * len(headings)) + "|",
        ]
        lines += ["| " + " | ".join(map(markdown_text, row)) + " |" for row in rows] + [""]
    lines += ["## Notes", "", *(f"- {markdown_text(note)}" for note in _remarks(found)), ""]
    known = {
        c.ids: c for c in (*(found.shares.cells if found.shares else ()), *found.cells)
    }  # the lattice's name for a cell where both have one
    lines += [
        f"## Runs: {len(found.ids)}",
        "",
        *(f"- {markdown_text(c.cell)}: {', '.join(markdown_text(one_line(i)) for i in c.ids)}" for c in known.values()),
    ]
    return "\n".join(lines) + "\n"


def _remarks(found: Attribution) -> list[str]:
    values = [] if found.values else [f"No Shapley values: {found.orders}."]
    return [*values, f"{found.error[0].upper()}{found.error[1:]}.", *found.notes]


def terminal(found: Attribution) -> Group:
    """Headline, tables and notes for the terminal."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    def table(title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> RichTable:
        shown = RichTable(title=Text(title), title_justify="left")
        for heading in headings:
            shown.add_column(Text(heading))
        for row in rows:
            shown.add_row(*map(Text, row))
        return shown

    return Group(
        Text(found.headline, style="bold"),
        *(table(*t) for t in _tables(found)),
        *(Text(f"- {note}") for note in _remarks(found)),
    )
