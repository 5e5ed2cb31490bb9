"""Optimizer and learning-rate schedule of a recipe, through timm."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from roadmap.config.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Fused SGD with (not Nesterov) momentum, or fused AdamW.

    1-D parameters get no weight decay unless the recipe says so.
    """
    return create_optimizer_v2(
        model,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        filter_bias_and_bn=not recipe.decay_1d,
        layer_decay=recipe.layer_decay,
        fused=True,
        **_arguments_of_kind(recipe),
    )


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
