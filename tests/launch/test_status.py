"""Where a run is, by its own files and by what Slurm says; and which runs a verb is for."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.errors import ConfigError
from roadmap.launch.selection import RunSelection, chosen_runs
from roadmap.launch.slurm import queue as slurm_queue
from roadmap.launch.slurm.queue import Seen
from roadmap.launch.status import study_states
from roadmap.runs.changes import ChangedFiles
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, write_json
from tests.helpers.launches import knows, state, submitted

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("PENDING", "pending"),
        ("RUNNING", "running"),
        ("COMPLETING", "running"),
        ("CANCELLED", "cancelled"),
        ("TIMEOUT", "timed out"),
        ("OUT_OF_MEMORY", "out of memory"),
        ("NODE_FAIL", "lost"),
        ("FAILED", "failed"),
        ("COMPLETED", "lost"),
        ("PREEMPTED", "lost"),
    ],
)
def test_every_word_of_slurm_has_a_state(
    word: str, expected: str, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(study, "7")
    knows(monkeypatch, Seen("7_0", word, reason="Priority"))
    found = state(study)
    assert (found.state, found.job) == (expected, "7_0")


def test_a_job_that_has_started_before_and_waits_is_requeued(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(study, "7")
    run = RunFolder(study / state(study).run)
    for n in range(2):
        run.append("jobs.jsonl", {"event": "start", "job": "7_0", "restart": n, "checkpoint": 0, "node": "n1"})
    knows(monkeypatch, Seen("7_0", "PENDING", reason="BeginTime"))
    assert (state(study, every=0).state, state(study, every=0).requeued, state(study, every=0).detail) == (
        "requeued",
        2,
        "BeginTime",
    )
    knows(monkeypatch, Seen("7_0", "RUNNING", nodes="n2"))
    assert (state(study, every=0).state, state(study, every=0).requeued, state(study, every=0).node) == (
        "running",
        1,
        "n2",
    )


def test_slurm_is_asked_once_for_all_runs_and_not_again_within_the_time(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(study, "7")
    asked = knows(monkeypatch, *(Seen(f"7_{k}", "PENDING") for k in range(3)))
    for _ in range(4):
        assert [s.state for s in study_states(study)] == ["pending"] * 3
    assert len(asked) == 1
    study_states(study, every=0)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (
            "slurmstepd-n1: error: StepId=7.0 exceeded memory limit (2 > 1), being killed\n"
            "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT x ***\n",
            "out of memory",
        ),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT x DUE TO TIME LIMIT ***\n", "timed out"),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT x ***\n", "cancelled"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT x DUE TO JOB REQUEUE ***\n", "lost"),
        (
            "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT x DUE TO TIME LIMIT ***\n"
            "Starting with JobEnvironment(...)\n",
            "lost",
        ),
        ("", "lost"),
    ],
)
def test_the_log_is_the_witness_where_slurm_has_forgotten_the_job(
    log: str, expected: str, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (submitted(study, "7") / "7_0_0_log.out").write_text(log)
    knows(monkeypatch)
    assert state(study).state == expected


def test_where_slurm_does_not_answer_nothing_is_called_lost(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(study, "7")

    def silent() -> dict[str, Seen]:
        raise slurm_queue.SlurmError("squeue: no controller; legal: x; y")

    monkeypatch.setattr(slurm_queue, "live_jobs", silent)
    assert (state(study).state, state(study).detail) == ("pending", "Slurm does not answer")


def test_the_runs_own_word_is_believed_over_an_older_job(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knows(monkeypatch, Seen("7_0", "COMPLETED"), Seen("7_1", "FAILED"), Seen("7_2", "FAILED"))
    submitted(study, "7")
    ids = [s.run for s in study_states(study)]
    for name, status in zip(ids, ("finished", "diverged", "failed"), strict=True):
        RunFolder(study / name).write_record({"status": status, "error": "why\nand a trace", "top1": 50.0})
    found = study_states(study, every=0)
    assert (
        [s.state for s in found] == ["done", "diverged", "failed"]
        and found[2].detail == "why"
        and found[0].top1 == 50.0
    )
    before = time.time() - 60
    os.utime(study / ids[2] / "record.json", (before, before))
    knows(monkeypatch, Seen("8_2", "PENDING"))
    submitted(study, "8", name="261120-130000-abcdef")
    assert state(study, 2, every=0).state == "pending"


def test_local_runs_have_states_too(study: Path) -> None:
    run = RunFolder(study / state(study).run)
    assert state(study).state == "new"
    beat = {"state": "running", "epoch": 2, "images_per_second": 10.0, "waiting_share": 0.4, "seconds_left": 5.0}
    run.beat(beat)
    found = state(study)
    assert (found.state, found.epoch, found.images_per_second, found.seconds_left, found.job) == (
        "running",
        2,
        10.0,
        5.0,
        "",
    )
    assert found.waiting_share == 0.4
    beat = json.loads((run.path / "heartbeat.json").read_text())
    dead = subprocess.Popen(["true"])
    dead.wait()
    write_json(run.path / "heartbeat.json", {**beat, "pid": dead.pid})
    assert state(study).state == "lost"
    run.append("attempts.jsonl", {})
    run.write_record({"status": "interrupted", "error": "stopped by SIGTERM"})
    run.beat({"state": "interrupted"})
    assert state(study).state == "stopped"


def test_a_fresh_heartbeat_does_not_outlive_its_job_but_may_be_another_process(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(study, "7")
    run = RunFolder(study / study_states(study)[0].run)
    run.append("jobs.jsonl", {"event": "start", "job": "7_0", "checkpoint": 0, "node": "n1", "pid": os.getpid()})
    run.beat({"state": "running", "epoch": 1})
    knows(monkeypatch, Seen("7_0", "FAILED"))
    assert state(study, every=0).state == "failed"
    beat = json.loads((run.path / "heartbeat.json").read_text())
    write_json(run.path / "heartbeat.json", {**beat, "pid": beat["pid"] + 1})
    assert state(study, every=0).state == "running"


def test_steps_are_those_of_the_studys_own_ladder(study: Path) -> None:
    assert len(chosen_runs(study, RunSelection(steps=("5",)))) == 3
    content = json.loads((study / "study.json").read_text())
    write_json(study / "study.json", {**content, "ladder": "deit"})
    with pytest.raises(ConfigError, match="inverted-bottleneck"):
        chosen_runs(study, RunSelection(steps=("inverted-bottleneck",)))


def test_runs_are_chosen_by_id_step_seed_job_and_failure(study: Path) -> None:
    ids = [s.run for s in study_states(study)]
    RunFolder(study / ids[1]).write_record({"status": "failed", "error": "x"})

    def names(**kwargs: Any) -> list[str]:
        return [s.run for s in chosen_runs(study, RunSelection(**kwargs))]

    assert names() == ids == names(words=("5",)) == names(steps=("inverted-bottleneck",))
    assert names(words=(ids[2][:30],)) == [ids[2]] == names(seeds=(2,))
    assert names(failed=True) == [ids[1]]
    with pytest.raises(RunError, match="no run of study study; legal: a run's id or its beginning, a step"):
        names(words=("nothing",))


WITHOUT_NAMES = '{"status": "finished", "version": 2, "metrics": [1]}'
DAMAGE = [
    *(("record.json", text) for text in ("[]", '"x"', '{"status": 3}', WITHOUT_NAMES)),
    *((name, text) for name in ("heartbeat.json", "trial.json") for text in ("[]", "3", '{"recipe": 3}')),
    *(("metrics.jsonl", text) for text in ("[]", "3", '{"epoch": "x"}', '{"epoch": 2}\n{"epo')),
]


@pytest.mark.parametrize(("name", "text"), DAMAGE, ids=" ".join)
def test_a_damaged_file_of_one_run_hides_no_other(name: str, text: str, study: Path) -> None:
    (study / state(study).run / name).write_text(text)
    RunFolder(study / state(study, 1).run).write_record({"status": "finished"})
    assert state(study).state == ("failed" if name == "record.json" else "new")
    assert ("record.json" in state(study).detail) == (name == "record.json")
    assert state(study, 1).state == "done"


@pytest.mark.parametrize("name", ["record.json", "heartbeat.json", "trial.json", "metrics.jsonl"])
def test_a_file_of_one_run_that_cannot_be_read_hides_no_other(name: str, study: Path) -> None:
    (study / state(study).run / name).unlink(missing_ok=True)
    (study / state(study).run / name).mkdir()
    found = study_states(study, files=ChangedFiles())
    assert found[0].state == ("failed" if name == "record.json" else "new") and found[1].state == "new"
    assert ("record.json cannot be read: Is a directory" in found[0].detail) == (name == "record.json")


def test_the_last_epoch_and_the_last_accuracy_are_shown(study: Path) -> None:
    run = RunFolder(study / state(study).run)
    for epoch, more in enumerate(({"top1": 10.0}, {"top1": 20.0}, {}, {}), start=1):
        run.append_epoch({"epoch": epoch, **more}, [1.0])
    assert (state(study).epoch, state(study).top1) == (4, 20.0)
