"""A question and its trials: a plan, expanded into cells (roadmap.study.designs) and these into trials. No torch."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from roadmap.config.data import Data
from roadmap.config.errors import ConfigError, refuse
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.config.trial import Trial
from roadmap.data.registry import resolve_data, training_images
from roadmap.ladder.ladder import RECIPE
from roadmap.runs.io import file_digest
from roadmap.study.designs import Cell, Comparison, Key, crossings, design, listed, points
from roadmap.study.fractions import aliases
from roadmap.study.overrides import Override, resized, words
from roadmap.study.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question and the trials that answer it.

    undefined: why a cell cannot be built, by its label. comparisons: what is compared with what. notes: what a reader
    must know of the design. points: labels of what it is crossed with. crossings: how each cell differs from the same
    one at the first point. cells: what study.json says of each cell, labels and all.
    """

    name: str
    question: str
    ladder: str
    regime: str
    trials: tuple[Trial, ...]
    undefined: Mapping[str, str]
    comparisons: tuple[Comparison, ...] = ()
    design: str = "ladder"
    notes: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    crossings: tuple[Comparison, ...] = ()
    cells: tuple[Mapping[str, Any], ...] = ()
    init: str | None = None

    def header(self) -> dict[str, Any]:
        """Return what a study folder notes beside its trials, as JSON holds it."""
        return {
            "name": self.name,
            "question": self.question,
            "ladder": self.ladder,
            "regime": self.regime,
            "design": self.design,
            "notes": list(self.notes),
            "points": list(self.points),
            "cells": list(map(dict, self.cells)),
            "comparisons": list(map(Comparison.to_json, self.comparisons)),
            "crossings": list(map(Comparison.to_json, self.crossings)),
            "undefined": dict(self.undefined),
        }


def expand(plan: Plan, *, data_dir: Path | None = None) -> Study:
    """Return the trials of a plan: every cell of its design times every seed.

    Raises ConfigError or DataError before anything runs.
    """
    cells, comparisons = design(plan)
    trials, undefined = _trials(plan, cells, data_dir)
    if not trials:
        refuse(list(dict.fromkeys(undefined.values())))
    first = {(t.step, t.change): t for t in reversed(trials)}
    return Study(
        name=plan.name,
        question=plan.question,
        ladder=plan.ladder,
        regime=plan.regime,
        design=plan.design,
        init=plan.init,
        trials=tuple(trials),
        undefined=undefined,
        comparisons=_with_plans(comparisons, first),
        crossings=_with_plans(crossings(cells), first),
        notes=tuple(f"aliased: {line}" for line in aliases(plan, listed(plan))),
        points=tuple(map(words, points(plan))),
        cells=tuple(cell.to_json(points(plan)) for cell in cells),
    )


def _with_plans(comparisons: Iterable[Comparison], first: Mapping[Key, Trial]) -> tuple[Comparison, ...]:
    return tuple(replace(c, planned=_planned(first.get(c.parent), first.get(c.child))) for c in comparisons)


def _trials(plan: Plan, cells: Sequence[Cell], data_dir: Path | None) -> tuple[list[Trial], dict[str, str]]:
    """Return the trials of all cells that can be built, and why the others cannot."""
    trials: list[Trial] = []
    undefined: dict[str, str] = {}
    init = file_digest(Path(plan.init)) if plan.init else ""
    # A folder of a million images is listed once, not once a cell.
    data_of = functools.cache(functools.partial(_data, plan, data_dir))
    for cell in cells:
        data = data_of(cell.overrides.get("data"))
        try:
            planned = _trials_of(plan, cell, data, init)
        except ConfigError as e:
            undefined[cell.label] = str(e)
            continue
        same = _same(trials, planned[0], cell) if plan.design != "ladder" else None
        if same:
            undefined[cell.label] = f"changes nothing: it is {same.step}{f' with {same.change}' if same.change else ''}"
        else:
            trials += planned
    return trials, undefined


def _trials_of(plan: Plan, cell: Cell, data: Data, init: str) -> list[Trial]:
    _refuse_crossed(cell)
    model = cell.build({"num_classes": data.num_classes, "in_chans": data.in_chans, **_toggles(cell)})
    first = Trial(
        model=model,
        recipe=_recipe(plan, cell),
        data=data,
        seed=0,
        init=init,
        control=cell.control,
        ladder=plan.ladder,
        regime=plan.regime,
        step=cell.step,
        change=cell.change,
    )
    return [replace(first, seed=seed) for seed in cell.seeds or plan.seeds]


def _refuse_crossed(cell: Cell) -> None:
    """Refuse an arm that goes over what the design is crossed with: it would be another point's base.

    A file's own changes are refused when it is read.
    """
    crossed = {o.subject for o in cell.cross}
    both = [o.name for o in cell.arm if o.subject in crossed]
    if both:
        raise ConfigError(
            f"cross.{both[0]} is set by the change too; legal: a setting in one of the two; reason: the "
            "change goes over "
            "the crossed value; cross the design with something else"
        )


def _same(trials: Sequence[Trial], trial: Trial, cell: Cell) -> Trial | None:
    """Return an earlier trial of the same content, which would be trained twice; controls are meant to be."""
    if cell.control or cell.seeds:
        return None
    content = (trial.model, trial.recipe, trial.data, "")
    return next((t for t in trials if (t.model, t.recipe, t.data, t.control) == content), None)


def _data(plan: Plan, data_dir: Path | None, name: str | None) -> Data:
    """Return the data set of that name, the plan's own where a cell names none."""
    regime = plan.of_ladder.find_regime(plan.regime)
    of_networks = plan.design == "models" or plan.model
    return resolve_data(
        name or plan.data or regime.data,
        data_dir=data_dir,
        image_size=plan.image_size if plan.image_size is not None or of_networks else regime.image_size,
        num_classes=plan.num_classes,
        validation=plan.validation,
        title=plan.data_title,
        decoder=plan.decoder,
    )


def _toggles(cell: Cell) -> dict[str, Any]:
    """Return the cell's overrides of the network alone."""
    return {name: value for name, value in cell.overrides.items() if Override(name, value).is_toggle}


def _recipe(plan: Plan, cell: Cell) -> Recipe:
    """Return a step's own recipe, or the one asked for as it is, with what is asked on top.

    The order: batch size, epochs, precision, single fields; a cell's own settings win over the plan's.
    """
    asked = {RECIPE: plan.recipe, "batch_size": plan.batch_size, "epochs": plan.epochs, **cell.overrides}
    recipe = cell.recipe if asked[RECIPE] is None else find_recipe(asked[RECIPE])
    if plan.precision is not None:
        recipe = replace(recipe, precision=plan.precision)
    last = {o.name: o for o in cell.all_overrides}
    return resized(recipe, last.values(), batch_size=asked["batch_size"], epochs=asked["epochs"])


def _planned(parent: Trial | None, child: Trial | None) -> dict[str, tuple[Any, Any]] | None:
    """Return what differs between two cells as they are planned: the proof holds the records against these values."""
    if parent is None or child is None:
        return None
    before, after = _flat(parent), _flat(child)
    names = dict.fromkeys([*before, *after])
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _flat(trial: Trial) -> dict[str, Any]:
    """Return {"model.norm": "layer", ...} of everything that decides the outcome but the seed."""
    parts = trial.identity()
    return {f"{part}.{name}": value for part in ("model", "recipe", "data") for name, value in parts[part].items()}


def images_to_train(trial: Trial, *, data_dir: Path | None = None) -> int | None:
    """Return the images that a run passes through the network, where the data set's size is known
    without opening an image: a folder's from its files.
    """
    images = training_images(trial.data, data_dir=data_dir)
    return None if images is None else images * trial.recipe.epochs
