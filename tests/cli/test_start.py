"""What the command line loads, how fast it starts, and that its other names are the same command."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from roadmap.cli import names
from roadmap.ladder import DEFAULT, ENTRY_POINTS, SHIPPED

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "timm", "torchvision", "pandas", "matplotlib", "scipy", "sklearn", "analysis")
VERBS = ("run", "plan", "steps", "diff", "report", "check", "power", "attribute", "watch", "bench", "predict", "schema")
MARGIN = 1.25  # for a machine that others use too
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


AT_ONCE = [
    ["--help"],
    ["run", "--help"],
    ["report", "--help"],
    ["run", "--list"],
    ["run", "--list", "--ladder", "deit"],
]


@pytest.mark.parametrize("words", AT_ONCE, ids=" ".join)
def test_help_and_names_import_no_library(words: list[str], tmp_path: Path) -> None:
    assert loaded(call(words), (*HEAVY, "pydantic", "yaml", "numpy", "rich"), tmp_path) == []


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    assert loaded("import roadmap", (*HEAVY, "pydantic"), tmp_path) == []
    assert loaded("import roadmap; roadmap.Study, roadmap.load_runs, roadmap.compare", HEAVY, tmp_path) == []


@pytest.mark.parametrize("words", [["--help"], ["run", "--list"]], ids=" ".join)
def test_it_starts_about_as_fast_as_argparse(words: list[str], tmp_path: Path) -> None:
    def seconds(*words: str) -> float:
        """Of the processors: what else this machine does is no part of it."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python(*words, cwd=tmp_path).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds("-m", "roadmap", *words)  # compiled files are written
    bare = ("-c", "import argparse, json, dataclasses, pathlib")
    ratios = [seconds("-m", "roadmap", *words) / seconds(*bare) for _ in range(9)]
    assert statistics.median(ratios) <= 2.5 * MARGIN


def test_the_kept_names_are_those_of_the_configs() -> None:
    """`python -m roadmap.cli.names` keeps them again."""
    assert names.kept_names() == {ladder: names.names_of(ladder) for ladder in SHIPPED}
    assert (names.DEFAULT, names.OTHER_LADDERS) == (DEFAULT, ENTRY_POINTS)


def test_ladders_of_other_packages_are_listed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "other-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    assert names.other_ladders([str(tmp_path)]) == []
    (package / "entry_points.txt").write_text("[roadmap.ladders]\nother = other:LADDER\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "other" in names.other_ladders(sys.path)


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
