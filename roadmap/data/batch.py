"""A batch on its way to the network: uint8 from the loader, float32 on the device.

timm's transforms are taken in three parts. A worker does what comes first, on PIL images. What is
erased it draws, right after the sample's other draws, and hands it over beside the pixels.
Normalization, and then erasing, are done on whole batches on the device. The arithmetic is that of
torchvision's ToTensor and `normalize`, on every device: values equal to the bit those of one image
after another.

Shapes: N images of H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms

from roadmap.config.errors import DataError

Batch = tuple[Tensor, Tensor]
PIECE = 1 << 17  # values that a CPU normalizes at a time, so that they stay in its cache from step to step


class Erased(NamedTuple):
    """The noise (C, h, w) that replaces a rectangle of a normalized image, and its upper left corner."""

    top: int
    left: int
    noise: Tensor


class Sample(NamedTuple):
    """An image (H, W, C) uint8 before it is normalized, and what is erased of it then."""

    pixels: np.ndarray
    label: int
    erased: Erased | None = None


class PixelBatch(NamedTuple):
    """Samples: pixels (N, H, W, C) uint8, labels (N,) int64, and of each erased rectangle its image and place.

    noise: of all rectangles in a row, float32.
    """

    pixels: Tensor
    labels: Tensor
    rectangles: Sequence[tuple[int, int, int, int, int]] = ()
    noise: Tensor | None = None


def collate(samples: Iterable[Sample], count: int) -> PixelBatch:
    """The samples, so many, as a batch; each is written into its place before the next one is made."""
    pixels, labels, rectangles, noise = np.empty(0, dtype=np.uint8), [], [], []
    for k, (image, label, erased) in enumerate(samples):
        if k == 0:
            pixels = np.empty((count, *image.shape), dtype=np.uint8)
        pixels[k] = image
        labels.append(label)
        if erased:
            rectangles.append((k, erased.top, erased.left, erased.noise.shape[1], erased.noise.shape[2]))
            noise.append(erased.noise.flatten())
    whole = torch.cat(noise) if noise else None
    return PixelBatch(torch.from_numpy(pixels), torch.tensor(labels), rectangles, whole)


class _Eraser:
    """Stands for an image before timm's RandomErasing, and notes what would be written into it."""

    dtype = torch.float32

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.erased: Erased | None = None

    def size(self) -> tuple[int, ...]:
        return self.shape

    def __setitem__(self, place: tuple[slice, slice, slice], noise: Tensor) -> None:
        _, rows, columns = place
        self.erased = Erased(rows.start, columns.start, noise)


class Chain:
    """timm's transforms in three: `draw` on PIL images, normalization by `mean` and `std` (C,), and erasing.

    Of what is drawn for more channels than the network has, those are taken that it has.
    """

    def __init__(self, transform: transforms.Compose) -> None:
        steps = transform.transforms
        at = next(k for k, step in enumerate(steps) if isinstance(step, transforms.ToTensor))
        normalize, *rest = steps[at + 1 :]
        self.draw = transforms.Compose(steps[:at])
        self.erasing = next((step for step in rest if isinstance(step, RandomErasing)), None)
        self.channels = 1 if any(isinstance(step, FirstChannel) for step in rest) else len(normalize.mean)
        self.mean, self.std = (
            torch.as_tensor(v, dtype=torch.float32)[: self.channels] for v in (normalize.mean, normalize.std)
        )

    def sample(self, image: Image.Image, label: int) -> Sample:
        """Draws from the generators as the whole chain would, in its order."""
        pixels = np.asarray(self.draw(image))
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        return Sample(pixels[..., : self.channels], label, self._draw_erased(pixels.shape))

    def _draw_erased(self, shape: tuple[int, ...]) -> Erased | None:
        if self.erasing is None:
            return None
        high, wide, channels = shape
        eraser = _Eraser((channels, high, wide))
        self.erasing(eraser)
        return eraser.erased and eraser.erased._replace(noise=eraser.erased.noise[: self.channels])


class FirstChannel:
    """One channel of a grey image that became RGB for timm's policies."""

    def __call__(self, x: Tensor) -> Tensor:
        return x[:1]


@dataclass(frozen=True)
class Finish:
    """What is left to do on the device: mean and std (C,) and `whole`, 255, are there."""

    mean: Tensor
    std: Tensor
    whole: Tensor  # no number: a GPU would multiply by its inverse, which is another value

    @classmethod
    def of(cls, chain: Chain, device: torch.device) -> Finish:
        return cls(chain.mean.to(device), chain.std.to(device), torch.tensor(255.0, device=device))

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def batches(self, loaded: Iterable[PixelBatch | DataError]) -> Iterator[Batch | DataError]:
        """Finish each batch; an error among them is left as it is."""
        if self.device.type == "cuda":
            yield from self._ahead(loaded)
            return
        for batch in loaded:
            yield batch if isinstance(batch, DataError) else self(batch)

    def _ahead(self, loaded: Iterable[PixelBatch | DataError]) -> Iterator[Batch | DataError]:
        """Copy and finish the next batch on a stream of its own while the network trains on this one.

        Its memory is taken only when all that was asked of the device before is done with what it may
        have held before, and it is used only when it is whole: no batch is waited for by the host.
        """
        side, ahead = torch.cuda.Stream(self.device), None
        for batch in loaded:
            main = torch.cuda.current_stream(self.device)
            main.wait_stream(side)  # for `ahead`, which is used from now on
            side.wait_stream(main)
            with torch.cuda.stream(side):
                following = batch if isinstance(batch, DataError) else self(batch)
            if ahead is not None:
                yield ahead
            ahead = following
        if ahead is not None:
            torch.cuda.current_stream(self.device).wait_stream(side)
            yield ahead

    def __call__(self, batch: PixelBatch) -> Batch:
        """(N, C, H, W) float32, in memory a pixel's channels beside each other, and (N,) labels, on the device."""
        labels = batch.labels.to(self.device, non_blocking=True)
        images = self._normalized(batch.pixels.to(self.device, non_blocking=True))
        count, high, wide, channels = images.shape
        # Of one channel both orders are one; kernels ask the strides, which are to be the usual ones.
        images = images.permute(0, 3, 1, 2) if channels > 1 else images.view(count, 1, high, wide)
        if batch.noise is not None:
            _erase(images, batch.rectangles, batch.noise.to(self.device, non_blocking=True))
        return images, labels

    def _normalized(self, pixels: Tensor) -> Tensor:
        count, high, wide, channels = pixels.shape
        mean, std = (v.expand(wide, channels).contiguous() for v in (self.mean, self.std))  # long rows to go along
        images = torch.empty(pixels.shape, dtype=torch.float32, device=self.device)
        step = count if self.device.type == "cuda" else max(1, PIECE // (high * wide * channels))
        for some, theirs in zip(images.split(step), pixels.split(step), strict=True):
            some.copy_(theirs).div_(self.whole).sub_(mean).div_(std)
        return images


def _erase(images: Tensor, rectangles: Sequence[tuple[int, int, int, int, int]], noise: Tensor) -> None:
    channels = images.shape[1]
    parts = noise.split([channels * high * wide for *_, high, wide in rectangles])
    for (k, top, left, high, wide), part in zip(rectangles, parts, strict=True):
        images[k, :, top : top + high, left : left + wide] = part.view(channels, high, wide)
