"""The training stream of `pipeline: tensor`: pixels decoded once, augmented in batches where the network is.

A sample's draws come from (seed, epoch, index), as with `pipeline: pil`, so how many are augmented at
a time changes none of them: the stream is the same for any number of ranks and after any resume.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from roadmap.config.data import Data
from roadmap.config.recipe import Recipe
from roadmap.config.seeds import SAMPLE, derive
from roadmap.config.trial import Trial
from roadmap.data.batched_augmentation import Augmentation, Keys, RandAugment
from roadmap.data.readers import ArrayImages, Split
from roadmap.data.views import HELD_BYTES

CHUNK_PIXELS = 2 << 20  # augmented at a time: 2,048 images of 32 x 32. With fewer, a core spends its time on calls
ROOM = 4  # a device with less than this multiple of the pixels free leaves them in the host's memory

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
        pixels = pixels.to(self.device) if _has_room(self.device, pixels.nbytes) else pixels
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


def _has_room(device: torch.device, size: int) -> bool:
    return device.type != "cuda" or torch.cuda.mem_get_info(device)[0] > ROOM * size


def decode_all(split: Split, data: Data, prepare: Callable[[Image.Image], Image.Image]) -> ArrayImages | None:
    """The split's images in memory, each as `prepare` makes it.

    None where they are of several sizes or take more than 2 GiB: then they are read as they are needed.
    """
    if isinstance(split, ArrayImages):
        return split
    first = prepare(split.image(0))
    shape = np.asarray(first).shape
    size = len(split) * int(np.prod(shape))
    if size > HELD_BYTES:
        _say(data, f"{len(split)} training images are decoded by threads: all would take {size / 2**30:.1f} GiB")
        return None
    _say(data, f"{len(split)} training images are decoded into memory")
    pixels = np.empty((len(split), *shape), dtype=np.uint8)

    def fits(index: int) -> bool:
        image = prepare(split.image(index))
        if image.size != first.size:
            return False
        pixels[index] = image
        return True

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        whole = all(pool.map(fits, range(len(split))))
    if not whole:
        _say(data, f"{len(split)} training images are decoded by threads: they are of several sizes")
    return ArrayImages(pixels, split.labels) if whole else None


def _say(data: Data, text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"data {data.name!r}: {text}", file=sys.stderr)
