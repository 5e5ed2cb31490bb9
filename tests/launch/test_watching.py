"""Watching runs on this machine: the table, and a log as it grows; GPUs of slots."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

import roadmap.cli.status
from roadmap.config.trial import Trial
from roadmap.launch.slots import gpu_of
from roadmap.launch.status import RunState, study_states
from roadmap.runs.changes import ChangedFiles
from roadmap.runs.folder import RunFolder
from roadmap.runs.study_folder import write_study
from roadmap.study.expand import expand
from roadmap.study.file import Plan

T = TypeVar("T")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """One run of a study below runs/, prepared and not begun."""
    trial: Trial = expand(Plan(name="watched", question="?", regime="micro", steps=("gelu",))).trials[0]
    folder = write_study(tmp_path / "runs", "watched", "?", "micro", [trial])
    made = RunFolder(folder / trial.id)
    made.prepare(trial)
    made.log.write_text("")
    return made


def end(run: RunFolder) -> None:
    with open(run.log, "a") as f:
        f.write("the last line\n")
    run.write_record({"status": "finished", "top1": 97.5, "epochs": 2})
    run.beat({"state": "finished"})


def test_status_is_shown_again_until_every_run_has_ended(
    run: RunFolder, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.beat({"state": "running", "epoch": 1, "images_per_second": 10.0, "seconds_left": 5.0})
    looks: list[str] = []

    def look(study: Path, **kwargs: Any) -> list[RunState]:
        """The true states; the run ends after the second look."""
        states = study_states(study, **kwargs)
        looks.append(states[0].state)
        if len(looks) == 2:
            end(run)
        return states

    monkeypatch.setattr(roadmap.cli.status, "study_states", look)
    answer = command("status", "watched", "--watch", "--every", "0.3")
    assert answer.status == 0, answer.err
    assert looks == ["running", "running", "done"]
    assert answer.out.count("running") >= 2
    assert "97.5" in answer.out


def test_a_log_is_followed_until_its_run_ends(run: RunFolder, tmp_path: Path) -> None:
    run.log.write_text("the first line\n")
    run.beat({"state": "running", "epoch": 1})
    words = [sys.executable, "-m", "roadmap", "logs", "--step", "gelu", "--study", "watched", "-f"]
    follower = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    while follower.stdout.readline() != "the first line\n":
        assert follower.poll() is None
    end(run)
    rest, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0
    assert "the last line\n" in rest
    assert rest.endswith(": done\n")


def test_a_run_that_ends_between_two_reads_is_running_or_done(run: RunFolder) -> None:
    run.beat({"state": "running", "epoch": 1})
    reads: list[str] = []

    class Ending(ChangedFiles):
        def read(self, path: str, reader: Callable[[str], T]) -> T:
            found = super().read(path, reader)
            reads.append(path)
            if len(reads) == 1:
                end(run)
            return found

    planned = [{"id": run.path.name, "step": "gelu", "change": "", "seed": 0}]
    assert study_states(run.path.parent, planned, files=Ending())[0].state in ("running", "done")


def test_slots_take_the_visible_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    assert [gpu_of(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(5)] == ["2", "5", "7", "2", "5"]
    for none in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert gpu_of(0) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 1,-1,2")
    assert [gpu_of(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["0", "1", "0"]
