"""Runs side by side: one that dies takes down only itself; a stopped study goes on."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.runtime import cores
from roadmap.runs.folder import RunFolder
from tests.helpers.launches import eventually

ROOT = Path(__file__).parents[2]
STEPS = ("2", "3", "4")


def words(out: Path, *, jobs: int = 1, epochs: int) -> list[str]:
    steps = [word for step in STEPS for word in ("--step", step)]
    return ["run", *steps, "--epochs", str(epochs), "--jobs", str(jobs), "--runs", str(out), "--name", "side"]


def start(out: Path, *more: str, epochs: int) -> subprocess.Popen[str]:
    """Three runs in two slots, as a process of their own."""
    command = [sys.executable, "-m", "roadmap", *words(out, jobs=2, epochs=epochs), *more]
    return subprocess.Popen(
        command,
        cwd=out,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def folders(out: Path) -> list[RunFolder]:
    return [RunFolder(p.parent) for p in sorted((out / "side").glob("*/trial.json"))]


def workers(process: subprocess.Popen[str]) -> list[int]:
    """Its processes that run trials; they exist for seconds before they have imported torch."""
    children = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    return [p for p in children if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def has_handed_out(process: subprocess.Popen[str]) -> bool:
    """Whether both workers have begun to exist and the process waits for their answers."""
    state = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return len(workers(process)) == 2 and state == "S"


def records(out: Path) -> dict[str, dict[str, Any]]:
    return {f.path.name: record for f in folders(out) if (record := f.record())}


def running(out: Path) -> RunFolder | None:
    """A run that has saved a checkpoint and goes on."""
    return next((f for f in folders(out) if list(f.checkpoints.glob("*.pt")) and not f.record()), None)


@pytest.mark.soak
@pytest.mark.slow
def test_a_killed_worker_leaves_a_failed_record_and_only_its_run_is_left_to_do(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    process = start(tmp_path, epochs=4)
    victim = eventually(lambda: running(tmp_path))
    owner = json.loads((victim.path / "lease").read_text())["pid"]
    assert owner != process.pid
    os.kill(owner, signal.SIGKILL)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "failed  its process was killed by SIGKILL; see " in err

    found = records(tmp_path)
    assert len(found) == 3
    failed = found.pop(victim.path.name)
    assert failed.status == "failed"
    assert (
        failed.error
        == f"its process was killed by SIGKILL; see {victim.log}; start it again to go on from its last checkpoint"
    )
    assert failed.fingerprint == victim.trial().fingerprint
    assert {r.status for r in found.values()} == {"finished"}
    assert {r.hardware.threads for r in found.values()} == {max(1, cores() // 2)}

    answer = command(*words(tmp_path, epochs=4))
    assert answer.status == 0, answer.err
    assert "2 of 3 runs are finished already and are not trained again" in answer.err
    assert "resumed after epoch " in answer.err and "3 of 3 runs finished" in answer.out
    again = records(tmp_path)
    assert {k: again[k] for k in found} == found
    assert again[victim.path.name].status == "finished" and again[victim.path.name].attempts == 2
    assert [m["epoch"] for m in victim.metrics()] == list(range(1, 5))


def metrics_of(folder: RunFolder) -> Mapping[str, float | None]:
    record = folder.record()
    assert record
    return record.metrics


def weights(folder: RunFolder) -> dict[str, Any]:
    from roadmap.train.checkpoints import CheckpointStore

    state = CheckpointStore(folder.checkpoints).load(folder.trial().fingerprint)
    assert state
    return {"iteration": state["iteration"], **state["model"]}


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_study_saves_itself_and_goes_on_to_the_same_weights(tmp_path: Path, number: signal.Signals) -> None:
    import torch

    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    stopped.mkdir(), whole.mkdir()
    process = start(stopped, epochs=6)
    eventually(lambda: running(stopped))
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    left = records(stopped)
    assert "interrupted" in {r.status for r in left.values()} <= {"interrupted", "finished"}
    assert len(left) <= 2  # the third was not handed out

    assert start(stopped, epochs=6).wait(timeout=240) == 0
    assert start(whole, epochs=6).wait(timeout=240) == 0
    assert len(folders(stopped)) == len(folders(whole)) == 3
    for a, b in zip(folders(stopped), folders(whole), strict=True):
        left_weights, right_weights = weights(a), weights(b)
        assert left_weights.keys() == right_weights.keys()
        assert all(
            torch.equal(torch.as_tensor(left_weights[k]), torch.as_tensor(right_weights[k])) for k in left_weights
        )
        assert metrics_of(a) == metrics_of(b)


@pytest.mark.slow
def test_a_stop_before_training_began_is_no_failure_and_loses_no_earlier_record(tmp_path: Path) -> None:
    assert start(tmp_path, epochs=1).wait(timeout=240) == 0
    before = records(tmp_path)
    process = start(tmp_path, "--force", epochs=1)
    eventually(lambda: has_handed_out(process))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert records(tmp_path) == before
    new = tmp_path / "new"
    new.mkdir()
    process = start(new, epochs=1)
    eventually(lambda: has_handed_out(process))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert {r.status for r in records(new).values()} == {"interrupted"}


# Loader workers -------------------------------------------------------------------------------------------------------


def children_of(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def loaders(process: subprocess.Popen[str]) -> list[int]:
    """The processes that load for its slots: forks, with a slot's own command line."""
    slots = workers(process)
    return [p for slot in slots for p in children_of(slot) if command_line(p) == command_line(slot)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def alive(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_side_by_side_runs_have_forked_loader_workers_and_the_results_of_runs_without(tmp_path: Path) -> None:
    process = start(tmp_path, "--workers", "1", epochs=1)
    at_work = eventually(lambda: len(found := loaders(process)) == 2 and found)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert not any(map(alive, at_work))
    assert {(r.status, r.workers) for r in records(tmp_path).values()} == {("finished", 1)}
    without = tmp_path / "without"
    without.mkdir()
    assert start(without, epochs=1).wait(timeout=240) == 0
    assert [metrics_of(f) for f in folders(tmp_path)] == [metrics_of(f) for f in folders(without)]


@pytest.mark.slow
def test_slots_and_their_loaders_end_with_a_parent_that_was_killed_and_lose_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, "--workers", "1", epochs=200)
    eventually(lambda: running(tmp_path) and len(loaders(process)) == 2)
    left = [*workers(process), *loaders(process)]
    assert len(left) == 4
    process.kill()
    process.communicate(timeout=60)
    eventually(lambda: not any(map(alive, left)), seconds=60)
    assert "interrupted" in {r.status for r in records(tmp_path).values()}


@pytest.mark.soak
@pytest.mark.slow
def test_an_error_of_the_parent_ends_its_slots(tmp_path: Path) -> None:
    """What it does with a finished run may fail, as a full disk makes it."""
    program = (
        "import sys\n"
        "from roadmap.cli import console\n"
        "def finished(self, folder, record):\n"
        "    raise OSError('no space left')\n"
        "console.Progress.finished = finished\n"
        "from roadmap.cli.main import main\n"
        f"if __name__ == '__main__':\n    sys.exit(main({words(tmp_path, jobs=2, epochs=1)!r}))\n"
    )
    (tmp_path / "program.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    slots = eventually(lambda: len(found := workers(process)) == 2 and found)  # type: ignore[arg-type]
    _, err = process.communicate(timeout=180)
    assert process.returncode == 1 and b"no space left" in err
    assert not any(map(alive, slots))
