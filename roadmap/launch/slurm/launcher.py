"""Slurm as a launcher: arrays of jobs that requeue themselves.

No torch; submitit only where something is submitted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from roadmap.config.runtime import Runtime
from roadmap.launch.base import MAX_AGE, JobReport, Launched, Launcher, Preview
from roadmap.launch.prepared import Launch
from roadmap.launch.resources import Resources
from roadmap.launch.slurm import preemption_test, reports, submit
from roadmap.launch.slurm.queue import Cluster, SlurmError
from roadmap.launch.slurm.resources import SlurmResources, resources
from roadmap.runs.changes import EACH_TIME, Files
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import read_json


class SlurmLauncher(Launcher):
    """Submits to the Slurm cluster of this machine and returns."""

    name = "slurm"

    def __init__(self) -> None:
        self._cluster: Cluster | None = None

    def launch(
        self, study: Path, runs: Sequence[RunFolder], runtime: Runtime, resources: Resources, *, code: Path
    ) -> Sequence[Launched]:
        """Submit the runs in arrays that the cluster accepts."""
        size = self._known_cluster().max_array
        done = submit.submit(study, runs, _of_slurm(resources), runtime, code=code, max_array=size)
        self._forget_queue(study)
        return [_launched(s) for s in done]

    def where(
        self,
        study: Path,
        runs: Sequence[str],
        *,
        finished: Collection[str] = (),
        max_age: float = MAX_AGE,
        files: Files = EACH_TIME,
    ) -> Mapping[str, JobReport]:
        """One squeue and one sacct for all jobs, at most every `max_age` seconds."""
        if not (study / "slurm").exists():
            return {}
        return reports.job_reports(study, runs, finished=finished, max_age=max_age, files=files)

    def resources(
        self, given: Mapping[str, object], *, profile: str | None = None, offline: bool = False
    ) -> SlurmResources:
        """The options over the profile. `offline`: a script can be shown where there is no cluster."""
        try:
            name = self._known_cluster().name
        except SlurmError:
            if not offline:
                raise
            name = None
        return resources(given, profile=profile, cluster=name)

    def stored_resources(self, values: Mapping[str, Any]) -> SlurmResources:
        """Those of a submission."""
        return SlurmResources.from_json(values)

    def last_launch(self, run: RunFolder) -> Launch | None:
        """What the run was last launched with; older folders have it in two files of Slurm's."""
        launch = super().last_launch(run)
        earlier = read_json(run.path / "slurm.json") if launch is None else None
        if earlier is None:
            return launch
        submission = read_json(run.path.parent / "slurm" / earlier["submission"] / "submission.json") or {}
        return Launch(
            launcher=self.name,
            runtime=Runtime.from_json(earlier["machine"]),
            resources=submission.get("resources", {}),
            submission=earlier["submission"],
        )

    def preview(self, study: Path, count: int, resources: Resources, *, code: Path) -> Preview:
        """The script of the first array, and what the cluster says to it."""
        size = self._cluster.max_array if self._cluster else count
        script = submit.script(study, min(count, size), _of_slurm(resources), code)
        return Preview(script=script, estimate=submit.start_estimate(script) if self._cluster else "")

    @contextlib.contextmanager
    def exclusive(self, study: Path) -> Iterator[None]:
        """One submitter at a time, in folders that nobody else can write to."""
        for folder in (study, study / self.name):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            submit.refuse_shared(folder)
        with super().exclusive(study):
            yield

    def recover(self, study: Path) -> Sequence[str]:
        """Find the jobs of submissions whose submitter died before it noted them."""
        adopted = submit.adopt(study)
        jobs = {s.id: s.job for s in submit.submissions(study)}
        return [
            f"job {jobs[s.id]} of an earlier submission, whose submitter died, is found again: {len(s.trials)} runs"
            for s in adopted
        ]

    def cancel(self, study: Path, jobs: Mapping[RunFolder, str]) -> None:
        """Cancel these jobs, so that they do not requeue themselves either."""
        submit.cancel(jobs)
        self._forget_queue(study)

    def preemption_test(self, run: RunFolder, job: str, *, wait: float, signal_name: str) -> int:
        """Send the job the signal of a preemption, and see it resume."""
        return preemption_test.preemption_test(run, job, wait=wait, signal_name=signal_name)

    def _known_cluster(self) -> Cluster:
        """The cluster, asked once. Raises SlurmError."""
        if self._cluster is None:
            self._cluster = Cluster.here()
        return self._cluster

    def _forget_queue(self, study: Path) -> None:
        """The next question shall see what was just done."""
        (study / self.name / reports.QUEUE).unlink(missing_ok=True)


def _of_slurm(shape: Resources) -> SlurmResources:
    """These resources, with Slurm's own options at their defaults where another launcher made them."""
    return shape if isinstance(shape, SlurmResources) else SlurmResources(**dict(shape))


def _launched(s: submit.Submission) -> Launched:
    kind = "job" if s.single else "array"
    return Launched(runs=s.trials, job=s.job, text=f"submitted {len(s.trials)} runs as {kind} {s.job}")
