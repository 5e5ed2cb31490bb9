"""One study trained on CPUs has one number of threads: another is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import roadmap.launch.preflight
from roadmap.config.errors import RoadmapError
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.launch.preflight import (
    recorded_runs,
    refuse_other_threads,
    threads_here,
    usual_threads,
    with_usual_threads,
)
from roadmap.runs.folder import RunFolder
from tests.helpers.small_runs import make_run, make_trial, train
from tests.helpers.study_files import make_record
from tests.helpers.study_files import make_trial as plan_trial

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(roadmap.launch.preflight, "cores", lambda: 8)


def run_of(root: Path, seed: int, status: str = "finished", device: str = "cpu", threads: int | None = 2) -> RunFolder:
    trial = plan_trial("gelu", seed)
    run = RunFolder(root / trial.id)
    run.prepare(trial)
    if status:
        hardware = {"device": device, "cpu": "a CPU", "cores": 8, "threads": threads}
        run.write_record(make_record(trial, status=status, hardware=hardware))
    return run


def refused(runs: list[RunFolder], threads: int | None, *, todo: tuple[int, ...] = (1,), force: bool = False) -> str:
    try:
        refuse_other_threads("mine", runs, [runs[k] for k in todo], threads, force=force)
    except RoadmapError as e:
        return str(e)
    return ""


def test_another_number_is_refused_and_both_ways_out_are_named(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, 0), run_of(tmp_path, 1, status="")]
    assert refused(runs, 2) == ""
    said = refused(runs, 8)
    assert "study mine has runs of 2 CPU threads, and this call would train with 8; legal: one number" in said
    assert "give --threads 2 or --jobs 4, or train all of them anew with --force" in said


def test_what_says_nothing_of_threads_on_a_cpu_refuses_nothing(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, 0, threads=None), run_of(tmp_path, 1, device="NVIDIA H200"), run_of(tmp_path, 2, "failed")]
    assert refused(runs, 8) == refused(runs, None) == ""


def test_runs_that_go_on_count_and_those_that_begin_anew_do_not(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, 0), run_of(tmp_path, 1, status="interrupted")]
    assert refused(runs[1:], 8, todo=(0,)) != ""
    assert refused(runs[1:], 8, todo=(0,), force=True) == ""
    assert refused(runs, 8, todo=(0, 1), force=True) == ""
    assert refused(runs, 8, todo=(1,), force=True) != ""


def test_a_retry_here_takes_the_studys_number(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, 0), run_of(tmp_path, 1, status="failed", threads=8), run_of(tmp_path, 2, status="")]
    assert usual_threads(runs) == 2
    assert usual_threads([*runs, run_of(tmp_path, 3, threads=4)]) == 0


def test_the_threads_of_a_launch_are_known_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_here(Runtime(threads=3), jobs=2) == 3
    assert threads_here(Runtime(), jobs=2) == 4
    assert threads_here(Runtime()) == torch.get_num_threads()
    assert threads_here(Runtime(device="cuda")) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert threads_here(Runtime()) is None and threads_here(Runtime(device="cpu"), jobs=2) == 4


def test_a_study_with_other_threads_is_refused_by_the_command(command: Command) -> None:
    words = ("--step", "0", "--step", "9", "--epochs", "1", "--name", "mine", "--device", "cpu")
    done = command("plan", *words[:-2], "--json").json()["trials"][0]
    hardware = {"device": "cpu", "cpu": "a CPU", "cores": 8, "threads": 7}
    run = RunFolder(Path("runs/mine") / done["id"])
    run.prepare(Trial.from_json(done))
    run.write_record({"status": "finished", "fingerprint": done["fingerprint"], "hardware": hardware, "metrics": {}})
    command("run", *words, "--threads", "1").refused("runs of 7 CPU threads", "train with 1", "--threads 7")
    # The runs of other calls count too.
    command("run", *words[2:], "--threads", "1").refused("runs of 7 CPU threads", "train with 1")


def test_one_run_at_a_time_takes_the_threads_of_those_that_were_trained_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    usual = torch.get_num_threads() + 1
    runs = [run_of(tmp_path, 0, threads=usual), run_of(tmp_path, 1, status="")]
    assert with_usual_threads("mine", Runtime(), runs, jobs=1).threads == usual
    assert f"study mine: each run has {usual} CPU threads" in capsys.readouterr().err
    for runtime, jobs in ((Runtime(threads=7), 1), (Runtime(), 2), (Runtime(device="cuda"), 1)):
        assert with_usual_threads("mine", runtime, runs, jobs=jobs) == runtime
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert with_usual_threads("mine", Runtime(), runs, jobs=1) == Runtime()


def test_a_damaged_record_says_nothing_of_threads(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, 0), run_of(tmp_path, 1)]
    (runs[1].path / "record.json").write_text("{")
    assert usual_threads(recorded_runs(tmp_path)) == 2 and refused(runs, 2, todo=(1,)) == ""


@pytest.mark.slow
def test_the_asked_number_is_the_one_that_trains_and_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        record = train(make_run(tmp_path, make_trial(epochs=1)), threads=2)
    finally:
        torch.set_num_threads(before)
    assert record.hardware.threads == 2  # type: ignore[attr-defined]
