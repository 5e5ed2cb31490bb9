"""BatchNorm over groups: running statistics do not depend on which rank or pass saw a group.

One iteration moves the running statistics towards the *mean* of its groups' statistics, r <- (1-m)
r + m mean(s_g). On one device the groups come one after the other, so group j of k gets the
momentum that makes the sequence add up to that; between ranks the rule is linear, so averaging the
ranks' statistics when they are needed equals averaging always. It is done at the end of each epoch,
whether or not anything is evaluated or saved there; a checkpoint within an epoch holds each rank's
own, so that no bit depends on when it was written.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from roadmap.train.distributed import Ranks

MOMENTUM = 0.1  # PyTorch's default, which every network of the ladder keeps


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def group_momentum(group: int, groups: int) -> float:
    """Momentum of the group-th of `groups` forward passes (from 0) so that all weigh the same."""
    share = MOMENTUM / groups
    return share / (1 - (groups - 1 - group) * share)


def set_momentum(norms: list[_BatchNorm], group: int, groups: int) -> None:
    if groups > 1:
        for norm in norms:
            norm.momentum = group_momentum(group, groups)


def average_statistics(norms: list[_BatchNorm], ranks: Ranks) -> None:
    """Give every rank the mean of all ranks' running statistics. Collective."""
    if ranks.world_size > 1 and norms:
        _set(norms, ranks.sum(_flat(norms)) / ranks.world_size)


def gather_statistics(norms: list[_BatchNorm], ranks: Ranks) -> Tensor | None:
    """Each rank's own running statistics as (ranks, values); None where there is but one. Collective."""
    if ranks.world_size == 1 or not norms:
        return None
    own = _flat(norms)
    table = own.new_zeros(ranks.world_size, len(own))
    table[ranks.rank] = own
    return ranks.sum(table)


def restore_statistics(norms: list[_BatchNorm], ranks: Ranks, table: Tensor) -> None:
    """Put back what `gather_statistics` found; among another number of ranks, the mean."""
    _set(norms, table[ranks.rank] if len(table) == ranks.world_size else table.mean(dim=0))


def _buffers(norms: list[_BatchNorm]) -> list[Tensor]:
    return [b for n in norms for b in (n.running_mean, n.running_var) if b is not None]


def _flat(norms: list[_BatchNorm]) -> Tensor:
    return torch.cat([b.flatten() for b in _buffers(norms)])


def _set(norms: list[_BatchNorm], flat: Tensor) -> None:
    buffers = _buffers(norms)
    for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
