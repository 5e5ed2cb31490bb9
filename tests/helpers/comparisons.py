"""A small ladder with known effects, and the rows that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.load import gather
from analysis.report.caption import Caption, measured_caption
from analysis.results.analyse import analyse
from analysis.results.results import Result
from roadmap.config.trial import Trial
from roadmap.ladder import find_ladder
from tests.helpers.study_files import make_trial

LADDER = find_ladder()
NINE = "separate-downsampling"
SCATTER = (0.1, -0.1, 0.0)
PATH = [s.name for s in LADDER.order()[:6]]


def ladder_trials() -> list[Trial]:
    return [make_trial(name, seed) for name in PATH for seed in range(3)]


def shifted(trial: Trial, top: Mapping[str, float]) -> dict[str, Any]:
    return {"top1": top[trial.step] + SCATTER[(trial.seed + PATH.index(trial.step)) % 3]}


TOP = dict(zip(PATH, (80.0, 82.0, 82.0, 80.0, 80.05, 85.0), strict=True))


def table_of(folder: Path) -> tuple[dict[str, Result], Caption]:
    study = gather(folder)
    analysis = analyse(study)
    return {row.label: row for row in analysis.results}, measured_caption(study, analysis)
