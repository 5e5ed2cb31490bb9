"""Images as evaluation sees them: decoded once where they fit in memory, else by lasting workers.

A pass over a split gives each image once, as batches (N, C, H, W) float32 and labels (N,) int64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from roadmap.data.loader import Batch, Stream, end_workers, open_loader
from roadmap.data.readers import Split

HELD_BYTES = 2 << 30  # a split whose views take more is decoded anew at each pass


class Views(Dataset[tuple[Tensor, int]]):
    """Images as evaluation sees them, by position in `indices`."""

    def __init__(self, split: Split, indices: np.ndarray, transform: Any) -> None:
        self.split, self.indices, self.transform = split, indices, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        index = int(self.indices[position])
        return self.transform(self.split.image(index)), int(self.split.labels[index])


class Passes(Protocol):
    """What can be gone through again and again, a pass an evaluation. Raises DataError."""

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """End what it keeps running."""


@dataclass(frozen=True)
class HeldViews:
    """Pixels in memory, uint8 (N, C, H, W), that are normalized as they are used.

    The arithmetic is that of torchvision's ToTensor and `normalize`, so values are equal to the bit
    to those of one image after another.
    """

    pixels: Tensor
    labels: Tensor
    normalize: Callable[[Tensor], Tensor]
    chunks: Sequence[range]
    pin_memory: bool = False

    def __iter__(self) -> Iterator[Batch]:
        for chunk in self.chunks:
            images = self.normalize(self.pixels[chunk.start : chunk.stop].to(torch.float32).div(255))
            labels = self.labels[chunk.start : chunk.stop]
            yield (images.pin_memory(), labels.pin_memory()) if self.pin_memory else (images, labels)

    def close(self) -> None:
        """Keeps nothing running."""


@dataclass(frozen=True)
class LoadedViews:
    """Views that a loader decodes at each pass."""

    loader: DataLoader[Any]

    def __iter__(self) -> Iterator[Batch]:
        stream = Stream(self.loader)
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


def open_views(views: Views, *, batch: int, held: bool, workers: int, pin_memory: bool) -> Passes:
    """Passes over the views, in batches of `batch`; `held`: decoded here and now, and kept."""
    chunks = [range(first, min(first + batch, len(views))) for first in range(0, len(views), batch)]
    if not held or not chunks:
        return LoadedViews(open_loader(views, chunks, workers=workers, pin_memory=pin_memory, lasting=workers > 0))
    to_pixels, normalize = pixels_and_normalization(views.transform)
    plain = Views(views.split, views.indices, to_pixels)
    pixels = torch.empty((len(plain), *plain[0][0].shape), dtype=torch.uint8)
    labels = torch.empty(len(plain), dtype=torch.int64)
    with contextlib.closing(Stream(open_loader(plain, chunks, workers=workers, pin_memory=False))) as stream:
        # Copied one by one: a worker's batch keeps a file open for as long as it is held.
        for chunk, (chunk_pixels, chunk_labels) in zip(chunks, stream, strict=True):
            pixels[chunk.start : chunk.stop] = chunk_pixels
            labels[chunk.start : chunk.stop] = chunk_labels
    return HeldViews(pixels, labels, normalize, chunks, pin_memory)


def pixels_and_normalization(transform: transforms.Compose) -> tuple[Any, Any]:
    """timm's chain in two: PIL -> uint8 (C, H, W), and what comes after the conversion to 0..1."""
    steps = transform.transforms
    at = next(k for k, step in enumerate(steps) if isinstance(step, transforms.ToTensor))
    return transforms.Compose([*steps[:at], transforms.PILToTensor()]), transforms.Compose(steps[at + 1 :])
