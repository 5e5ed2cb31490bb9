"""The notebook interface: a study with its trials, runs, comparisons and figure.

The command line is a thin layer over it.

>>> import roadmap
>>> study = roadmap.Study.from_file("kernel", digits=True)  # a study that ships, or a path
>>> study.run(jobs=2)  # trains what is not finished, and returns the runs as a DataFrame
>>> study.compare()  # one row a comparison: effect, interval, verdict
>>> study.ladder_figure()  # a matplotlib Figure, which a notebook shows
>>> study.report()  # tables, figures and page, in runs/kernel-digits/report/

What was measured before, on this machine or another, is read by its name or folder:

>>> roadmap.load_runs("results/digits")
>>> roadmap.compare("digits")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.launch.local import Jobs, LocalLauncher, slots_for
from roadmap.launch.preflight import (
    initial_weights,
    recorded_runs,
    refuse_before_training,
    refuse_other_threads,
    threads_here,
    with_usual_threads,
)
from roadmap.launch.resources import Resources
from roadmap.launch.selection import seeds_in_turn
from roadmap.launch.snapshot import live_code
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError
from roadmap.runs.record import SETTLED, Record
from roadmap.runs.study_folder import study_folder, write_study
from roadmap.study.cost import note_prediction
from roadmap.study.expand import Study as Content
from roadmap.study.expand import expand
from roadmap.study.file import read_plan
from roadmap.study.find import RUNS, STUDY_JSON, find_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from roadmap.runs.metric import Metric

TOP1 = "top1"
REPORT = "report"  # the folder of a study's report, beside its run folders

Finished = Callable[[RunFolder, Record], None]


def _ignore(folder: RunFolder, record: Record) -> None:
    """Take note of nothing when a run has ended."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, the trials that answer it, and what their runs have left below `root`.

    >>> study = Study.from_file("digits")
    >>> len(study.trials), study.question
    >>> study.runs.groupby("step")["top1"].mean()
    """

    content: Content
    root: Path = RUNS

    @classmethod
    def from_file(
        cls, study: str | Path, *, digits: bool = False, data_dir: Path | None = None, runs: str | Path = RUNS
    ) -> Study:
        """Read a study file, by its path or by the name of one that ships.

        `digits`: at the size that the file says for the embedded digits. `data_dir`: where the data
        set lies. `runs`: where run folders are and go. Raises RoadmapError with every fault of the
        file.

        >>> Study.from_file("kernel", digits=True).name
        'kernel-digits'
        """
        found = find_study(study, Path(runs))
        plan = read_plan(found.study_file(), digits=digits or found.digits)
        return cls(content=expand(plan, data_dir=data_dir), root=Path(runs))

    @property
    def name(self) -> str:
        return self.content.name

    @property
    def question(self) -> str:
        return self.content.question

    @property
    def trials(self) -> Sequence[Trial]:
        """The planned trials: every cell times every seed."""
        return self.content.trials

    @property
    def undefined(self) -> Mapping[str, str]:
        """The planned cells that cannot be built, and why."""
        return self.content.undefined

    @property
    def folder(self) -> Path:
        """The folder of the run folders."""
        return study_folder(self.root, self.name)

    @property
    def run_folders(self) -> list[RunFolder]:
        """The run folder of each trial, in order."""
        return [RunFolder(self.folder / trial.id) for trial in self.trials]

    def unfinished(self, *, force: bool = False) -> list[RunFolder]:
        """The runs that are left to train, in the order in which they go; with `force` all.

        The first seed of each cell comes first. What `--stop-hopeless` ended is not left.
        """
        trials = seeds_in_turn(self.trials, lambda trial: (trial.step, trial.change))
        runs = [RunFolder(self.folder / trial.id) for trial in trials]
        return [run for run in runs if force or not _settled(run)]

    def run(
        self,
        *,
        jobs: Jobs = 1,
        force: bool = False,
        runtime: Runtime | None = None,
        finished: Finished = _ignore,
    ) -> DataFrame:
        """Train what is not finished on this machine, and return all runs as `load` does.

        `jobs`: runs side by side, "auto" for as many as the machine has cores or its GPUs have
        memory for. `force`: train finished trials again; what they left is kept.
        `runtime`: data folder, device, loader processes. `finished` is called with each run's
        folder and record as it ends. Raises RoadmapError before training where a trial cannot be
        trained here.

        >>> study.run(jobs=2, runtime=Runtime(data_dir=Path("photos")))
        """
        runtime = runtime or Runtime()
        self.prepare(runtime)
        self.train(runtime, jobs=jobs, force=force, finished=finished)
        return self.load()

    def train(
        self, runtime: Runtime, *, jobs: Jobs = 1, force: bool = False, finished: Finished = _ignore
    ) -> float | None:
        """Train what is not finished, once it is prepared, and load nothing.

        Returns the seconds that this was predicted to take, None where no calibration told, or where
        a run goes on from where it stopped: whole runs are predicted, not what is left of one.
        """
        runtime = initial_weights(self.content, runtime)
        todo = self.unfinished(force=force)
        if not todo:
            return None
        at_once = slots_for(jobs, runtime) if len(self.trials) > 1 else 1
        if not force:
            runtime = with_usual_threads(self.name, runtime, recorded_runs(self.folder), jobs=at_once)
        threads = threads_here(runtime, jobs=at_once)
        refuse_other_threads(self.name, recorded_runs(self.folder), todo, threads, force=force)
        left = {run.path.name for run in todo}
        trials = [trial for trial in self.trials if trial.id in left]
        ranks = int(os.environ.get("WORLD_SIZE", 1))
        whole = force or not any((run.path / "attempts.jsonl").exists() for run in todo)
        predicted = note_prediction(self.folder, trials, runtime, jobs=at_once, ranks=ranks)
        launcher = LocalLauncher(jobs=jobs if at_once > 1 else 1, force=force, finished=finished)
        launcher.launch(self.folder, todo, runtime, Resources(), code=live_code())
        return predicted if whole else None

    def prepare(self, runtime: Runtime) -> None:
        """Refuse what cannot be trained here, then write study.json and each run's trial.json."""
        content = self.content
        refuse_before_training(content, initial_weights(content, runtime))
        write_study(self.root, self.name, self.question, content.regime, content.trials, header=content.header())
        for run, trial in zip(self.run_folders, self.trials, strict=True):
            run.prepare(trial)

    def load(self) -> DataFrame:
        """One row a planned run, with its record's values where it has left one.

        >>> study.load()[["step", "seed", "status", "top1"]]
        """
        return load_runs(self._trained())

    @property
    def runs(self) -> DataFrame:
        """The same as `load()`."""
        return self.load()

    def compare(self, *, metric: str = TOP1) -> DataFrame:
        """One row a comparison: child, parent, effect with its interval, p value, verdict.

        See `roadmap.compare`.
        """
        return compare(self._trained(), metric=metric)

    def ladder_figure(self, *, metric: str = TOP1) -> Figure:
        """The study's cells as bars with their spread, changes and costs.

        See `roadmap.ladder_figure`.
        """
        return ladder_figure(self._trained(), metric=metric)

    def report(self, out: str | Path | None = None, *, metric: str = TOP1) -> list[Path]:
        """Write tables, figures, attribution and page; returns the files.

        Into runs/<study>/report/ unless `out` is given.
        """
        from analysis.report.report import report_study

        folder = Path(out) if out is not None else self.folder / REPORT
        return report_study(self._trained(), folder, metric=find_metric(metric))

    def _trained(self) -> Path:
        """The folder of the run folders. Raises RunError where nothing has been run."""
        if (self.folder / STUDY_JSON).exists():
            return self.folder
        raise RunError(
            f"study {self.name!r} has no run folders in {self.folder}; legal: a study that was run; "
            "train it with `Study.run`, or give from_file the folder of its runs"
        )


def _settled(run: RunFolder) -> bool:
    record = run.record()
    return record is not None and record.status in SETTLED


def load_runs(study: str | Path, *, runs: str | Path = RUNS) -> DataFrame:
    """A study's runs as one tidy table: a row a planned run, a column a value of its record.

    `study`: a name, a folder of runs or of committed results, or a study file. `status` is
    "missing" where a run has left no record. Raises RoadmapError where there is no such study.

    >>> roadmap.load_runs("results/digits").query("status == 'finished'")["top1"].describe()
    """
    from analysis import load

    return load.load_runs(find_study(study, Path(runs)).records_folder())


def compare(study: str | Path, *, metric: str = TOP1, runs: str | Path = RUNS) -> DataFrame:
    """The comparisons of a study: a row for each cell that is measured against another.

    child, parent: the cells. effect: the child's mean minus the parent's, in the metric's unit,
    with the bounds `low` and `high` of its 95 % interval. p, p_holm: before and after Holm's
    correction. verdict: gain, loss, unresolved, ... status: controlled, confounded or unproven.
    None where runs are missing. Raises RoadmapError where there is no such study.

    >>> roadmap.compare("digits").query("verdict == 'gain'")
    """
    import pandas

    from analysis.load import open_study
    from analysis.results.frames import comparisons_frame

    asked = find_metric(metric)
    source = open_study(find_study(study, Path(runs)).records_folder())
    frames = [comparisons_frame(source, asked, regime) for regime in source.regimes]
    return pandas.concat(frames, ignore_index=True)


def ladder_figure(study: str | Path, *, metric: str = TOP1, runs: str | Path = RUNS, regime: str = "") -> Figure:
    """The means of a study's cells as bars, with spread, changes and costs, for a notebook to show.

    Raises RoadmapError where there is no such study.

    >>> roadmap.ladder_figure("digits").savefig("ladder.pdf")
    """
    from analysis.figures import ladder
    from analysis.load import open_study
    from analysis.report.caption import measured_caption
    from analysis.results.analyse import analyse

    source = open_study(find_study(study, Path(runs)).records_folder())
    analysis = analyse(source, find_metric(metric), regime)
    caption = measured_caption(source, analysis)
    return ladder.ladder_figure(analysis, title=caption.title, subtitle=caption.short)


def find_metric(name: str) -> Metric:
    """The metric of that name. Raises ConfigError with the legal names."""
    from roadmap.runs import metric

    return metric.find_metric(name)
