"""What differs between the runs of two cells, from their records alone: exactly what was declared, or something else too.

A comparison is 'controlled' if its two cells differ in declared settings and in nothing else that the records hold: every resolved setting of
network, recipe and data (with the digest of the file list), code commit, package versions, type of hardware, ranks, images per device and per
BatchNorm group, epochs, precision. Anything else makes it 'confounded', also what only one side records; what neither says leaves it 'unproven'. Seeds are no
setting: where they differ the two are compared unpaired, and the proof says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from analysis.load import Entry
from roadmap.config.errors import listing

CONTROLLED, CONFOUNDED, UNPROVEN, UNCHANGED = "controlled", "confounded", "unproven", "unchanged"

# What a record says of how it was made -> the declared setting that it follows from, where there is one.
CIRCUMSTANCES: Mapping[str, str] = {
    "git_commit": "", "git_dirty": "", "code_digest": "", "packages": "", "hardware.device": "", "hardware.cpu": "", "world_size": "", "compile": "", "channels_last": "",
    "device_batch": "recipe.group_size", "group_size": "recipe.group_size", "global_batch": "recipe.batch_size", "epochs": "recipe.epochs", "precision": "recipe.precision",
    "data_digest": "data.digest", "image_size": "data.image_size", "train_images": "data.name", "test_images": "data.name",
}  # fmt: skip
MAY_BE_ABSENT = (
    "git_commit",
    "git_dirty",
    "code_digest",
    "data_digest",
)  # see `_code`; a data set that its name says all of has no digest
UNSAID = "not recorded"


@dataclass(frozen=True)
class Proof:
    """`changed`: {setting: (parent's, child's)} among the declared ones. `confounded_by`: one sentence for each other difference.

    unsaid: what the records do not hold. same: names found equal. note: bundles, couplings, seeds.
    """

    status: str
    declared: tuple[str, ...]
    changed: Mapping[str, tuple[Any, Any]]
    confounded_by: tuple[str, ...]
    unsaid: tuple[str, ...]
    same: tuple[str, ...]
    note: str

    @property
    def text(self) -> str:
        """In a table's cell."""
        if self.status == CONFOUNDED:
            return "confounded by " + listing(reason.split(" ", 1)[0] for reason in self.confounded_by)
        if self.status == UNPROVEN:
            return f"unproven: {listing(self.unsaid)} {UNSAID}"
        several = self.note.startswith(("bundle", "coupled"))
        return f"{self.status} ({self.note.split(';')[0].split(':')[0]})" if several else self.status


def prove(
    child: Sequence[Entry],
    parent: Sequence[Entry],
    declared: Sequence[str],
    planned: Mapping[str, Sequence[Any]] | None = None,
) -> Proof:
    """Of the finished runs of two cells, one or more each.

    declared: names of resolved settings in which they may differ, `*` for any part of a name. planned: {name: [parent's value, child's]} of those that differ in the plan;
    where it is known, nothing else and no other value is allowed.
    """
    sides = [_values(runs) for runs in (child, parent)]
    allowed = list(declared) if planned is None else list(planned)
    changed: dict[str, tuple[Any, Any]] = {}
    confounded: list[str] = []
    same: list[str] = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        mine, theirs = sides[0].get(name, {UNSAID}), sides[1].get(name, {UNSAID})
        if len(mine) > 1 or len(theirs) > 1:
            confounded.append(f"{name} {_shown(mine | theirs)} within one cell")
        elif mine == theirs:
            same.append(name)
        elif _is_declared(name, allowed):
            changed[name] = (_one(theirs), _one(mine))
        elif not _is_declared(CIRCUMSTANCES.get(name, ""), allowed):
            confounded.append(f"{name} {_shown(theirs)} and {_shown(mine)}")
    confounded += _off_plan(changed, {name: _one(sides[0][name]) for name in same}, planned or {})
    runs = [*child, *parent]
    confounded, unsaid = _code(runs, confounded), tuple(_unsaid(runs))
    status = CONFOUNDED if confounded else UNPROVEN if unsaid else UNCHANGED if declared and not changed else CONTROLLED
    return Proof(
        status,
        tuple(declared),
        changed,
        tuple(dict.fromkeys(confounded)),
        unsaid,
        tuple(same),
        "; ".join(_notes(changed, declared, child, parent)),
    )


def _off_plan(
    changed: Mapping[str, tuple[Any, Any]], same: Mapping[str, Any], planned: Mapping[str, Sequence[Any]]
) -> list[str]:
    """Settings that changed as declared, but to other values than were planned, or did not change beside others that did."""
    found = []
    for name, values in planned.items():
        pair = tuple(json.dumps(value, sort_keys=True) for value in values)
        if name in changed and changed[name] != pair:
            found.append(f"{name} {' to '.join(changed[name])}, planned {' to '.join(pair)}")
        elif name in same and changed:
            found.append(f"{name} stayed {same[name]}, planned {' to '.join(pair)}")
    return found


def _code(runs: Sequence[Entry], confounded: list[str]) -> list[str]:
    """Uncommitted changes confound unless the digest of the sources says that they are the same ones."""
    digests = {run.get("code_digest") for run in runs}
    known = None not in digests and len(digests) == 1
    if any(run.get("git_dirty") for run in runs) and not known:
        return [*confounded, "git_dirty true: code with uncommitted changes cannot be told apart"]
    return [reason for reason in confounded if not (known and reason.startswith("git_dirty "))]


def _values(runs: Sequence[Entry]) -> dict[str, set[str]]:
    """Every compared name -> the values that the runs have, as JSON."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for name, value in (*_described(run), *_resumed(run)):
            found.setdefault(name, set()).add(json.dumps(value, sort_keys=True))
    return found


def _resumed(run: Entry) -> Iterable[tuple[str, Any]]:
    """What was otherwise in an earlier attempt of the run: other code, packages, hardware or ranks make it two things."""
    for attempt in run.get("earlier") or []:
        yield from circumstances(attempt, [name for name in CIRCUMSTANCES if name.partition(".")[0] in attempt])


def _described(run: Entry) -> Iterable[tuple[str, Any]]:
    resolved = run.get("resolved") or {}
    for part in ("model", "recipe", "data"):
        yield from ((f"{part}.{name}", value) for name, value in resolved.get(part, {}).items())
    yield "init", resolved.get("init", run.get("init", ""))
    yield from circumstances(run)


def circumstances(run: Mapping[str, Any], names: Iterable[str] = tuple(CIRCUMSTANCES)) -> Iterable[tuple[str, Any]]:
    """(name, value) of how a run was made, one for each package."""
    for name in names:
        if name == "packages":
            yield from ((f"packages.{package}", version) for package, version in (run.get("packages") or {}).items())
            continue
        outer, _, inner = name.partition(".")
        value = run.get(outer)
        yield name, value.get(inner) if inner and isinstance(value, dict) else value


def _unsaid(runs: Sequence[Entry]) -> list[str]:
    names = [name for name in CIRCUMSTANCES if name not in MAY_BE_ABSENT]
    missing = [
        name for name in ("resolved", *names) if any(run.get(name.partition(".")[0]) in (None, {}) for run in runs)
    ]
    code = ["code"] if any(run.get("git_commit") is None and run.get("code_digest") is None for run in runs) else []
    return list(dict.fromkeys([*missing, *code]))


def _is_declared(name: str, declared: Iterable[str]) -> bool:
    return bool(name) and any(fnmatchcase(name, pattern) for pattern in declared)


def _notes(
    changed: Mapping[str, Any], declared: Sequence[str], child: Sequence[Entry], parent: Sequence[Entry]
) -> list[str]:
    """What a reader of 'controlled' must still know: several settings at once, a declared one that stayed, other seeds."""
    found = []
    if "model.*" in declared:
        found.append("bundle of whole networks: nothing in them is shown to be the cause")
    elif len(changed) > 1 and any("*" in pattern for pattern in declared):
        found.append(f"bundle of {len(changed)} settings: no one of them is shown to be the cause")
    elif len(changed) > 1:
        found.append(
            f"coupled: {' and '.join(name.partition('.')[2] for name in changed)} change together, as declared"
        )
    idle = [name for name in declared if "*" not in name and name not in changed]
    if idle:
        found.append(f"declared but equal: {listing(idle)}")
    seeds = [sorted({run["seed"] for run in runs}) for runs in (parent, child)]
    if seeds[0] != seeds[1]:
        found.append(f"other seeds, not paired: {listing(seeds[0])} and {listing(seeds[1])}")
    return found


def _one(values: set[str]) -> Any:
    return next(iter(values))


def _shown(values: set[str]) -> str:
    return ", ".join(v.strip('"')[:40] for v in sorted(values))
