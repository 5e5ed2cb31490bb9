"""What Slurm, a run's events and its job's log say of the run's latest job. No torch, no submitit."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadmap.launch.base import JobReport, Phase, State
from roadmap.launch.slurm.job import CANCELLED, JOBS
from roadmap.launch.slurm.queue import Seen, jobs_of
from roadmap.launch.slurm.submit import Submission, latest_jobs
from roadmap.runs.changes import EACH_TIME, Files
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import read_lines

QUEUE = "queue.json"  # below <study>/slurm: Slurm's last answer
ENDED_AS = {
    "CANCELLED": State.CANCELLED,
    "TIMEOUT": State.TIMED_OUT,
    "DEADLINE": State.TIMED_OUT,
    "OUT_OF_MEMORY": State.OUT_OF_MEMORY,
    "NODE_FAIL": State.LOST,
    "PREEMPTED": State.LOST,
    "FAILED": State.FAILED,
    "BOOT_FAIL": State.FAILED,
    "COMPLETED": State.LOST,
}
REASONS = {
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "preempted and not requeued",
    "COMPLETED": "ended without a record",
}
# What slurmstepd and the kernel write into a job's log; the only witness where accounting is off.
IN_LOG = (
    (("memory limit", "oom-kill", "oom_kill", "Out Of Memory", "out-of-memory"), State.OUT_OF_MEMORY),
    (("DUE TO TIME LIMIT",), State.TIMED_OUT),
    (("DUE TO NODE FAILURE",), State.LOST),
    (("CANCELLED AT",), State.CANCELLED),
)
CAUSES = ("Killed", "Error", "error:", "Exited with", "Segmentation")  # in a log's line that tells why a process ended


@dataclass(frozen=True)
class JobFiles:
    """What a study's files tell of a run's latest job. events: its lines of the run's jobs.jsonl."""

    folder: RunFolder
    submission: Submission
    job: str
    events: Sequence[Mapping[str, Any]]

    @property
    def log(self) -> Path:
        """The log of the first rank; the run's own until there is a job."""
        return self.submission.folder / f"{self.job}_0_log.out" if self.job else self.folder.log

    @property
    def starts(self) -> list[Mapping[str, Any]]:
        """The events with which it began."""
        return [e for e in self.events if e["event"] == "start"]

    @property
    def kept(self) -> str:
        """Why the run, having saved itself, is not in the queue; empty if it is not so."""
        last = self.events[-1] if self.events else {}
        return f"{last['why']}; not requeued: {last['said']}" if last.get("event") == "kept" else ""


def job_reports(
    study: Path, runs: Sequence[str], *, finished: Collection[str], max_age: float, files: Files = EACH_TIME
) -> dict[str, JobReport]:
    """The latest job of each of these runs; Slurm is asked once for all that have not finished."""
    submitted = latest_jobs(study, files)
    jobs = {run: _files_of(study / run, *submitted[run], files) for run in runs if run in submitted}
    asked = [files.job for run, files in jobs.items() if files.job and run not in finished]
    seen = jobs_of(asked, study / "slurm" / QUEUE, max_age=max_age)
    reports = {run: _judge(files, seen) for run, files in jobs.items() if run not in finished}
    for run in jobs.keys() & set(finished):
        reports[run] = _finished(jobs[run])
    return reports


def _files_of(path: Path, submission: Submission, job: str, files: Files) -> JobFiles:
    events = [e for e in files.read(f"{path}/{JOBS}", _events) if e["job"] == job]
    return JobFiles(RunFolder(path), submission, job, events)


def _events(path: str) -> Sequence[Mapping[str, Any]]:
    return read_lines(path)[0]


def _report(
    files: JobFiles, phase: Phase, *, state: State | None = None, reason: str = "", nodes: str = ""
) -> JobReport:
    """What every report holds, whatever has become of the job."""
    known = [e["node"] for e in files.events if "node" in e]
    last_node = known[-1] if known else ""
    last_start = files.starts[-1] if files.starts else {}
    return JobReport(
        launcher="slurm",
        phase=phase,
        log=files.log,
        job=files.job,
        state=state,
        reason=reason,
        node=nodes or last_node,
        starts=len(files.starts),
        submitted=files.submission.submitted,
        pid=last_start.get("pid"),
    )


def _finished(files: JobFiles) -> JobReport:
    return _report(files, Phase.ENDED, state=State.DONE)


def _judge(files: JobFiles, seen: Mapping[str, Seen] | None) -> JobReport:
    """One job by Slurm's answer; `seen` is None where there was none."""
    if not files.job:
        return _report(files, Phase.UNANSWERED, reason="its submitter died; roadmap run --slurm finds it again")
    if seen is None:
        return _report(files, Phase.UNANSWERED, reason="Slurm does not answer")
    job = seen.get(files.job)
    if job is None:
        state, reason = _forgotten(files)
        return _report(files, Phase.FORGOTTEN, state=state, reason=reason)
    if job.waiting:
        return _report(files, Phase.WAITING, reason=job.reason, nodes=job.nodes)
    if job.alive:
        reason = "" if job.state == "RUNNING" else job.state.lower()
        return _report(files, Phase.ACTIVE, reason=reason, nodes=job.nodes)
    state, reason = _ended(files, job)
    return _report(files, Phase.ENDED, state=state, reason=reason)


def _ended(files: JobFiles, job: Seen) -> tuple[State, str]:
    """How a job ended that Slurm still knows: state, and a few words for people."""
    state, line = _from_log(files.log)
    if state == State.OUT_OF_MEMORY:
        return state, line
    if (files.folder.path / CANCELLED).exists():
        return State.CANCELLED, ""
    state = ENDED_AS.get(job.state, State.FAILED)
    if state in (State.FAILED, State.LOST) and files.kept:
        return State.STOPPED, files.kept
    if job.state in REASONS:
        return state, REASONS[job.state]
    return state, last_words(files.log) if state == State.FAILED else ""


def _forgotten(files: JobFiles) -> tuple[State, str]:
    """How a job ended that Slurm no longer knows."""
    state, line = _from_log(files.log)
    if state == State.OUT_OF_MEMORY:
        return state, line
    if (files.folder.path / CANCELLED).exists():
        return State.CANCELLED, ""
    if files.kept:
        return State.STOPPED, files.kept
    return (state, "") if state else (State.LOST, "Slurm does not know its job, and it left no record")


# Logs -----------------------------------------------------------------------------------------------------------------


def _tail(path: Path, size: int = 8192) -> list[str]:
    """The lines of a file's last `size` bytes; none where it cannot be read."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - size))
            return f.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _from_log(log: Path) -> tuple[State | None, str]:
    """How the job ended by its log's last lines, and the line; (None, "") where they do not tell."""
    lines = _tail(log)
    begun = max((k for k, line in enumerate(lines) if "Starting with JobEnvironment" in line), default=0)
    of_slurm = [line for line in lines[begun:] if "slurmstepd" in line or "srun" in line]
    told = [line for line in of_slurm if "REQUEUE" not in line and "PREEMPTION" not in line]
    for marks, state in IN_LOG:
        for line in told:
            if any(mark in line for mark in marks):
                return state, line.strip()
    return None, ""


def last_words(log: Path) -> str:
    """The log's last line that tells a cause, else its last line."""
    lines = [line.strip() for line in _tail(log) if line.strip()]
    for line in reversed(lines):
        if any(cause in line for cause in CAUSES):
            return line
    return lines[-1] if lines else "no log"
