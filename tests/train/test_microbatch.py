"""Groups of mixing and of BatchNorm apart, and several groups in one forward pass as if they came one by one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from roadmap.config.errors import ConfigError, RoadmapError
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.pipeline import Pipeline
from roadmap.train.batchnorm import batch_norms, set_momentum
from roadmap.train.criterion import seed_group
from roadmap.train.distributed import Ranks
from roadmap.train.loop import Trainer
from roadmap.train.microbatch import draw_masks, drop_paths, set_masks, take_groups
from roadmap.train.updates import Group, initial_network
from tests.helpers.small_runs import make_run, make_trial, on_ranks, train

CPU = torch.device("cpu")
BATCHNORM_STEP = "inverted-bottleneck"


def trainer_of(trial: Trial, *, micro_batch: int | None = None) -> Trainer:
    return Trainer(trial, Pipeline.open(trial), Ranks(), Runtime(channels_last=False, micro_batch=micro_batch))


def groups_of(trial: Trial) -> list[Group]:
    """One iteration's groups."""
    trainer = trainer_of(trial)
    stream = iter(trainer.pipeline.stream(trainer.pipeline.sampler()))
    return list(trainer._groups(trainer._loads(stream)))


def joined(groups: list[Group]) -> tuple[Tensor, Tensor]:
    return torch.cat([g.images for g in groups]), torch.cat([g.targets for g in groups])


# Mixing ---------------------------------------------------------------------------------------------------------------


def test_the_size_of_a_batchnorm_group_does_not_change_what_is_mixed() -> None:
    whole = groups_of(make_trial(batch_size=128, group_size=64))
    for size in (128, 32, 4):
        groups = groups_of(make_trial(batch_size=128, group_size=size, mix_group_size=64))
        assert [len(g.images) for g in groups] == [size] * (128 // size)
        assert all(map(torch.equal, joined(groups), joined(whole)))
    coupled = joined(groups_of(make_trial(batch_size=128, group_size=32)))
    assert not torch.equal(coupled[0], joined(whole)[0]), "without a size of its own mixing follows the group"


def test_the_norm_batch_study_mixes_the_same_images_at_every_group_size() -> None:
    import yaml

    from roadmap.study.file import EXPERIMENTS

    content = yaml.safe_load((EXPERIMENTS / "norm-batch.yaml").read_text())
    assert content["set"] == ["recipe.mix_group_size=128"]
    modern = find_recipe("convnext-300ep")
    sizes = content["cross"]["recipe.group_size"]
    recipes = [replace(modern, group_size=size, mix_group_size=128) for size in sizes]
    assert {r.mix_group for r in recipes} == {modern.mix_group}
    assert find_recipe("digits-adamw").mixup == find_recipe("digits-adamw").cutmix == 0, "nothing to couple there"


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        (
            {"mix_group_size": 48},
            "Recipe.mix_group_size is 48 with group_size 64 and batch_size 128; legal: a multiple",
        ),
        ({"mix_group_size": 256}, "Recipe.mix_group_size is 256 with group_size 64 and batch_size 128; legal: "),
        ({"mix_group_size": 1}, "Recipe.mix_group_size is 1 with mixup or cutmix on; legal: even sizes"),
    ],
)
def test_groups_that_do_not_fit_each_other_are_refused(sizes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as e:
        make_trial(batch_size=128, group_size=64, **sizes)
    assert str(e.value).startswith(text)


def test_ranks_take_whole_groups_of_both_kinds() -> None:
    recipe = replace(find_recipe("convnext-300ep"), group_size=4, mix_group_size=128)
    assert (recipe.groups, recipe.loads, recipe.loads_per_rank(8)) == (1024, 32, 4)
    with pytest.raises(ConfigError, match="32 groups of 128, which 64 ranks do not divide"):
        recipe.loads_per_rank(64)


# Several groups in one forward pass -----------------------------------------------------------------------------------


def network(step: str) -> nn.Module:
    return initial_network(make_trial(step, settings={"drop_path_rate": 0.3})).double().train()


def one_by_one(model: nn.Module, images: Tensor, groups: int) -> Tensor:
    """The logits of the groups, each forwarded alone with its own seed."""
    norms, logits = batch_norms(model), []
    for k, part in enumerate(images.chunk(groups)):
        seed_group(3, 0, k, CPU)
        set_momentum(norms, k, groups)
        logits.append(model(part))
    return torch.cat(logits)


def at_once(model: nn.Module, images: Tensor, groups: int, passes: int) -> Tensor:
    """The same groups in so many forward passes."""
    each, size = groups // passes, len(images) // groups
    take_groups(model, each)
    norms, logits = batch_norms(model), []
    for k, part in enumerate(images.chunk(passes)):
        layers = drop_paths(model)
        set_masks(layers, draw_masks(layers, [(3, 0, k * each + i) for i in range(each)], size, CPU))
        set_momentum(norms, k, passes)
        logits.append(model(part))
    return torch.cat(logits)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("step", ["baseline", BATCHNORM_STEP, "separate-downsampling"])
def test_groups_forwarded_together_are_as_if_each_came_alone(step: str, passes: int) -> None:
    separate, together = (network(step) for _ in range(2))
    images = torch.randn(24, 1, 16, 16, dtype=torch.float64)
    weight = torch.randn(24, 10, dtype=torch.float64)
    a, b = one_by_one(separate, images, 4), at_once(together, images, 4, passes)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    of = dict(separate.named_parameters())
    for name, parameter in together.named_parameters():
        torch.testing.assert_close(parameter.grad, of[name].grad, rtol=1e-11, atol=1e-12, msg=name)
    state = separate.state_dict()
    for name, value in together.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-12, atol=1e-12, msg=name)
    torch.testing.assert_close(together.eval()(images), separate.eval()(images), rtol=0, atol=1e-12)


def test_negative_control_statistics_over_all_groups_differ() -> None:
    model = network("baseline")
    images = torch.randn(24, 1, 16, 16, dtype=torch.float64)
    other = copy.deepcopy(model)
    assert (one_by_one(model, images, 4) - one_by_one(other, images, 1)).abs().max() > 1e-3


def losses(trial: Trial, iterations: int = 4, *, micro_batch: int | None = None) -> list[float]:
    trainer = trainer_of(trial, micro_batch=micro_batch)
    stream = iter(trainer.pipeline.stream(trainer.pipeline.sampler()))
    for _ in range(iterations):
        trainer.step(stream)
    return trainer.losses[:iterations].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [64, pytest.param(128, marks=pytest.mark.slow)])
def test_a_larger_micro_batch_trains_to_the_same_losses(micro_batch: int) -> None:
    trial = make_trial(BATCHNORM_STEP, batch_size=128, group_size=16, mix_group_size=64)
    forwards = []

    def count(*_: object) -> None:
        forwards.append(1)

    expected = losses(trial)
    trainer = trainer_of(trial, micro_batch=micro_batch)
    trainer.model.register_forward_hook(count)
    trainer.step(iter(trainer.pipeline.stream(trainer.pipeline.sampler())))
    assert len(forwards) == 128 // micro_batch
    np.testing.assert_allclose(losses(trial, micro_batch=micro_batch), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("micro_batch", "legal"), [(24, "whole groups"), (96, "whole groups")])
def test_a_micro_batch_of_part_groups_is_refused(micro_batch: int, legal: str) -> None:
    with pytest.raises(ConfigError, match=f"--micro-batch is {micro_batch} with groups of 16 and 128 images.*{legal}"):
        trainer_of(make_trial(batch_size=128, group_size=16), micro_batch=micro_batch)


def test_layers_that_cannot_tell_groups_apart_are_refused() -> None:
    with pytest.raises(RoadmapError, match="--micro-batch of 2 groups with BatchNorm1d, Dropout; legal: "):
        take_groups(nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)), 2)


@pytest.mark.slow
def test_a_record_tells_the_images_of_a_forward_pass(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(epochs=1, warmup_epochs=0, batch_size=128, group_size=64))
    train(folder, micro_batch=128)
    record = folder.record()
    assert record is not None
    assert (record.status, record.device_batch, record.group_size) == ("finished", 128, 64)
    [attempt] = [json.loads(line) for line in (folder.path / "attempts.jsonl").read_text().splitlines()]
    assert attempt["device_batch"] == 128


@pytest.mark.slow
def test_two_ranks_with_groups_inside_mixing_groups_give_the_losses_of_one_process(tmp_path: Path) -> None:
    trial = make_trial(BATCHNORM_STEP, batch_size=128, group_size=16, mix_group_size=64)

    def work() -> None:
        ranks = Ranks.start("cpu")
        trainer = Trainer(trial, Pipeline.open(trial), ranks, Runtime(channels_last=False))
        stream: Iterator[tuple[Tensor, Tensor]] = iter(
            trainer.pipeline.stream(trainer.pipeline.sampler(rank=ranks.rank, world_size=2))
        )
        for _ in range(4):
            trainer.step(stream)
        (tmp_path / f"{ranks.rank}.json").write_text(json.dumps(trainer._all_losses()[:4].tolist()))

    on_ranks(2, work)
    both = [json.loads((tmp_path / f"{r}.json").read_text()) for r in range(2)]
    assert both[0] == both[1]
    np.testing.assert_allclose(both[0], losses(trial), rtol=0, atol=1e-5)


def test_a_recipe_without_a_mixing_size_is_the_one_it_always_was() -> None:
    recipe: Recipe = find_recipe("convnext-300ep")
    assert (recipe.mix_group, recipe.load_size, recipe.loads) == (128, 128, 32)
