"""What a run will take: the cost of each part of it, as measured, times how much of it the run does. No torch.

`roadmap calibrate` measures a study's networks on one machine and writes <study>/calibration.json;
`roadmap plan` predicts from it, and a launch notes what it predicts in <study>/prediction.json,
which the report holds against what the runs took. Both files are measurements, not results: no
record depends on them.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pydantic

from roadmap.config.fields import plain
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.runs.io import RunError, read_json, write_json
from roadmap.runs.record import Hardware

CALIBRATION, PREDICTION = "calibration.json", "prediction.json"
TRAIN, VALIDATION, TEST = "train", "validation", "test"

# Fields of a recipe that change no iteration's time. Any other, a later one too, is taken to change it.
_NO_COST_OF_ITS_OWN = frozenset(
    {
        "name",
        "source",
        "expected",
        "epochs",
        "lr",
        "weight_decay",
        "decay_1d",
        "momentum",
        "beta1",
        "beta2",
        "schedule",
        "warmup_epochs",
        "min_lr",
        "decay_epochs",
        "decay_rate",
        "label_smoothing",
        "layer_decay",
        "accuracy",
    }
)
# Settings of a machine that change no part's time: where files lie, how often what is done, whether a
# run may end early; threads and device are a part of the hardware. Any other, a later one too, is
# taken to change it.
_NO_COST_OF_THEIR_OWN = frozenset(
    {
        "data_dir",
        "download",
        "init",
        "checkpoint_every",
        "checkpoint_minutes",
        "eval_every",
        "stop_hopeless",
        "threads",
        "device",
    }
)

# By name in a file, as records have it: pydantic alone would write a list.
NamedHardware = Annotated[
    Hardware, pydantic.PlainSerializer(Hardware.to_json), pydantic.BeforeValidator(Hardware.from_json)
]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run does, counted.

    trained: images passed forward and backward. evaluations: of each split. checkpoints: written.
    """

    trained: int
    evaluations: Mapping[str, int]
    checkpoints: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of each part of a run, and the memory it takes; all but the first three are of a rank.

    start: from the attempt's begin until iterations pass at their usual rate. image: of training, of
    which `waiting_share` is spent waiting for data. first_evaluation, evaluation: of a split, whole,
    the first time and each time after. checkpoint: that training stands still for one. end: after
    the last evaluation. images: in each split. peak_memory: bytes.
    """

    start: float
    image: float
    waiting_share: float
    first_evaluation: Mapping[str, float]
    evaluation: Mapping[str, float]
    checkpoint: float
    end: float
    images: Mapping[str, int]
    peak_memory: int

    def seconds(self, work: Work) -> float:
        """Wall time of a run that does this work, once its process is ready."""
        fixed = self.start + self.end + work.checkpoints * self.checkpoint
        evaluations = [self._evaluations(split, times) for split, times in work.evaluations.items()]
        return fixed + work.trained * self.image + sum(evaluations)

    def _evaluations(self, split: str, times: int) -> float:
        return self.first_evaluation[split] + (times - 1) * self.evaluation[split] if times else 0.0

    def on_ranks(self, ranks: float) -> Cost:
        """The cost where `ranks` times as many ranks share images, at no cost of communication."""
        return replace(
            self,
            image=self.image / ranks,
            first_evaluation={split: seconds / ranks for split, seconds in self.first_evaluation.items()},
            evaluation={split: seconds / ranks for split, seconds in self.evaluation.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The costs of a study's networks on one machine, run in one way.

    jobs: runs side by side. ranks: of each run. settings: of the machine, by the names of Runtime's
    fields. iterations: timed of each. process: seconds until a process is ready for its first run.
    costs: by `cost_key`.
    """

    hardware: NamedHardware
    jobs: int
    ranks: int
    settings: Mapping[str, Any]
    iterations: int
    measured_at: str
    process: float
    costs: Mapping[str, Cost]

    def seconds(self, trial: Trial, runtime: Runtime, *, ranks: int | None = None) -> float | None:
        """Wall time of a trial's run, on as many ranks as were measured or on `ranks`; None where not measured."""
        cost = self.costs.get(cost_key(trial))
        if cost is None:
            return None
        return cost.on_ranks((ranks or self.ranks) / self.ranks).seconds(work_of(trial, cost.images, runtime))

    def elapsed(self, runs: Sequence[float], jobs: int | None = None) -> float:
        """Seconds until all of these runs have ended, each in the first of `jobs` processes that is free."""
        ends = [self.process] * min(jobs or self.jobs, len(runs))
        for seconds in runs:
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends, default=0.0)

    @property
    def where(self) -> str:
        """Where and how it was measured, in words."""
        hardware = self.hardware
        device = hardware.cpu if hardware.device == "cpu" else hardware.device
        ranks = f"{self.ranks} ranks" if self.ranks > 1 else ""
        side_by_side = f"{self.jobs} runs side by side" if self.jobs > 1 else ""
        threads = f"{hardware.threads} threads each" if side_by_side else f"{hardware.threads} threads"
        return ", ".join(filter(None, [str(device), f"{hardware.cores} cores", ranks, side_by_side, threads]))

    @property
    def source(self) -> str:
        """The line below what is predicted from it."""
        return f"measured on {self.where}; {self.iterations} iterations of each network, {self.measured_at[:10]}"

    def is_of(self, jobs: int, runtime: Runtime) -> bool:
        """Whether runs started in this way cost what was measured."""
        return self.jobs == jobs and dict(self.settings) == settings_of(runtime)


def cost_key(trial: Trial) -> str:
    """What a trial's cost depends on, as a digest: network, images, and what of the recipe costs time."""
    parts = trial.identity()
    recipe = {name: value for name, value in parts["recipe"].items() if name not in _NO_COST_OF_ITS_OWN}
    content = {"model": parts["model"], "recipe": recipe, "data": parts["data"]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def settings_of(runtime: Runtime) -> dict[str, Any]:
    """The settings of a machine that a cost depends on."""
    return {name: value for name, value in plain(runtime).items() if name not in _NO_COST_OF_THEIR_OWN}


def work_of(trial: Trial, images: Mapping[str, int], runtime: Runtime) -> Work:
    """What a run of the trial does on splits of so many images, from its first iteration to its record.

    Of a recipe that reports the best epoch it is the most: each epoch may be the best so far.
    Checkpoints by time are left out: minutes apart, they add less than can be predicted.
    """
    recipe, epochs = trial.recipe, range(1, trial.recipe.epochs + 1)
    per_epoch = images[TRAIN] // recipe.batch_size
    watched = sum(runtime.evaluates(epoch, recipe.epochs) for epoch in epochs)
    evaluations = {VALIDATION: 0, TEST: watched}
    if images[VALIDATION]:
        evaluations = {VALIDATION: watched, TEST: recipe.epochs if recipe.accuracy == "best" else 1}
    return Work(
        trained=recipe.epochs * per_epoch * recipe.batch_size,
        evaluations=evaluations,
        checkpoints=sum(runtime.saves(epoch, recipe.epochs) for epoch in epochs),
    )


def distinct(trials: Iterable[Trial]) -> dict[str, Trial]:
    """The first trial of each cost, by `cost_key`."""
    found: dict[str, Trial] = {}
    for trial in trials:
        found.setdefault(cost_key(trial), trial)
    return found


# calibration.json ---------------------------------------------------------------------------------

_CALIBRATIONS = pydantic.TypeAdapter(list[Calibration])


def read_calibrations(folder: Path) -> list[Calibration]:
    """The calibrations of a study, oldest first; none where it has none. Raises RunError on a damaged file."""
    path = folder / CALIBRATION
    try:
        return _CALIBRATIONS.validate_python(read_json(path) or [])
    except pydantic.ValidationError as e:
        where = ".".join(map(str, e.errors()[0]["loc"]))
        raise RunError(
            f"{path} is no calibration ({where}: {e.errors()[0]['msg']}); legal: what `roadmap calibrate` wrote; "
            "remove it and calibrate again"
        ) from e


def add_calibration(folder: Path, new: Calibration) -> Path:
    """Write it as the latest; one of the same machine run in the same way is replaced, but for costs it alone has."""
    kept = []
    for old in read_calibrations(folder):
        if _manner(old) == _manner(new):
            new = replace(new, costs={**old.costs, **new.costs})
        else:
            kept.append(old)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(folder / CALIBRATION, _CALIBRATIONS.dump_python([*kept, new], mode="json"))
    return folder / CALIBRATION


def _manner(calibration: Calibration) -> tuple[Any, ...]:
    return calibration.hardware, calibration.jobs, calibration.ranks, dict(calibration.settings)


def latest(calibrations: Sequence[Calibration], *, jobs: int | None = None) -> Calibration | None:
    """The latest calibration, of those of `jobs` runs side by side where that is given."""
    return next((c for c in reversed(calibrations) if jobs in (None, c.jobs)), None)


# prediction.json ----------------------------------------------------------------------------------


def note_prediction(
    folder: Path, trials: Sequence[Trial], runtime: Runtime, *, jobs: int = 1, ranks: int = 1
) -> float | None:
    """Note what runs that are about to start will take, where a calibration tells.

    jobs: runs side by side. ranks: of each run. Returns the seconds until all have ended, None where
    that is not known. A run that has been started before keeps its first prediction, for its record
    counts the time since then.
    """
    matching = [c for c in read_calibrations(folder) if c.is_of(jobs, runtime)]
    calibration = latest(matching)
    if calibration is None:
        return None
    asked = {trial.id: calibration.seconds(trial, runtime, ranks=ranks) for trial in trials}
    known = {run: seconds for run, seconds in asked.items() if seconds is not None}
    launches: list[dict[str, Any]] = read_json(folder / PREDICTION) or []
    begun = {run for launch in launches for run in launch["seconds"] if (folder / run / "attempts.jsonl").exists()}
    new = {run: round(seconds, 3) for run, seconds in known.items() if run not in begun}
    if new:
        measured = {"where": calibration.where, "iterations": calibration.iterations}
        write_json(folder / PREDICTION, [*launches, {**measured, "jobs": jobs, "seconds": new}])
    return calibration.elapsed(list(known.values())) if len(known) == len(asked) else None
