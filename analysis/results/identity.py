"""What a cell is in any study: its step on the ladder and the settings on top of it, as values.

By it cells of two studies are told to be the same, whatever regime, data, recipe or seeds they are
trained in. A study's configuration cannot tell, for two studies differ in it by intention; labels
are for readers.

A setting's value is compared as the step of the ladder that brings it, where one does: `depths` of
(1, 1, 1, 1) in a small regime and (3, 4, 6, 3) in a large one are both what they are before the step
that changes them. Any other value stands for itself.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from analysis.study import Cell, CellId, Comparison, Kind, Study
from roadmap.config.fields import plain
from roadmap.ladder import Ladder, find_ladder

Token = Callable[[str, Any], str]  # a setting's name and value -> what the value stands for


@dataclass(frozen=True, slots=True)
class SharedId:
    """A cell in any study of its ladder: its step (or network), and {(setting, what its value stands for)}."""

    ladder: str
    step: str
    settings: frozenset[tuple[str, str]] = frozenset()


def shared_ids(study: Study, regime: str) -> dict[CellId, SharedId]:
    """The identity of each cell of one regime of a study, controls left out.

    Two cells of one study that would be the same have none.
    """
    children = {c.child: c for c in study.comparisons}
    token = functools.partial(_token, find_ladder(study.ladder), regime)
    ids: dict[CellId, SharedId] = {}
    for run in study.runs_in(regime):
        comparison = children.get(run.cell.id)
        if comparison is None or not comparison.kind.control:
            ids[run.cell.id] = _shared_id(study, run.cell, children, token)
    listed = list(ids.values())
    return {cell: id_ for cell, id_ in ids.items() if listed.count(id_) == 1}


def _shared_id(study: Study, cell: Cell, children: Mapping[CellId, Comparison], token: Token) -> SharedId:
    settings = {**_crossed(study, cell, token), **_on_top(study, cell, children, token)}
    return SharedId(study.ladder, cell.step, frozenset(settings.items()))


def _on_top(study: Study, cell: Cell, children: Mapping[CellId, Comparison], token: Token) -> dict[str, str]:
    """The settings on top of the cell's step, as the plan of its comparisons says them."""
    comparison = children.get(cell.id)
    if comparison is not None and comparison.kind is Kind.CHANGE:
        parent = study.cells[comparison.parent]
        base = _on_top(study, parent, children, token) if parent.step == cell.step else {}
        return base | {name: token(name, after) for name, (_, after) in (comparison.planned or {}).items()}
    if not cell.arm or comparison is not None:
        return {}
    # What others are compared with, where it is no step as it is: by what they have instead.
    befores: dict[str, str] = {}
    for c in study.comparisons:
        if c.parent == cell.id and c.kind is Kind.CHANGE:
            befores |= {name: token(name, before) for name, (before, _) in (c.planned or {}).items()}
    return befores


def _crossed(study: Study, cell: Cell, token: Token) -> dict[str, str]:
    """The values of the settings that a design is crossed with, as the cell's runs have them."""
    crossed = {name for c in study.crossings for name in c.declared}
    if cell.point is None or not crossed:
        return {}
    known = next((run.resolved for run in study.runs if run.cell.id == cell.id and run.resolved), {})
    values = _dotted({part: known.get(part, {}) for part in ("model", "recipe", "data")})
    return {n: token(n, value) for n, value in values.items() if any(fnmatchcase(n, pattern) for pattern in crossed)}


def _token(ladder: Ladder, regime: str, name: str, value: Any) -> str:
    """The first step of the ladder's path with this value in the regime, else the value."""
    written = json.dumps(value, sort_keys=True)
    for step, settings in _path(ladder.name, regime).items():
        if name in settings and json.dumps(settings[name], sort_keys=True) == written:
            return f"as of {step}"
    return written


@functools.cache
def _path(ladder: str, regime: str) -> dict[str, dict[str, Any]]:
    """The settings of network and recipe at each step of the ladder's path."""
    of = find_ladder(ladder)
    settings: dict[str, dict[str, Any]] = {}
    for step in of.order():
        network, recipe = plain(of.model(step.name, regime)), plain(of.recipe(step.name, regime))
        settings[step.name] = _dotted({"model": network, "recipe": recipe})
    return settings


def _dotted(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{"model.norm": "layer", ...} of settings by part."""
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
