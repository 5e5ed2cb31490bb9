"""report: what is written, and where; a fresh checkout stays as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.small_studies import STEPS, finished, small_study, top1

ROOT = Path(__file__).parents[2]
Command = Callable[..., Any]
FILES = {"records.jsonl", "table.md", "table.csv", "table.tex", "ladder.svg", "ladder.png", "report.html"}


@pytest.mark.slow
def test_report_writes_beside_the_run_folders_what_it_lists(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    found = command("report", "small", "--json").json()
    paths = [Path(p) for p in found["files"]]
    assert {p.name for p in paths} >= FILES
    assert {p.parent for p in paths} == {Path("runs/small/report")}
    assert all((tmp_path / p).stat().st_size for p in paths)
    assert [r["verdict"] for r in found["rows"] if r["step"] in STEPS] == [None, "gain", "gain"]


@pytest.mark.slow
def test_a_report_of_committed_results_goes_to_the_runs_too(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    assert command("report", "small", "--out", "results/small").status == 0
    shutil.rmtree(tmp_path / "runs")
    assert command("report", "small").status == 0
    assert (tmp_path / "runs" / "small" / "report" / "report.html").exists()
    assert command("status", "small").status == 2, "a report makes no run folders"


def test_a_study_given_by_its_folder_has_its_report_there(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert command("report", "elsewhere/small").status == 0
    assert (tmp_path / "elsewhere" / "small" / "report" / "table.md").exists()
    assert not (tmp_path / "runs").exists()


def test_the_papers_report_is_not_written_over_the_reference(command: Command, tmp_path: Path) -> None:
    found = command("report", "--paper", "--regime", "resnet200", "--json").json()
    assert {Path(p).parent for p in found["files"]} == {Path("runs/paper-resnet200/report")}
    reference = ROOT / "results" / "reference" / "resnet200"
    written = tmp_path / "runs" / "paper-resnet200" / "report"
    assert (written / "table.csv").read_bytes() == (reference / "table.csv").read_bytes()


@pytest.mark.slow
def test_report_compare_writes_a_page_of_both_studies(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, "first")
    small_study(tmp_path, "second", values=lambda t: {"top1": top1(t) + 5.0})
    path = Path(command("report", "--compare", "first", "second").out.strip())
    assert path == Path("runs/first/report/first-and-second.html")
    text = (tmp_path / path).read_text()
    assert all(part in text for part in ("first", "second", "84.00", "89.00"))
    asked = command("report", "--compare", "first", "second", "--out", "x/y").out.strip()
    assert asked == "x/y/first-and-second.html" and (tmp_path / asked).exists()
    refusal = command("report", "--compare", "first", "secnd").refusal()
    assert "'secnd'" in refusal.what and "'second'" in refusal.advice


@pytest.mark.slow
def test_report_transfer_says_how_well_one_study_predicts_another(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, "first")
    small_study(tmp_path, "second", values=lambda t: {"top1": top1(t) + 5.0})
    answer = command("report", "--transfer", "first", "second")
    *shown, md, csv, svg, png = answer.out.splitlines()
    assert max(map(len, shown)) <= 80, "it fits a terminal of 80 columns"
    assert any(line.startswith("kernel-7") and "same *" in line for line in shown)
    names = [f"runs/first/report/transfer-first-second.{kind}" for kind in ("md", "csv", "svg", "png")]
    assert [md, csv, svg, png] == names and all((tmp_path / name).stat().st_size for name in names)
    values = command("report", "--transfer", "first", "second", "--json", "--out", "x").json()
    assert [c["comparison"] for c in values["comparisons"]] == ["kernel-7", "gelu"]
    assert values["decisions"]["all"] == {**values["decisions"]["all"], "hits": 3.0, "total": 3, "share": 1.0}
    assert values["files"][0] == "x/transfer-first-second.md"


def test_report_transfer_to_the_paper_takes_its_regime(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    values = command("report", "--transfer", "small", "paper", "--regime", "resnet50", "--json").json()
    assert [(c["comparison"], c["effect_b"]) for c in values["comparisons"]] == [("kernel-7", 0.65), ("gelu", 0.05)]
    refusal = command("report", "--transfer", "small", "small", "--regime", "resnet50").refusal()
    assert "--regime" in refusal.what and "paper" in refusal.legal
    assert "'papr'" in command("report", "--transfer", "small", "papr").refusal().what
    assert "top1" in command("report", "--transfer", "small", "paper", "--metric", "loss").refusal().legal


def test_a_metric_that_is_not_measured_is_refused(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, values=finished)
    for verb in (("report",), ("attribute",), ("watch",), ("power", "--resolve", "1")):
        refusal = command(*verb, "--metric", "top2").refusal()
        assert "'top2'" in refusal.what and "top1" in refusal.legal


# A fresh checkout -------------------------------------------------------------------------------


def git(*words: str, cwd: Path) -> str:
    return subprocess.run(["git", *words], cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh clone of what git has of this tree, as it is in the working folder."""
    if not (ROOT / ".git").exists():
        pytest.skip("the tree is not a git checkout")
    for name in git("ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    git("init", "--quiet", cwd=tmp_path)
    git("add", "--all", cwd=tmp_path)
    author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    git(*author, "commit", "--quiet", "--message", "as it is", cwd=tmp_path)
    return tmp_path


def recipe_of(target: str, cwd: Path) -> list[list[str]]:
    """The `roadmap` commands of a target of the Makefile, as words."""
    dry = subprocess.run(["make", "--dry-run", target], cwd=cwd, check=True, capture_output=True, text=True)
    return [line.split() for line in dry.stdout.splitlines() if line.startswith("roadmap ")]


@pytest.mark.slow
def test_make_ladder_leaves_a_checkout_as_it_was(checkout: Path) -> None:
    commands = recipe_of("ladder", checkout)
    assert [words[1] for words in commands] == ["run", "report"]
    # The whole ladder would train for minutes: one step of it writes to the same places.
    shorter = {"run": ["--step", "0", "--epochs", "1", "--name", "digits"]}
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    for words in [*commands, ["roadmap", "report", "--paper"], ["roadmap", "report", "results/kernel-digits"]]:
        command = [sys.executable, "-m", *words, *shorter.get(words[1], [])]
        subprocess.run(command, cwd=checkout, check=True, capture_output=True, env=environment)
    assert (checkout / "runs" / "digits" / "report" / "report.html").exists()
    assert git("status", "--porcelain", cwd=checkout) == ""


@pytest.mark.slow
def test_make_results_renews_only_what_is_committed(checkout: Path) -> None:
    committed = git("ls-files", "results", cwd=checkout).splitlines()
    assert "results/digits/ladder.png" in committed
    drawn = [p for p in committed if p.endswith((".html", ".svg")) and not p.startswith("results/reference/")]
    assert drawn == []
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    words = ["report", "kernel-digits", "--out", "results/kernel-digits"]
    subprocess.run([sys.executable, "-m", "roadmap", *words], cwd=checkout, check=True, env=environment)
    assert git("status", "--porcelain", cwd=checkout) == ""
