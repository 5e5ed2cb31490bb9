"""Writes run folders as the trainer does: real trials, real study.json, one record.json each."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from analysis.cells import study_of
from analysis.load import to_lines
from analysis.study import Run, Study
from roadmap.config.data import Data
from roadmap.config.recipe import Recipe
from roadmap.config.trial import Trial
from roadmap.ladder import find_ladder
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import FINISHED, Record
from roadmap.runs.study_folder import write_study
from roadmap.study.designs import Comparison, design
from roadmap.study.file import Plan

Values = Mapping[str, Any]


def make_trial(
    step: str, seed: int, regime: str = "micro", *, change: str = "", epochs: int = 20, **settings: Any
) -> Trial:
    ladder = find_ladder("convnext")
    base = ladder.find_regime(regime).base
    data = Data(
        name="digits", title="handwritten digits", image_size=16, num_classes=base.num_classes, in_chans=base.in_chans
    )
    # The step `recipe` changes the training, and `ema` the average, as on the ladder.
    lr, ema = 2e-3 if step == "baseline" else 1e-3, 0.99 if step in ("ema", "grn") else None
    recipe = Recipe(
        name="digits-adamw",
        source="tests",
        epochs=epochs,
        batch_size=64,
        group_size=32,
        optimizer="adamw",
        lr=lr,
        weight_decay=0.05,
        ema_decay=ema,
    )
    return Trial(
        model=ladder.model(step, regime, **settings),
        recipe=recipe,
        data=data,
        seed=seed,
        regime=regime,
        step=step,
        change=change,
    )


def make_record(trial: Trial, **values: Any) -> dict[str, Any]:
    labels = {
        "id": trial.id,
        "fingerprint": trial.fingerprint,
        "regime": trial.regime,
        "step": trial.step,
        "change": trial.change,
        "seed": trial.seed,
    }
    measured = {
        "top1": 90.0,
        "top5": 99.0,
        "loss": 0.3,
        "ema_top1": None,
        "params": 12_345,
        "macs": 2_345_678,
        "image_size": 16,
        "test_images": 1797,
        "train_images": 1000,
        "data_digest": "",
        "init": "",
        "precision": "fp32",
        "global_batch": trial.recipe.batch_size,
        "group_size": trial.recipe.group_size,
        "configuration": trial.configuration,
        "epochs": trial.recipe.epochs,
        "resolved": trial.identity(),
        "data_name": trial.data.name,
        "device_batch": trial.recipe.group_size,
        "compile": False,
        "channels_last": True,
        "packages": {"torch": "2.15.0", "timm": "1.0.31"},
        "images_per_second": 1000.0,
        "wall_seconds": 36.0,
    }
    machine = {
        "git_commit": "0123456789abcdef",
        "git_dirty": False,
        "hardware": {"device": "cpu", "cpu": "a CPU", "cores": 2, "threads": 1},
        "world_size": 1,
        "error": None,
    }
    return {
        "status": FINISHED,
        **labels,
        "data": trial.data.title,
        "recipe": trial.recipe.name,
        **measured,
        **machine,
        **values,
    }


def comparisons(trials: list[Trial], regime: str) -> list[dict[str, Any]]:
    """As a ladder's plan has them: steps with their parents, single changes with their own step."""
    planned = [c.to_json() for c in design(Plan(name="ladder", question="?", regime=regime, side_steps=True))[1]]
    changed = {(t.step, t.change) for t in trials if t.change}
    names = {key: tuple(f"model.{word.split('=')[0]}" for word in key[1].split()) for key in changed}
    return planned + [
        Comparison(child=key, parent=(key[0], ""), declared=names[key], kind="change").to_json()
        for key in sorted(changed)
    ]


def write_runs(
    out: Path,
    trials: list[Trial],
    values: Callable[[Trial], Values | None],
    *,
    regime: str = "micro",
    name: str = "ladder",
    header: Values | None = None,
) -> Path:
    """Plan all trials, write the records for which `values` returns something.

    Returns the study's folder.
    """
    folder = write_study(
        out, name, "Which steps help?", regime, trials, header=header or {"comparisons": comparisons(trials, regime)}
    )
    for trial in trials:
        measured = values(trial)
        if measured is not None:
            run = RunFolder(folder / trial.id)
            run.prepare(trial)
            run.write_record(make_record(trial, **measured))
    return folder


@dataclass(frozen=True)
class Draft:
    """A study as files hold it: what a test may change before analysis reads it.

    trials: the content of every run's record, its metrics beside the rest, as version 1 had them.
    """

    name: str
    trials: list[dict[str, Any]]
    question: str = "Which steps help?"
    regime: str = "micro"
    design: str = "ladder"
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    crossings: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    undefined: dict[str, str] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, study: Study) -> Draft:
        """The draft of a study that was read."""
        header, *contents = [json.loads(line) for line in to_lines(study).splitlines()]
        header = {**header, "name": header["study"]}
        known = {f.name: header[f.name] for f in fields(cls) if f.name in header}
        return cls(trials=[_flat(content) for content in contents], **known)

    def read(self) -> Study:
        """The study as analysis reads it."""
        header = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "trials"}
        records = [Record.from_json(copy.deepcopy(content)) for content in self.trials]
        return study_of(header, records)


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """A record as version 1 had it."""
    metrics = content.pop("metrics")
    return {**content, **metrics, "version": 1}


def runs_of(contents: Sequence[Values]) -> list[Run]:
    """Runs as analysis has them, from the content of their records."""
    return list(Draft("ladder", [dict(content) for content in contents]).read().runs)
