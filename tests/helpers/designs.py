"""Cells of a plan, and what differs between them."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from roadmap.config.trial import Trial
from roadmap.study.designs import Comparison, Key
from roadmap.study.expand import Study
from roadmap.study.plan import Plan

Command = Callable[..., Any]
NINE = "separate-downsampling"


def plan_of(**values: Any) -> Plan:
    return Plan(**{"name": "p", "question": "?", "regime": "micro", **values})


def cells_of(study: Study) -> dict[Key, list[Trial]]:
    found: dict[Key, list[Trial]] = {}
    for t in study.trials:
        found.setdefault((t.step, t.change), []).append(t)
    return found


def flat(trial: Trial) -> dict[str, Any]:
    """Every resolved setting but the seed and the name of a control, by its dotted name."""
    resolved = trial.identity()
    return {"init": resolved["init"]} | {
        f"{part}.{name}": value for part in ("model", "recipe", "data") for name, value in resolved[part].items()
    }


def different(a: Trial, b: Trial) -> set[str]:
    one, other = flat(a), flat(b)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def is_declared(name: str, comparison: Comparison) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in comparison.declared)


def assert_controlled(study: Study) -> int:
    """Each comparison's two cells differ in declared settings only, each cell in the seed only.

    Returns how many comparisons have both sides.
    """
    cells = cells_of(study)
    for key, trials in cells.items():
        assert len({t.configuration for t in trials}) == 1, key
        assert len({t.seed for t in trials}) == len(trials), key
    both = [c for c in study.comparisons if c.child in cells and c.parent in cells]
    for c in (*both, *(c for c in study.crossings if c.child in cells and c.parent in cells)):
        strange = {n for n in different(cells[c.child][0], cells[c.parent][0]) if not is_declared(n, c)}
        assert not strange, (c, strange)
    return len(both)


FACTORS: tuple[dict[str, Any], ...] = (
    {"activation": "gelu"},
    {"activations": "one"},
    {"norm": "layer", "conv_bias": True},
)
