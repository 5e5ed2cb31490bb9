"""A comparison is controlled only if its runs' records differ in what was declared and in nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.load import gather
from analysis.results.analyse import analyse
from analysis.results.confounds import Cause, Proof, Remark, prove
from analysis.study import Run
from roadmap.config.trial import Trial
from tests.helpers.study_files import make_record, make_trial, runs_of, write_runs


def records(step: str, seeds: tuple[int, ...] = (0, 1), **values: Any) -> list[dict[str, Any]]:
    return [make_record(make_trial(step, seed), **values) for seed in seeds]


def cell(step: str, seeds: tuple[int, ...] = (0, 1), **values: Any) -> list[Run]:
    return runs_of(records(step, seeds, **values))


def with_settings(runs: list[Run], part: str, **settings: Any) -> list[Run]:
    """The runs with other settings in their records."""
    changed = []
    for run in runs:
        resolved = {**run.resolved, part: {**run.resolved[part], **settings}}
        changed.append(replace(run, record=run.record.replace(resolved=resolved)))
    return changed


def reasons(proof: Proof) -> tuple[str, ...]:
    return tuple(confound.text for confound in proof.confounds)


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
    assert proof.status == "confounded" and reason in reasons(proof), proof
    assert proof.text.startswith(f"confounded by {reason.split()[0]}")


FORMATS = {"autocast": "bfloat16", "residual": "float32", "matmul": "ieee", "convolution": "ieee"}


@pytest.mark.parametrize(
    ("name", "other"),
    [("residual", "bfloat16"), ("convolution", "tf32"), ("cudnn_benchmark", True), ("cpu_capability", "AVX512")],
)
def test_a_number_format_that_differs_confounds(name: str, other: object) -> None:
    both = {**FORMATS, "cudnn_benchmark": False, "cpu_capability": "AVX2"}
    child, parent = cell("kernel-7", formats={**both, name: other}), cell("move-up-depthwise", formats=both)
    assert [(c.cause, c.name) for c in prove(child, parent, DECLARED).confounds] == [(Cause.DIFFERS, f"formats.{name}")]


def test_a_number_format_that_follows_from_a_declared_setting_does_not_confound() -> None:
    child = cell("kernel-7", formats={**FORMATS, "residual": "bfloat16"})
    child = with_settings(child, "recipe", residual="compute")
    parent = cell("move-up-depthwise", formats=FORMATS)
    assert prove(child, parent, [*DECLARED, "recipe.residual"]).controlled


def test_number_formats_that_older_records_do_not_hold_are_unknown_not_different() -> None:
    old = cell("kernel-7")
    assert prove(old, cell("move-up-depthwise", formats=FORMATS), DECLARED).controlled
    earlier = [{"precision": "fp32", "formats": None}, {"precision": "fp32"}]
    resumed = cell("kernel-7", formats=FORMATS, earlier=earlier)
    assert prove(resumed, cell("move-up-depthwise", formats=FORMATS), DECLARED).controlled
    mixed = [*cell("kernel-7", (0,), formats=FORMATS), *cell("kernel-7", (1,))]
    assert prove(mixed, PARENT, DECLARED).controlled
    elsewhere = cell("kernel-7", formats=FORMATS, earlier=[{"formats": {**FORMATS, "residual": "bfloat16"}}])
    (confound,) = prove(elsewhere, PARENT, DECLARED).confounds
    assert (confound.cause, confound.name) == (Cause.WITHIN, "formats.residual")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("model", "norm", "layer"),
        ("recipe", "lr", 0.5),
        ("recipe", "pipeline", "tensor"),
        ("data", "validation", 0.25),
        ("data", "split_seed", 7),
    ],
)
def test_an_undeclared_setting_is_caught(part: str, name: str, value: object) -> None:
    proof = prove(with_settings(cell("kernel-7"), part, **{name: value}), PARENT, DECLARED)
    assert [(c.cause, c.name) for c in proof.confounds] == [(Cause.DIFFERS, f"{part}.{name}")]


def test_one_deviating_seed_confounds_the_whole_comparison() -> None:
    runs = [*cell("kernel-7", (0,)), *cell("kernel-7", (1,), git_commit="e" * 40)]
    proof = prove(runs, PARENT, DECLARED)
    assert [(c.cause, c.name, len(c.after)) for c in proof.confounds] == [(Cause.WITHIN, "git_commit", 2)]


def test_uncommitted_code_on_both_sides_proves_nothing() -> None:
    proof = prove(cell("kernel-7", git_dirty=True), cell("move-up-depthwise", git_dirty=True), DECLARED)
    assert [c.cause for c in proof.confounds] == [Cause.DIRTY]


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
    recipe = with_settings(cell("recipe"), "recipe", lr=0.1, mixup=0.8)
    training = prove(recipe, cell("recipe"), ["recipe.*"])
    assert (training.status, training.text, training.note) == (
        "controlled",
        "controlled (bundle of 2 settings)",
        "bundle of 2 settings: no one of them is shown to be the cause",
    )


def test_a_declared_change_that_did_not_happen_is_told() -> None:
    proof = prove(cell("move-up-depthwise"), PARENT, DECLARED)
    assert proof.status == "unchanged"
    assert [(note.remark, note.names) for note in proof.notes] == [(Remark.IDLE, ("model.kernel_size",))]


def test_a_planned_setting_that_stayed_beside_others_that_changed_confounds() -> None:
    planned = {"model.kernel_size": [3, 7], "recipe.lr": [0.025, 0.004]}
    runs, parent = (with_settings(side, "recipe", lr=0.025) for side in (cell("kernel-7"), PARENT))
    proof = prove(runs, parent, ["model.kernel_size", "recipe.*"], planned)
    assert proof.status == "confounded"
    assert [(c.cause, c.name, c.planned) for c in proof.confounds] == [(Cause.STAYED, "recipe.lr", ("0.025", "0.004"))]


def test_what_follows_from_a_declared_setting_is_no_confounder() -> None:
    runs = cell("move-up-depthwise", group_size=4, device_batch=4, global_batch=4)
    runs = with_settings(runs, "recipe", batch_size=4, group_size=4)
    assert prove(runs, PARENT, ["recipe.batch_size", "recipe.group_size", "recipe.lr"]).status == "controlled"


def test_other_seeds_are_told_and_no_confounder() -> None:
    proof = prove(cell("kernel-7", (2, 3)), PARENT, DECLARED)
    assert (proof.status, proof.note) == ("controlled", "other seeds, not paired: 0, 1 and 2, 3")


# Which code ran ----------------------------------------------------------------------------------


def test_another_commit_or_uncommitted_changes_of_the_same_code_confound_nothing() -> None:
    parent = cell("move-up-depthwise", code_digest="2:aaaa")
    child = cell("kernel-7", code_digest="2:aaaa", git_commit="f" * 40, git_dirty=True)
    assert prove(child, parent, DECLARED).controlled


def test_other_code_confounds_whatever_the_commit_says() -> None:
    proof = prove(cell("kernel-7", code_digest="2:bbbb"), cell("move-up-depthwise", code_digest="2:aaaa"), DECLARED)
    assert [(c.cause, c.name) for c in proof.confounds] == [(Cause.DIFFERS, "code_digest")]


@pytest.mark.parametrize("digest", [None, "aaaa"])
def test_where_digests_cannot_be_compared_the_commit_decides(digest: str | None) -> None:
    parent = cell("move-up-depthwise", code_digest=digest)
    assert prove(cell("kernel-7", code_digest="2:aaaa"), parent, DECLARED).controlled
    other = prove(cell("kernel-7", code_digest="2:aaaa", git_commit="f" * 40), parent, DECLARED)
    assert [c.name for c in other.confounds] == ["git_commit"]


def test_a_run_resumed_with_other_code_is_not_of_one_piece() -> None:
    earlier = [{"git_commit": "0123456789abcdef", "git_dirty": False, "code_digest": "2:cccc"}]
    parent = cell("move-up-depthwise", code_digest="2:aaaa")
    proof = prove(cell("kernel-7", code_digest="2:aaaa", earlier=earlier), parent, DECLARED)
    assert [(c.cause, c.name) for c in proof.confounds] == [(Cause.WITHIN, "code_digest")]


# In a study --------------------------------------------------------------------------------------


def table_of(folder: Path) -> str:
    from analysis.report.report import report_study

    report_study(folder, folder.parent / "out")
    return (folder.parent / "out" / "table.md").read_text()


def test_a_confounded_pair_of_single_runs_is_marked_although_it_has_no_interval(tmp_path: Path) -> None:
    trials = [make_trial(step, 0) for step in ("baseline", "recipe")]
    folder = write_runs(tmp_path, trials, lambda t: {"git_commit": "f" * 40} if t.step == "recipe" else {})
    line = next(line for line in table_of(folder).splitlines() if line.startswith("| 1 recipe"))
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
    rows = {r.step: r for r in analyse(gather(folder)).results}
    assert [rows[s].effect.verdict for s in ("kernel-7", "gelu")] == [None, None]
    text = table_of(folder)
    assert "+5.00" in text and " ‡ " in text and "confounded by git\\_commit" in text
    report_study(folder, tmp_path / "out")
    texts = re.sub(r"<[^>]+>|\s", "", (tmp_path / "out" / "ladder.svg").read_text())
    assert "+5.00‡" in texts and "confounded,morethanthedeclaredchangediffers" in texts
