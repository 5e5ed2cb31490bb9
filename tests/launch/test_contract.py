"""What every launcher promises: a study launched by it leaves finished runs that status and report read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from roadmap.cli.cluster_options import LAUNCHER_NAMES
from roadmap.config.errors import ConfigError
from roadmap.launch.launchers import LAUNCHERS, every_launcher, find_launcher
from tests.helpers.launches import eventually
from tests.slurm.onebox import cluster_in

ROOT = Path(__file__).parents[2]
STUDY = ("--step", "5", "--regime", "micro", "--epochs", "1", "--seeds", "0", "1", "--name", "tiny", "--device", "cpu")
RESOURCES = ("--gpus-per-node", "0", "--cpus-per-task", "1", "--mem", "1500M", "--time", "20")


@dataclass
class Here:
    """A folder in which the command line is called, in an environment."""

    folder: Path
    environment: dict[str, str]

    def roadmap(self, *words: str) -> str:
        return self.call(sys.executable, "-m", "roadmap", *words)

    def call(self, *words: str) -> str:
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def states(self) -> list[dict[str, Any]]:
        return list(json.loads(self.roadmap("status", "tiny", "--json", "--every", "0.5"))["runs"])


def by_local(here: Here) -> None:
    here.roadmap("run", "--launcher", "local", *STUDY, "--jobs", "2")


def by_slurm(here: Here) -> None:
    here.roadmap("run", "--launcher", "slurm", *STUDY, *RESOURCES, "--yes")
    eventually(lambda: all(s["state"] == "done" for s in here.states()))


def by_export(here: Here) -> None:
    """As an array would: one call of the script for each index, in another working directory."""
    said = here.roadmap("run", "--launcher", "export", *STUDY, *RESOURCES)
    assert "exported 2 runs of 2, indexes 0-1" in said
    assert {s["state"] for s in here.states()} == {"new"}
    script = here.folder / "runs" / "tiny" / "export" / "run.sh"
    elsewhere = here.folder / "elsewhere"
    elsewhere.mkdir()
    environments = [{**here.environment, "JOB_COMPLETION_INDEX": str(k)} for k in range(2)]
    jobs = [subprocess.Popen([script], cwd=elsewhere, env=e, stdout=subprocess.DEVNULL) for e in environments]
    assert [job.wait(timeout=300) for job in jobs] == [0, 0]


WAYS: dict[str, Callable[[Here], None]] = {"local": by_local, "slurm": by_slurm, "export": by_export}


@pytest.fixture
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Here]:
    """A place for the launcher of this test; Slurm's has a cluster of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if request.node.callspec.params["name"] != "slurm":
        yield Here(tmp_path, environment)
        return
    with cluster_in(tmp_path, port=27900) as cluster:
        yield Here(cluster.folder, cluster.environment)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slurm] if name == "slurm" else []) for name in LAUNCHERS]
)
def test_a_study_is_launched_and_leaves_finished_runs_that_status_and_report_read(name: str, here: Here) -> None:
    WAYS[name](here)
    states = here.states()
    assert [(s["state"], s["seed"], s["epoch"]) for s in states] == [("done", 0, 1), ("done", 1, 1)]
    assert all(s["top1"] is not None for s in states)
    for s in states:
        record = json.loads((here.folder / "runs" / "tiny" / s["run"] / "record.json").read_text())
        assert (record["status"], record["world_size"], record["attempts"]) == ("finished", 1, 1)
    here.roadmap("report", "tiny", "--out", "report")
    assert "inverted-bottleneck" in (here.folder / "report" / "table.md").read_text()
    assert here.roadmap("logs", "--study", "tiny", "--lines", "0").count("==>") == 2


def test_the_launchers_of_the_command_line_are_those_that_there_are() -> None:
    assert tuple(LAUNCHERS) == LAUNCHER_NAMES == tuple(launcher.name for launcher in every_launcher())
    with pytest.raises(ConfigError, match="launcher 'slrum' is unknown; legal: local, slurm, export; did you mean"):
        find_launcher("slrum")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_knows_nothing_of_a_study_that_it_has_not_launched(name: str, study: Path) -> None:
    runs = [t["id"] for t in json.loads((study / "study.json").read_text())["trials"]]
    launcher = find_launcher(name)
    assert launcher.where(study, runs) == {}
    assert list(launcher.recover(study)) == []
