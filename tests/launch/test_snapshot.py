"""The copy of the code that jobs run from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from roadmap.launch.snapshot import take_snapshot
from roadmap.runs.provenance import git_state


def test_what_python_caches_in_the_copy_is_no_change_of_the_code(tmp_path: Path) -> None:
    if git_state()["git_commit"] is None:
        pytest.skip("not a checkout")
    copy = take_snapshot(tmp_path / "study")
    cached = copy / "roadmap" / "__pycache__" / "new.pyc"
    cached.parent.mkdir()
    cached.write_bytes(b"")
    status = ["git", "status", "--porcelain", "--", "roadmap"]
    assert "__pycache__" not in subprocess.run(status, cwd=copy, capture_output=True, text=True, check=True).stdout
