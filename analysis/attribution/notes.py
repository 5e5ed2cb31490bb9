"""What a reader of an attribution must know: what the lattice lacks, which runs count and which do
not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from analysis.attribution.assignment import Apart, Placed, doubts
from analysis.attribution.coalitions import Lattice
from analysis.attribution.shapley import Solved
from analysis.attribution.shares import Price, Shares
from analysis.attribution.text import points
from analysis.results.circumstances import unsaid
from analysis.study import Run, Study
from analysis.wording import count, one_line
from roadmap.config.errors import listing
from roadmap.runs.metric import Metric

FEW = 5  # runs, and differences of runs, that a note names
LISTED = 32  # runs that count nowhere that are named one by one


def on_cells(
    study: Study, lattice: Lattice, solved: Solved, shares: Shares | None, price: Price, metric: Metric
) -> Iterator[str]:
    """What the lattice lacks, and why."""
    untold = sum(pair.value is None for pair in solved.interactions)
    if untold:
        pairs = f"{untold} of {count(len(solved.interactions), 'pair')} of players"
        yield f"{pairs} have no trained square of four cells, so whether they interact is not known."
    yield from _together(shares, metric)
    if solved.values and shares and shares.orders == 2:
        yield (
            "Recipe and architecture are switched as two wholes in the headline; "
            "the sums of their players' values weigh other orders and may differ."
        )
    if shares and shares.recipe and shares.error != solved.error:
        yield f"In the headline recipe and architecture have {shares.error}."
    if solved.legal_cells is not None and solved.legal_cells < 1 << lattice.size:
        yield _illegal(lattice, solved.legal_cells)
    for undefined in study.undefined:
        yield f"{one_line(undefined.label)} is not defined: {one_line(undefined.reason)}."
    if price.hours is not None:
        yield f"Costs are the mean of {count(price.runs, 'finished run')}: {price.hours:.3g} {price.unit} each."


def _together(shares: Shares | None, metric: Metric) -> Iterator[str]:
    """What recipe and architecture give beyond the sum of each."""
    if shares and shares.interaction and shares.interaction.value is not None:
        given = f"{points(shares.interaction, metric)} {metric.difference_unit}"
        yield f"Recipe and architecture together give {given} beyond the sum of each alone."


def _illegal(lattice: Lattice, legal: int) -> str:
    first = next(cell for cell in range(1 << lattice.size) if lattice.refusal(cell))
    cells = f"{(1 << lattice.size) - legal:,} of {1 << lattice.size:,} cells cannot be built and are in no order"
    return f"{cells}; such as {lattice.words(first)}: {one_line(lattice.refusal(first))}."


def on_runs(placed: Placed, two: Placed | None, lattice: Lattice, planned: int, ids: Sequence[str]) -> Iterator[str]:
    """Which runs count, which do not, and what they do not share."""
    fewer = [
        f"{lattice.words(cell)} ({len(runs)})" for cell, runs in sorted(placed.runs.items()) if len(runs) < planned
    ]
    if fewer:
        yield f"Fewer than {count(planned, 'finished run')}: {listing(fewer)}."
    for run in placed.lost[:LISTED]:
        yield f"Not averaged: {one_line(run.id)} ({one_line(run.reason(placed.metric))})."
    if len(placed.lost) > LISTED:
        yield f"Not averaged: {count(len(placed.lost) - LISTED, 'run')} more."
    if placed.repeated:
        yield f"{count(placed.repeated, 'finished run')} listed again in another study counted once."
    for id_ in placed.disagree:
        yield f"{one_line(id_)} has another result where it is listed again; the first is counted."
    of_two = two.apart if two else ()
    apart = {id(found.run): found for found in (*placed.apart, *of_two)}
    yield from _on_circumstances(list(apart.values()), placed.like)
    if placed.controls:
        controls = f"{count(placed.controls, 'finished run')} of controls not used"
        yield f"{controls}: cells are compared with them and do not consist of them."
    if aside := sum(run.id not in ids and id(run) not in apart for run in placed.aside):
        yield f"{count(aside, 'finished run')} with settings or data of no cell not used."
    if placed.silent:
        yield f"{count(len(placed.silent), 'finished run')} whose record does not say its resolved settings not used."


def _on_circumstances(apart: Sequence[Apart], like: Run | None) -> Iterator[str]:
    """Which runs were made otherwise than those that count, and what the records of these leave
    open."""
    if apart:
        which = _few(found.run.id for found in apart)
        what = _few(confound.text for found in apart for confound in found.differs)
        yield (
            f"{count(len(apart), 'finished run')} of other code, packages, hardware, ranks, precision or data "
            f"not used: {which}. What differs, the base's first: {what}."
        )
    if like and (open_ := doubts(like)):
        yield f"What the records of the runs that count leave open: {listing(one_line(c.text) for c in open_)}."
    if like and (missing := unsaid([like])):
        yield f"Not recorded, so not shown to be alike in all runs: {listing(missing)}."


def _few(names: Iterable[str]) -> str:
    """The first FEW of these, each once, and how many more there are."""
    each = list(dict.fromkeys(map(one_line, names)))
    more = f" and {len(each) - FEW} more" if len(each) > FEW else ""
    return listing(each[:FEW]) + more
