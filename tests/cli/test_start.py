"""What the command line loads, how fast it starts, and that its other names are the same command."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "timm", "torchvision", "pandas", "matplotlib", "scipy", "sklearn", "analysis")
VERBS = ("run", "plan", "steps", "diff", "report", "check", "power", "attribute", "watch", "bench", "predict", "schema")
OF_A_CLUSTER = ("status", "logs", "cancel", "retry", "preemption-test")


def python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The interpreter of the tests on this tree, in another folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def loaded(code: str, names: tuple[str, ...], cwd: Path) -> list[str]:
    """Which of these modules are loaded after the code has run."""
    ask = f"{code}\nimport sys; print(*[m for m in {names!r} if m in sys.modules])"
    done = python("-c", ask, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def call(words: list[str]) -> str:
    """Code that calls the command line with these words."""
    return f"import roadmap.cli.main\ntry: roadmap.cli.main.main({words!r})\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    "words",
    [
        ["plan"],
        ["steps"],
        ["steps", "--regime", "resnet200", "--json"],
        ["steps", "--ladder", "deit"],
        ["run", "--dry-run"],
        ["run", "--list"],
        ["plan", "--json", "--step", "9"],
        ["run", "--step", "99"],
        ["schema"],
    ],
    ids=" ".join,
)
def test_answers_that_need_no_network_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    assert loaded(call(words), HEAVY, tmp_path) == []


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["report", "--help"]], ids=" ".join)
def test_help_imports_no_library(words: list[str], tmp_path: Path) -> None:
    assert loaded(call(words), (*HEAVY, "pydantic", "yaml", "numpy", "rich"), tmp_path) == []


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    assert loaded("import roadmap", (*HEAVY, "pydantic"), tmp_path) == []
    assert loaded("import roadmap; roadmap.Study, roadmap.load_runs, roadmap.compare", HEAVY, tmp_path) == []


def test_help_starts_about_as_fast_as_argparse(tmp_path: Path) -> None:
    def seconds(*words: str) -> float:
        started = time.perf_counter()
        assert python(*words, cwd=tmp_path).returncode == 0
        return time.perf_counter() - started

    seconds("-m", "roadmap", "--help")  # compiled files are written
    ours, bare = [], []
    for _ in range(9):
        ours.append(seconds("-m", "roadmap", "--help"))
        bare.append(seconds("-c", "import argparse, json, dataclasses, pathlib"))
    assert statistics.median(ours) <= 2.5 * statistics.median(bare)


@pytest.mark.parametrize("words", [["-m", "roadmap", "run", "--list"], ["-m", "roadmap.run", "--list"]], ids=" ".join)
def test_the_module_and_the_run_module_are_the_command(words: list[str], tmp_path: Path) -> None:
    done = python(*words, cwd=tmp_path)
    assert done.returncode == 0 and "separate-downsampling" in done.stdout


def test_the_run_module_refuses_as_the_command_does(tmp_path: Path) -> None:
    done = python("-m", "roadmap.run", "--step", "99", cwd=tmp_path)
    assert done.returncode == 2 and "99" in done.stderr


def test_help_lists_every_verb(tmp_path: Path) -> None:
    out = python("-m", "roadmap", "--help", cwd=tmp_path).stdout
    assert [verb for verb in (*VERBS, *OF_A_CLUSTER) if f"\n    {verb}" not in out] == []
