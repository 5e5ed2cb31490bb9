"""What of the cluster's launcher can be held to account without a cluster."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roadmap.cli.cluster import Choice, chosen_runs, gpu_hours
from roadmap.config.errors import ConfigError, RoadmapError
from roadmap.config.recipes import find_recipe
from roadmap.config.trial import Trial
from roadmap.data.registry import resolve_data
from roadmap.ladder.convnext import resolve
from roadmap.launch.slurm import job as slurm_job
from roadmap.launch.slurm import queue as slurm_queue
from roadmap.launch.slurm import submit as slurm
from roadmap.launch.slurm.job import Attempt, idle_restarts
from roadmap.launch.slurm.queue import Seen, clean_environment
from roadmap.launch.slurm.resources import Resources, resources, shape_of
from roadmap.launch.status import study_states
from roadmap.runs.folder import RunFolder, write_study
from roadmap.runs.io import RunError, write_json

ROOT = Path(__file__).parents[2]


def make_trial(seed: int = 0, step: str = "inverted-bottleneck", **recipe: Any) -> Trial:
    model = resolve(step, "micro", num_classes=10, in_chans=1)
    return Trial(
        model=model,
        recipe=replace(find_recipe("digits-adamw"), **recipe),
        data=resolve_data("digits"),
        seed=seed,
        regime="micro",
        step=step,
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    trials = [make_trial(s) for s in range(3)]
    folder = write_study(tmp_path, "study", "?", "micro", trials)
    for t in trials:
        RunFolder(folder / t.id).prepare(t)
    return folder


def submitted(study: Path, job: str | None, *, name: str = "261120-120000-abcdef") -> Path:
    folder = study / "slurm" / name
    folder.mkdir(parents=True, mode=0o700)
    trials = [t["id"] for t in json.loads((study / "study.json").read_text())["trials"]]
    write_json(
        folder / "submission.json",
        {"trials": trials, "job": job, "resources": Resources().to_json(), "code": "x", "time": 0},
    )
    return folder


def knows(monkeypatch: pytest.MonkeyPatch, *jobs: Seen) -> list[int]:
    """Slurm that knows these jobs; returns the list of times it was asked."""
    asked: list[int] = []
    monkeypatch.setattr(slurm_queue, "live_jobs", lambda: asked.append(1) or {j.job: j for j in jobs})
    monkeypatch.setattr(slurm_queue, "past_jobs", lambda ids=(), names=(): {})
    return asked


# Resources ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"time": "1-00:30:00"},
            "slurm.time is '1-00:30:00'; legal: whole numbers from 1 (minutes); give minutes: 1-00:30:00 is 1470",
        ),
        ({"time": 0}, "slurm.time is 0; legal: whole numbers from 1 (minutes)"),
        ({"nodes": True}, "slurm.nodes is True; legal: whole numbers from 1"),
        ({"partition": "a\n#SBATCH --x"}, "slurm.partition is"),
        ({"account": "100%j"}, "without spaces, quotes, '%' or line breaks"),
        ({"qos": "-rf"}, "slurm.qos is '-rf'"),
        ({"setup": ("a\nb",)}, "slurm.setup holds 'a\\nb'; legal: one line of text each"),
        ({"hold": "yes"}, "slurm.hold is 'yes'; legal: true, false"),
    ],
)
def test_values_that_no_cluster_takes_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as e:
        Resources(**values)
    assert said in str(e.value)


def test_options_go_over_the_profile_and_the_profile_over_the_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "roadmap").mkdir()
    file = tmp_path / "roadmap" / "slurm.yaml"
    file.write_text("here:\n  partition: gpu\n  gpus-per-node: 8\n  setup: module load cuda\nthere:\n  time: 5\n")
    found = resources({"time": 60, "nodes": 2}, profile=None, cluster="here")
    assert (found.partition, found.gpus_per_node, found.time, found.nodes, found.setup, found.ranks) == (
        "gpu",
        8,
        60,
        2,
        ("module load cuda",),
        16,
    )
    assert resources({}, profile="there", cluster="here").time == 5
    assert resources({}, profile=None, cluster="elsewhere") == Resources()
    with pytest.raises(RoadmapError, match="'ther' is not in .*; legal: here, there; did you mean 'there'"):
        resources({}, profile="ther", cluster=None)
    file.write_text("here:\n  partitions: gpu\n")
    with pytest.raises(ConfigError, match="here.partitions is unknown; legal: .*; did you mean 'partition'"):
        resources({}, profile=None, cluster="here")
    file.write_text("here: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(RoadmapError, match="cannot be read"):
        resources({}, profile=None, cluster="here")


def test_a_run_takes_whole_groups_on_fewer_nodes_or_is_refused() -> None:
    trial = make_trial(batch_size=512, group_size=64)  # 8 groups
    assert shape_of(trial, Resources(nodes=2, gpus_per_node=4)).nodes == 2
    assert shape_of(trial, Resources(nodes=4, gpus_per_node=4)).nodes == 2
    assert shape_of(trial, Resources(nodes=1, gpus_per_node=2)).ranks == 2
    with pytest.raises(ConfigError, match="8 groups of 64, which 3 ranks do not divide; legal: 1, 2, 4, 8 ranks"):
        shape_of(trial, Resources(gpus_per_node=3))


def test_gpu_hours_are_images_over_the_rate_and_unknown_without_one() -> None:
    trial = make_trial(epochs=100)
    images = gpu_hours(trial, {(trial.step, ""): 1.0}, None)
    assert images is not None and images > 30
    assert gpu_hours(trial, {}, 10.0) == pytest.approx(images / 10)
    assert gpu_hours(trial, {}, None) is None


# The script --------------------------------------------------------------------------------------------------------------


def test_the_script_holds_what_was_asked_for_and_nothing_more(tmp_path: Path) -> None:
    shape = Resources(
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
        tmp_path / "study", 1, replace(shape, wckey="x"), tmp_path
    ) and "--array" not in slurm.script(tmp_path / "study", 1, shape, tmp_path)
    assert "gpus-per-node" not in slurm.script(tmp_path / "study", 1, replace(shape, gres="gpu:a100:8"), tmp_path)
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
    look = f"roadmap.cli.cluster.show_status('study', out=pathlib.Path({str(study.parent)!r}), watch=False, every=30, as_json=True)"
    code = f"import sys, pathlib, roadmap.cli.cluster; {look}; print([m for m in ('torch', 'submitit', 'timm', 'numpy') if m in sys.modules])"
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
    assert vars(job) == {"folder": "/runs/study/trial"} and callable(job.checkpoint)
    import cloudpickle

    content = cloudpickle.dumps(job)
    assert b"roadmap.launch.slurm.job" in content and len(content) < 200  # by reference: the code itself is not in it


# Status ------------------------------------------------------------------------------------------------------------------


def state(study: Path, number: int = 0, **kwargs: Any) -> Any:
    return study_states(study, **kwargs)[number]


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
            "slurmstepd-n1: error: StepId=7.0 exceeded memory limit (2 > 1), being killed\nslurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT x ***\n",
            "out of memory",
        ),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT x DUE TO TIME LIMIT ***\n", "timed out"),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT x ***\n", "cancelled"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT x DUE TO JOB REQUEUE ***\n", "lost"),
        (
            "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT x DUE TO TIME LIMIT ***\nStarting with JobEnvironment(...)\n",
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
    time.sleep(0.02)
    knows(monkeypatch, Seen("8_2", "PENDING"))
    submitted(study, "8", name="261120-130000-abcdef")
    assert state(study, 2, every=0).state == "pending"


def test_local_runs_have_states_too(study: Path) -> None:
    run = RunFolder(study / state(study).run)
    assert state(study).state == "new"
    run.beat({"state": "running", "epoch": 2, "images_per_second": 10.0, "seconds_left": 5.0})
    found = state(study)
    assert (found.state, found.epoch, found.images_per_second, found.seconds_left, found.job) == (
        "running",
        2,
        10.0,
        5.0,
        "",
    )
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


def test_runs_are_chosen_by_id_step_seed_job_and_failure(study: Path) -> None:
    ids = [s.run for s in study_states(study)]
    RunFolder(study / ids[1]).write_record({"status": "failed", "error": "x"})

    def names(**kwargs: Any) -> list[str]:
        return [s.run for s in chosen_runs(study, Choice(**kwargs))]

    assert names() == ids == names(words=("5",)) == names(steps=("inverted-bottleneck",))
    assert names(words=(ids[2][:30],)) == [ids[2]] == names(seeds=(2,))
    assert names(failed=True) == [ids[1]]
    with pytest.raises(RunError, match="no run of study study; legal: a run's id or its beginning, a step"):
        names(words=("nothing",))


# The job -----------------------------------------------------------------------------------------------------------------


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
        os.kill(os.getpid(), number)
        time.sleep(0.3)
        signal.signal(number, lambda n, frame: received.append(n))  # the loop begins
        end = time.monotonic() + 5
        while not received and time.monotonic() < end:
            time.sleep(0.05)
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
