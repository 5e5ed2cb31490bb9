"""The way of a batch in uint8 gives the floats of one image after another, to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from roadmap.config.data import Data
from roadmap.config.errors import DataError
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import RECIPES, find_recipe
from roadmap.config.seeds import SAMPLE, derive
from roadmap.data import batch as batch_module
from roadmap.data.batch import Finish, PixelBatch, collate
from roadmap.data.held import ArrayImages, HeldImages, Split, in_a_row
from roadmap.data.loader import Stream
from roadmap.data.pipeline import Pipeline, Samples, before_draws, seed_all, train_transform
from roadmap.data.registry import NAMED
from tests.data.test_pipeline import batches, coloured, trial_of

CPU, SEED, EPOCH = torch.device("cpu"), 3, 1
WITH_ERASING = {"random_erasing": 0.5, "augmentation": "rand-m9-mstd0.5-inc1"}


def grey_or_colour(data: Data, count: int = 24) -> ArrayImages:
    shape = (count, 40, 50) if data.in_chans == 1 else (count, 40, 50, 3)
    return ArrayImages(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), list(range(count)))


def one_after_another(split: Split, recipe: Recipe, data: Data) -> Tensor:
    """Each image by timm's whole chain, in float32."""
    transform, images = train_transform(recipe, data), []
    for index in range(len(split)):
        seed_all(derive(SEED, SAMPLE, EPOCH, index))
        images.append(transform(split.image(index)))
    return torch.stack(images)


def in_a_batch(split: Split, transform: Any) -> tuple[PixelBatch, Tensor]:
    samples = Samples(split, np.arange(len(split)), transform, SEED)
    drawn = collate((samples[EPOCH, index] for index in range(len(split))), len(split))
    return drawn, Finish.of(samples.chain, CPU)(drawn)[0]


@pytest.mark.sampled(12)
@pytest.mark.parametrize("changes", [{}, WITH_ERASING], ids=["as shipped", "policy and erasing"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.name)
@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_a_batch_equals_its_images_one_after_another_to_the_bit(
    name: str, recipe: Recipe, changes: dict[str, Any]
) -> None:
    data, recipe = replace(NAMED[name], image_size=24), replace(recipe, **changes)
    split = grey_or_colour(data)
    drawn, images = in_a_batch(split, train_transform(recipe, data))
    assert drawn.pixels.dtype == torch.uint8
    assert bool(drawn.rectangles) == (recipe.random_erasing > 0)
    expected = one_after_another(split, recipe, data)
    assert images.dtype == torch.float32 and torch.equal(images, expected)
    for layout in (torch.channels_last, torch.contiguous_format):  # kernels are chosen by strides too
        assert images.to(memory_format=layout).stride() == expected.to(memory_format=layout).stride()


@pytest.mark.parametrize("crop", ["padded", "none"])
@pytest.mark.parametrize("augmentation", ["none", "rand-m9-mstd0.5-inc1"])
@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_what_draws_nothing_may_be_done_once_before_the_draws(name: str, augmentation: str, crop: Any) -> None:
    data = replace(NAMED[name], image_size=24)
    recipe = replace(find_recipe("cifar-adamw"), crop=crop, augmentation=augmentation)
    split, prepare = grey_or_colour(data), before_draws(recipe, data)
    assert prepare is not None
    prepared = ArrayImages(np.stack([np.asarray(prepare(split.image(i))) for i in range(len(split))]), split.labels)
    _, images = in_a_batch(prepared, train_transform(recipe, data, prepared=True))
    assert torch.equal(images, one_after_another(split, recipe, data))


def test_pieces_of_a_batch_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(NAMED["cifar10"], image_size=24)
    transform = train_transform(find_recipe("cifar-adamw"), data)
    _, whole = in_a_batch(grey_or_colour(data), transform)
    for piece in (1, 5000):
        monkeypatch.setattr(batch_module, "PIECE", piece)
        assert torch.equal(in_a_batch(grey_or_colour(data), transform)[1], whole)


def test_workers_hand_over_bytes_and_floats_only_of_what_is_erased() -> None:
    pipeline = replace(coloured(), workers=1)
    with pipeline.stream(pipeline.sampler()) as stream:
        batch = next(stream._iterator)
    assert isinstance(batch, PixelBatch)
    sizes = [3 * high * wide for *_, high, wide in batch.rectangles]
    assert batch.pixels.dtype == torch.uint8
    assert (batch.noise is None and not sizes) or (batch.noise is not None and len(batch.noise) == sum(sizes))


# Images in memory -----------------------------------------------------------------------------------------------------


def test_images_of_several_sizes_in_a_row_are_the_images() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (3 + k, 9 - k, 3), dtype=np.uint8) for k in range(5)]
    row = in_a_row(arrays, limit=1000, expected=50)
    assert row is not None and in_a_row(arrays, limit=400) is None
    held = HeldImages(*row, labels=range(5))
    assert len(held) == 5 and len(held.pixels) == sum(a.size for a in arrays)
    assert all(np.array_equal(np.asarray(held.image(k)), arrays[k]) for k in range(5))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("crop", ["padded", "resized"])
def test_a_folder_in_memory_gives_the_stream_of_its_files(
    image_folder: Any, monkeypatch: pytest.MonkeyPatch, crop: Any, workers: int
) -> None:
    from PIL import Image

    from roadmap.data.registry import resolve_data

    folder = image_folder(size=40, counts={"train": 10, "test": 2})
    first = folder / "train" / "cat" / "000.png"
    Image.open(first).resize((50, 45)).save(first)
    data = replace(resolve_data("imagefolder", data_dir=folder, image_size=16), validation=0.2)
    recipe = replace(find_recipe("cifar-adamw"), crop=crop, batch_size=8, group_size=4, epochs=2, warmup_epochs=0)
    opened = Pipeline.open(trial_of(data, recipe), data_dir=folder, workers=workers)
    assert isinstance(opened.decoded, HeldImages if crop == "resized" else ArrayImages)
    from_files = batches(replace(opened, decoded=None), workers)
    validation = [images for images, _ in opened.views("validation")]
    monkeypatch.setattr(Image, "open", None)  # no file is read any more
    held = batches(opened, workers)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(held, from_files, strict=True))
    assert torch.cat(validation).shape == (4, 3, 16, 16)


# A GPU's side stream --------------------------------------------------------------------------------------------------


class _Streams:
    """Stands for torch.cuda's streams: notes who waits for whom and where batches are finished."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.on = "main"

    def install(self, monkeypatch: pytest.MonkeyPatch) -> _Streams:
        monkeypatch.setattr(torch.cuda, "Stream", lambda _device: _Fake("side", self))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: _Fake("main", self))
        monkeypatch.setattr(torch.cuda, "stream", self.entered)
        return self

    @contextlib.contextmanager
    def entered(self, stream: _Fake) -> Iterator[None]:
        self.on = stream.name
        yield
        self.on = "main"


class _Fake:
    def __init__(self, name: str, streams: _Streams) -> None:
        self.name, self.streams = name, streams

    def wait_stream(self, other: _Fake) -> None:
        self.streams.notes.append(f"{self.name} waits for {other.name}")


def finishing(streams: _Streams, monkeypatch: pytest.MonkeyPatch) -> Finish:
    """Of batches that are numbers: notes on which stream each is finished."""

    def finish(_: Finish, batch: Any) -> Any:
        streams.notes.append(f"{batch} on {streams.on}")
        return batch

    monkeypatch.setattr(Finish, "__call__", finish)
    return Finish(torch.zeros(3), torch.ones(3), torch.tensor(255.0))


def test_one_batch_is_ahead_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = _Streams().install(monkeypatch)
    loaded: Any = iter([1, 2])
    for batch in finishing(streams, monkeypatch)._ahead(loaded):
        streams.notes.append(f"{batch} is trained on")
    turn = ["main waits for side", "side waits for main"]
    assert streams.notes == [
        *turn,
        "1 on side",
        *turn,
        "2 on side",
        "1 is trained on",
        "main waits for side",
        "2 is trained on",
    ]


def test_an_error_comes_after_the_batches_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = finishing(_Streams().install(monkeypatch), monkeypatch)
    stream = Stream([1, 2, DataError("damaged")], finish._ahead)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(DataError, match="damaged"):
        next(stream)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_those_of_the_cpu_and_nothing_waits_for_them(workers: int) -> None:
    here, cuda = replace(coloured(), workers=workers), torch.device("cuda")
    there = replace(here, device=cuda)
    expected = batches(here)
    with there.stream(there.sampler()) as stream:
        first = next(stream)
        torch.cuda.set_sync_debug_mode("error")
        try:
            given = [first, *stream]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for (x, labels), (y, same) in zip(given, expected, strict=True):
        assert x.device.type == "cuda" and torch.equal(x.cpu(), y) and torch.equal(labels.cpu(), same)
    passes = [list(pipeline.views("test")) for pipeline in (there, here)]
    assert all(torch.equal(x.cpu(), y) for (x, _), (y, _) in zip(*passes, strict=True))
