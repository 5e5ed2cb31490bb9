"""Gathering many runs costs little more than reading and parsing their files."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from roadmap.bench.gathering import Cells, ours, plain, study_of
from roadmap.launch.status import study_states
from roadmap.runs.folder import RunFolder

TARGET, MARGIN = 1.25, 1.25


def test_both_sides_see_the_same_cells(tmp_path: Path) -> None:
    study = study_of(60, tmp_path)
    found = ours(study)
    assert found == plain(study)
    assert sum(n for _, _, n in found.values()) == 60 and max(n for _, _, n in found.values()) == 8
    assert all(math.isfinite(std) and 70 < mean < 80 for mean, std, n in found.values() if n > 1)


def test_the_runs_are_as_real_ones(tmp_path: Path) -> None:
    study = study_of(3, tmp_path)
    for run in map(RunFolder, sorted(path for path in study.iterdir() if path.is_dir())):
        record, trial = run.record(), run.trial()
        assert record is not None and record.fingerprint == trial.fingerprint and not record.extra
        assert record.configuration == trial.configuration and record.resolved == json.loads(
            json.dumps(trial.identity())
        )
    assert [s.state for s in study_states(study)] == ["done"] * 3


@pytest.mark.slow
def test_ten_thousand_runs_are_gathered_about_as_fast_as_they_are_parsed(tmp_path: Path) -> None:
    study = study_of(10_000, tmp_path)
    assert ours(study) == plain(study)

    def seconds(act: Callable[[Path], Cells]) -> float:
        started = time.process_time()  # other processes' share of the machine is no part of it
        act(study)
        return time.process_time() - started

    ratio = statistics.median(seconds(ours) / seconds(plain) for _ in range(7))
    assert ratio <= TARGET * MARGIN
