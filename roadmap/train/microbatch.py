"""Several groups in one forward pass, each with what it would have had alone.

Statistics of BatchNorm are each group's own ("ghost" batch normalization), and stochastic depth draws
for each group from that group's seed, so that a larger micro-batch changes the rounding and nothing
else. Images of a forward pass: (k * n, C, H, W), group after group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from roadmap.config.errors import RoadmapError
from roadmap.train.batchnorm import batch_norms
from roadmap.train.criterion import seed_group


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over each of `groups` groups; running statistics move towards the mean of theirs."""

    groups: int
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        k, channels = self.groups, self.num_features
        # Groups become channels, (n, k * C, H, W): one kernel takes all statistics.
        beside = x.unflatten(0, (k, -1)).transpose(0, 1).flatten(1, 2)
        mean, var = self.running_mean.repeat(k), self.running_var.repeat(k)
        weight, bias = self.weight.repeat(k), self.bias.repeat(k)
        y = F.batch_norm(beside, mean, var, weight, bias, training=True, momentum=self.momentum, eps=self.eps)
        self.running_mean.copy_(mean.view(k, channels).mean(0))
        self.running_var.copy_(var.view(k, channels).mean(0))
        self.num_batches_tracked.add_(k)
        return y.unflatten(1, (k, channels)).transpose(0, 1).flatten(0, 1)


class DrawnDropPath(DropPath):
    """Stochastic depth whose draws are made before the forward pass: 1 where a branch of an image stays."""

    stays: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        stays = self.stays.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        return x * (stays / (1 - self.drop_prob))


def take_groups(model: nn.Module, groups: int) -> None:
    """Make a network take so many groups in a forward pass. Raises RoadmapError where one of its layers cannot.

    Modules stay the same objects, with their parameters, names and hooks; only what they compute in training changes.
    """
    strange = {type(m).__name__ for m in batch_norms(model) if type(m) is not nn.BatchNorm2d}
    strange |= {type(m).__name__ for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0}
    if strange:
        raise RoadmapError(
            f"--micro-batch of {groups} groups with {', '.join(sorted(strange))}; legal: BatchNorm2d and stochastic "
            "depth, which can be told apart by group; leave --micro-batch out"
        )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = GroupedBatchNorm2d
            cast(GroupedBatchNorm2d, module).groups = groups
        elif isinstance(module, DropPath) and module.drop_prob:
            module.__class__ = DrawnDropPath


def draw(model: nn.Module, keys: Sequence[tuple[int, int, int]], size: int, device: torch.device) -> None:
    """Draw stochastic depth for a forward pass of several groups of `size` images, as each alone would draw.

    keys: of each group (seed, iteration, group).
    """
    layers = [m for m in model.modules() if isinstance(m, DrawnDropPath)]
    drawn = []
    for key in keys:
        seed_group(*key, device)
        drawn.append([torch.empty(size, device=device).bernoulli_(1 - layer.drop_prob) for layer in layers])
    for layer, parts in zip(layers, zip(*drawn, strict=True), strict=True):
        layer.stays = torch.cat(parts)
