"""The paper's recipes hold the paper's numbers; every recipe says where it is from and what was scaled."""

import re
from dataclasses import fields
from typing import Any

import pytest

from roadmap.config.errors import ConfigError
from roadmap.config.fields import diff
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import RECIPES, find_recipe
from tests.helpers.convnext import REGIMES

# ConvNeXt paper, Table 5, "except EMA is disabled" (A.1); 4 nodes x 8 GPUs x 128 images, no SyncBN.
CONVNEXT_300EP: dict[str, Any] = {
    "epochs": 300,
    "batch_size": 4096,
    "group_size": 128,
    "optimizer": "adamw",
    "lr": 4e-3,
    "beta1": 0.9,
    "beta2": 0.999,
    "weight_decay": 0.05,
    "decay_1d": False,
    "schedule": "cosine",
    "warmup_epochs": 20,
    "min_lr": 1e-6,
    "clip_grad": None,
    "layer_decay": None,
    "augmentation": "rand-m9-mstd0.5-inc1",
    "mixup": 0.8,
    "cutmix": 1.0,
    "mix_prob": 1.0,
    "mix_switch_prob": 0.5,
    "random_erasing": 0.25,
    "label_smoothing": 0.1,
    "crop": "resized",
    "hflip": 0.5,
    "interpolation": "bicubic",
    "test_crop": 224 / 256,
    "ema_decay": None,
    "accuracy": "last",
    "precision": "auto",
}
# torchvision's reference for ResNet-50: 76.13.
PYTORCH_90EP: dict[str, Any] = {
    "epochs": 90,
    "batch_size": 256,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "decay_1d": True,
    "schedule": "step",
    "decay_epochs": 30,
    "decay_rate": 0.1,
    "warmup_epochs": 0,
    "clip_grad": None,
    "layer_decay": None,
    "augmentation": "none",
    "mixup": 0,
    "cutmix": 0,
    "random_erasing": 0,
    "label_smoothing": 0,
    "crop": "resized",
    "hflip": 0.5,
    "test_crop": 224 / 256,
    "ema_decay": None,
    "accuracy": "last",
}
FINETUNE: dict[str, Any] = {
    "lr": 5e-5,
    "weight_decay": 1e-8,
    "batch_size": 512,
    "epochs": 30,
    "mixup": 0,
    "cutmix": 0,
    "label_smoothing": 0.1,
}


@pytest.mark.parametrize(
    ("name", "facts"),
    [("convnext-300ep", CONVNEXT_300EP), ("pytorch-90ep", PYTORCH_90EP), ("convnext-finetune", FINETUNE)],
)
def test_a_published_recipe_holds_exactly_the_published_numbers(name: str, facts: dict[str, Any]) -> None:
    recipe = find_recipe(name)
    assert {k: getattr(recipe, k) for k in facts} == facts


def test_no_field_of_the_modern_recipe_is_left_unsaid() -> None:
    assert {f.name for f in fields(Recipe) if f.metadata["identity"]} - set(CONVNEXT_300EP) == {
        "momentum",
        "decay_epochs",
        "decay_rate",
        "pipeline",
    }  # of sgd, of the step schedule, and by what images are transformed


def test_fine_tuning_uses_a_layer_decay_between_the_papers() -> None:
    layer_decay = find_recipe("convnext-finetune").layer_decay
    assert layer_decay is not None and 0.7 <= layer_decay <= 0.8


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.name)
def test_every_recipe_has_its_name_its_source_and_what_to_expect(recipe: Recipe) -> None:
    assert RECIPES[recipe.name] is recipe
    assert recipe.source and recipe.expected
    assert recipe.batch_size % recipe.group_size == 0


@pytest.mark.parametrize(
    "recipe", [r for r in RECIPES.values() if r.source.startswith("derived from")], ids=lambda r: r.name
)
def test_a_derived_recipe_says_what_was_scaled(recipe: Recipe) -> None:
    base = find_recipe(recipe.source.split()[2])
    words = {
        "epochs": "epochs",
        "batch_size": "batch",
        "group_size": "group",
        "lr": "lr",
        "warmup_epochs": "warm-up",
        "decay_epochs": "steps",
        "mixup": "mixup",
        "cutmix": "cutmix",
        "augmentation": "RandAugment",
        "random_erasing": "erasing",
        "crop": "crop",
        "hflip": "flip",
        "test_crop": "whole image",
        "interpolation": "bicubic",
    }
    for name in diff(base, recipe):
        assert words[name] in recipe.expected, f"{recipe.name} changes {name} and does not say so"
    assert re.search(rf"epochs {base.epochs} -> {recipe.epochs}", recipe.expected)


@pytest.mark.parametrize("regime", REGIMES)
def test_a_regimes_modern_recipe_and_its_baseline_see_the_same_images(regime: str) -> None:
    before, after = (find_recipe(name) for name in REGIMES[regime].recipes.values())
    assert (before.crop, before.hflip, before.test_crop) == (after.crop, after.hflip, after.test_crop)


def test_a_mistyped_recipe_gets_the_nearest() -> None:
    with pytest.raises(ConfigError) as e:
        find_recipe("convnext-300")
    assert str(e.value).startswith(
        f"recipe 'convnext-300' is unknown; legal: {', '.join(RECIPES)}; did you mean 'convnext-300ep'"
    )
