"""What a field of a config may hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from roadmap.config.errors import ConfigError, listing, lookup, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """One of a fixed list of words."""

    options: tuple[str, ...]

    def check(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.options

    def parse(self, text: str) -> Any:
        return text

    def legal(self) -> str:
        return "legal: " + listing(self.options)

    def advice(self, value: Any) -> str:
        return nearest(value, self.options)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, value: Any) -> bool:
        return isinstance(value, bool)

    def parse(self, text: str) -> Any:
        return {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }.get(text.lower(), text)

    def legal(self) -> str:
        return "legal: true, false"

    def advice(self, value: Any) -> str:
        return "write true or false"


@dataclass(frozen=True)
class Number:
    """A finite number between two bounds (both included); `whole` for integers, `odd` for odd ones, `none` where 'none' is a setting."""

    low: float
    high: float
    whole: bool = False
    odd: bool = False
    none: bool = False

    def check(self, value: Any) -> bool:
        if value is None:
            return self.none
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return math.isfinite(value) and self.low <= value <= self.high and not (self.odd and value % 2 == 0)

    def parse(self, text: str) -> Any:
        if self.none and text.lower() in ("none", "null", "off"):
            return None
        try:
            return int(text) if self.whole else float(text)
        except ValueError:
            return text

    def legal(self) -> str:
        kind = "odd integers" if self.odd else "integers" if self.whole else "numbers"
        return f"legal: {kind} from {self.low:g} to {self.high:g}" + (" or none" if self.none else "")

    def advice(self, value: Any) -> str:
        if self.odd and isinstance(value, int) and not isinstance(value, bool) and self.low < value < self.high:
            return f"try {value - 1} or {value + 1}"
        return "give a value in that range"


@dataclass(frozen=True)
class Numbers:
    """A tuple of numbers, each legal by `each`, between `least` and `most` of them."""

    each: Number
    least: int
    most: int

    def check(self, value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and self.least <= len(value) <= self.most
            and all(self.each.check(v) for v in value)
        )

    def parse(self, text: str) -> Any:
        return tuple(
            self.each.parse(word)
            for word in text.strip("()[] ").replace("-", ",").replace(":", ",").split(",")
            if word.strip()
        )

    def legal(self) -> str:
        count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"legal: {count} values, each {self.each.legal().removeprefix('legal: ')}"

    def advice(self, value: Any) -> str:
        return "write them with commas, such as " + ",".join(["3"] * self.most)


@dataclass(frozen=True)
class Text:
    """Any text on one line; empty only if `empty`."""

    empty: bool = False

    def check(self, value: Any) -> bool:
        return isinstance(value, str) and value.isprintable() and (self.empty or bool(value))

    def parse(self, text: str) -> Any:
        return text

    def legal(self) -> str:
        return "legal: one line of text"

    def advice(self, value: Any) -> str:
        return "quote it"


Rule = Choice | Flag | Number | Numbers | Text


def setting(rule: Rule, doc: str, *, default: Any = dataclasses.MISSING, identity: bool = True) -> Any:
    """A validated dataclass field. `identity=False`: a label that does not change what is trained, kept out of fingerprints."""
    return dataclasses.field(default=default, metadata={"rule": rule, "doc": doc, "identity": identity})


def problems(where: str, obj: Any) -> list[str]:
    """Every illegal field of a dataclass instance built from `setting`s, one sentence each."""
    found = []
    for f in dataclasses.fields(obj):
        rule, value = f.metadata["rule"], getattr(obj, f.name)
        if not rule.check(value):
            found.append(f"{where}.{f.name} is {value!r}; {rule.legal()}; {rule.advice(value)}")
    return found


def parse_setting(where: str, cls: type, text: str) -> tuple[str, Any]:
    """`name=value` from the command line -> (field, typed value) of a spec class. Raises ConfigError with the legal names."""
    name, sign, value = text.partition("=")
    name = name.strip().replace("-", "_")
    rules: Mapping[str, Rule] = {f.name: f.metadata["rule"] for f in dataclasses.fields(cls)}
    rule = lookup(f"{where} toggle", name, rules)
    if not sign:
        raise ConfigError(f"{where}.{name} has no value in {text!r}; {rule.legal()}; write {name}=VALUE")
    parsed = rule.parse(value.strip())
    if not rule.check(parsed):
        raise ConfigError(f"{where}.{name} is {parsed!r}; {rule.legal()}; {rule.advice(parsed)}")
    return name, parsed


def plain(obj: Any, keep: Callable[[Mapping[str, Any]], bool] = lambda metadata: True) -> dict[str, Any]:
    """A spec as JSON-ready values: tuples as lists, real numbers as floats however they were written; `keep` selects fields by their metadata."""

    def convert(rule: Rule, value: Any) -> Any:
        if isinstance(value, tuple) and isinstance(rule, Numbers):
            return [convert(rule.each, v) for v in value]
        return float(value) if isinstance(rule, Number) and not rule.whole and value is not None else value

    return {
        f.name: convert(f.metadata["rule"], getattr(obj, f.name)) for f in dataclasses.fields(obj) if keep(f.metadata)
    }


def from_plain(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """The inverse of `plain` for a flat spec class: lists become tuples, unknown or missing keys are refused."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        lookup(f"{where} field", key, fields)
    if missing := [n for n in fields if n not in values]:
        raise ConfigError(
            f"{where} lacks {listing(missing)}; every field is written out in a trial file; it is damaged or of another version"
        )
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def show(value: Any) -> str:
    """A setting as users write it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return ",".join(map(show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def diff(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """Fields whose values differ between two specs of one class, as {field: (a's, b's)}; labels are left out."""
    return {
        f.name: (getattr(a, f.name), getattr(b, f.name))
        for f in fields(a)
        if f.metadata["identity"] and getattr(a, f.name) != getattr(b, f.name)
    }
