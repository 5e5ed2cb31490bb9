"""A question and its trials: a study file (YAML) or the command line's options, expanded into trials. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from roadmap.data.catalogue import resolve_data
from roadmap.recipes import find_recipe
from roadmap.rules import SpecError, listing, nearest, parse_setting
from roadmap.spec import ModelSpec, Recipe, Trial, show
from roadmap.steps import Step, find_regime, find_step, ladder, recipe_changes, recipe_of, resolve

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
DEFAULT_STUDY = EXPERIMENTS / "digits.yaml"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run: the options of a study, before names are looked up. `None` leaves a choice to the regime.

    through: last step of the ladder, where `steps` does not list them. set: one single change on every step, `toggle=value`.
    """

    name: str
    question: str
    regime: str = "resnet50"
    steps: tuple[str, ...] | None = None
    through: str | None = None
    side_steps: bool = False
    seeds: tuple[int, ...] = (0,)
    data: str | None = None
    data_title: str | None = None
    recipe: str | None = None
    epochs: int | None = None
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


def read_plan(path: Path) -> Plan:
    """A study file as a Plan. Raises SpecError with every fault: file, key, and the nearest legal key."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError as e:
        raise SpecError(f"study file {path} does not exist; legal: {listing(sorted(p.name for p in EXPERIMENTS.glob('*.yaml')))}, or a path; {nearest(path.name, [p.name for p in EXPERIMENTS.glob('*.yaml')])}") from e
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise SpecError(f"study file {path} cannot be read: {e}; legal: YAML; correct the file") from e
    if not isinstance(content, dict):
        raise SpecError(f"study file {path} holds {type(content).__name__}, not keys; legal: `question:` and what to run; see experiments/digits.yaml")
    return _validated(path, {"name": path.stem, **content})


def _validated(path: Path, content: dict[str, Any]) -> Plan:
    """Check the keys and types with pydantic, and word its findings as the project does, all at once."""
    from pydantic import TypeAdapter, ValidationError

    known = list(Plan.__dataclass_fields__)
    found = [f"{path}.{key} is unknown; legal: {listing(known)}; {nearest(key, known)}" for key in content if key not in known]
    # Steps have ids that YAML reads as numbers.
    words = {key: str(value) if key == "through" else [str(v) for v in value] if key in ("steps", "set") and isinstance(value, list) else value for key, value in content.items() if key in known}
    try:
        plan = TypeAdapter(Plan).validate_python(words)
    except ValidationError as e:
        found += [f"{path}.{'.'.join(map(str, x['loc']))} is {x.get('input')!r}: {x['msg'].lower()}; legal: see roadmap/study.py's Plan; correct the file" for x in e.errors()]
    if found:
        raise SpecError("\n".join(found))
    return plan


def expand(plan: Plan, *, data_dir: Path | None = None) -> Study:
    """The trials of a plan: every step times every seed. Raises SpecError or DataError before anything runs."""
    regime = find_regime(plan.regime)
    data = resolve_data(plan.data or regime.data, data_dir=data_dir, image_size=plan.image_size or regime.image_size, num_classes=plan.num_classes, validation=plan.validation, title=plan.data_title)
    settings = dict(parse_setting("ModelSpec", ModelSpec, text) for text in plan.set)
    change = " ".join(f"{k}={show(v)}" for k, v in settings.items())
    if len(set(plan.seeds)) < len(plan.seeds):
        raise SpecError(f"study {plan.name}.seeds is {list(plan.seeds)}; legal: each seed once; remove the repeated one")
    trials, undefined = [], {}
    chosen = _steps(plan)
    for step in chosen:
        try:
            model = resolve(step.name, plan.regime, **{"num_classes": data.num_classes, "in_chans": data.in_chans, **settings})
        except SpecError as e:
            if len(chosen) == 1:
                raise
            undefined[step.name] = str(e)
            continue
        recipe = _recipe(plan, step)
        trials += [Trial(model=model, recipe=recipe, data=data, seed=seed, regime=plan.regime, step=step.name, change=change) for seed in plan.seeds]
    return Study(name=plan.name, question=plan.question, regime=plan.regime, trials=tuple(trials), undefined=undefined)


def _steps(plan: Plan) -> list[Step]:
    if plan.steps is not None:
        return [find_step(key) for key in plan.steps]
    order = ladder(side_steps=plan.side_steps)
    if plan.through is None:
        return order
    last = order.index(find_step(plan.through))
    return order[: last + 1]


def step_recipe(step: Step, regime: str) -> Recipe:
    """The recipe of a step in its regime, with what the ladder changes in it."""
    return replace(find_recipe(recipe_of(step.name, regime)), **recipe_changes(step.name, regime))


def _recipe(plan: Plan, step: Step) -> Recipe:
    """The step's own recipe, or the one asked for as it is; then the asked epochs and precision."""
    recipe = step_recipe(step, plan.regime) if plan.recipe is None else find_recipe(plan.recipe)
    if plan.precision is not None:
        recipe = replace(recipe, precision=plan.precision)
    return recipe if plan.epochs is None else recipe.with_epochs(plan.epochs)


def images_to_train(trial: Trial) -> int | None:
    """Images a run passes through the network, where the data set's size is known without opening it."""
    sizes = {"digits": 1297, "cifar10": 50_000, "cifar100": 50_000, "fashion-mnist": 60_000, "imagenet": 1_281_167}
    size = sizes.get(trial.data.name)
    return None if size is None else round(size * (1 - trial.data.validation)) * trial.recipe.epochs
