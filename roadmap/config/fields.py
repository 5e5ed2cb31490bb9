"""What a field of a config may hold: its type, in the words of a refusal, and the reading of a command line's text.

Configs are pydantic dataclasses: immutable, keyword-only, strictly typed. `config` makes one, `setting` a field of it.
Pydantic decides what is legal; this file puts its findings into the project's one form of an error:
`<where>.<field> <what is wrong, with the value>; <what is legal>; <what to do>`. No torch.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import annotated_types
import pydantic
import pydantic.dataclasses
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

from roadmap.config.errors import ConfigError, Fault, listing, lookup, nearest

T = TypeVar("T")

STRICT = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, validate_default=True)
FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
NONE_WORDS = ("none", "null", "off")


class Odd:
    """Marks an integer that must be odd."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    @staticmethod
    def _check(value: int) -> int:
        if value % 2 == 0:
            raise PydanticCustomError("odd", "is even")
        return value


@dataclass(frozen=True)
class Line:
    """Marks a text that fits on one line; empty only if `empty`."""

    empty: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str) -> str:
        if not value.isprintable() or not (self.empty or value):
            raise PydanticCustomError("line", "is not one line of text")
        return value


Text = Annotated[str, Line()]
TextOrEmpty = Annotated[str, Line(empty=True)]
Fraction = Annotated[float, annotated_types.Interval(ge=0, le=1)]


def setting(
    doc: str,
    *,
    default: Any = dataclasses.MISSING,
    identity: bool = True,
    since: int = 1,
    neutral: Any = None,
    open_: bool = False,
    form: str = "",
) -> Any:
    """Return a field of a config.

    identity: False for a label that changes nothing of what is trained; it stays out of fingerprints.
    since: the version of trials that first had the field. neutral: for a field younger than version 1, the value that
    older trials had without knowing it; at this value the field is left out of fingerprints, so they stay as they were.
    open_: the field holds ((name, value), ...), settings that the class itself does not list.
    form: how a legal value is written, where the type does not say it well.
    """
    metadata = {
        "description": doc,
        "identity": identity,
        "since": since,
        "neutral": neutral,
        "open": open_,
        "form": form,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting, dataclasses.field))
def config(cls: type[T]) -> type[T]:
    """Make a class of `setting`s a config. Its constructor raises ConfigError with every fault at once."""
    made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)(cls)
    validated = made.__init__

    @functools.wraps(validated)
    def init(self: Any, **values: Any) -> None:
        try:
            validated(self, **values)
        except pydantic.ValidationError as e:
            raise _refusal(made, e, values) from None

    made.__init__ = init
    return cast(type[T], made)


def _refusal(cls: type, error: pydantic.ValidationError, given: Mapping[str, Any]) -> ConfigError:
    """Return the config's own refusal where that is all, else one made of every fault."""
    found = error.errors(include_url=False)
    own = [detail.get("ctx", {}).get("error") for detail in found if not detail["loc"]]
    if own and isinstance(own[0], ConfigError):
        return own[0]
    # One sentence a field, also where several items of a tuple are wrong.
    by_field = {str(detail["loc"][0]): detail for detail in found}
    order = sorted(by_field, key=lambda name: [*given, *by_field].index(name))
    faults = [_fault(cls, name, by_field[name], given.get(name)) for name in order]
    return ConfigError.of(cls.__name__, faults)


def _fault(cls: type, name: str, found: ErrorDetails, value: Any) -> Fault:
    """Put pydantic's finding on one field into the project's words."""
    known = field_types(cls)
    if name not in known:
        return Fault(name, f" is unknown; legal: {listing(known)}; {nearest(name, known)}")
    form = next(f.metadata["form"] for f in dataclasses.fields(cls) if f.name == name)
    allowed = f"legal: {form}" if form else legal(known[name])
    if found["type"].startswith("missing"):
        return Fault(name, f" is missing; {allowed}; give it a value")
    return Fault(name, f" is {value!r}; {allowed}; {'write it so' if form else advice(known[name], value)}")


# Types ----------------------------------------------------------------------------------------------------------------


def field_types(cls: Any) -> Mapping[str, Any]:
    """Return the types of a config's fields, constraints included."""
    return _field_types(cls)


@functools.cache
def _field_types(cls: Any) -> Mapping[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


@dataclass(frozen=True)
class Kind:
    """A field's type taken apart: the bare type, its marks (bounds, Odd, Line), and whether None is a setting."""

    base: Any
    marks: tuple[Any, ...]
    none: bool

    @classmethod
    def of(cls, annotation: Any) -> Kind:
        """Take apart `Annotated[X, marks] | None` in either order."""
        if get_origin(annotation) is Annotated:
            inner, *marks = get_args(annotation)
            kind = cls.of(inner)
            return cls(kind.base, (*kind.marks, *marks), kind.none)
        if get_origin(annotation) in (Union, types.UnionType):
            others = [a for a in get_args(annotation) if a is not type(None)]
            kind = cls.of(others[0])
            return cls(kind.base, kind.marks, len(others) < len(get_args(annotation)))
        return cls(annotation, (), False)

    @property
    def odd(self) -> bool:
        return any(isinstance(mark, Odd) for mark in self.marks)

    @property
    def interval(self) -> tuple[float, float]:
        found = next(mark for mark in self.marks if isinstance(mark, annotated_types.Interval))
        return found.ge, found.le  # type: ignore[return-value]

    @property
    def lengths(self) -> tuple[int, int]:
        found = next(mark for mark in self.marks if isinstance(mark, annotated_types.Len))
        return found.min_length, found.max_length or found.min_length

    @property
    def is_tuple(self) -> bool:
        return get_origin(self.base) is tuple

    @property
    def item(self) -> Any:
        return get_args(self.base)[0]

    @property
    def options(self) -> tuple[Any, ...]:
        """The words of a Literal."""
        return get_args(self.base) if get_origin(self.base) is Literal else ()


def legal(annotation: Any) -> str:
    """Say what a field may hold: 'legal: odd integers from 1 to 63'."""
    kind = Kind.of(annotation)
    ending = " or none" if kind.none else ""
    if kind.options:
        return f"legal: {listing(kind.options)}{ending}"
    if kind.base is bool:
        return f"legal: true, false{ending}"
    if kind.is_tuple:
        least, most = kind.lengths
        count = f"{least}" if least == most else f"{least} to {most}"
        return f"legal: {count} values, each {legal(kind.item).removeprefix('legal: ')}{ending}"
    if kind.base in (int, float):
        low, high = kind.interval
        whole = "odd integers" if kind.odd else "integers"
        numbers = whole if kind.base is int else "numbers"
        return f"legal: {numbers} from {low} to {high}{ending}"
    return f"legal: one line of text{ending}" if kind.base is str else f"legal: {kind.base}{ending}"


def advice(annotation: Any, value: Any) -> str:
    """Say what to do about an illegal value."""
    kind = Kind.of(annotation)
    if kind.options:
        return nearest(value, kind.options)
    if kind.base is bool:
        return "write true or false"
    if kind.is_tuple:
        return "write them with commas, such as " + ",".join(["3"] * kind.lengths[1])
    if kind.base in (int, float):
        return _advice_on_number(kind, value)
    return "quote it"


def _advice_on_number(kind: Kind, value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    low, high = kind.interval
    if kind.odd and whole and low < value < high:
        return f"try {value - 1} or {value + 1}"
    return "give a value in that range"


# Text of a command line -----------------------------------------------------------------------------------------------


def from_text(annotation: Any, text: str) -> Any:
    """Turn a command line's word into a value of that type.

    A word that means none stays text, for the check to refuse.
    """
    kind = Kind.of(annotation)
    if kind.none and text.lower() in NONE_WORDS:
        return None
    if kind.base is bool:
        return FLAGS.get(text.lower(), text)
    if kind.is_tuple:
        words = text.strip("()[] ").replace("-", ",").replace(":", ",").split(",")
        return tuple(from_text(kind.item, word) for word in words if word.strip())
    if kind.base in (int, float):
        try:
            return kind.base(text)
        except ValueError:
            return text
    return text


@functools.cache
def _adapter(cls: type, name: str) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(field_types(cls)[name], config=STRICT)


def checked(cls: type, name: str, value: Any, where: str = "") -> Any:
    """Return the value as the field of that name holds it. Raises ConfigError, also for a name that is no field."""
    where = where or cls.__name__
    annotation = lookup(f"{where} toggle", name, field_types(cls))
    try:
        return _adapter(cls, name).validate_python(value)
    except pydantic.ValidationError:
        text = f"{where}.{name} is {value!r}; {legal(annotation)}; {advice(annotation, value)}"
        raise ConfigError(text) from None


def parse_setting(where: str, cls: type, text: str) -> tuple[str, Any]:
    """Read `name=value` from a command line as (field, typed value). Raises ConfigError with the legal names."""
    name, sign, value = text.partition("=")
    name = name.strip().replace("-", "_")
    annotation = lookup(f"{where} toggle", name, field_types(cls))
    if not sign:
        raise ConfigError(f"{where}.{name} has no value in {text!r}; {legal(annotation)}; write {name}=VALUE")
    return name, checked(cls, name, from_text(annotation, value.strip()), where)


# JSON -----------------------------------------------------------------------------------------------------------------


def plain(obj: Any) -> dict[str, Any]:
    """Return a config as JSON holds it: tuples as lists, open settings beside the listed ones."""
    return {name: _as_json(value) for _, name, value in _items(obj)}


def identity_of(obj: Any) -> dict[str, Any]:
    """Return what of a config decides the outcome, as JSON holds it.

    No labels, no younger field at its neutral value.
    """
    return {name: _as_json(value) for field, name, value in _items(obj) if _counts(field, value)}


def settings_of(obj: Any) -> dict[str, Any]:
    """Return every setting of a config that decides the outcome, by its name."""
    return {name: value for field, name, value in _items(obj) if field.metadata["identity"]}


def _items(obj: Any) -> Iterator[tuple[dataclasses.Field[Any], str, Any]]:
    """Yield (field, name, value) of every setting; an open field gives one for each name it holds."""
    for field in dataclasses.fields(obj):
        value = getattr(obj, field.name)
        if field.metadata["open"]:
            yield from ((field, name, one) for name, one in value)
        else:
            yield field, field.name, value


def _counts(field: dataclasses.Field[Any], value: Any) -> bool:
    neutral = None if field.metadata["open"] else field.metadata["neutral"]
    return field.metadata["identity"] and not (field.metadata["since"] > 1 and value == neutral)


def _as_json(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return [_as_json(one) for one in value]


def _from_json(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(_from_json(one) for one in value)


def from_plain(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Read a config from what `plain` wrote, now or when it had fewer fields. Raises ConfigError.

    A field that is younger than the content gets its neutral value; an unknown one, or one that was always there and
    is missing, is refused.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    listed = {name: f for name, f in fields.items() if not f.metadata["open"]}
    strange = {name: _from_json(value) for name, value in values.items() if name not in listed}
    open_field = next((name for name in fields if name not in listed), None)
    if open_field is None:
        for name in strange:
            lookup(f"{where} field", name, fields)
    neutral = {name: f.metadata["neutral"] for name, f in listed.items() if f.metadata["since"] > 1}
    known = {**neutral, **{name: _from_json(value) for name, value in values.items() if name in listed}}
    if missing := [name for name in listed if name not in known]:
        raise ConfigError(f"{where} lacks {listing(missing)}; legal: every field, written out; the file is damaged")
    return cls(**known, **({open_field: tuple(sorted(strange.items()))} if open_field else {}))


def neutral_settings(cls: type) -> dict[str, Any]:
    """Return the neutral value, as JSON holds it, of every field that is younger than version 1."""
    younger = (f for f in dataclasses.fields(cls) if f.metadata["since"] > 1 and not f.metadata["open"])
    return {f.name: _as_json(f.metadata["neutral"]) for f in younger}


def version_of(*classes: type) -> int:
    """Return the version of trials made of these configs: that of their youngest field."""
    return max(int(f.metadata["since"]) for cls in classes for f in dataclasses.fields(cls))


# Words ----------------------------------------------------------------------------------------------------------------


def show(value: Any) -> str:
    """Write a setting as users do on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def diff(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two configs of one class differ, as {name: (a's, b's)}; labels are left out."""
    before, after = settings_of(a), settings_of(b)
    names = dict.fromkeys([*before, *after])
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}
