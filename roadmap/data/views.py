"""Images as evaluation sees them: decoded once where they fit in memory, else by lasting workers.

A pass over a split gives each image once, as batches (N, C, H, W) float32 and labels (N,) int64 on
the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from roadmap.data.batch import Batch, Chain, Finish, PixelBatch, Sample, collate
from roadmap.data.held import Split, has_room
from roadmap.data.loader import Stream, end_workers, open_loader


class Views(Dataset[Sample]):
    """Images as evaluation sees them, by position in `indices`."""

    def __init__(self, split: Split, indices: np.ndarray, transform: Any) -> None:
        self.split, self.indices, self.chain = split, indices, Chain(transform)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample:
        index = int(self.indices[position])
        return self.chain.sample(self.split.image(index), int(self.split.labels[index]))


class Passes(Protocol):
    """What can be gone through again and again, a pass an evaluation. Raises DataError."""

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """End what it keeps running."""


@dataclass(frozen=True)
class HeldViews:
    """Pixels (N, H, W, C) uint8 in memory, on the device where it has room, that are normalized as they are used."""

    pixels: Tensor
    labels: Tensor
    finish: Finish
    chunks: Sequence[range]

    def __iter__(self) -> Iterator[Batch]:
        parts = (slice(chunk.start, chunk.stop) for chunk in self.chunks)
        return iter(Stream((PixelBatch(self.pixels[part], self.labels[part]) for part in parts), self.finish.batches))

    def close(self) -> None:
        """Keeps nothing running."""


@dataclass(frozen=True)
class LoadedViews:
    """Views that a loader decodes at each pass."""

    loader: DataLoader[Any]
    finish: Finish

    def __iter__(self) -> Iterator[Batch]:
        stream = Stream(self.loader, self.finish.batches)
        try:
            # Not `yield from`: a pass that is left would close the lasting workers.
            for batch in stream:  # noqa: UP028
                yield batch
        except Exception as e:
            stream.say_death(e)
            raise

    def close(self) -> None:
        """End the workers; another pass would start new ones."""
        end_workers(self.loader._iterator)
        self.loader._iterator = None


def open_views(views: Views, *, batch: int, held: bool, workers: int, device: torch.device) -> Passes:
    """Passes over the views, in batches of `batch`; `held`: decoded here and now, and kept."""
    chunks = [range(first, min(first + batch, len(views))) for first in range(0, len(views), batch)]
    finish, on_gpu = Finish.of(views.chain, device), device.type == "cuda"
    if not held or not chunks:
        lasting = workers > 0
        loader = open_loader(views, chunks, workers=workers, pin_memory=on_gpu, lasting=lasting, collate=collate)
        return LoadedViews(loader, finish)
    pixels, labels = _decoded(views, chunks, workers)
    if has_room(device, pixels.nbytes):
        pixels = pixels.to(device)
    elif on_gpu:
        pixels = pixels.pin_memory()
    return HeldViews(pixels, labels.to(device), finish, chunks)


def _decoded(views: Views, chunks: Sequence[range], workers: int) -> tuple[Tensor, Tensor]:
    """All pixels (N, H, W, C) and labels."""
    pixels = torch.empty((len(views), *views[0].pixels.shape), dtype=torch.uint8)
    labels = torch.empty(len(views), dtype=torch.int64)
    loader = open_loader(views, chunks, workers=workers, pin_memory=False, collate=collate)
    with contextlib.closing(Stream(loader)) as stream:
        drawn: Iterator[Any] = iter(stream)
        # Copied one by one: a worker's batch keeps a file open for as long as it is held.
        for chunk, batch in zip(chunks, drawn, strict=True):
            pixels[chunk.start : chunk.stop] = batch.pixels
            labels[chunk.start : chunk.stop] = batch.labels
    return pixels, labels
