"""Ladders as data, found by name. Importing this imports no ladder and no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

from roadmap.config.errors import ConfigError, listing, nearest
from roadmap.ladder.ladder import Ladder, Paper, Reference, Regime, Step

DEFAULT = "convnext"
ENTRY_POINTS = "roadmap.ladders"  # the group in which other packages name theirs
SHIPPED: Mapping[str, str] = MappingProxyType(
    {"convnext": "roadmap.ladder.convnext:CONVNEXT", "deit": "roadmap.ladder.deit:DEIT"}
)

__all__ = ["DEFAULT", "Ladder", "Paper", "Reference", "Regime", "Step", "find_ladder", "known_ladders"]


def known_ladders() -> dict[str, str]:
    """Return where every ladder lies that has a name here: {name: "module:NAME"}."""
    return {**{e.name: e.value for e in entry_points(group=ENTRY_POINTS)}, **SHIPPED}


@cache
def find_ladder(name: str = DEFAULT) -> Ladder:
    """Return a ladder by its name, or one written as `module:NAME`. Raises ConfigError."""
    known = known_ladders()
    if name not in known and ":" not in name:
        raise ConfigError(
            f"ladder {name!r} is unknown; legal: {listing(known)}, or module:NAME of a Ladder; {nearest(name, known)}"
        )
    module, _, attribute = known.get(name, name).partition(":")
    try:
        ladder = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise ConfigError(
            f"ladder {name!r} cannot be loaded: {e}; legal: an importable module and a name in it; check both"
        ) from e
    if not isinstance(ladder, Ladder):
        raise ConfigError(
            f"ladder {name!r} is {type(ladder).__name__}; legal: a roadmap.ladder.Ladder; name the object that holds it"
        )
    return ladder
