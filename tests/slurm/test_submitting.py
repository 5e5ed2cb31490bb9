"""From the command to the queue: what is submitted, once, by whom, and what is refused before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.slurm.onebox import SHORT, SMALL, Cluster, events

HELD = (*SHORT, "--hold")


def submission_files(cluster: Cluster, study: str) -> list[Path]:
    return sorted((cluster.folder / "runs" / study / "slurm").glob("*/submission.json"))


def queued(cluster: Cluster, study: str) -> list[str]:
    """Ids of the study's jobs in the queue."""
    rows = cluster.call("squeue", "--noheader", "--array", "--format=%i %j").stdout.splitlines()
    return [row.split()[0] for row in rows if row.split()[1].startswith(study + "-")]


def test_a_dry_run_shows_the_script_and_submits_nothing(cluster: Cluster) -> None:
    done = cluster.submit("dry", "--dry-run", "--nodes", "1", "--gpus-per-node", "1", "--time", "90", "--qos", "normal")
    for part in (
        "#SBATCH --time=90",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --gpus-per-node=1",
        "--cpus-per-task=1",
        "would start at",
        "unknown: not calibrated",
        "90 minutes each",
    ):
        assert part in done.stdout
    assert "wckey" not in done.stdout
    assert not (cluster.folder / "runs" / "dry").exists() and not queued(cluster, "dry")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--partition", "nowhere"), "invalid partition specified: nowhere"),
        (("--gpus-per-node", "2"), "1 groups of 64, which 2 ranks do not divide"),
        (("--gpus-per-node", "0", "--mem", "900G"), "refused by the cluster"),
        (
            ("--time", "24:00:00"),
            "slurm.time is '24:00:00'; legal: whole numbers from 1 (minutes); give minutes: 24:00:00 is 1440",
        ),
        (("--constraint", "a\nb"), "slurm.constraint"),
        (("--account", "%j"), "without spaces, quotes, '%' or line breaks"),
        (("--profile", "elsewhere"), "--profile 'elsewhere' is not in"),
    ],
)
def test_what_the_cluster_would_refuse_is_refused_before_anything_is_submitted(
    cluster: Cluster, words: tuple[str, ...], said: str
) -> None:
    done = cluster.submit("refused-options", *words, trial=SHORT, status=2)
    assert said in done.stderr and "; legal: " in done.stderr, done.stderr
    assert not queued(cluster, "refused-options")


def test_nothing_is_submitted_without_an_answer(cluster: Cluster) -> None:
    words = [w for w in SMALL if w != "--yes"]
    done = cluster.roadmap("run", "--slurm", *SHORT, "--name", "unasked", *words, status=2)
    assert "legal: --yes" in done.stderr and not queued(cluster, "unasked")


def test_250_trials_become_arrays_that_the_cluster_accepts_and_are_submitted_once(cluster: Cluster) -> None:
    seeds = [str(s) for s in range(250)]
    done = cluster.submit("many", "--seeds", *seeds, "--array-parallelism", "7", trial=HELD)
    sizes = sorted(len(json.loads(p.read_text())["trials"]) for p in submission_files(cluster, "many"))
    assert sizes == [50, 200] and len(queued(cluster, "many")) == 250
    assert "ArrayTaskThrottle=7" in cluster.call("scontrol", "show", "job", queued(cluster, "many")[0]).stdout
    again = cluster.submit("many", "--seeds", *seeds, trial=HELD)
    assert "to submit: 0" in again.stdout and len(submission_files(cluster, "many")) == 2
    states = cluster.states("many")
    assert {s["state"] for s in states} == {"pending"} and "JobHeldUser" in states[0]["detail"]
    assert len({s["job"] for s in states}) == 250
    assert "cancelled 2 runs" in cluster.roadmap("cancel", "--study", "many", "--seeds", "3", "204").stdout
    assert [s["seed"] for s in cluster.states("many") if s["state"] == "cancelled"] == [3, 204]
    assert "submitted 2 runs" in cluster.roadmap("retry", "--study", "many", "--yes").stdout
    cluster.roadmap("cancel", "--study", "many", "--yes")
    assert {s["state"] for s in cluster.states("many")} == {"cancelled"} and not queued(cluster, "many")
    assert "SLURM" not in done.stderr


def test_folders_are_the_owners_alone_and_a_folder_open_to_others_is_refused(cluster: Cluster) -> None:
    cluster.submit("private", trial=HELD)
    study = cluster.folder / "runs" / "private"
    for path in (
        study,
        study / "slurm",
        study / "code",
        submission_files(cluster, "private")[0].parent,
        cluster.runs("private")[0],
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    (study / "slurm").chmod(0o777)
    assert "not writable by others" in cluster.submit("private", "--force", trial=HELD, status=2).stderr
    (study / "slurm").chmod(0o700)
    cluster.roadmap("cancel", "--study", "private", "--yes")


def with_sbatch(folder: Path, lines: str) -> dict[str, str]:
    """An environment whose sbatch is a script of these lines, for submissions; $REAL is the real one."""
    real = shutil.which("sbatch")
    shim = folder / "bin" / "sbatch"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/bash\nREAL={real}\ncase "$*" in *--test-only*) exec $REAL "$@";; esac\n{lines}\n')
    shim.chmod(0o755)
    return {"PATH": f"{shim.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("taken", [False, True], ids=["before it takes the job", "after, so that its answer is lost"])
def test_the_controller_restarts_while_a_run_is_submitted(cluster: Cluster, tmp_path: Path, taken: bool) -> None:
    script, where = Path(__file__).with_name("cluster"), cluster.folder / "cluster"
    once, later = tmp_path / "once", f"(sleep 3; {script} start-controller {where}) > /dev/null 2>&1 &"
    restart = f"[[ -e {once} ]] || {{ touch {once}; {script} stop-controller {where}; {later} }}"
    words = "Batch job submission failed: Unable to contact slurm controller (connect failure)"
    answer = f'echo "sbatch: error: {words}" >&2; exit 1'
    lost = f'[[ -e {once} ]] && exec $REAL "$@"; $REAL "$@" > /dev/null; {restart}; {answer}'
    study = f"restarted-{taken}"
    environment = with_sbatch(
        tmp_path, lost if taken else f'{restart}; SLURM_CONF={where}/slurm.conf exec timeout 5 $REAL "$@"'
    )
    done = cluster.submit(study, trial=HELD, **environment)
    assert "submitted 1 runs" in done.stdout
    cluster.wait(
        "the nodes to register again",
        lambda: cluster.call("sbatch", "--test-only", "--gpus-per-node=1", "--wrap=true", status=None).returncode == 0,
    )
    assert len(queued(cluster, study)) == 1
    assert "to submit: 0" in cluster.submit(study, trial=HELD).stdout
    cluster.roadmap("cancel", "--study", study, "--yes")


def killed_after_sbatch(cluster: Cluster, folder: Path, study: str, *words: str) -> None:
    """A submitter that dies of SIGKILL when sbatch has answered, before it has noted anything."""
    cluster.submit(study, trial=words, status=-signal.SIGKILL, **with_sbatch(folder, '$REAL "$@"; kill -KILL $PPID'))
    assert json.loads(submission_files(cluster, study)[0].read_text())["job"] is None


def test_a_submitter_killed_right_after_sbatch_leaves_nothing_to_submit_twice(cluster: Cluster, tmp_path: Path) -> None:
    killed_after_sbatch(cluster, tmp_path, "orphans", *HELD, "--seeds", "0", "1", "2")
    again = cluster.submit("orphans", "--seeds", "0", "1", "2", trial=HELD)
    assert "found again: 3 runs" in again.stderr and "to submit: 0" in again.stdout
    assert len(queued(cluster, "orphans")) == 3
    assert {s["job"] for s in cluster.states("orphans")} == set(queued(cluster, "orphans"))
    cluster.roadmap("cancel", "--study", "orphans", "--yes")


def test_jobs_whose_submitter_died_train_all_the_same(cluster: Cluster, tmp_path: Path) -> None:
    killed_after_sbatch(cluster, tmp_path, "orphan", *SHORT)
    run = cluster.wait(
        "its record", lambda: next(iter((cluster.folder / "runs" / "orphan").glob("*/record.json")), None)
    ).parent
    assert len(events(run, "start")) == 1
    again = cluster.submit("orphan", trial=SHORT)
    assert "to submit: 0" in again.stdout and len(submission_files(cluster, "orphan")) == 1


def test_a_job_runs_the_snapshot_of_the_code_and_the_environment_is_clean(cluster: Cluster, tmp_path: Path) -> None:
    """Submitted from inside a job, from a copy of the package that is spoilt before the job starts."""
    root = Path(__file__).parents[2]
    for name in ("roadmap", "experiments"):
        shutil.copytree(root / name, tmp_path / name)
    inside = {
        "PYTHONPATH": str(tmp_path),
        "SLURM_JOB_ID": "4711",
        "SLURM_NTASKS": "8",
        "SLURM_ARRAY_TASK_ID": "5",
        "RANK": "3",
        "WORLD_SIZE": "8",
    }
    cluster.submit("snapshot", trial=HELD, **{**inside, "WORLD_SIZE": "1"})
    (tmp_path / "roadmap" / "config" / "trial.py").write_text("raise SystemExit('edited after the submission')")
    cluster.call("scontrol", "release", queued(cluster, "snapshot")[0])
    state = cluster.wait_for_states("snapshot", "done", "failed")[0]
    assert state["state"] == "done"
    copies = list((cluster.folder / "runs" / "snapshot" / "code").iterdir())
    assert len(copies) == 1 and json.loads((copies[0] / "snapshot.json").read_text())["from"] == str(tmp_path)
    record = json.loads((cluster.runs("snapshot")[0] / "record.json").read_text())
    assert (record["world_size"], record["hardware"]["cores"] <= len(os.sched_getaffinity(0))) == (1, True)


def test_the_record_of_a_submitted_run_names_the_commit_it_was_submitted_at(cluster: Cluster) -> None:
    cluster.submit("commit", trial=SHORT)
    cluster.wait_for_states("commit", "done")
    record = json.loads((cluster.runs("commit")[0] / "record.json").read_text())
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    ).stdout.strip()
    snapshot = next((cluster.folder / "runs" / "commit" / "code").glob("*/snapshot.json"))
    noted = json.loads(snapshot.read_text())
    assert record["git_commit"] == noted["git_commit"] == head
    assert record["git_dirty"] == noted["git_dirty"]
