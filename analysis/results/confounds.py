"""What differs between the runs of two cells, from their records alone.

A comparison is controlled if its two cells differ in declared settings and in nothing else that the
records hold: every resolved setting of network, recipe and data (with the digest of the file list),
contents of the data, code, packages as they are installed and as they are in memory, type of
hardware, CPU threads, ranks, images per device and per BatchNorm group, epochs, precision and
arithmetic. Anything else confounds it, also what only one side records; what neither says leaves it
unproven. Of what older records do not hold (`circumstances.YOUNGER`) only what both sides record is
compared. A record whose accuracy is not that of its own hits confounds too. Seeds are no setting:
where they differ the two are compared unpaired, and a note says so.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from analysis.results.circumstances import (
    CODE,
    DIRTY,
    all_circumstances,
    code_names,
    follows_from,
    may_be_unsaid,
    reason,
    unsaid,
)
from analysis.study import Run
from roadmap.config.errors import listing
from roadmap.runs.hits import contradictions

TIMM = "model.timm"  # the setting that only a network of timm has
UNSAID = "not recorded"
SHOWN = 80  # characters of a value
Planned = Mapping[str, Sequence[Any]]  # {setting: (parent's value, child's)}
Values = dict[str, set[str]]  # compared name -> the values that runs have, as JSON


class Status(StrEnum):
    """How much a comparison shows.

    CONTROLLED: only what was declared differs. CONFOUNDED: something else too. UNPROVEN: the
    records do not say enough. UNCHANGED: the declared change did not happen.
    """

    CONTROLLED = "controlled"
    CONFOUNDED = "confounded"
    UNPROVEN = "unproven"
    UNCHANGED = "unchanged"


class Cause(StrEnum):
    """Why a difference confounds.

    DIFFERS: the cells differ in it, undeclared. WITHIN: the runs of one cell do. OFF_PLAN: changed
    to another value than planned. STAYED: did not change, though planned. DIRTY: uncommitted code
    that cannot be told apart. OUTCOME: other results although nothing was changed. SELECTED: runs
    of a cell ended early, so that its mean is of those that went well. CONTRADICTS: a record's
    accuracy is not that of its own hits.
    """

    DIFFERS = "differs"
    WITHIN = "within"
    OFF_PLAN = "off plan"
    STAYED = "stayed"
    DIRTY = "dirty"
    OUTCOME = "outcome"
    SELECTED = "selected"
    CONTRADICTS = "contradicts"


@dataclass(frozen=True)
class Confound:
    """A difference that was not declared.

    name           of the setting, circumstance or metric
    before, after  the parent's and the child's values, as JSON; for WITHIN `after` has both sides'
    planned        the parent's and the child's value in the plan, for OFF_PLAN and STAYED
    seed           of the two runs, for OUTCOME
    because        what else differs between them, for OUTCOME
    """

    cause: Cause
    name: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    planned: tuple[str, ...] = ()
    seed: int | None = None
    because: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The difference in words, without a full stop."""
        before, after, planned = _shown(self.before), _shown(self.after), " to ".join(self.planned)
        match self.cause:
            case Cause.WITHIN:
                why = reason(self.name)
                return f"{self.name} {after} within one cell{f': {why}' if why else ''}"
            case Cause.OFF_PLAN:
                return f"{self.name} {' to '.join((*self.before, *self.after))}, planned {planned}"
            case Cause.STAYED:
                return f"{self.name} stayed {self.before[0]}, planned {planned}"
            case Cause.DIRTY:
                return f"{self.name} true: code with uncommitted changes cannot be told apart"
            case Cause.SELECTED:
                return f"{self.name}: {listing(self.after)}; the mean leaves out what went badly"
            case Cause.OUTCOME:
                differ = "differs" if len(self.because) == 1 else "differ"
                other = f"nothing was declared to change, but {listing(self.because)} {differ}"
                why = f": {other}" if self.because else ", although nothing was changed"
                return f"{self.name} {before} and {after} at seed {self.seed}{why}"
            case Cause.CONTRADICTS:
                return f"{self.name} is recorded as {before}, and the images that were right make it {after}"
        why = reason(self.name)
        return f"{self.name} {before} and {after}{f': {why}' if why else ''}"


class Remark(StrEnum):
    """What a reader of 'controlled' must still know.

    NETWORKS, BUNDLE: many settings changed, as declared by a pattern. COUPLED: several, as declared
    by name. IDLE: a declared one stayed. SEEDS: the two cells have other seeds.
    """

    NETWORKS = "networks"
    BUNDLE = "bundle"
    COUPLED = "coupled"
    IDLE = "idle"
    SEEDS = "seeds"


@dataclass(frozen=True)
class Note:
    """A remark on a proof: `names` are its settings.

    For SEEDS the parent's seeds, `others` the child's.
    """

    remark: Remark
    names: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """In a table's cell; empty for a remark that only the note tells."""
        shorts = {
            Remark.NETWORKS: "bundle of whole networks",
            Remark.BUNDLE: f"bundle of {len(self.names)} settings",
            Remark.COUPLED: "coupled",
        }
        return shorts.get(self.remark, "")

    @property
    def text(self) -> str:
        match self.remark:
            case Remark.NETWORKS:
                return f"{self.short}: nothing in them is shown to be the cause"
            case Remark.BUNDLE:
                return f"{self.short}: no one of them is shown to be the cause"
            case Remark.COUPLED:
                settings = " and ".join(name.partition(".")[2] for name in self.names)
                return f"{self.short}: {settings} change together, as declared"
            case Remark.IDLE:
                return f"declared but equal: {listing(self.names)}"
        return f"other seeds, not paired: {listing(self.names)} and {listing(self.others)}"


@dataclass(frozen=True)
class Proof:
    """What is shown of one comparison.

    changed   {setting: (parent's, child's value as JSON)} among the declared ones
    confounds every other difference
    unsaid    what the records do not hold
    same      names found equal
    notes     bundles, couplings, seeds
    """

    status: Status
    declared: tuple[str, ...] = ()
    changed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    confounds: tuple[Confound, ...] = ()
    unsaid: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def controlled(self) -> bool:
        return self.status is Status.CONTROLLED

    @property
    def text(self) -> str:
        """In a table's cell."""
        if self.status is Status.CONFOUNDED:
            return "confounded by " + listing(confound.name for confound in self.confounds)
        if self.status is Status.UNPROVEN:
            return f"unproven: {listing(self.unsaid)} {UNSAID}"
        short = self.notes[0].short if self.notes else ""
        return f"{self.status} ({short})" if short else str(self.status)

    @property
    def note(self) -> str:
        """All notes in one line."""
        return "; ".join(note.text for note in self.notes)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every confound in words."""
        return tuple(confound.text for confound in self.confounds)

    def to_json(self) -> dict[str, Any]:
        """Values and texts, JSON-ready."""
        return {
            "status": str(self.status),
            "declared": list(self.declared),
            "changed": {name: list(pair) for name, pair in self.changed.items()},
            "confounded_by": list(self.reasons),
            "unsaid": list(self.unsaid),
            "same": list(self.same),
            "note": self.note,
            "text": self.text,
        }


def prove(
    child: Sequence[Run], parent: Sequence[Run], declared: Sequence[str], planned: Planned | None = None
) -> Proof:
    """Compare the finished runs of two cells, one or more each.

    declared: names of resolved settings in which they may differ, `*` for any part of a name.
    planned: those that differ in the plan; where it is known, nothing else and no other value is
    allowed.
    """
    runs = [*child, *parent]
    code = code_names(runs)
    after, before = _values(child, code), _values(parent, code)
    after, before = _with_timms_defaults(after, before), _with_timms_defaults(before, after)
    allowed = list(declared) if planned is None else list(planned)
    changed: dict[str, tuple[str, str]] = {}
    same: list[str] = []
    confounds: list[Confound] = []
    for name in dict.fromkeys([*after, *before]):
        mine, theirs = after.get(name, {UNSAID}), before.get(name, {UNSAID})
        if len(mine) > 1 or len(theirs) > 1:
            confounds.append(Confound(Cause.WITHIN, name, after=tuple(sorted(mine | theirs))))
        elif mine == theirs:
            same.append(name)
        elif may_be_unsaid(name) and {UNSAID} in (mine, theirs):
            continue
        elif _is_declared(name, allowed):
            changed[name] = (_one(theirs), _one(mine))
        elif not any(_is_declared(setting, allowed) for setting in follows_from(name)):
            confounds.append(Confound(Cause.DIFFERS, name, tuple(theirs), tuple(mine)))
    confounds = _without_echoes(confounds)
    confounds += _off_plan(changed, {name: _one(after[name]) for name in same}, planned or {})
    confounds += [*_dirty(runs, code), *_contradicted(runs)]
    missing = unsaid(runs)
    return Proof(
        status=_status(confounds, missing, idle=bool(declared) and not changed),
        declared=tuple(declared),
        changed=changed,
        confounds=tuple(dict.fromkeys(confounds)),
        unsaid=missing,
        same=tuple(same),
        notes=tuple(_notes(changed, declared, child, parent)),
    )


def _status(confounds: Sequence[Confound], missing: Sequence[str], *, idle: bool) -> Status:
    if confounds:
        return Status.CONFOUNDED
    if missing:
        return Status.UNPROVEN
    return Status.UNCHANGED if idle else Status.CONTROLLED


def _off_plan(changed: Mapping[str, tuple[str, str]], same: Mapping[str, str], planned: Planned) -> Iterator[Confound]:
    """Settings that changed to other values than were planned, or did not change beside others that
    did."""
    for name, values in planned.items():
        pair = tuple(json.dumps(value, sort_keys=True) for value in values)
        if name in changed and changed[name] != pair:
            before, after = changed[name]
            yield Confound(Cause.OFF_PLAN, name, (before,), (after,), pair)
        elif name in same and changed:
            yield Confound(Cause.STAYED, name, (same[name],), planned=pair)


def _dirty(runs: Sequence[Run], code: Sequence[str]) -> list[Confound]:
    """Uncommitted changes confound unless digests say what code it was."""
    dirty = DIRTY in code and any(run.record.git_dirty for run in runs)
    return [Confound(Cause.DIRTY, DIRTY)] if dirty else []


def _without_echoes(confounds: Sequence[Confound]) -> list[Confound]:
    """Leave out that another version of a library has other files."""
    echoes = {c.name.replace("packages.", "libraries.", 1) for c in confounds if c.name.startswith("packages.")}
    return [c for c in confounds if c.name not in echoes]


def _contradicted(runs: Sequence[Run]) -> Iterator[Confound]:
    """Records whose accuracy is not that of their own hits: damaged, or written by hand."""
    for run in runs:
        for name, value, counted in contradictions(run.record):
            yield Confound(Cause.CONTRADICTS, f"{name} of {run.id}", (f"{value:.6g}",), (f"{counted:.6g}",))


def _values(runs: Sequence[Run], code: Sequence[str]) -> Values:
    """Every compared name with the values that the runs have."""
    values: Values = {}
    for run in runs:
        for name, value in _described(run):
            if name not in CODE or name in code:
                values.setdefault(name, set()).add(_text(value))
    return values


def _text(value: Any) -> str:
    """A value as JSON. Most are words and numbers that a thousand runs share: one is written once."""
    return _ENCODER.encode(value) if isinstance(value, (list, dict)) else _text_of_plain(value)


_ENCODER = json.JSONEncoder(sort_keys=True)


@functools.lru_cache(maxsize=10_000, typed=True)
def _text_of_plain(value: object) -> str:
    return _ENCODER.encode(value)


def _with_timms_defaults(mine: Values, theirs: Values) -> Values:
    """Add the keywords that one timm network sets and another does not: there timm's default stands, as null says."""
    if TIMM not in mine or TIMM not in theirs:
        return mine
    keywords = [name for name in theirs if name.startswith("model.") and name not in mine]
    return {**mine, **dict.fromkeys(keywords, {"null"})}


def _described(run: Run) -> Iterator[tuple[str, Any]]:
    """(name, value) of every resolved setting and circumstance."""
    resolved = run.resolved
    for part in ("model", "recipe", "data"):
        yield from ((f"{part}.{name}", value) for name, value in resolved.get(part, {}).items())
    yield "init", resolved.get("init", run.record.init)
    yield from all_circumstances(run)


def _is_declared(name: str, declared: Iterable[str]) -> bool:
    return bool(name) and any(fnmatchcase(name, pattern) for pattern in declared)


def _notes(
    changed: Mapping[str, Any], declared: Sequence[str], child: Sequence[Run], parent: Sequence[Run]
) -> Iterator[Note]:
    by_pattern = any("*" in pattern for pattern in declared)
    if "model.*" in declared:
        yield Note(Remark.NETWORKS, tuple(changed))
    elif len(changed) > 1:
        yield Note(Remark.BUNDLE if by_pattern else Remark.COUPLED, tuple(changed))
    idle = tuple(name for name in declared if "*" not in name and name not in changed)
    if idle:
        yield Note(Remark.IDLE, idle)
    before, after = _seeds(parent), _seeds(child)
    if before != after:
        yield Note(Remark.SEEDS, before, after)


def _seeds(runs: Sequence[Run]) -> tuple[str, ...]:
    seeds = {run.seed for run in runs}
    return tuple(map(str, sorted(seeds)))


def _one(values: set[str]) -> str:
    return next(iter(values))


def _shown(values: Iterable[str]) -> str:
    return ", ".join(value.strip('"')[:SHOWN] for value in sorted(values))
