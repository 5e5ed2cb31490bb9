"""The paper's recipes hold the paper's numbers; every recipe says where it is from and what was scaled."""

import itertools
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.errors import ConfigError
from roadmap.config.fields import diff, field_types, from_text
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
    "ema_warmup": False,
    "accuracy": "last",
    "precision": "auto",
    "residual": "fp32",
    "tf32": False,
    "mix_group_size": None,
    "test_resize": "shorter",
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
        "layer_decay_type",
        "pipeline",
    }  # of sgd, of the step schedule, of layer-wise decay, and by what images are transformed


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


# Another batch and other epochs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "batch_size", "lr"),
    [
        ("cifar-adamw", 64, 5e-4),
        ("cifar-adamw", 1024, 2e-3),
        ("convnext-300ep", 1024, 1e-3),
        ("pytorch-90ep", 64, 0.025),
    ],
)
def test_lr_follows_the_batch_by_the_rule_that_the_recipe_states(name: str, batch_size: int, lr: float) -> None:
    assert find_recipe(name).with_batch_size(batch_size).lr == pytest.approx(lr)


def test_a_recipe_that_says_square_root_scales_so() -> None:
    assert {r.name for r in RECIPES.values() if "square-root" in r.expected} == {
        r.name for r in RECIPES.values() if r.lr_scaling == "sqrt"
    }
    fixed = replace(find_recipe("convnext-300ep"), lr_scaling="none")
    assert fixed.with_batch_size(1024).lr == fixed.lr


def test_the_moving_average_spans_the_same_part_of_training_at_any_length() -> None:
    recipe = replace(find_recipe("convnext-300ep"), ema_decay=0.9999)
    shorter, smaller = recipe.with_epochs(3), recipe.with_batch_size(1024)
    assert (shorter.ema_decay, smaller.ema_decay) == (pytest.approx(0.99), pytest.approx(0.999975))
    assert recipe.with_epochs(300) == recipe.with_batch_size(4096) == recipe
    assert replace(recipe, ema_decay=0.5, warmup_epochs=0).with_epochs(1).ema_decay == 0, "one iteration at least"


# docs/reproduction.md -------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "reproduction.md"
TEXTS = {"name", "source", "expected"}


def table(heading: str) -> list[list[str]]:
    """The cells of the page's table whose heading begins so."""
    lines = iter(PAGE.read_text().splitlines())
    assert any(line.startswith(heading) for line in lines), heading
    next(lines)
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


def as_held(name: str, text: str) -> Any:
    """The value of a field as the page writes it."""
    value = from_text(field_types(Recipe)[name], text)
    return pytest.approx(value, rel=1e-5) if isinstance(value, float) else value


def stated(name: str, ours: Any, text: str) -> bool:
    """Whether what others state is ours, or marked as otherwise."""
    if text == "–":
        return True
    bold = text.startswith("**")
    return (as_held(name, text.strip("*")) == ours) is not bold


def test_the_page_shows_every_field_of_the_two_full_recipes() -> None:
    rows = table("| field | `pytorch-90ep`")
    sgd, adamw = find_recipe("pytorch-90ep"), find_recipe("convnext-300ep")
    assert [row[0] for row in rows] == [f.name for f in fields(Recipe) if f.name not in TEXTS]
    for name, first, torchvision, second, paper, code in rows:
        assert (getattr(sgd, name), getattr(adamw, name)) == (as_held(name, first), as_held(name, second)), name
        assert stated(name, getattr(sgd, name), torchvision), name
        assert stated(name, getattr(adamw, name), paper) and stated(name, getattr(adamw, name), code), name


def test_the_page_shows_what_every_other_recipe_changes() -> None:
    rows = table("| recipe | as | but")
    shown: dict[str, dict[str, Any]] = {}
    for recipe, base, name, ours, paper, code in rows:
        value = getattr(find_recipe(recipe), name)
        assert value == as_held(name, ours), (recipe, name)
        assert stated(name, value, paper) and stated(name, value, code), (recipe, name)
        shown.setdefault(recipe, {"base": base})[name] = value
    assert {*shown, "pytorch-90ep", "convnext-300ep"} == set(RECIPES)
    for recipe, changes in shown.items():
        texts = {name: getattr(find_recipe(recipe), name) for name in TEXTS}
        assert replace(find_recipe(changes.pop("base")), **changes, **texts) == find_recipe(recipe)
