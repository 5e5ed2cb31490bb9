"""Loss of a forward pass, and mixing of its images: timm's mixup and CutMix from a derived seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor

from roadmap.config.recipe import Recipe
from roadmap.config.seeds import GROUP, derive


class Criterion:
    """Mixes groups of images and gives the loss of a forward pass.

    Mixing is drawn from (seed, iteration, mixing group), wherever the group runs.
    """

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

    def prepare(self, images: Tensor, labels: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(N, C, H, W), (N,) -> images mixed in place; labels (N,), or soft targets (N, classes).

        As many mixing groups as there are seeds. Seeds NumPy, which timm's Mixup draws from.
        """
        if self.mix is None:
            return images, labels
        targets = []
        for seed, some, theirs in zip(seeds, images.chunk(len(seeds)), labels.chunk(len(seeds)), strict=True):
            np.random.seed(seed & 0xFFFFFFFF)
            targets.append(self.mix(some, theirs)[1])
        return images, torch.cat(targets)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of a forward pass, in float32; soft targets carry their own smoothing."""
        smoothing = self.smoothing if targets.dim() == 1 else 0.0
        return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def seed_group(seed: int, iteration: int, group: int, device: torch.device) -> int:
    """Seed the device's generator for one forward pass and return the derived seed.

    Stochastic depth draws from that generator.
    """
    derived = derive(seed, GROUP, iteration, group)
    if device.type == "cuda":
        torch.cuda.manual_seed(derived)
    else:
        torch.default_generator.manual_seed(derived)
    return derived
