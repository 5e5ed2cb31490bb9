"""The study that is gathered in the benchmark is as real ones are."""

from __future__ import annotations

import json
import math
from pathlib import Path

from roadmap.bench.gather import plain, study_of
from roadmap.config.runtime import Runtime
from roadmap.launch.status import study_states
from roadmap.runs.folder import RunFolder
from roadmap.runs.hits import contradictions
from roadmap.train.circumstances import describe
from roadmap.train.distributed import Ranks


def test_its_cells_have_eight_seeds_and_the_last_what_is_left(tmp_path: Path) -> None:
    found = plain(study_of(60, tmp_path))
    assert sum(n for _, _, n in found.values()) == 60 and max(n for _, _, n in found.values()) == 8
    assert all(math.isfinite(std) and 70 < mean < 80 for mean, std, n in found.values() if n > 1)


def test_its_runs_are_as_real_ones(tmp_path: Path) -> None:
    study = study_of(3, tmp_path)
    for run in map(RunFolder, sorted(path for path in study.iterdir() if path.is_dir())):
        record, trial = run.record(), run.trial()
        assert record is not None and record.fingerprint == trial.fingerprint and not record.extra
        assert record.configuration == trial.configuration
        assert record.resolved == json.loads(json.dumps(trial.identity()))
        assert not list(contradictions(record))
    assert [s.state for s in study_states(study)] == ["done"] * 3


def test_its_records_hold_all_that_a_run_knows_of_itself(tmp_path: Path) -> None:
    study = study_of(1, tmp_path)
    (folder,) = [RunFolder(path) for path in study.iterdir() if path.is_dir()]
    record = folder.record()
    real = describe(folder, folder.trial(), Runtime(workers=0), Ranks.start("cpu"))
    assert record is not None and record.formats is not None and real.formats is not None
    assert real.to_json().keys() | {"hits", "data_contents"} <= record.to_json().keys() | {"earlier"}
    known = {name for name, value in real.formats.to_json().items() if value is not None}
    assert known <= {name for name, value in record.formats.to_json().items() if value is not None}
