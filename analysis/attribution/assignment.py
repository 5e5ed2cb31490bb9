"""Studies -> which of their runs lie on which cell of a lattice.

Those that have a cell's settings and were made as the base's runs were, each once. What two cells
differ in is the players' doing only where nothing else differs; what else may differ is what
`analysis.results.confounds` compares: code, packages, hardware, ranks, precision, data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analysis.attribution.coalitions import Lattice, flat
from analysis.attribution.games import control_cells
from analysis.results.circumstances import circumstances
from analysis.results.confounds import Confound, prove
from analysis.study import Run, Study
from roadmap.runs.metric import TOP1, Metric


@dataclass(frozen=True)
class Apart:
    """A finished run of a cell that was made otherwise than the others, and in what."""

    run: Run
    differs: tuple[Confound, ...]


@dataclass(frozen=True)
class Placed:
    """Where the studies' runs lie.

    metric    what the runs are judged by
    runs      by cell, each run once
    like      the run in whose circumstances the others are
    apart     runs of a cell that were made otherwise than `like`
    aside     finished runs of other settings
    silent    finished runs whose record does not say its settings
    controls  how many finished runs of negative controls there are
    lost      unfinished or failed runs, of the first study all, of others those on a cell
    repeated  how many runs are listed again
    disagree  ids of those with another result there
    """

    metric: Metric
    runs: Mapping[int, list[Run]]
    like: Run | None
    apart: tuple[Apart, ...]
    aside: tuple[Run, ...]
    silent: tuple[Run, ...]
    controls: int
    lost: tuple[Run, ...]
    repeated: int
    disagree: tuple[str, ...]


@dataclass(frozen=True)
class _Sorted:
    """The studies' runs: finished ones that are no control's.

    Those that are `lost`, with whether they are the first study's; the fingerprints of controls'
    finished runs.
    """

    finished: list[Run]
    lost: list[tuple[Run, bool]]
    controls: set[str]


def place(lattice: Lattice, studies: Sequence[Study], metric: Metric = TOP1, like: Run | None = None) -> Placed:
    """Every run of the studies on its cell.

    Of a run that several studies hold (one fingerprint) the first finished one counts.

    Runs that were made in other circumstances than `like`, a run of the base unless given, count
    nowhere. Nor do the runs of a study's controls: they are there to be compared with their cell,
    as in the study's table, and an A/A control's have seeds that no other cell has.
    """
    runs = _sorted_out(studies, metric)
    cells = {id(run): _cell(lattice, run) for run in runs.finished}
    placed = [run for run in runs.finished if cells[id(run)] is not None]
    like = like or _typical(placed, cells, studies[0])
    differs = _differing(lattice, like)
    kept: dict[str, Run] = {}
    apart: dict[tuple[str, str], Apart] = {}
    repeated: list[Run] = []
    for run in runs.finished:
        if cells[id(run)] is not None and (why := differs(run)):
            apart.setdefault((run.fingerprint, _made(run)), Apart(run, why))
        elif kept.setdefault(run.fingerprint, run) is not run:
            repeated.append(run)
    by_cell: dict[int, list[Run]] = defaultdict(list)
    for run in kept.values():
        if (cell := cells[id(run)]) is not None:
            by_cell[cell].append(run)
    elsewhere = [run for run in kept.values() if cells[id(run)] is None]
    lost = [run for run, own in runs.lost if own or _cell(lattice, run) is not None]
    unfinished = {run.fingerprint: run for run in lost if run.fingerprint not in kept}
    aside = [run for run in elsewhere if run.record.resolved]
    silent = [run for run in elsewhere if not run.record.resolved]
    disagree = [r.id for r in repeated if kept[r.fingerprint].value(metric) != r.value(metric)]
    return Placed(
        metric=metric,
        runs=dict(by_cell),
        like=like,
        apart=tuple(apart.values()),
        aside=tuple(aside),
        silent=tuple(silent),
        controls=len(runs.controls - kept.keys()),
        lost=tuple(unfinished.values()),
        repeated=len(repeated),
        disagree=tuple(disagree),
    )


def _cell(lattice: Lattice, run: Run) -> int | None:
    """The cell with the run's settings, None where there is none or the record does not say them."""
    return lattice.find(flat(run.resolved)) if run.resolved else None


def _sorted_out(studies: Sequence[Study], metric: Metric) -> _Sorted:
    found = _Sorted([], [], set())
    for study in studies:
        controls = control_cells(study)
        for run in study.runs:
            control, finished = run.cell.id in controls, run.finished(metric)
            if finished and not control:
                found.finished.append(run)
            elif finished:
                found.controls.add(run.fingerprint)
            elif study is studies[0] or not control:
                found.lost.append((run, study is studies[0]))
    return found


def _typical(runs: Sequence[Run], cells: Mapping[int, int | None], study: Study) -> Run | None:
    """A run in whose circumstances the others must be.

    One of the base, of another cell only where the base has none; the study's own before another's.
    Where these disagree, one of the largest group that was made alike, those last whose records
    leave open what they are of.
    """
    own = {id(run) for run in study.runs}
    rank = {id(run): (cells[id(run)] != 0, id(run) not in own) for run in runs}
    best = min(rank.values(), default=None)
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if rank[id(run)] == best:
            groups[_made(run)].append(run)
    if not groups:
        return None
    return max(groups.values(), key=lambda alike: (not doubts(alike[0]), len(alike)))[0]


def _made(run: Run) -> str:
    """All circumstances of a run, those of interrupted attempts too, as one text."""
    return json.dumps([dict(circumstances(run.record)), list(run.record.earlier) or None], sort_keys=True)


def doubts(run: Run) -> tuple[Confound, ...]:
    """What even two runs just like this one leave open, such as uncommitted changes to the code."""
    return prove([run], [run], ()).confounds


def _differing(lattice: Lattice, like: Run | None) -> Callable[[Run], tuple[Confound, ...]]:
    """A function that says in what a run of a cell was made otherwise than `like`, beyond what
    follows from players' settings. Each way is compared once, for runs may be many."""
    declared = tuple(dict.fromkeys(key for p in lattice.game.players for key in p.settings))
    open_anyway = doubts(like) if like else ()
    known: dict[str, tuple[Confound, ...]] = {}

    def differs(run: Run) -> tuple[Confound, ...]:
        made = _made(run)
        if like and made not in known:
            confounds = prove([run], [like], declared).confounds
            known[made] = tuple(confound for confound in confounds if confound not in open_anyway)
        return known.get(made, ())

    return differs
