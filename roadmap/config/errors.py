"""The errors of the project, and how one is worded: what is wrong, what is legal, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar


class RoadmapError(Exception):
    """An error whose text is meant for the user; the command line prints it without a traceback."""


class ConfigError(RoadmapError, ValueError):
    """A spec that cannot be: an unknown name, an illegal value, or settings that exclude each other."""


def nearest(name: object, legal: Iterable[object]) -> str:
    """'did you mean X?' for a mistyped or shortened name, or the advice to pick a legal one."""
    by_text = {str(x).lower(): str(x) for x in legal}
    asked = str(name).lower()
    longer = [text for text in by_text if len(asked) > 2 and text.startswith(asked)]
    close = list(dict.fromkeys([*longer, *difflib.get_close_matches(asked, list(by_text), n=3, cutoff=0.5)]))[:3]
    return f"did you mean {' or '.join(repr(by_text[c]) for c in close)}?" if close else "choose one of these"


def listing(names: Iterable[object]) -> str:
    return ", ".join(str(n) for n in names)


T = TypeVar("T")


def lookup(where: str, name: object, table: Mapping[str, T]) -> T:
    """The entry of that name, or a ConfigError that names the legal ones and the nearest."""
    if isinstance(name, str) and name in table:
        return table[name]
    raise ConfigError(f"{where} {name!r} is unknown; legal: {listing(table)}; {nearest(name, table)}")


def refuse(found: list[str]) -> None:
    """Raise all the problems at once, or return."""
    if found:
        raise ConfigError("\n".join(found))
