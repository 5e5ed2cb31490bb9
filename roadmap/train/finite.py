"""Whether what training made is finite: gradients in each iteration, weights before each save."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def gradient_norm(parameters: Sequence[nn.Parameter], limit: float | None) -> Tensor:
    """The norm of all gradients together, on their device, before they are clipped to `limit`.

    It is not finite if any of them is not.
    """
    norm = get_total_norm([g for p in parameters if (g := p.grad) is not None])
    if limit is not None:
        clip_grads_with_norm_(parameters, limit, norm)
    return norm


def names_not_finite(states: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Names, `state.tensor`, of the tensors that hold a NaN or an infinity. Waits for the device."""
    named = {f"{part}.{name}": t for part, state in states.items() for name, t in state.items()}
    floating = {name: t for name, t in named.items() if t.is_floating_point()}
    if math.isfinite(get_total_norm(floating.values()).item()):  # one look; a norm may overflow where no number does
        return []
    return [name for name, t in floating.items() if not torch.isfinite(t).all()]
