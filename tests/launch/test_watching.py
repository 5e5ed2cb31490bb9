"""Watching runs on this machine: the table shown again until all have ended, a log followed as it grows, GPUs handed to slots in turn."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.trial import Trial
from roadmap.launch.local import _gpu_of
from roadmap.runs.folder import RunFolder, write_study
from roadmap.study.expand import expand
from roadmap.study.file import Plan


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """One run of a study below runs/, prepared and not begun."""
    trial: Trial = expand(Plan(name="watched", question="?", regime="micro", steps=("gelu",))).trials[0]
    folder = write_study(tmp_path / "runs", "watched", "?", "micro", [trial])
    made = RunFolder(folder / trial.id)
    made.prepare(trial)
    made.log.write_text("")
    return made


def later(act: Callable[[], None]) -> None:
    threading.Timer(1.0, act).start()


def end(run: RunFolder) -> None:
    with open(run.log, "a") as f:
        f.write("the last line\n")
    run.write_record({"status": "finished", "top1": 97.5, "epochs": 2})
    run.beat({"state": "finished"})


def test_status_is_shown_again_until_every_run_has_ended(run: RunFolder, command: Callable[..., Any]) -> None:
    run.beat({"state": "running", "epoch": 1, "images_per_second": 10.0, "seconds_left": 5.0})
    later(lambda: end(run))
    started = time.monotonic()
    answer = command("status", "watched", "--watch", "--every", "0.3")
    assert answer.status == 0, answer.err
    assert time.monotonic() - started >= 1
    assert answer.out.count("running") >= 2
    assert answer.out.count("done") >= 1
    assert "97.5" in answer.out


def test_a_log_is_followed_until_its_run_ends(run: RunFolder, tmp_path: Path) -> None:
    run.log.write_text("the first line\n")
    run.beat({"state": "running", "epoch": 1})
    later(lambda: end(run))
    done = subprocess.run(
        [sys.executable, "-m", "roadmap", "logs", "--step", "gelu", "--study", "watched", "-f"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the first line" in done.stdout
    assert "the last line\n" in done.stdout
    assert done.stdout.endswith(": done\n")


def test_slots_take_the_visible_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    assert [_gpu_of(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(5)] == ["2", "5", "7", "2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _gpu_of(0) == {}
