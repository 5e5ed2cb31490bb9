"""Learning rates by layer in fine-tuning, and the moving average's share of initial weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from roadmap.config.errors import RoadmapError
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.config.runtime import Runtime
from roadmap.data.pipeline import Pipeline
from roadmap.ladder.published import VARIANTS
from roadmap.model.network import ModernizableResNet
from roadmap.study.expand import expand
from roadmap.study.plan import Plan
from roadmap.train.distributed import Ranks
from roadmap.train.loop import Trainer
from roadmap.train.optimizer import make_optimizer
from roadmap.train.updates import moving_average
from tests.helpers.convnext import REGIMES
from tests.helpers.small_runs import make_trial

V1 = ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large", "convnext_xlarge")


def scales(variant: str, recipe: Recipe) -> dict[str, float]:
    """{parameter: factor on its learning rate}; layers do not depend on the width."""
    model = ModernizableResNet(replace(VARIANTS[variant].spec, width=4))
    optimizer = make_optimizer(model, recipe)
    of = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters()}


def powers_of_the_authors(depths: tuple[int, ...]) -> dict[str, int]:
    """{beginning of a name: how often the decay counts}, written down from the authors' table of 12 layers."""
    third = {f"stages.2.blocks.{i}.": 10 - i // 3 for i in range(depths[2])}
    return {
        "stem.": 13,
        "stages.0.": 12,
        "stages.1.": 11,
        "stages.2.downsample.": 10,
        **third,
        "stages.3.": 1,
        "head.": 0,
    }


@pytest.mark.parametrize("decay", [0.8, 0.7])
@pytest.mark.parametrize("variant", V1)
def test_fine_tuning_decays_learning_rates_by_the_authors_groups_of_layers(variant: str, decay: float) -> None:
    found = scales(variant, replace(find_recipe("convnext-finetune"), layer_decay=decay))
    for beginning, power in powers_of_the_authors(VARIANTS[variant].spec.depths).items():
        of_part = {scale for name, scale in found.items() if name.startswith(beginning)}
        assert list(of_part) == [pytest.approx(decay**power)], beginning


def test_the_stem_of_a_small_network_no_longer_learns_two_hundred_times_too_slowly() -> None:
    recipe = find_recipe("convnext-finetune")
    theirs = scales("convnext_small", recipe)["stem.0.weight"]
    timms = scales("convnext_small", replace(recipe, layer_decay_type="timm"))["stem.0.weight"]
    assert theirs / timms == pytest.approx(0.8**-24)


@pytest.mark.parametrize("variant", ["convnextv2_atto", "convnextv2_tiny"])
def test_v2_up_to_tiny_counts_every_block_and_the_stem_with_the_first(variant: str) -> None:
    depths = VARIANTS[variant].spec.depths
    found = scales(variant, find_recipe("convnextv2-finetune-tiny"))
    first = [sum(depths[:stage]) for stage in range(4)]
    for stage in range(4):
        power = sum(depths) - first[stage]
        assert found[f"stages.{stage}.blocks.0.conv_dw.weight"] == pytest.approx(0.9**power)
        if stage:
            assert found[f"stages.{stage}.downsample.1.weight"] == pytest.approx(0.9**power)
    assert found["stem.0.weight"] == found["stages.0.blocks.0.conv_dw.weight"]
    assert found["head.fc.weight"] == found["head.norm.weight"] == 1


def test_weight_decay_by_layer_spares_what_it_spares_without_layers() -> None:
    model = ModernizableResNet(replace(VARIANTS["convnextv2_atto"].spec, width=4))
    recipe = find_recipe("convnextv2-finetune-small")

    def spared(recipe: Recipe) -> set[int]:
        groups = make_optimizer(model, recipe).param_groups
        return {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}

    assert spared(recipe) == spared(replace(recipe, layer_decay=None))


def test_networks_without_stages_are_refused() -> None:
    with pytest.raises(RoadmapError, match=r"layer_decay_type is 'group' with Linear; legal: .*set .*timm"):
        make_optimizer(nn.Linear(2, 2), find_recipe("convnext-finetune"))


# The moving average ---------------------------------------------------------------------------------------------------

IMAGES = {"imagenet": [1_281_167], "cifar10": [50_000, 8_850], "digits": [1_297, 1_166]}


def initial_share(recipe: Recipe, images: int) -> float:
    """How much the initial weights count in the average after training."""
    average = moving_average(nn.Linear(1, 1), recipe)
    assert average is not None
    updates = range(1, images // recipe.batch_size * recipe.epochs + 1)
    if not recipe.ema_warmup:
        return float(average.get_decay() ** len(updates))
    return float(np.prod([average.get_decay(t) for t in updates[:100]]))


@pytest.mark.parametrize(("epochs", "batch_size"), [(None, None), (3, 64), (1, 256), (40, 32), (5, None), (300, 1024)])
@pytest.mark.parametrize("regime", REGIMES)
def test_initial_weights_count_nothing_in_the_average_however_long_training_is(
    regime: str, epochs: int | None, batch_size: int | None
) -> None:
    plan = Plan(
        name="s", question="?", regime=regime, steps=("ema",), data="digits", epochs=epochs, batch_size=batch_size
    )
    [trial] = expand(plan).trials
    for images in IMAGES[REGIMES[regime].data]:
        if images >= trial.recipe.batch_size:
            assert initial_share(trial.recipe, images) < 0.01, (trial.recipe.ema_decay, images)


def test_a_moving_average_that_a_user_sets_is_not_scaled() -> None:
    plan = Plan(name="s", question="?", regime="micro", steps=("ema",), epochs=2, set=("recipe.ema_decay=0.5",))
    assert {t.recipe.ema_decay for t in expand(plan).trials} == {0.5}


def test_full_length_keeps_the_papers_decay() -> None:
    assert [REGIMES[r].recipes["modern"] for r in ("resnet50", "resnet200")] == ["convnext-300ep"] * 2
    plan = Plan(name="s", question="?", regime="resnet50", steps=("ema",), data="digits")
    assert [t.recipe.ema_decay for t in expand(plan).trials] == [0.9999]


def test_a_warmed_up_average_forgets_the_initial_weights_in_a_real_run() -> None:
    trial = make_trial(ema_decay=0.9, ema_warmup=True)
    trainer = Trainer(trial, Pipeline.open(trial), Ranks(), Runtime())
    assert trainer.ema is not None
    stream = iter(trainer.pipeline.stream(trainer.pipeline.sampler()))
    trainer.step(stream)
    pairs = zip(trainer.ema.module.parameters(), trainer.model.parameters(), strict=True)
    assert all(torch.equal(average, weight) for average, weight in pairs), "after one update it is the network"
    for _ in range(3):
        trainer.step(stream)
    assert trainer.ema.get_decay(trainer.iteration) == pytest.approx(1 - 4 ** (-2 / 3))
