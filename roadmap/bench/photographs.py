"""Folders of JPEG files that cost about what photographs do, made anew wherever a benchmark runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 2


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """count images of width x height in `train`, a few in `test`, as JPEG of this quality with 4:2:0 chroma.

    ramps: images whose red and green say where a pixel was, in place of scenes.
    """

    count: int
    width: int
    height: int
    quality: int
    ramps: bool = False

    def write(self, root: Path) -> Path:
        """Write train/CLASS/*.jpg and test/CLASS/*.jpg; returns `root`."""
        rng = np.random.default_rng(0)
        for split, count in (("train", self.count), ("test", CLASSES)):
            for label in range(CLASSES):
                (root / split / f"class-{label}").mkdir(parents=True)
            for k in range(count):
                path = root / split / f"class-{k % CLASSES}" / f"{k:05d}.jpg"
                image = ramp(self.width, self.height) if self.ramps else scene(rng, self.width, self.height)
                image.save(path, quality=self.quality, subsampling=2)
        return root


def scene(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Blobs of all sizes, each half as large half as strong: the spectrum of photographs falls like that."""
    pixels, size, strength = np.full((height, width, 3), 127.5), max(width, height), 60.0
    while size >= 2:
        cells = (max(2, -(-height // size) + 1), max(2, -(-width // size) + 1), 3)
        coarse = Image.fromarray(rng.integers(0, 256, cells, dtype=np.uint8))
        blobs = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
        pixels += strength * (blobs / 127.5 - 1)
        size, strength = size // 2, strength / 2
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def ramp(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom: what is cut out of it tells from where."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 128)], -1).astype(np.uint8))
