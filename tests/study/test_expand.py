"""A study file becomes trials; what is wrong in it is told all at once, before anything runs."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.errors import ConfigError, DataError, RoadmapError
from roadmap.runs.io import RunError
from roadmap.runs.study_folder import write_study
from roadmap.study.expand import Study, expand, images_to_train
from roadmap.study.file import DEFAULT_STUDY, EXPERIMENTS, Plan, read_plan
from tests.helpers.convnext import REGIMES, ladder

STUDIES = sorted(EXPERIMENTS.glob("*.yaml"))
LADDERS = [path for path in STUDIES if read_plan(path).design == "ladder"]
DIGITS = replace(read_plan(DEFAULT_STUDY), seeds=(0,), controls=())
MakeFolder = Callable[..., Path]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", LADDERS, ids=lambda p: p.stem)
def test_every_ladder_of_the_project_expands_to_its_steps_and_seeds(path: Path, imagenet: Path) -> None:
    plan = replace(read_plan(path), controls=())
    study = expand(plan, data_dir=imagenet)
    of = plan.of_ladder
    steps = [s.name for s in of.order(side_steps=plan.side_steps)]
    last = of.find_step(plan.through).name if plan.through else steps[-1]
    asked = steps[: steps.index(last) + 1] if plan.steps is None else [of.find_step(s).name for s in plan.steps]
    assert [(t.step, t.seed) for t in study.trials] == [(s, seed) for s in asked for seed in plan.seeds]
    assert study.name == plan.name and plan.question
    assert not study.undefined
    assert len({t.fingerprint for t in study.trials}) == len(study.trials)
    if plan.recipe is None and plan.epochs is None and plan.batch_size is None:
        assert all(t.recipe == of.recipe(t.step, plan.regime) for t in study.trials)


@pytest.mark.parametrize("path", [p for p in STUDIES if read_plan(p).data == "imagenet"], ids=lambda p: p.stem)
def test_a_study_of_imagenet_without_its_folder_is_refused(path: Path) -> None:
    with pytest.raises(DataError) as e:
        expand(read_plan(path))
    assert (
        str(e.value) == "data 'imagenet' has no folder; legal: one with train/CLASS/IMAGE below it; say --data-dir DIR"
    )


@pytest.mark.parametrize("regime", REGIMES)
def test_every_regime_has_a_network_for_every_step(regime: str, imagenet: Path) -> None:
    study = expand(Plan(name="all", question="?", regime=regime, side_steps=True), data_dir=imagenet)
    assert [t.step for t in study.trials] == [s.name for s in ladder(side_steps=True)]
    assert all(t.data.image_size == REGIMES[regime].image_size for t in study.trials)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "question: q\nregmie: micro\n",
            [".regmie is unknown; legal: name, question, design, ladder, regime,", "did you mean 'regime' or"],
        ),
        (
            "question: q\nepochs: many\n",
            [".epochs is 'many'; legal: whole numbers; write it so"],
        ),
        (
            "question: q\nregmie: micro\nepochs: many\nseeds: [a]\n",
            [".regmie is unknown", ".epochs is 'many'", ".seeds is ('a',)"],
        ),
        (
            "question: q\nsteps: 5\nseeds: ['1']\nside_steps: 'yes'\nepochs: true\n",
            [
                ".steps is 5",
                "legal: a list such as [gelu, 8]",
                ".seeds is ('1',)",
                ".side_steps is 'yes'",
                "legal: true, false",
                ".epochs is True",
            ],
        ),
        ("regime: micro\n", [".question is missing"]),
        ("question: q\nvalidation: [1]\n", [".validation is (1,); legal: a number from 0 to 0.9"]),
        ("question: q\nset: kernel_size=9\n", [".set is 'kernel_size=9'"]),
        ("- a\n- b\n", ["holds list, not keys; legal: `question:` and what to run; see experiments/digits.yaml"]),
        ("", ["holds nothing, not keys; legal: `question:` and what to run; see experiments/digits.yaml"]),
        ("question: [", ["cannot be read", "; legal: YAML; correct the file"]),
        ("question: q\nregime: micro\nregime: cifar\n", ["line 1: key 'regime' is there 2 times"]),
        (
            "question: !!python/object/apply:os.system ['false']\n",
            ["cannot be read", "could not determine a constructor"],
        ),
        ("question: &a [x, x]\nsteps: [*a, *a]\n", ["line 2: aliases are not used in study files"]),
    ],
)
def test_a_faulty_study_file_is_refused_with_file_and_key_all_at_once(
    tmp_path: Path, text: str, messages: list[str]
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as e:
        read_plan(path)
    assert str(path) in str(e.value)
    for message in messages:
        assert message in str(e.value)


def test_a_missing_study_file_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as e:
        read_plan(tmp_path / "digit.yaml")
    wrong, legal, advice = str(e.value).split("; ")
    assert wrong == f"study file {tmp_path / 'digit.yaml'} does not exist"
    assert legal == f"legal: {', '.join(p.name for p in STUDIES)}, or a path"
    assert advice.startswith("did you mean 'digits.yaml'")


def test_steps_may_be_ids_that_yaml_reads_as_numbers(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, "question: q\nregime: micro\nsteps: [0, 4b, recipe]\nthrough: 9\n"))
    assert [t.step for t in expand(plan).trials] == ["baseline", "width", "recipe"]


def test_a_study_file_may_say_everything_that_a_plan_holds() -> None:
    assert {f.name for f in fields(Plan)} >= {
        "regime",
        "steps",
        "through",
        "side_steps",
        "seeds",
        "data",
        "recipe",
        "epochs",
        "set",
    }


def test_every_wrong_name_of_a_plan_is_told_at_once() -> None:
    wrong = {"regime": "micr0", "recipe": "digits", "steps": ("99", "9"), "set": ("kernel=3", "norm=bacth")}
    with pytest.raises(ConfigError) as e:
        replace(DIGITS, **wrong, seeds=(1, 2, 1))
    expected = {
        "regime": "regime 'micr0' is unknown",
        "recipe": "recipe 'digits' is unknown",
        "steps": "step '99' is unknown",
        "set": "override 'kernel' is unknown",
        "seeds": "[1, 2, 1]; legal: each seed once",
    }
    assert [fault.field for fault in e.value.faults] == ["regime", "recipe", "steps", "set", "set", "seeds"]
    assert all(text in str(e.value) for text in expected.values())


def test_a_repeated_seed_is_refused() -> None:
    with pytest.raises(ConfigError) as e:
        expand(replace(DIGITS, seeds=(0, 1, 1)))
    assert str(e.value) == "study digits.seeds is [0, 1, 1]; legal: each seed once; remove the repeated one"


def test_a_step_asked_for_twice_is_one_step() -> None:
    assert [t.step for t in expand(replace(DIGITS, steps=("9", "separate-downsampling", "0"))).trials] == [
        "separate-downsampling",
        "baseline",
    ]


def undefined_somewhere() -> Study:
    return expand(replace(DIGITS, set=("move_up_depthwise=true",)))


def test_a_change_that_a_step_cannot_take_is_shown_with_its_reason_and_not_skipped() -> None:
    study = undefined_somewhere()
    steps = [s.name for s in ladder()]
    first = steps.index("inverted-bottleneck")
    assert list(study.undefined) == steps[:first]
    assert [t.step for t in study.trials] == steps[first : steps.index("separate-downsampling") + 1]
    for reason in study.undefined.values():
        assert reason.startswith(
            "ModelSpec.move_up_depthwise is true, which needs inverted_bottleneck true, not false; reason: "
        )
        assert reason.endswith("; set inverted_bottleneck=true or change move_up_depthwise")
    assert all(t.change == "move_up_depthwise=true" and t.model.move_up_depthwise for t in study.trials)


def test_a_change_that_the_only_step_cannot_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="which needs inverted_bottleneck true, not false"):
        expand(replace(DIGITS, steps=("baseline",), set=("move_up_depthwise=true",)))


@pytest.mark.parametrize("setting", ["num_classes=5", "in_chans=3"])
def test_a_change_that_contradicts_the_data_is_refused(setting: str) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"Trial.model.{setting.split('=')[0]} is {setting.split('=')[1]}, but .*; legal: equal numbers",
    ):
        expand(replace(DIGITS, set=(setting,)))


def test_a_step_that_sets_what_is_crossed_cannot_be_left_out_and_every_base_is_trained() -> None:
    """The base at digits-sgd is not the cell "without recipe" at digits-adamw."""
    study = expand(
        Plan(
            name="p",
            question="?",
            design="leave-one-out",
            regime="micro",
            base="9",
            cross={"recipe": ["digits-adamw", "digits-sgd"]},
        )
    )
    assert (
        {c.parent for c in study.comparisons}
        == {("separate-downsampling", f"recipe={name}") for name in ("digits-adamw", "digits-sgd")}
        <= {(t.step, t.change) for t in study.trials}
    )
    reasons = {label: why for label, why in study.undefined.items() if "without recipe " in label}
    assert len(reasons) == 2 and all(
        why.startswith("cross.recipe is set by the change too; legal: a setting in one of the two; reason: ")
        for why in reasons.values()
    )


def test_trials_of_another_regime_are_refused_under_the_name_of_a_study(tmp_path: Path) -> None:
    """Comparisons name step and change only: a second regime's would be taken for the first's."""
    micro, deep = (
        expand(replace(DIGITS, regime=regime, steps=("baseline", "recipe"))) for regime in ("micro", "micro-deep")
    )
    folder = write_study(tmp_path, "mine", "?", micro.regime, micro.trials, header=micro.header())
    before = (folder / "study.json").read_bytes()
    with pytest.raises(RunError) as e:
        write_study(tmp_path, "mine", "?", deep.regime, deep.trials, header=deep.header())
    assert (
        str(e.value)
        == f"study.regime is 'micro-deep', but {folder} has trials of regime micro; legal: one regime a study; "
        "reason: its cells are told apart by step and change alone; choose another --name"
    )
    assert (folder / "study.json").read_bytes() == before
    write_study(tmp_path, "mine", "?", micro.regime, micro.trials, header=micro.header())
    write_study(tmp_path, "deep", "?", deep.regime, deep.trials, header=deep.header())


def test_a_second_regime_is_refused_before_anything_is_trained(command: Callable[..., Any], tmp_path: Path) -> None:
    study = expand(replace(DIGITS, steps=("baseline",)))
    folder = write_study(tmp_path / "runs", "mine", "?", study.regime, study.trials, header=study.header())
    command("run", "--step", "0", "--regime", "micro-deep", "--epochs", "1", "--name", "mine").refused(
        "study.regime is 'micro-deep', but runs/mine has trials of regime micro; legal: ", "; choose another --name"
    )
    assert [p.name for p in folder.iterdir() if p.is_dir()] == []


def test_another_number_of_epochs_keeps_the_shape_of_the_schedule() -> None:
    for short, full in zip(expand(replace(DIGITS, epochs=3)).trials, expand(DIGITS).trials, strict=True):
        assert short.recipe.epochs == 3
        for name in ("warmup_epochs", "decay_epochs"):
            assert getattr(short.recipe, name) / 3 == pytest.approx(getattr(full.recipe, name) / full.recipe.epochs)


def test_one_recipe_and_precision_for_all_steps_when_asked() -> None:
    trials = expand(replace(DIGITS, recipe="cifar-sgd", precision="bf16")).trials
    assert {(t.recipe.name, t.recipe.precision) for t in trials} == {("cifar-sgd", "bf16")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "Data.image_size is 0; legal: integers from 1 to 4096"),
        ({"validation": 2.0}, "Data.validation is 2.0; legal: numbers from 0 to 0.9"),
        ({"validation": float("nan")}, "Plan.validation is nan; legal: a number from 0 to 0.9"),
        ({"epochs": 0}, "Recipe.epochs is 0; legal: integers from 1 to 100000"),
        ({"num_classes": 11}, "data 'digits' has 10 classes, not 11; legal: 10; leave --num-classes out"),
        (
            {"data": "hfds/cifar10"},
            "data 'hfds/cifar10' does not tell its number of classes; legal: any count; say --num-classes N",
        ),
        ({"data": "digit"}, "did you mean 'digits'"),
        ({"seeds": (-1,)}, "Trial.seed is -1; legal: integers from 0"),
        ({"through": "ninth"}, "step 'ninth' is unknown"),
    ],
)
def test_an_illegal_value_is_refused_before_anything_runs(change: dict[str, object], message: str) -> None:
    with pytest.raises(RoadmapError) as e:
        expand(replace(DIGITS, **change))  # type: ignore[arg-type]
    assert message in str(e.value)


def test_the_number_of_images_to_train_leaves_the_validation_split_out() -> None:
    trial = expand(DIGITS).trials[0]
    assert images_to_train(trial) == round(1297 * 0.9) * trial.recipe.epochs
    assert images_to_train(expand(replace(DIGITS, data="torch/cifar10", num_classes=10)).trials[0]) is None
