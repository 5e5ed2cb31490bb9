"""The errors of the project, and how one is worded: what is wrong, what is legal, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar


class RoadmapError(Exception):
    """An error whose text is meant for the user; the command line prints it without a traceback."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a config: the field, empty where it is several together, and the words after it."""

    field: str
    words: str

    def at(self, where: str) -> str:
        """Return the whole sentence, for a config that the user knows as `where`."""
        return f"{where}.{self.field}{self.words}" if self.field else self.words


class DataError(RoadmapError):
    """A data set that is missing, empty, damaged, or not what its name says."""


class ConfigError(RoadmapError, ValueError):
    """A config that cannot be: an unknown name, an illegal value, settings that exclude each other.

    `faults` tells all of them apart where a config was checked as a whole.
    """

    faults: tuple[Fault, ...] = ()

    @classmethod
    def of(cls, where: str, faults: Iterable[Fault]) -> Self:
        """Make the error of a config that the user knows as `where`."""
        found = tuple(faults)
        error = cls("\n".join(fault.at(where) for fault in found))
        error.faults = found
        return error


def nearest(name: object, legal: Iterable[object]) -> str:
    """'did you mean X?' for a mistyped or shortened name, or the advice to pick a legal one."""
    by_text = {str(x).lower(): str(x) for x in legal}
    asked = str(name).lower()
    longer = [text for text in by_text if len(asked) > 2 and text.startswith(asked)]
    close = list(dict.fromkeys([*longer, *difflib.get_close_matches(asked, list(by_text), n=3, cutoff=0.5)]))[:3]
    if not close:
        return "choose one of these"
    return f"did you mean {' or '.join(repr(by_text[text]) for text in close)}?"


def listing(names: Iterable[object]) -> str:
    """Join names with commas."""
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
