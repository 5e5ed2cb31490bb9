"""Part `iteration`: a whole training iteration over the bare forward and backward of the same network.

Images are random, (N, 3, 224, 224); nothing is loaded, so only the engine is measured. What an
iteration does is compared with one that is written out in torch and timm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV2
from torch import Tensor, nn

from roadmap.bench.model import IMAGE_SIZE, apart
from roadmap.bench.pairs import Act, Check, Finding, interleaved
from roadmap.config.data import IMAGENET_CLASSES
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.registry import NAMED
from roadmap.ladder.convnext import CONVNEXT, convnext_spec
from roadmap.train.distributed import Ranks
from roadmap.train.loop import Trainer

METHOD = (
    "ConvNeXt-T with the 300-epoch recipe and EMA on random images, wall time: a training iteration over the forward "
    "and backward of the same network. Beside it, an iteration as it is usually written: AdamW as it comes, timm's "
    "ModelEmaV2, the loss read each time."
)
LAST, EMA = "separate-downsampling", 0.9999
BATCH = {"cpu": 8, "cuda": 128}
COMPARED = 2  # iterations after which weights are compared
CHANGES = 2e-2  # of the norm of what they changed: AdamW makes a whole step of a gradient that is nearly 0
NO_DRAWS: Mapping[str, Any] = {"mixup": 0.0, "cutmix": 0.0, "warmup_epochs": 0}


@dataclass(frozen=True)
class _Sampler:
    iterations_per_epoch: int = 1_000_000


@dataclass(frozen=True)
class _NoImages:
    """Stands where a Pipeline would: the trainer under test is fed by hand."""

    validation_indices: tuple[int, ...] = ()

    def sampler(self, **_: Any) -> _Sampler:
        return _Sampler()


def trainer(step: str, device: str, batch: int, *, settings: Mapping[str, Any] | None = None, **recipe: Any) -> Trainer:
    """A trainer of a step in the ResNet-50 regime: one group a batch, all else the recipe's; settings: toggles."""
    chosen = replace(
        find_recipe(CONVNEXT.recipe_name(step, "resnet50")), **{"batch_size": batch, "group_size": batch, **recipe}
    )
    model = convnext_spec(step, **(settings or {}))
    trial = Trial(model=model, recipe=chosen, data=NAMED["imagenet"], seed=0, regime="resnet50", step=step)
    ranks = Ranks.start(device)
    made = Trainer(trial, _NoImages(), ranks, Runtime(device=device))  # type: ignore[arg-type]
    made.model.train()
    return made


def batches(device: torch.device, batch: int, pixels: int = IMAGE_SIZE) -> Iterator[tuple[Tensor, Tensor]]:
    """The same random batch for ever; a copy each time, as mixup works in place."""
    images = torch.randn(batch, 3, pixels, pixels, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(IMAGENET_CLASSES, (batch,), device=device)
    while True:
        yield images.clone(), labels


def iteration(device: str, pairs: int, *, batch: int | None = None, pixels: int = IMAGE_SIZE) -> Iterator[Finding]:
    """Time a training iteration with EMA; compare what it does first."""
    batch = batch or BATCH[device]
    yield from same_updates(device, batch, pixels)
    ours = trainer(LAST, device, batch, ema_decay=EMA)
    stream = batches(ours.ranks.device, batch, pixels)
    images, labels = next(stream)
    bare = ("forward + backward", forward_backward(ours, images))
    name = f"ConvNeXt-T, batch {batch}"
    whole = ("iteration with AdamW and EMA", partial(ours.step, stream))
    yield interleaved("iteration", name, whole, bare, pairs=pairs)
    usual = ("iteration as usually written", as_usually_written(deepcopy(ours.model), ours.recipe, images, labels)[0])
    yield interleaved("usual", name, usual, bare, pairs=pairs, warmup=1)


def forward_backward(ours: Trainer, images: Tensor) -> Act:
    def act() -> None:
        with ours.autocast:
            loss = ours.model(images).float().logsumexp(1).mean()
        loss.backward()
        ours.optimizer.zero_grad(set_to_none=True)

    return act


def as_usually_written(
    model: nn.Module, recipe: Recipe, images: Tensor, labels: Tensor
) -> tuple[Callable[[], None], ModelEmaV2]:
    """An iteration in torch and timm alone, without mixing, and its moving average."""
    groups = param_groups_weight_decay(model, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), foreach=False)
    ema = ModelEmaV2(model, decay=recipe.ema_decay)

    def act() -> None:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=images.device.type == "cuda"):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
        loss.item()

    return act, ema


def same_updates(device: str, batch: int, pixels: int = IMAGE_SIZE) -> Iterator[Check]:
    """How far the changes by a few iterations are from those as usually written, without draws at random."""
    draws = {**NO_DRAWS, "ema_decay": 0.5}  # a short average, which moves by more than rounding
    ours = trainer(LAST, device, batch, settings={"drop_path_rate": 0.0}, **draws)
    theirs, before = deepcopy(ours.model), [p.detach().clone() for p in ours.model.parameters()]
    stream = batches(ours.ranks.device, batch, pixels)
    act, average = as_usually_written(theirs, ours.recipe, *next(stream))
    for _ in range(COMPARED):
        ours.step(stream)
        act()
    assert ours.ema is not None
    for name, a, b in (("weights", ours.model, theirs), ("their average", ours.ema.module, average.module)):
        found, expected = _changes(a, before), _changes(b, before)
        yield Check(name=f"{name}: what {COMPARED} iterations changed", apart=apart(found, expected), allowed=CHANGES)


def _changes(model: nn.Module, before: list[Tensor]) -> Tensor:
    return torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
