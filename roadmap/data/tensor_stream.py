"""The training stream of `pipeline: tensor`: pixels decoded once, augmented in batches where the network is.

A sample's draws come from (seed, epoch, index), as with `pipeline: pil`, so how many are augmented at
a time changes none of them: the stream is the same for any number of ranks and after any resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roadmap.config.data import Data
from roadmap.config.recipe import Recipe
from roadmap.config.seeds import SAMPLE, derive
from roadmap.config.trial import Trial
from roadmap.data.batched_augmentation import Augmentation, Keys, RandAugment
from roadmap.data.held import ArrayImages, has_room

CHUNK_PIXELS = 2 << 20  # augmented at a time: 2,048 images of 32 x 32. With fewer, a core spends its time on calls

SampleKey = tuple[int, int]


def batched_augmentation(recipe: Recipe, data: Data) -> Augmentation:
    """The recipe's crop, flip, policy, normalization and erasing for whole batches."""
    return Augmentation(
        size=data.image_size,
        mean=data.mean,
        std=data.std,
        crop=recipe.crop,
        padding=data.image_size // 8,
        kernel=recipe.interpolation,
        flip=recipe.hflip,
        policy=None if recipe.augmentation == "none" else RandAugment.parse(recipe.augmentation),
        erasing=recipe.random_erasing,
    )


@dataclass(frozen=True)
class TensorBatches:
    """One batch on `device` for each group of keys (epoch, position in `indices`).

    At least `least` images are augmented at a time.
    """

    trial: Trial
    images: ArrayImages
    indices: np.ndarray
    groups: Iterable[Sequence[SampleKey]]
    device: torch.device
    least: int = 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pixels = to_pixels(self.images)
        pixels = pixels.to(self.device) if has_room(self.device, pixels.nbytes) else pixels
        labels = torch.as_tensor(np.asarray(self.images.labels), device=self.device)
        augment = batched_augmentation(self.trial.recipe, self.trial.data)
        seed = derive(self.trial.seed, SAMPLE)
        for chunk in in_chunks(self.groups, max(self.least, images_at_a_time(self.images))):
            epoch, position = torch.tensor([key for group in chunk for key in group]).unbind(1)
            index = torch.from_numpy(self.indices)[position]
            batch = pixels.index_select(0, index.to(pixels.device)).to(self.device, non_blocking=True)
            sizes = [len(group) for group in chunk]
            images = augment(batch, Keys(seed, epoch, index)).split(sizes)
            yield from zip(images, labels[index.to(self.device)].split(sizes), strict=True)


def in_chunks(groups: Iterable[Sequence[SampleKey]], images: int) -> Iterator[list[Sequence[SampleKey]]]:
    """Groups in a row that together have at least so many images."""
    chunk: list[Sequence[SampleKey]] = []
    for group in groups:
        chunk.append(group)
        if sum(map(len, chunk)) >= images:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def images_at_a_time(images: ArrayImages) -> int:
    """Images that are augmented together, at least."""
    high, wide = images.pixels.shape[1:3]
    return int(CHUNK_PIXELS // (high * wide))


def to_pixels(images: ArrayImages) -> Tensor:
    """(N, C, H, W) uint8 in the host's memory."""
    pixels = torch.from_numpy(np.ascontiguousarray(images.pixels))
    return pixels.permute(0, 3, 1, 2).contiguous() if pixels.ndim == 4 else pixels[:, None]
