"""A study file (YAML), read strictly: every fault at once, with file, key and the nearest legal name. No torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from roadmap.config.errors import ConfigError, listing, lookup, nearest, refuse
from roadmap.config.fields import Number, parse_setting, show
from roadmap.config.model import ModelSpec, TimmSpec
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.data.registry import NAMED, TIMM_PREFIXES
from roadmap.ladder.convnext import find_regime, find_step
from roadmap.ladder.published import find_variant

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
DEFAULT_STUDY = EXPERIMENTS / "digits.yaml"
DIGITS = "digits"  # the key below which a study file says how it runs on the embedded data

# What a design does with `base` and `changes`; see roadmap.study.designs.
DESIGNS: Mapping[str, str] = {
    "ladder": "the steps in order, each compared with its parent",
    "single": "the base, and the base with one change",
    "one-at-a-time": "the base, and the base with each change alone",
    "leave-one-out": "the base, and the base without each of its path's changes, or with each listed change alone",
    "factorial": "all combinations of the changes on or off, or the fraction that `fraction` generates",
    "grid": "all combinations of the listed values",
    "models": "networks trained alike, each compared with the first",
}
A_A, NO_OP = "a-a", "no-op"
CONTROLS: Mapping[str, str] = {
    A_A: "the same trial with other seeds",
    NO_OP: "the same trial, told apart by a toggle that does nothing",
}
MOST_FACTORS = 10  # of a full factorial: 1,024 cells
CROSSED = ("recipe", "data", "batch_size", "epochs")  # and `recipe.FIELD`

Setting = tuple[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run: the options of a study, before names are looked up. `None` leaves a choice to the regime.

    steps: of a ladder, as listed; through: its last step, where `steps` does not list them. base: the step that a design starts from.
    changes: one mapping a change; several names in one mapping are one coupled change; a list of values stands for one change each.
    fraction: generators of a fractional factorial in pyDOE3's notation, such as "a b c abc". cross: {recipe, data, batch_size, epochs or recipe.FIELD: values}.
    controls: negative controls, `a-a` and `no-op`. model: published variants, `timm/NAME`, or `step/ID`. set: on everything, `toggle=value`.
    init: file of initial weights.
    """

    name: str
    question: str
    design: str = "ladder"
    regime: str = "resnet50"
    steps: tuple[str, ...] | None = None
    through: str | None = None
    base: str | None = None
    changes: tuple[dict[str, Any], ...] = ()
    fraction: str | None = None
    cross: dict[str, Any] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    init: str | None = None
    side_steps: bool = False
    seeds: tuple[int, ...] = (0,)
    data: str | None = None
    data_title: str | None = None
    recipe: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    set: tuple[str, ...] = ()
    image_size: int | None = None
    num_classes: int | None = None
    validation: float | None = None
    precision: str | None = None


def read_plan(path: Path, *, digits: bool = False) -> Plan:
    """A study file as a Plan, with `digits` at the size that it says for the embedded data. Raises ConfigError with every fault: file, key, and the nearest legal key."""
    import yaml

    try:
        content = yaml.load(path.read_text(), Loader=_strict_loader())
    except FileNotFoundError as e:
        shipped = sorted(p.name for p in EXPERIMENTS.glob("*.yaml"))
        raise ConfigError(
            f"study file {path} does not exist; legal: {listing(shipped)}, or a path; {nearest(path.name, shipped)}"
        ) from e
    except (
        OSError,
        ValueError,
        RecursionError,
        yaml.YAMLError,
    ) as e:  # ValueError: bytes that are no text, and dates such as 2020-13-45
        raise ConfigError(f"study file {path} cannot be read: {e}; legal: YAML; correct the file") from e
    if not isinstance(content, dict):
        raise ConfigError(
            f"study file {path} holds {'nothing' if content is None else type(content).__name__}, not keys; legal: `question:` and what to run; see experiments/digits.yaml"
        )
    content = {"name": path.stem, **content}
    small = content.pop(DIGITS, None)
    if digits and small is None:
        raise ConfigError(
            f"study file {path}.{DIGITS} is {small!r}, but --digits is given; legal: the keys that differ on the embedded data; add them, or leave --digits out"
        )
    plan, found = _validated(str(path), content)
    if small is None:
        refuse(found)
        return plan
    # Checked whenever the file is read, so that it is not found broken on another day.
    laptop, more = _laptop(path, content, small, plan.name, known=found)
    refuse(found + more)
    return laptop if digits else plan


def _laptop(path: Path, content: dict[str, Any], small: Any, name: str, *, known: list[str]) -> tuple[Plan, list[str]]:
    """The plan at the size of the embedded data, and what is wrong in its own section; what the file's other keys have wrong is in `known` already."""
    where = f"{path}.{DIGITS}"
    if not isinstance(small, dict):
        return Plan(name=name, question="?"), [
            f"{where} is {small!r}; legal: the keys that differ on the embedded data; correct the file"
        ]
    laptop, found = _validated(where, {**content, "name": f"{name}-{DIGITS}", **small})
    said = {text.removeprefix(str(path)) for text in known}
    return laptop, [
        text
        for text in found
        if text.removeprefix(where).replace(f"study {laptop.name}.", f"study {name}.") not in said
    ]


@functools.cache
def _strict_loader() -> Any:
    """PyYAML's safe loader, which takes the last of two equal keys and unfolds aliases without end: here both are refused."""
    import yaml

    class Strict(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(
                    f"line {self.peek_event().start_mark.line + 1}: aliases are not used in study files"
                )
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
            if twice := [k for k in keys if keys.count(k) > 1]:
                raise yaml.YAMLError(
                    f"line {node.start_mark.line + 1}: key {twice[0]!r} is there {keys.count(twice[0])} times"
                )
            return super().construct_mapping(node, deep)

    return Strict


def _validated(where: str, content: dict[str, Any]) -> tuple[Plan, list[str]]:
    """Check keys and types with pydantic, then names and settings: the plan without what is wrong, and all findings, worded as the project does."""
    from pydantic import ConfigDict, ValidationError, create_model

    known = list(Plan.__dataclass_fields__)
    found = [
        f"{where}.{key} is unknown; legal: {listing([*known, DIGITS])}; {nearest(key, known)}"
        for key in content
        if key not in known
    ]
    words = {key: _plain_words(key, value) for key, value in content.items() if key in known}
    kinds: dict[str, Any] = {
        f.name: (
            get_type_hints(Plan)[f.name],
            ...
            if f.default is MISSING and f.default_factory is MISSING
            else f.default
            if f.default is not MISSING
            else {},
        )
        for f in fields(Plan)
    }
    model = create_model("Plan", __config__=ConfigDict(strict=True), **kinds)
    try:
        plan = Plan(**model.model_validate(words).model_dump())
    except ValidationError as e:
        found += [
            f"{where}.{'.'.join(map(str, x['loc']))} is {x.get('input')!r}: {x['msg'].lower()}; legal: {_form(str(x['loc'][0]))}; correct the file"
            for x in e.errors()
        ]
        wrong = {str(x["loc"][0]) for x in e.errors()}
        plan = Plan(
            **{"name": "study", "question": "?", **{key: value for key, value in words.items() if key not in wrong}}
        )
        return plan, found + [f"{where}.{key}: {text}" for key, text in faults(plan) if key not in wrong]
    return plan, found + [f"{where}.{key}: {text}" for key, text in faults(plan)]


def _plain_words(key: str, value: Any) -> Any:
    """Steps have ids that YAML reads as numbers; one model needs no list; lists become the tuples of a Plan."""
    if key in ("through", "base"):
        return None if value is None else str(value)
    if key == "model" and isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return tuple(str(v) if key in ("steps", "set") else v for v in value)
    return value


def _form(key: str) -> str:
    """How a key's value is written in a study file."""
    if key == "changes":
        return "a list of mappings such as [{kernel_size: [3, 5]}, {norm: batch, conv_bias: false}]"
    kind = str(Plan.__dataclass_fields__[key].type)
    what = (
        "true or false"
        if "bool" in kind
        else "whole numbers"
        if "int" in kind
        else "a number"
        if "float" in kind
        else "names with values"
        if "dict" in kind
        else "text"
    )
    return f"a list such as [{'0, 1' if 'int' in kind else 'gelu, 8'}]" if "tuple" in kind else what


def check(plan: Plan) -> None:
    """Refuse a plan with all that is wrong in it at once. Raises ConfigError."""
    refuse([text for _, text in faults(plan)])


def faults(plan: Plan) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of every name, setting and combination of keys that no study can have."""
    for key, look in _lookups(plan):
        try:
            look()
        except ConfigError as e:
            yield key, str(e)
    if not plan.seeds:
        yield "seeds", f"study {plan.name}.seeds is empty; legal: one or more integers from 0; give one"
    if len(set(plan.seeds)) < len(plan.seeds):
        yield "seeds", f"study {plan.name}.seeds is {list(plan.seeds)}; legal: each seed once; remove the repeated one"
    yield from _misplaced(plan)


def _lookups(plan: Plan) -> Iterator[tuple[str, Callable[[], Any]]]:
    """One call for each name of the plan, which raises where it is unknown."""
    yield "regime", lambda: find_regime(plan.regime)
    yield "recipe", lambda: plan.recipe is None or find_recipe(plan.recipe)
    yield "data", lambda: plan.data is None or check_data(plan.data)
    yield "design", lambda: lookup("design", plan.design, DESIGNS)
    for name in plan.model:
        yield "model", functools.partial(check_model, name)
    for key in ("steps", "through", "base"):
        value = getattr(plan, key)
        for step in value if isinstance(value, tuple) else (value,) if value is not None else ():
            yield key, functools.partial(find_step, step)
    for text in plan.set:
        yield "set", functools.partial(parse_setting, _toggles(plan).__name__, _toggles(plan), text)
    for name in plan.controls:
        yield "controls", functools.partial(lookup, "control", name, CONTROLS)
    yield from _settings(plan)


def _settings(plan: Plan) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The same for every setting of `changes` and `cross`."""
    for change in plan.changes:
        for name, value in change.items():
            for one in values_of(name, value):
                yield "changes", functools.partial(parse_change, name, one)
    for name, values in plan.cross.items():
        if not name.startswith("recipe."):
            yield "cross", functools.partial(lookup, "cross", name, dict.fromkeys((*CROSSED, "recipe.FIELD")))
        for one in values_of(name, values):
            if name in CROSSED or name.startswith("recipe."):
                yield "cross", functools.partial(parse_change, name, one)


def _toggles(plan: Plan) -> type:
    """What --set may change: a timm network has fewer toggles than ours."""
    return TimmSpec if plan.model and all(name.startswith("timm/") for name in plan.model) else ModelSpec


def _misplaced(plan: Plan) -> Iterator[tuple[str, str]]:
    """Keys that the design has no use for, and those that it lacks."""
    where = f"study {plan.name}"
    if plan.design in ("one-at-a-time", "factorial", "grid") and not plan.changes:
        yield (
            "changes",
            f"{where}.changes is empty in a {plan.design} design; legal: one mapping or more; add `changes:`",
        )
    if plan.design == "single" and len(plan.changes) + bool(plan.set) != 1:
        yield (
            "changes",
            f"{where}.changes has {len(plan.changes)} changes and --set {len(plan.set)} in a single design; legal: one change; give `changes: [...]` with one mapping, or --set",
        )
    if plan.design in ("ladder", "models") and plan.changes:
        yield (
            "changes",
            f"{where}.changes is given in a {plan.design} design; legal: {listing(d for d in DESIGNS if d not in ('ladder', 'models'))}; say `design:`",
        )
    if plan.design == "models" and not plan.model:
        yield "model", f"{where}.model is empty in a models design; legal: variants, timm/NAME, step/ID; add `model:`"
    if plan.design not in ("ladder", "models") and plan.model:
        yield (
            "model",
            f"{where}.model is {listing(plan.model)} in a {plan.design} design; legal: designs of steps start from `base`; use design: models, or base",
        )
    if plan.design == "factorial" and plan.fraction is None and len(plan.changes) > MOST_FACTORS:
        yield (
            "changes",
            f"{where}.changes has {len(plan.changes)} changes in a full factorial, {2 ** len(plan.changes):,} cells; legal: up to {MOST_FACTORS}; give a `fraction`, or fewer changes",
        )
    if plan.fraction is not None and plan.design != "factorial":
        yield (
            "fraction",
            f"{where}.fraction is {plan.fraction!r} in a {plan.design} design; legal: with design: factorial; remove it",
        )
    if plan.design in ("ladder", "models") and plan.base is not None:
        yield (
            "base",
            f"{where}.base is {plan.base!r} in a {plan.design} design; legal: where the design starts from one step; remove it, or say `design:`",
        )
    if plan.design != "ladder" and plan.steps is not None:
        yield (
            "steps",
            f"{where}.steps is {listing(plan.steps)} in a {plan.design} design; legal: in a ladder; say `base:` for the step that the design starts from",
        )
    yield from _in_both(plan)
    yield from _unclear_values(plan)


def _in_both(plan: Plan) -> Iterator[tuple[str, str]]:
    """What `changes` and `cross` both set: the change would go over the crossed value, and one point's base be trained as another point's change."""
    changed = {setting_of(name): name for change in plan.changes for name in change}
    for name, values in plan.cross.items():
        if setting_of(name) in changed:
            shown, other = ", ".join(map(_shown, values_of(name, values))), changed[setting_of(name)]
            yield (
                "cross",
                f"study {plan.name}.cross.{name} is {shown}, but changes sets {other} too; legal: a setting in one of the two; reason: a change would go over the crossed value; remove it from one",
            )


def setting_of(name: str) -> str:
    """One word for the two names of a setting: `recipe.epochs` is `epochs`."""
    short = name.removeprefix("recipe.")
    return short if short in CROSSED else name


def _unclear_values(plan: Plan) -> Iterator[tuple[str, str]]:
    """Changes that say nothing, and values that would be one cell under one label."""
    for key, mappings in (("changes", plan.changes), ("cross", (plan.cross,))):
        if any(not mapping for mapping in plan.changes) and key == "changes":
            yield (
                key,
                f"study {plan.name}.changes holds an empty mapping; legal: one or more names with values; remove it",
            )
        for name, values in ((name, values) for mapping in mappings for name, values in mapping.items()):
            shown = [_shown(value) for value in values_of(name, values)]
            if not shown:
                yield key, f"study {plan.name}.{key}.{name} is empty; legal: one or more values; give one"
            if len(set(shown)) < len(shown):
                yield (
                    key,
                    f"study {plan.name}.{key}.{name} is {', '.join(shown)}; legal: each value once, different in six digits; remove the repeated one",
                )


def _shown(value: Any) -> str:
    return show(tuple(value)) if isinstance(value, (list, tuple)) else show(value)


def values_of(name: str, value: Any) -> list[Any]:
    """The settings that a value in a study file stands for: a list is one each, but `depths` are a list themselves and several of them a list of lists."""
    if not isinstance(value, (list, tuple)) or (
        name == "depths" and not any(isinstance(v, (list, tuple)) for v in value)
    ):
        return [value]
    return list(value)


def check_data(name: str) -> str:
    """The name of a data set, refused where there is none of that name. Raises ConfigError."""
    if not name.startswith(TIMM_PREFIXES):
        lookup("data", name, NAMED)
    return name


def check_model(name: str) -> None:
    """Refuse a model's name that is not a variant, `timm/...` or `step/...`. That timm knows its part is seen when it is built."""
    if name.startswith("step/"):
        find_step(name.removeprefix("step/"))
    elif not name.startswith("timm/") or name == "timm/":
        find_variant(name)


def parse_change(name: str, value: Any) -> Setting:
    """A change as written in a study file -> (name, typed value). Names: a toggle, `recipe`, `recipe.FIELD`, `data`, `batch_size`, `epochs`. Raises ConfigError."""
    if isinstance(value, float) and value.is_integer() and name not in ("recipe", "data"):
        value = int(value)
    text = (
        repr(value) if isinstance(value, float) else _shown(value)
    )  # all digits of a number: what is trained is what is written
    if name == "recipe":
        return name, find_recipe(text).name
    if name == "data":
        return name, check_data(text)
    if name in ("batch_size", "epochs"):
        rule = Number(1, 1_000_000, whole=True)
        if not rule.check(value):
            raise ConfigError(f"changes.{name} is {value!r}; {rule.legal()}; {rule.advice(value)}")
        return name, value
    if name.startswith("recipe."):
        parsed, typed = parse_setting("Recipe", Recipe, f"{name.removeprefix('recipe.')}={text}")
        return f"recipe.{parsed}", typed
    known = [f.name for f in fields(ModelSpec)]
    if name not in known:
        legal = [*known, *CROSSED, "recipe.FIELD"]
        raise ConfigError(f"changes.{name} is unknown; legal: {listing(legal)}; {nearest(name, legal)}")
    return parse_setting("ModelSpec", ModelSpec, f"{name}={text}")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of study files: a plan's keys, of which the name is the file's unless given, and the digits section."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(Plan).json_schema()
    schema["required"] = [key for key in schema["required"] if key != "name"]
    schema["properties"][DIGITS] = {"type": "object"}
    return schema
