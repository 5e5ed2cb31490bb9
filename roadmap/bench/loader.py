"""Part `loader`: images per second and core of the training stream beside timm's `create_loader`.

Both decode the same files and apply the same operations. With those that draw switched off, pixels
are compared; with them on, the distributions of what comes out.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data import create_dataset, create_loader
from torch import Tensor
from torchvision import transforms

from roadmap.bench.pairs import Check, Finding, Timer, interleaved, seconds, seconds_of_work
from roadmap.bench.photographs import CLASSES, Photographs
from roadmap.config.data import Data
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.config.trial import Trial
from roadmap.data.pipeline import Pipeline
from roadmap.ladder.convnext import convnext_spec

METHOD = (
    "Seconds of processor time of one thread for the same number of images, without workers. The JPEG files are made: "
    "blobs of all sizes, as large as photographs. timm: `create_loader` with its prefetcher, so uint8 until its "
    "PrefetchLoader normalizes and erases, here on the CPU. Same operations on both sides: crop (224 px: random "
    "resized; 32 px: padded, by torchvision's RandomCrop in timm's chain), flip, RandAugment, erasing, normalization. "
    "`tensor` in memory decodes once, before the clock starts; how many passes' time that takes is a row of its own. "
    "`tensor` from files is the same pipeline for sets that memory cannot hold."
)
EPOCHS = 100_000  # no stream of a benchmark ends
PIXELS = 1e-4  # of normalized values: float32 in another order
DEVIATIONS = 5.0  # standard errors between two means over images that are drawn alike
NO_DRAWS: Mapping[str, Any] = {"crop": "none", "hflip": 0.0, "augmentation": "none", "random_erasing": 0.0}
PIPELINES = {"tensor": "`tensor` in memory", "threads": "`tensor` from files", "pil": "`pil`"}
DECODINGS = 3  # of a whole set
RAMPS = 256  # images by which crops and flips are compared
PLACES_ALONE: Mapping[str, Any] = {"augmentation": "none", "random_erasing": 0.0}


@dataclass(frozen=True, kw_only=True)
class Size:
    """One comparison: a recipe, all files a measurement, in batches of `batch`; which of PIPELINES are measured."""

    pixels: int
    recipe: str
    batch: int
    files: Photographs
    pipelines: tuple[str, ...]

    @property
    def data(self) -> Data:
        """The folder as the pipeline reads it."""
        return Data(name="imagefolder", title="made images", image_size=self.pixels, num_classes=CLASSES)

    def trial(self, **recipe: Any) -> Trial:
        """A trial whose training stream is measured; it is never trained."""
        ours = {"epochs": EPOCHS, "warmup_epochs": 0, "batch_size": self.batch, "group_size": self.batch, **recipe}
        model = convnext_spec(9, num_classes=CLASSES)
        return Trial(
            model=model,
            recipe=replace(find_recipe(self.recipe), **ours),
            data=self.data,
            seed=0,
            regime="resnet50",
            step="separate-downsampling",
        )


CIFAR = Size(
    pixels=32,
    recipe="cifar-adamw",
    batch=256,
    files=Photographs(count=2048, width=32, height=32, quality=75),
    pipelines=("tensor", "pil"),
)
IMAGENET = Size(
    pixels=224,
    recipe="convnext-300ep",
    batch=128,
    files=Photographs(count=256, width=500, height=375, quality=90),
    pipelines=("tensor", "threads", "pil"),
)


def loader(device: str, pairs: int, scratch: Path, sizes: tuple[Size, ...] = (CIFAR, IMAGENET)) -> Iterator[Finding]:
    """Compare every pipeline at every size."""
    for size in sizes:
        root = size.files.write(Path(tempfile.mkdtemp(dir=scratch)))
        ramps = replace(size.files, count=RAMPS, ramps=True).write(Path(tempfile.mkdtemp(dir=scratch)))
        with _one_thread():
            for key in size.pipelines:
                apart = places_apart(key, ramps, size, torch.device(device))
                name = f"{size.pixels} px, {PIPELINES[key]}: crops and flips, standard errors apart"
                yield Check(name=name, apart=apart, allowed=DEVIATIONS)
            yield from _at_size(size, root, torch.device(device), pairs)


def _at_size(size: Size, root: Path, device: torch.device, pairs: int) -> Iterator[Finding]:
    timer: Timer = seconds_of_work if device.type == "cpu" else seconds
    label = f"{size.pixels} px, {size.files.count} images of {size.files.width} x {size.files.height}"
    theirs = TimmPass(root, size, size.trial().recipe, device)
    expected = theirs.centres()
    for key in size.pipelines:
        name = PIPELINES[key]
        open_ = partial(open_pipeline, key, root, size, device)
        with contextlib.closing(Pass(open_(**NO_DRAWS))) as plain:
            pixels = plain.apart(expected)
        yield Check(name=f"{size.pixels} px, {name}: pixels without draws", apart=pixels, allowed=PIXELS)
        with contextlib.closing(Pass(open_())) as ours:
            drawn = deviations(features(ours()), features(theirs()))
            yield Check(
                name=f"{size.pixels} px, {name}: all draws, standard errors apart", apart=drawn, allowed=DEVIATIONS
            )
            sides = ("timm create_loader", theirs), (name, ours)
            yield interleaved(f"{size.pixels}-{key}", label, *sides, pairs=pairs, warmup=1, timer=timer)
            if key == "tensor":
                opening, memory = ("decoding all once", open_), ("a pass from memory", ours)
                yield interleaved(f"{size.pixels}-decoding", label, opening, memory, pairs=DECODINGS, timer=timer)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Of one core: torch computes with one thread meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# Ours -----------------------------------------------------------------------------------------------------------------


def open_pipeline(key: str, root: Path, size: Size, device: torch.device, **recipe: Any) -> Pipeline:
    """The images with `pipeline: pil`, or `tensor`: in memory, or by `threads` as where memory cannot hold them."""
    trial = size.trial(pipeline="pil" if key == "pil" else "tensor", **recipe)
    with contextlib.redirect_stderr(io.StringIO()):  # it says that it decodes
        pipeline = Pipeline.open(trial, data_dir=root, device=device)
    return replace(pipeline, decoded=None) if key == "threads" else pipeline


class Pass:
    """One epoch's batches (N, C, S, S) at each call.

    A stream from memory lasts over the calls, as it does in a run. Any other is opened for each and
    read to its end: threads that decode ahead would work on in the time of the other side.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.sampler = pipeline, pipeline.sampler()
        self.once = replace(self.sampler, recipe=replace(self.sampler.recipe, epochs=1))
        self.lasting = pipeline.stream(self.sampler) if pipeline.decoded is not None else None

    def __call__(self) -> list[Tensor]:
        if self.lasting is None:
            with self.pipeline.stream(self.once) as stream:
                return [images for images, _ in stream]
        return [next(self.lasting)[0] for _ in range(self.sampler.iterations_per_epoch)]

    def apart(self, expected: Tensor) -> float:
        """The largest difference of the first epoch from these images, which are in the order of their files."""
        order = torch.from_numpy(self.sampler.order(0))
        found = torch.cat(self()).cpu()
        return float((found - expected[order[: len(found)]]).abs().max())

    def close(self) -> None:
        """End stream and pipeline."""
        if self.lasting is not None:
            self.lasting.close()
        self.pipeline.close()


# timm's ---------------------------------------------------------------------------------------------------------------


class TimmPass:
    """One epoch's batches (N, C, S, S) at each call, from timm's training loader."""

    def __init__(self, root: Path, size: Size, recipe: Recipe, device: torch.device) -> None:
        self.root, self.size, self.recipe, self.device = root, size, recipe, device
        policy = None if recipe.augmentation == "none" else recipe.augmentation
        self.loader = self._loader(
            is_training=True,
            hflip=recipe.hflip,
            color_jitter=0.0,
            auto_augment=policy,
            re_prob=recipe.random_erasing,
            re_mode="pixel",
        )
        if recipe.crop == "padded":
            crop = transforms.RandomCrop(size.pixels, padding=size.pixels // 8)
            self.loader.dataset.transform.transforms[0] = crop

    def _loader(self, **options: Any) -> Any:
        data = self.size.data
        return create_loader(
            create_dataset("", root=str(self.root / "train")),
            (3, self.size.pixels, self.size.pixels),
            self.size.batch,
            interpolation=self.recipe.interpolation,
            mean=data.mean,
            std=data.std,
            num_workers=0,
            persistent_workers=False,
            device=self.device,
            **options,
        )

    def __call__(self) -> list[Tensor]:
        return [images for images, _ in self.loader]

    def centres(self) -> Tensor:
        """(N, C, S, S) in the order of the files: the middle of each image, without draws."""
        return torch.cat([images.cpu() for images, _ in self._loader(is_training=False, crop_pct=1.0)])


# Distributions --------------------------------------------------------------------------------------------------------


def features(batches: list[Tensor]) -> Tensor:
    """(N, 5): mean and standard deviation of each image, differences of neighbours both ways, and saturation.

    They move with brightness, contrast, sharpness and erasing, with blur by resizing, with colour.
    """
    images = torch.cat(batches).cpu()
    across, down = images.diff(dim=3).abs().mean((1, 2, 3)), images.diff(dim=2).abs().mean((1, 2, 3))
    columns = images.mean((1, 2, 3)), images.std((1, 2, 3)), across, down, images.std(1).mean((1, 2))
    return torch.stack(columns, 1)


def places(batches: list[Tensor]) -> Tensor:
    """(N, 5): from where an image of a ramp was cut, how large the part was, and whether it was flipped."""
    images = torch.cat(batches).cpu()
    red, green = images[:, 0], images[:, 1]
    columns = [f(channel) for channel in (red, green) for f in (_means, _spreads)]
    return torch.stack([*columns, _means(red.diff(dim=2))], 1)


def _means(channel: Tensor) -> Tensor:
    return channel.mean((1, 2))


def _spreads(channel: Tensor) -> Tensor:
    return channel.std((1, 2))


def places_apart(key: str, ramps: Path, size: Size, device: torch.device, **less: Any) -> float:
    """How far our crops and flips of ramps are from timm's, in standard errors; less: what else is left out of ours."""
    theirs = TimmPass(ramps, size, replace(size.trial().recipe, **PLACES_ALONE), device)
    with contextlib.closing(Pass(open_pipeline(key, ramps, size, device, **{**PLACES_ALONE, **less}))) as ours:
        return deviations(places(ours()), places(theirs()))


def deviations(found: Tensor, expected: Tensor) -> float:
    """The largest difference of a feature's means in standard errors; inf where the numbers of images differ."""
    if found.shape != expected.shape:
        return float("inf")
    error = ((found.var(0) + expected.var(0)) / len(found)).sqrt()
    return float(((found.mean(0) - expected.mean(0)).abs() / error).max())
