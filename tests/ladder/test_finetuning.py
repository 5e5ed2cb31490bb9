"""Fine-tuning by variant, as the papers' tables have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roadmap.config.recipes import RECIPES
from roadmap.config.trial import Trial
from roadmap.ladder.finetuning import FINE_TUNING, find_fine_tuning
from roadmap.ladder.published import VARIANTS
from roadmap.study.expand import expand
from roadmap.study.plan import Plan

# Variant, image size -> stochastic depth, layer decay, EMA, part of the image seen by the test.
FROM_22K = {
    ("convnext_tiny", 224): (0.0, 0.8, None, 0.875),
    ("convnext_small", 224): (0.1, 0.8, None, 0.875),
    ("convnext_base", 224): (0.2, 0.8, None, 0.875),
    ("convnext_large", 224): (0.3, 0.8, None, 0.875),
    ("convnext_xlarge", 224): (0.4, 0.8, 0.9999, 0.875),
    ("convnext_tiny", 384): (0.0, 0.8, None, 1.0),
    ("convnext_small", 384): (0.1, 0.8, None, 1.0),
    ("convnext_base", 384): (0.2, 0.8, None, 1.0),
    ("convnext_large", 384): (0.3, 0.8, None, 1.0),
    ("convnext_xlarge", 384): (0.4, 0.8, 0.9999, 1.0),
}
# Variant -> epochs, lr at 1,024 images, weight decay, layer decay and its type, smoothing, mixup, stochastic depth.
V2 = {
    "convnextv2_atto": (600, 8e-4, 0.3, 0.9, "single", 0.2, 0.0, 0.1),
    "convnextv2_tiny": (300, 3.2e-3, 0.05, 0.9, "single", 0.1, 0.8, 0.2),
    "convnextv2_base": (100, 2.5e-3, 0.05, 0.6, "group", 0.1, 0.8, 0.1),
}


@pytest.fixture
def weights(tmp_path: Path) -> str:
    (tmp_path / "weights.safetensors").write_bytes(b"which bytes these are does not matter to a plan")
    return str(tmp_path / "weights.safetensors")


def planned(variant: str, weights: str, **asked: object) -> Trial:
    settings: Any = {"image_size": 224, **asked}
    plan = Plan(name="s", question="?", design="models", model=(variant,), data="digits", init=weights, **settings)
    [trial] = expand(plan).trials
    return trial


@pytest.mark.parametrize(("variant", "size"), FROM_22K)
def test_weights_of_22k_are_fine_tuned_as_table_6_says(variant: str, size: int, weights: str) -> None:
    trial = planned(variant, weights, image_size=size)
    recipe = trial.recipe
    found = (trial.model.drop_path_rate, recipe.layer_decay, recipe.ema_decay, recipe.test_crop)
    assert found == FROM_22K[variant, size]
    assert recipe.test_resize == ("square" if size == 384 else "shorter"), "nothing of an image is cut off at 384"
    shared = (recipe.lr, recipe.weight_decay, recipe.batch_size, recipe.epochs, recipe.warmup_epochs)
    assert shared == (5e-5, 1e-8, 512, 30, 0)
    assert (recipe.mixup, recipe.cutmix, recipe.layer_decay_type) == (0, 0, "group")
    assert trial.model.head_init_scale == 0.001  # type: ignore[union-attr]


@pytest.mark.parametrize(("variant", "rate"), [("convnext_base", 0.8), ("convnext_large", 0.95)])
def test_weights_of_1k_are_fine_tuned_at_384_when_asked_for(variant: str, rate: float, weights: str) -> None:
    trial = planned(variant, weights, image_size=384, recipe="convnext-finetune-1k-384")
    assert (trial.model.drop_path_rate, trial.recipe.layer_decay, trial.recipe.test_crop) == (rate, 0.7, 1.0)


@pytest.mark.parametrize("variant", V2)
def test_v2_is_fine_tuned_as_its_own_paper_says(variant: str, weights: str) -> None:
    trial = planned(variant, weights)
    r = trial.recipe
    decay = (r.layer_decay, r.layer_decay_type)
    found = (r.epochs, r.lr, r.weight_decay, *decay, r.label_smoothing, r.mixup, trial.model.drop_path_rate)
    assert found == V2[variant]
    assert (r.batch_size, r.ema_decay) == (1024, 0.9999)


def test_a_user_may_set_what_the_table_sets(weights: str) -> None:
    trial = planned("convnext_base", weights, set=("drop_path_rate=0.5", "head_init_scale=1"))
    assert (trial.model.drop_path_rate, trial.model.head_init_scale) == (0.5, 1)  # type: ignore[union-attr]


def test_every_line_names_a_variant_and_a_recipe_and_every_family_is_there() -> None:
    assert all(line.variant in VARIANTS and line.recipe in RECIPES for line in FINE_TUNING)
    assert {line.variant for line in FINE_TUNING} == {v for v in VARIANTS if "isotropic" not in v}
    assert {r for r in RECIPES if "finetune" in r} == {line.recipe for line in FINE_TUNING}


def test_what_no_paper_fine_tunes_has_no_line() -> None:
    assert find_fine_tuning("convnext_isotropic_small") is None
    assert find_fine_tuning("convnext_base", recipe="digits-adamw") is None


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_isotropic_networks_warm_up_for_50_epochs(size: str) -> None:
    plan = Plan(name="s", question="?", design="models", model=(f"convnext_isotropic_{size}",), data="digits")
    [trial] = expand(plan).trials
    recipe = trial.recipe
    assert (recipe.name, recipe.warmup_epochs, recipe.epochs) == ("convnext-isotropic", 50, 300)


def test_pre_training_on_22k_takes_90_epochs_and_warms_up_for_5() -> None:
    recipe = RECIPES["convnext-22k"]
    assert (recipe.epochs, recipe.warmup_epochs, recipe.ema_decay, recipe.lr) == (90, 5, None, 4e-3)
