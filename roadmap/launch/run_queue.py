"""The runs that wait for a slot: seeds in turn, within a turn the longest first. No torch.

A study that is not over then has every cell, and its end is not one long run beside idle slots.
What a run takes is known from a calibration, from finished runs of its configuration, those of this
launch too, and else from its multiply-adds times its images.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from roadmap.config.data import Data
from roadmap.config.model import AnySpec
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.launch.room import UNSEEN, with_margin
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, read_json
from roadmap.runs.record import FINISHED, Record
from roadmap.study.cost import Calibration, cost_key, latest, read_calibrations, settings_of
from roadmap.study.expand import images_to_train
from roadmap.study.find import STUDY_JSON

Network = tuple[AnySpec, int]  # a network and the side of its images in pixels


@dataclass(frozen=True)
class Waiting:
    """A run that waits.

    turn: how many runs of its cell go before it. configuration: of its trial. seconds, peak: its
    length and its bytes of GPU memory, where calibrated. alone: it may share no device.
    """

    folder: RunFolder
    trial: Trial
    turn: int
    configuration: str
    seconds: float | None = None
    peak: int | None = None
    alone: bool = False

    @property
    def network(self) -> Network:
        return self.trial.model, self.trial.data.image_size


@dataclass
class Known:
    """What finished runs have taken, and the size of networks and data sets."""

    seconds: dict[str, list[float]] = field(default_factory=dict)  # by configuration
    peaks: dict[tuple[str, int | None], int] = field(default_factory=dict)  # by configuration and images at a time
    macs: Mapping[Network, int] = field(default_factory=dict)
    images: Mapping[Data, int | None] = field(default_factory=dict)  # that an epoch trains on

    def learn(self, record: Record) -> None:
        """Note what a finished run has taken."""
        if record.status != FINISHED or not record.configuration:
            return
        if record.wall_seconds:
            self.seconds.setdefault(record.configuration, []).append(record.wall_seconds)
        if record.peak_memory_bytes and record.hardware.device not in (None, "cpu"):
            key = record.configuration, record.device_batch
            self.peaks[key] = max(record.peak_memory_bytes, self.peaks.get(key, 0))

    def seconds_of(self, run: Waiting) -> float | None:
        """What a run takes, None where nothing tells."""
        if run.seconds is None and (taken := self.seconds.get(run.configuration)):
            return fmean(taken)
        return run.seconds

    def work_of(self, run: Waiting) -> float:
        """Multiply-adds of a run's images; what is not known of them counts 1."""
        return float(self.macs.get(run.network, 1) * (self.images.get(run.trial.data) or 1) * run.trial.recipe.epochs)

    def lengths(self, runs: Sequence[Waiting]) -> list[float]:
        """How long each takes, in one unit: seconds as soon as any is known by them."""
        seconds, work = [self.seconds_of(run) for run in runs], [self.work_of(run) for run in runs]
        rates = [s / w for s, w in zip(seconds, work, strict=True) if s is not None]
        rate = fmean(rates) if rates else 1.0
        return [w * rate if s is None else s for s, w in zip(seconds, work, strict=True)]

    def need(self, run: Waiting, micro_batch: int | None) -> int | None:
        """Bytes of a GPU to keep for a run, None where no run and no calibration tells of any."""
        peak = self.peaks.get((run.configuration, micro_batch or run.trial.recipe.group_size), run.peak)
        if peak is None and self.peaks:
            peak = int(max(self.peaks.values()) * UNSEEN)
        return None if peak is None else with_margin(peak)


@dataclass
class RunQueue:
    """The runs that wait, and what is known of them; it learns as runs end."""

    waiting: list[Waiting]
    known: Known
    micro_batch: int | None = None

    @classmethod
    def of(cls, folders: Sequence[RunFolder], runtime: Runtime, jobs: int) -> RunQueue:
        """Prepared runs of one study. Raises RunError."""
        study = folders[0].path.parent
        calibrations = [c for c in _calibrations(study) if dict(c.settings) == settings_of(runtime)]
        timed = latest(calibrations, jobs=jobs) or latest(calibrations)
        sized = latest([c for c in calibrations if c.hardware.device != "cpu"])
        trials = [folder.trial() for folder in folders]
        turns, waiting = _turns(study, trials), []
        for folder, trial in zip(folders, trials, strict=True):
            cost = sized.costs.get(cost_key(trial)) if sized else None
            seconds, peak = timed.seconds(trial, runtime) if timed else None, cost.peak_memory if cost else None
            waiting.append(Waiting(folder, trial, turns[trial.id], trial.configuration, seconds, peak))
        known = Known(images=_images((w.trial for w in waiting), runtime.data_dir))
        for record in _records(study):
            known.learn(record)
        return cls(waiting, known, runtime.micro_batch)

    def __len__(self) -> int:
        return len(self.waiting)

    def uncounted(self) -> tuple[Network, ...]:
        """The networks whose multiply-adds the order depends on: none where all lengths are known."""
        if all(self.known.seconds_of(run) is not None for run in self.waiting):
            return ()
        return tuple(dict.fromkeys(run.network for run in self.waiting))

    def first(self) -> Waiting | None:
        """The run that goes next: by turn and length, those that must be alone after all others."""
        lengths = self.known.lengths(self.waiting)
        ranked = zip(self.waiting, lengths, strict=True)
        return min(ranked, key=lambda of: (of[0].alone, of[0].turn, -of[1]), default=(None, 0.0))[0]

    def need(self, run: Waiting) -> int | None:
        """Bytes of a GPU to keep for it, None where nothing tells."""
        return self.known.need(run, self.micro_batch)

    def take(self, run: Waiting) -> None:
        """It waits no more."""
        self.waiting.remove(run)

    def put_back(self, run: Waiting) -> None:
        """To be trained once more, alone on its device."""
        self.waiting.append(replace(run, alone=True))


def _turns(study: Path, trials: Iterable[Trial]) -> dict[str, int]:
    """How many of its cell's runs are planned before each run, those that have ended included."""
    planned = (read_json(study / STUDY_JSON) or {"trials": []})["trials"]
    cells = {t["id"]: (t["step"], t["change"]) for t in planned} | {t.id: (t.step, t.change) for t in trials}
    before: Counter[object] = Counter()
    turns = {}
    for run, cell in cells.items():
        turns[run] = before[cell]
        before[cell] += 1
    return turns


def _calibrations(study: Path) -> list[Calibration]:
    """Those of a study; none where the file is damaged: an order of runs is no reason to stop."""
    with contextlib.suppress(RunError):
        return read_calibrations(study)
    return []


def _records(study: Path) -> Iterator[Record]:
    """Those of a study's runs, but for damaged ones."""
    for path in study.glob("*/record.json"):
        with contextlib.suppress(RunError):
            if record := RunFolder(path.parent).record():
                yield record


def _images(trials: Iterable[Trial], data_dir: Path | None) -> dict[Data, int | None]:
    """The images that an epoch of each data set trains on."""
    found: dict[Data, int | None] = {}
    for trial in trials:
        if trial.data not in found:
            images = images_to_train(trial, data_dir=data_dir)
            found[trial.data] = images // trial.recipe.epochs if images else None
    return found
