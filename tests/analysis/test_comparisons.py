"""From written records to rows.

The error term, proof, verdicts and controls of a whole study, and the paper beside it.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.load import gather
from analysis.report.caption import Caption
from analysis.report.report import report_study
from analysis.results.analyse import analyse
from analysis.results.confounds import Cause
from analysis.wording import markdown_text
from roadmap.config.trial import Trial
from roadmap.study.designs import Comparison
from tests.helpers.comparisons import PATH, SCATTER, TOP, ladder_trials, shifted, table_of
from tests.helpers.study_files import Values, make_trial, write_runs


def of_step(trials: list[Trial]) -> dict[str, list[Trial]]:
    found: dict[str, list[Trial]] = {}
    for t in trials:
        found.setdefault(t.step, []).append(t)
    return found


def fact(caption: Caption, label: str) -> str:
    return "; ".join(fact.text for fact in caption.facts if fact.kind == label)


# Error term, proof, verdicts ------------------------------------------------------------------------------------------


def test_error_term_and_verdicts_reach_the_rows_and_the_caption(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, ladder_trials(), lambda t: shifted(t, TOP))
    rows, caption = table_of(folder)
    assert [rows[s].effect.verdict for s in PATH] == [None, "gain", "unresolved", "loss", "unresolved", "gain"]
    # All six cells scatter by 0.1 (n - 1), so the pooled error is 0.1 at 12 degrees of freedom whatever the cell.
    for name in PATH[1:]:
        row = rows[name]
        assert row.effect.value == pytest.approx(TOP[name] - TOP[row.effect.parent])
        assert row.effect.se == pytest.approx(0.1 * (2 / 3) ** 0.5)
        assert row.effect.low < row.effect.value < row.effect.high
        assert row.effect.method == "pooled"
        assert row.effect.proof.status == "controlled"
        assert len(row.runs.ids) == len(row.effect.parent_ids) == row.n == 3
    assert "the pooled standard deviation of 6 cells and 18 runs, 0.10 points at 12 degrees of freedom" in fact(
        caption, "Change"
    )
    assert "after Holm over 5 controlled comparisons" in fact(caption, "Verdict")
    assert rows["baseline"].effect.parent is None and rows["baseline"].effect.p_holm is None


@pytest.mark.parametrize(
    ("confounder", "says"),
    [
        ({"git_commit": "fedcba9876543210"}, "git_commit"),
        ({"world_size": 2}, "world_size"),
        ({"packages": {"torch": "2.14.0", "timm": "1.0.31"}}, "packages.torch"),
    ],
)
def test_a_confounded_comparison_has_its_numbers_but_no_verdict_and_is_out_of_holms_family(
    tmp_path: Path, confounder: Values, says: str
) -> None:
    last = PATH[-1]
    folder = write_runs(
        tmp_path, ladder_trials(), lambda t: {**shifted(t, TOP), **(confounder if t.step == last else {})}
    )
    rows, caption = table_of(folder)
    row = rows[last]
    assert (row.effect.verdict, row.effect.p_holm, row.effect.proof.status) == (None, None, "confounded")
    assert row.effect.value == pytest.approx(4.95) and row.n == 3
    assert row.effect.proof.text == f"confounded by {says}"
    assert [rows[s].effect.verdict for s in PATH[1:-1]] == ["gain", "unresolved", "loss", "unresolved"]
    assert "after Holm over 4 controlled comparisons" in fact(caption, "Verdict")
    assert says in fact(caption, "Confounded")


def test_records_that_do_not_say_all_leave_every_comparison_unproven_and_without_a_verdict(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, ladder_trials(), lambda t: {**shifted(t, TOP), "resolved": None})
    rows, caption = table_of(folder)
    assert {(rows[s].effect.proof.status, rows[s].effect.verdict, rows[s].effect.p_holm) for s in PATH[1:]} == {
        ("unproven", None, None)
    }
    assert "after Holm over 0 controlled comparisons" in fact(caption, "Verdict")


def test_a_record_that_says_less_than_its_parents_has_no_verdict(tmp_path: Path) -> None:
    folder = write_runs(
        tmp_path, ladder_trials(), lambda t: {**shifted(t, TOP), **({"resolved": None} if t.step == PATH[-1] else {})}
    )
    rows, caption = table_of(folder)
    assert rows[PATH[-1]].effect.proof.status != "controlled" and rows[PATH[-1]].effect.verdict is None
    assert "after Holm over 4 controlled comparisons" in fact(caption, "Verdict")


def test_one_run_a_cell_has_a_change_but_no_error_and_no_verdict_of_gain(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, [t for t in ladder_trials() if t.seed == 0], lambda t: shifted(t, TOP))
    rows, caption = table_of(folder)
    for name in PATH[1:]:
        assert (
            rows[name].effect.value is not None
            and rows[name].effect.low is rows[name].effect.p is rows[name].effect.p_holm is None
        )
        assert rows[name].effect.verdict == "unresolved" and rows[name].n == 1
    assert "no cell has two runs, so no error is known" in fact(caption, "Change")


# Controls -------------------------------------------------------------------------------------------------------------


def with_controls(cell: tuple[str, str]) -> tuple[list[Trial], list[Trial], list[dict[str, Any]]]:
    """(A/A runs, no-op runs, their comparisons) for a step's cell."""
    same = [make_trial(cell[0], seed, change="a-a") for seed in (3, 4, 5)]
    idle = [replace(make_trial(cell[0], seed, change="no-op"), control="no-op") for seed in range(3)]
    planned = [
        Comparison(child=(cell[0], word), parent=cell, declared=(), kind=word).to_json() for word in ("a-a", "no-op")
    ]
    return same, idle, planned


def controlled_study(tmp_path: Path, aa_offset: float, **of_aa: Any) -> Path:
    base = [make_trial(step, seed) for step in PATH[:2] for seed in range(3)]
    same, idle, planned = with_controls((PATH[1], ""))
    planned += [
        Comparison(child=(PATH[1], ""), parent=(PATH[0], ""), declared=("recipe.*", "model.*"), kind="step").to_json()
    ]

    def values(t: Trial) -> dict[str, Any]:
        top1 = 80.0 + SCATTER[t.seed % 3] + (aa_offset if t.change == "a-a" else 0.0)
        return {"top1": top1, **(of_aa if t.change == "a-a" else {})}

    return write_runs(tmp_path, base + same + idle, values, header={"comparisons": planned})


def test_controls_that_differ_in_nothing_are_counted_in_the_caption(tmp_path: Path) -> None:
    rows, caption = table_of(controlled_study(tmp_path, 0.0))
    # One try without a false one still leaves up to 97 % possible (exact interval): that is said too. What repeats its
    # base to the bit is no try.
    rate = (
        "0 of 1 comparisons without any difference were called different (false-positive rate 0%, 95 % interval "
        "0% to 98%; 5 % are expected)"
    )
    assert fact(caption, "Controls") == f"{rate}; {PATH[1]} with no-op: the same top-1 as its base for every seed"
    assert {rows[f"{PATH[1]} with {word}"].role for word in ("a-a", "no-op")} == {"control"}
    assert rows[f"{PATH[1]} with a-a"].effect.proof.note == "other seeds, not paired: 0, 1, 2 and 3, 4, 5"
    assert rows[f"{PATH[1]} with no-op"].effect.value == 0.0
    assert "after Holm over 1 controlled comparisons" in fact(caption, "Verdict")


@pytest.mark.slow
def test_a_false_positive_is_counted_in_the_caption(tmp_path: Path) -> None:
    rows, caption = table_of(controlled_study(tmp_path, 5.0))
    assert rows[f"{PATH[1]} with a-a"].effect.verdict == "gain"
    assert fact(caption, "Controls").startswith(
        "1 of 1 comparisons without any difference were called different (false-positive rate 100%, 95 % "
        "interval 2% to 100%"
    )


def test_a_control_that_is_confounded_is_no_control(tmp_path: Path) -> None:
    """Its runs differ in their code: what is resolved there need not be a false positive."""
    rows, caption = table_of(controlled_study(tmp_path, 5.0, git_commit="fedcba9876543210"))
    assert (
        rows[f"{PATH[1]} with a-a"].effect.proof.status == "confounded"
        and rows[f"{PATH[1]} with a-a"].effect.verdict is None
    )
    assert fact(caption, "Controls") == f"{PATH[1]} with no-op: the same top-1 as its base for every seed"


def test_a_no_op_that_is_not_its_base_to_the_bit_is_confounded_on_a_cpu(tmp_path: Path) -> None:
    folder = controlled_study(tmp_path, 0.0)
    [run] = list(folder.glob("*no-op*seed1*/record.json"))
    run.write_text(
        json.dumps({**(record := json.loads(run.read_text())), "metrics": {**record["metrics"], "top1": 12.5}})
    )
    rows, _ = table_of(folder)
    proof = rows[f"{PATH[1]} with no-op"].effect.proof
    assert proof is not None and proof.status == "confounded"
    assert (proof.confounds[-1].cause, proof.confounds[-1].seed) == (Cause.OUTCOME, 1)


def test_controls_that_have_not_run_yet_are_planned_and_not_0_of_2(tmp_path: Path) -> None:
    base = [make_trial(PATH[1], seed) for seed in range(3)]
    same, idle, planned = with_controls((PATH[1], ""))
    folder = write_runs(
        tmp_path,
        base + same + idle,
        lambda t: None if t.change else {"top1": 80 + SCATTER[t.seed]},
        header={"comparisons": planned},
    )
    _, caption = table_of(folder)
    assert fact(caption, "Controls") == "planned, not finished or not controlled"


@pytest.mark.slow
def test_controls_add_nothing_to_the_error_term_nor_to_holms_family(tmp_path: Path) -> None:
    folder = controlled_study(tmp_path / "with", 5.0)
    study = gather(folder)
    findings = analyse(study).findings
    alone = analyse(replace(study, runs=[run for run in study.runs if run.cell.whole])).findings
    assert findings.error == alone.error and findings.error.runs == 6
    assert findings.family == alone.family == 1


# What cannot be built, and what did not end ---------------------------------------------------------------------------


def test_a_cell_that_cannot_be_built_is_a_row_with_its_reason_in_table_and_figure(tmp_path: Path) -> None:
    reason = "ModelSpec.downsampling is separate, which needs inverted_bottleneck true"
    trials = [make_trial("width", seed) for seed in range(2)]
    header = {"comparisons": [], "undefined": {"width with downsampling=separate": reason}, "design": "one-at-a-time"}
    folder = write_runs(tmp_path / "runs", trials, lambda t: {"top1": 80.0 + t.seed}, header=header)
    rows, caption = table_of(folder)
    row = rows["width with downsampling=separate"]
    assert (row.role, row.n, row.runs.planned, row.score.mean, row.effect.verdict) == ("undefined", 0, 0, None, None)
    report_study(folder, tmp_path / "out")
    [line] = [x for x in (tmp_path / "out" / "table.md").read_text().splitlines() if "not defined" in x]
    assert markdown_text(f"width with downsampling=separate: not defined: {reason}") in line
    assert "not run" in line
    assert "not defined" in (tmp_path / "out" / "ladder.svg").read_text()
    [raw] = [
        r for r in csv.DictReader(io.StringIO((tmp_path / "out" / "table.csv").read_text())) if r["kind"] == "undefined"
    ]
    assert raw["what"] == "width with downsampling=separate" and raw["measured_top1"] == "" and raw["n"] == "0"
    assert caption.problems == []


@pytest.mark.slow
def test_an_interrupted_study_says_n_of_n_everywhere(tmp_path: Path) -> None:
    def values(t: Trial) -> dict[str, Any] | None:
        done = (t.step in PATH[:3] or (t.step == PATH[3] and t.seed == 0)) and (t.step, t.seed) != (PATH[2], 2)
        return (
            shifted(t, TOP)
            if done
            else {"status": "interrupted", "top1": None, "error": "SIGTERM"}
            if t.step == PATH[3]
            else None
        )

    folder = write_runs(tmp_path / "runs", ladder_trials(), values)
    rows, caption = table_of(folder)
    assert [(rows[s].n, rows[s].runs.planned, rows[s].runs.failed, rows[s].runs.missing) for s in PATH] == [
        (3, 3, 0, 0),
        (3, 3, 0, 0),
        (2, 3, 0, 1),
        (1, 3, 0, 2),
        (0, 3, 0, 3),
        (0, 3, 0, 3),
    ]
    assert rows[PATH[4]].effect.value is None and rows[PATH[4]].effect.note.startswith("no finished run of ")
    assert fact(caption, "Runs") == "9 of 18 runs finished, 9 missing" and len(caption.problems) == 9
    report_study(folder, tmp_path / "out")
    text = (tmp_path / "out" / "table.md").read_text()
    for name, words in zip(PATH, ("3 of 3", "3 of 3", "2 of 3", "1 of 3", "0 of 3", "0 of 3"), strict=True):
        [line] = [x for x in text.splitlines() if x.startswith("| ") and x.split("|")[1].split()[-1] == name]
        assert f"| {words} |" in line
    assert "2 of 3" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("status", ["diverged", "failed", "interrupted"])
def test_a_run_that_did_not_finish_is_in_no_mean_no_error_and_no_proof(tmp_path: Path, status: str) -> None:
    """Its record has a top-1, and settings, that would show."""
    bad = {"status": status, "top1": 10.0, "error": "loss is nan", "git_commit": "fedcba9876543210"}
    folder = write_runs(
        tmp_path / "a", ladder_trials(), lambda t: bad if (t.step, t.seed) == (PATH[2], 2) else shifted(t, TOP)
    )
    without = write_runs(
        tmp_path / "b", [t for t in ladder_trials() if (t.step, t.seed) != (PATH[2], 2)], lambda t: shifted(t, TOP)
    )
    found, expected = analyse(gather(folder)), analyse(gather(without))
    assert found.findings.error == expected.findings.error and found.findings.family == expected.findings.family
    for mine, theirs in zip(found.results, expected.results, strict=True):
        assert (mine.label, mine.score, mine.runs.ids, mine.effect) == (
            theirs.label,
            theirs.score,
            theirs.runs.ids,
            theirs.effect,
        )
