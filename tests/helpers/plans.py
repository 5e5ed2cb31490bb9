"""The shipped study files, and one of a test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadmap.study.file import EXPERIMENTS

STUDIES = sorted(EXPERIMENTS.glob("*.yaml"))
BY_NAME = pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path
