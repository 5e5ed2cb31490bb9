"""What is committed below results/ is what the code makes of it now."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.report.report import report_paper, report_study

RESULTS = Path(__file__).parents[2] / "results"
STUDIES = sorted(path.parent for path in RESULTS.glob("*/records.jsonl"))
TABLES = ("table.md", "table.csv", "table.tex")


@pytest.mark.parametrize("regime", ["resnet50", "resnet200"])
def test_the_papers_tables_are_up_to_date(regime: str, tmp_path: Path) -> None:
    report_paper(regime, RESULTS / "reference", tmp_path)
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (RESULTS / "reference" / regime / name).read_bytes(), (
            "run `make reference`"
        )


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES, ids=lambda p: p.name)
def test_the_measured_tables_are_made_from_the_committed_records(study: Path, tmp_path: Path) -> None:
    report_study(study, tmp_path)
    for name in (*TABLES, "records.jsonl"):
        assert (tmp_path / name).read_bytes() == (study / name).read_bytes(), "run `make results`"
