"""Images in memory as uint8: what a data set has there already, and what is decoded into it once.

Loader workers are forked after that and share the pages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from roadmap.config.data import Data
from roadmap.data.encoded import EncodedImages

HELD_BYTES = 2 << 30  # a split that takes more as pixels is decoded at each use
ROOM = 4  # a device with less than this multiple of the pixels free leaves them in the host's memory
ESTIMATED_FROM = 16  # images
AT_A_TIME = 256  # images that threads have decoded or are to decode
Labels = Sequence[int] | np.ndarray
Prepare = Callable[[Image.Image], Image.Image]


class Split(Protocol):
    """A sequence of labelled images."""

    @property
    def labels(self) -> Labels: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image: ...


@dataclass(frozen=True)
class ArrayImages:
    """uint8 pixels (N, H, W) or (N, H, W, C) in memory."""

    pixels: np.ndarray
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def resized(self, size: int, interpolation: str) -> ArrayImages:
        """The same images at size x size, by PIL as the transforms would."""
        if self.pixels.shape[1:3] == (size, size):
            return self
        how = Image.Resampling[interpolation.upper()]
        images = [np.asarray(self.image(i).resize((size, size), how)) for i in range(len(self))]
        return ArrayImages(np.stack(images), self.labels)


@dataclass(frozen=True)
class HeldImages:
    """Images of any size: their uint8 pixels in a row, and the shape of each, (H, W) or (H, W, C)."""

    pixels: np.ndarray
    shapes: np.ndarray
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        pixels = self.pixels[self._bounds[index] : self._bounds[index + 1]]
        return Image.fromarray(pixels.reshape(self.shapes[index]))

    @cached_property
    def _bounds(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1))])


def in_a_row(
    images: Iterable[np.ndarray], *, limit: int, expected: float = 1 << 20
) -> tuple[np.ndarray, np.ndarray] | None:
    """The pixels of all images one after another, and their shapes; None where they take more than `limit` bytes."""
    pixels, shapes, end = np.empty(min(limit, int(expected)), dtype=np.uint8), [], 0
    for image in images:
        start, end = end, end + image.size
        if end > limit:
            return None
        if end > len(pixels):
            pixels.resize(min(limit, end + end // 4), refcheck=False)
        pixels[start:end] = image.reshape(-1)
        shapes.append(image.shape)
    pixels.resize(end, refcheck=False)
    return pixels, np.array(shapes)


def decode_all(split: Split, data: Data, prepare: Prepare | None) -> ArrayImages | HeldImages | None:
    """The split's images in memory, each as `prepare` makes it; None where they take more than 2 GiB."""
    if isinstance(split, ArrayImages) or (isinstance(split, HeldImages) and prepare is None):
        return split
    number = f"{len(split)} training images"
    estimate = _estimated_bytes(split, prepare)
    packed = None
    if estimate <= HELD_BYTES:
        packed = in_a_row(_decoded(split, prepare), limit=HELD_BYTES, expected=estimate)
    if packed is None:
        _say(data, f"{number} are decoded at each use: all take more than {HELD_BYTES / 2**30:.3g} GiB")
        return None
    pixels, shapes = packed
    if (shapes != shapes[0]).any():
        _say(data, f"{number} of several sizes are decoded into memory")
        return HeldImages(pixels, shapes, split.labels)
    _say(data, f"{number} are decoded into memory")
    return ArrayImages(pixels.reshape(len(split), *shapes[0]), split.labels)


def _pixels(split: Split, index: int, prepare: Prepare | None) -> np.ndarray:
    image = split.image(index)
    return np.asarray(prepare(image) if prepare else image)


def _estimated_bytes(split: Split, prepare: Prepare | None) -> float:
    chosen = np.linspace(0, len(split) - 1, min(ESTIMATED_FROM, len(split))).astype(int).tolist()
    return len(split) * float(np.mean([_pixels(split, i, prepare).size for i in chosen]))


def _decoded(split: Split, prepare: Prepare | None) -> Iterator[np.ndarray]:
    """In order, a few at a time; by one thread what is a library's, whose files may have one position for all."""
    threads = len(os.sched_getaffinity(0)) if isinstance(split, EncodedImages) else 1
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(split), AT_A_TIME):
            part = range(first, min(first + AT_A_TIME, len(split)))
            yield from pool.map(lambda index: _pixels(split, index, prepare), part)


def _say(data: Data, text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"data {data.name!r}: {text}", file=sys.stderr)


def has_room(device: torch.device, size: int) -> bool:
    """Whether a device has memory for so many bytes to stay there; a CPU always has, since they are there."""
    return device.type != "cuda" or torch.cuda.mem_get_info(device)[0] > ROOM * size
