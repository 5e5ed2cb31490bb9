"""A question and its trials: a study file (YAML) or the command line's options, expanded into trials. No torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from roadmap.data.catalogue import resolve_data, training_images
from roadmap.recipes import find_recipe
from roadmap.record import file_digest
from roadmap.rules import SpecError, listing, nearest, parse_setting, refuse
from roadmap.spec import ModelSpec, Recipe, Trial, show, with_settings
from roadmap.steps import STEPS, Step, find_regime, find_step, ladder, recipe_changes, recipe_of, resolve
from roadmap.variants import find_variant

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
DEFAULT_STUDY = EXPERIMENTS / "digits.yaml"
MODERN_RECIPE, FINETUNE, FINETUNE_HEAD_SCALE = "convnext-300ep", "convnext-finetune", 0.001

Subject = tuple[str, Callable[[Mapping[str, Any]], ModelSpec], Recipe]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run: the options of a study, before names are looked up. `None` leaves a choice to the regime.

    through: last step of the ladder, where `steps` does not list them. set: one single change on every step, `toggle=value`.
    variant: a published network instead of steps. init: file of initial weights.
    """

    name: str
    question: str
    regime: str = "resnet50"
    steps: tuple[str, ...] | None = None
    through: str | None = None
    variant: str | None = None
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


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question and the trials that answer it; `undefined` tells why a step cannot take the change."""

    name: str
    question: str
    regime: str
    trials: tuple[Trial, ...]
    undefined: Mapping[str, str]
    init: str | None = None


def read_plan(path: Path) -> Plan:
    """A study file as a Plan. Raises SpecError with every fault: file, key, and the nearest legal key."""
    import yaml

    try:
        content = yaml.load(path.read_text(), Loader=_strict_loader())
    except FileNotFoundError as e:
        raise SpecError(f"study file {path} does not exist; legal: {listing(sorted(p.name for p in EXPERIMENTS.glob('*.yaml')))}, or a path; {nearest(path.name, [p.name for p in EXPERIMENTS.glob('*.yaml')])}") from e
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise SpecError(f"study file {path} cannot be read: {e}; legal: YAML; correct the file") from e
    if not isinstance(content, dict):
        raise SpecError(f"study file {path} holds {'nothing' if content is None else type(content).__name__}, not keys; legal: `question:` and what to run; see experiments/digits.yaml")
    return _validated(path, {"name": path.stem, **content})


@functools.cache
def _strict_loader() -> Any:
    """PyYAML's safe loader, which takes the last of two equal keys and unfolds aliases without end: here both are refused."""
    import yaml

    class Strict(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: aliases are not used in study files")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
            if twice := [k for k in keys if keys.count(k) > 1]:
                raise yaml.YAMLError(f"line {node.start_mark.line + 1}: key {twice[0]!r} is there {keys.count(twice[0])} times")
            return super().construct_mapping(node, deep)

    return Strict


def _validated(path: Path, content: dict[str, Any]) -> Plan:
    """Check the keys and types with pydantic, and word its findings as the project does, all at once."""
    from pydantic import ConfigDict, ValidationError, create_model

    known = list(Plan.__dataclass_fields__)
    found = [f"{path}.{key} is unknown; legal: {listing(known)}; {nearest(key, known)}" for key in content if key not in known]
    # Steps have ids that YAML reads as numbers.
    words = {key: str(value) if key == "through" else tuple(str(v) if key in ("steps", "set") else v for v in value) if isinstance(value, list) else value for key, value in content.items() if key in known}
    kinds: dict[str, Any] = {f.name: (get_type_hints(Plan)[f.name], ... if f.default is MISSING else f.default) for f in fields(Plan)}
    try:
        plan = Plan(**create_model("Plan", __config__=ConfigDict(strict=True), **kinds).model_validate(words).model_dump())
    except ValidationError as e:
        found += [f"{path}.{'.'.join(map(str, x['loc']))} is {x.get('input')!r}: {x['msg'].lower()}; legal: {_form(str(x['loc'][0]))}; correct the file" for x in e.errors()]
    if found:
        raise SpecError("\n".join(found))
    return plan


def _form(key: str) -> str:
    """How a key's value is written in a study file."""
    kind = str(Plan.__dataclass_fields__[key].type)
    what = "true or false" if "bool" in kind else "whole numbers" if "int" in kind else "a number" if "float" in kind else "text"
    return f"a list such as [{'0, 1' if 'int' in kind else 'gelu, 8'}]" if "tuple" in kind else what


def expand(plan: Plan, *, data_dir: Path | None = None) -> Study:
    """The trials of a plan: every step times every seed. Raises SpecError or DataError before anything runs."""
    _check(plan)
    regime = find_regime(plan.regime)
    image_size = regime.image_size if plan.image_size is None and plan.variant is None else plan.image_size
    data = resolve_data(plan.data or regime.data, data_dir=data_dir, image_size=image_size, num_classes=plan.num_classes, validation=plan.validation, title=plan.data_title)
    settings = dict(parse_setting("ModelSpec", ModelSpec, text) for text in plan.set)
    change = " ".join(f"{k}={show(v)}" for k, v in settings.items())
    trials, undefined = [], {}
    chosen = _subjects(plan)
    init = file_digest(Path(plan.init)) if plan.init else ""
    for name, build, own_recipe in chosen:
        try:
            model = build({"num_classes": data.num_classes, "in_chans": data.in_chans, **settings})
        except SpecError as e:
            if len(chosen) == 1:
                raise
            undefined[name] = str(e)
            continue
        recipe = _recipe(plan, own_recipe)
        trials += [Trial(model=model, recipe=recipe, data=data, seed=seed, init=init, regime=plan.regime, step=name, change=change) for seed in plan.seeds]
    return Study(name=plan.name, question=plan.question, regime=plan.regime, trials=tuple(trials), undefined=undefined, init=plan.init)


def _check(plan: Plan) -> None:
    """Every name and setting of a plan, so that all that is wrong is told at once. Raises SpecError."""
    lookups: list[Callable[[], Any]] = [
        lambda: find_regime(plan.regime),
        lambda: plan.recipe is None or find_recipe(plan.recipe),
        lambda: plan.variant is None or find_variant(plan.variant),
        *(functools.partial(find_step, key) for key in (*(plan.steps or ()), *((plan.through,) if plan.through is not None else ()))),
        *(functools.partial(parse_setting, "ModelSpec", ModelSpec, text) for text in plan.set),
    ]
    found = []
    for look in lookups:
        try:
            look()
        except SpecError as e:
            found.append(str(e))
    if not plan.seeds:
        found.append(f"study {plan.name}.seeds is empty; legal: one or more integers from 0; give one")
    if len(set(plan.seeds)) < len(plan.seeds):
        found.append(f"study {plan.name}.seeds is {list(plan.seeds)}; legal: each seed once; remove the repeated one")
    refuse(found)


def _subjects(plan: Plan) -> list[Subject]:
    """What the plan trains: its steps, or its variant; each with its name, what builds its spec from settings, and its own recipe."""
    if plan.variant is not None:
        return [(plan.variant, functools.partial(_variant, plan), find_recipe(FINETUNE if plan.init else MODERN_RECIPE))]
    return [(s.name, functools.partial(_step, s, plan.regime), step_recipe(s, plan.regime)) for s in _steps(plan)]


def _variant(plan: Plan, settings: Mapping[str, Any]) -> ModelSpec:
    """Fine-tuning starts from a small head (Table 6)."""
    assert plan.variant is not None
    small_head = {"head_init_scale": FINETUNE_HEAD_SCALE} if plan.init else {}
    return with_settings(find_variant(plan.variant).spec, {**small_head, **settings})


def _step(step: Step, regime: str, settings: Mapping[str, Any]) -> ModelSpec:
    return resolve(step.name, regime, **settings)


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


def _recipe(plan: Plan, own: Recipe) -> Recipe:
    """A step's own recipe, or the one asked for as it is; then the asked batch, epochs and precision."""
    recipe = own if plan.recipe is None else find_recipe(plan.recipe)
    if plan.precision is not None:
        recipe = replace(recipe, precision=plan.precision)
    if plan.batch_size is not None:
        recipe = recipe.with_batch_size(plan.batch_size)
    return recipe if plan.epochs is None else recipe.with_epochs(plan.epochs)


def images_to_train(trial: Trial) -> int | None:
    """Images a run passes through the network, where the data set's size is known without opening it."""
    images = training_images(trial.data)
    return None if images is None else images * trial.recipe.epochs
