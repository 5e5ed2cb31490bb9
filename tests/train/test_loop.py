"""The loop against a plain one written here, over ranks and accumulation, and where a loss is not finite."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import nn

from roadmap.config.errors import RoadmapError
from roadmap.config.runtime import Runtime
from roadmap.config.seeds import GROUP, INIT, derive
from roadmap.config.trial import Trial
from roadmap.data.pipeline import Pipeline
from roadmap.model.network import ModernizableResNet
from roadmap.train.batchnorm import group_momentum
from roadmap.train.cadence import Cadence, StopSignal
from roadmap.train.checkpoints import CheckpointWriter
from roadmap.train.distributed import Ranks
from roadmap.train.loop import Diverged, Trainer
from roadmap.train.optimizer import make_optimizer, make_schedule
from tests.helpers.convnext import ladder
from tests.helpers.small_runs import make_run, make_trial, on_ranks, train

BATCHNORM_STEP, LAYERNORM_STEP = "inverted-bottleneck", "separate-downsampling"
TWENTY = {"epochs": 3, "batch_size": 128, "group_size": 64, "random_erasing": 0.25, "ema_decay": None}


def twenty_losses(trial: Trial, ranks: Ranks | None = None) -> list[float]:
    """The trainer's losses of 20 iterations."""
    trainer = Trainer(trial, Pipeline.open(trial), ranks or Ranks(), Runtime(channels_last=False))
    sampler = trainer.pipeline.sampler(rank=trainer.ranks.rank, world_size=trainer.ranks.world_size)
    stream, found = iter(trainer.pipeline.stream(sampler)), []
    for _ in range(20):
        trainer.step(stream)
        found.append(float(trainer._all_losses()[(trainer.iteration - 1) % trainer.per_epoch]))
        if trainer.iteration % trainer.per_epoch == 0:
            trainer.losses.zero_()
    return found


def plain_losses(trial: Trial) -> list[float]:
    """The losses of the same training written as anyone would: gradients of the groups added up, no trainer.

    AdamW is torch's fused kernel: the other rounds differently, which tiny gradients under Adam amplify.
    """
    recipe = trial.recipe
    torch.manual_seed(derive(trial.seed, INIT))
    model = ModernizableResNet(trial.model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.lr,
        fused=True,
    )
    pipeline = Pipeline.open(trial)
    batches = iter(pipeline.stream(pipeline.sampler()))
    per_epoch = pipeline.sampler().iterations_per_epoch
    warmup, total = round(recipe.warmup_epochs * per_epoch), recipe.epochs * per_epoch
    mix = Mixup(
        recipe.mixup,
        recipe.cutmix,
        prob=recipe.mix_prob,
        switch_prob=recipe.mix_switch_prob,
        label_smoothing=recipe.label_smoothing,
        num_classes=10,
    )
    found = []
    for i in range(20):
        lr = recipe.lr * i / warmup
        if i >= warmup:
            cosine = (1 + math.cos(math.pi * (i - warmup) / (total - warmup))) / 2
            lr = recipe.min_lr + (recipe.lr - recipe.min_lr) * cosine
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        losses = []
        for g in range(recipe.groups):
            images, labels = next(batches)
            np.random.seed(derive(trial.seed, GROUP, i, g) & 0xFFFFFFFF)
            torch.manual_seed(derive(trial.seed, GROUP, i, g))
            images, targets = mix(images, labels)
            loss = F.cross_entropy(model(images), targets)
            (loss / recipe.groups).backward()
            losses.append(loss.item())
        optimizer.step()
        found.append(sum(losses) / len(losses))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("step", [BATCHNORM_STEP, pytest.param(LAYERNORM_STEP, marks=pytest.mark.slow)])
def test_accumulation_over_two_groups_gives_the_losses_of_a_plain_loop(step: str) -> None:
    trial = make_trial(step, **TWENTY)
    np.testing.assert_allclose(twenty_losses(trial), plain_losses(trial), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("step", [BATCHNORM_STEP, LAYERNORM_STEP])
def test_two_ranks_give_the_losses_of_one_process(step: str, tmp_path: Path) -> None:
    trial = make_trial(step, **TWENTY)

    def work() -> None:
        ranks = Ranks.start("cpu")
        (tmp_path / f"{ranks.rank}.json").write_text(json.dumps(twenty_losses(trial, ranks)))

    on_ranks(2, work)
    both = [json.loads((tmp_path / f"{r}.json").read_text()) for r in range(2)]
    assert both[0] == both[1]
    np.testing.assert_allclose(both[0], twenty_losses(trial), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_negative_control_another_seed_gives_other_losses() -> None:
    first, second = (np.array(twenty_losses(make_trial(LAYERNORM_STEP, seed, **TWENTY))) for seed in (0, 1))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.slow
def test_a_run_on_two_ranks_is_the_run_of_one_process_in_accuracy_and_batchnorm_statistics(tmp_path: Path) -> None:
    trial = make_trial(BATCHNORM_STEP, epochs=2)
    alone, together = make_run(tmp_path / "one", trial), make_run(tmp_path / "two", trial)
    record = train(alone)
    on_ranks(2, lambda: train(together) and None)
    other = together.record()
    assert other is not None
    assert (other.status, other.world_size, other.test_images) == ("finished", 2, 500)
    assert other.metrics["loss"] == pytest.approx(record.metrics["loss"], abs=1e-3)
    assert other.metrics["top1"] == pytest.approx(record.metrics["top1"], abs=0.5)
    from roadmap.train.checkpoints import CheckpointStore

    for part in ("model", "ema"):
        one, two = (CheckpointStore(f.checkpoints).load(trial.fingerprint)[part] for f in (alone, together))  # type: ignore[index]
        statistics = [name for name in one if "running" in name]
        assert statistics
        for name in statistics:
            torch.testing.assert_close(two[name], one[name], rtol=1e-2, atol=1e-3)


def test_a_stop_signal_after_a_loss_that_is_not_finite_does_not_hide_it() -> None:
    trial = make_trial(LAYERNORM_STEP, **TWENTY)
    trainer = Trainer(trial, Pipeline.open(trial), Ranks(), Runtime())
    trainer.bad.fill_(1)
    with pytest.raises(Diverged, match="is not finite in iteration 0"):
        trainer._save_or_leave(Cadence(Ranks(), Runtime(), StopSignal("SIGTERM"), CheckpointWriter(None)), None)  # type: ignore[arg-type]


def test_a_run_does_not_go_on_in_another_number_format(tmp_path: Path) -> None:
    trial = make_trial(epochs=1, warmup_epochs=0)
    trainer = Trainer(trial, Pipeline.open(trial), Ranks(), Runtime())
    state = {**trainer.state(), "precision": "bf16"}
    with pytest.raises(RoadmapError, match="was made in bf16, this device would go on in fp32; legal: the same"):
        trainer.restore(state)


@pytest.mark.parametrize("groups", [1, 2, 5, 32])
def test_every_group_of_an_iteration_weighs_the_same_in_the_running_statistics(groups: int) -> None:
    running, seen = 3.0, np.random.RandomState(0).rand(groups)
    expected = 0.9 * running + 0.1 * seen.mean()
    for g, value in enumerate(seen):
        m = group_momentum(g, groups)
        running = (1 - m) * running + m * value
    assert running == pytest.approx(expected, abs=1e-12)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("recipe", [{}, {"optimizer": "sgd", "lr": 0.1}])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(
    value: float, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[list[torch.Tensor]] = []
    plain = Trainer.group_loss

    def group_loss(self: Trainer, images: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
        if self.iteration == 6:
            weights.append([p.detach().clone() for p in self.model.parameters()])
            weights.append(list(self.model.parameters()))
            images = images * value
        return plain(self, images, labels, k)

    monkeypatch.setattr(Trainer, "group_loss", group_loss)
    folder = make_run(tmp_path, make_trial(**recipe))
    record = train(folder)
    assert record.status == "diverged"
    assert record.error.startswith("loss is not finite in iteration 6 or before; the weights before it are kept")
    assert record.metrics.get("top1") is None
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))


def test_the_learning_rate_warms_up_from_zero_and_follows_the_cosine_to_its_minimum() -> None:
    recipe = make_trial(epochs=20, warmup_epochs=2.0, min_lr=1e-6).recipe
    parameter = nn.Linear(2, 2)
    optimizer = make_optimizer(parameter, recipe)
    schedule = make_schedule(optimizer, recipe, iterations_per_epoch=10)
    rates = []
    for i in range(200):
        schedule.step_update(i)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == 0
    assert rates[10] == pytest.approx(recipe.lr / 2)
    assert max(rates) == rates[20] == pytest.approx(recipe.lr)
    assert rates[110] == pytest.approx((recipe.lr + 1e-6) / 2, rel=1e-6)
    assert 1e-6 <= rates[-1] < 1e-5


def test_the_step_schedule_divides_the_rate_by_ten_at_each_third() -> None:
    from dataclasses import replace

    from roadmap.config.recipes import find_recipe

    recipe = replace(find_recipe("pytorch-90ep"), epochs=90)
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    schedule = make_schedule(optimizer, recipe, iterations_per_epoch=2)
    rates = []
    for i in range(180):
        schedule.step_update(i)
        rates.append(round(optimizer.param_groups[0]["lr"], 9))
    assert rates == [0.1] * 60 + [0.01] * 60 + [0.001] * 60


@pytest.mark.parametrize("step", ladder(), ids=lambda s: s.name)
def test_one_dimensional_parameters_get_no_weight_decay(step: Any) -> None:
    trial = make_trial(step.name, settings={"depths": (1, 1, 1, 1)})
    model = ModernizableResNet(trial.model)
    optimizer = make_optimizer(model, trial.recipe)
    decay = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(model.parameters()))
    for p in model.parameters():
        assert decay[p] == (0 if p.ndim <= 1 else trial.recipe.weight_decay)
    assert all(g["fused"] for g in optimizer.param_groups)


def test_the_original_recipe_decays_every_parameter() -> None:
    from roadmap.config.recipes import find_recipe

    optimizer = make_optimizer(ModernizableResNet(make_trial("baseline").model), find_recipe("pytorch-90ep"))
    assert {g["weight_decay"] for g in optimizer.param_groups} == {1e-4}
    assert not any(g.get("nesterov") for g in optimizer.param_groups)


def test_no_weights_move_at_learning_rate_zero_but_all_do_after() -> None:
    trial = make_trial(LAYERNORM_STEP, **TWENTY)
    trainer = Trainer(trial, Pipeline.open(trial), Ranks(), Runtime())
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    stream = iter(trainer.pipeline.stream(trainer.pipeline.sampler()))
    trainer.step(stream)
    assert all(torch.equal(before[n], p) for n, p in trainer.model.named_parameters())
    trainer.step(stream)
    assert not any(torch.equal(before[n], p) for n, p in trainer.model.named_parameters())
