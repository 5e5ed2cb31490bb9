"""Which code ran is told by the files that can decide an outcome, and by nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from roadmap.runs.provenance import PACKAGE, code_digest


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, tmp_path / "roadmap", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_digest_does_not_depend_on_where_the_package_lies(package: Path) -> None:
    assert code_digest(package) == code_digest(PACKAGE)


@pytest.mark.parametrize("name", ["launch/local.py", "cli/main.py", "runs/folder.py", "README.md", "study/new.py"])
def test_what_decides_no_outcome_does_not_change_it(package: Path, name: str) -> None:
    with open(package / name, "a") as f:
        f.write("\n# changed\n")
    assert code_digest(package) == code_digest(PACKAGE)


@pytest.mark.parametrize("name", ["train/loop.py", "model/block.py", "data/pipeline.py", "config/recipe.py"])
def test_a_changed_line_of_what_decides_one_does(package: Path, name: str) -> None:
    with open(package / name, "a") as f:
        f.write("\n# changed\n")
    assert code_digest(package) != code_digest(PACKAGE)


def test_a_file_that_moved_is_other_code(package: Path) -> None:
    (package / "train" / "optimizer.py").rename(package / "train" / "optimiser.py")
    assert code_digest(package) != code_digest(PACKAGE)
