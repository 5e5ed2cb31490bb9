"""What a study asks, as a checked value: the keys of a study file, its overrides parsed once. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, Literal

from roadmap.config.errors import ConfigError, Fault, listing, lookup
from roadmap.config.fields import config, setting, show
from roadmap.config.model import ModelSpec, TimmSpec
from roadmap.config.recipes import find_recipe
from roadmap.ladder import DEFAULT, Ladder, find_ladder
from roadmap.ladder.published import find_variant
from roadmap.study.overrides import (
    FIELD,
    WHOLE,
    Arm,
    Override,
    SpecClass,
    check_data,
    parse_override,
    parse_text,
    values_of,
)

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
TIMM, STEP = "timm/", "step/"  # beginnings of a model's name


# Plan -----------------------------------------------------------------------------------------------------------------

INTEGERS, WORDS, WORD = "a list such as [0, 1]", "a list such as [gelu, 8]", "text"
CHANGES = "a list of mappings such as [{kernel_size: [3, 5]}, {norm: batch, conv_bias: false}]"
ALSO = "steps with changes such as {recipe: [{layer_scale: none}]}"
CROSS = "names with values such as {recipe.lr: [0.001, 0.002]}"


class PlanError(ConfigError):
    """A plan of legal types that no study can have."""


@config
class Plan:
    """What to run: the keys of a study file. None leaves a choice to the regime. Raises PlanError with every fault."""

    name: str = setting("the study's name: its folder", form=WORD)
    question: str = setting("what the study asks, in a sentence", form=WORD)
    design: str = setting("how cells and comparisons follow from base and changes", default="ladder", form=WORD)
    ladder: str = setting("the ladder that steps are of: a name, or module:NAME", default=DEFAULT, form=WORD)
    regime: str = setting("base network and sizes; the ladder's first unless given", default="", form=WORD)
    steps: tuple[str, ...] | None = setting("of a ladder: ids or names of the steps", default=None, form=WORDS)
    through: str | None = setting(
        "of a ladder: its last step, where `steps` does not list them", default=None, form=WORD
    )
    base: str | None = setting("the step that a design starts from", default=None, form=WORD)
    changes: tuple[dict[str, Any], ...] = setting(
        "one mapping a change; several names in one mapping change together; a list of values is one change each",
        default=(),
        form=CHANGES,
    )
    also: dict[str, Any] | None = setting(
        "of one-at-a-time: {another step: changes of it}, each compared with that step", default=None, form=ALSO
    )
    fraction: str | None = setting(
        "generators of a fractional factorial, as pyDOE3 writes them: 'a b c abc'", default=None, form=WORD
    )
    cross: dict[str, Any] | None = setting(
        "{recipe, data, batch_size, epochs or recipe.FIELD: values}: the whole design at each", default=None, form=CROSS
    )
    controls: tuple[str, ...] = setting("negative controls: a-a, no-op", default=(), form=WORDS)
    model: tuple[str, ...] = setting("networks: published variants, timm/NAME, step/ID", default=(), form=WORDS)
    init: str | None = setting("file of initial weights", default=None, form=WORD)
    side_steps: bool = setting("of a ladder: with the steps that were tried and not adopted", default=False)
    seeds: tuple[int, ...] = setting("one run of each cell for each seed", default=(0,), form=INTEGERS)
    data: str | None = setting("name of a data set", default=None, form=WORD)
    data_title: str | None = setting("how tables name the data set", default=None, form=WORD)
    recipe: str | None = setting("name of a recipe, for all cells", default=None, form=WORD)
    epochs: int | None = setting(
        "another number of epochs, schedules in proportion", default=None, form="whole numbers"
    )
    batch_size: int | None = setting(
        "another global batch; the learning rate follows by the recipe's rule", default=None, form="whole numbers"
    )
    set: tuple[str, ...] = setting("set on everything: NAME=VALUE", default=(), form=WORDS)
    image_size: int | None = setting("pixels; the regime's own unless given", default=None, form="whole numbers")
    num_classes: int | None = setting("of data sets that do not tell", default=None, form="whole numbers")
    validation: float | None = setting(
        "part of the training images set aside for choices", default=None, form="a number from 0 to 0.9"
    )
    decoder: Literal["pillow", "torchvision", "torchcodec"] | None = setting(
        "what decodes JPEG files; pillow unless given", default=None
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = setting(
        "number format of training; the recipe's own unless given", default=None
    )

    def __post_init__(self) -> None:
        if found := list(_faults(self)):
            raise PlanError.of(f"study {self.name}", found)
        if not self.regime:
            object.__setattr__(self, "regime", self.of_ladder.default_regime)

    @property
    def of_ladder(self) -> Ladder:
        """The ladder itself."""
        return find_ladder(self.ladder)

    @property
    def spec_class(self) -> SpecClass:
        """What networks the overrides are for."""
        if self.model:
            all_timm = all(name.startswith(TIMM) for name in self.model)
            return TimmSpec if all_timm else ModelSpec
        where = self.of_ladder
        return type(where.regimes.get(self.regime, where.regimes[where.default_regime]).base)

    @cached_property
    def alternatives(self) -> tuple[Mapping[str, Arm], ...]:
        """Of each change {name: the overrides that its values stand for}."""
        return tuple(map(self._all_parsed, self.changes))

    @cached_property
    def alternatives_also(self) -> Mapping[str, tuple[Mapping[str, Arm], ...]]:
        """The same of each further base, by its step's name."""
        of = self.of_ladder
        return {of.find_step(key).name: tuple(map(self._all_parsed, some)) for key, some in (self.also or {}).items()}

    @property
    def all_changes(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every change, of the base and of further ones, with the key that it stands under."""
        yield from (("changes", change) for change in self.changes)
        for some in (self.also or {}).values():
            yield from (("also", change) for change in some)

    @cached_property
    def crossed(self) -> Mapping[str, Arm]:
        """The values that the design is crossed with, by name."""
        return self._all_parsed(self.cross or {})

    @cached_property
    def common(self) -> Arm:
        """What is set on everything."""
        return tuple(parse_text(text, self.spec_class) for text in self.set)

    def _all_parsed(self, values: Mapping[str, Any]) -> Mapping[str, Arm]:
        return {name: self._parsed(name, value) for name, value in values.items()}

    def _parsed(self, name: str, value: Any) -> Arm:
        return tuple(parse_override(name, one, self.spec_class) for one in values_of(name, value, self.spec_class))


# Faults ---------------------------------------------------------------------------------------------------------------


def _faults(plan: Plan) -> Iterator[Fault]:
    """Yield what is wrong with names, overrides and combinations of keys, each under its key."""
    unknown = list(_refusals(_lookups(plan)))
    yield from unknown
    if malformed := list(_malformed(plan)):
        yield from malformed
        return
    if "ladder" not in {fault.field for fault in unknown}:
        yield from _refusals(_steps_and_models(plan))
        yield from _refusals(_overrides(plan))
    if not plan.seeds:
        yield Fault("seeds", " is empty; legal: one or more integers from 0; give one")
    if len(set(plan.seeds)) < len(plan.seeds):
        yield Fault("seeds", f" is {list(plan.seeds)}; legal: each seed once; remove the repeated one")
    yield from _misplaced(plan)
    yield from _in_both(plan)
    yield from _unclear_values(plan)


def _malformed(plan: Plan) -> Iterator[Fault]:
    """Yield further bases whose changes are no list of mappings."""
    for step, changes in (plan.also or {}).items():
        if not isinstance(changes, (list, tuple)) or not changes or not all(isinstance(c, dict) for c in changes):
            yield Fault("also", f".{step} is {changes!r}; legal: {ALSO}; write a list of mappings")


Look = tuple[str, Callable[[], object]]


def _refusals(looks: Iterable[Look]) -> Iterator[Fault]:
    for key, look in looks:
        try:
            look()
        except ConfigError as e:
            yield Fault(key, f": {e}")


def _lookups(plan: Plan) -> Iterator[Look]:
    """Yield one call for each name that stands for itself, which raises where it is unknown."""
    yield "ladder", partial(find_ladder, plan.ladder)
    yield "design", partial(lookup, "design", plan.design, DESIGNS)
    if plan.regime:
        yield "regime", partial(_find_regime, plan)
    if plan.recipe is not None:
        yield "recipe", partial(find_recipe, plan.recipe)
    if plan.data is not None:
        yield "data", partial(check_data, plan.data)
    for name in plan.controls:
        yield "controls", partial(lookup, "control", name, CONTROLS)


def _find_regime(plan: Plan) -> None:
    plan.of_ladder.find_regime(plan.regime)


def _steps_and_models(plan: Plan) -> Iterator[Look]:
    find = plan.of_ladder.find_step
    for name in plan.model:
        yield "model", partial(_check_model, name, plan)
    for name in plan.steps or ():
        yield "steps", partial(find, name)
    for name in plan.also or {}:
        yield "also", partial(find, name)
    if plan.through is not None:
        yield "through", partial(find, plan.through)
    if plan.base is not None:
        yield "base", partial(find, plan.base)


def _overrides(plan: Plan) -> Iterator[Look]:
    """Yield the same for every override, one by one, so that all that are wrong are named."""
    cls = plan.spec_class
    for text in plan.set:
        yield "set", partial(parse_text, text, cls)
    for key, change in plan.all_changes:
        for name, value in change.items():
            for one in values_of(name, value, cls):
                yield key, partial(parse_override, name, one, cls)
    for name, value in (plan.cross or {}).items():
        if name in WHOLE or name.startswith(FIELD):
            for one in values_of(name, value, cls):
                yield "cross", partial(parse_override, name, one, cls)
        else:
            yield "cross", partial(lookup, "cross", name, dict.fromkeys((*WHOLE, f"{FIELD}FIELD")))


def _check_model(name: str, plan: Plan) -> None:
    """Refuse a model's name that is not a variant, `timm/...` or `step/...`. timm knows its part when it is built."""
    if name.startswith(STEP):
        plan.of_ladder.find_step(name.removeprefix(STEP))
    elif not name.startswith(TIMM) or name == TIMM:
        find_variant(name)


OF_NETWORKS = ("ladder", "models")  # designs that start from no single step


def _misplaced(plan: Plan) -> Iterator[Fault]:
    """Yield keys that the design has no use for, and those that it lacks."""
    yield from _misplaced_changes(plan)
    yield from _misplaced_models(plan)
    where = f"in a {plan.design} design"
    if plan.fraction is not None and plan.design != "factorial":
        yield Fault("fraction", f" is {plan.fraction!r} {where}; legal: with design: factorial; remove it")
    if plan.base is not None and plan.design in OF_NETWORKS:
        legal = "legal: where the design starts from one step; remove it, or say `design:`"
        yield Fault("base", f" is {plan.base!r} {where}; {legal}")
    if plan.also is not None and plan.design != "one-at-a-time":
        advice = "remove it, or say `design: one-at-a-time`"
        yield Fault("also", f" names {listing(plan.also)} {where}; legal: in a one-at-a-time design; {advice}")
    if plan.steps is not None and plan.design != "ladder":
        advice = "say `base:` for the step that the design starts from"
        yield Fault("steps", f" is {listing(plan.steps)} {where}; legal: in a ladder; {advice}")


def _misplaced_changes(plan: Plan) -> Iterator[Fault]:
    design, count = plan.design, len(plan.changes)
    if design in ("one-at-a-time", "factorial", "grid") and not count:
        yield Fault("changes", f" is empty in a {design} design; legal: one mapping or more; add `changes:`")
    if design == "single" and count + bool(plan.set) != 1:
        has = f" has {count} changes and --set {len(plan.set)} in a single design"
        yield Fault("changes", f"{has}; legal: one change; give `changes: [...]` with one mapping, or --set")
    if design in OF_NETWORKS and count:
        others = listing(d for d in DESIGNS if d not in OF_NETWORKS)
        yield Fault("changes", f" is given in a {design} design; legal: {others}; say `design:`")
    if design == "factorial" and plan.fraction is None and count > MOST_FACTORS:
        has = f" has {count} changes in a full factorial, {2**count:,} cells"
        yield Fault("changes", f"{has}; legal: up to {MOST_FACTORS}; give a `fraction`, or fewer changes")


def _misplaced_models(plan: Plan) -> Iterator[Fault]:
    if plan.design == "models" and not plan.model:
        yield Fault("model", " is empty in a models design; legal: variants, timm/NAME, step/ID; add `model:`")
    if plan.design not in OF_NETWORKS and plan.model:
        legal = "legal: designs of steps start from `base`; use design: models, or base"
        yield Fault("model", f" is {listing(plan.model)} in a {plan.design} design; {legal}")


def _in_both(plan: Plan) -> Iterator[Fault]:
    """Yield what `changes` and `cross` both set: the change would go over the crossed value."""
    changed = {Override(name, None).subject: name for _, change in plan.all_changes for name in change}
    for name, value in (plan.cross or {}).items():
        other = changed.get(Override(name, None).subject)
        if other is not None:
            legal = "legal: a setting in one of the two; reason: a change would go over the crossed value"
            yield Fault("cross", f".{name} is {show(value)}, but changes sets {other} too; {legal}; remove it from one")


def _unclear_values(plan: Plan) -> Iterator[Fault]:
    """Yield changes that say nothing, and values that would be one cell under one label."""
    for key, change in plan.all_changes:
        if not change:
            yield Fault(key, " holds an empty mapping; legal: one or more names with values; remove it")
        yield from _unclear(change, key)
    yield from _unclear(plan.cross or {}, "cross")


def _unclear(mapping: Mapping[str, Any], key: str) -> Iterator[Fault]:
    for name, value in mapping.items():
        shown = [show(one) for one in values_of(name, value, ModelSpec)]
        if not shown:
            yield Fault(key, f".{name} is empty; legal: one or more values; give one")
        if len(set(shown)) < len(shown):
            legal = "legal: each value once, different in six digits; remove the repeated one"
            yield Fault(key, f".{name} is {', '.join(shown)}; {legal}")
