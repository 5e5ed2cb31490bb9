"""Loss of a forward pass, and mixing of its images: timm's mixup and CutMix from a derived seed."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor

from roadmap.config.recipe import Recipe
from roadmap.config.seeds import GROUP, derive


class Criterion:
    """Mixes a group and gives its loss.

    Mixing is drawn from (seed, iteration, group), wherever the group runs.
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

    def prepare(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(N, C, H, W), (N,) -> images mixed in place; labels (N,), or soft targets (N, classes).

        Seeds NumPy, which timm's Mixup draws from.
        """
        if self.mix is None:
            return images, labels
        np.random.seed(seed & 0xFFFFFFFF)
        return self.mix(images, labels)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of a group, in float32; soft targets carry their own smoothing."""
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
