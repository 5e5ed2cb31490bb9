"""Configs are values: frozen, checked when made, told apart by all that decides the outcome and by nothing else."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from roadmap.config.data import Data
from roadmap.config.errors import ConfigError
from roadmap.config.fields import Kind, checked, diff, field_types, from_text, show
from roadmap.config.model import ModelSpec
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import CONVNEXT_300EP, CONVNEXT_FINETUNE
from roadmap.config.trial import FINGERPRINT_VERSION, Trial
from roadmap.data.registry import NAMED
from tests.helpers.convnext import resolve

PARTS: dict[str, type] = {"model": ModelSpec, "recipe": Recipe, "data": Data}
IMAGENET = NAMED["imagenet"]
TRIALS = [
    Trial(model=resolve(step, "resnet50"), recipe=recipe, data=data, seed=0, regime="resnet50", step=step)
    for step, recipe, data in itertools.product(
        ("baseline", "layernorm", "separate-downsampling"),
        (CONVNEXT_300EP, CONVNEXT_FINETUNE),
        (IMAGENET, replace(IMAGENET, validation=0.1)),
    )
]
PARTNERS = {"num_classes", "in_chans"}  # model and data must agree on these
# (version, fingerprint): if this test fails, every run made so far would be trained again. Then raise
# FINGERPRINT_VERSION, on purpose.
GOLDEN = (1, "c8c9ea9b5c17396527edd4c34911084472ebd8e8b91a39d6da735e0722d96dc0")


def golden_trial() -> Trial:
    model = ModelSpec(depths=(1, 2), width=8, stem="patchify", stem_stride=2, num_classes=3, in_chans=1)
    recipe = Recipe(
        name="n", source="s", epochs=2, batch_size=8, group_size=4, optimizer="adamw", lr=1e-3, weight_decay=0.05
    )
    return Trial(
        model=model,
        recipe=recipe,
        data=Data(name="d", title="t", image_size=8, num_classes=3, in_chans=1, mean=(0.5,), std=(0.5,)),
        seed=7,
    )


def others(cls: type, name: str, value: Any) -> Iterator[Any]:
    """Legal values of the field that are not this one."""
    for candidate in candidates(field_types(cls)[name], value):
        with contextlib.suppress(ConfigError):
            if candidate != value and checked(cls, name, candidate) == candidate:
                yield candidate


def candidates(annotation: Any, value: Any) -> list[Any]:
    """Values that a field of that type may well hold."""
    kind = Kind.of(annotation)
    if kind.options:
        return list(kind.options)
    if kind.base is bool:
        return [not value]
    if kind.is_tuple:
        return [(*value[:-1], other) for other in candidates(kind.item, value[-1])]
    if kind.base is str:
        return [value + "x"]
    low, high = kind.interval
    near = [] if value is None else [value + 2, value * 2, kind.base(value / 2)]
    return [*near, kind.base(low), kind.base(high), None]


def altered(part: str, name: str) -> tuple[Trial, Trial]:
    """A trial and the same with one field at another legal value."""
    for trial in TRIALS:
        for value in others(PARTS[part], name, getattr(getattr(trial, part), name)):
            parts = {p for p in ("model", "data") if name in PARTNERS} | {part}
            with contextlib.suppress(ConfigError):
                return trial, replace(trial, **{p: replace(getattr(trial, p), **{name: value}) for p in parts})
    raise AssertionError(f"no trial lets {part}.{name} change")


FIELDS = [(part, f.name, bool(f.metadata["identity"])) for part, cls in PARTS.items() for f in fields(cls)]


@pytest.mark.parametrize(("part", "name"), [(p, n) for p, n, identity in FIELDS if identity])
def test_every_field_that_decides_the_outcome_changes_the_fingerprint(part: str, name: str) -> None:
    before, after = altered(part, name)
    assert before.fingerprint != after.fingerprint
    assert before.id != after.id
    assert name in {
        **before.identity()[part],
        **after.identity()[part],
    }  # a younger one is left out at its neutral value


@pytest.mark.parametrize(("part", "name"), [(p, n) for p, n, identity in FIELDS if not identity])
def test_a_label_does_not_change_the_fingerprint(part: str, name: str) -> None:
    before, after = altered(part, name)
    assert before != after
    assert before.fingerprint == after.fingerprint


def test_labels_are_exactly_these() -> None:
    assert {(p, n) for p, n, identity in FIELDS if not identity} == {
        ("recipe", "name"),
        ("recipe", "source"),
        ("recipe", "expected"),
        ("recipe", "lr_scaling"),
        ("data", "title"),
    }


@pytest.mark.parametrize("label", ["ladder", "regime", "step", "change"])
def test_where_a_trial_stands_in_a_study_does_not_change_the_fingerprint(label: str) -> None:
    assert replace(TRIALS[0], **{label: "another"}).fingerprint == TRIALS[0].fingerprint


def test_other_initial_weights_are_another_trial() -> None:
    assert replace(TRIALS[0], init="a" * 64).fingerprint != TRIALS[0].fingerprint


def test_a_trial_has_no_field_that_these_tests_do_not_know() -> None:
    assert {f.name for f in fields(Trial)} == {*PARTS, "seed", "init", "control", "ladder", "regime", "step", "change"}


def test_another_seed_is_another_trial() -> None:
    assert len({replace(TRIALS[0], seed=s).fingerprint for s in range(100)}) == 100


def test_one_and_one_point_zero_are_the_same_setting() -> None:
    whole, real = (replace(TRIALS[0], recipe=replace(CONVNEXT_300EP, lr=x, warmup_epochs=5 * x)) for x in (1, 1.0))
    assert whole.fingerprint == real.fingerprint


def test_the_fingerprint_of_a_version_never_changes() -> None:
    assert (FINGERPRINT_VERSION, golden_trial().fingerprint) == GOLDEN


@pytest.mark.parametrize("trial", TRIALS)
def test_a_trial_file_gives_the_trial_back(trial: Trial) -> None:
    assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial


def test_an_edited_trial_file_is_refused() -> None:
    values = golden_trial().to_json()
    values["recipe"]["lr"] = 1.0
    with pytest.raises(
        ConfigError,
        match=r"trial.fingerprint is \w{10}, but its content hashes to \w{10}; legal: equal; .*submit the trial again",
    ):
        Trial.from_json(values)


def test_a_relabelled_trial_file_is_still_the_same_trial() -> None:
    values = golden_trial().to_json()
    values["recipe"]["name"] = "renamed"
    assert Trial.from_json(values).recipe.name == "renamed"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda v: v["model"].pop("stem"),
            "trial.model lacks stem; legal: every field, written out; the file is damaged",
        ),
        (lambda v: v["model"].update(stemm="patchify"), "trial.model field 'stemm' is unknown; legal: depths, "),
        (
            lambda v: v["model"].update(width="8"),
            "ModelSpec.width is '8'; legal: integers from 2 to 1024; give a value in that range",
        ),
        (
            lambda v: v.pop("fingerprint"),
            "trial file has no usable 'fingerprint'; legal: what `roadmap plan --json` writes; write it again",
        ),
        (lambda v: v.update(model=3), "trial file has no usable"),
    ],
)
def test_a_damaged_trial_file_is_refused_in_words(edit: Any, message: str) -> None:
    values = json.loads(json.dumps(golden_trial().to_json()))
    edit(values)
    with pytest.raises(ConfigError) as e:
        Trial.from_json(values)
    assert message in str(e.value)


@pytest.mark.parametrize("spec", [ModelSpec(), CONVNEXT_300EP, IMAGENET, TRIALS[0]])
def test_specs_are_frozen(spec: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(spec, fields(spec)[0].name, None)


@pytest.mark.parametrize("cls", [ModelSpec, Recipe, Data])
def test_all_illegal_fields_are_told_at_once(cls: type) -> None:
    rules = [f.name for f in fields(cls)]
    with pytest.raises(ConfigError) as e:
        cls(**{name: object() for name in rules})
    lines = str(e.value).splitlines()
    assert [line.split(" is ")[0] for line in lines] == [f"{cls.__name__}.{name}" for name in rules]
    assert all("; legal: " in line and line.count("; ") >= 2 for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"batch_size": 100},
            "Recipe.batch_size is 100, not a multiple of group_size 128; legal: whole groups; change one of the two",
        ),
        (
            {"warmup_epochs": 300},
            "Recipe.warmup_epochs is 300 of 300 epochs; legal: fewer than epochs; shorten the warm-up",
        ),
        (
            {"group_size": 1, "batch_size": 3},
            "Recipe.group_size is 1 with mixup or cutmix on; legal: even sizes, images are mixed in pairs; "
            "change group_size",
        ),
        ({"lr": float("inf")}, "Recipe.lr is inf; legal: numbers from 0 to 1000; give a value in that range"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as e:
        replace(CONVNEXT_300EP, **change)
    assert str(e.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "Trial.seed is -1; legal: integers from 0 to 2147483647; give a value in that range"),
        ({"seed": True}, "Trial.seed is True; legal: integers from 0 to 2147483647; give a value in that range"),
        (
            {"model": ModelSpec(num_classes=10)},
            "Trial.model.num_classes is 10, but the data set 'imagenet' has 1000 classes; legal: equal "
            "numbers; leave num_classes unset and it is taken from the data",
        ),
        (
            {"model": ModelSpec(in_chans=1)},
            "Trial.model.in_chans is 1, but images of 'imagenet' have 3 channels; legal: equal numbers; "
            "leave in_chans unset and it is taken from the data",
        ),
        (
            {"recipe": replace(CONVNEXT_300EP, accuracy="best")},
            "Trial.recipe.accuracy is 'best', but 'imagenet' sets no images aside for choices; legal: "
            "'last', or a validation split; "
            "the test split is never used for choices: set --validation 0.1",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as e:
        replace(TRIALS[0], **change)
    assert str(e.value) == message


def test_a_batch_that_the_ranks_do_not_divide_is_refused_with_the_numbers_that_do() -> None:
    with pytest.raises(ConfigError) as e:
        replace(CONVNEXT_300EP, batch_size=512).loads_per_rank(3)
    assert (
        str(e.value) == "Recipe.batch_size is 512, 4 groups of 128, which 3 ranks do not divide; legal: 1, 2, 4 ranks; "
        "change the number of GPUs, or batch_size"
    )
    assert [CONVNEXT_300EP.loads_per_rank(r) for r in (1, 8, 32)] == [32, 4, 1]


def test_another_number_of_epochs_scales_warm_up_and_steps_and_nothing_else() -> None:
    recipe = replace(CONVNEXT_300EP, decay_epochs=90)
    shorter = recipe.with_epochs(30)
    assert {name: after for name, (_, after) in diff(recipe, shorter).items()} == {
        "epochs": 30,
        "warmup_epochs": 2,
        "decay_epochs": 9,
    }


def test_another_batch_keeps_the_rate_per_image_and_groups_no_larger_than_it() -> None:
    smaller, tiny = CONVNEXT_300EP.with_batch_size(512), CONVNEXT_300EP.with_batch_size(64)
    assert {name: after for name, (_, after) in diff(CONVNEXT_300EP, smaller).items()} == {
        "batch_size": 512,
        "lr": 5e-4,
    }
    assert (tiny.batch_size, tiny.group_size, tiny.groups) == (64, 64, 1)
    with pytest.raises(
        ConfigError, match="Recipe.batch_size is 200, not a multiple of group_size 128; legal: whole groups"
    ):
        CONVNEXT_300EP.with_batch_size(200)


def test_a_run_folders_name_is_safe_whatever_the_labels() -> None:
    trial = replace(golden_trial(), step="../../etc/x\n", change="a=b/c " + "y" * 300)
    assert len(trial.id) < 100
    assert "/" not in trial.id and "\n" not in trial.id and not trial.id.startswith((".", "-"))


def test_show_writes_a_setting_as_the_command_line_reads_it() -> None:
    for f in fields(ModelSpec):
        for value in (f.default, *others(ModelSpec, f.name, f.default)):
            assert from_text(field_types(ModelSpec)[f.name], show(value)) == value
