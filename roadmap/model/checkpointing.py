"""Gradient checkpointing: a block's activations are computed again in the backward pass instead of being kept."""

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
    """`blocks(x)`, keeping only what stands between the blocks. BatchNorm's running statistics are updated once, as without it."""
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
    """For the second forward pass of a block: batch statistics are used, running ones keep their values (a momentum of 0), as does their count."""
    before = [(m, m.momentum, None if m.num_batches_tracked is None else m.num_batches_tracked.clone()) for m in norms]
    try:
        for m in norms:
            m.momentum = 0.0
        yield
    finally:
        for m, momentum, count in before:
            m.momentum = momentum
            if count is not None and m.num_batches_tracked is not None:
                m.num_batches_tracked.copy_(count)
