"""The Slurm launcher without a cluster: the script, and what a job does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadmap.launch.slurm import job as slurm_job
from roadmap.launch.slurm import submit as slurm
from roadmap.launch.slurm.job import Attempt, idle_restarts
from roadmap.launch.slurm.queue import SlurmError, clean_environment
from roadmap.launch.slurm.resources import SlurmResources
from roadmap.launch.status import study_states
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, write_json
from tests.helpers.launches import eventually, make_trial, state, submitted

ROOT = Path(__file__).parents[2]

# The script -----


def test_the_script_holds_what_was_asked_for_and_nothing_more(tmp_path: Path) -> None:
    shape = SlurmResources(
        partition="gpu",
        nodes=2,
        gpus_per_node=8,
        cpus_per_task=12,
        mem="200G",
        time=90,
        array_parallelism=4,
        reservation="r",
        setup=("module load cuda",),
    )
    text = slurm.script(tmp_path / "study", 30, shape, tmp_path / "code folder")
    for line in (
        "--partition=gpu",
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--mem=200G",
        "--time=90",
        "--array=0-29%4",
        "--reservation=r",
        "--requeue",
        "--signal=USR2@120",
        "--cpus-per-task=12",
    ):
        assert f"#SBATCH {line}\n" in text
    assert (
        next(line for line in text.splitlines() if line.startswith("srun ")).count("--cpus-per-task=12 ") == 1
        and "module load cuda\n" in text
    )
    assert f"export PYTHONPATH='{tmp_path}/code folder'" in text
    assert "wckey" not in text and "account" not in text
    assert "wckey=x" in slurm.script(
        tmp_path / "study", 1, shape.replace(wckey="x"), tmp_path
    ) and "--array" not in slurm.script(tmp_path / "study", 1, shape, tmp_path)
    assert "gpus-per-node" not in slurm.script(tmp_path / "study", 1, shape.replace(gres="gpu:a100:8"), tmp_path)
    with pytest.raises(RunError, match="cannot be given to Slurm; legal: paths without '%'"):
        slurm.script(tmp_path / "100%j", 1, shape, tmp_path)


def test_what_a_surrounding_job_has_set_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "RANK", "MASTER_PORT", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "1")
    with clean_environment():
        assert (
            "SLURM_JOB_ID" not in os.environ
            and "SLURM_CPUS_PER_TASK" not in os.environ
            and "RANK" not in os.environ
            and "MASTER_PORT" not in os.environ
        )
        assert os.environ["SLURM_CONF"] == os.environ["SBATCH_ACCOUNT"] == "1"
    assert os.environ["SLURM_JOB_ID"] == os.environ["RANK"] == "1"


def test_nothing_heavy_is_imported_for_a_look_at_the_queue(tmp_path: Path, study: Path) -> None:
    code = (
        "import sys, pathlib, roadmap.cli.cluster, roadmap.cli.status as status\n"
        f"out = pathlib.Path({str(study.parent)!r})\n"
        "status.show_status('study', out=out, watch=False, every=30, as_json=True)\n"
        "print([m for m in ('torch', 'submitit', 'timm', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_is_submitted_holds_only_a_folder() -> None:
    job = slurm_job.RunJob("/runs/study/trial")
    assert vars(job) == {"folder": "/runs/study/trial"}
    assert callable(job.checkpoint)
    import cloudpickle

    content = cloudpickle.dumps(job)
    assert b"roadmap.launch.slurm.job" in content
    assert len(content) < 200  # by reference: the code itself is not in it


# The job -----


def test_only_restarts_in_a_row_of_this_job_without_a_new_checkpoint_count(study: Path) -> None:
    run = RunFolder(study / state(study).run)
    for job, checkpoint in (("6", 0), ("7", 0), ("7", 18), ("7", 18)):
        run.append("jobs.jsonl", {"event": "start", "job": job, "checkpoint": checkpoint})
    assert (idle_restarts(run, "7", 18), idle_restarts(run, "7", 36), idle_restarts(run, "8", 18)) == (2, 0, 0)
    run.checkpoints.mkdir()
    for name in ("checkpoint-000000018.pt", "checkpoint-000000036.pt", "checkpoint-000000054.pt.broken-0"):
        (run.checkpoints / name).touch()
    assert run.newest_checkpoint() == 36


def test_each_attempt_has_its_own_free_port_and_forgets_the_one_before(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(study / state(study).run)
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    ports = []
    for restart in range(2):
        for rank in range(2):
            slurm_job._meet(run, Attempt("7", restart, rank, 2))
            ports.append(os.environ["MASTER_PORT"])
        assert "RANK" not in os.environ
    assert ports[0] == ports[1] != "1" and ports[2] == ports[3]
    assert [p.name for p in run.path.glob("meeting-*")] == ["meeting-7-1.json"]


@pytest.mark.parametrize(
    ("answers", "said", "calls"),
    [
        ([(0, "")], "", 1),
        (
            [(1, "Requested operation is presently disabled for job 5")],
            "Requested operation is presently disabled for job 5",
            1,
        ),
        ([(1, "Unable to contact slurm controller"), (0, "")], "", 2),
    ],
)
def test_a_requeue_is_asked_again_only_of_a_controller_that_does_not_answer(
    answers: list[tuple[int, str]], said: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[list[str]] = []

    def run(words: list[str], **_: Any) -> Any:
        made.append(words)
        code, text = answers[len(made) - 1]
        return subprocess.CompletedProcess(words, code, "", text)

    monkeypatch.setattr(slurm_job.subprocess, "run", run)
    monkeypatch.setattr(slurm_job.time, "sleep", lambda s: None)
    assert slurm_job.requeue("5_1") == said and len(made) == calls and made[0] == ["scontrol", "requeue", "5_1"]


def leaves(run: RunFolder, monkeypatch: pytest.MonkeyPatch, state_word: str, requeue: Callable[[str], str]) -> int:
    """Exit status with which a run leaves its job."""
    monkeypatch.setattr(slurm_job, "_job_state", lambda job: state_word)
    monkeypatch.setattr(slurm_job, "requeue", requeue)

    def end(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(slurm_job.os, "_exit", end)
    with pytest.raises(SystemExit) as e:
        slurm_job.leave(run, Attempt("5_1", 0, 0, 1), "SIGTERM")
    return int(e.value.code or 0)


def test_leaving_asks_for_a_requeue_unless_slurm_or_the_user_is_ending_the_job(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(study / state(study).run)
    asked: list[str] = []
    assert leaves(run, monkeypatch, "RUNNING", lambda job: asked.append(job) or "") == 0 and asked == ["5_1"]
    assert leaves(run, monkeypatch, "RUNNING", lambda job: "disabled") == slurm_job.TRY_LATER
    assert (
        f"not requeued: disabled; nothing is lost, to go on: roadmap retry {run.path.name}" in capsys.readouterr().err
    )
    assert leaves(run, monkeypatch, "COMPLETING", lambda job: asked.append(job) or "") == 0
    write_json(run.path / "cancelled", {})
    assert leaves(run, monkeypatch, "RUNNING", lambda job: asked.append(job) or "") == slurm_job.TRY_LATER
    assert asked == ["5_1"]


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_rank_that_is_not_the_first_passes_an_early_signal_on_to_the_loop(
    number: signal.Signals, study: Path
) -> None:
    run, received = RunFolder(study / state(study).run), list[int]()
    before = {s: signal.getsignal(s) for s in (*slurm_job.SIGNALS, signal.SIGCONT)}
    try:
        slurm_job.listen(run, Attempt("5", 0, 1, 2))
        threads = threading.active_count()
        os.kill(os.getpid(), number)
        eventually(lambda: threading.active_count() > threads)  # one that waits to pass the signal on
        signal.signal(number, lambda n, frame: received.append(n))  # the loop begins
        eventually(lambda: received)
        assert received == [number]
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def test_loader_workers_ignore_the_signals_of_a_preemption() -> None:
    from roadmap.data.pipeline import Pipeline

    pipeline = Pipeline.open(make_trial(epochs=3), workers=1)
    stream = iter(pipeline.stream(pipeline.sampler()))
    next(stream)
    (worker,) = multiprocessing.active_children()
    for number in (*slurm_job.SIGNALS, signal.SIGINT):
        os.kill(int(worker.pid or 0), number)
    assert len(list(stream)) == pipeline.sampler().iterations_per_epoch * 3 - 1


def test_a_stale_temporary_file_of_submitit_is_removed_and_a_missing_pickle_made(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = submitted(study, None)
    (folder / "9_2_submitted.pkl.save_tmp").write_bytes(b"half")
    monkeypatch.setattr("submitit.core.submission.process_job", lambda f: None)
    for name, value in {
        "SLURM_JOB_ID": "11",
        "SLURM_ARRAY_JOB_ID": "9",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_NTASKS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    before = {s: signal.getsignal(s) for s in (*slurm_job.SIGNALS, signal.SIGCONT)}
    try:
        slurm_job.start(folder)
        assert not (folder / "9_2_submitted.pkl.save_tmp").exists()
        from submitit.core.utils import DelayedSubmission

        found = DelayedSubmission.load(folder / "9_2_submitted.pkl").function
        assert (
            type(found).__module__ == "roadmap.launch.slurm.job"
            and Path(found.folder).name == study_states(study)[2].run
        )
        folder.chmod(0o777)
        with pytest.raises(RunError, match="writable by others; legal: mode 700; nothing is unpickled"):
            slurm_job.start(folder)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@pytest.mark.parametrize(
    ("said", "tries"),
    [("", 2), ("sbatch: error: Unable to contact slurm controller", 2), ("sbatch: error: invalid partition", 1)],
)
def test_a_submission_that_got_no_answer_is_tried_again_and_a_refused_one_is_not(
    said: str, tries: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[int] = []

    def sbatch(*_: object) -> str:
        asked.append(1)
        if len(asked) == 1:
            raise SlurmError("sbatch failed", said)
        return "7"

    monkeypatch.setattr(slurm, "_sbatch", sbatch)
    monkeypatch.setattr(slurm, "RETRY_WAITS", (0,))
    monkeypatch.setattr(slurm, "live_jobs", dict)
    if tries == 1:
        with pytest.raises(SlurmError):
            slurm._sbatch_patiently(tmp_path, [], SlurmResources(), tmp_path)
    else:
        assert slurm._sbatch_patiently(tmp_path, [], SlurmResources(), tmp_path) == "7"
    assert len(asked) == tries
