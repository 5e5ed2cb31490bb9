"""An attribution in words: its headline, its tables, Markdown and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.attribution.assignment import Placed
from analysis.attribution.coalitions import LIMIT, Lattice
from analysis.attribution.shapley import Estimate, Interaction, Solved
from analysis.attribution.shares import Attribution, Shares, TrainedCell
from analysis.wording import NONE, count, markdown_text, number, one_line, signed_interval
from roadmap.config.errors import listing
from roadmap.runs.metric import Metric

if TYPE_CHECKING:
    from rich.console import Group


def points(found: Estimate | Interaction | None, metric: Metric) -> str:
    """'+0.54 [+0.20, +0.88]'; the value alone where no error is known."""
    return NONE if found is None else signed_interval(found.value, found.low, found.high, metric.decimals)


def orders(used: int, legal: int | None) -> str:
    """Over which orders the values are averages."""
    other = "other orders may divide the gain otherwise"
    if legal is None:
        return f"{count(used, 'order')}; with more than {LIMIT} players the legal orders are not counted, and {other}"
    if not legal:
        return "no legal order: on every way to the top stands a combination that cannot be built"
    if not used:
        return f"none of {count(legal, 'legal order')}: on each stands a cell that was not trained"
    if used == legal:
        return f"all {legal:,} legal orders" if legal > 1 else "the one legal order"
    return f"{'one order' if used == 1 else f'{used:,} orders'} of {legal:,} legal ones; {other}"


def headline(lattice: Lattice, solved: Solved, shares: Shares | None, placed: Placed) -> str:
    """Recipe against architecture in a sentence.

    By the game of two where one of its orders was trained, else by the players' sums, else why not.
    """
    game, metric = lattice.game, placed.metric
    if solved.gain is None:
        return _no_gain(lattice, placed)
    runs = f"{count(len(placed.runs[lattice.top]), 'run')} against {len(placed.runs[0])}"
    gain = f"{points(solved.gain, metric)} {metric.difference_unit} from {game.bottom} to {game.top} ({runs})"
    if shares is None:
        kind, other = ("training", "network") if set(solved.kinds) == {"recipe"} else ("architecture", "training")
        return f"All of the {gain} is the {kind}'s: no setting of the {other} differs."
    if shares.recipe and shares.architecture:
        parts = _divided(shares.recipe, shares.architecture, metric)
        return f"Of the {gain} the recipe gives {parts} ({_order_of(shares)})."
    if solved.sums:
        parts = _divided(*solved.sums, metric)
        which = f"{_summed(solved)}, summed over {orders(solved.used, solved.legal_orders)}"
        return f"Of the {gain} the recipe gives {parts} ({which})."
    lacking = _lacking(shares)
    if lacking:
        untold = "it cannot be told what is the recipe's and what the architecture's"
        return f"Of the {gain} {untold}: not trained are {lacking}."
    return f"Of the {gain} recipe and architecture cannot be told apart."


def _no_gain(lattice: Lattice, placed: Placed) -> str:
    without = listing(lattice.words(cell) for cell in (0, lattice.top) if cell not in placed.runs)
    alike = " that was made as the others were" if placed.apart else ""
    game = lattice.game
    return f"There is no gain to attribute from {game.bottom} to {game.top}: no finished run of {without}{alike}."


def _divided(recipe: Estimate, architecture: Estimate, metric: Metric) -> str:
    return f"{points(recipe, metric)} and the architecture {points(architecture, metric)}"


def _order_of(shares: Shares) -> str:
    """Over which of the two orders the halves were averaged."""
    if shares.orders == 2:
        return "mean over both orders"
    if shares.legal > 1:
        return f"in one of {count(shares.legal, 'order')}; the other needs {_lacking(shares)}"
    return "in the one legal order"


def _lacking(shares: Shares) -> str:
    return " and ".join(missing.cell for missing in shares.missing)


def _summed(solved: Solved) -> str:
    """Whose values make the two sums."""
    recipe = [value.player for value in solved.values if value.kind == "recipe"]
    architecture = [value.player for value in solved.values if value.kind == "architecture"]
    return f"{listing(recipe)}, and {count(len(architecture), 'player')} of the network"


Table = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]


def _tables(found: Attribution) -> list[Table]:
    """What both the terminal and Markdown show: (title, headings, rows of text).

    Tables without a row are left out.
    """
    tables = [_values_table(found), _interactions_table(found), _trained_table(found), _missing_table(found)]
    return [table for table in tables if table[2]]


def _values_table(found: Attribution) -> Table:
    rows = [(value.player, value.settings, points(value, found.metric)) for value in found.values]
    return f"Shares of the gain over {found.orders}", ("toggle", "what it switches", "Shapley value [95 %]"), rows


def _interactions_table(found: Attribution) -> Table:
    known = [pair for pair in found.interactions if pair.value is not None]
    pairs = sorted(known, key=lambda pair: -abs(pair.value or 0))
    rows = [(f"{pair.a} x {pair.b}", points(pair, found.metric), _squares(pair)) for pair in pairs]
    title = f"Interactions: {found.metric.difference_unit} beyond the sum of each alone"
    return title, ("toggles", "interaction [95 %]", "squares"), rows


def _squares(pair: Interaction) -> str:
    return f"{pair.squares:,} of {pair.legal:,}" if pair.legal is not None else f"{pair.squares:,}"


def _trained_table(found: Attribution) -> Table:
    legal = _counted(found.cells_legal)
    rows = [(cell.cell, number(cell.mean, found.metric.decimals), str(cell.n)) for cell in found.cells]
    title = f"Trained cells: {found.cells_trained} (legal: {legal}; all: {found.cells_total:,})"
    return title, ("cell", found.metric.heading, "n"), rows


def _missing_table(found: Attribution) -> Table:
    more = bool(found.missing_total and found.missing_total > len(found.missing))
    rest = f"; the {len(found.missing)} most useful" if more else ""
    cost = f" ({found.missing_cost})" if found.missing_cost else ""
    rows = [(m.cell, f"{m.completes:,}", f"{m.orders:,}", m.cost) for m in found.missing]
    title = f"Missing cells: {_counted(found.missing_total)}{cost}{rest}"
    return title, ("cell", "orders it completes", "orders through it", "cost"), rows


def _counted(number: int | None) -> str:
    return "not counted" if number is None else f"{number:,}"


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
    of_shares = found.shares.cells if found.shares else ()
    known = {cell.ids: cell for cell in (*of_shares, *found.cells)}  # by the lattice's name where both have one
    lines += [f"## Runs: {len(found.ids)}", "", *map(_runs_of, known.values())]
    return "\n".join(lines) + "\n"


def _runs_of(cell: TrainedCell) -> str:
    runs = [markdown_text(one_line(id_)) for id_ in cell.ids]
    return f"- {markdown_text(cell.cell)}: {', '.join(runs)}"


def _remarks(found: Attribution) -> list[str]:
    values = [] if found.values else [f"No Shapley values: {found.orders}."]
    return [*values, f"{found.error[0].upper()}{found.error[1:]}.", *found.notes]


def terminal(found: Attribution) -> Group:
    """Headline, tables and notes for the terminal."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    def table(title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> RichTable:
        shown = RichTable(title=Text(title), title_justify="left")
        for heading in headings:
            shown.add_column(Text(heading))
        for row in rows:
            shown.add_row(*map(Text, row))
        return shown

    tables = [table(*texts) for texts in _tables(found)]
    notes = [Text(f"- {note}") for note in _remarks(found)]
    return Group(Text(found.headline, style="bold"), *tables, *notes)
