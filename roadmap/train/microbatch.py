"""Several groups in one forward pass, each with what it would have had alone.

Statistics of BatchNorm are each group's own ("ghost" batch normalization), and stochastic depth draws
for each group from that group's seed, so that a larger micro-batch changes the rounding and nothing
else. Images of a forward pass: (k * n, C, H, W), group after group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadmap.config.errors import RoadmapError
from roadmap.model.layers import DropPath
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
        y = F.batch_norm(beside, mean, var, weight, bias, True, self.momentum, self.eps)
        if not self.momentum:  # a pass that is computed again leaves no trace: a mean of k equals may round
            return y.unflatten(1, (k, channels)).transpose(0, 1).flatten(0, 1)
        with torch.no_grad():
            self.running_mean.copy_(mean.view(k, channels).mean(0))
            self.running_var.copy_(var.view(k, channels).mean(0))
            self.num_batches_tracked.add_(k)
        return y.unflatten(1, (k, channels)).transpose(0, 1).flatten(0, 1)


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
            module.groups = groups  # type: ignore[assignment]


def drop_paths(model: nn.Module) -> list[DropPath]:
    """The layers of stochastic depth that drop anything, in the order in which they draw."""
    return [m for m in model.modules() if isinstance(m, DropPath) and m.drop_prob > 0]


def draw_masks(
    layers: Sequence[DropPath], keys: Sequence[tuple[int, int, int]], size: int, device: torch.device
) -> Tensor:
    """(layers, images): stochastic depth of groups of `size` images, as each group alone would draw it.

    keys: of each group (seed, iteration, group).
    """
    drawn = [_masks_of_group(layers, key, size, device) for key in keys]
    return torch.cat(drawn, dim=1)


def _masks_of_group(layers: Sequence[DropPath], key: tuple[int, int, int], size: int, device: torch.device) -> Tensor:
    seed_group(*key, device)
    masks = [layer.draw(size, device) for layer in layers]
    return torch.stack(masks) if masks else torch.empty(0, size, device=device)


def set_masks(layers: Sequence[DropPath], masks: Tensor) -> None:
    """Give the layers what was drawn for them before a forward pass.

    A compiler may draw in another way or order, and a CUDA graph from one seed alone; what is given
    to them they cannot.
    """
    for layer, mask in zip(layers, masks.unbind(), strict=True):
        layer.mask = mask
