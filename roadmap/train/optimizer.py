"""Optimizer and learning-rate schedule of a recipe, through timm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from roadmap.config.errors import RoadmapError
from roadmap.config.recipe import Recipe
from roadmap.model.layer_decay import LAYERS
from roadmap.model.network import ModernizableResNet


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Fused SGD with (not Nesterov) momentum, or fused AdamW.

    1-D parameters get no weight decay unless the recipe says so.
    """
    by_hand = recipe.layer_decay is not None and recipe.layer_decay_type != "timm"
    return create_optimizer_v2(
        model,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        filter_bias_and_bn=not recipe.decay_1d,
        layer_decay=recipe.layer_decay,
        param_group_fn=partial(_groups_by_layer, recipe=recipe) if by_hand else None,
        fused=True,
        **_arguments_of_kind(recipe),
    )


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD momentum of zero, which makes its first update what it is without.

    Fused SGD allocates momentum at the first update, and leaves it unset where loss scaling skips that one.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for p in group["params"]:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


class DeviceRates:
    """The learning rates of an optimizer as tensors of its device, written before each update.

    A fused optimizer reads them there, so that an update which is captured in a CUDA graph follows the
    schedule. Fused kernels read float32 on a GPU, and float64 on a CPU, as they do a number.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self.rates: list[Tensor] = [torch.zeros((), dtype=dtype, device=device) for _ in optimizer.param_groups]

    def write(self) -> None:
        """Take over what the schedule has set. Nothing waits for the device."""
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Have the optimizer read them; afterwards it has its numbers again, which are what is saved and shown."""
        kept = [dict(group) for group in self.optimizer.param_groups]
        capturing = self.rates[0].is_cuda and torch.cuda.is_current_stream_capturing()
        try:
            for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
                group["lr"] = rate
                if "capturable" in group:
                    group["capturable"] = capturing
            yield
        finally:
            for group, before in zip(self.optimizer.param_groups, kept, strict=True):
                group.update(before)


def _groups_by_layer(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups whose learning rates fall from the head down, layer by layer as the network counts them.

    Raises RoadmapError for a network that has no stages to count.
    """
    if not isinstance(model, ModernizableResNet):
        raise RoadmapError(
            f"Recipe.layer_decay_type is {recipe.layer_decay_type!r} with {type(model).__name__}; legal: networks of "
            "this project, timm's have layers of their own; set recipe.layer_decay_type=timm"
        )
    layer_of, layers = LAYERS[recipe.layer_decay_type](model.spec.depths)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    spared = model.no_weight_decay()
    for name, parameter in model.named_parameters():
        decayed = recipe.decay_1d or (parameter.ndim > 1 and name not in spared)
        layer = layer_of(name)
        group = groups.setdefault(
            (layer, decayed),
            {
                "params": [],
                "lr_scale": (recipe.layer_decay or 1.0) ** (layers - layer),
                "weight_decay": recipe.weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _arguments_of_kind(recipe: Recipe) -> dict[str, Any]:
    """timm's name of the optimizer, and the arguments that only it has."""
    if recipe.optimizer == "sgd":
        return {"opt": "momentum", "momentum": recipe.momentum}
    return {"opt": "adamw", "betas": (recipe.beta1, recipe.beta2)}


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, iterations_per_epoch: int) -> Scheduler:
    """Learning rate by iteration alone: linear warm-up from 0, then cosine to min_lr, or steps."""
    warmup = round(recipe.warmup_epochs * iterations_per_epoch)
    if recipe.schedule == "step":
        return StepLRScheduler(
            optimizer,
            decay_t=round(recipe.decay_epochs * iterations_per_epoch),
            decay_rate=recipe.decay_rate,
            warmup_t=warmup,
            warmup_lr_init=0,
            t_in_epochs=False,
        )
    return CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs * iterations_per_epoch - warmup,
        lr_min=recipe.min_lr,
        warmup_t=warmup,
        warmup_lr_init=0,
        warmup_prefix=True,
        t_in_epochs=False,
    )
