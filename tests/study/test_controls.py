"""Designs repeated at other values, and controls: comparisons in which nothing differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.data import Data
from roadmap.config.errors import ConfigError
from roadmap.config.recipes import find_recipe
from roadmap.config.trial import Trial
from roadmap.data.registry import resolve_data
from roadmap.study.expand import Study, expand
from roadmap.study.plan import CONTROLS
from tests.helpers.designs import (
    FACTORS,
    NINE,
    Command,
    assert_controlled,
    cells_of,
    plan_of,
)

# Crossings and controls -----------------------------------------------------------------------------------------------


def crossed_study() -> Study:
    """One change, at the four combinations of two group sizes and two lengths of training."""
    return expand(
        plan_of(
            design="one-at-a-time",
            base="9",
            seeds=(0, 1),
            changes=({"norm": "batch"},),
            cross={"recipe.group_size": [64, 16], "epochs": [1, 2]},
        )
    )


def test_a_crossed_design_is_repeated_at_each_point_and_compared_inside_it() -> None:
    study = crossed_study()
    cells = cells_of(study)
    points = [f"recipe.group_size={g} epochs={e}" for g in (64, 16) for e in (1, 2)]
    assert list(cells) == [
        (NINE, " ".join(filter(None, [arm, point]))) for point in points for arm in ("", "norm=batch")
    ]
    assert [(c.child[1].split(" ", 1)[1], c.parent[1]) for c in study.comparisons] == [(p, p) for p in points]
    assert {(t.recipe.group_size, t.recipe.epochs) for t in study.trials} == {(64, 1), (64, 2), (16, 1), (16, 2)}
    assert {c.declared for c in study.comparisons} == {("model.norm",)}
    assert_controlled(study)


def test_each_cell_of_a_crossed_design_is_laid_beside_itself_at_the_first_point() -> None:
    study = crossed_study()
    first = "recipe.group_size=64 epochs=1"
    assert {c.parent[1] for c in study.crossings} == {first, f"norm=batch {first}"} and len(study.crossings) == 6
    assert {c.declared for c in study.crossings if "group_size=16 epochs=2" in c.child[1]} == {
        ("recipe.group_size", "recipe.epochs", "recipe.warmup_epochs", "recipe.decay_epochs", "recipe.ema_decay")
    }
    assert all(c.kind == "crossing" and c.planned for c in study.crossings)
    assert study.header()["crossings"] == [c.to_json() for c in study.crossings]


def test_a_crossing_of_data_takes_the_networks_classes_along() -> None:
    study = expand(
        plan_of(design="single", base="9", changes=({"norm": "batch"},), cross={"data": ["digits", "cifar100"]})
    )
    assert {(t.data.name, t.model.num_classes, t.model.in_chans) for t in study.trials} == {
        ("digits", 10, 1),
        ("cifar100", 100, 3),
    }
    assert assert_controlled(study) == 2


def test_a_whole_folder_is_listed_once_for_all_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(name: str, **more: Any) -> Data:
        asked.append(name)
        return resolve_data(name, **more)

    monkeypatch.setattr("roadmap.study.expand.resolve_data", counted)
    expand(plan_of(design="factorial", base="6", changes=FACTORS, cross={"data": ["digits", "cifar10"]}))
    assert asked == ["digits", "cifar10"]


@pytest.mark.parametrize("kind", ["ladder", "one-at-a-time", "grid", "models"])
def test_a_control_repeats_its_cell_in_all_but_name_and_seeds(kind: str) -> None:
    keys: dict[str, dict[str, Any]] = {
        "ladder": {"through": "9"},
        "one-at-a-time": {"base": "9", "changes": ({"kernel_size": 3},)},
        "grid": {"base": "9", "changes": ({"kernel_size": [3, 5]},)},
        "models": {"model": ("convnextv2_atto", "timm/test_vit"), "recipe": "digits-adamw", "image_size": 32},
    }
    study = expand(plan_of(design=kind, seeds=(0, 2), controls=("a-a", "no-op", "a-a"), **keys[kind]))
    cells = cells_of(study)
    controls = [c for c in study.comparisons if c.kind in CONTROLS]
    assert [c.child[1] for c in controls] == ["a-a", "no-op", "a-a 2"] and all(c.declared == () for c in controls)
    [parent] = {c.parent for c in controls}
    same, idle, again = (cells[c.child] for c in controls)
    whole = cells[parent]
    assert {t.configuration for t in same + again} == {whole[0].configuration}
    seeds = [[t.seed for t in runs] for runs in (whole, same, again)]
    assert seeds == [[0, 2], [1000, 1002], [2000, 2002]]
    assert [t.seed for t in idle] == [0, 2] and not {t.fingerprint for t in idle} & {t.fingerprint for t in whole}
    for mine, theirs in zip(idle, whole, strict=True):
        assert (mine.model, mine.recipe, mine.data, mine.init, mine.seed) == (
            theirs.model,
            theirs.recipe,
            theirs.data,
            theirs.init,
            theirs.seed,
        )


@pytest.mark.parametrize(
    ("seeds", "first"),
    [((0, 1, 2), 1000), ((999,), 1999), ((0, 1000), 2000), ((5, 1000, 2999), 3005), ((123456,), 247456)],
)
def test_the_runs_of_a_control_are_never_another_cells(seeds: tuple[int, ...], first: int) -> None:
    """A run that base and control share, or two controls, would be one draw of luck counted as two."""
    study = expand(plan_of(steps=("9",), seeds=seeds, controls=("a-a", "a-a", "a-a")))
    assert (
        len(study.trials)
        == 4 * len(seeds)
        == len({t.fingerprint for t in study.trials})
        == len({t.seed for t in study.trials})
    )
    assert min(t.seed for t in study.trials if t.change == "a-a") == first


def test_a_control_on_the_command_line_is_one_word(command: Command) -> None:
    trials = command("plan", "--study", "kernel", "--digits", "--controls", "no-op", "--json").json()["trials"]
    assert [t["change"] for t in trials if "=" not in t["change"] and t["change"]] == ["no-op"] * 3


def test_a_study_notes_what_it_compares_beside_its_trials(tmp_path: Path) -> None:
    from roadmap.runs.study_folder import write_study

    study = expand(plan_of(design="one-at-a-time", base="9", changes=({"kernel_size": [3, 7]},), controls=("a-a",)))
    folder = write_study(tmp_path, study.name, study.question, study.regime, study.trials, header=study.header())
    noted = json.loads((folder / "study.json").read_text())
    assert noted["comparisons"] == [c.to_json() for c in study.comparisons]
    assert noted["undefined"] == dict(study.undefined) and noted["design"] == "one-at-a-time"


@pytest.mark.slow
def test_a_no_op_toggle_trains_to_the_same_bits(command: Command, tmp_path: Path) -> None:
    """Two runs that differ in nothing but a name.

    If their results differ, something outside the trial reaches the training.
    """
    (tmp_path / "c.yaml").write_text("question: q\nregime: micro\nsteps: [0]\nepochs: 1\ncontrols: [no-op]\n")
    base, idle = command("run", "--study", "c.yaml", "--json").json()
    assert (base["change"], idle["change"]) == ("", "no-op") and base["fingerprint"] != idle["fingerprint"]
    assert [base[key] for key in ("metrics", "params", "macs")] == [idle[key] for key in ("metrics", "params", "macs")]
    losses = [(tmp_path / "runs" / "c" / r["id"] / "losses.jsonl").read_bytes() for r in (base, idle)]
    assert losses[0] == losses[1]
    assert base["resolved"]["model"] == idle["resolved"]["model"] and idle["resolved"]["control"] == "no-op"


def test_a_trial_without_a_control_has_the_fingerprint_it_had_before_there_were_controls() -> None:
    trial = expand(plan_of(steps=("9",))).trials[0]
    assert "control" not in trial.identity()
    assert replace(trial, control="no-op").fingerprint != trial.fingerprint
    assert Trial.from_json(json.loads(json.dumps(replace(trial, control="no-op").to_json()))).control == "no-op"


def test_a_plan_from_the_command_line_is_checked_like_a_file() -> None:
    with pytest.raises(ConfigError) as e:
        plan_of(design="grid", controls=("b-b",), cross={"kernel_size": [3]})
    assert [fault.field for fault in e.value.faults] == ["controls", "cross", "changes"]
    assert "study p.changes is empty in a grid design" in str(e.value)


def test_a_recipe_asked_for_is_every_cells() -> None:
    study = expand(
        plan_of(design="one-at-a-time", base="9", recipe="digits-sgd", changes=({"recipe.lr": 0.5}, {"batch_size": 32}))
    )
    sgd = find_recipe("digits-sgd")
    assert [t.recipe for t in study.trials] == [sgd, replace(sgd, lr=0.5), sgd.with_batch_size(32)]
