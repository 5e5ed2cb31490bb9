"""Gradient checkpointing as a setting of the machine: it changes no bit of a run, or is refused."""

from __future__ import annotations

from torch import nn

from roadmap.config.errors import RoadmapError
from roadmap.model.network import ModernizableResNet
from roadmap.train.batchnorm import batch_norms


def checkpoint_blocks(model: nn.Module, *, compiled: bool) -> None:
    """Turn gradient checkpointing on, in our networks and in timm's. Raises RoadmapError.

    timm's recompute a block with its BatchNorm, whose running statistics would move twice. Ours keep
    them in a way that a compiler does not follow.
    """
    has_batch_norm = bool(batch_norms(model))
    own = isinstance(model, ModernizableResNet)
    if has_batch_norm and (compiled or not own):
        where = "a compiled network with BatchNorm" if own else "a timm network with BatchNorm"
        raise RoadmapError(
            f"gradient checkpointing is on for {where}, whose running statistics would move twice; "
            f"legal: without BatchNorm{', or without --compile' if own else ''}; leave --gradient-checkpointing out"
        )
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]  # every network of timm has it
    except AssertionError as e:
        raise RoadmapError(
            f"gradient checkpointing is on for {type(model).__name__}, where timm has none; "
            "legal: networks that have it; leave --gradient-checkpointing out"
        ) from e
