"""What cannot be is refused before training: exit status 2, the field, its value, what is legal, what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from roadmap.config.errors import RoadmapError

Command = Callable[..., Any]
MakeFolder = Callable[..., Path]


class Case(NamedTuple):
    """A command line, the field and value that its refusal names, and a part of what is legal and of the advice."""

    words: str
    field: str
    value: str
    legal: str = ""
    advice: str = ""


REFUSED = [
    Case("stpes", "VERB", "'stpes'", "plan", "'steps'"),
    Case("", "VERB", "missing", "plan", "--help"),
    Case("run --jbos 3", "option", "'--jbos'", "--jobs", "'--jobs'"),
    Case("run --ste=9", "option", "'--ste=9'", "--step", "'--step'"),
    Case("run 9", "argument", "'9'", "--step"),
    Case("run --precision fp8", "--precision", "'fp8'", "auto, fp32, bf16, fp16", "'fp16'"),
    Case("run --jobs 0", "--jobs", "'0'", "integers from 1"),
    Case("run --workers -1", "--workers", "'-1'", "integers from 0"),
    Case("run --checkpoint-every 0", "--checkpoint-every", "'0'", "integers from 1"),
    Case("run --checkpoint-minutes -1", "--checkpoint-minutes", "'-1'", "minutes from 0"),
    Case("run --eval-every 0", "--eval-every", "'0'", "integers from 1"),
    Case("run --step 9 --set recipe.accuracy=best --eval-every 2", "--eval-every", "2", "1", "leave --eval-every out"),
    Case("run --seeds one", "--seeds", "'one'", "integers from 0"),
    Case("run --seeds 1 1", "seeds", "[1, 1]", "once", "remove"),
    Case("run --step 9b", "step", "'9b'", "0, 1, 2", "'9'"),
    Case("run --step patchify", "step", "'patchify'", "patchify-stem", "'patchify-stem'"),
    Case("run --regime resnet5O", "regime", "'resnet5O'", "resnet50, resnet200", "'resnet50'"),
    Case("run --recipe digits-adam", "recipe", "'digits-adam'", "pytorch-90ep", "'digits-adamw'"),
    Case("run --data cifar-10", "data", "'cifar-10'", "digits, cifar10", "'cifar10'"),
    Case("run --set kernel=9", "override", "'kernel'", "depths", "'kernel_size'"),
    Case("run --set norm=layr", "norm", "'layr'", "batch, layer", "'layer'"),
    Case("run --step 0 --set downsampling=separate", "downsampling", "separate"),
    Case("run --set downsampling=none", "downsampling", "none"),
    Case("run --name ../x", "study.name", "'../x'", "letters", "--name"),
    Case("run --num-classes 11", "classes", "11", "10", "--num-classes"),
    Case("run --study nowhere.yaml", "study", "'nowhere.yaml'", "kernel"),
    Case("run --data imagefolder", "data", "'imagefolder'", "train/CLASS/IMAGE", "--data-dir"),
    Case("run --data imagefolder --data-dir nowhere", "data folder", "nowhere", "train/ and test/", "--data-dir"),
    Case("run --data imagefolder --data-dir empty", "data folder", "empty", "CLASS/IMAGE", "--data-dir"),
    Case("run --data cifar10 --data-dir empty", "data 'cifar10'", "empty", "", "--download"),
    Case("run --step 9 --runs file/x", "file/x/digits", "Not a directory", "writable", "--runs"),
    Case("run --variant convnext_tin", "variant", "'convnext_tin'", "convnext_tiny", "'convnext_tiny'"),
    Case("run --step 9 --variant convnext_tiny", "--step 9", "--variant convnext_tiny", "one of them", "leave one out"),
    Case("run --step 0 --step 1 --design single", "--step", "2 times", "one step"),
    Case("run --step 9 --batch-size 100", "batch_size", "100", "whole groups"),
    Case("steps --regime micrO0", "regime", "'micrO0'"),
    Case("steps --set kernel_size=4", "kernel_size", "4", "odd", "3 or 5"),
    Case("diff 1 twelve", "step", "'twelve'"),
    Case("bench --study nothing", "study", "'nothing'"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.words[:60] or "nothing")
def test_what_cannot_be_is_refused_before_anything_is_trained(command: Command, tmp_path: Path, case: Case) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    refusal = command(*case.words.split()).refusal()
    assert case.field in refusal.what and case.value in refusal.what
    assert case.legal in refusal.legal and case.advice in refusal.advice
    assert not list(tmp_path.rglob("record.json")) and not list(tmp_path.rglob("attempts.jsonl"))


def test_a_name_that_begins_like_an_option_is_refused(command: Command) -> None:
    answer = command("run", "--name", "-rf")
    assert answer.status == 2 and "--name" in answer.err


def test_initial_weights_that_are_not_there_are_refused(command: Command) -> None:
    answer = command("run", "--step", "9", "--init", "nowhere.safetensors")
    assert answer.status == 2 and "nowhere.safetensors" in answer.err


# Old spellings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "old", "new"),
    [
        ("run --step 9 --out x", "--out", "--runs"),
        ("plan --out=x", "--out", "--runs"),
        ("status --out x", "--out", "--runs"),
        ("logs --seed 0", "--seed", "--seeds"),
        ("cancel --out x", "--out", "--runs"),
        ("retry --seed=0", "--seed", "--seeds"),
        ("preemption-test --out x", "--out", "--runs"),
        ("drill --study x", "'drill'", "'preemption-test'"),
    ],
)
def test_an_old_spelling_is_refused_with_the_new_one(command: Command, words: str, old: str, new: str) -> None:
    refusal = command(*words.split()).refusal()
    assert old in refusal.what and new in refusal.what
    assert new.strip("'") in refusal.legal and new.strip("'") in refusal.advice


# Images -----------------------------------------------------------------------------------------


def truncate(folder: Path) -> None:
    whole = (folder / "train" / "dog" / "001.png").read_bytes()
    (folder / "train" / "dog" / "000.png").write_bytes(whole[:200])


def write_text(folder: Path) -> None:
    (folder / "test" / "cat" / "001.png").write_bytes(b"not an image")


def write_nothing(folder: Path) -> None:
    (folder / "train" / "dog" / "000.png").write_bytes(b"")


def remove_a_classs_images(folder: Path) -> None:
    for image in (folder / "train" / "dog").iterdir():
        image.unlink()


def rename_a_class(folder: Path) -> None:
    (folder / "test" / "dog").rename(folder / "test" / "dgo")


@pytest.mark.parametrize(
    ("damage", "path", "advice"),
    [
        (truncate, "train/dog/000.png", "replace"),
        (write_text, "test/cat/001.png", "replace"),
        (write_nothing, "train/dog/000.png", "replace"),
        (remove_a_classs_images, "train/dog", ""),
        (rename_a_class, "dgo", ""),
    ],
)
def test_a_damaged_folder_is_refused_with_the_path(
    command: Command,
    image_folder: MakeFolder,
    tmp_path: Path,
    damage: Callable[[Path], None],
    path: str,
    advice: str,
) -> None:
    folder = image_folder()
    damage(folder)
    refusal = command("run", "--step", "9", "--data", "imagefolder", "--data-dir", folder).refusal()
    assert path in refusal.what and advice in refusal.advice
    assert not (tmp_path / "runs").exists()


def test_a_count_of_classes_that_is_not_the_folders_is_refused(command: Command, image_folder: MakeFolder) -> None:
    words = ("run", "--data", "imagefolder", "--data-dir", image_folder())
    refusal = command(*words, "--num-classes", "3").refusal()
    assert "2 classes, not 3" in refusal.what and "--num-classes" in refusal.advice
    assert "num_classes is 3" in command(*words, "--set", "num_classes=3").refusal().what


def test_an_image_smaller_than_the_networks_stride_is_refused(command: Command) -> None:
    refusal = command("run", "--step", "9", "--image-size", "8").refusal()
    assert "image_size is 8" in refusal.what and "16 pixels" in refusal.what


# Batches, ranks, folders ------------------------------------------------------------------------


def test_a_batch_that_the_ranks_do_not_divide_is_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    refusal = command("run", "--step", "9", "--recipe", "cifar-sgd").refusal()
    assert "batch_size is 256" in refusal.what and "3 ranks" in refusal.what
    assert "1, 2 ranks" in refusal.legal and "batch_size" in refusal.advice
    assert not (tmp_path / "runs").exists()


def test_a_micro_batch_that_does_not_divide_a_ranks_images_is_refused_before_it_is_exported(
    command: Command, tmp_path: Path
) -> None:
    words = ("run", "--launcher", "export", "--yes", "--step", "9", "--recipe", "cifar-sgd", "--gpus-per-node", "2")
    refusal = command(*words, "--micro-batch", "256").refusal()
    assert "--micro-batch is 256" in refusal.what and "128 images on each rank" in refusal.what
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("launch.json"))


def test_a_batch_larger_than_the_data_set_is_refused(command: Command, tmp_path: Path) -> None:
    refusal = command("run", "--step", "0", "--recipe", "convnext-300ep", "--epochs", "1").refusal()
    assert "4096" in refusal.what and "--batch-size" in refusal.advice
    assert not list(tmp_path.rglob("trial.json"))


def test_a_run_folder_of_another_trial_is_refused(command: Command, tmp_path: Path) -> None:
    mine, other = (command("plan", "--step", "9", "--seeds", seed, "--json").json()["trials"][0] for seed in (0, 1))
    folder = tmp_path / "runs" / "digits" / mine["id"]
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps(other))
    refusal = command("run", "--step", "9").refusal()
    assert mine["id"] in refusal.what
    assert all(trial["fingerprint"][:10] in refusal.what for trial in (mine, other))


def test_an_output_that_the_system_refuses_is_no_traceback(command: Command, tmp_path: Path) -> None:
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "study.json").mkdir()
    assert "runs/digits/study.json" in command("run", "--step", "9").refusal().what


def test_an_error_for_the_user_is_one_line_a_problem(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> int:
        raise RoadmapError("one\ntwo")

    monkeypatch.setattr("roadmap.cli.ladder.show_steps", broken)
    assert command("steps").err.splitlines() == ["roadmap steps: error: one", "roadmap steps: error: two"]
