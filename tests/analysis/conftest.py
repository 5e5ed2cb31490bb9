from __future__ import annotations

from pathlib import Path

import pytest

from roadmap.config.trial import Trial
from roadmap.ladder import find_ladder
from tests.helpers.page_samples import ATTRIBUTION, Sample, sample
from tests.helpers.study_files import make_trial, write_runs

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


@pytest.fixture(scope="session")
def reference() -> Path:
    return REFERENCE


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    """The whole micro ladder with side steps, three seeds, one diverged run, one that failed, one
    without a record, and a single change.
    """
    trials = [make_trial(s.name, seed) for s in find_ladder().order(side_steps=True) for seed in range(3)]
    trials += [make_trial("separate-downsampling", seed, change="kernel_size=3", kernel_size=3) for seed in range(3)]
    names = [s.name for s in find_ladder().order(side_steps=True)]

    def values(trial: Trial) -> dict[str, object] | None:
        if (trial.step, trial.seed) == ("gelu", 2):
            return None
        if (trial.step, trial.seed) == ("width", 1):
            return {
                "status": "diverged",
                "top1": 10.0,
                "loss": float("nan"),
                "error": "loss is nan | epoch 3\nsee the log",
            }
        if (trial.step, trial.seed) == ("kernel-11", 0):
            return {"status": "failed", "top1": None, "params": None, "macs": None, "error": "out of memory"}
        return {
            "top1": 80 + 0.5 * names.index(trial.step) + (0.3, -0.2, 0.05)[trial.seed] + (1.0 if trial.change else 0.0)
        }

    return write_runs(tmp_path / "runs", trials, values)


@pytest.fixture(scope="session")
def whole() -> Sample:
    """A study with everything that a page shows."""
    return sample()


@pytest.fixture(scope="session")
def html(whole: Sample) -> str:
    """Its page."""
    return whole.page(ATTRIBUTION)
