"""A study file (YAML), read strictly: every fault at once, with file, key and the nearest legal name. No torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from roadmap.config.errors import ConfigError, listing, nearest, refuse
from roadmap.config.model import ModelSpec
from roadmap.config.recipe import Recipe
from roadmap.study.overrides import FIELD
from roadmap.study.plan import CONTROLS, DESIGNS, Plan, PlanError

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
DEFAULT_STUDY = EXPERIMENTS / "digits.yaml"
DIGITS = "digits"  # the key below which a study file says how it runs on the embedded data


def read_plan(path: Path, *, digits: bool = False) -> Plan:
    """Read a study file; with `digits` at the size that it gives for the embedded data. Raises ConfigError."""
    content = {"name": path.stem, **_mapping(path)}
    small = content.pop(DIGITS, None)
    if digits and small is None:
        raise ConfigError(
            f"study file {path}.{DIGITS} is {small!r}, but --digits is given; legal: the keys that differ on "
            "the embedded "
            "data; add them, or leave --digits out"
        )
    plan, faults = _plan(str(path), content)
    # Its own section is checked whenever the file is read, so that it is not found broken on another day.
    laptop, more = _laptop(path, content, small, faults) if small is not None else (None, [])
    refuse([text for _, text in (*faults, *more)])
    chosen = laptop if digits else plan
    assert chosen is not None, "a plan without faults"
    return chosen


Faults = list[tuple[str, str]]  # (key, words)


def _laptop(path: Path, content: Mapping[str, Any], small: Any, known: Faults) -> tuple[Plan | None, Faults]:
    """Return the plan for the embedded data, and what is wrong in its own section alone."""
    where = f"{path}.{DIGITS}"
    if not isinstance(small, dict):
        return None, [("", f"{where} is {small!r}; legal: the keys that differ on the embedded data; correct the file")]
    plan, faults = _plan(where, {**content, "name": f"{content['name']}-{DIGITS}", **small})
    already = {key for key, _ in known}
    return plan, [(key, text) for key, text in faults if key in small or key not in already]


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.load(path.read_text(), Loader=_strict_loader())
    except FileNotFoundError as e:
        shipped = sorted(p.name for p in EXPERIMENTS.glob("*.yaml"))
        raise ConfigError(
            f"study file {path} does not exist; legal: {listing(shipped)}, or a path; {nearest(path.name, shipped)}"
        ) from e
    # ValueError: bytes that are no text, and dates such as 2020-13-45
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        raise ConfigError(f"study file {path} cannot be read: {e}; legal: YAML; correct the file") from e
    if not isinstance(content, dict):
        held = "nothing" if content is None else type(content).__name__
        raise ConfigError(
            f"study file {path} holds {held}, not keys; legal: `question:` and what to run; see experiments/digits.yaml"
        )
    return content


@functools.cache
def _strict_loader() -> Any:
    """Return PyYAML's safe loader, which here refuses two equal keys and aliases, which unfold without end."""
    import yaml

    class Strict(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
                raise yaml.YAMLError(f"line {line}: aliases are not used in study files")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
            if twice := [k for k in keys if keys.count(k) > 1]:
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: key {twice[0]!r} is there {keys.count(twice[0])} times")
            return super().construct_mapping(node, deep)

    return Strict


def _plan(where: str, content: Mapping[str, Any]) -> tuple[Plan | None, Faults]:
    """Return the plan, or all that is wrong with it: keys, types, names, overrides and their combinations."""
    values = {key: _as_plan_holds_it(key, value) for key, value in content.items()}
    try:
        return Plan(**values), []
    except PlanError as e:
        return None, _at(where, e)
    except ConfigError as e:
        return None, _at(where, e) + _rest(where, values, e)


def _rest(where: str, values: Mapping[str, Any], error: ConfigError) -> Faults:
    """Return what is wrong beside keys that are unknown or of the wrong type, which are left out."""
    wrong = {fault.field for fault in error.faults}
    try:
        Plan(**{"name": "study", "question": "?", **{key: value for key, value in values.items() if key not in wrong}})
    except ConfigError as e:
        return [(key, text) for key, text in _at(where, e) if key not in wrong]
    return []


def _at(where: str, error: ConfigError) -> Faults:
    return [(fault.field, fault.at(where)) for fault in error.faults]


def _as_plan_holds_it(key: str, value: Any) -> Any:
    """Steps have ids that YAML reads as numbers; one model needs no list; lists become tuples."""
    if key in ("through", "base"):
        return None if value is None else str(value)
    if key == "model" and isinstance(value, str):
        return (value,)
    if key == "also" and isinstance(value, dict):
        return {str(step): changes for step, changes in value.items()}
    if isinstance(value, list):
        return tuple(map(str, value)) if key in ("steps", "set") else tuple(value)
    return value


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of study files, for editors that complete and check them."""
    schema = pydantic.TypeAdapter(Plan).json_schema(mode="serialization")
    properties = schema["properties"]
    properties["design"] |= {"enum": list(DESIGNS)}
    properties["controls"]["items"] = {"enum": list(CONTROLS)}
    change = {"type": "object", "properties": _overrides_schema(), "minProperties": 1}
    properties["changes"]["items"] = change
    properties["also"] = {
        **_described(properties["also"]),
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "object", "minProperties": 1}},
    }
    for key in ("through", "base"):
        properties[key] = {**_described(properties[key]), "type": ["string", "integer"]}
    properties["steps"] = {**_described(properties["steps"]), "items": {"type": ["string", "integer"]}, "type": "array"}
    properties["model"] = {**_described(properties["model"]), "type": ["string", "array"], "items": {"type": "string"}}
    small = {"description": "the keys that differ on the embedded digits", "type": "object"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study file of convnext-roadmap",
        "type": "object",
        "properties": {**properties, DIGITS: {**small, "properties": properties, "additionalProperties": False}},
        "required": ["question"],
        "additionalProperties": False,
    }


def _described(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": schema["description"]}


def _overrides_schema() -> dict[str, Any]:
    """Return the schema of each override: a value, or a list of values."""
    toggles = pydantic.TypeAdapter(ModelSpec).json_schema()["properties"]
    fields = pydantic.TypeAdapter(Recipe).json_schema()["properties"]
    schemas = {**toggles, **{f"{FIELD}{name}": schema for name, schema in fields.items()}}
    return {name: _one_or_several(schema) for name, schema in schemas.items()}


def _one_or_several(schema: Mapping[str, Any]) -> dict[str, Any]:
    one = {key: value for key, value in schema.items() if key not in ("description", "default", "title")}
    may_be_none = any(part.get("type") == "null" for part in one.get("anyOf", []))
    none = [{"const": "none"}] if may_be_none else []
    several = {"type": "array", "items": {"anyOf": [one, *none]}}
    return {"description": schema.get("description", ""), "anyOf": [one, *none, several]}
