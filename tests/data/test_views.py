"""Evaluation's images: held in memory they are to the bit what one after another gives; else workers stay."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from roadmap.config.data import Data
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import RECIPES, find_recipe
from roadmap.config.trial import Trial
from roadmap.data import pipeline as pipeline_module
from roadmap.data.held import ArrayImages
from roadmap.data.pipeline import Pipeline, eval_transform
from roadmap.data.registry import NAMED
from roadmap.data.views import HeldViews, LoadedViews, Views, open_views
from tests.helpers.convnext import resolve

EMPTY, CPU = np.array([], dtype=int), torch.device("cpu")


def small_pipeline(count: int = 20, workers: int = 0) -> Pipeline:
    """RGB images of 32 pixels; the test split is all of them."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    images = ArrayImages(pixels, list(range(count)))
    data = replace(NAMED["cifar10"], num_classes=count, validation=0.0)
    recipe = replace(find_recipe("cifar-adamw"), batch_size=16, group_size=4, epochs=1, warmup_epochs=0)
    trial = Trial(model=resolve("9", "micro", num_classes=count, in_chans=3), recipe=recipe, data=data, seed=0)
    return Pipeline(trial, images, images, np.arange(count), EMPTY, workers)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.name)
@pytest.mark.parametrize("data", [NAMED["digits"], NAMED["cifar10"], NAMED["imagenet"]], ids=lambda d: d.name)
def test_held_views_equal_those_of_one_image_after_another_to_the_bit(recipe: Recipe, data: Data) -> None:
    shape = (3, 40, 50) if data.in_chans == 1 else (3, 40, 50, 3)
    images = ArrayImages(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), [0, 1, 2])
    transform = eval_transform(recipe, data)
    views = Views(images, np.array([2, 0, 1]), transform)
    held = open_views(views, batch=2, held=True, workers=0, device=CPU)
    assert isinstance(held, HeldViews) and held.pixels.dtype == torch.uint8
    batches = list(held)
    assert [labels.tolist() for _, labels in batches] == [[2, 0], [1]]
    assert torch.equal(torch.cat([x for x, _ in batches]), torch.stack([transform(images.image(k)) for k in (2, 0, 1)]))
    assert all(x.dtype == torch.float32 for x, _ in batches)


def test_every_value_of_a_pixel_is_normalized_as_torchvision_does() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (1, 16, 16, 3))
    for data in NAMED.values():
        own = replace(data, image_size=16, in_chans=3, mean=(data.mean * 3)[:3], std=(data.std * 3)[:3])
        transform = eval_transform(find_recipe("cifar-adamw"), own)
        views = Views(ArrayImages(ramp, [0]), np.array([0]), transform)
        ((images, _),) = open_views(views, batch=2, held=True, workers=0, device=CPU)
        assert torch.equal(images[0], transform(Image.fromarray(ramp[0])))


def test_a_split_is_decoded_once_for_all_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    plain = ArrayImages.image

    def image(self: ArrayImages, index: int) -> Image.Image:
        decoded.append(index)
        return plain(self, index)

    monkeypatch.setattr(ArrayImages, "image", image)
    pipeline = small_pipeline()
    passes = [list(pipeline.views("test")) for _ in range(3)]
    assert sorted(decoded)[-1] == 19 and len(decoded) <= 21  # one of them twice, to see its shape
    for other in passes[1:]:
        assert all(torch.equal(a[0], b[0]) for a, b in zip(passes[0], other, strict=True))


@pytest.fixture
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every split is too large to be held."""
    monkeypatch.setattr(pipeline_module, "HELD_BYTES", 0)
    yield
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_split_too_large_to_be_held_has_the_same_batches_from_lasting_workers(
    nothing_held: None, workers: int
) -> None:
    held = open_held(small_pipeline())
    pipeline = small_pipeline(workers=workers)
    views = pipeline.views("test")
    assert isinstance(views, LoadedViews) and pipeline.views("test") is views
    first, children = list(views), set(multiprocessing.active_children())
    second, still = list(views), set(multiprocessing.active_children())
    assert children == still and len(children) == workers
    for a, b, c in zip(first, second, held, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[0], c[0]) and torch.equal(a[1], c[1])
    pipeline.close()


def open_held(pipeline: Pipeline) -> HeldViews:
    views = Views(pipeline.test, np.arange(20), eval_transform(pipeline.trial.recipe, pipeline.trial.data))
    held = open_views(views, batch=8, held=True, workers=0, device=CPU)
    assert isinstance(held, HeldViews)
    return held


def test_a_pass_that_was_left_in_the_middle_does_not_spoil_the_next(nothing_held: None) -> None:
    pipeline = small_pipeline(workers=1)
    next(iter(pipeline.views("test")))
    labels = [label for _, batch in pipeline.views("test") for label in batch.tolist()]
    assert labels == list(range(20))
    pipeline.close()


def test_a_rank_without_images_has_no_batches() -> None:
    assert list(small_pipeline(count=2).views("test", rank=2, world_size=3)) == []


def test_workers_that_fill_the_memory_are_gone_at_once() -> None:
    pipeline = small_pipeline(workers=2)
    assert len(list(pipeline.views("test"))) == 3
    assert not multiprocessing.active_children()
