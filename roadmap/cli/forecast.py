"""How long a study's runs will take: from calibrations, else from what finished runs took, else from a stated rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from roadmap.api import Study
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import FINISHED
from roadmap.study.cost import Calibration, latest, read_calibrations
from roadmap.study.expand import images_to_train

# This machine -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How long each run of a study would take, None where nothing tells, and what it is known from.

    jobs: runs side by side.
    """

    study: str
    seconds: Mapping[str, float | None]
    calibration: Calibration | None
    jobs: int

    @classmethod
    def of(cls, study: Study, jobs: int | None) -> Forecast:
        """From the latest calibration (of `jobs` where given), and from finished runs of what it does not hold."""
        calibration = latest(read_calibrations(study.folder), jobs=jobs)
        took = _taken(study.run_folders)
        seconds = {t.id: _seconds(t, calibration, took) for t in study.trials}
        usual = calibration.jobs if calibration else 1
        return cls(study=study.name, seconds=seconds, calibration=calibration, jobs=jobs or usual)

    @property
    def source(self) -> str:
        """Where the times are from, and how to get what is missing."""
        lines = []
        if self.calibration:
            lines.append(self.calibration.source)
        if None in self.seconds.values():
            jobs = f" --jobs {self.jobs}" if self.jobs > 1 else ""
            lines.append(f"not calibrated: roadmap calibrate {self.study}{jobs}")
        elif not self.calibration:
            lines.append("times are those of finished runs of the same configuration")
        return "\n".join(lines)

    def time_left(self, runs: Sequence[str]) -> str:
        """The sum over these runs, when the last of them would end, and of how many nothing is known."""
        known = [seconds for run in runs if (seconds := self.seconds[run]) is not None]
        if runs and not known:
            return "unknown"
        unknown = len(runs) - len(known)
        more = f", and {unknown} of unknown length" if unknown else ""
        total = f"{sum(known) / 60:.1f} minutes of one process{more}"
        if not self.calibration or not known:
            return total
        side_by_side = f" with --jobs {self.jobs}" if self.jobs > 1 else ""
        return f"{total}; {self.calibration.elapsed(known, self.jobs) / 60:.1f} minutes in all{side_by_side}"


def _taken(folders: Iterable[RunFolder], *, of_all_ranks: bool = False) -> Mapping[str, float]:
    """Mean wall seconds of the finished runs of each configuration, whatever their seed; or summed over their ranks."""
    taken: dict[str, list[float]] = {}
    for record in filter(None, (folder.record() for folder in folders)):
        if record.status == FINISHED and record.configuration and record.wall_seconds:
            ranks = record.world_size or 1 if of_all_ranks else 1
            taken.setdefault(record.configuration, []).append(record.wall_seconds * ranks)
    return {configuration: fmean(seconds) for configuration, seconds in taken.items()}


def _seconds(trial: Trial, calibration: Calibration | None, taken: Mapping[str, float]) -> float | None:
    """How long a run takes: as calibrated, else as a finished run of its configuration took."""
    calibrated = calibration.seconds(trial, Runtime()) if calibration else None
    return taken.get(trial.configuration) if calibrated is None else calibrated


# A cluster ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GpuHours:
    """What GPU-hours are known from.

    taken: seconds of all GPUs by configuration. images_per_second: of one GPU, as stated, where
    nothing is measured. data_dir: where a folder's images are counted.
    """

    calibration: Calibration | None = None
    taken: Mapping[str, float]
    images_per_second: float | None = None
    data_dir: Path | None = None

    @classmethod
    def of(
        cls,
        folder: Path,
        trials: Sequence[Trial],
        *,
        on_gpus: bool,
        images_per_second: float | None,
        data_dir: Path | None,
    ) -> GpuHours:
        """Those of a study's folder; with `on_gpus` a CPU's calibration tells nothing."""
        found = [c for c in read_calibrations(folder) if not on_gpus or c.hardware.device != "cpu"]
        return cls(
            calibration=latest(found, jobs=1) or latest(found),  # a job has its GPUs to itself
            taken=_taken([RunFolder(folder / trial.id) for trial in trials], of_all_ranks=True),
            images_per_second=images_per_second,
            data_dir=data_dir,
        )

    def hours(self, trial: Trial, ranks: int) -> float | None:
        """GPU-hours of a run on so many ranks: as calibrated, else as taken, else images over the stated rate."""
        seconds = self.calibration.seconds(trial, Runtime(), ranks=ranks) if self.calibration else None
        if seconds is not None:
            return seconds * ranks / 3600
        if trial.configuration in self.taken:
            return self.taken[trial.configuration] / 3600
        images = images_to_train(trial, data_dir=self.data_dir) if self.images_per_second else None
        return images / self.images_per_second / 3600 if images and self.images_per_second else None

    @property
    def source(self) -> str:
        """The line that says on what they were measured; empty without a calibration."""
        return self.calibration.source if self.calibration else ""
