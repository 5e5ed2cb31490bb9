"""The head: (N, C, h, w) -> (N, num_classes).

Pooling, the norm that ends the network, the classifier.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import NormMlpClassifierHead
from torch import nn

from roadmap.config.model import ModelSpec
from roadmap.model.layers import NORMS


def build_head(spec: ModelSpec, *, global_pool: str = "avg", drop_rate: float = 0.0) -> NormMlpClassifierHead:
    """timm's head for the last of spec.stage_channels.

    Without striding blocks a norm follows the pooling.
    """
    norm: Any = nn.Identity if spec.downsampling == "block" else NORMS[spec.norm]
    return NormMlpClassifierHead(
        spec.stage_channels[-1],
        spec.num_classes,
        pool_type=global_pool,
        drop_rate=drop_rate,
        norm_layer=_without_factory(norm),
    )


def _without_factory(norm: Any) -> Any:
    """A norm that ignores what timm's head passes beside the channels: device and dtype."""
    return lambda channels, **_: norm(channels)


def scale_classifier(fc: nn.Module, factor: float) -> None:
    """Multiply the classifier's initial weights and biases; there are none without classes."""
    if factor != 1:
        with torch.no_grad():
            for p in fc.parameters():
                p.mul_(factor)
