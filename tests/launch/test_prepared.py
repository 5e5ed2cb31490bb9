"""One prepared run, trained as it was launched: its settings, its exit status, a folder that is held."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from roadmap.config.runtime import Runtime
from roadmap.launch import prepared
from roadmap.launch.prepared import TRY_LATER, Launch, run_prepared, train_prepared
from roadmap.launch.slurm.launcher import SlurmLauncher
from roadmap.launch.slurm.resources import SlurmResources
from roadmap.launch.status import study_states
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, RunHeld, write_json
from roadmap.runs.record import LOST_PEER, Record
from roadmap.train import distributed
from roadmap.train.distributed import is_lost_peer
from roadmap.train.execute import _end_of_failed_rank
from tests.helpers.launches import submitted


@pytest.fixture
def run(study: Path) -> RunFolder:
    return RunFolder(study / study_states(study)[0].run)


def executes(monkeypatch: pytest.MonkeyPatch, *outcomes: Record | RunError) -> list[Runtime]:
    """Training ends so, call by call; returns the settings of each call."""
    calls: list[Runtime] = []

    def execute(folder: RunFolder, runtime: Runtime) -> Record:
        calls.append(runtime)
        outcome = outcomes[len(calls) - 1]
        if isinstance(outcome, RunError):
            raise outcome
        return outcome

    monkeypatch.setattr("roadmap.train.execute.execute", execute)
    monkeypatch.setattr(prepared, "HELD_WAIT", 0.0)
    return calls


@pytest.mark.parametrize(
    ("status", "code"), [("finished", 0), ("failed", 1), ("diverged", 1), ("interrupted", TRY_LATER)]
)
def test_a_scheduler_learns_from_the_exit_status_whether_to_start_a_run_again(
    status: str, code: int, run: RunFolder, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    executes(monkeypatch, Record(status=status, error="why"))
    assert command("run", "--folder", run.path).status == code


def test_a_prepared_run_has_the_settings_it_was_launched_with_else_the_given_ones(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = executes(monkeypatch, Record(status="finished"), Record(status="finished"))
    run_prepared(run, Runtime(workers=7))
    Launch(launcher="export", runtime=Runtime(workers=3, data_dir=Path("/data"))).write(run)
    run_prepared(run, Runtime(workers=7))
    assert calls == [Runtime(workers=7), Runtime(workers=3, data_dir=Path("/data"))]


@pytest.mark.parametrize(("given", "threads"), [(0, 3), (2, 2)])
def test_the_cores_of_a_task_are_the_runs_threads_where_nothing_else_says(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, given: int, threads: int
) -> None:
    calls = executes(monkeypatch, Record(status="finished"))
    Launch(launcher="export", runtime=Runtime(threads=given), resources={"cpus_per_task": 3}).write(run)
    run_prepared(run, Runtime())
    assert calls == [Runtime(threads=threads)]
    assert calls[0].on("cuda", {}).workers == threads - 1


def test_a_run_that_a_dying_process_holds_is_waited_for_and_other_refusals_are_not(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = executes(monkeypatch, RunHeld("held"), RunHeld("held"), Record(status="finished"))
    assert train_prepared(run, Runtime()).status == "finished"
    assert len(calls) == 3
    calls = executes(monkeypatch, RunError("not writable"))
    with pytest.raises(RunError, match="not writable"):
        train_prepared(run, Runtime())
    calls = executes(monkeypatch, *[RunHeld("held")] * prepared.HELD_TRIES)
    with pytest.raises(RunHeld):
        train_prepared(run, Runtime())
    assert len(calls) == prepared.HELD_TRIES
    executes(monkeypatch, RunHeld("held"))
    with pytest.raises(RunHeld):
        train_prepared(run, Runtime(), patient=False)


def test_a_second_holder_of_a_run_is_refused_by_type(run: RunFolder) -> None:
    with run.lease(), pytest.raises(RunHeld), run.lease():
        pass


def test_what_an_older_folder_was_submitted_with_is_still_known(study: Path, run: RunFolder) -> None:
    submission = submitted(study, "7")
    write_json(run.path / "slurm.json", {"submission": submission.name, "machine": {"workers": 2}, "restarts": 5})
    launch = SlurmLauncher().last_launch(run)
    assert launch is not None
    assert (launch.launcher, launch.runtime, launch.submission) == ("slurm", Runtime(workers=2), submission.name)
    assert SlurmLauncher().stored_resources(launch.resources) == SlurmResources()
    newer = Launch(launcher="slurm", runtime=Runtime(workers=3), resources={"nodes": 2})
    newer.write(run)
    assert SlurmLauncher().last_launch(run) == newer


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer"), True),
        (dist.DistNetworkError("the client socket has timed out"), True),
        (ConnectionResetError(), True),
        (RuntimeError("shape '[3]' is invalid for input of size 4"), False),
        (ValueError("gloo"), False),
    ],
)
def test_a_lost_peer_is_told_from_the_runs_own_faults(error: Exception, lost: bool) -> None:
    assert is_lost_peer(error) == lost


@pytest.mark.parametrize(
    ("kind", "cause", "text", "left"),
    [
        (LOST_PEER, "", "Connection closed by peer", LOST_PEER),
        (LOST_PEER, "out of memory", "rank 1: out of memory", None),
        (None, "out of memory", "Connection closed by peer", None),
    ],
)
def test_a_rank_that_lost_another_names_that_ones_cause_and_without_one_it_is_no_fault_of_the_run(
    kind: str | None, cause: str, text: str, left: str | None, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "PEER_SECONDS", 0)
    if cause:
        distributed.leave_failure(run.path, distributed.Ranks(rank=1, world_size=2), cause)
    record = Record(status="failed", error="Connection closed by peer", error_kind=kind)
    found = _end_of_failed_rank(run, distributed.Ranks(world_size=2), record)
    assert (found.error, found.error_kind) == (text, left)
    assert run.record() == found
