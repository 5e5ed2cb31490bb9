"""The ladder as one array, from the command to the figure; several ranks; every way to end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from roadmap.launch.prepared import unfinished_record
from roadmap.launch.slurm.queue import past_jobs
from roadmap.runs.folder import RunFolder
from tests.slurm.onebox import SHORT, Cluster, lines


def test_the_micro_ladder_is_one_array_and_one_command_makes_its_table_and_figure(
    cluster: Cluster, ladder: str
) -> None:
    states = cluster.wait_for_states(ladder, "done", seconds=240)
    assert len({s["job"].split("_")[0] for s in states}) == 1
    assert all(s["node"] for s in states)
    table = cluster.roadmap("status", "ladder").stdout
    assert table.splitlines()[-1] == "14 runs: 14 done"
    assert all(s["top1"] is not None and f"{s['top1']:.2f}" in table for s in states)
    cluster.roadmap("report", "ladder", "--out", "report")
    made = {p.name for p in (cluster.folder / "report").iterdir()}
    assert {"records.jsonl", "table.md", "table.csv", "table.tex"} <= made
    assert any(name.endswith((".svg", ".png")) for name in made)
    # The rates are known now: a second submission predicts its cost.
    plan = cluster.roadmap(
        "plan", "--slurm", "--regime", "micro", "--epochs", "1", "--seeds", "0", "1", "--name", "ladder"
    ).stdout
    assert "to submit: 14, in hand: 14; predicted: 0.0 GPU-hours" in plan


def test_two_nodes_with_a_rank_each_have_the_losses_of_one_process(cluster: Cluster) -> None:
    # Two groups of 128 a batch, four iterations an epoch.
    trial = ("--step", "9", "--regime", "micro", "--epochs", "5", "--recipe", "cifar-adamw")
    cluster.submit("two-nodes", "--nodes", "2", "--gpus-per-node", "1", trial=trial)
    cluster.roadmap("run", *trial, "--name", "one-process")
    cluster.wait_for_states("two-nodes", "done")
    record = json.loads((cluster.runs("two-nodes")[0] / "record.json").read_text())
    assert (record["world_size"], record["test_images"]) == (2, 500)
    of_two, of_one = losses(cluster.runs("two-nodes")[0]), losses(cluster.runs("one-process")[0])
    assert len(of_two) == len(of_one) == 20
    assert of_two == pytest.approx(of_one, abs=1e-5)


def losses(run: Path) -> list[float]:
    """The loss of each iteration of a run."""
    return [x for line in lines(run / "losses.jsonl") for x in line["losses"]]


ENDS = {0: "done", 1: "failed", 2: "failed", 3: "out of memory", 4: "cancelled"}  # by seed


def test_an_array_that_ends_in_every_way_is_shown_as_it_ended(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Success, exception, kill -9, memory overrun and cancel in one array; retry of what failed."""
    array = array_that_ends_in_every_way(cluster)
    ended = cluster.wait_for_states("every-way", *ENDS.values())
    assert {s["seed"]: s["state"] for s in ended} == ENDS
    details = {s["seed"]: s["detail"] for s in ended}
    assert "all 1 are broken" in details[1]
    assert "Killed" in details[2]
    assert "memory limit" in details[3]
    table = cluster.roadmap("status", "every-way").stdout
    assert table.splitlines()[-1] == "5 runs: 1 done, 2 failed, 1 cancelled, 1 out of memory"
    assert "Killed" in cluster.roadmap("logs", "--study", "every-way", "--seeds", "2").stdout
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    check_accounting(cluster, array)
    again = cluster.roadmap("retry", "--study", "every-way", "--failed", "--hold", "--yes")
    assert "submitted 4 runs" in again.stdout
    assert [s["state"] for s in cluster.states("every-way")] == ["done", *["pending"] * 4]
    cluster.roadmap("cancel", "--study", "every-way", "--yes")


def array_that_ends_in_every_way(cluster: Cluster) -> str:
    """Submit five runs and let each end as ENDS has it; returns the array's id."""
    eater = cluster.folder / "eater"
    eater.mkdir()
    (eater / "sitecustomize.py").write_text("eaten = [bytearray(b'x') * 10**8 for _ in range(25)]\n")
    trial = ("--step", "5", "--regime", "micro", "--epochs", "150", "--seeds", "0", "1", "2", "3", "4")
    with cluster.profile(onebox={"setup": [f"[ $SLURM_ARRAY_TASK_ID != 3 ] || export PYTHONPATH={eater}:$PYTHONPATH"]}):
        cluster.submit("every-way", "--hold", trial=trial)
    runs = cluster.runs("every-way")
    finished(cluster, runs[0])
    (runs[1] / "checkpoints").mkdir()
    (runs[1] / "checkpoints" / "checkpoint-000000018.pt").write_bytes(b"not a checkpoint")
    array = str(cluster.states("every-way")[0]["job"]).split("_")[0]
    cluster.call("scontrol", "release", array)
    for k in (2, 4):
        cluster.wait_for_epoch(runs[k])
    os.kill(json.loads((runs[2] / "heartbeat.json").read_text())["pid"], signal.SIGKILL)
    cluster.roadmap("cancel", "--study", "every-way", "--seeds", "4", "--yes")
    return array


def check_accounting(cluster: Cluster, array: str) -> None:
    """Accounting finds the array's jobs by id and by name, and the submission in their comment."""
    remembered = past_jobs([f"{array}_0"])
    words = {k: remembered[f"{array}_{k}"].state for k in (0, 1, 2, 4)}
    assert words == {0: "COMPLETED", 1: "FAILED", 2: "FAILED", 4: "CANCELLED"}
    submission = next((cluster.folder / "runs" / "every-way" / "slurm").glob("*/submission.json")).parent.name
    assert past_jobs(names=[f"every-way-{submission}"]).keys() == remembered.keys()
    assert submission in remembered[f"{array}_0"].comment


def finished(cluster: Cluster, run: Path) -> None:
    """Let a run's record say that it has finished, so that its task has nothing to do."""
    record = unfinished_record(RunFolder(run), "finished", "")
    (run / "record.json").write_text(json.dumps({**record, "error": None, "top1": 50.0, "iterations": 1}))


def test_the_time_limit_is_survived(cluster: Cluster, time_limited: str, ends_as_undisturbed: object) -> None:
    run = cluster.runs(time_limited)[0]
    state = cluster.wait_for_states(time_limited, "done", seconds=240)[0]
    assert state["requeued"] >= 1
    assert all(e["event"] != "kept" for e in lines(run / "jobs.jsonl"))
    ends_as_undisturbed(run)  # type: ignore[operator]


def test_status_works_with_accounting_off(cluster: Cluster) -> None:
    cluster.script("accounting", "off")
    try:
        cluster.submit("unaccounted", "--seeds", "0", "1", trial=SHORT)
        cluster.roadmap("cancel", "--study", "unaccounted", "--seeds", "1", "--yes")
        states = cluster.wait_for_states("unaccounted", "done", "cancelled")
        assert [s["state"] for s in states] == ["done", "cancelled"]
        assert "disabled" in cluster.call("sacct", status=None).stderr
    finally:
        cluster.script("accounting", "on")
