"""watch: the ladder as it fills, and how it ends."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadmap.runs.folder import RunFolder
from tests.helpers.small_studies import STEPS, but_gelu, small_study, top1
from tests.helpers.study_files import make_record, make_trial, write_runs

Command = Callable[..., Any]


@pytest.mark.slow
def test_watch_fills_while_runs_end_and_stops_when_nothing_runs(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    command("watch", "small")  # what it imports is imported before the first run ends
    trials = [make_trial(step, seed) for step in STEPS for seed in range(2)]
    folder = write_runs(tmp_path / "runs", trials, lambda t: None, name="filling")
    runs = [RunFolder(folder / t.id) for t in trials]
    for run, trial in zip(runs, trials, strict=True):
        run.prepare(trial)
        run.beat({"state": "running", "epoch": 1})

    def finish() -> None:
        for run, trial in zip(runs, trials, strict=True):
            time.sleep(0.5)
            run.write_record(make_record(trial, top1=top1(trial)))
            run.beat({"state": "finished"})

    worker = threading.Thread(target=finish)
    worker.start()
    answer = command("watch", "filling", "--every", "0.3")
    worker.join()
    assert answer.status == 0, answer.err
    looks = answer.out.count("filling: Which steps help?")
    assert looks >= 3
    counts = [int(n) for n in re.findall(r"\b([012]) of 2\b", answer.out)]
    assert len(counts) == 3 * looks
    by_look = [sum(counts[i : i + 3]) for i in range(0, len(counts), 3)]
    assert by_look == sorted(by_look) and by_look[0] < 6 and by_look[-1] == 6
    assert "running" not in answer.out.rsplit("filling:", 1)[1] and "6 runs: 6 done" in answer.out
    assert re.findall(r"(\d\d\.\d\d) ± 0\.\d\d", answer.out.rsplit("filling:", 1)[1]) == ["80.00", "81.95", "84.05"]


def test_watch_of_a_study_in_which_nothing_runs_ends_and_says_so(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    started = time.monotonic()
    answer = command("watch", "small")
    assert answer.status == 0 and time.monotonic() - started < 15
    assert answer.out.count("small: Which steps help?") == 1 and "9 runs: 9 done" in answer.out
    assert answer.out.count("3 of 3") == 3 and "gain" in answer.out


def test_watch_waits_a_few_looks_for_the_next_run_of_a_queue(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, values=but_gelu)
    answer = command("watch", "small", "--every", "0.1")
    assert answer.status == 0 and answer.out.count("small: Which steps help?") == 3
    assert "seed 0: new" in answer.out


@pytest.mark.parametrize("every", ["0", "-1", "nan", "inf", "soon"])
@pytest.mark.parametrize("words", [("watch", "small"), ("report", "small", "--serve")], ids="-".join)
def test_an_interval_that_is_none_is_refused(
    command: Command, tmp_path: Path, words: tuple[str, ...], every: str
) -> None:
    small_study(tmp_path)
    refusal = command(*words, f"--every={every}").refusal()
    assert "--every" in refusal.what and every in refusal.what and "seconds from" in refusal.legal


def test_watch_of_committed_results_is_refused(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    assert command("report", "small", "--out", "results/small").status == 0
    refusal = command("watch", "small", "--runs", "elsewhere").refusal()
    assert "'small'" in refusal.what and "elsewhere" in refusal.what
    assert "roadmap report small" in refusal.advice and "--runs" in refusal.advice
