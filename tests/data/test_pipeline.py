"""The stream of samples depends on seed, epoch and index alone: not on workers, ranks or where a run was resumed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roadmap.config.data import Data
from roadmap.config.errors import DataError
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import RECIPES, find_recipe
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data import held
from roadmap.data.held import ArrayImages
from roadmap.data.pipeline import GroupSampler, Pipeline, Samples, eval_transform, train_transform
from roadmap.data.registry import NAMED, resolve_data
from roadmap.runs.folder import RunFolder
from tests.helpers.convnext import resolve
from tests.helpers.launches import eventually

MakeFolder = Callable[..., Path]
Batches = list[tuple[torch.Tensor, torch.Tensor]]
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # four workers on two cores: as asked
SMALL = {"batch_size": 16, "group_size": 4, "epochs": 2, "warmup_epochs": 0}
RECIPE = replace(find_recipe("cifar-adamw"), **SMALL)  # RandAugment, erasing, flips, padded crops


def trial_of(data: Data, recipe: Recipe = RECIPE, seed: int = 0) -> Trial:
    return Trial(
        model=resolve("9", "micro", num_classes=data.num_classes, in_chans=data.in_chans),
        recipe=recipe,
        data=data,
        seed=seed,
    )


def coloured(count: int = 40, size: int = 32) -> Pipeline:
    """RGB images in memory, with labels that tell which image is which."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    images = ArrayImages(pixels, list(range(count)))
    data = replace(NAMED["cifar10"], num_classes=count, validation=0.0, image_size=size)
    return Pipeline(trial_of(data), images, images, np.arange(count), np.array([], dtype=int))


def digits(recipe: Recipe, validation: float = 0.1) -> Pipeline:
    return Pipeline.open(trial_of(replace(NAMED["digits"], validation=validation), recipe))


def plain_digits() -> Pipeline:
    return digits(replace(find_recipe("digits-adamw"), **{**SMALL, "batch_size": 128, "group_size": 32}), 0.8)


def augmented_digits() -> Pipeline:
    return digits(replace(RECIPE, batch_size=128, group_size=32), 0.8)


PIPELINES: dict[str, Callable[[], Pipeline]] = {
    "colour, RandAugment and erasing": coloured,
    "digits": plain_digits,
    "digits, RandAugment and erasing": augmented_digits,
}


def batches(pipeline: Pipeline, workers: int = 0, **place: int) -> Batches:
    loader = replace(pipeline, workers=workers)
    return list(loader.stream(loader.sampler(**place)))


def same(a: Batches, b: Batches) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", PIPELINES)
def test_the_stream_is_the_same_bit_for_bit_for_any_number_of_workers(name: str) -> None:
    pipeline = PIPELINES[name]()
    alone = batches(pipeline)
    assert len(alone) == 2 * pipeline.sampler().iterations_per_epoch * pipeline.trial.recipe.groups
    assert all(same(alone, batches(pipeline, workers)) for workers in (1, 4))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", PIPELINES)
def test_the_ranks_together_see_what_one_rank_sees(name: str, world: int) -> None:
    pipeline = PIPELINES[name]()
    shares = [batches(pipeline, rank=rank, world_size=world) for rank in range(world)]
    assert same([group for turn in zip(*shares, strict=True) for group in turn], batches(pipeline))


def test_a_resumed_stream_goes_on_where_it_was() -> None:
    pipeline = coloured()
    assert same(batches(pipeline, start=3), batches(pipeline)[3 * RECIPE.groups :])


def test_the_stream_does_not_depend_on_what_was_drawn_before() -> None:
    pipeline = coloured()
    before = batches(pipeline)
    torch.rand(5), np.random.rand(3)
    assert same(before, batches(pipeline))


def labels_of(stream: Batches) -> list[list[int]]:
    return [labels.tolist() for _, labels in stream]


def by_image(stream: Batches) -> dict[int, torch.Tensor]:
    return {int(label): image for images, labels in stream for image, label in zip(images, labels, strict=True)}


def test_another_epoch_or_seed_draws_another_order_and_other_augmentations() -> None:
    pipeline = coloured()
    half = len(batches(pipeline)) // 2
    first, second = batches(pipeline)[:half], batches(pipeline)[half:]
    other = batches(replace(pipeline, trial=replace(pipeline.trial, seed=1)))[:half]
    for stream in (second, other):
        assert labels_of(stream) != labels_of(first)
        a, b = by_image(first), by_image(stream)
        assert sum(not torch.equal(a[i], b[i]) for i in a.keys() & b.keys()) == len(a.keys() & b.keys()) > 10


@pytest.mark.parametrize("images", [64, 70])
def test_an_epoch_visits_each_image_once_and_leaves_out_less_than_a_batch(images: int) -> None:
    sampler = GroupSampler(images, RECIPE, seed=3)
    assert sorted(sampler.order(5).tolist()) == list(range(images))
    keys = [key for group in sampler for key in group]
    assert len(keys) == len(set(keys)) == 2 * (images // 16) * 16
    assert {len(group) for group in sampler} == {RECIPE.group_size}
    assert len(list(sampler)) == len(sampler)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("part", ["test", "validation"])
def test_each_image_is_evaluated_once_whatever_the_number_of_ranks(part: str, world: int) -> None:
    pipeline = coloured(count=41)
    pipeline = replace(pipeline, validation_indices=np.arange(0, 41, 3))
    seen: list[int] = []
    for rank in range(world):
        for _, labels in pipeline.views(part, rank=rank, world_size=world):
            seen += labels.tolist()
    want = range(41) if part == "test" else range(0, 41, 3)
    assert Counter(seen) == Counter(want)


def test_the_test_split_is_never_trained_on_and_validation_images_neither() -> None:
    pipeline = digits(replace(find_recipe("digits-adamw"), epochs=1, warmup_epochs=0))
    assert not set(pipeline.train_indices) & set(pipeline.validation_indices)
    assert len(pipeline.train_indices) + len(pipeline.validation_indices) == len(pipeline.train) == 1297
    assert pipeline.test is not pipeline.train and len(pipeline.test) == 500
    indices = {int(pipeline.train_indices[position]) for group in pipeline.sampler() for _, position in group}
    assert not indices & set(pipeline.validation_indices.tolist())


def test_every_seed_has_the_same_validation_split() -> None:
    trials = (trial_of(NAMED["digits"], find_recipe("digits-adamw"), seed) for seed in (0, 1))
    first, second = (Pipeline.open(trial).validation_indices.tolist() for trial in trials)
    assert first == second


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.name)
@pytest.mark.parametrize("data", [NAMED["digits"], NAMED["cifar10"]], ids=lambda d: d.name)
def test_every_recipe_gives_tensors_of_the_networks_shape(recipe: Recipe, data: Data) -> None:
    shape = (data.in_chans, data.image_size, data.image_size)
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (40, 50) if data.in_chans == 1 else (40, 50, 3), dtype=np.uint8)
    )
    for transform in (train_transform(recipe, data), eval_transform(recipe, data)):
        x = transform(image)
        assert x.shape == shape and x.dtype == torch.float32 and torch.isfinite(x).all()


def test_the_whole_image_is_seen_by_evaluation_where_the_recipe_says_so() -> None:
    data = replace(NAMED["cifar10"], mean=(0.0,) * 3, std=(1.0,) * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    x = eval_transform(find_recipe("cifar-adamw"), data)(Image.fromarray(pixels))
    assert np.array_equal((x * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0), pixels)


def test_the_papers_augmentation_survives_two_thousand_images() -> None:
    """timm 1.0.31 with Pillow 13 posterizes to 0 bits and raises on 0.17 % of images."""
    size = 2000
    pixels = np.random.default_rng(1).integers(0, 256, (size, 8, 8, 3), dtype=np.uint8)
    data = replace(NAMED["cifar10"], image_size=8)
    samples = Samples(
        ArrayImages(pixels, [0] * size), np.arange(size), train_transform(find_recipe("convnext-300ep"), data), seed=0
    )
    assert {samples[0, i].pixels.shape for i in range(size)} == {(8, 8, 3)}


def test_a_training_split_smaller_than_a_batch_is_refused(image_folder: MakeFolder) -> None:
    folder = image_folder()
    with pytest.raises(DataError) as e:
        Pipeline.open(trial_of(resolve_data("imagefolder", data_dir=folder, image_size=16)), data_dir=folder)
    assert str(e.value).startswith("data 'imagefolder' has 8 training images, fewer than one global batch of 16; ")
    assert str(e.value).endswith("; choose a recipe with a smaller batch")


# Faults while training -----------------------------------------------------------------------------------------------


@pytest.fixture
def short_run(tmp_path: Path, image_folder: MakeFolder) -> Iterator[tuple[RunFolder, Path]]:
    """A run on a small image folder, and that folder."""
    images = image_folder(counts={"train": 16, "test": 2})
    recipe = replace(find_recipe("digits-adamw"), batch_size=8, group_size=8, epochs=200, warmup_epochs=0)
    folder = RunFolder(tmp_path / "runs" / "study" / "run")
    folder.prepare(trial_of(resolve_data("imagefolder", data_dir=images, image_size=16), recipe))
    yield folder, images


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_damaged_while_training_fails_the_run_and_is_named(
    short_run: tuple[RunFolder, Path], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roadmap.train.execute import execute

    monkeypatch.setattr(held, "HELD_BYTES", 0)
    folder, images = short_run
    path = images / "train" / "cat" / "007.png"
    path.write_bytes(path.read_bytes()[:100])
    record = execute(folder, Runtime(data_dir=images, workers=workers, device="cpu"))
    assert record == folder.record()
    assert record.status == "failed"
    assert record.error.startswith(f"image {path} cannot be decoded: ")
    assert record.error.endswith("; legal: whole images; replace or remove it")
    assert not multiprocessing.active_children()


def test_a_killed_loader_worker_fails_the_run_with_a_clear_error(
    short_run: tuple[RunFolder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two epochs, when the only worker is the one that loads for training."""
    from roadmap.train.execute import execute

    folder, images = short_run
    killed: list[int] = []
    plain = RunFolder.append_epoch

    def append_epoch(self: RunFolder, metrics: dict[str, Any], losses: list[float]) -> None:
        plain(self, metrics, losses)
        (worker,) = multiprocessing.active_children()
        killed.append(worker.pid or 0)
        os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(RunFolder, "append_epoch", append_epoch)
    record = execute(folder, Runtime(data_dir=images, workers=1, device="cpu"))
    assert len(killed) == 1
    assert record.status == "failed"
    assert record.error.startswith(f"loader worker (pid {killed[0]}) was killed by SIGKILL; legal: ")
    assert folder.record() == record
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_run_with_workers_ends_soon_after_a_damaged_image(tmp_path: Path, image_folder: MakeFolder) -> None:
    """Its exit waits for no worker, and tells that the run failed."""
    images = image_folder(counts={"train": 64, "test": 2})
    data, recipe = ("--data", "imagefolder", "--data-dir", images), ("--batch-size", 8, "--epochs", 100)
    without_memory = (
        "import sys; from roadmap.data import held; from roadmap.cli.main import main; held.HELD_BYTES = 0; "
    )
    command = [
        sys.executable,
        "-c",
        without_memory + "sys.exit(main(sys.argv[1:]))",
        "run",
        "--step",
        "9",
        *data,
        *recipe,
        "--image-size",
        16,
        "--workers",
        2,
    ]
    process = subprocess.Popen(
        [*map(str, command), "--regime", "micro", "--runs", str(tmp_path / "runs")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: list(tmp_path.glob("runs/*/*/metrics.jsonl")) or process.poll() is not None)
    assert process.poll() is None, process.stderr and process.stderr.read()
    for path in images.glob("train/*/*.png"):
        path.write_bytes(path.read_bytes()[:100])
    assert process.wait(timeout=60) == 1
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/record.json"))
    assert record["status"] == "failed" and "cannot be decoded" in record["error"]
