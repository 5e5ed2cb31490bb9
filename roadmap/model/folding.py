"""LayerScale multiplied into the weights before it, for networks that leave the project.

gamma (W x + b) and (gamma W) x + gamma b are equal but for their rounding, so nothing that is evaluated
here is folded (docs/decisions.md has the difference).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from roadmap.model.block import Block

if TYPE_CHECKING:
    from roadmap.model.network import ModernizableResNet


def fold_layer_scale(model: ModernizableResNet) -> ModernizableResNet:
    """A copy of the network without LayerScale that computes the same, for evaluation."""
    folded = copy.deepcopy(model)
    for block in folded.modules():
        if isinstance(block, Block):
            _fold(block)
    return folded


@torch.no_grad()
def _fold(block: Block) -> None:
    """Scale what the branch ends with: the norm after the second 1x1, or that 1x1 where there is none."""
    if block.gamma is None:
        return
    last = block.mlp.fc2 if isinstance(block.mlp.norm2, torch.nn.Identity) else block.mlp.norm2
    weight, bias = last.get_parameter("weight"), last.bias
    weight.mul_(block.gamma.reshape(-1, *[1] * (weight.ndim - 1)))
    if isinstance(bias, torch.Tensor):
        bias.mul_(block.gamma)
    block.gamma = None
