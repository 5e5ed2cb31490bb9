"""Gradient checkpointing: the backward pass computes a block's activations again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from roadmap.config.errors import RoadmapError


def checkpointed(blocks: nn.Sequential, x: Tensor) -> Tensor:
    """`blocks(x)`, keeping only what stands between the blocks.

    BatchNorm's running statistics are updated once, as without it.
    """
    for block in blocks:
        norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
        contexts: dict[str, Any] = {"context_fn": partial(_contexts, norms)} if norms else {}
        x = checkpoint(block, x, use_reentrant=False, **contexts)
    return x


def _contexts(norms: list[_BatchNorm]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first and the second forward pass of a block."""
    return contextlib.nullcontext(), _statistics_kept(norms)


@contextlib.contextmanager
def _statistics_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    """Keep running statistics, and their count, during the second forward pass of a block."""
    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.enter_context(_statistics_of_norm_kept(norm))
        yield


@contextlib.contextmanager
def _statistics_of_norm_kept(norm: _BatchNorm) -> Iterator[None]:
    """With a momentum of 0 the running statistics stay; the count is put back."""
    momentum, tracked = norm.momentum, norm.num_batches_tracked
    count = None if tracked is None else tracked.clone()
    try:
        norm.momentum = 0.0
        yield
    finally:
        norm.momentum = momentum
        if tracked is not None and count is not None:
            tracked.copy_(count)


def checkpoint_blocks(model: Any, *, compiled: bool) -> None:
    """Turn gradient checkpointing on, in our networks and in timm's. Raises RoadmapError.

    timm's recompute a block with its BatchNorm, whose running statistics would move twice. Ours keep
    them in a way that a compiler does not follow.
    """
    from roadmap.model.network import ModernizableResNet

    has_batch_norm = any(isinstance(m, _BatchNorm) for m in model.modules())
    own = isinstance(model, ModernizableResNet)
    if has_batch_norm and (compiled or not own):
        where = "a compiled network with BatchNorm" if own else "a timm network with BatchNorm"
        raise RoadmapError(
            f"gradient checkpointing is on for {where}; legal: without BatchNorm"
            f"{', or without --compile' if own else ''}; its running statistics would move twice: "
            "leave --gradient-checkpointing out"
        )
    model.set_grad_checkpointing(True)
