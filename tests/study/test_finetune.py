"""A published network fine-tuned from a file of weights, and its answers for a folder of images."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import roadmap
from roadmap.data.pipeline import eval_transform
from roadmap.runs.folder import RunFolder

WORDS = (
    "--variant",
    "convnextv2_atto",
    "--data",
    "imagefolder",
    "--image-size",
    "32",
    "--epochs",
    "1",
    "--batch-size",
    "4",
    "--validation",
    "0.25",
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """timm's network of 1,000 classes with random weights."""
    torch.manual_seed(0)
    save_file(timm.create_model("convnextv2_atto").state_dict(), tmp_path / "atto.safetensors")
    return tmp_path / "atto.safetensors"


@pytest.fixture
def finished(command: Callable[..., Any], image_folder: Callable[..., Path], weights: Path) -> tuple[RunFolder, Path]:
    """A run fine-tuned from these weights, and its images."""
    data = image_folder()
    answer = command("run", *WORDS, "--data-dir", data, "--init", weights, "--runs", "runs")
    assert answer.status == 0, answer.err
    assert "left head.fc.weight" in answer.err, "what became of each tensor is told"
    (folder,) = (p.parent for p in Path("runs").glob("*/*/trial.json"))
    return RunFolder(folder), data


def test_fine_tuning_follows_the_networks_own_table_and_its_trial_names_the_weights(
    finished: tuple[RunFolder, Path], weights: Path
) -> None:
    trial = finished[0].trial()
    assert trial.init == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (trial.recipe.layer_decay, trial.recipe.mixup, trial.recipe.cutmix, trial.model.head_init_scale) == (
        0.9,
        0.0,
        0.0,
        0.001,
    )
    assert trial.recipe.lr == pytest.approx(8e-4 * 4 / 1024)
    assert (trial.model.num_classes, trial.model.grn, trial.model.layer_scale) == (2, True, None)
    record = finished[0].record()
    assert record is not None
    assert (record.status, record.init) == ("finished", trial.init)


def test_training_began_at_the_weights_of_the_file(finished: tuple[RunFolder, Path], weights: Path) -> None:
    """At this learning rate one epoch moves little: the body is still the file's."""
    from safetensors.torch import load_file

    theirs, ours = load_file(weights), roadmap.load(finished[0].path / "weights.safetensors").state_dict()
    assert torch.allclose(
        ours["stages.2.blocks.1.conv_dw.weight"], theirs["stages.2.blocks.1.conv_dw.weight"], atol=1e-4
    )


def test_other_weights_are_another_trial_and_never_taken_for_these(
    command: Callable[..., Any], image_folder: Callable[..., Path], weights: Path
) -> None:
    data = image_folder()
    plan = command("plan", *WORDS, "--data-dir", data, "--init", weights, "--json").json()
    state = timm.create_model("convnextv2_atto").state_dict()
    save_file({k: v + 1 for k, v in state.items()}, weights)
    other = command("plan", *WORDS, "--data-dir", data, "--init", weights, "--json").json()
    assert plan["trials"][0]["fingerprint"] != other["trials"][0]["fingerprint"]


def test_a_missing_file_and_weights_of_another_network_are_refused(
    command: Callable[..., Any], image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = image_folder()
    command("run", *WORDS, "--data-dir", data, "--init", tmp_path / "none.pth").refused(
        "none.pth cannot be read: No such file or directory", "check the path"
    )
    save_file(timm.create_model("convnextv2_femto").state_dict(), tmp_path / "femto.safetensors")
    answer = command("run", *WORDS, "--data-dir", data, "--init", tmp_path / "femto.safetensors", "--json")
    assert answer.status == 1
    assert "does not fit the network" in answer.out


def test_predictions_are_the_networks_best_classes_by_name(
    finished: tuple[RunFolder, Path], command: Callable[..., Any]
) -> None:
    folder, data = finished
    answer = command("predict", folder.path, data / "test", "--top-k", "2")
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert [r["file"] for r in rows] == ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png"]
    trial, model = folder.trial(), roadmap.load(folder.path / "weights.safetensors")
    transform = eval_transform(trial.recipe, trial.data)
    for row in rows:
        with torch.no_grad():
            expected = model(transform(Image.open(data / "test" / row["file"]))[None]).softmax(1)[0]
        assert row["class_1"] == ("cat", "dog")[int(expected.argmax())]
        assert float(row["probability_1"]) == pytest.approx(float(expected.max()), abs=1e-5)
        assert {row["class_1"], row["class_2"]} == {"cat", "dog"}


def test_predictions_of_a_file_and_its_refusals(
    finished: tuple[RunFolder, Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    folder, data = finished
    answer = command(
        "predict",
        folder.path / "weights.safetensors",
        data / "test",
        "--top-k",
        "1",
        "--image-size",
        "32",
        "--out",
        tmp_path / "answers.csv",
    )
    assert answer.status == 0
    assert (tmp_path / "answers.csv").read_text().startswith("file,class_1,probability_1\n")
    command("predict", folder.path, tmp_path / "nowhere").refused("nowhere does not exist")
    command("predict", folder.path, data / "test", "--top-k", "3").refused(
        "--top-k is 3; legal: 1 to 2, the network's classes"
    )
    (data / "test" / "cat" / "000.png").write_bytes(b"not an image")
    command("predict", folder.path, data / "test", "--top-k", "1").refused("cat/000.png cannot be decoded")
