"""A study is named the same way in every verb: by its name, its folder or its file, with one refusal."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_studies import finished, small_study

from roadmap.launch.launchers import LAUNCHERS
from roadmap.runs.io import RunError
from roadmap.study import find
from roadmap.study.file import EXPERIMENTS
from roadmap.study.find import find_study

Command = Callable[..., Any]
READERS = ("check", "power", "attribute", "watch", "report", "status")
POWER = {"power": ("--resolve", "0.1")}


def call(command: Command, verb: str, *words: object) -> Any:
    """The verb with the options that it cannot do without."""
    return command(verb, *words, *POWER.get(verb, ()))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the run folders of one study."""
    monkeypatch.chdir(tmp_path)
    small_study(tmp_path)
    return tmp_path


def test_every_launchers_folder_says_when_a_study_changed() -> None:
    assert set(find.LAUNCHERS) == set(LAUNCHERS)


def test_a_name_a_folder_and_a_file_are_one_study(place: Path) -> None:
    (place / "mine.yaml").write_text("name: small\nquestion: q\nregime: micro\n")
    for given in ("small", "runs/small", place / "runs" / "small", "mine.yaml"):
        found = find_study(given)
        assert found.name == "small" and found.run_folder().resolve() == place / "runs" / "small"


def test_a_study_that_ships_goes_by_its_name_and_by_that_of_its_runs(place: Path) -> None:
    for given, digits in (("kernel", False), ("kernel-digits", True)):
        found = find_study(given)
        assert (found.name, found.digits, found.study_file()) == (given, digits, EXPERIMENTS / "kernel.yaml")
    assert find_study("digits").study_file() == EXPERIMENTS / "digits.yaml"


def test_committed_results_are_read_where_there_are_no_runs(command: Command, place: Path) -> None:
    assert command("report", "small", "--out", "results/small").status == 0
    (place / "runs").rename(place / "elsewhere")
    found = find_study("small")
    assert found.records_folder() == Path("results/small")
    with pytest.raises(RunError):
        found.run_folder()
    assert find_study("small", Path("elsewhere")).records_folder() == Path("elsewhere/small")


@pytest.mark.parametrize("verb", READERS)
def test_a_study_that_is_not_there_is_refused_with_the_nearest_name(command: Command, place: Path, verb: str) -> None:
    refusal = call(command, verb, "smal").refusal()
    assert "'smal'" in refusal.what and "small" in refusal.legal and "'small'" in refusal.advice


@pytest.mark.parametrize("words", [("run", "--study"), ("plan", "--study"), ("bench", "--study"), ("logs", "--study")])
def test_an_option_refuses_as_an_argument_does(command: Command, place: Path, words: tuple[str, ...]) -> None:
    refusal = command(*words, "smal").refusal()
    assert "'smal'" in refusal.what and "small" in refusal.legal and "'small'" in refusal.advice


@pytest.mark.parametrize("verb", READERS)
def test_a_study_without_runs_says_how_to_train_it(command: Command, place: Path, verb: str) -> None:
    refusal = call(command, verb, "open-points-digits").refusal()
    assert "'open-points-digits'" in refusal.what
    assert "roadmap run --study open-points-digits" in refusal.advice


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_study_without_a_file_cannot_be_planned(command: Command, place: Path, verb: str) -> None:
    refusal = command(verb, "--study", "small").refusal()
    assert "'small'" in refusal.what and "kernel" in refusal.legal


def test_without_a_name_the_study_that_changed_last_is_meant(command: Command, place: Path) -> None:
    small_study(place, "older", finished)
    os.utime(place / "runs" / "older" / "study.json", (1, 1))
    assert find_study(None).name == "small"
    assert command("check", "--json").json()["study"] == "small"
    assert command("status", "--json").json()["study"] == "small"


@pytest.mark.parametrize("verb", READERS)
def test_without_any_runs_a_name_is_asked_for(command: Command, verb: str) -> None:
    refusal = call(command, verb).refusal()
    assert "STUDY is missing" in refusal.what and "roadmap run" in refusal.advice
