"""A question and its trials: a plan, expanded into cells (roadmap.study.designs) and these into trials. No torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from roadmap.config.data import Data
from roadmap.config.errors import ConfigError, refuse
from roadmap.config.model import AnySpec
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.config.trial import Trial
from roadmap.data.registry import resolve_data, training_images
from roadmap.ladder.convnext import RECIPE, find_regime
from roadmap.runs.io import file_digest
from roadmap.study.designs import Cell, Comparison, aliases, crossings, design, points, words
from roadmap.study.file import Plan, check, setting_of


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question and the trials that answer it.

    `undefined` tells why a cell cannot be built, `comparisons` what is compared with what, `notes` what a reader must know of the design, `points` are the labels
    of what it is crossed with, `crossings` how each cell differs from the same one at the first point.
    """

    name: str
    question: str
    regime: str
    trials: tuple[Trial, ...]
    undefined: Mapping[str, str]
    comparisons: tuple[Comparison, ...] = ()
    design: str = "ladder"
    notes: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    crossings: tuple[Comparison, ...] = ()
    init: str | None = field(default=None)

    def header(self) -> dict[str, Any]:
        """What a study folder notes beside its trials, as JSON-ready values."""
        return {
            "name": self.name,
            "question": self.question,
            "regime": self.regime,
            "design": self.design,
            "notes": list(self.notes),
            "points": list(self.points),
            "comparisons": [c.to_json() for c in self.comparisons],
            "crossings": [c.to_json() for c in self.crossings],
            "undefined": dict(self.undefined),
        }


def expand(plan: Plan, *, data_dir: Path | None = None) -> Study:
    """The trials of a plan: every cell of its design times every seed. Raises ConfigError or DataError before anything runs."""
    check(plan)
    cells, comparisons = design(plan)
    trials: list[Trial] = []
    undefined: dict[str, str] = {}
    init = file_digest(Path(plan.init)) if plan.init else ""
    data_of = functools.cache(
        lambda name: _data(plan, name, data_dir)
    )  # a folder of a million images is listed once, not once a cell
    for cell in cells:
        data = data_of(cell.settings.get("data"))
        try:
            _refuse_crossed(cell)
            model = cell.build({"num_classes": data.num_classes, "in_chans": data.in_chans, **_toggles(cell)})
            recipe = _recipe(plan, cell)
            labels = {"regime": plan.regime, "step": cell.step, "change": cell.change}
            planned = [
                Trial(model=model, recipe=recipe, data=data, seed=seed, init=init, control=cell.control, **labels)
                for seed in cell.seeds or plan.seeds
            ]
        except ConfigError as e:
            undefined[cell.label] = str(e)
            continue
        if plan.design != "ladder" and (same := _same(trials, model, recipe, data, cell)):
            undefined[cell.label] = f"changes nothing: it is {same.step}{f' with {same.change}' if same.change else ''}"
            continue
        trials += planned
    if not trials:
        refuse(list(dict.fromkeys(undefined.values())))
    first = {(t.step, t.change): t for t in reversed(trials)}
    comparisons, across = (
        [replace(c, planned=_planned(first.get(c.parent), first.get(c.child))) for c in found]
        for found in (comparisons, crossings(cells))
    )
    notes = tuple(f"aliased: {line}" for line in aliases(plan))
    asked: dict[str, Any] = {
        "name": plan.name,
        "question": plan.question,
        "regime": plan.regime,
        "design": plan.design,
        "init": plan.init,
    }
    return Study(
        **asked,
        trials=tuple(trials),
        undefined=undefined,
        comparisons=tuple(comparisons),
        crossings=tuple(across),
        notes=notes,
        points=tuple(map(words, points(plan))),
    )


def _refuse_crossed(cell: Cell) -> None:
    """Refuse an arm that goes over what the design is crossed with: trained, it would be another point's base, and that one be left out. A file's own changes are refused when it is read."""
    crossed = {setting_of(name) for name, _ in cell.cross}
    if both := [name for name, _ in cell.arm if setting_of(name) in crossed]:
        raise ConfigError(
            f"cross.{both[0]} is set by the change too; legal: a setting in one of the two; reason: the change goes over the crossed value; cross the design with something else"
        )


def _same(trials: list[Trial], model: AnySpec, recipe: Recipe, data: Data, cell: Cell) -> Trial | None:
    """An earlier trial of the same content, which would be trained twice; controls are meant to be."""
    if cell.control or cell.seeds:
        return None
    return next((t for t in trials if (t.model, t.recipe, t.data, t.control) == (model, recipe, data, "")), None)


def _data(plan: Plan, name: str | None, data_dir: Path | None) -> Data:
    """The data set of that name, the plan's own where a cell names none."""
    regime = find_regime(plan.regime)
    name = name or plan.data or regime.data
    image_size = (
        regime.image_size
        if plan.image_size is None and (plan.design != "models" and not plan.model)
        else plan.image_size
    )
    return resolve_data(
        name,
        data_dir=data_dir,
        image_size=image_size,
        num_classes=plan.num_classes,
        validation=plan.validation,
        title=plan.data_title,
    )


def _toggles(cell: Cell) -> dict[str, Any]:
    """The cell's settings of the network alone."""
    return {
        name: value
        for name, value in cell.settings.items()
        if name not in (RECIPE, "data", "batch_size", "epochs") and not name.startswith(f"{RECIPE}.")
    }


def _recipe(plan: Plan, cell: Cell) -> Recipe:
    """A step's own recipe, or the one asked for as it is; then the asked batch, epochs, precision and single fields, of which the cell's own win."""
    asked: dict[str, Any] = {"recipe": plan.recipe, "batch_size": plan.batch_size, "epochs": plan.epochs} | {
        k: v for k, v in cell.settings.items() if k in (RECIPE, "batch_size", "epochs")
    }
    recipe = cell.recipe if asked["recipe"] is None else find_recipe(asked["recipe"])
    if plan.precision is not None:
        recipe = replace(recipe, precision=plan.precision)
    if asked["batch_size"] is not None:
        recipe = recipe.with_batch_size(asked["batch_size"])
    if asked["epochs"] is not None:
        recipe = recipe.with_epochs(asked["epochs"])
    fields = {
        name.removeprefix(f"{RECIPE}."): value for name, value in cell.settings.items() if name.startswith(f"{RECIPE}.")
    }
    return replace(recipe, **fields)


def _planned(parent: Trial | None, child: Trial | None) -> dict[str, tuple[Any, Any]] | None:
    """What differs between two cells as they are planned: the proof holds the records against these values."""
    if parent is None or child is None:
        return None
    before, after = _flat(parent), _flat(child)
    return {
        name: (before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    }


def _flat(trial: Trial) -> dict[str, Any]:
    """{"model.norm": "layer", ...} of everything that decides the outcome but the seed."""
    parts = trial.identity()
    return {f"{part}.{name}": value for part in ("model", "recipe", "data") for name, value in parts[part].items()}


def images_to_train(trial: Trial) -> int | None:
    """Images a run passes through the network, where the data set's size is known without opening it."""
    images = training_images(trial.data)
    return None if images is None else images * trial.recipe.epochs
