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
