"""What the launcher `export` writes: lines of JSON and a script, with indexes that stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.errors import ConfigError, RoadmapError
from roadmap.config.runtime import Runtime
from roadmap.launch.export import INDEX_VARIABLES, ExportLauncher, exported_runs, index_ranges
from roadmap.launch.prepared import Launch
from roadmap.launch.resources import Resources
from roadmap.launch.status import study_states
from roadmap.runs.folder import RunFolder
from tests.helpers.launches import submitted

CODE = Path(__file__).parents[2]


def run_folders(study: Path) -> list[RunFolder]:
    return [RunFolder(study / s.run) for s in study_states(study)]


def export(study: Path, runs: list[RunFolder], **resources: Any) -> None:
    launched = ExportLauncher().launch(study, runs, Runtime(device="cpu"), Resources(**resources), code=CODE)
    assert [list(x.runs) for x in launched] == [names(runs)]


def names(runs: list[RunFolder]) -> list[str]:
    return [r.path.name for r in runs]


def call(study: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """run.sh with a Python that only shows how it was called, in another working directory."""
    shown = study / "python"
    shown.write_text('#!/bin/sh\necho "$PYTHONSAFEPATH $PYTHONPATH $OMP_NUM_THREADS $*"\n')
    shown.chmod(0o700)
    environment = {k: v for k, v in os.environ.items() if k not in INDEX_VARIABLES}
    return subprocess.run(
        [study / "export" / "run.sh", *words],
        cwd="/",
        env={**environment, "ROADMAP_PYTHON": str(shown), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_run_has_a_line_of_json_with_all_that_starts_it(study: Path) -> None:
    runs = run_folders(study)
    export(study, runs, gpus_per_node=0, cpus_per_task=3, mem="8G")
    lines = [json.loads(line) for line in (study / "export" / "runs.jsonl").read_text().splitlines()]
    assert [x["index"] for x in lines] == [0, 1, 2]
    assert [x["run"] for x in lines] == names(runs)
    first = lines[0]
    assert first["argv"] == [sys.executable, "-m", "roadmap", "run", "--folder", str(runs[0].path)]
    assert first["environment"]["PYTHONPATH"] == str(CODE)
    assert first["environment"]["OMP_NUM_THREADS"] == "3"
    assert (first["resources"]["mem"], first["resources"]["gpus_per_node"]) == ("8G", 0)
    launch = Launch.read(runs[0])
    assert launch is not None
    assert (launch.launcher, launch.runtime.device) == ("export", "cpu")


def test_several_gpus_are_as_many_ranks_and_several_nodes_are_refused(study: Path) -> None:
    runs = run_folders(study)
    export(study, runs, gpus_per_node=4)
    words = exported_runs(study)[0].argv
    assert words[1:5] == ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4")
    with pytest.raises(RoadmapError, match="export.nodes is 2; legal: 1.*--launcher slurm"):
        export(study, runs, nodes=2)


@pytest.mark.parametrize("variable", INDEX_VARIABLES)
def test_the_script_runs_the_index_of_its_argument_or_of_the_schedulers_variable(study: Path, variable: str) -> None:
    runs = run_folders(study)
    export(study, runs, cpus_per_task=2)
    assert call(study, **{variable: "2"}).returncode == 0
    assert runs[2].log.read_text() == f"1 {CODE} 2 -m roadmap run --folder {runs[2].path}\n"
    assert call(study, "1", **{variable: "2"}).returncode == 0
    assert str(runs[1].path) in runs[1].log.read_text()


@pytest.mark.parametrize("words", [(), ("3",), ("one",), ("-1",)])
def test_an_index_that_no_run_has_is_refused_with_the_legal_ones(study: Path, words: tuple[str, ...]) -> None:
    export(study, run_folders(study))
    done = call(study, *words)
    assert done.returncode == 2
    assert "is unknown; legal: 0 to 2; " in done.stderr


def test_an_index_is_never_given_to_another_run(study: Path) -> None:
    runs = run_folders(study)
    export(study, [runs[1]])
    export(study, [runs[2], runs[1]], cpus_per_task=2)
    export(study, [runs[0]])
    assert [x.run for x in exported_runs(study)] == names([runs[1], runs[2], runs[0]])
    assert [x.resources["cpus_per_task"] for x in exported_runs(study)] == [2, 2, None]


def test_paths_with_spaces_and_quotes_reach_the_command_whole(study: Path) -> None:
    moved = study.rename(study.with_name("a study's folder"))
    runs = run_folders(moved)
    export(moved, runs)
    assert call(moved, "0").returncode == 0
    assert runs[0].log.read_text().endswith(f"--folder {runs[0].path}\n")


def test_status_says_which_index_waits_and_then_what_the_run_folder_says(study: Path) -> None:
    runs = run_folders(study)
    export(study, runs)
    assert [(s.state, s.detail, s.job) for s in study_states(study)][1] == ("new", "exported as index 1", "")
    runs[1].beat({"state": "running", "epoch": 1})
    runs[2].write_record({"status": "finished", "top1": 50.0})
    assert [s.state for s in study_states(study)] == ["new", "running", "done"]


def test_the_last_launcher_of_a_run_speaks_for_it(study: Path) -> None:
    submitted(study, None)
    assert {s.launcher for s in study_states(study)} == {"slurm"}
    export(study, run_folders(study)[:1])
    assert [s.launcher for s in study_states(study)] == ["export", "slurm", "slurm"]


def test_options_of_another_launcher_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="resources.partition is unknown; legal: time, nodes, gpus_per_node"):
        ExportLauncher().resources({"partition": "gpu"})
    with pytest.raises(RoadmapError, match="--profile 'x' is given with the launcher export; legal: "):
        ExportLauncher().resources({}, profile="x")


def test_indexes_are_written_as_schedulers_take_them() -> None:
    assert index_ranges([4, 0, 1, 2, 7]) == "0-2,4,7"
