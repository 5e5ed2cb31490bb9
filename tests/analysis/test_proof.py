"""A comparison is controlled only if its runs' records differ in what was declared and in nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.study_files import make_record, make_trial, write_runs

from analysis.load import gather
from analysis.report import tables
from analysis.report.report import study_table
from analysis.results.proof import prove
from roadmap.config.trial import Trial


def cell(step: str, seeds: tuple[int, ...] = (0, 1), **values: Any) -> list[dict[str, Any]]:
    return [make_record(make_trial(step, seed), **values) for seed in seeds]


PARENT = cell("move-up-depthwise")
DECLARED = ["model.kernel_size"]


def test_one_declared_setting_and_nothing_else_is_controlled() -> None:
    proof = prove(cell("kernel-7"), PARENT, DECLARED)
    assert (proof.status, proof.text, dict(proof.changed), proof.note) == (
        "controlled",
        "controlled",
        {"model.kernel_size": ("3", "7")},
        "",
    )
    expected = {
        "model.norm",
        "recipe.lr",
        "data.validation",
        "git_commit",
        "packages.torch",
        "hardware.device",
        "hardware.cpu",
        "world_size",
        "device_batch",
        "group_size",
        "epochs",
        "data_digest",
        "init",
    }
    assert expected <= set(proof.same)


@pytest.mark.parametrize(
    ("confounder", "reason"),
    [
        ({"git_commit": "f" * 40}, "git_commit 0123456789abcdef and " + "f" * 40),
        ({"git_dirty": True}, "git_dirty false and true"),
        ({"group_size": 128}, "group_size 32 and 128"),
        ({"device_batch": 16}, "device_batch 32 and 16"),
        ({"data_digest": "a" * 10}, "data_digest  and aaaaaaaaaa"),
        ({"packages": {"torch": "2.14.0", "timm": "1.0.31"}}, "packages.torch 2.15.0 and 2.14.0"),
        ({"packages": {"torch": "2.15.0"}}, "packages.timm 1.0.31 and not recorded"),
        ({"hardware": {"device": "NVIDIA H200", "cpu": "a CPU"}}, "hardware.device cpu and NVIDIA H200"),
        ({"world_size": 2}, "world_size 1 and 2"),
        ({"precision": "bf16"}, "precision fp32 and bf16"),
        ({"compile": True}, "compile false and true"),
        ({"train_images": 999}, "train_images 1000 and 999"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_every_other_difference_is_caught(confounder: dict[str, Any], reason: str) -> None:
    proof = prove(cell("kernel-7", **confounder), PARENT, DECLARED)
    assert proof.status == "confounded" and reason in proof.confounded_by, proof
    assert proof.text.startswith(f"confounded by {reason.split()[0]}")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("model", "norm", "layer"), ("recipe", "lr", 0.5), ("data", "validation", 0.25), ("data", "split_seed", 7)],
)
def test_an_undeclared_setting_is_caught(part: str, name: str, value: object) -> None:
    runs = cell("kernel-7")
    for run in runs:
        run["resolved"] = {**run["resolved"], part: {**run["resolved"][part], name: value}}
    proof = prove(runs, PARENT, DECLARED)
    assert proof.status == "confounded" and [r.split()[0] for r in proof.confounded_by] == [f"{part}.{name}"]


def test_one_deviating_seed_confounds_the_whole_comparison() -> None:
    runs = [*cell("kernel-7", (0,)), *cell("kernel-7", (1,), git_commit="e" * 40)]
    proof = prove(runs, PARENT, DECLARED)
    assert proof.confounded_by == (f"git_commit 0123456789abcdef, {'e' * 40} within one cell",)


def test_uncommitted_code_on_both_sides_proves_nothing() -> None:
    proof = prove(cell("kernel-7", git_dirty=True), cell("move-up-depthwise", git_dirty=True), DECLARED)
    assert proof.confounded_by == ("git_dirty true: code with uncommitted changes cannot be told apart",)


def test_what_the_records_do_not_say_is_not_taken_as_equal() -> None:
    proof = prove(cell("kernel-7", resolved=None), cell("move-up-depthwise", resolved=None), DECLARED)
    assert (proof.status, proof.text) == ("unproven", "unproven: resolved not recorded")


def test_a_bundle_is_called_a_bundle_and_a_coupling_a_coupling() -> None:
    coupled = prove(cell("layernorm"), cell("fewer-norms"), ["model.norm", "model.conv_bias"])
    assert (coupled.status, coupled.note) == ("controlled", "coupled: norm and conv_bias change together, as declared")
    assert coupled.text == "controlled (coupled)"
    bundle = prove(cell("separate-downsampling"), cell("gelu"), ["model.*"])
    assert (
        bundle.note.startswith("bundle of whole networks: nothing in them is shown to be the cause")
        and len(bundle.changed) > 3
    )
    assert bundle.text == "controlled (bundle of whole networks)"
    recipe = cell("recipe")
    for run in recipe:
        run["resolved"] = {**run["resolved"], "recipe": {**run["resolved"]["recipe"], "lr": 0.1, "mixup": 0.8}}
    training = prove(recipe, cell("recipe"), ["recipe.*"])
    assert (training.status, training.text, training.note) == (
        "controlled",
        "controlled (bundle of 2 settings)",
        "bundle of 2 settings: no one of them is shown to be the cause",
    )


def test_a_declared_change_that_did_not_happen_is_told() -> None:
    assert prove(cell("move-up-depthwise"), PARENT, DECLARED).note == "declared but equal: model.kernel_size"


def test_a_planned_setting_that_stayed_beside_others_that_changed_confounds() -> None:
    planned = {"model.kernel_size": [3, 7], "recipe.lr": [0.025, 0.004]}
    runs, parent = (
        [{**run, "resolved": {**run["resolved"], "recipe": {**run["resolved"]["recipe"], "lr": 0.025}}} for run in side]
        for side in (cell("kernel-7"), PARENT)
    )
    proof = prove(runs, parent, ["model.kernel_size", "recipe.*"], planned)
    assert (proof.status, proof.confounded_by) == ("confounded", ("recipe.lr stayed 0.025, planned 0.025 to 0.004",))


def test_what_follows_from_a_declared_setting_is_no_confounder() -> None:
    runs = cell("move-up-depthwise", group_size=4, device_batch=4, global_batch=4)
    for run in runs:
        run["resolved"] = {**run["resolved"], "recipe": {**run["resolved"]["recipe"], "batch_size": 4, "group_size": 4}}
    assert prove(runs, PARENT, ["recipe.batch_size", "recipe.group_size", "recipe.lr"]).status == "controlled"


def test_other_seeds_are_told_and_no_confounder() -> None:
    proof = prove(cell("kernel-7", (2, 3)), PARENT, DECLARED)
    assert (proof.status, proof.note) == ("controlled", "other seeds, not paired: 0, 1 and 2, 3")


def test_a_confounded_pair_of_single_runs_is_marked_although_it_has_no_interval(tmp_path: Path) -> None:
    trials = [make_trial(step, 0) for step in ("baseline", "recipe")]
    rows, caption = study_table(
        gather(write_runs(tmp_path, trials, lambda t: {"git_commit": "f" * 40} if t.step == "recipe" else {}))
    )
    line = next(line for line in tables.markdown(rows, caption).splitlines() if line.startswith("| 1 recipe"))
    assert "| 0.00 ‡ |" in line and "confounded by git\\_commit" in line


def test_a_confounded_pair_is_marked_in_table_and_figure_and_has_no_verdict(tmp_path: Path) -> None:
    from analysis.report.report import report_study

    def values(trial: Trial) -> dict[str, Any]:
        return {
            "top1": {"move-up-depthwise": 80.0, "kernel-7": 85.0, "gelu": 90.0}[trial.step] + trial.seed / 10,
            **({"git_commit": "f" * 40} if trial.step == "kernel-7" else {}),
        }

    trials = [make_trial(step, seed) for step in ("move-up-depthwise", "kernel-7", "gelu") for seed in range(3)]
    folder = write_runs(tmp_path, trials, values)
    found, caption = study_table(gather(folder))
    rows = {r["step"]: r for r in found}
    assert [rows[s]["verdict"] for s in ("kernel-7", "gelu")] == [None, None]
    assert (
        "+5.00" in tables.markdown(found, caption)
        and " ‡ " in tables.markdown(found, caption)
        and "confounded by git\\_commit" in tables.markdown(found, caption)
    )
    report_study(folder, tmp_path / "out")
    texts = re.sub(r"<[^>]+>|\s", "", (tmp_path / "out" / "ladder.svg").read_text())
    assert "+5.00‡" in texts and "confounded,morethanthedeclaredchangediffers" in texts
