"""A study file is read strictly.

All that is wrong with it comes in one message, each with the file, the key, the value and the
nearest legal name.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
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

STUDIES = sorted(EXPERIMENTS.glob("*.yaml"))
BY_NAME = pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
WITH_DIGITS = [path for path in STUDIES if "\ndigits:\n" in path.read_text()]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def refusals(tmp_path: Path, text: str, *, digits: bool = False) -> list[str]:
    """The lines of the one message that refuses the file, without the path in front."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as e:
        read_plan(path, digits=digits)
    lines = str(e.value).splitlines()
    assert all(str(path) in line for line in lines), lines
    return [line.removeprefix(str(path)).lstrip(".") for line in lines]


# The files that ship --------------------------------------------------------------------------------------------------


@BY_NAME
def test_a_shipped_file_begins_with_its_question(path: Path) -> None:
    question = read_plan(path).question
    assert path.read_text().splitlines()[0] == f"# {question}"
    assert question.endswith("?")


@BY_NAME
def test_a_shipped_study_can_be_planned_at_full_size(path: Path, imagenet: Path) -> None:
    plan = read_plan(path)
    study = expand(plan, data_dir=imagenet)
    assert study.name == path.stem
    assert len({t.id for t in study.trials}) == len(study.trials)
    assert {t.seed for t in study.trials} >= set(plan.seeds)


@pytest.mark.parametrize("path", WITH_DIGITS, ids=lambda p: p.stem)
def test_a_shipped_study_can_be_planned_on_the_embedded_digits(path: Path) -> None:
    full, plan = read_plan(path), read_plan(path, digits=True)
    study = expand(plan)
    assert {t.data.name for t in study.trials} == {"digits"}
    assert plan.name != full.name or full.name == "digits"
    assert (plan.design, bool(plan.changes)) == (full.design, bool(full.changes))


def test_most_shipped_studies_have_a_laptop_size() -> None:
    assert len(WITH_DIGITS) >= 7


def test_the_digits_study_is_the_roadmap_of_resnet50_at_a_laptops_size() -> None:
    assert read_plan(EXPERIMENTS / "resnet50.yaml", digits=True) == read_plan(EXPERIMENTS / "digits.yaml")


# Faults ---------------------------------------------------------------------------------------------------------------


def test_faults_of_every_kind_are_told_in_one_message(tmp_path: Path) -> None:
    text = """
question: q
desing: ladder
design: one-at-a-time
base: 9b
epochs: many
seeds: [0, 0]
regime: micr0
recipe: digits-adam
changes:
  - kernel: 3
  - norm: bacth
  - kernel_size: [3, 4]
  - recipe.lrr: 0.1
controls: [a-b]
cross: {bath_size: [64], recipe.mixup: [-1]}
model: convnext_tin
fraction: a b
set: [activation=gleu]
"""
    found = refusals(tmp_path, text)
    expected = [
        ("desing is unknown; legal: name, question, design,", "did you mean 'design' or"),
        ("epochs is 'many'; legal: whole numbers", "write it so"),
        ("regime: regime 'micr0' is unknown; legal: resnet50,", "did you mean 'micro'"),
        ("recipe: recipe 'digits-adam' is unknown", "did you mean 'digits-adamw'"),
        ("model: variant 'convnext_tin' is unknown", "did you mean 'convnext_tiny'"),
        ("base: step '9b' is unknown", "did you mean '9'"),
        ("set: ModelSpec.activation is 'gleu'; legal: relu, gelu", "did you mean 'gelu'"),
        ("controls: control 'a-b' is unknown; legal: a-a, no-op", "did you mean 'a-a'?"),
        ("changes: override 'kernel' is unknown; legal: depths,", "did you mean 'kernel_size'?"),
        ("changes: ModelSpec.norm is 'bacth'; legal: batch, layer", "did you mean 'batch'?"),
        ("changes: ModelSpec.kernel_size is 4; legal: odd integers from 1 to 63", "try 3 or 5"),
        ("changes: Recipe toggle 'lrr' is unknown", "did you mean 'lr'"),
        (
            "cross: cross 'bath_size' is unknown; legal: recipe, data, batch_size, epochs, recipe.FIELD",
            "did you mean 'batch_size'?",
        ),
        ("cross: Recipe.mixup is -1", "; legal: numbers from 0 to 100"),
        ("seeds is [0, 0]; legal: each seed once", "remove the repeated one"),
        ("model is convnext_tin in a one-at-a-time design", "use design: models, or base"),
        ("fraction is 'a b' in a one-at-a-time design", "remove it"),
    ]
    for start, part in expected:
        assert any(line.startswith(start) and part in line for line in found), (start, found)
    assert len(found) == len(expected)
    assert all("; legal: " in line for line in found)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("design: lader", "design: design 'lader' is unknown; legal: ladder, single, "),
        ("through: ninth", "through: step 'ninth' is unknown"),
        ("steps: [gelu, gleu]", "steps: step 'gleu' is unknown"),
        ("controls: no-op", "controls is 'no-op'; legal: a list such as"),
        ("changes: {norm: batch}", "changes is {'norm': 'batch'}; legal: a list of mappings"),
        ("design: one-at-a-time", "changes is empty in a one-at-a-time design; legal: one mapping or more"),
        ("design: grid\nchanges: []", "changes is empty in a grid design"),
        (
            "design: factorial\nchanges: [{}]",
            "changes holds an empty mapping; legal: one or more names with values; remove it",
        ),
        (
            "design: one-at-a-time\nchanges: [{kernel_size: []}]",
            "changes.kernel_size is empty; legal: one or more values",
        ),
        (
            "design: one-at-a-time\nchanges: [{kernel_size: [3, 5, 3]}]",
            "changes.kernel_size is 3, 5, 3; legal: each value once",
        ),
        ("cross: {epochs: []}", "cross.epochs is empty"),
        ("cross: {epochs: [3, 3.0]}", "cross.epochs is 3, 3; legal: each value once"),
        (
            "cross: {recipe.lr: [0.0123456781, 0.0123456782]}",
            "cross.recipe.lr is 0.0123457, 0.0123457; legal: each value once, different in six digits",
        ),
        ("cross: {batch_size: [0]}", "cross: override batch_size is 0; legal: integers from 1"),
        ("cross: {epochs: [true]}", "cross: override epochs is True; legal: integers from 1"),
        ("cross: [64]", "cross is (64,); legal: names with values"),
        (
            "design: single\nchanges: [{norm: batch}, {kernel_size: 3}]",
            "changes has 2 changes and --set 0 in a single design; legal: one change",
        ),
        (
            "design: single\nchanges: [{norm: batch}]\nset: [kernel_size=3]",
            "changes has 1 changes and --set 1 in a single design",
        ),
        ("changes: [{norm: batch}]", "changes is given in a ladder design; legal: single, one-at-a-time,"),
        ("design: models", "model is empty in a models design; legal: variants, timm/NAME, step/ID"),
        ("design: models\nmodel: timm/", "model: variant 'timm/' is unknown"),
        ("design: models\nmodel: [step/99]", "model: step '99' is unknown"),
        ("base: 9", "base is '9' in a ladder design; legal: where the design starts from one step"),
        ("design: leave-one-out\nsteps: [9]", "steps is 9 in a leave-one-out design; legal: in a ladder; say `base:`"),
        (
            "design: models\nmodel: timm/test_vit\nset: [drop_path_rate=3]",
            "set: TimmSpec.drop_path_rate is 3.0; legal: numbers from 0 to 0.99",
        ),
        ("design: factorial\nfraction: 2\nchanges: [{norm: batch}]", "fraction is 2; legal: text"),
        ("digits: 5", "digits is 5; legal: the keys that differ on the embedded data; correct the file"),
        ("digits: [regime, micro]", "digits is ['regime', 'micro']; legal: the keys"),
    ],
)
def test_a_fault_is_told_with_file_key_value_and_what_is_legal(tmp_path: Path, text: str, start: str) -> None:
    found = refusals(tmp_path, f"question: q\nregime: micro\n{text}\n")
    assert any(line.startswith(start) for line in found), found


def test_what_is_changed_and_crossed_at_once_is_refused_with_the_files_other_faults(tmp_path: Path) -> None:
    """Otherwise the base at 8 epochs is the change to 8 epochs at 4, and is left out as trained already."""
    found = refusals(
        tmp_path,
        "question: q\nregime: micr0\ndesign: one-at-a-time\nchanges: [{epochs: [16, 8]}, {norm: "
        "batch}]\ncross: {epochs: [4, 8]}\n",
    )
    assert [line.split(" ")[0] for line in found] == ["regime:", "cross.epochs"]
    assert (
        found[1] == "cross.epochs is 4,8, but changes sets epochs too; legal: a setting in one of the two; reason: a "
        "change would go over the crossed value; remove it from one"
    )


@pytest.mark.parametrize(
    ("changed", "crossed"),
    [
        ("epochs: 8", "recipe.epochs: [4, 8]"),
        ("recipe.batch_size: 32", "batch_size: [32, 64]"),
        ("recipe: digits-sgd", "recipe: [digits-sgd, digits-adamw]"),
        ("recipe.lr: 0.1", "recipe.lr: [0.1, 0.2]"),
    ],
)
def test_two_names_of_one_setting_are_one(tmp_path: Path, changed: str, crossed: str) -> None:
    [found] = refusals(
        tmp_path, f"question: q\nregime: micro\ndesign: grid\nchanges: [{{{changed}}}]\ncross: {{{crossed}}}\n"
    )
    assert (
        found.startswith(f"cross.{crossed.split(':')[0]} is ")
        and f"but changes sets {changed.split(':')[0]} too" in found
    )


def test_another_setting_of_the_recipe_may_be_crossed(tmp_path: Path) -> None:
    plan = read_plan(
        written(
            tmp_path,
            "question: q\nregime: micro\ndesign: one-at-a-time\nchanges: [{recipe.lr: 0.1}, {batch_size: "
            "32}]\ncross: {recipe: [digits-sgd, digits-adamw], recipe.weight_decay: [0, 0.1]}\n",
        )
    )
    assert len(expand(plan).trials) == 3 * 4


@pytest.mark.parametrize(
    "text",
    ["question: 2020-13-45\n", "[" * 3000, "question: \x00\n"],
    ids=["an impossible date", "a thousand brackets", "a control character"],
)
def test_what_the_yaml_reader_cannot_take_is_no_traceback(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as e:
        read_plan(path)
    assert str(e.value).startswith(f"study file {path} cannot be read: ") and str(e.value).endswith(
        "; legal: YAML; correct the file"
    )


def test_a_key_left_empty_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    assert read_plan(written(tmp_path, "question: q\nthrough:\nbase:\n")) == read_plan(
        written(tmp_path, "question: q\n")
    )


def test_a_list_beside_another_name_is_refused_when_the_study_is_expanded(tmp_path: Path) -> None:
    plan = read_plan(
        written(
            tmp_path,
            "question: q\nregime: micro\ndesign: one-at-a-time\nbase: 9\nchanges: [{kernel_size: [3, 5], "
            "norm: batch}]\n",
        )
    )
    with pytest.raises(ConfigError) as e:
        expand(plan)
    assert str(e.value).startswith(
        "study mine.changes has a list of values for kernel_size beside other names; legal: "
    )


# The laptop's section -------------------------------------------------------------------------------------------------

FULL = "question: q?\nregime: resnet50\ndata: imagenet\nseeds: [0, 1, 2]\nside_steps: true\n"


def test_the_digits_section_goes_over_the_rest_under_a_name_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, FULL + "digits:\n  regime: micro\n  data: digits\n  side_steps: false\n")
    full, small = read_plan(path), read_plan(path, digits=True)
    assert (full.name, full.regime, full.data, full.side_steps) == ("mine", "resnet50", "imagenet", True)
    assert small == replace(full, name="mine-digits", regime="micro", data="digits", side_steps=False)


def test_a_named_digits_section_keeps_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, FULL + "digits: {name: tiny, regime: micro, data: digits}\n")
    assert read_plan(path, digits=True).name == "tiny"


def test_a_fault_in_the_digits_section_is_found_whenever_the_file_is_read_and_says_where_it_is(tmp_path: Path) -> None:
    text = FULL + "digits: {regmie: micro, epochs: few}\n"
    for digits in (False, True):
        found = refusals(tmp_path, text, digits=digits)
        assert [line.split(":")[0].split(";")[0] for line in found] == [
            "digits.regmie is unknown",
            "digits.epochs is 'few'",
        ]


def test_faults_of_both_sizes_come_in_one_message_and_none_twice(tmp_path: Path) -> None:
    found = refusals(
        tmp_path, "question: q\nregime: micr0\nepochs: many\nseeds: []\ndigits: {data: digits, recipe: digits}\n"
    )
    assert [line.split(" ")[0] for line in found] == ["epochs", "regime:", "seeds", "digits.recipe:"]


def test_the_command_line_can_ask_for_the_digits_only_where_the_file_says_how(tmp_path: Path) -> None:
    assert refusals(tmp_path, FULL, digits=True) == [
        f"study file {tmp_path / 'mine.yaml'}.digits is None, but --digits is given; legal: the keys that "
        "differ on the embedded data; add them, or leave --digits out"
    ]


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
        "precision": "fp32",
    }
    assert set(values) == {f.name for f in fields(Plan)}
    plan = read_plan(written(tmp_path, "".join(f"{k}: {v}\n" for k, v in values.items())))
    assert (plan.steps, plan.seeds, plan.precision, plan.cross) == (("9",), (3,), "fp32", {"epochs": [1]})


# The schema for editors -----------------------------------------------------------------------------------------------


def test_the_committed_schema_is_todays() -> None:
    committed = json.loads((EXPERIMENTS / "study.schema.json").read_text())
    assert committed == json_schema(), "run `roadmap schema > experiments/study.schema.json`"


@BY_NAME
def test_a_shipped_file_names_the_schema_and_fits_it(path: Path) -> None:
    assert "# yaml-language-server: $schema=study.schema.json" in path.read_text().splitlines()[1]
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema())


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
        jsonschema.validate({"question": "q", **fault}, json_schema())
