"""Launched studies, made by hand: trials, a submission, a Slurm that knows jobs; waiting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.recipes import find_recipe
from roadmap.config.trial import Trial
from roadmap.data.registry import resolve_data
from roadmap.launch.slurm import queue
from roadmap.launch.slurm.queue import Seen
from roadmap.launch.slurm.resources import SlurmResources
from roadmap.launch.status import RunState, study_states
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import write_json
from roadmap.runs.study_folder import write_study
from tests.helpers.convnext import resolve


def eventually(what: Callable[[], Any], seconds: float = 120) -> Any:
    """The first true value of `what`, asked again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def make_trial(seed: int = 0, step: str = "inverted-bottleneck", **recipe: Any) -> Trial:
    """A trial of the micro regime on digits, with these fields of its recipe replaced."""
    return Trial(
        model=resolve(step, "micro", num_classes=10, in_chans=1),
        recipe=replace(find_recipe("digits-adamw"), **recipe),
        data=resolve_data("digits"),
        seed=seed,
        regime="micro",
        step=step,
    )


def make_study(out: Path, seeds: int = 3) -> Path:
    """A study of one step with prepared runs, below `out`."""
    trials = [make_trial(s) for s in range(seeds)]
    folder = write_study(out, "study", "?", "micro", trials)
    for t in trials:
        RunFolder(folder / t.id).prepare(t)
    return folder


def submitted(study: Path, job: str | None, *, name: str = "261120-120000-abcdef") -> Path:
    """Note all trials of a study as submitted to Slurm; returns the submission's folder."""
    folder = study / "slurm" / name
    folder.mkdir(parents=True, mode=0o700)
    trials = [t["id"] for t in json.loads((study / "study.json").read_text())["trials"]]
    content = {"trials": trials, "job": job, "resources": SlurmResources().to_json(), "code": "x", "time": 0}
    write_json(folder / "submission.json", content)
    return folder


def knows(monkeypatch: pytest.MonkeyPatch, *jobs: Seen) -> list[int]:
    """A Slurm that knows these jobs; returns a list that grows each time it is asked."""
    asked: list[int] = []

    def live_jobs() -> dict[str, Seen]:
        asked.append(1)
        return {j.job: j for j in jobs}

    def past_jobs(ids: object = (), names: object = ()) -> dict[str, Seen]:
        return {}

    monkeypatch.setattr(queue, "live_jobs", live_jobs)
    monkeypatch.setattr(queue, "past_jobs", past_jobs)
    return asked


def state(study: Path, number: int = 0, **kwargs: Any) -> RunState:
    """The state of one of a study's runs."""
    return study_states(study, **kwargs)[number]
