"""A plan's design -> its cells and which of them are compared. A cell is everything but the seed; a comparison declares what may differ. No torch."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from roadmap.config.errors import ConfigError
from roadmap.config.fields import parse_setting, show
from roadmap.config.model import AnySpec, ModelSpec, TimmSpec, with_settings
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.ladder.convnext import (
    RECIPE,
    STEPS,
    Step,
    change_of,
    find_regime,
    find_step,
    ladder,
    path,
    recipe_changes,
    recipe_of,
    resolve,
)
from roadmap.ladder.published import find_variant
from roadmap.study.file import A_A, Plan, Setting, parse_change, values_of

MODERN_RECIPE, FINETUNE, FINETUNE_HEAD_SCALE = "convnext-300ep", "convnext-finetune", 0.001

A_A_SEEDS = 1000  # an A/A control's seeds are the study's own, further on by a multiple of this

Key = tuple[str, str]
Arm = tuple[Setting, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a study trains with every seed. `build` makes the network's spec from toggles; `arm` is the change, `common` what all cells have, `cross` where it stands in a crossed study.

    seeds: other ones than the study's (the A/A control). control: the toggle that does nothing.
    """

    step: str
    build: Callable[[Mapping[str, Any]], AnySpec]
    recipe: Recipe
    arm: Arm = ()
    common: Arm = ()
    cross: Arm = ()
    title: str = ""
    seeds: tuple[int, ...] | None = None
    control: str = ""

    @property
    def change(self) -> str:
        """The label of all that is set on top of the step."""
        return " ".join(filter(None, [words(self.common), self.title or words(self.arm), words(self.cross)]))

    @property
    def key(self) -> Key:
        return self.step, self.change

    @property
    def label(self) -> str:
        """How a reader names the cell."""
        own = " ".join(filter(None, [self.title or words(self.arm), words(self.cross)]))
        return " ".join(filter(None, [self.step, "with" if own and not own.startswith("without ") else "", own]))

    @property
    def settings(self) -> dict[str, Any]:
        """Everything set on top of the step, the change last."""
        return dict([*self.common, *self.cross, *self.arm])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Child against parent. `declared`: names of resolved settings (`model.norm`, `recipe.*`) in which they are meant to differ, all others are not.

    kind: step, change, subject, a-a, no-op, or crossing: one cell at two of the values that a design is crossed with.

    planned: {name: (the parent's value, the child's)} of the resolved settings that differ in the plan; None where one of the two is planned elsewhere.
    """

    child: Key
    parent: Key
    declared: tuple[str, ...]
    kind: str
    planned: Mapping[str, tuple[Any, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        planned = {} if self.planned is None else {"planned": {name: list(pair) for name, pair in self.planned.items()}}
        return {
            "child": list(self.child),
            "parent": list(self.parent),
            "declared": list(self.declared),
            "kind": self.kind,
            **planned,
        }


Design = tuple[list[Cell], list[Comparison]]


def words(settings: Arm) -> str:
    return " ".join(f"{name}={show(value)}" for name, value in settings)


def design(plan: Plan) -> Design:
    """The cells and comparisons of a plan, controls and crossings included. Raises ConfigError."""
    cells, comparisons = _DESIGNS[plan.design](plan) if not plan.model else _models(plan)
    cells, comparisons = _with_controls(plan, cells, comparisons)
    return _crossed(plan, cells, comparisons)


# One function a design ---------------------------------------------------------------------------------------------------


def _ladder(plan: Plan) -> Design:
    """Steps against their parents; with --set every step also against itself without the change."""
    steps, common = _steps(plan), _common(plan, ModelSpec)
    cells = [replace(_cell_of(s, plan), common=common) for s in steps]
    where = find_regime(plan.regime)
    if common:
        return cells, [
            Comparison(child=c.key, parent=(c.step, ""), declared=declared(common), kind="change") for c in cells
        ]
    return cells, [
        Comparison(
            child=(s.name, ""),
            parent=(s.parent, ""),
            declared=declared(tuple(change_of(s, where).items())),
            kind="step",
        )
        for s in steps
        if s.parent
    ]


def _arms(plan: Plan) -> Design:
    """The base and one cell for each change."""
    if plan.design == "single" and plan.set:
        base, arms = _cell_of(_base(plan), plan), [_common(plan, ModelSpec)]
    else:
        base, arms = _base_cell(plan), list(_listed(plan))
    return _against_base(base, arms)


def _leave_one_out(plan: Plan) -> Design:
    """The base without each change of its path: every toggle goes back to what it was before the step that set it."""
    if plan.changes:
        return _arms(plan)
    base, top, where = _base_cell(plan), _base(plan), find_regime(plan.regime)
    cells, comparisons = [base], []
    for step in path(top)[1:]:
        arm = _undone(step, top, where.name)
        if arm:
            cell = replace(base, arm=arm, title=f"without {step.name}")
            cells.append(cell)
            comparisons.append(Comparison(child=cell.key, parent=base.key, declared=declared(arm), kind="change"))
    return cells, comparisons


def _undone(step: Step, top: Step, regime: str) -> Arm:
    """The settings that take one step's change back, where no later step has set the same again."""
    where = find_regime(regime)
    before, after = resolve(step.parent or step.name, regime), resolve(step.name, regime)
    last = resolve(top.name, regime)
    arm: list[Setting] = []
    for name in change_of(step, where):
        if name == RECIPE:
            # The earlier recipe as a whole, but with the fields that later steps set in it: their changes stay.
            later = recipe_changes(top.name, regime).items() - recipe_changes(step.name, regime).items()
            arm += [
                (RECIPE, recipe_of(step.parent or step.name, regime)),
                *((f"{RECIPE}.{field}", value) for field, value in sorted(later)),
            ]
        elif name.startswith(f"{RECIPE}."):
            arm.append(
                (name, getattr(step_recipe(STEPS[step.parent or step.name], regime), name.removeprefix(f"{RECIPE}.")))
            )
        elif getattr(after, name) == getattr(last, name):
            arm.append((name, getattr(before, name)))
    return tuple(arm)


def _factorial(plan: Plan) -> Design:
    """Every combination of the changes, or the runs of a fractional factorial; each against the base."""
    arms = list(_listed(plan))
    patterns = (
        _fraction(plan, len(arms))
        if plan.fraction is not None
        else list(itertools.product((False, True), repeat=len(arms)))
    )
    combined = [tuple(s for arm, on in zip(arms, pattern, strict=True) if on for s in arm) for pattern in patterns]
    return _against_base(_base_cell(plan), [arm for arm in combined if arm])


def _fraction(plan: Plan, factors: int) -> list[tuple[bool, ...]]:
    """The runs that pyDOE3 makes from the generators, the base first where it is among them."""
    from pyDOE3 import fracfact

    assert plan.fraction is not None
    try:
        runs = fracfact(plan.fraction)
    except (ValueError, IndexError, KeyError, TypeError) as e:  # whichever it is, it is about the generators
        raise ConfigError(
            f"study {plan.name}.fraction is {plan.fraction!r}, which pyDOE3 refuses ({e}); legal: generators such as 'a b c abc'; correct it"
        ) from e
    if runs.shape[1] != factors:
        raise ConfigError(
            f"study {plan.name}.fraction is {plan.fraction!r}, {runs.shape[1]} factors for {factors} changes; legal: one generator a change; correct it"
        )
    return sorted((tuple(bool(x > 0) for x in run) for run in runs), key=any)


def aliases(plan: Plan) -> list[str]:
    """Which effects a fractional factorial cannot tell apart, in the changes' own words; empty where it can tell all. One that is the same in all runs is aliased with the mean."""
    if plan.fraction is None:
        return []
    from pyDOE3 import fracfact

    names = [words(arm) for arm in _listed(plan)]
    runs = fracfact(plan.fraction)
    # Effects with the same column, up to its sign, cannot be told apart; pyDOE3's own list does not see the sign.
    groups: dict[tuple[float, ...], list[str]] = {(1.0,) * len(runs): ["the mean"]}
    for size in range(1, len(names) + 1):
        for effect in itertools.combinations(range(len(names)), size):
            column = tuple(runs[:, effect].prod(axis=1))
            told = " x ".join(names[i] for i in effect)
            opposite = tuple(-x for x in column)
            if opposite in groups and column not in groups:
                groups[opposite].append(f"−({told})")
            else:
                groups.setdefault(column, []).append(told)
    mean, *others = groups.values()
    return [" = ".join(effects) for effects in (*others, [*mean[1:], mean[0]]) if len(effects) > 1]


def _grid(plan: Plan) -> Design:
    """All combinations of the listed values; the first of each axis is the reference."""
    axes = [
        [(parse_change(name, v),) for v in values_of(name, values)]
        for change in plan.changes
        for name, values in change.items()
    ]
    arms = [tuple(itertools.chain.from_iterable(point)) for point in itertools.product(*axes)]
    base = _base_cell(plan)
    cells = [replace(base, arm=arm) for arm in arms]
    comparisons = [
        Comparison(child=cell.key, parent=cells[0].key, declared=declared(_different(cell.arm, arms[0])), kind="change")
        for cell in cells[1:]
    ]
    return cells, comparisons


def _models(plan: Plan) -> Design:
    """Networks trained alike, each against the first: what differs is the network as a whole."""
    cells = [_model_cell(name, plan) for name in plan.model]
    return cells, [
        Comparison(child=c.key, parent=cells[0].key, declared=("model.*",), kind="subject") for c in cells[1:]
    ]


_DESIGNS: Mapping[str, Callable[[Plan], Design]] = {
    "ladder": _ladder,
    "single": _arms,
    "one-at-a-time": _arms,
    "leave-one-out": _leave_one_out,
    "factorial": _factorial,
    "grid": _grid,
    "models": _models,
}


# Parts -------------------------------------------------------------------------------------------------------------------


def _against_base(base: Cell, arms: list[Arm]) -> Design:
    cells = [replace(base, arm=arm) for arm in arms]
    return [base, *cells], [
        Comparison(child=c.key, parent=base.key, declared=declared(c.arm), kind="change") for c in cells
    ]


def declared(arm: Arm) -> tuple[str, ...]:
    """The resolved settings that an arm changes: toggles and recipe fields by name, a whole recipe or data set as `recipe.*` and `data.*` with what the network takes over from it."""
    found = itertools.chain.from_iterable(
        _WHOLE.get(name, (name if name.startswith(f"{RECIPE}.") else f"model.{name}",)) for name, _ in arm
    )
    return tuple(dict.fromkeys(found))


_WHOLE: Mapping[str, tuple[str, ...]] = {
    RECIPE: ("recipe.*",),
    "data": ("data.*", "model.num_classes", "model.in_chans"),
    "batch_size": ("recipe.batch_size", "recipe.lr", "recipe.group_size"),
    "epochs": ("recipe.epochs", "recipe.warmup_epochs", "recipe.decay_epochs"),
}


def _different(arm: Arm, other: Arm) -> Arm:
    return tuple(mine for mine in arm if mine not in other)


def _listed(plan: Plan) -> Iterator[Arm]:
    """The plan's changes as arms; in a one-at-a-time design a list of values is one arm each."""
    for change in plan.changes:
        lists = [(name, values_of(name, value)) for name, value in change.items() if values_of(name, value) != [value]]
        if lists and len(change) == 1:
            name, values = lists[0]
            yield from ((parse_change(name, v),) for v in values)
        elif lists:
            raise ConfigError(
                f"study {plan.name}.changes has a list of values for {lists[0][0]} beside other names; legal: a list alone in its mapping, or one value for each name; write one mapping for each change"
            )
        else:
            yield tuple(parse_change(name, value) for name, value in change.items())


def _common(plan: Plan, kind: type) -> Arm:
    return tuple(parse_setting(kind.__name__, kind, text) for text in plan.set)


def _base(plan: Plan) -> Step:
    """The step a design starts from: the named one, or the end of the paper's ladder."""
    return find_step(plan.base) if plan.base is not None else find_step("9")


def _base_cell(plan: Plan) -> Cell:
    return replace(_cell_of(_base(plan), plan), common=_common(plan, ModelSpec))


def _cell_of(step: Step, plan: Plan) -> Cell:
    return Cell(
        step=step.name,
        build=functools.partial(_step_spec, step.name, plan.regime),
        recipe=step_recipe(step, plan.regime),
    )


def _step_spec(step: str, regime: str, settings: Mapping[str, Any]) -> ModelSpec:
    return resolve(step, regime, **settings)


def _model_cell(name: str, plan: Plan) -> Cell:
    """A published network; fine-tuning starts from a small head (Table 6)."""
    head = {"head_init_scale": FINETUNE_HEAD_SCALE} if plan.init else {}
    recipe = find_recipe(FINETUNE if plan.init else MODERN_RECIPE)
    if name.startswith("timm/"):
        spec: AnySpec = TimmSpec(timm=name.removeprefix("timm/"))
        if plan.init:
            raise ConfigError(
                f"study {plan.name}.init is {plan.init!r} with {name}; legal: initial weights for our own networks; leave one of the two out"
            )
    elif name.startswith("step/"):
        step = find_step(name.removeprefix("step/"))
        return replace(
            _cell_of(step, plan),
            common=_common(plan, ModelSpec),
            recipe=recipe if plan.recipe is None else step_recipe(step, plan.regime),
        )
    else:
        spec = find_variant(name).spec
    return Cell(
        step=name, build=functools.partial(_model_spec, spec, head), recipe=recipe, common=_common(plan, type(spec))
    )


def _model_spec(spec: AnySpec, head: Mapping[str, Any], settings: Mapping[str, Any]) -> AnySpec:
    return with_settings(spec, {**head, **settings})


def _with_controls(plan: Plan, cells: list[Cell], comparisons: list[Comparison]) -> Design:
    """Add negative controls to the last cell of a ladder, to the first one of any other design: comparisons in which nothing differs, not even what that cell sets.

    A word given k times adds k A/A cells, each with seeds of its own: a run that two cells shared would be one draw counted as two.
    """
    if not cells:
        return cells, comparisons
    base = cells[-1] if plan.design == "ladder" else cells[0]
    more: list[Cell] = []
    for i, word in enumerate(plan.controls):
        count = plan.controls[:i].count(word) + 1
        title = f"{word} {count}" if count > 1 else word
        shift = count * A_A_SEEDS * (max(plan.seeds) // A_A_SEEDS + 1)
        more.append(
            replace(
                base,
                title=title,
                **({"seeds": tuple(s + shift for s in plan.seeds)} if word == A_A else {"control": title}),
            )
        )
    return [*cells, *more], [
        *comparisons,
        *(
            Comparison(child=c.key, parent=base.key, declared=(), kind=word)
            for c, word in zip(more, plan.controls, strict=True)
        ),
    ]


def points(plan: Plan) -> list[Arm]:
    """The combinations of the crossed values; none where nothing is crossed."""
    axes = [[parse_change(name, v) for v in values_of(name, values)] for name, values in plan.cross.items()]
    return list(itertools.product(*axes)) if axes else []


def _crossed(plan: Plan, cells: list[Cell], comparisons: list[Comparison]) -> Design:
    """The whole design once for each combination of the crossed values; comparisons stay inside one."""
    if not plan.cross:
        return cells, comparisons
    all_cells: list[Cell] = []
    all_comparisons: list[Comparison] = []
    for point in points(plan):
        there = {cell.key: replace(cell, cross=point) for cell in cells}
        all_cells += there.values()
        all_comparisons += [
            replace(c, child=there[c.child].key, parent=there[c.parent].key) for c in comparisons if c.parent in there
        ]
    return all_cells, all_comparisons


def crossings(cells: Sequence[Cell]) -> list[Comparison]:
    """Every cell of a crossed design against the same cell at the first point: what must hold before a change here is compared with the change there."""
    first = next((cell.cross for cell in cells), ())
    away = [cell for cell in cells if cell.cross != first]
    return [
        Comparison(
            child=cell.key,
            parent=replace(cell, cross=first).key,
            declared=declared(_different(cell.cross, first)),
            kind="crossing",
        )
        for cell in away
    ]


def _steps(plan: Plan) -> list[Step]:
    if plan.steps is not None:
        return [STEPS[name] for name in dict.fromkeys(find_step(key).name for key in plan.steps)]
    order = ladder(side_steps=plan.side_steps)
    if plan.through is None:
        return order
    last = order.index(find_step(plan.through))
    return order[: last + 1]


def step_recipe(step: Step, regime: str) -> Recipe:
    """The recipe of a step in its regime, with what the ladder changes in it."""
    return replace(find_recipe(recipe_of(step.name, regime)), **recipe_changes(step.name, regime))
