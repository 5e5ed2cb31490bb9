"""Optimizer, learning-rate schedule and loss of a recipe, through timm and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from roadmap.config.recipe import Recipe
from roadmap.config.seeds import GROUP, derive


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Fused SGD with (not Nesterov) momentum or fused AdamW; no weight decay on 1-D parameters unless the recipe says so."""
    kind: dict[str, Any] = (
        {"opt": "momentum", "momentum": recipe.momentum}
        if recipe.optimizer == "sgd"
        else {"opt": "adamw", "betas": (recipe.beta1, recipe.beta2)}
    )
    return create_optimizer_v2(
        model,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        filter_bias_and_bn=not recipe.decay_1d,
        layer_decay=recipe.layer_decay,
        fused=True,
        **kind,
    )


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, iterations_per_epoch: int) -> Scheduler:
    """Learning rate as a function of the iteration alone: linear warm-up from 0, then cosine to min_lr, or steps."""
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


class Criterion:
    """Mixes a group and gives its loss. Mixing is drawn from (seed, iteration, group), wherever the group runs."""

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        self.smoothing = recipe.label_smoothing
        self.mix = None
        if recipe.mixup > 0 or recipe.cutmix > 0:
            self.mix = Mixup(
                recipe.mixup,
                recipe.cutmix,
                prob=recipe.mix_prob,
                switch_prob=recipe.mix_switch_prob,
                mode="batch",
                label_smoothing=recipe.label_smoothing,
                num_classes=num_classes,
            )

    def prepare(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(N, C, H, W), (N,) -> images mixed in place, and labels (N,) or soft targets (N, classes). Seeds NumPy, which timm's Mixup draws from."""
        if self.mix is None:
            return images, labels
        np.random.seed(seed & 0xFFFFFFFF)
        return self.mix(images, labels)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of a group, in float32; soft targets carry their own smoothing."""
        smoothing = self.smoothing if targets.dim() == 1 else 0.0
        return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def seed_group(seed: int, iteration: int, group: int, device: torch.device) -> int:
    """Seed the device's generator for one forward pass (stochastic depth draws from it); returns the derived seed."""
    derived = derive(seed, GROUP, iteration, group)
    if device.type == "cuda":
        torch.cuda.manual_seed(derived)
    else:
        torch.default_generator.manual_seed(derived)
    return derived
