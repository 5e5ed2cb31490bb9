"""sanity: one table and one exit status before a long study."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roadmap.config.recipes import find_recipe
from roadmap.config.trial import Trial
from roadmap.model.build import build_network
from roadmap.runs.folder import RunFolder
from roadmap.train import sanity
from roadmap.train.sanity import KnownNetwork
from tests.helpers.convnext import resolve

Command = Callable[..., Any]
MakeFolder = Callable[..., Path]
DIGITS = Path(__file__).parents[2] / "results" / "digits"


@pytest.fixture
def stored(command: Command, tmp_path: Path) -> Callable[..., Path]:
    """The committed runs of the digits ladder, and a run folder of its baseline with these losses."""
    shutil.copytree(DIGITS, tmp_path / "results" / "digits")

    def run(*losses: float) -> Path:
        trial = Trial.from_json(command("plan", "--study", "digits", "--json").json()["trials"][0])
        folder = RunFolder(tmp_path / "elsewhere" / trial.id)
        folder.prepare(trial)
        folder.keep_epochs(0)
        for epoch, loss in enumerate(losses, 1):
            folder.append("metrics.jsonl", {"epoch": epoch, "train_loss": loss, "top1": 50.0})
        return folder.path

    return run


def verdicts(answer: Any) -> list[str]:
    return [check["verdict"] for check in json.loads(answer.out)]


def test_first_epochs_inside_the_band_pass_and_others_fail(command: Command, stored: Callable[..., Path]) -> None:
    words = ("sanity", "digits", "--first-epochs", "2", "--json", "--run")
    sound = command(*words, stored(2.1, 1.2))
    assert sound.status == 0 and verdicts(sound) == ["not checked", "pass", "pass"]
    odd = command(*words, stored(2.4, 2.4))
    assert odd.status == 1 and verdicts(odd) == ["not checked", "fail", "pass"]
    early = command(*words[:-1], "--run", stored())
    assert early.status == 1


def test_without_stored_runs_it_says_so_and_passes_nothing(command: Command) -> None:
    answer = command("sanity", "digits", "--step", "0")
    assert answer.status == 1
    assert "no stored band: results/digits/records.jsonl" in answer.out
    assert "printed for imagenet" in answer.out


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A known network for image folders of two classes, one of which it always names; its weights' file."""
    spec = resolve("gelu", "micro", depths=(1, 1, 1, 1), num_classes=2, in_chans=3)
    model = build_network(spec, 32)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    torch.save(model.state_dict(), tmp_path / "small.pth")
    recipe = replace(find_recipe("digits-adamw"), batch_size=4, group_size=4)
    known = KnownNetwork(
        name="small",
        spec=spec,
        recipe=recipe,
        top1=50.0,
        tolerance=0.01,
        weights="timm:convnext_tiny.fb_in1k",
        data="imagefolder",
        pixels=32,
    )
    monkeypatch.setattr(sanity, "KNOWN", (known,))
    monkeypatch.setattr(sanity, "cached_weights", lambda network: None)
    return tmp_path / "small.pth"


def test_a_known_network_passes_at_its_printed_accuracy_alone(
    command: Command, small_network: Path, image_folder: MakeFolder
) -> None:
    words = ("sanity", "--step", "0", "--regime", "micro", "--data", "imagefolder", "--recipe", "digits-adamw")
    words = (*words, "--batch-size", "4", "--image-size", "32", "--json", "--weights", f"small={small_network}")
    even = command(*words, "--data-dir", image_folder())
    assert even.status == 0 and verdicts(even) == ["pass", "not checked"], even.err
    [check, _] = json.loads(even.out)
    assert check["got"] == "50.000" and check["expected"] == "50 ± 0.01" and "4 images" in check["note"]
    uneven = image_folder("uneven")
    (uneven / "test" / "dog" / "000.png").unlink()
    odd = command(*words, "--data-dir", uneven)
    assert odd.status == 1 and verdicts(odd) == ["fail", "not checked"]
    without = command(*words[:-2], "--data-dir", uneven)
    assert without.status == 1 and verdicts(without) == ["missing", "not checked"]
    assert "--weights small=FILE, or --download" in json.loads(without.out)[0]["note"]


def test_weights_of_no_known_network_are_refused(command: Command) -> None:
    refusal = command("sanity", "digits", "--weights", "resnet18=/nowhere").refusal()
    assert "resnet18=/nowhere" in refusal.what and "resnet50" in refusal.legal
