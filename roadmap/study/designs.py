"""A plan's design -> its cells and which of them are compared.

A cell is everything but the seed; a comparison declares what may differ. No torch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from roadmap.config.errors import ConfigError
from roadmap.config.fields import settings_of
from roadmap.config.model import AnySpec, TimmSpec, with_settings
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.ladder import Step
from roadmap.ladder.finetuning import HEAD_INIT_SCALE, find_fine_tuning
from roadmap.ladder.ladder import RECIPE
from roadmap.ladder.published import IMAGE_SIZE, PUBLISHED_RECIPE, find_variant
from roadmap.study.fractions import fraction
from roadmap.study.overrides import FIELD, Arm, Override, declared, words
from roadmap.study.plan import A_A, STEP, TIMM, Plan

FINETUNE = "convnext-finetune"  # of networks that no paper fine-tunes
A_A_SEEDS = 1000  # an A/A control's seeds are the study's own, further on by a multiple of this

Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a study trains with every seed.

    build: makes the network from toggles. arm: the change; common: what all cells have; cross: where it stands in a
    crossed study. undone: the step of its path that the arm takes back. seeds: other ones than the study's (the A/A
    control). control: the toggle that does nothing.
    """

    step: str
    build: Callable[[Mapping[str, Any]], AnySpec]
    recipe: Recipe
    arm: Arm = ()
    common: Arm = ()
    cross: Arm = ()
    undone: str = ""
    title: str = ""
    seeds: tuple[int, ...] | None = None
    control: str = ""

    @property
    def change(self) -> str:
        """The label of all that is set on top of the step."""
        return _joined(words(self.common), self._own, words(self.cross))

    @property
    def _own(self) -> str:
        """What the cell has for itself, in words."""
        return self.title or (f"without {self.undone}" if self.undone else words(self.arm))

    @property
    def key(self) -> Key:
        """What tells the cell apart in its study."""
        return self.step, self.change

    @property
    def label(self) -> str:
        """How a reader names the cell."""
        own = _joined(self._own, words(self.cross))
        return _joined(self.step, "with" if own and not self.undone else "", own)

    @property
    def all_overrides(self) -> Arm:
        """Everything set on top of the step, the change last."""
        return (*self.common, *self.cross, *self.arm)

    @property
    def overrides(self) -> dict[str, Any]:
        """The values of everything set on top of the step, by name."""
        return {o.name: o.value for o in self.all_overrides}

    def to_json(self, points: Sequence[Arm] = ()) -> dict[str, Any]:
        """Return what study.json says of the cell, so that nobody reads it out of `change`.

        points: the combinations that the design is crossed with; the cell stands at one of them.
        """
        at = points.index(self.cross) if self.cross else None
        arm = _joined(words(self.common), self._own)
        return {"step": self.step, "change": self.change, "arm": arm, "point": at, "undone": self.undone}


def _joined(*parts: str) -> str:
    return " ".join(filter(None, parts))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Child against parent.

    declared: names of resolved settings (`model.norm`, `recipe.*`) in which they are meant to
    differ; all others are not.
    kind: step, change, subject, a-a, no-op, or crossing: one cell at two of the values that a design is crossed with.
    planned: {name: (the parent's value, the child's)} of the resolved settings that differ in the
    plan; None where one of the two is planned elsewhere.
    """

    child: Key
    parent: Key
    declared: tuple[str, ...]
    kind: str
    planned: Mapping[str, tuple[Any, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as study.json holds it."""
        sides = {"child": list(self.child), "parent": list(self.parent)}
        content = {**sides, "declared": list(self.declared), "kind": self.kind}
        if self.planned is None:
            return content
        return {**content, "planned": {name: list(pair) for name, pair in self.planned.items()}}


Design = tuple[list[Cell], list[Comparison]]


def design(plan: Plan) -> Design:
    """Return the cells and comparisons of a plan, controls and crossings included. Raises ConfigError."""
    cells, comparisons = _DESIGNS[plan.design](plan) if not plan.model else _models(plan)
    cells, comparisons = _with_controls(plan, cells, comparisons)
    return _crossed(plan, cells, comparisons)


# One function a design ------------------------------------------------------------------------------------------------


def _ladder(plan: Plan) -> Design:
    """Compare steps with their parents; with --set every step with itself without it."""
    steps, common = _steps(plan), plan.common
    cells = [replace(_cell_of(step, plan), common=common) for step in steps]
    if common:
        names = declared(common)
        return cells, [Comparison(child=c.key, parent=(c.step, ""), declared=names, kind="change") for c in cells]
    return cells, [_step_comparison(step, plan) for step in steps if step.parent]


def _step_comparison(step: Step, plan: Plan) -> Comparison:
    changed = plan.of_ladder.overrides(step, plan.regime)
    names = declared(Override(name, value) for name, value in changed.items())
    return Comparison(child=(step.name, ""), parent=(step.parent or "", ""), declared=names, kind="step")


def _arms(plan: Plan) -> Design:
    """Compare the base with one cell for each change."""
    if plan.design == "single" and plan.set:
        return _against_base(_cell_of(_base(plan), plan), [plan.common])
    cells, comparisons = _against_base(_base_cell(plan), list(listed(plan)))
    for step, changes in plan.alternatives_also.items():
        base = replace(_cell_of(plan.of_ladder.steps[step], plan), common=plan.common)
        more, compared = _against_base(base, list(_listed(plan, changes, f"also.{step}")))
        cells += [cell for cell in more if cell.key not in {c.key for c in cells}]
        comparisons += compared
    return cells, comparisons


def _leave_one_out(plan: Plan) -> Design:
    """Compare the base with itself without each change of its path.

    Toggles go back to what they were before the step.
    """
    if plan.changes:
        return _arms(plan)
    base, top = _base_cell(plan), _base(plan)
    cells, comparisons = [base], []
    for step in plan.of_ladder.path(top)[1:]:
        arm = _undone(step, top, plan)
        if arm:
            cell = replace(base, arm=arm, undone=step.name)
            cells.append(cell)
            comparisons.append(Comparison(child=cell.key, parent=base.key, declared=declared(arm), kind="change"))
    return cells, comparisons


def _undone(step: Step, top: Step, plan: Plan) -> Arm:
    """Return the overrides that take one step back, where no later step has set the same again."""
    of, regime = plan.of_ladder, plan.regime
    parent = step.parent or step.name
    before, after, last = (settings_of(of.model(name, regime)) for name in (parent, step.name, top.name))
    arm: list[Override] = []
    for name in of.overrides(step, regime):
        if name == RECIPE:
            # The earlier recipe as a whole, but with the fields that later steps set in it: their changes stay.
            later = of.recipe_fields(top.name, regime).items() - of.recipe_fields(step.name, regime).items()
            arm.append(Override(RECIPE, of.recipe_name(parent, regime)))
            arm += [Override(f"{FIELD}{field}", value, scaled=True) for field, value in sorted(later)]
        elif name.startswith(FIELD):
            value = getattr(of.recipe(parent, regime), name.removeprefix(FIELD))
            arm.append(Override(name, value, scaled=True))
        elif after.get(name) == last.get(name):
            arm.append(Override(name, before.get(name)))
    return tuple(arm)


def _factorial(plan: Plan) -> Design:
    """Compare every combination of the changes, or the runs of a fractional factorial, with the base."""
    arms = list(listed(plan))
    if plan.fraction is None:
        patterns = list(itertools.product((False, True), repeat=len(arms)))
    else:
        patterns = fraction(plan, len(arms))
    combined = [_combined(arms, pattern) for pattern in patterns]
    return _against_base(_base_cell(plan), [arm for arm in combined if arm])


def _combined(arms: Sequence[Arm], pattern: Sequence[bool]) -> Arm:
    chosen = [arm for arm, on in zip(arms, pattern, strict=True) if on]
    return tuple(itertools.chain.from_iterable(chosen))


def _grid(plan: Plan) -> Design:
    """Compare all combinations of the listed values with that of each list's first."""
    axes = [alternatives for change in plan.alternatives for alternatives in change.values()]
    base = _base_cell(plan)
    cells = [replace(base, arm=point) for point in itertools.product(*axes)]
    first = cells[0]
    return cells, [
        Comparison(child=cell.key, parent=first.key, declared=declared(_different(cell.arm, first.arm)), kind="change")
        for cell in cells[1:]
    ]


def _models(plan: Plan) -> Design:
    """Compare networks trained alike with the first: what differs is the network as a whole."""
    cells = [_model_cell(name, plan) for name in plan.model]
    first = cells[0].key
    return cells, [Comparison(child=c.key, parent=first, declared=("model.*",), kind="subject") for c in cells[1:]]


_DESIGNS: Mapping[str, Callable[[Plan], Design]] = {
    "ladder": _ladder,
    "single": _arms,
    "one-at-a-time": _arms,
    "leave-one-out": _leave_one_out,
    "factorial": _factorial,
    "grid": _grid,
    "models": _models,
}


# Parts ----------------------------------------------------------------------------------------------------------------


def _against_base(base: Cell, arms: list[Arm]) -> Design:
    cells = [replace(base, arm=arm) for arm in arms]
    return [base, *cells], [
        Comparison(child=c.key, parent=base.key, declared=declared(c.arm), kind="change") for c in cells
    ]


def _different(arm: Arm, other: Arm) -> Arm:
    return tuple(mine for mine in arm if mine not in other)


def listed(plan: Plan) -> Iterator[Arm]:
    """Yield the plan's changes as arms; a list of values is one arm each."""
    return _listed(plan, plan.alternatives, "changes")


def _listed(plan: Plan, changes: Iterable[Mapping[str, Arm]], key: str) -> Iterator[Arm]:
    for change in changes:
        several = [name for name, alternatives in change.items() if len(alternatives) > 1]
        if several and len(change) > 1:
            raise ConfigError(
                f"study {plan.name}.{key} has a list of values for {several[0]} beside other names; legal: "
                "a list alone in its mapping, or one value for each name; write one mapping for each change"
            )
        if several:
            yield from ((one,) for one in change[several[0]])
        else:
            yield tuple(itertools.chain.from_iterable(change.values()))


def _base(plan: Plan) -> Step:
    """Return the step a design starts from: the named one, or the end of the source's own ladder."""
    return plan.of_ladder.find_step(plan.base if plan.base is not None else plan.of_ladder.end)


def _base_cell(plan: Plan) -> Cell:
    return replace(_cell_of(_base(plan), plan), common=plan.common)


def _cell_of(step: Step, plan: Plan) -> Cell:
    build = functools.partial(_step_spec, plan, step.name)
    return Cell(step=step.name, build=build, recipe=plan.of_ladder.recipe(step.name, plan.regime))


def _step_spec(plan: Plan, step: str, toggles: Mapping[str, Any]) -> AnySpec:
    return plan.of_ladder.model(step, plan.regime, **toggles)


def _model_cell(name: str, plan: Plan) -> Cell:
    """Return the cell of a network by its name; from a file of weights it is fine-tuned as its paper says."""
    if name.startswith(STEP):
        recipe = find_recipe(FINETUNE if plan.init else PUBLISHED_RECIPE)
        cell = _cell_of(plan.of_ladder.find_step(name.removeprefix(STEP)), plan)
        return replace(cell, common=plan.common, recipe=recipe if plan.recipe is None else cell.recipe)
    spec = _spec_of(name, plan)
    recipe_name, settings = _training_of(name, plan)
    build = functools.partial(_model_spec, spec, settings)
    return Cell(step=name, build=build, recipe=find_recipe(recipe_name), common=plan.common)


def _training_of(name: str, plan: Plan) -> tuple[str, dict[str, Any]]:
    """Return a network's own recipe, and what fine-tuning sets on the network."""
    if not plan.init:
        return PUBLISHED_RECIPE if name.startswith(TIMM) else find_variant(name).recipe, {}
    stated = find_fine_tuning(name, image_size=plan.image_size or IMAGE_SIZE, recipe=plan.recipe)
    settings = {"head_init_scale": HEAD_INIT_SCALE}
    return (stated.recipe, {**settings, "drop_path_rate": stated.drop_path_rate}) if stated else (FINETUNE, settings)


def _spec_of(name: str, plan: Plan) -> AnySpec:
    if not name.startswith(TIMM):
        return find_variant(name).spec
    if plan.init:
        raise ConfigError(
            f"study {plan.name}.init is {plan.init!r} with {name}; legal: initial weights for our own "
            "networks; leave one of the two out"
        )
    return TimmSpec(timm=name.removeprefix(TIMM))


def _model_spec(spec: AnySpec, settings: Mapping[str, Any], toggles: Mapping[str, Any]) -> AnySpec:
    return with_settings(spec, {**settings, **toggles})


def _with_controls(plan: Plan, cells: list[Cell], comparisons: list[Comparison]) -> Design:
    """Add negative controls: comparisons in which nothing differs, with the last cell of a ladder, else with the first.

    A word given k times adds k A/A cells, each with seeds of its own: a run that two cells shared would be one draw
    counted as two.
    """
    if not cells:
        return cells, comparisons
    base = cells[-1] if plan.design == "ladder" else cells[0]
    more = [_control(plan, base, i) for i in range(len(plan.controls))]
    compared = [
        Comparison(child=cell.key, parent=base.key, declared=(), kind=word)
        for cell, word in zip(more, plan.controls, strict=True)
    ]
    return [*cells, *more], [*comparisons, *compared]


def _control(plan: Plan, base: Cell, i: int) -> Cell:
    """Return the control that the plan's i-th word asks for."""
    word = plan.controls[i]
    count = plan.controls[:i].count(word) + 1
    title = f"{word} {count}" if count > 1 else word
    if word != A_A:
        return replace(base, title=title, control=title)
    shift = count * A_A_SEEDS * (max(plan.seeds) // A_A_SEEDS + 1)
    return replace(base, title=title, seeds=tuple(seed + shift for seed in plan.seeds))


def points(plan: Plan) -> list[Arm]:
    """Return the combinations of the crossed values; none where nothing is crossed."""
    return list(itertools.product(*plan.crossed.values())) if plan.crossed else []


def _crossed(plan: Plan, cells: list[Cell], comparisons: list[Comparison]) -> Design:
    """Repeat the whole design at each combination of the crossed values; comparisons stay inside one."""
    if not plan.crossed:
        return cells, comparisons
    all_cells: list[Cell] = []
    all_comparisons: list[Comparison] = []
    for point in points(plan):
        there = {cell.key: replace(cell, cross=point) for cell in cells}
        all_cells += there.values()
        inside = [c for c in comparisons if c.parent in there]
        all_comparisons += [replace(c, child=there[c.child].key, parent=there[c.parent].key) for c in inside]
    return all_cells, all_comparisons


def crossings(cells: Sequence[Cell]) -> list[Comparison]:
    """Compare every cell of a crossed design with the same cell at the first point.

    That must hold before a change here is compared with the change there.
    """
    first = next((cell.cross for cell in cells), ())
    return [
        Comparison(
            child=cell.key,
            parent=replace(cell, cross=first).key,
            declared=declared(_different(cell.cross, first)),
            kind="crossing",
        )
        for cell in cells
        if cell.cross != first
    ]


def _steps(plan: Plan) -> list[Step]:
    of = plan.of_ladder
    if plan.steps is not None:
        names = dict.fromkeys(of.find_step(key).name for key in plan.steps)
        return [of.steps[name] for name in names]
    order = of.order(side_steps=plan.side_steps)
    if plan.through is None:
        return order
    last = order.index(of.find_step(plan.through))
    return order[: last + 1]
