"""A running cluster as the tests use it: commands at its login node, and waiting for what shall come."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("cluster")
ROOT = Path(__file__).parents[2]
TOOLS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd")
# That faults happen to: about 20 s of training on one core.
TRIAL = ("--step", "5", "--regime", "micro", "--epochs", "12")
SHORT = ("--step", "5", "--regime", "micro", "--epochs", "1")
SMALL = ("--cpus-per-task", "1", "--mem", "1500M", "--time", "20", "--yes")


@dataclass
class Cluster:
    """The running cluster and a place for studies."""

    folder: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def script(self, *words: str) -> None:
        subprocess.run(
            [SCRIPT, *words, self.folder / "cluster"],
            env=self.environment,
            check=True,
            capture_output=True,
            timeout=120,
        )

    def call(self, *words: object, status: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Any command in the cluster's environment."""
        done = subprocess.run(
            [str(w) for w in words],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        assert status is None or done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        return done

    def roadmap(self, *words: object, status: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.call(sys.executable, "-m", "roadmap", *words, status=status, **environment)

    def submit(
        self, study: str, *words: object, trial: tuple[str, ...] = TRIAL, status: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return self.roadmap("run", "--slurm", *trial, "--name", study, *SMALL, *words, status=status, **environment)

    @contextlib.contextmanager
    def profile(self, **profiles: Mapping[str, object]) -> Iterator[None]:
        """The user's file of profiles has these, meanwhile."""
        path = self.folder / "config" / "roadmap" / "slurm.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(profiles))
        yield
        path.unlink()

    def runs(self, study: str) -> list[Path]:
        content = json.loads((self.folder / "runs" / study / "study.json").read_text())
        return [self.folder / "runs" / study / t["id"] for t in content["trials"]]

    def states(self, study: str) -> list[dict[str, Any]]:
        return list(json.loads(self.roadmap("status", study, "--json", "--every", "0.5").stdout)["runs"])

    def wait(self, what: str, look: Callable[[], Any], seconds: float = 120) -> Any:
        end = time.monotonic() + seconds
        while not (seen := look()):
            if time.monotonic() > end:
                queue = self.call("squeue", "--states=all", "--array", status=None).stdout
                pytest.fail(f"{what} has not come in {seconds} s\n{queue}\n{self._last_logs()}")
            time.sleep(0.3)
        return seen

    def _last_logs(self) -> str:
        paths = sorted(self.folder.glob("runs/*/slurm/*/*_log.out"))[-4:]
        return "\n".join(f"== {p}\n{p.read_text()[-2000:]}" for p in paths)

    def wait_for_states(self, study: str, *expected: str, seconds: float = 120) -> list[dict[str, Any]]:
        """The states of a study's runs, once each is one of these."""

        def look() -> list[dict[str, Any]] | None:
            states = self.states(study)
            present = {s["state"] for s in states}
            return states if present <= set(expected) else None

        return list(self.wait(f"{study} in {expected}", look, seconds))

    def wait_for_epoch(self, run: Path, epoch: int = 1, seconds: float = 120) -> None:
        self.wait(f"{run.name}: epoch {epoch}", lambda: len(lines(run / "metrics.jsonl")) >= epoch, seconds)

    def background(self, *words: str) -> subprocess.Popen[bytes]:
        self.started.append(
            subprocess.Popen(
                words,
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
            )
        )
        return self.started[-1]


@contextlib.contextmanager
def cluster_in(folder: Path, *, port: int) -> Iterator[Cluster]:
    """Start a cluster below this folder, on ports from `port`; skips the test without Slurm."""
    if missing := [t for t in TOOLS if shutil.which(t) is None]:
        pytest.skip(f"{', '.join(missing)} missing: apt-get install slurm-wlm slurmdbd munge mariadb-server")
    if os.getuid():
        pytest.skip("the cluster of these tests is started as root")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
    environment = {
        **kept,
        "SLURM_CONF": str(folder / "cluster" / "slurm.conf"),
        "CLUSTER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    cluster = Cluster(folder, environment)
    cluster.script("up")
    try:
        yield cluster
    finally:
        cluster.call("scancel", "--user=root", status=None)
        for process in cluster.started:
            process.kill()
        cluster.script("down")


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """Starts, requeues and refused requeues of a run."""
    return [e for e in lines(run / "jobs.jsonl") if e["event"] == kind]
