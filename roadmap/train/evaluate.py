"""Accuracy and loss on a split, every image counted once whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadmap.train.distributed import Ranks
from roadmap.train.metrics import Scores


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    ranks: Ranks,
    *,
    autocast: torch.autocast,
    memory_format: torch.memory_format,
) -> Scores:
    """The network's scores over all ranks' batches.

    Collective; the sums stay on the device until the end.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)
    for images, labels in batches:
        images = images.to(ranks.device, non_blocking=True, memory_format=memory_format)
        labels = labels.to(ranks.device, non_blocking=True)
        with autocast:
            logits = model(images).float()
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([hits[:, 0].sum(), hits.sum(), loss, loss.new_tensor(len(labels))]).double()
    model.train(was_training)
    top1, top5, loss_sum, count = ranks.sum(sums).tolist()
    return Scores(top1=100 * top1 / count, top5=100 * top5 / count, loss=loss_sum / count, images=int(count))
