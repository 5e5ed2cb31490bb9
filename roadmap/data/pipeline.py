"""From a trial to batches: timm's transforms, draws seeded per sample, groups for the ranks.

A sample's key is (epoch, position); the image that it gives depends on the trial's seed and the key
alone, so the stream is the same for any number of workers and ranks. Batches are (N, C, H, W)
float32 and labels (N,) int64.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import create_transform
from torch.utils.data import Dataset
from torchvision import transforms

from roadmap.config.data import Data
from roadmap.config.errors import DataError
from roadmap.config.recipe import Recipe
from roadmap.config.runtime import LoaderName
from roadmap.config.seeds import ORDER, SAMPLE, derive
from roadmap.config.trial import Trial
from roadmap.data.batch import Chain, Finish, FirstChannel, Sample, collate
from roadmap.data.held import HELD_BYTES, ArrayImages, HeldImages, Prepare, Split, decode_all
from roadmap.data.loader import Stream, open_loader
from roadmap.data.readers import cut_validation, open_data
from roadmap.data.tensor_stream import SampleKey, TensorBatches
from roadmap.data.thread_stream import ThreadBatches, check_loader
from roadmap.data.views import HeldViews, Passes, Views, open_views

CPU = torch.device("cpu")


def train_transform(recipe: Recipe, data: Data, *, prepared: bool = False) -> Any:
    """PIL -> (C, H, W): the recipe's crop, flip, policy and erasing, by timm's transforms.

    prepared: of images that are what `before_draws` makes of them.
    """
    policy = None if recipe.augmentation == "none" else recipe.augmentation
    grey_as_rgb = policy is not None
    chain = create_transform(
        data.image_size,
        is_training=True,
        hflip=recipe.hflip,
        color_jitter=0.0,
        auto_augment=policy,
        interpolation=recipe.interpolation,
        mean=_spread(data.mean, grey_as_rgb),
        std=_spread(data.std, grey_as_rgb),
        re_prob=recipe.random_erasing,
        re_mode="pixel",
    )
    steps = [t for t in chain.transforms if not isinstance(t, transforms.ColorJitter)]
    if recipe.crop != "resized":
        steps[:1] = _fixed_crop(recipe, data, prepared=prepared)
    return transforms.Compose(_in_channels(steps, data, policy=grey_as_rgb))


def _fixed_crop(recipe: Recipe, data: Data, *, prepared: bool) -> list[Any]:
    """The centre as evaluation sees it, or a crop of it, padded: in place of the resized crop."""
    centre = [] if prepared else _centre(recipe, data)
    if recipe.crop == "padded":
        return [*centre, transforms.RandomCrop(data.image_size, padding=data.image_size // 8)]
    return centre


def _centre(recipe: Recipe, data: Data) -> list[Any]:
    interpolation = transforms.InterpolationMode(recipe.interpolation)
    return [transforms.Resize(data.image_size, interpolation=interpolation), transforms.CenterCrop(data.image_size)]


def before_draws(recipe: Recipe, data: Data) -> Prepare | None:
    """PIL -> PIL: what comes first and draws nothing, so that it is done once where images are held in memory."""
    return None if recipe.crop == "resized" else transforms.Compose(_centre(recipe, data))


def eval_transform(recipe: Recipe, data: Data) -> Any:
    """PIL -> (C, H, W): resize the short side, or both, to size / test_crop, cut the centre."""
    chain = create_transform(
        data.image_size,
        is_training=False,
        interpolation=recipe.interpolation,
        crop_pct=recipe.test_crop,
        crop_mode="squash" if recipe.test_resize == "square" else "center",
        mean=data.mean,
        std=data.std,
    )
    return chain


def _spread(values: tuple[float, ...], as_rgb: bool) -> tuple[float, ...]:
    return values * 3 if as_rgb and len(values) == 1 else values


def _in_channels(steps: list[Any], data: Data, *, policy: bool = False) -> list[Any]:
    """The steps, around which grey images become RGB for timm's policies and one channel again."""
    return [transforms.Grayscale(3), *steps, FirstChannel()] if data.in_chans == 1 and policy else steps


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's CPU generators: timm's transforms draw from all three."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # Not torch.manual_seed: before a GPU is used it records a stack trace for each GPU generator, which costs more
    # than a small image.
    torch.default_generator.manual_seed(seed)


class Samples(Dataset[Sample]):
    """Augmented training images by key (epoch, index into `indices`)."""

    def __init__(self, split: Split, indices: np.ndarray, transform: Any, seed: int) -> None:
        self.split, self.indices, self.chain, self.seed = split, indices, Chain(transform), seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, position = key
        index = int(self.indices[position])
        seed_all(derive(self.seed, SAMPLE, epoch, index))
        return self.chain.sample(self.split.image(index), int(self.split.labels[index]))


@dataclass(frozen=True)
class GroupSampler:
    """The keys of each load that one rank takes, from iteration `start` to the last.

    Iteration i of an epoch takes the next `batch_size` images of the epoch's order; load g of it
    takes the next `load_size` of those, a group or several; rank r of w takes the loads r, r + w, ...
    What remains of an epoch is left out.
    """

    images: int
    recipe: Recipe
    seed: int
    start: int = 0
    rank: int = 0
    world_size: int = 1

    @property
    def iterations_per_epoch(self) -> int:
        return self.images // self.recipe.batch_size

    def order(self, epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.PCG64(derive(self.seed, ORDER, epoch))).permutation(self.images)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, order = -1, np.array([], dtype=int)
        for iteration in range(self.start, self.recipe.epochs * self.iterations_per_epoch):
            now, at = divmod(iteration, self.iterations_per_epoch)
            if now != epoch:
                epoch, order = now, self.order(now)
            for load in range(self.rank, self.recipe.loads, self.world_size):
                first = at * self.recipe.batch_size + load * self.recipe.load_size
                yield [(epoch, int(i)) for i in order[first : first + self.recipe.load_size]]

    def __len__(self) -> int:
        iterations = self.recipe.epochs * self.iterations_per_epoch - self.start
        return iterations * (self.recipe.loads // self.world_size)


@dataclass(frozen=True)
class Pipeline:
    """A trial's images: the training stream, and the views for validation and test."""

    trial: Trial
    train: Split
    test: Split
    train_indices: np.ndarray
    validation_indices: np.ndarray
    workers: int = 0
    device: torch.device = CPU  # where batches go
    decoded: ArrayImages | HeldImages | None = None  # the training images in memory, as `before_draws` makes them
    loader: LoaderName = "threads"  # of what a recipe with pipeline tensor does not have in memory in one size
    loaded: tuple[Split, Split] | None = field(default=None, repr=False)  # train and test before any resizing
    digests: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)  # once they are known
    _views: dict[tuple[str, int, int], Passes] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        trial: Trial,
        *,
        data_dir: Path | None = None,
        download: bool = False,
        workers: int = 0,
        device: torch.device = CPU,
        loader: LoaderName = "threads",
        decode: bool = True,
    ) -> Pipeline:
        """Raises DataError, also where the training split is smaller than one global batch.

        decode: the training images, where they fit in memory; for nothing where they are not trained on.
        """
        check_loader(loader)
        loaded = train, test = open_data(trial.data, data_dir=data_dir, download=download)
        if trial.recipe.crop != "resized" and isinstance(train, ArrayImages) and isinstance(test, ArrayImages):
            # A resize that comes first and draws nothing is done once, not once a sample.
            train, test = (s.resized(trial.data.image_size, trial.recipe.interpolation) for s in (train, test))
        kept, held_out = cut_validation(train.labels, trial.data.validation, trial.data.split_seed)
        if len(kept) < trial.recipe.batch_size:
            raise DataError(
                f"data {trial.data.name!r} has {len(kept)} training images, fewer than one global batch of "
                f"{trial.recipe.batch_size}; legal: at least one batch; choose a recipe with a smaller batch"
            )
        decoded = decode_all(train, trial.data, before_draws(trial.recipe, trial.data)) if decode else None
        return cls(trial, train, test, kept, held_out, workers, device, decoded, loader, loaded)

    def sampler(self, *, start: int = 0, rank: int = 0, world_size: int = 1) -> GroupSampler:
        return GroupSampler(len(self.train_indices), self.trial.recipe, self.trial.seed, start, rank, world_size)

    def stream(self, sampler: GroupSampler) -> Stream:
        """One batch a load, over all remaining epochs, so that workers live as long as it does."""
        trial, indices, at_once = self.trial, self.train_indices, self.augmented_at_once
        if at_once is not None:
            least = sampler.recipe.batch_size // sampler.world_size
            return Stream(TensorBatches(trial, at_once, indices, sampler, self.device, least))
        images, prepared = (self.train, False) if self.decoded is None else (self.decoded, True)
        if trial.recipe.pipeline == "tensor":
            prepare = None if prepared else before_draws(trial.recipe, trial.data)
            return Stream(
                ThreadBatches(trial, images, indices, sampler, prepare, self.device, self.workers, self.loader)
            )
        samples = Samples(images, indices, train_transform(trial.recipe, trial.data, prepared=prepared), trial.seed)
        on_gpu = self.device.type == "cuda"
        loader = open_loader(samples, sampler, workers=self.workers, pin_memory=on_gpu, collate=collate)
        return Stream(loader, Finish.of(samples.chain, self.device).batches)

    @property
    def augmented_at_once(self) -> ArrayImages | None:
        """The training images where whole batches are augmented of what is in memory, and nothing loads."""
        tensor = self.trial.recipe.pipeline == "tensor"
        return self.decoded if tensor and isinstance(self.decoded, ArrayImages) else None

    def views(self, part: str, *, rank: int = 0, world_size: int = 1) -> Passes:
        """Every rank's share of `validation` or `test`, each image in exactly one of them.

        Opened once: a second call gives the same.
        """
        key = part, rank, world_size
        if key not in self._views:
            self._views[key] = self._open_views(part, rank, world_size)
        return self._views[key]

    def _open_views(self, part: str, rank: int, world_size: int) -> Passes:
        recipe, data = self.trial.recipe, self.trial.data
        split, indices = self.test, np.arange(len(self.test))
        if part == "validation":
            split, indices = self.train, self.validation_indices
        # The whole split, not this rank's share of it: the ranks of a machine share its memory.
        held = len(indices) * data.in_chans * data.image_size**2 <= HELD_BYTES
        views = Views(split, indices[rank::world_size], eval_transform(recipe, data))
        batch = 2 * recipe.group_size
        return open_views(views, batch=batch, held=held, workers=self.workers, device=self.device)

    def with_trial(self, trial: Trial) -> Pipeline:
        """The same images for another trial that sees them alike; views in memory stay, workers do not."""
        other = replace(self, trial=trial)
        other.digests.update(self.digests)
        other._views.update({key: views for key, views in self._views.items() if isinstance(views, HeldViews)})
        return other

    def close(self) -> None:
        """End the workers of evaluation; a stream is its user's to close."""
        for views in self._views.values():
            views.close()
