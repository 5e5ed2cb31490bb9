"""A run that --stop-hopeless ended: in no mean, in every table, and no verdict on its cell."""

from __future__ import annotations

from pathlib import Path

from analysis.load import open_study
from analysis.report.report import study_report
from analysis.results.analyse import analyse
from roadmap.config.trial import Trial
from tests.helpers.small_studies import Values, finished, small_study

REASON = "ended after epoch 10 of 20: top-1 is 9.00 %, no better than guessing"


def one_hopeless(trial: Trial) -> Values:
    if (trial.step, trial.seed) == ("kernel-7", 1):
        return {"status": "hopeless", "top1": None, "top5": None, "loss": None, "error": REASON}
    return finished(trial)


def test_a_cell_with_a_hopeless_run_has_a_mean_of_the_others_and_no_verdict(tmp_path: Path) -> None:
    rows = {row.step: row for row in analyse(open_study(small_study(tmp_path, values=one_hopeless))).results}
    kernel, gelu = rows["kernel-7"], rows["gelu"]
    assert (kernel.n, kernel.runs.planned, len(kernel.runs.hopeless)) == (2, 3, 1)
    assert (kernel.runs.failed, kernel.runs.missing) == (0, 0)
    for row in (kernel, gelu):  # it is one side of both
        assert row.effect.verdict is None and row.effect.proof is not None
        assert row.effect.proof.text == "confounded by runs ended early"
        assert kernel.runs.hopeless[0] in row.effect.proof.reasons[0]


def test_all_tables_name_a_hopeless_run_and_why(tmp_path: Path) -> None:
    files = study_report(open_study(small_study(tmp_path, values=one_hopeless))).files
    table, page = files["table.md"].decode(), files["report.html"].decode()
    assert "8 of 9 runs finished, 1 ended early as hopeless" in table
    assert "| hopeless |" in table and f"hopeless: {REASON}" in table
    assert REASON in page and "2 of 3, 1 hopeless" in page
    head, *lines = files["table.csv"].decode().splitlines()
    assert head.endswith(",hopeless") and [line.rsplit(",", 1)[1] for line in lines].count("1") == 1
    assert "hopeless" in files["table.tex"].decode()


def test_without_a_hopeless_run_tables_say_nothing_of_it(tmp_path: Path) -> None:
    files = study_report(open_study(small_study(tmp_path))).files
    assert not any(b"hopeless" in files[name] for name in ("table.md", "table.csv", "table.tex"))
