"""Loss of a forward pass, and mixing of its images: timm's mixup and CutMix from a derived seed.

What is drawn is a table of numbers beside the images; what is computed from it reads no number back,
so that it can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor

from roadmap.config.recipe import Recipe
from roadmap.config.seeds import GROUP, derive

UNMIXED = (1.0, 0.0, 1.0, 0.0, 0, 0, 0, 0)


class Criterion:
    """Mixes groups of images and gives the loss of a forward pass.

    Mixing is drawn from (seed, iteration, mixing group), wherever the group runs.
    """

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        self.smoothing, self.num_classes = recipe.label_smoothing, num_classes
        self.mix = None
        if recipe.mixup > 0 or recipe.cutmix > 0:
            self.mix = Mixup(recipe.mixup, recipe.cutmix, prob=recipe.mix_prob, switch_prob=recipe.mix_switch_prob)

    def draw(self, seeds: Sequence[int], shape: Sequence[int]) -> Tensor | None:
        """(mixing groups, 8) on the CPU, one group for each seed, or None where the recipe mixes nothing.

        Of each group: the weights of an image's pixels and of its partner's, those of their targets, and
        the partner's box: top, bottom, left, right. shape: of the images, (N, C, H, W). Seeds NumPy,
        which timm's Mixup draws from.
        """
        if self.mix is None:
            return None
        return torch.tensor([self._draw(self.mix, seed, shape) for seed in seeds], dtype=torch.float32)

    def _draw(self, mix: Mixup, seed: int, shape: Sequence[int]) -> tuple[float, ...]:
        np.random.seed(seed & 0xFFFFFFFF)
        share, cuts = mix._params_per_batch()  # timm's draws in timm's order
        if share == 1.0:
            return UNMIXED
        if not cuts:
            return (share, 1 - share, share, 1 - share, 0, 0, 0, 0)
        box, share = cutmix_bbox_and_lam(shape, share)
        return (1.0, 0.0, share, 1 - share, *box)

    def prepare(self, images: Tensor, labels: Tensor, mixing: Tensor | None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W), (N,) -> images mixed by what was drawn, labels (N,), or soft targets (N, classes).

        In a group the first image's partner is the last, and so on.
        """
        if mixing is None:
            return images, labels
        keep, take, keep_target, take_target, top, bottom, left, right = mixing.unbind(1)
        groups = images.unflatten(0, (len(mixing), -1))
        partners = groups.flip(1)
        rows = torch.arange(images.shape[2], device=images.device)[:, None]
        columns = torch.arange(images.shape[3], device=images.device)
        inside_rows = (rows >= _pixels(top)) & (rows < _pixels(bottom))
        inside = inside_rows & (columns >= _pixels(left)) & (columns < _pixels(right))
        mixed = (groups * _pixels(keep)).add_(partners * _pixels(take))
        targets = self._soft(labels).unflatten(0, (len(mixing), -1))
        soft = targets * keep_target[:, None, None] + targets.flip(1) * take_target[:, None, None]
        return torch.where(inside, partners, mixed).flatten(0, 1), soft.flatten(0, 1)

    def _soft(self, labels: Tensor) -> Tensor:
        """(N,) -> (N, classes): smoothed one-hot targets, as timm mixes them."""
        off = self.smoothing / self.num_classes
        targets = torch.full((len(labels), self.num_classes), off, device=labels.device)
        return targets.scatter_(1, labels[:, None], 1 - self.smoothing + off)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of a forward pass, in float32; soft targets carry their own smoothing."""
        smoothing = self.smoothing if targets.dim() == 1 else 0.0
        return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def _pixels(of_groups: Tensor) -> Tensor:
    """(groups,) -> (groups, 1, 1, 1, 1), beside images (groups, N, C, H, W)."""
    return of_groups[:, None, None, None, None]


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
