"""The two steps beyond the paper's ladder, and what a step may say about its recipe."""

from dataclasses import fields

import pytest

from roadmap.config.fields import diff
from roadmap.config.model import ModelSpec
from roadmap.config.recipe import Recipe
from tests.helpers.convnext import GROUPS, REGIMES, STEPS, change_of, ladder, path, recipe_changes, recipe_of, resolve


def test_the_ladder_ends_with_v2() -> None:
    assert [(s.id, s.name) for s in ladder()][-3:] == [("9", "separate-downsampling"), ("10", "ema"), ("11", "grn")]
    assert {s.group for s in ladder() if s.id in ("10", "11")} == {GROUPS[-1]} == {"beyond the paper"}


@pytest.mark.parametrize(
    ("regime", "changed"),
    [
        ("resnet50", {"ema_decay": 0.9999}),
        ("resnet200", {"ema_decay": 0.9999}),
        ("cifar", {"ema_decay": 0.999, "ema_warmup": True}),
        ("micro", {"ema_decay": 0.99, "ema_warmup": True}),
    ],
)
def test_the_moving_average_changes_the_recipe_alone(regime: str, changed: dict[str, object]) -> None:
    assert diff(resolve("separate-downsampling", regime), resolve("ema", regime)) == {}
    assert recipe_changes("separate-downsampling", regime) == {}
    assert recipe_changes("ema", regime) == recipe_changes(11, regime) == changed
    assert recipe_of("ema", regime) == recipe_of("recipe", regime)


@pytest.mark.parametrize("regime", REGIMES)
def test_v2_swaps_layer_scale_for_grn(regime: str) -> None:
    assert diff(resolve("ema", regime), resolve("grn", regime)) == {"grn": (False, True), "layer_scale": (1e-6, None)}


@pytest.mark.parametrize("regime", REGIMES)
def test_what_steps_say_of_recipes_are_fields_of_a_recipe(regime: str) -> None:
    names = {f.name for f in fields(Recipe)}
    assert all(set(recipe_changes(s.name, regime)) <= names for s in ladder(side_steps=True))


@pytest.mark.parametrize("regime", REGIMES)
def test_a_spec_is_the_fold_of_the_changes_on_its_path(regime: str) -> None:
    toggles = {f.name for f in fields(ModelSpec)}
    for step in ladder(side_steps=True):
        spec, folded = resolve(step.name, regime), {}
        for s in path(step):
            folded |= {k: v for k, v in change_of(s, REGIMES[regime]).items() if k in toggles}
        assert {k: getattr(spec, k) for k in folded} == folded


def test_the_steps_beyond_have_the_papers_accuracy_and_no_gflops() -> None:
    printed = {(r, s): REGIMES[r].paper[s] for r in ("resnet50", "resnet200") for s in ("ema", "grn")}
    assert {k: p.top1 for k, p in printed.items()} == {
        ("resnet50", "ema"): 82.1,
        ("resnet50", "grn"): 82.5,
        ("resnet200", "ema"): 83.8,
        ("resnet200", "grn"): 84.3,
    }
    assert all(p.gflops is None and p.std is None for p in printed.values())
    of_both = set(REGIMES["resnet50"].paper)
    assert of_both == set(REGIMES["resnet200"].paper) <= set(STEPS)
    assert {s.name for s in ladder()} | {"kernel-5", "kernel-9", "kernel-11"} == of_both
