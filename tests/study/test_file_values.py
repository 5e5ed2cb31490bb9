"""Words and values of a study file, and the schema for editors."""

from __future__ import annotations

import functools
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from roadmap.config.errors import ConfigError
from roadmap.config.model import ModelSpec
from roadmap.study.expand import expand
from roadmap.study.file import EXPERIMENTS, json_schema, read_plan
from roadmap.study.overrides import parse_override, values_of
from roadmap.study.plan import CONTROLS, DESIGNS, Plan
from tests.helpers.plans import BY_NAME, written

# Words and values -----------------------------------------------------------------------------------------------------


def test_one_model_needs_no_list(tmp_path: Path) -> None:
    assert read_plan(written(tmp_path, "question: q\nmodel: convnext_tiny\n")).model == ("convnext_tiny",)
    assert read_plan(written(tmp_path, "question: q\nmodel: [convnext_tiny, timm/resnet50]\n")).model == (
        "convnext_tiny",
        "timm/resnet50",
    )


@pytest.mark.parametrize("word", CONTROLS)
def test_a_control_is_one_word(tmp_path: Path, word: str) -> None:
    plan = read_plan(written(tmp_path, f"question: q\ncontrols: [{word}]\n"))
    assert plan.controls == (word,)


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("kernel_size", 5, ("kernel_size", 5)),
        ("kernel_size", 5.0, ("kernel_size", 5)),
        ("norm", "batch", ("norm", "batch")),
        ("conv_bias", False, ("conv_bias", False)),
        ("conv_bias", True, ("conv_bias", True)),
        ("layer_scale", "none", ("layer_scale", None)),
        ("layer_scale", None, ("layer_scale", None)),
        ("layer_scale", 1e-6, ("layer_scale", 1e-6)),
        ("layer_scale", "1e-6", ("layer_scale", 1e-6)),
        ("drop_path_rate", 0, ("drop_path_rate", 0.0)),
        ("drop_path_rate", 0.123456789, ("drop_path_rate", 0.123456789)),
        ("depths", [1, 1, 3, 1], ("depths", (1, 1, 3, 1))),
        ("depths", "3,3,9,3", ("depths", (3, 3, 9, 3))),
        ("depths", 18, ("depths", (18,))),
        ("recipe", "digits-sgd", ("recipe", "digits-sgd")),
        ("recipe.lr", 0.00123456789, ("recipe.lr", 0.00123456789)),
        ("recipe.ema_decay", "none", ("recipe.ema_decay", None)),
        ("recipe.decay_1d", True, ("recipe.decay_1d", True)),
        ("recipe.group_size", 4, ("recipe.group_size", 4)),
        ("data", "digits", ("data", "digits")),
        ("batch_size", 32, ("batch_size", 32)),
        ("batch_size", 32.0, ("batch_size", 32)),
        ("epochs", 3, ("epochs", 3)),
    ],
)
def test_a_change_is_read_as_the_setting_it_names(name: str, value: Any, parsed: tuple[str, Any]) -> None:
    found = parse_override(name, value)
    assert (found.name, found.value) == parsed and type(found.value) is type(parsed[1])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kernal_size", 5, "override 'kernal_size' is unknown; legal: depths, "),
        ("kernel_size", 5.5, "ModelSpec.kernel_size is 5.5; legal: odd integers"),
        ("kernel_size", True, "ModelSpec.kernel_size is True; legal: odd integers"),
        ("kernel_size", None, "ModelSpec.kernel_size is None; legal: odd integers"),
        ("depths", [1, 1, 1, 1, 1], "ModelSpec.depths is (1, 1, 1, 1, 1); legal: 1 to 4 values"),
        ("recipe", "digits", "recipe 'digits' is unknown"),
        ("recipe", None, "recipe 'None' is unknown"),
        ("recipe.", 1, "Recipe toggle '' is unknown"),
        ("recipe.optimizer", "adam", "Recipe.optimizer is 'adam'; legal: sgd, adamw"),
        ("batch_size", "many", "override batch_size is 'many'; legal: integers from 1"),
        ("epochs", 2.5, "override epochs is 2.5; legal: integers from 1"),
        ("norm", {"a": 1}, "ModelSpec.norm is "),
        ("drop_path_rate", float("nan"), "ModelSpec.drop_path_rate is nan; legal: numbers from 0 to 0.99"),
    ],
)
def test_a_change_that_is_no_setting_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as e:
        parse_override(name, value)
    assert str(e.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "value", "settings"),
    [
        ("kernel_size", 3, [3]),
        ("kernel_size", [3, 5], [3, 5]),
        ("depths", [1, 1, 3, 1], [[1, 1, 3, 1]]),
        ("depths", [[1, 1, 3, 1], [1, 1, 1, 1]], [[1, 1, 3, 1], [1, 1, 1, 1]]),
        ("layer_scale", None, [None]),
    ],
)
def test_a_list_stands_for_several_settings_but_depths_are_a_list_themselves(
    name: str, value: Any, settings: list[Any]
) -> None:
    assert values_of(name, value, ModelSpec) == settings


def test_every_design_that_a_file_may_name_can_be_planned() -> None:
    least: dict[str, dict[str, Any]] = {
        "ladder": {},
        "leave-one-out": {},
        "models": {"model": ("convnextv2_atto",), "image_size": 32},
        "single": {"changes": ({"norm": "batch"},)},
        "one-at-a-time": {"changes": ({"norm": "batch"},)},
        "factorial": {"changes": ({"norm": "batch"},)},
        "grid": {"changes": ({"norm": "batch"},)},
    }
    assert set(least) == set(DESIGNS)
    for name, keys in least.items():
        study = expand(Plan(name="p", question="?", design=name, regime="micro", **keys))
        assert study.trials and study.design == name


def test_every_key_of_a_plan_may_stand_in_a_file(tmp_path: Path) -> None:
    values = {
        "name": "n",
        "question": "q",
        "design": "ladder",
        "ladder": "convnext",
        "regime": "micro",
        "steps": "[9]",
        "through": "9",
        "base": "null",
        "changes": "[]",
        "also": "null",
        "fraction": "null",
        "cross": "{epochs: [1]}",
        "controls": "[a-a]",
        "model": "[]",
        "init": "null",
        "side_steps": "false",
        "seeds": "[3]",
        "data": "digits",
        "data_title": "t",
        "recipe": "digits-sgd",
        "epochs": "2",
        "batch_size": "64",
        "set": "[norm=batch]",
        "image_size": "16",
        "num_classes": "10",
        "validation": "0.1",
        "decoder": "torchvision",
        "precision": "fp32",
    }
    assert set(values) == {f.name for f in fields(Plan)}
    plan = read_plan(written(tmp_path, "".join(f"{k}: {v}\n" for k, v in values.items())))
    assert (plan.steps, plan.seeds, plan.precision, plan.cross) == (("9",), (3,), "fp32", {"epochs": [1]})


# The schema for editors -----------------------------------------------------------------------------------------------


def test_the_committed_schema_is_todays() -> None:
    committed = json.loads((EXPERIMENTS / "study.schema.json").read_text())
    assert committed == json_schema(), "run `roadmap schema > experiments/study.schema.json`"


@functools.cache
def validator() -> jsonschema.protocols.Validator:
    """What an editor checks study files with."""
    schema = json_schema()
    return jsonschema.validators.validator_for(schema)(schema)


@BY_NAME
def test_a_shipped_file_names_the_schema_and_fits_it(path: Path) -> None:
    assert "# yaml-language-server: $schema=study.schema.json" in path.read_text().splitlines()[1]
    validator().validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "fault",
    [
        {"desing": "ladder"},
        {"design": "lader"},
        {"controls": ["a-b"]},
        {"seeds": ["zero"]},
        {"changes": [{"norm": "bacth"}]},
        {"digits": {"epochs": "few"}},
    ],
)
def test_an_editor_that_checks_by_the_schema_finds_the_fault(fault: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator().validate({"question": "q", **fault})
