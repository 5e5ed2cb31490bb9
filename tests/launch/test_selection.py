"""The order in which runs go, and which of them are launched again."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadmap.api import Study
from roadmap.cli.cluster import Order, retry_runs
from roadmap.config.runtime import Runtime
from roadmap.launch.prepared import Launch
from roadmap.launch.selection import RunSelection, runs_to_retry, seeds_in_turn
from roadmap.launch.status import study_states
from roadmap.runs.folder import RunFolder
from tests.helpers.small_studies import small_study


def test_the_first_seed_of_every_cell_goes_before_the_second_of_any() -> None:
    runs = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("a-a", 1000), ("a-a", 1001)]
    turns = seeds_in_turn(runs, lambda run: run[0])
    assert turns == [("a", 0), ("b", 0), ("a-a", 1000), ("a", 1), ("b", 1), ("a-a", 1001), ("a", 2)]


def test_a_study_fills_evenly(tmp_path: Path) -> None:
    study = Study.from_file("digits", runs=tmp_path)
    trials = {trial.id: trial for trial in study.trials}
    cells = len({(t.step, t.change) for t in study.trials})
    first = [trials[run.path.name] for run in study.unfinished()[:cells]]
    assert len({(t.step, t.change) for t in first}) == cells
    assert [t.step for t in first] == list(dict.fromkeys(t.step for t in study.trials)) + [first[-1].step] * 2
    assert {run.path.name for run in study.unfinished()} == set(trials)


def hopeless_study(root: Path) -> tuple[Path, str]:
    """A study of which one run was ended early; its folder and that run's id."""
    folder = small_study(root)
    run = study_states(folder)[4].run
    of = RunFolder(folder / run)
    record = of.record()
    assert record is not None
    of.write_record(record.replace(status="hopeless", metrics={}, error="ended after epoch 10 of 20: top-1 is 9.00 %"))
    return folder, run


def test_a_hopeless_run_is_shown_with_its_reason(tmp_path: Path) -> None:
    folder, run = hopeless_study(tmp_path)
    (state,) = [s for s in study_states(folder) if s.run == run]
    assert (state.state, state.detail) == ("hopeless", "ended after epoch 10 of 20: top-1 is 9.00 %")


def test_a_hopeless_run_is_launched_again_only_where_it_is_named(tmp_path: Path) -> None:
    folder, run = hopeless_study(tmp_path)
    assert runs_to_retry(folder, RunSelection()) == []
    assert [s.run for s in runs_to_retry(folder, RunSelection(words=(run,)))] == [run]


@pytest.mark.parametrize(("status", "stops"), [("hopeless", False), ("failed", True)])
def test_a_run_that_is_launched_again_is_not_ended_by_the_rule_that_ended_it(
    tmp_path: Path, status: str, stops: bool
) -> None:
    folder, run = hopeless_study(tmp_path)
    of = RunFolder(folder / run)
    record = of.record()
    assert record is not None
    of.write_record(record.replace(status=status))
    Launch(launcher="export", runtime=Runtime(stop_hopeless=True)).write(of)
    selection = RunSelection(study=folder.name, out=folder.parent, words=(run,))
    assert retry_runs(selection, Order(launcher="export", given={}, snapshot=False, yes=True)) == 0
    launch = Launch.read(of)
    assert launch is not None and launch.runtime.stop_hopeless is stops


def test_what_is_launched_again_beside_a_hopeless_run_keeps_the_rule(tmp_path: Path) -> None:
    folder, run = hopeless_study(tmp_path)
    other = study_states(folder)[3].run
    runs = [RunFolder(folder / name) for name in (run, other)]
    record = runs[1].record()
    assert record is not None
    runs[1].write_record(record.replace(status="failed"))
    for of in runs:
        Launch(launcher="export", runtime=Runtime(stop_hopeless=True)).write(of)
    selection = RunSelection(study=folder.name, out=folder.parent, words=(run, other))
    assert retry_runs(selection, Order(launcher="export", given={}, snapshot=False, yes=True)) == 0
    launches = [Launch.read(of) for of in runs]
    assert [launch and launch.runtime.stop_hopeless for launch in launches] == [False, True]


def test_a_hopeless_run_is_not_left_to_train(tmp_path: Path) -> None:
    study = Study.from_file("digits", runs=tmp_path)
    run = study.run_folders[0]
    run.prepare(study.trials[0])
    run.write_record({"status": "hopeless", "error": "ended after epoch 8 of 16"})
    assert len(study.unfinished()) == len(study.trials) - 1
    assert len(study.unfinished(force=True)) == len(study.trials)
