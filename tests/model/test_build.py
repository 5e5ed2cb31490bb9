"""Any network of timm is a subject: built, counted, trained, kept in a file and read back like ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import roadmap
from roadmap.config.errors import ConfigError
from roadmap.config.fields import plain
from roadmap.config.model import ModelSpec, TimmSpec
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.model.build import build_network, save_timm
from roadmap.model.complexity import complexity, params_of
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import Record
from roadmap.study.expand import expand
from roadmap.study.file import Plan

Command = Callable[..., Any]
TINY = ("test_vit", "test_convnext", "test_resnet")
WORDS = ("--regime", "micro", "--data", "digits", "--recipe", "digits-adamw", "--image-size", "32", "--epochs", "1")


def tiny_trial(name: str, epochs: int = 1, seed: int = 0) -> Trial:
    [trial] = expand(
        Plan(
            name="p",
            question="?",
            regime="micro",
            design="models",
            model=(f"timm/{name}",),
            data="digits",
            recipe="digits-adamw",
            image_size=32,
            epochs=epochs,
            seeds=(seed,),
        )
    ).trials
    return trial


# Building and counting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "params", "gmacs"), [("vit_small_patch16_224", 22.05, 4.6), ("resnet50", 25.56, 4.1)])
def test_a_timm_network_is_counted_as_it_is_published(name: str, params: float, gmacs: float) -> None:
    found = complexity(TimmSpec(timm=name), 224)
    assert round(found.params / 1e6, 2) == params
    assert round(found.macs / 1e9, 1) == gmacs


def test_attention_is_counted_where_a_count_over_layers_does_not_see_it() -> None:
    from roadmap.model.complexity import macs_of

    model = build_network(TimmSpec(timm="test_vit"), 32)
    assert complexity(TimmSpec(timm="test_vit"), 32).macs > macs_of(model, 3, 32)


def test_our_network_and_timms_of_the_same_name_count_the_same() -> None:
    from roadmap.ladder.published import find_variant

    # Ours counts convolutions and linear layers; in a network without attention nothing else multiplies.
    ours, theirs = (
        complexity(replace(find_variant("convnextv2_atto").spec), 224),
        complexity(TimmSpec(timm="convnextv2_atto"), 224),
    )
    assert ours.params == theirs.params
    assert ours.macs == pytest.approx(theirs.macs, rel=1e-3)


def test_building_a_subject_of_either_kind_gives_its_network() -> None:
    from roadmap.model.network import ModernizableResNet

    assert isinstance(build_network(ModelSpec(depths=(1, 1), width=4), 32), ModernizableResNet)
    assert type(build_network(TimmSpec(timm="test_resnet"), 32)).__module__.startswith("timm.")


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [32, 48, 160])
def test_a_timm_network_takes_other_sizes_channels_and_classes(name: str, size: int) -> None:
    model = build_network(TimmSpec(timm=name, num_classes=7, in_chans=1, drop_path_rate=0.1), size).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 1, size, size)).shape == (2, 7)


def test_a_tag_after_the_dot_is_timms_own_and_loads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert params_of(build_network(TimmSpec(timm="resnet18.a1_in1k"), 64)) == params_of(
        build_network(TimmSpec(timm="resnet18"), 64)
    )


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "vit_smal_patch16_224",
            [
                "TimmSpec.timm is 'vit_smal_patch16_224', which timm does not know; legal: the ",
                " names of timm.list_models(); did you mean 'vit_small_patch16_224'",
            ],
        ),
        ("hf_hub:timm/resnet50", ["which timm does not know"]),
        ("resnet50.nonsense", ["TimmSpec resnet50.nonsense cannot be built at 32 px", "nonsense", "; legal: "]),
        ("../../x", ["which timm does not know"]),
    ],
)
def test_a_name_that_timm_does_not_know_is_refused(name: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as e:
        build_network(TimmSpec(timm=name), 32)
    for part in parts:
        assert part in str(e.value)


def test_a_setting_that_the_architecture_does_not_take_is_refused() -> None:
    with pytest.raises(ConfigError) as e:
        build_network(TimmSpec(timm="vgg11", drop_path_rate=0.1), 32)
    assert str(e.value).startswith("TimmSpec vgg11 cannot be built at 32 px (TypeError: ") and str(e.value).endswith(
        "; change --image-size or drop_path_rate"
    )


@pytest.mark.parametrize(
    "values",
    [
        {"timm": ""},
        {"timm": "resnet18", "drop_path_rate": 1.0},
        {"timm": "resnet18", "num_classes": -1},
        {"timm": "resnet18", "in_chans": 0},
    ],
)
def test_an_illegal_spec_is_refused_before_anything_is_built(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"TimmSpec\.\w+ is .*; legal: "):
        TimmSpec(**values)


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_trial_of_a_timm_network_survives_its_file() -> None:
    trial = tiny_trial("test_vit")
    again = Trial.from_json(json.loads(json.dumps(trial.to_json())))
    assert again == trial and isinstance(again.model, TimmSpec)
    assert again.fingerprint == trial.fingerprint
    assert trial.identity()["model"] == plain(trial.model)


def test_each_part_of_the_spec_makes_another_fingerprint() -> None:
    base = tiny_trial("test_vit")
    settings = ({"timm": "test_resnet"}, {"drop_path_rate": 0.1})
    others = [replace(base, model=replace(base.model, **setting)) for setting in settings]
    assert len({t.fingerprint for t in [base, *others]}) == 3


@pytest.mark.parametrize("name", TINY)
def test_a_saved_network_answers_as_before(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = TimmSpec(timm=name, num_classes=10, in_chans=1)
    model = build_network(spec, 32).eval()
    again = roadmap.load(save_timm(model, spec, 32, tmp_path / "w.safetensors"))
    images = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    assert not again.training


@pytest.mark.parametrize("spec", ["{", "[1]", "{}", '{"timm": "test_vit"}'])
@pytest.mark.parametrize("size", [{"roadmap.image_size": "32"}, {"roadmap.image_size": "x"}, {}])
def test_a_damaged_description_in_a_file_is_refused(spec: str, size: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"roadmap.timm": spec, **size})
    with pytest.raises(ConfigError) as e:
        roadmap.load(tmp_path / "w.safetensors")
    assert str(tmp_path / "w.safetensors") in str(e.value)


# Training ------------------------------------------------------------------------------------------------------------


def test_a_timm_network_trains_through_the_command_line_and_predicts(command: Command, tmp_path: Path) -> None:
    [written] = command("run", "--variant", "timm/test_vit", *WORDS, "--json").json()
    record = Record.from_json(written)
    assert (record.status, record.step, record.image_size, record.test_images) == (
        "finished",
        "timm/test_vit",
        32,
        500,
    )
    assert record.resolved["model"] == {"timm": "test_vit", "drop_path_rate": 0.0, "num_classes": 10, "in_chans": 1}
    assert (record.params, record.macs) == (
        complexity(TimmSpec(timm="test_vit", num_classes=10, in_chans=1), 32).params,
        complexity(TimmSpec(timm="test_vit", num_classes=10, in_chans=1), 32).macs,
    )
    [folder] = (p.parent for p in tmp_path.rglob("record.json"))
    (tmp_path / "images").mkdir()
    for k in range(2):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (40, 40), dtype=np.uint8)).save(
            tmp_path / "images" / f"{k}.png"
        )
    lines = command("predict", folder, "images", "--top-k", "2").out.splitlines()
    assert lines[0] == "file,class_1,probability_1,class_2,probability_2" and len(lines) == 3
    assert (
        command("predict", folder / "weights.safetensors", "images", "--image-size", "32", "--top-k", "1").status == 0
    )


def test_an_unknown_timm_network_ends_the_command_with_a_refusal(command: Command) -> None:
    command("run", "--variant", "timm/test_vitt", *WORDS).refused(
        "TimmSpec.timm is 'test_vitt', which timm does not know; legal: ", "did you mean 'test_vit'"
    )


@pytest.mark.sampled(0, ci=1)
@pytest.mark.parametrize("name", TINY)
def test_a_timm_network_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    from roadmap.train.execute import execute

    def finish(root: str) -> RunFolder:
        run = RunFolder(tmp_path / root / trial.id)
        run.prepare(trial)
        return run

    trial = tiny_trial(name, epochs=2)
    whole, broken = finish("whole"), finish("broken")
    record = execute(whole, Runtime(device="cpu"))
    execute(broken, Runtime(device="cpu"))
    # As if the process had died after the first epoch: what came later is gone.
    newest = max(int(p.stem.split("-")[1]) for p in broken.checkpoints.glob("checkpoint-*.pt"))
    (broken.checkpoints / f"checkpoint-{newest:09d}.pt").unlink()
    (broken.path / "record.json").unlink()
    (broken.path / "weights.safetensors").unlink()
    assert broken.newest_checkpoint() < newest
    again = execute(broken, Runtime(device="cpu"))
    assert (again.metrics["top1"], again.metrics["loss"]) == (record.metrics["top1"], record.metrics["loss"])
    a, b = (roadmap.load(run.path / "weights.safetensors").state_dict() for run in (whole, broken))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
