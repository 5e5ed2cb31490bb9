"""`pipeline: tensor`: decoded once, augmented in batches, and the stream depends on seed, epoch and index alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roadmap.config.data import Data
from roadmap.config.errors import ConfigError
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import RECIPES, find_recipe
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data import tensor_stream
from roadmap.data.batched_augmentation import RandAugment
from roadmap.data.held import ArrayImages
from roadmap.data.pipeline import Pipeline
from roadmap.data.registry import NAMED, resolve_data
from roadmap.train.execute import execute
from tests.helpers.convnext import resolve
from tests.helpers.small_runs import make_run, make_trial

MakeFolder = Callable[..., Path]
Batches = list[tuple[torch.Tensor, torch.Tensor]]
SMALL = {"batch_size": 16, "group_size": 4, "epochs": 2, "warmup_epochs": 0, "pipeline": "tensor"}
RECIPE = replace(find_recipe("cifar-adamw"), **SMALL)  # RandAugment, erasing, flips, padded crops
PLAIN = replace(RECIPE, augmentation="none", random_erasing=0.0, hflip=0.0, crop="none")


def trial_of(data: Data, recipe: Recipe = RECIPE, seed: int = 0) -> Trial:
    model = resolve("9", "micro", num_classes=data.num_classes, in_chans=data.in_chans)
    return Trial(model=model, recipe=recipe, data=data, seed=seed)


def coloured(recipe: Recipe = RECIPE, seed: int = 0, count: int = 40) -> Pipeline:
    """RGB images in memory, with labels that tell which image is which."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    images = ArrayImages(pixels, list(range(count)))
    data = replace(NAMED["cifar10"], num_classes=count, validation=0.0, image_size=32)
    decoded = images if recipe.pipeline == "tensor" else None
    nothing = np.array([], dtype=int)
    return Pipeline(trial_of(data, recipe, seed), images, images, np.arange(count), nothing, decoded=decoded)


def digits(recipe: Recipe = RECIPE) -> Pipeline:
    return Pipeline.open(trial_of(replace(NAMED["digits"], validation=0.8), replace(recipe, batch_size=128)))


def batches(pipeline: Pipeline, **place: int) -> Batches:
    return list(pipeline.stream(pipeline.sampler(**place)))


def same(a: Batches, b: Batches) -> bool:
    pairs = list(zip(a, b, strict=True))
    return all(torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in pairs)


@pytest.mark.parametrize("crop", ["padded", "resized"])
@pytest.mark.parametrize("opened", [coloured, digits])
def test_the_stream_is_the_same_for_any_ranks_chunks_and_start(
    opened: Callable[..., Pipeline], crop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = opened(replace(RECIPE, crop=crop))
    alone, groups = batches(pipeline), pipeline.trial.recipe.groups
    monkeypatch.setattr(tensor_stream, "CHUNK_PIXELS", 1)
    shares = [batches(pipeline, rank=rank, world_size=4) for rank in range(4)]
    assert same([group for turn in zip(*shares, strict=True) for group in turn], alone)
    assert same(batches(pipeline, start=2), alone[2 * groups :])


def test_another_seed_or_epoch_draws_otherwise() -> None:
    streams = batches(coloured()), batches(coloured(seed=1))
    half = len(streams[0]) // 2
    images = [torch.cat([images for images, _ in part]) for part in (streams[0][:half], streams[0][half:], streams[1])]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2][: len(images[0])])


@pytest.mark.parametrize("opened", [coloured, digits])
def test_without_draws_both_pipelines_give_the_same_images_in_the_same_order(opened: Callable[..., Pipeline]) -> None:
    tensors, images = (batches(opened(replace(PLAIN, pipeline=name))) for name in ("tensor", "pil"))
    assert [labels.tolist() for _, labels in tensors] == [labels.tolist() for _, labels in images]
    for (ours, _), (theirs, _) in zip(tensors, images, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_with_draws_the_pipelines_agree_in_mean_and_deviation() -> None:
    recipe = replace(RECIPE, epochs=40)
    tensors, images = (
        torch.cat([images for images, _ in batches(coloured(replace(recipe, pipeline=name)))])
        for name in ("tensor", "pil")
    )
    assert abs(tensors.mean() - images.mean()) < 0.05
    assert abs(tensors.std() / images.std() - 1) < 0.03


# Data sets that are files ---------------------------------------------------------------------------------------------


def of_folder(folder: Path, size: int = 16, **recipe: object) -> Pipeline:
    data = replace(resolve_data("imagefolder", data_dir=folder, image_size=size), validation=0.2)
    small = replace(RECIPE, batch_size=8, group_size=4, **recipe)  # type: ignore[arg-type]
    return Pipeline.open(trial_of(data, small), data_dir=folder)


@pytest.mark.parametrize("crop", ["padded", "none", "resized"])
def test_a_small_folder_is_decoded_once_and_said_so(
    image_folder: MakeFolder, crop: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(counts={"train": 5, "test": 2})
    pipeline = of_folder(folder, crop=crop)
    assert "10 training images are decoded into memory" in capsys.readouterr().err
    monkeypatch.setattr(Image, "open", None)  # no file is read any more
    assert [images.shape for images, _ in batches(pipeline)] == [(4, 3, 16, 16)] * 4


def test_a_folder_gives_the_pixels_that_pil_gives_in_training_and_evaluation(image_folder: MakeFolder) -> None:
    folder = image_folder(size=40, counts={"train": 10, "test": 2})
    off = {"augmentation": "none", "random_erasing": 0.0, "hflip": 0.0, "crop": "none"}
    opened = [of_folder(folder, **off, test_crop=0.8, pipeline=name) for name in ("tensor", "pil")]
    for (x, _), (y, _) in zip(*(batches(pipeline) for pipeline in opened), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    assert same(*(list(pipeline.views("validation")) for pipeline in opened))


# The recipe -----------------------------------------------------------------------------------------------------------


def test_the_pipeline_is_part_of_a_trials_identity_and_pil_is_what_older_trials_did() -> None:
    trial = make_trial()
    assert "pipeline" not in trial.identity()["recipe"]
    assert replace(trial, recipe=replace(trial.recipe, pipeline="tensor")).fingerprint != trial.fingerprint


@pytest.mark.parametrize(
    "text",
    [
        "rand-m9-mstd0.5",
        "rand-m9-inc0",
        "rand-inc1-inc0",
        "rand-inc1-inc1",
        "augmix-m3",
        "original",
        "rand-inc1-tweights",
    ],
)
def test_policies_that_batches_cannot_have_are_refused_by_the_recipe(text: str) -> None:
    with pytest.raises(
        ConfigError, match="Recipe.augmentation is .* legal: none, or rand with .*; set pipeline to pil"
    ):
        replace(RECIPE, augmentation=text)


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-inc1", "rand-inc1-m5-n3-p0.7"])
def test_policies_that_the_recipe_takes_can_be_drawn_from(text: str) -> None:
    assert RandAugment.parse(replace(RECIPE, augmentation=text).augmentation)


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_may_ask_for_tensors(name: str) -> None:
    assert tensor_stream.batched_augmentation(replace(find_recipe(name), pipeline="tensor"), NAMED["cifar10"])


@pytest.mark.slow
def test_a_run_on_tensors_trains(tmp_path: Path) -> None:
    record = execute(make_run(tmp_path, make_trial(pipeline="tensor", epochs=2)), Runtime(threads=1))
    assert record.status == "finished"
    assert record.metrics["top1"] > 50
    assert record.resolved["recipe"]["pipeline"] == "tensor"
