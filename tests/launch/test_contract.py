"""What every launcher promises: finished runs that status and report read."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from roadmap.cli.cluster_options import LAUNCHER_NAMES
from roadmap.config.errors import ConfigError
from roadmap.launch import launchers
from roadmap.launch.launchers import LAUNCHERS, every_launcher, find_launcher
from roadmap.runs.folder import RunFolder
from roadmap.study import find
from tests.helpers.launches import eventually
from tests.slurm.onebox import cluster_in

STUDY = ("--step", "5", "--regime", "micro", "--epochs", "1", "--seeds", "0", "--name", "tiny", "--device", "cpu")
RESOURCES = ("--gpus-per-node", "0", "--cpus-per-task", "1", "--mem", "1500M", "--time", "20")


Command = Callable[..., Any]


def states(command: Command) -> list[dict[str, Any]]:
    return list(command("status", "tiny", "--json", "--every", "0.5").json()["runs"])


def said(command: Command, *words: str) -> str:
    """What a call that succeeds prints."""
    answer = command(*words)
    assert answer.status == 0, answer.err
    return str(answer.out)


def by_local(command: Command, folder: Path) -> None:
    said(command, "run", "--launcher", "local", *STUDY)


def by_slurm(command: Command, folder: Path) -> None:
    said(command, "run", "--launcher", "slurm", *STUDY, *RESOURCES, "--yes")
    eventually(lambda: states(command)[0]["state"] == "done")


def by_export(command: Command, folder: Path) -> None:
    """As a task of an array would: the script with an index from outside, in another folder."""
    assert "exported 1 runs of 1, indexes 0" in said(command, "run", "--launcher", "export", *STUDY, *RESOURCES)
    assert {s["state"] for s in states(command)} == {"new"}
    script = folder / "runs" / "tiny" / "export" / "run.sh"
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "JOB_COMPLETION_INDEX": "0"}
    subprocess.run([script], cwd=elsewhere, env=environment, stdout=subprocess.DEVNULL, check=True)


WAYS: dict[str, Callable[[Command, Path], None]] = {"local": by_local, "slurm": by_slurm, "export": by_export}


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which the launcher of this test is used; Slurm's has a cluster of its own."""
    if request.node.callspec.params["name"] != "slurm":
        yield tmp_path
        return
    with cluster_in(tmp_path, port=27900) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        yield tmp_path


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slurm] if name == "slurm" else [pytest.mark.slow]) for name in LAUNCHERS],
)
def test_a_study_is_launched_and_leaves_finished_runs_that_status_and_report_read(
    name: str, command: Command, place: Path
) -> None:
    WAYS[name](command, place)
    runs = states(command)
    assert [(s["state"], s["seed"], s["epoch"]) for s in runs] == [("done", 0, 1)]
    record = RunFolder(place / "runs" / "tiny" / runs[0]["run"]).record()
    assert record is not None
    assert (record.status, record.world_size, record.attempts) == ("finished", 1, 1)
    assert record.metrics["top1"] == runs[0]["top1"]
    said(command, "report", "tiny", "--out", "report")
    assert "inverted-bottleneck" in (place / "report" / "table.md").read_text()
    assert said(command, "logs", "--study", "tiny", "--lines", "0").count("==>") == 1


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


def test_a_study_is_looked_for_in_the_folders_of_all_launchers() -> None:
    assert set(find.LAUNCHERS) == set(launchers.LAUNCHERS)
