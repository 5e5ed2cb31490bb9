"""Studies -> which of their runs lie on which cell of a lattice: those that have a cell's settings and were made as the base's runs were, each once.

What two cells differ in is the players' doing only where nothing else differs. What else may differ is what `analysis.results.proof` compares: code, packages, hardware, ranks,
precision, data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analysis.attribution.coalitions import Lattice, control_cells, flat
from analysis.load import Entry, Study, accuracy, outcome
from analysis.results.proof import circumstances, prove
from roadmap.runs.record import FINISHED


@dataclass(frozen=True)
class Placed:
    """Where the studies' runs lie: `runs` by cell, each run once; `apart` are runs of a cell that were made otherwise than the run `like`, with what differs; `aside` those
    of other settings, `silent` those whose record does not say its settings, `controls` counts those of negative controls: all of these have finished. `lost` are unfinished
    or failed ones, of the first study all, of others those on a cell; `repeated` counts runs that are listed again, `disagree` names those with another result there."""

    runs: Mapping[int, list[Entry]]
    like: Entry | None
    apart: tuple[tuple[Entry, tuple[str, ...]], ...]
    aside: tuple[Entry, ...]
    silent: tuple[Entry, ...]
    controls: int
    lost: tuple[Entry, ...]
    repeated: int
    disagree: tuple[str, ...]


def place(lattice: Lattice, studies: Sequence[Study], like: Entry | None = None) -> Placed:
    """Every run of the studies on its cell; of a run that several studies hold (one fingerprint) the first finished one counts.

    Runs that were made in other circumstances than `like`, a run of the base unless given, count nowhere. Nor do the runs of a study's controls: they are there to be
    compared with their cell, as in the study's table, and an A/A control's have seeds that no other cell has.
    """
    finished, lost, controls = _sorted_out(studies)
    cells = {id(t): lattice.find(flat(t["resolved"])) for t in finished if t.get("resolved")}
    like = like or _typical([t for t in finished if cells.get(id(t)) is not None], cells, studies[0])
    differs = _differing(lattice, like)
    kept: dict[str, Entry] = {}
    apart: dict[tuple[str, str], tuple[Entry, tuple[str, ...]]] = {}
    repeated, disagree = 0, []
    for t in finished:
        first = kept.get(t["fingerprint"])
        if cells.get(id(t)) is not None and (why := differs(t)):
            apart.setdefault((t["fingerprint"], _made(t)), (t, why))
        elif first is None:
            kept[t["fingerprint"]] = t
        else:
            repeated += 1
            disagree += [t["id"]] if accuracy(first) != accuracy(t) else []
    runs: dict[int, list[Entry]] = defaultdict(list)
    for t in kept.values():
        if (cell := cells.get(id(t))) is not None:
            runs[cell].append(t)
    aside = tuple(t for t in kept.values() if t.get("resolved") and cells[id(t)] is None)
    silent = tuple(t for t in kept.values() if not t.get("resolved"))
    unfinished = {t["fingerprint"]: t for t, own in lost if t["fingerprint"] not in kept and (own or _on(lattice, t))}
    return Placed(
        dict(runs),
        like,
        tuple(apart.values()),
        aside,
        silent,
        len(controls - kept.keys()),
        tuple(unfinished.values()),
        repeated,
        tuple(disagree),
    )


def _sorted_out(studies: Sequence[Study]) -> tuple[list[Entry], list[tuple[Entry, bool]], set[str]]:
    """The finished runs that are no control's; those that have not finished, with whether they are the first study's; the fingerprints of controls' finished runs."""
    finished: list[Entry] = []
    lost: list[tuple[Entry, bool]] = []
    controls: set[str] = set()
    for study in studies:
        of_control = control_cells(study)
        for t in study.trials:
            control = (t["step"], t["change"]) in of_control
            if outcome(t) == FINISHED and not control:
                finished.append(t)
            elif outcome(t) == FINISHED:
                controls.add(t["fingerprint"])
            elif study is studies[0] or not control:
                lost.append((t, study is studies[0]))
    return finished, lost, controls


def _typical(entries: Sequence[Entry], cells: Mapping[int, int | None], study: Study) -> Entry | None:
    """A run in whose circumstances the others must be: one of the base, of another cell only where the base has none; the study's own before another's. Where these
    disagree, one of the largest group that was made alike, those last whose records leave open what they are of."""
    own = {id(t) for t in study.trials}
    rank = {id(t): (cells[id(t)] != 0, id(t) not in own) for t in entries}
    best = min(rank.values(), default=None)
    groups: dict[str, list[Entry]] = defaultdict(list)
    for t in entries:
        if rank[id(t)] == best:
            groups[_made(t)].append(t)
    return max(groups.values(), key=lambda found: (not doubts(found[0]), len(found)))[0] if groups else None


def _made(entry: Entry) -> str:
    """All circumstances of a run, those of interrupted attempts too, as one text."""
    return json.dumps([dict(circumstances(entry)), entry.get("earlier") or None], sort_keys=True)


def doubts(entry: Entry) -> tuple[str, ...]:
    """What even two runs just like this one leave open, such as uncommitted changes to the code."""
    return prove([entry], [entry], ()).confounded_by


def _differing(lattice: Lattice, like: Entry | None) -> Callable[[Entry], tuple[str, ...]]:
    """A function that says in what a run of a cell was made otherwise than `like`, beyond what follows from players' settings. Each way is compared once, for runs may be many."""
    declared = tuple(dict.fromkeys(key for p in lattice.game.players for key in p.settings))
    open_anyway = doubts(like) if like else ()
    known: dict[str, tuple[str, ...]] = {}

    def differs(entry: Entry) -> tuple[str, ...]:
        made = _made(entry)
        if like and made not in known:
            known[made] = tuple(
                reason for reason in prove([entry], [like], declared).confounded_by if reason not in open_anyway
            )
        return known.get(made, ())

    return differs


def _on(lattice: Lattice, entry: Entry) -> bool:
    """Whether a run without a result has the settings of a cell."""
    return bool(entry.get("resolved")) and lattice.find(flat(entry["resolved"])) is not None
