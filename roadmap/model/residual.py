"""The number format of the residual stream: of what the blocks of a network add to and hand on.

Under autocast it would follow from the architecture: a float32 LayerScale makes the sum float32,
without one it stays in autocast's format. Here it is declared once for a network, so that a toggle
changes no number format. Without autocast nothing is converted.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Residual = Literal["fp32", "compute"]
RESIDUAL: Residual = "fp32"  # of a network that is told nothing else


def autocasts(device: str) -> bool:
    """Whether autocast is on; never on a device that has none, such as meta."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def to_stream(x: Tensor, residual: Residual) -> Tensor:
    """x of any shape in the residual stream's format; itself where it has it, or without autocast."""
    device = x.device.type
    if not autocasts(device):
        return x
    return x.to(torch.float32 if residual == "fp32" else torch.get_autocast_dtype(device))
