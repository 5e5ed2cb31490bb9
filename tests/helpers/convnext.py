"""The ConvNeXt ladder in short words, for tests that are about it."""

from __future__ import annotations

from roadmap.config.recipe import Recipe
from roadmap.ladder import Regime, Step
from roadmap.ladder.convnext import CONVNEXT, convnext_spec

STEPS, REGIMES, GROUPS = CONVNEXT.steps, CONVNEXT.regimes, CONVNEXT.groups
find_step, find_regime, path, resolve = CONVNEXT.find_step, CONVNEXT.find_regime, CONVNEXT.path, convnext_spec
recipe_of, recipe_changes = CONVNEXT.recipe_name, CONVNEXT.recipe_fields


def ladder(*, side_steps: bool = False) -> list[Step]:
    """The steps in order."""
    return CONVNEXT.order(side_steps=side_steps)


def change_of(step: Step, regime: Regime) -> dict[str, object]:
    """All that the step sets in this regime."""
    return CONVNEXT.overrides(step, regime.name)


def structure_of(step: Step, regime: Regime) -> frozenset[str]:
    """All that the step declares to change among the modules in this regime."""
    return CONVNEXT.structure(step, regime.name) or frozenset()


def step_recipe(step: Step, regime: str) -> Recipe:
    """The recipe of a step in its regime."""
    return CONVNEXT.recipe(step.name, regime)
