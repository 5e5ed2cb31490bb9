"""Accuracy and loss on a split, every image counted once whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadmap.runs.hits import Hits
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
    """The network's scores over all ranks' batches, with each image's hit in the order of the split.

    batches: this rank's, of images rank, rank + world_size, ... Collective; the sums stay on the
    device until the end.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)
    first: list[Tensor] = []  # of each batch, which images' top-1 is right
    for images, labels in batches:
        images = images.to(ranks.device, non_blocking=True, memory_format=memory_format)
        labels = labels.to(ranks.device, non_blocking=True)
        with autocast:
            logits = model(images).float()
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        first.append(hits[:, 0])
        sums += torch.stack([hits[:, 0].sum(), hits.sum(), loss, loss.new_tensor(len(labels))]).double()
    model.train(was_training)
    top1, top5, loss_sum, count = ranks.sum(sums).tolist()
    return Scores(
        top1=100 * top1 / count,
        top5=100 * top5 / count,
        loss=loss_sum / count,
        images=int(count),
        hits=_gathered(first, int(count), ranks),
    )


def _gathered(first: Sequence[Tensor], images: int, ranks: Ranks) -> Hits:
    """All ranks' hits, each image's at its place in the split. Collective."""
    whole = torch.zeros(images, dtype=torch.uint8, device=ranks.device)
    if first:  # a rank may have no image of a very small split
        whole[ranks.rank :: ranks.world_size] = torch.cat(list(first)).to(torch.uint8)
    return Hits.of(ranks.sum(whole).cpu().numpy())
