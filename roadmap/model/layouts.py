"""Public weight layouts: how each source names the tensors of our network."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_TORCHVISION_RESNET = (
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    (r"^layer(\d)\.(\d+)\.conv1\.", r"stages.\1.blocks.\2.mlp.fc1."),
    (r"^layer(\d)\.(\d+)\.bn1\.", r"stages.\1.blocks.\2.mlp.norm1."),
    (r"^layer(\d)\.(\d+)\.conv2\.", r"stages.\1.blocks.\2.conv_dw."),
    (r"^layer(\d)\.(\d+)\.bn2\.", r"stages.\1.blocks.\2.norm."),
    (r"^layer(\d)\.(\d+)\.conv3\.", r"stages.\1.blocks.\2.mlp.fc2."),
    (r"^layer(\d)\.(\d+)\.bn3\.", r"stages.\1.blocks.\2.mlp.norm2."),
    (r"^layer(\d)\.(\d+)\.downsample\.", r"stages.\1.blocks.\2.shortcut."),
    (r"^fc\.", "head.fc."),
)


def from_torchvision_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision ResNet-50/101/152 state dict under our names; 1x1 convolutions of a block become matrices."""
    ours = {}
    for name, tensor in state.items():
        for pattern, replacement in _TORCHVISION_RESNET:
            if re.match(pattern, name):
                name = re.sub(pattern, replacement, name)
                break
        name = re.sub(r"^stages\.(\d)", lambda m: f"stages.{int(m.group(1)) - 1}", name)  # theirs count from layer1
        ours[name] = tensor.flatten(1) if re.search(r"mlp\.fc\d\.weight$", name) else tensor
    return ours
