"""Batched augmentation beside timm's transforms on Pillow: how far apart in pixels, and how fast.

`python -m roadmap.bench.augmentation` measures both, writes results/bench/augmentation.json and the
tables of docs/augmentation.md. Times are seconds of one core's work, not of the clock, so that a
neighbour on the machine changes them little; the two take turns.
"""

from __future__ import annotations

import json
import platform
import random
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp
from torch import Tensor

from roadmap.bench.pairs import seconds_of_work
from roadmap.config.data import Data
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.data.batched_augmentation import GEOMETRY, KERNELS, OPERATIONS, Kernel, Keys, apply
from roadmap.data.pipeline import train_transform
from roadmap.data.registry import NAMED
from roadmap.data.tensor_stream import batched_augmentation

FILL = (124, 116, 104)
LEVELS = (*(float(k) for k in range(11)), 8.13, 8.62, 9.21, 9.77)  # every whole one, and some as a recipe draws them
RECORD, PAGE = Path("results/bench/augmentation.json"), Path("docs/augmentation.md")


def sample_images(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """(count, H, W, 3) uint8: by turns noise, a smooth image, one of low contrast and one flat colour."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8)
    for i in range(count):
        blobs = Image.fromarray(noise[i, :6, :6]).resize((width, height), Image.Resampling.BICUBIC)
        others = (
            noise[i],
            np.asarray(blobs),
            60 + np.asarray(blobs) // 3,
            np.broadcast_to(noise[i, 0, 0], noise[i].shape),
        )
        noise[i] = others[i % 4]
    return noise


# Parity ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Differences of pixels, 0 to 255, over images, levels and both signs; exact: the part of pixels with none."""

    operation: str
    kernel: str
    largest: int
    mean: float
    exact: float


def timm_operation(name: str, image: np.ndarray, level: float, sign: int, kernel: Kernel) -> np.ndarray:
    """One of timm's operations at a level and sign, not drawn."""
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling[kernel.upper()]}
    operation = AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)
    with mock.patch.object(random, "random", return_value=0.9 if sign < 0 else 0.1):  # above 0.5 it negates
        return np.asarray(operation(Image.fromarray(image)))


def batched_operation(name: str, images: np.ndarray, level: float, sign: int, kernel: Kernel) -> np.ndarray:
    """The same by `apply`, of (n, H, W, 3)."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    levels, signs = (torch.full((len(images),), float(x), dtype=torch.float64) for x in (level, sign))
    return apply(name, pixels, levels, signs, kernel, torch.tensor(FILL, dtype=torch.uint8)).permute(0, 2, 3, 1).numpy()


def parity(name: str, kernel: Kernel, images: np.ndarray, levels: Sequence[float] = LEVELS) -> Parity:
    """Compare one operation over the images, the levels and both signs."""
    found = []
    for level in levels:
        for sign in (1, -1):
            theirs = np.stack([timm_operation(name, image, level, sign, kernel) for image in images])
            ours = batched_operation(name, images, level, sign, kernel)
            found.append(np.abs(ours.astype(np.int16) - theirs))
    apart = np.stack(found)
    return Parity(
        operation=name,
        kernel=kernel if name in GEOMETRY else "",
        largest=int(apart.max()),
        mean=round(float(apart.mean()), 6),
        exact=round(float((apart == 0).mean()), 6),
    )


def parities() -> Iterator[Parity]:
    """Every operation, the geometric ones with both kernels, on 32 images of 32 x 32."""
    images = sample_images(32, 32, 32)
    for name in OPERATIONS:
        for kernel in KERNELS if name in GEOMETRY else KERNELS[:1]:
            yield parity(name, kernel, images)


# Speed ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Images per second of one core's work; ratio: the median of the pairs' ratios, low and high their range."""

    recipe: str
    image_size: int
    timm: float
    batched: float
    ratio: float
    low: float
    high: float
    pairs: int


def chains() -> Iterator[tuple[str, Recipe, Data]]:
    """The recipes that are timed."""
    modern, cifar = find_recipe("cifar-adamw"), NAMED["cifar10"]
    data = replace(cifar, image_size=32)
    yield "padded crop, flip", replace(modern, augmentation="none", random_erasing=0.0), data
    for kernel in KERNELS:
        policy = replace(modern, augmentation="rand-m9-mstd0.5-inc1", random_erasing=0.25, interpolation=kernel)
        yield f"padded crop, flip, RandAugment ({kernel}), erasing", policy, data
    resized = replace(modern, augmentation="rand-m9-mstd0.5-inc1", random_erasing=0.25, crop="resized")
    yield "resized crop, flip, RandAugment, erasing", resized, data


def speed(title: str, recipe: Recipe, data: Data, *, batch: int = 2048, share: int = 8, pairs: int = 9) -> Speed:
    """Time the recipe's two forms in turn; timm's transforms get one in `share` of the images."""
    images = sample_images(batch, data.image_size, data.image_size)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    keys = Keys(0, torch.zeros(batch, dtype=torch.int64), torch.arange(batch))
    augment, transform = batched_augmentation(recipe, data), train_transform(recipe, data)

    def one_by_one() -> Tensor:
        return torch.stack([transform(Image.fromarray(image)) for image in images[::share]])

    times = []
    for _ in range(pairs + 1):
        theirs = seconds_of_work(one_by_one) / len(images[::share])
        times.append((theirs, seconds_of_work(lambda: augment(pixels, keys)) / batch))
    ratios = [theirs / ours for theirs, ours in times[1:]]  # the first pair warms up
    theirs, ours = (statistics.median(side) for side in zip(*times[1:], strict=True))
    return Speed(
        recipe=title,
        image_size=data.image_size,
        timm=round(1 / theirs),
        batched=round(1 / ours),
        ratio=round(statistics.median(ratios), 2),
        low=round(min(ratios), 2),
        high=round(max(ratios), 2),
        pairs=pairs,
    )


# The page -------------------------------------------------------------------------------------------------------------


def parity_table(rows: Sequence[dict[str, object]]) -> str:
    """Markdown of `Parity` rows as the record holds them."""
    lines = ["| operation | kernel | largest difference | mean difference | equal pixels |", "|---|---|--:|--:|--:|"]
    for row in rows:
        exact = "all" if row["exact"] == 1 else f"{100 * float(str(row['exact'])):.2f} %"
        lines.append(f"| {row['operation']} | {row['kernel']} | {row['largest']} | {row['mean']:g} | {exact} |")
    return "\n".join(lines)


def speed_table(rows: Sequence[dict[str, object]], hardware: dict[str, object]) -> str:
    """Markdown of `Speed` rows as the record holds them."""
    lines = ["| chain | timm, images/s | batched, images/s | ratio (range) |", "|---|--:|--:|--:|"]
    for row in rows:
        ratio = f"{row['ratio']} ({row['low']} to {row['high']})"
        lines.append(f"| {row['recipe']} | {row['timm']:,} | {row['batched']:,} | {ratio} |")
    machine = ", ".join(f"{name} {value}" for name, value in hardware.items())
    return "\n".join(
        [*lines, "", f"One core, 32 x 32, batches of 2,048; medians of {rows[0]['pairs']} pairs. {machine}."]
    )


def fill_page(text: str, tables: dict[str, str]) -> str:
    """Put each table between its markers."""
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


def tables_of(record: dict[str, list[dict[str, object]]], hardware: dict[str, object]) -> dict[str, str]:
    return {"parity": parity_table(record["parity"]), "speed": speed_table(record["speed"], hardware)}


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Measure, write the record, fill the page."""
    torch.set_num_threads(1)
    hardware: dict[str, object] = {"processor": processor(), "torch": torch.__version__}
    measured = {
        "parity": [asdict(row) for row in parities()],
        "speed": [asdict(speed(*chain)) for chain in chains()],
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps({"hardware": hardware, **measured}, indent=1) + "\n")
    PAGE.write_text(fill_page(PAGE.read_text(), tables_of(measured, hardware)))


if __name__ == "__main__":
    main()
