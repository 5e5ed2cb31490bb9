"""A folded network computes what it was folded from, but for its rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from roadmap.model.block import Block
from roadmap.model.folding import fold_layer_scale
from roadmap.model.network import ModernizableResNet
from tests.helpers.convnext import resolve

SMALL = {"num_classes": 10, "in_chans": 1, "depths": (1, 1, 1, 1), "layer_scale": 0.1}


@pytest.mark.parametrize("step", ["recipe", "layernorm", "separate-downsampling"])
def test_a_network_with_layer_scale_in_its_weights_computes_the_same(step: str) -> None:
    torch.manual_seed(0)
    model = ModernizableResNet(resolve(step, "micro", **SMALL)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    images = torch.randn(8, 1, 16, 16, dtype=torch.float64)
    model.train()(images)
    expected, folded = model.eval()(images), fold_layer_scale(model)
    assert all(block.gamma is None for block in folded.modules() if isinstance(block, Block))
    torch.testing.assert_close(folded(images), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(model(images), expected), "the network itself stays as it is"
