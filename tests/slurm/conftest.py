"""One cluster for all tests of this folder, and the command line as a user at its login node has it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.onebox import TRIAL, Cluster, cluster_in, lines

# The tests of submission need no processor, so what trains in the background does so meanwhile.
ORDER = {"test_submitting": 1, "test_faults": 2, "test_ladder": 3}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)
    items.sort(key=lambda item: ORDER.get(item.path.stem, 0))


def epochs(run: Path) -> list[int]:
    return [m["epoch"] for m in lines(run / "metrics.jsonl")]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="roadmap-slurm-"))
    try:
        with cluster_in(folder, port=27800) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def undisturbed(cluster: Cluster) -> subprocess.Popen[bytes]:
    """The same trial trained locally, with nothing happening to it, while the first tests run."""
    return cluster.background(sys.executable, "-m", "roadmap", "run", "--name", "undisturbed", *TRIAL)


@pytest.fixture(scope="session", autouse=True)
def ladder(cluster: Cluster) -> str:
    """The micro ladder as one array, two runs at a time."""
    done = cluster.submit(
        "ladder", "--seeds", "0", "--array-parallelism", "2", trial=("--regime", "micro", "--epochs", "1")
    )
    assert "submitted 14 runs as array" in done.stdout
    return "ladder"


@pytest.fixture(scope="session")
def time_limited(cluster: Cluster) -> str:
    """A run that its time limit comes over; looked at by one of the last tests.

    It stands still until Slurm's warning waits for it, so that no machine is fast enough to finish
    before.
    """
    cluster.submit("time-limited", "--nodelist", "n1", "--time", "1", "--signal-seconds", "10")
    run = cluster.runs("time-limited")[0]
    cluster.wait_for_epoch(run)
    pid = json.loads((run / "heartbeat.json").read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    warned = f"(( 0x$(awk '/^ShdPnd/ {{print $2}}' /proc/{pid}/status) & 1 << {signal.SIGUSR2 - 1} ))"
    cluster.background("bash", "-c", f"until {warned}; do sleep 0.2; done; kill -CONT {pid}")
    return "time-limited"


@pytest.fixture(scope="session")
def ends_as_undisturbed(cluster: Cluster, undisturbed: subprocess.Popen[bytes]) -> Callable[[Path], None]:
    """Checks that a finished run's tensors and epochs are those of the run that nothing happened to."""
    from roadmap.runs.folder import RunFolder
    from tests.helpers.small_runs import hash_of

    def check(run: Path) -> None:
        assert undisturbed.wait(timeout=180) == 0
        other = next(p for p in cluster.runs("undisturbed") if p.name == run.name)
        assert json.loads((run / "record.json").read_text())["status"] == "finished"
        assert hash_of(RunFolder(run)) == hash_of(RunFolder(other))
        assert (run / "losses.jsonl").read_bytes() == (other / "losses.jsonl").read_bytes()
        assert epochs(run) == epochs(other)

    return check
