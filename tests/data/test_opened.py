"""Images that are open already: given again where they are the same, never when a file has changed."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roadmap.config.recipe import Recipe
from roadmap.config.trial import Trial
from roadmap.data import digest, opened
from roadmap.data.digest import data_digests
from roadmap.data.opened import OpenedImages, stamp_of
from roadmap.data.pipeline import Pipeline
from roadmap.data.registry import resolve_data
from tests.helpers.small_runs import make_trial

SMALL = {"batch_size": 4, "group_size": 4, "epochs": 2, "warmup_epochs": 0}


def batches(pipeline: Pipeline) -> list[torch.Tensor]:
    """The first batches of training, and all of both views."""
    with pipeline.stream(pipeline.sampler()) as stream:
        trained = [t for _, batch in zip(range(3), stream, strict=False) for t in batch]
    return trained + [t for part in ("validation", "test") for batch in pipeline.views(part) for t in batch]


def same(a: Pipeline, b: Pipeline) -> bool:
    left, right = batches(a), batches(b)
    return len(left) == len(right) and all(map(torch.equal, left, right))


def on(trial: Trial, **recipe: object) -> Trial:
    return replace(trial, recipe=replace(trial.recipe, **recipe))  # type: ignore[arg-type]


@pytest.mark.parametrize("pipeline", ["pil", "tensor"])
def test_a_further_run_sees_the_bits_that_it_sees_alone(pipeline: str) -> None:
    kept = OpenedImages()
    first = on(make_trial(seed=0), pipeline=pipeline)
    batches(kept.open(first, data_dir=None))
    other = on(make_trial("kernel-7", seed=3), lr=0.1, mixup=0.0, hflip=1.0, epochs=3, pipeline=pipeline)
    again = kept.open(other, data_dir=None)
    assert again.trial == other
    assert again.train is kept.open(first, data_dir=None).train, "nothing was opened anew"
    assert again.views("test") is kept.open(first, data_dir=None).views("test"), "nor decoded anew"
    assert same(again, Pipeline.open(other))


def test_views_that_only_a_later_run_has_come_to_are_kept_too() -> None:
    kept, trial = OpenedImages(), make_trial()
    kept.open(trial, data_dir=None)  # its run diverged before its first evaluation
    second = kept.open(on(trial, lr=0.1), data_dir=None)
    views = second.views("test")
    assert kept.open(trial, data_dir=None).views("test") is views


def test_the_digest_of_images_is_made_once_of_those_that_several_runs_see(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, trial = OpenedImages(), make_trial()
    contents = data_digests(kept.open(trial, data_dir=None))
    monkeypatch.setattr(digest, "digest_of_images", lambda *_: "anew")
    assert data_digests(kept.open(on(trial, lr=0.1), data_dir=None)) == contents
    other = data_digests(kept.open(on(trial, crop="none"), data_dir=None))
    assert set(other.values()) == {"anew"}, "other images are looked at"


@pytest.mark.parametrize("change", [{"crop": "none"}, {"test_crop": 0.5}, {"group_size": 32}, {"pipeline": "tensor"}])
def test_a_run_that_sees_its_images_otherwise_opens_its_own(change: dict[str, object]) -> None:
    kept, trial = OpenedImages(), make_trial()
    first = kept.open(trial, data_dir=None)
    other = kept.open(on(trial, **change), data_dir=None)
    assert other.train_indices is not first.train_indices
    assert same(other, Pipeline.open(on(trial, **change)))


def test_a_setting_that_nobody_has_thought_about_yet_counts_as_one_that_changes_the_images() -> None:
    names = {field.name for field in fields(Recipe)}
    assert names >= opened._NOT_OPENED
    deciding = {"batch_size", "group_size", "mix_group_size", "crop", "interpolation", "pipeline"}
    assert names - opened._NOT_OPENED >= deciding | {"test_crop", "test_resize"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of eight images, taken to be old enough for their times to tell every change."""
    monkeypatch.setattr(opened, "SETTLED_NS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "images"
    for split in ("train", "test"):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for i in range(8):
                write(root / split / label / f"{i}.bmp", value=i)
    return root


def write(path: Path, value: int) -> None:
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(path)


def of_folder(root: Path) -> Trial:
    data = resolve_data("imagefolder", data_dir=root, image_size=32, validation=0.25)
    model = replace(make_trial().model, in_chans=3, num_classes=2)
    return on(replace(make_trial(), data=data, model=model), **SMALL)


@pytest.mark.parametrize("pipeline", ["pil", "tensor"])
def test_an_image_that_is_written_over_is_read_again(folder: Path, pipeline: str) -> None:
    kept, trial = OpenedImages(), on(of_folder(folder), pipeline=pipeline)
    before = kept.open(trial, data_dir=folder)
    old = batches(before)
    assert kept.open(trial, data_dir=folder).train is before.train
    changed = folder / "test" / "a" / "3.bmp"
    size = changed.stat().st_size
    write(changed, value=4)
    assert changed.stat().st_size == size
    now = kept.open(trial, data_dir=folder)
    assert not all(map(torch.equal, batches(now), old))
    assert same(now, Pipeline.open(trial, data_dir=folder))


def test_another_folder_is_opened_anew(folder: Path, tmp_path: Path) -> None:
    kept, trial = OpenedImages(), of_folder(folder)
    first = kept.open(trial, data_dir=folder)
    folder.rename(tmp_path / "moved")
    assert kept.open(trial, data_dir=tmp_path / "moved").train is not first.train


def test_what_cannot_be_told_to_be_unchanged_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stamp_of("cifar10", folder) is not None
    assert stamp_of("hfds/somewhere", folder) is None, "lies in a cache of its own"
    assert stamp_of("cifar10", None) is None
    assert stamp_of("cifar10", folder / "absent") is None
    monkeypatch.setattr(opened, "MOST_ENTRIES", 10)
    assert stamp_of("cifar10", folder) is None
    monkeypatch.undo()
    assert stamp_of("cifar10", folder) is None, "files of this second may change within the tick of their times"


def test_no_two_sets_of_images_are_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, trial = OpenedImages(), make_trial()
    kept.open(trial, data_dir=None)
    plain = Pipeline.open

    def open_after_a_look(*args: object, **how: object) -> Pipeline:
        assert kept._pipeline is None
        return plain(*args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Pipeline, "open", open_after_a_look)
    kept.open(on(trial, crop="none"), data_dir=None)
    assert kept._pipeline is not None
