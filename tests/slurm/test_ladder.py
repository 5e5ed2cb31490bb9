"""The whole ladder as one array, from the command to table and figure; runs of several ranks; an array that ends in every way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from onebox import SHORT, Cluster, lines

from roadmap.launch.slurm.queue import past_jobs


def test_the_micro_ladder_is_one_array_and_one_command_makes_its_table_and_figure(
    cluster: Cluster, ladder: str
) -> None:
    states = cluster.wait_for_states(ladder, "done", seconds=240)
    assert len({s["job"].split("_")[0] for s in states}) == 1 and len({s["node"] for s in states}) >= 1
    table = cluster.roadmap("status", "ladder").stdout
    assert table.splitlines()[-1] == "14 runs: 14 done"
    assert all(s["top1"] is not None and f"{s['top1']:.2f}" in table for s in states)
    cluster.roadmap("report", "ladder", "--out", "report")
    made = {p.name for p in (cluster.folder / "report").iterdir()}
    assert {"records.jsonl", "table.md", "table.csv", "table.tex"} <= made and any(
        n.endswith((".svg", ".png")) for n in made
    )
    # The rates are known now: a second submission predicts its cost.
    plan = cluster.roadmap(
        "plan", "--slurm", "--regime", "micro", "--epochs", "1", "--seeds", "0", "1", "--name", "ladder"
    ).stdout
    assert "to submit: 14, in hand: 14; predicted: 0.0 GPU-hours" in plan


def test_two_nodes_with_a_rank_each_have_the_losses_of_one_process(cluster: Cluster) -> None:
    trial = (
        "--step",
        "9",
        "--regime",
        "micro",
        "--epochs",
        "5",
        "--recipe",
        "cifar-adamw",
    )  # two groups of 128 a batch, four iterations an epoch
    cluster.submit("two-nodes", "--nodes", "2", "--gpus-per-node", "1", trial=trial)
    cluster.roadmap("run", *trial, "--name", "one-process")
    cluster.wait_for_states("two-nodes", "done")
    record = json.loads((cluster.runs("two-nodes")[0] / "record.json").read_text())
    assert (record["world_size"], record["test_images"]) == (2, 500)
    both = [
        [x for line in lines(cluster.runs(s)[0] / "losses.jsonl") for x in line["losses"]]
        for s in ("two-nodes", "one-process")
    ]
    assert len(both[0]) == len(both[1]) == 20
    assert both[0] == pytest.approx(both[1], abs=1e-5)


def test_an_array_that_ends_in_every_way_is_shown_as_it_ended(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Success, exception, kill -9, memory overrun and cancel, in one array; then only what failed is submitted again."""
    profile = cluster.folder / "config" / "roadmap" / "slurm.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    (cluster.folder / "eater").mkdir()
    (cluster.folder / "eater" / "sitecustomize.py").write_text("eaten = [bytearray(b'x') * 10**8 for _ in range(25)]\n")
    profile.write_text(
        json.dumps(
            {
                "onebox": {
                    "setup": [f"[ $SLURM_ARRAY_TASK_ID != 3 ] || export PYTHONPATH={cluster.folder}/eater:$PYTHONPATH"]
                }
            }
        )
    )
    trial = ("--step", "5", "--regime", "micro", "--epochs", "150", "--seeds", "0", "1", "2", "3", "4")
    cluster.submit("every-way", "--hold", trial=trial)
    profile.unlink()
    runs = cluster.runs("every-way")
    finished(cluster, runs[0])
    (runs[1] / "checkpoints").mkdir()
    (runs[1] / "checkpoints" / "checkpoint-000000018.pt").write_bytes(b"not a checkpoint")
    array = cluster.states("every-way")[0]["job"].split("_")[0]
    cluster.call("scontrol", "release", array)
    for k in (2, 4):
        cluster.wait_for_epoch(runs[k])
    os.kill(json.loads((runs[2] / "heartbeat.json").read_text())["pid"], signal.SIGKILL)
    cluster.roadmap("cancel", "--study", "every-way", "--seeds", "4", "--yes")
    states = {
        s["seed"]: s for s in cluster.wait_for_states("every-way", "done", "failed", "out of memory", "cancelled")
    }
    assert {k: s["state"] for k, s in states.items()} == {
        0: "done",
        1: "failed",
        2: "failed",
        3: "out of memory",
        4: "cancelled",
    }
    assert (
        "all 1 are broken" in states[1]["detail"]
        and "memory limit" in states[3]["detail"]
        and "Killed" in states[2]["detail"]
    )
    assert (
        cluster.roadmap("status", "every-way").stdout.splitlines()[-1]
        == "5 runs: 1 done, 2 failed, 1 cancelled, 1 out of memory"
    )
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    remembered = past_jobs([f"{array}_0"])
    assert {k: remembered[f"{array}_{k}"].state for k in (0, 1, 2, 4)} == {
        0: "COMPLETED",
        1: "FAILED",
        2: "FAILED",
        4: "CANCELLED",
    }
    submission = next((cluster.folder / "runs" / "every-way" / "slurm").glob("*/submission.json")).parent.name
    assert {j.job for j in past_jobs(names=[f"every-way-{submission}"]).values()} == set(
        remembered
    ) and submission in remembered[f"{array}_0"].comment
    assert "Killed" in cluster.roadmap("logs", "--study", "every-way", "--seeds", "2").stdout
    again = cluster.roadmap("retry", "--study", "every-way", "--failed", "--hold", "--yes")
    assert "submitted 4 runs" in again.stdout and [s["state"] for s in cluster.states("every-way")] == [
        "done",
        *["pending"] * 4,
    ]
    cluster.roadmap("cancel", "--study", "every-way", "--yes")


def finished(cluster: Cluster, run: Path) -> None:
    """Let a run's record say that it has finished, so that its task has nothing to do."""
    labels = {
        k: v
        for k, v in json.loads((run / "trial.json").read_text()).items()
        if k in ("id", "fingerprint", "regime", "step", "change", "seed")
    }
    (run / "record.json").write_text(
        json.dumps({**labels, "version": 1, "status": "finished", "top1": 50.0, "iterations": 1, "study": "every-way"})
    )


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
