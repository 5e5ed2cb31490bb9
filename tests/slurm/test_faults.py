"""What a cluster does to a run: every time it ends with the bits of the run that nothing happened to."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.onebox import SHORT, TRIAL, Cluster, events, lines

Check = Callable[[Path], None]


@pytest.fixture(scope="module", autouse=True)
def meanwhile(time_limited: str) -> None:
    """The run that is too long for its limit trains beside these."""


def test_preemption_by_the_urgent_partition(cluster: Cluster, ends_as_undisturbed: Check) -> None:
    cluster.submit("preempted", "--nodelist", "n2")
    run = cluster.runs("preempted")[0]
    cluster.wait_for_epoch(run, 2)
    cluster.call("sbatch", "--partition=urgent", "--nodelist=n2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    requeued = cluster.wait("requeue", lambda: events(run, "requeue"))[0]
    assert "SIGUSR2" in str(requeued["why"]) and int(str(requeued["checkpoint"])) > 0
    assert cluster.states("preempted")[0]["state"] in ("requeued", "running")
    final = cluster.wait_for_states("preempted", "done", seconds=180)[0]
    assert final["requeued"] == 1 and len(events(run, "start")) == 2
    assert lines(run / "attempts.jsonl")[1]["from_iteration"] == requeued["checkpoint"]
    ends_as_undisturbed(run)


def test_a_node_that_dies_with_its_steps_of_one_and_of_two_nodes(cluster: Cluster, ends_as_undisturbed: Check) -> None:
    """The run of two nodes is preempted first, so that its ranks also agree on a stop."""
    # Four iterations an epoch.
    trial = ("--step", "9", "--regime", "micro", "--epochs", "12", "--recipe", "cifar-adamw")
    cluster.submit("two-nodes-disturbed", "--nodes", "2", "--gpus-per-node", "1", trial=trial)
    both = cluster.runs("two-nodes-disturbed")[0]
    cluster.wait_for_epoch(both, 2)
    cluster.call("scancel", "--signal=USR2", cluster.states("two-nodes-disturbed")[0]["job"])
    saved = cluster.wait("requeue", lambda: events(both, "requeue"))[0]["checkpoint"]
    cluster.submit("node-killed", "--nodelist", "n2")
    single = cluster.runs("node-killed")[0]
    cluster.wait_for_epoch(single, 2)
    cluster.wait_for_epoch(both, saved // 4 + 2)
    assert lines(both / "attempts.jsonl")[1]["from_iteration"] == saved > 0
    cluster.script("kill-node", "n2")
    cluster.wait("the node's loss is noticed", lambda: cluster.states("node-killed")[0]["state"] == "requeued")
    cluster.script("start-node", "n2")
    assert cluster.wait_for_states("node-killed", "done", seconds=180)[0]["requeued"] == 1
    assert [a["from_iteration"] for a in lines(single / "attempts.jsonl")][1] > 0
    ends_as_undisturbed(single)
    assert cluster.wait_for_states("two-nodes-disturbed", "done", seconds=180)[0]["requeued"] == 2
    assert [x["epoch"] for x in lines(both / "losses.jsonl")] == list(range(1, 13))
    assert json.loads((both / "record.json").read_text())["world_size"] == 2


def test_a_refused_requeue_leaves_the_run_saved_and_says_how_to_go_on_and_it_goes_on_locally(
    cluster: Cluster, ends_as_undisturbed: Check
) -> None:
    cluster.submit("refused")
    run = cluster.runs("refused")[0]
    cluster.wait_for_epoch(run)
    job = cluster.states("refused")[0]["job"]
    cluster.call("scontrol", "update", f"JobId={job}", "Requeue=0")
    cluster.call("scancel", "--signal=TERM", job)
    state = cluster.wait_for_states("refused", "stopped")[0]
    assert "not requeued" in state["detail"] and "disabled" in state["detail"]
    assert f"to go on: roadmap retry {run.name}" in cluster.roadmap("logs", "--study", "refused").stdout
    assert cluster.call("squeue", "-h", "--states=all", f"--jobs={job}", "-o", "%T").stdout.strip() == "FAILED"
    # From Slurm to the local launcher: the same command without --slurm.
    cluster.roadmap("run", *TRIAL, "--name", "refused")
    assert lines(run / "attempts.jsonl")[1]["from_iteration"] > 0
    ends_as_undisturbed(run)


def test_a_run_begun_locally_goes_on_on_slurm_and_after_the_preemption_test(
    cluster: Cluster, ends_as_undisturbed: Check
) -> None:
    process = cluster.background(sys.executable, "-m", "roadmap", "run", *TRIAL, "--name", "moved")
    cluster.wait("the folder", lambda: (cluster.folder / "runs" / "moved" / "study.json").exists())
    run = cluster.runs("moved")[0]
    cluster.wait_for_epoch(run)
    assert cluster.states("moved")[0]["state"] == "running"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert cluster.states("moved")[0]["state"] == "stopped"
    cluster.submit("moved")
    cluster.wait("its resume", lambda: len(lines(run / "attempts.jsonl")) == 2)
    saved = lines(run / "attempts.jsonl")[1]["from_iteration"]
    cluster.wait("training", lambda: json.loads((run / "heartbeat.json").read_text()).get("iteration", 0) > saved)
    test = cluster.roadmap("preemption-test", "--study", "moved", "--signal", "TERM", "--wait", "120")
    assert "nothing was lost" in test.stdout and "requeued" in test.stdout, test.stdout
    cluster.wait_for_states("moved", "done", seconds=180)
    ends_as_undisturbed(run)


def test_a_run_that_was_signalled_before_training_is_back_in_the_queue(cluster: Cluster) -> None:
    cluster.submit("early", trial=SHORT)
    run = cluster.runs("early")[0]
    cluster.wait("its start", lambda: events(run, "start"))
    cluster.call("scancel", "--signal=USR2", cluster.states("early")[0]["job"])
    assert "while not training" in str(cluster.wait("requeue", lambda: events(run, "requeue"))[0]["why"])
    assert cluster.wait_for_states("early", "done")[0]["requeued"] == 1


def test_a_step_that_slurm_could_not_create_is_tried_again(cluster: Cluster) -> None:
    """Slurm's answer just after a node's death, here from a function before srun."""
    mark = cluster.folder / "failed-once"
    refused = 'echo "srun: error: Unable to create step for job 1: reason" >&2; return 1'
    setup = f'srun() {{ [ -e {mark} ] && command srun "$@" && return; touch {mark}; {refused}; }}'
    with cluster.profile(onebox={"setup": setup}):
        cluster.submit("no-step", trial=SHORT)
    run = cluster.runs("no-step")[0]
    cluster.wait_for_states("no-step", "done")
    assert mark.exists()
    assert [e["restart"] for e in events(run, "start")] == [1]


def test_restarts_without_progress_are_capped(cluster: Cluster) -> None:
    with cluster.profile(capped={"restarts": 1}, other={"partition": "main"}):
        cluster.submit("capped", "--profile", "capped", trial=SHORT)
    run = cluster.runs("capped")[0]
    for starts in (1, 2):
        cluster.wait("its start", lambda starts=starts: len(events(run, "start")) == starts)
        cluster.call("scancel", "--signal=USR2", cluster.states("capped")[0]["job"])
        cluster.wait("requeue", lambda starts=starts: len(events(run, "requeue")) == starts)
    state = cluster.wait_for_states("capped", "failed")[0]
    assert "started again 2 times without a new checkpoint; legal: 1" in state["detail"]
