"""Where each run of a study is: from its own files first, then from Slurm, asked for all runs at once. No torch, no submitit."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roadmap.launch.slurm.job import CANCELLED, JOBS
from roadmap.launch.slurm.queue import ASK_EVERY, Seen, jobs_of
from roadmap.launch.slurm.submit import Submission, latest_jobs
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, read_json, read_lines
from roadmap.runs.record import DIVERGED, FAILED, FINISHED, INTERRUPTED

FRESH = 120.0  # seconds: a heartbeat this old says that nobody is training
NEW, PENDING, RUNNING, REQUEUED, DONE = "new", "pending", "running", "requeued", "done"
STOPPED, CANCELLED_STATE, TIMED_OUT, OUT_OF_MEMORY, LOST = "stopped", "cancelled", "timed out", "out of memory", "lost"
STATES = (
    DONE,
    RUNNING,
    REQUEUED,
    PENDING,
    STOPPED,
    FAILED,
    DIVERGED,
    CANCELLED_STATE,
    TIMED_OUT,
    OUT_OF_MEMORY,
    LOST,
    NEW,
)
UNDER_WAY = (RUNNING, REQUEUED, PENDING)  # something may still change
IN_HAND = (DONE, RUNNING, REQUEUED, PENDING)  # nothing to submit
OF_SLURM = {
    "CANCELLED": CANCELLED_STATE,
    "TIMEOUT": TIMED_OUT,
    "DEADLINE": TIMED_OUT,
    "OUT_OF_MEMORY": OUT_OF_MEMORY,
    "NODE_FAIL": LOST,
    "PREEMPTED": LOST,
    "FAILED": FAILED,
    "BOOT_FAIL": FAILED,
    "COMPLETED": LOST,
}
# What slurmstepd and the kernel write into a job's log; the only witness where accounting is off.
IN_LOG = (
    (("memory limit", "oom-kill", "oom_kill", "Out Of Memory", "out-of-memory"), OUT_OF_MEMORY),
    (("DUE TO TIME LIMIT",), TIMED_OUT),
    (("DUE TO NODE FAILURE",), LOST),
    (("CANCELLED AT",), CANCELLED_STATE),
)


@dataclass(frozen=True)
class RunState:
    """One line of `roadmap status`. top1: percent, of the last evaluated epoch. seconds_left: None where not known. requeued: how often."""

    run: str
    step: str
    change: str
    seed: int
    state: str
    detail: str = ""
    requeued: int = 0
    epoch: int = 0
    epochs: int = 0
    top1: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    node: str = ""
    job: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """What is known of a run before it is judged."""

    folder: RunFolder
    record: Mapping[str, Any]
    recorded: float  # when the record was written; 0 where there is none
    heartbeat: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]  # of its present job
    submission: Submission | None
    job: str
    seen: Seen | None
    answered: bool  # whether Slurm has answered

    @property
    def starts(self) -> int:
        return sum(e["event"] == "start" for e in self.events)

    @property
    def submitted(self) -> float:
        return (self.submission.folder / "submission.json").stat().st_mtime if self.submission else 0.0

    @property
    def training(self) -> bool:
        """Whether a process has just said that it trains: its last word is fresh, its job has not ended, and on this machine the process is there."""
        beat = self.heartbeat
        if beat.get("state") != "running" or time.time() - beat.get("time", 0) > FRESH:
            return False
        started: Mapping[str, Any] = next((x for x in reversed(self.events) if x["event"] == "start"), {})
        if self.seen and not self.seen.alive and beat.get("pid") == started.get("pid"):
            return False
        if beat.get("host") == socket.gethostname() and not self.job:
            return Path(f"/proc/{beat.get('pid')}").exists() or not Path("/proc").exists()
        return True


def study_states(
    study: Path, planned: Sequence[Mapping[str, Any]] | None = None, *, every: float = ASK_EVERY
) -> list[RunState]:
    """The state of each planned trial of a study; `planned` (id, step, change, seed) is study.json's unless given. Slurm is asked at most once in `every` seconds."""
    if planned is None:
        planned = (read_json(study / "study.json") or {"trials": []})["trials"]
    submitted = latest_jobs(study)
    present: dict[str, Evidence] = {
        p["id"]: _files_of(RunFolder(study / p["id"]), *submitted.get(p["id"], (None, ""))) for p in planned
    }
    asked = [e.job for e in present.values() if e.job and e.record.get("status") != FINISHED]
    seen = jobs_of(asked, study / "slurm" / "queue.json" if submitted else None, every=every)
    return [_judge(p, _with_queue(present[p["id"]], seen)) for p in planned]


def _files_of(folder: RunFolder, submission: Submission | None, job: str) -> Evidence:
    try:
        record = folder.record() or {}
    except RunError as e:
        record = {"status": FAILED, "error": str(e)}
    try:
        beat = folder.heartbeat() or {}
    except RunError:
        beat = {}
    path = folder.path / "record.json"
    events = [e for e in read_lines(folder.path / JOBS)[0] if e["job"] == job]
    return Evidence(
        folder, record, path.stat().st_mtime if path.exists() else 0.0, beat, events, submission, job, None, True
    )


def _with_queue(e: Evidence, seen: Mapping[str, Seen] | None) -> Evidence:
    return Evidence(
        e.folder,
        e.record,
        e.recorded,
        e.heartbeat,
        e.events,
        e.submission,
        e.job,
        (seen or {}).get(e.job),
        seen is not None,
    )


def _judge(planned: Mapping[str, Any], e: Evidence) -> RunState:
    state, detail = _state(e)
    metrics = e.folder.metrics()
    last: Mapping[str, Any] = metrics[-1] if metrics else {}
    live = state == RUNNING and e.training
    node = (
        (e.seen.nodes if e.seen and e.seen.alive else "")
        or next((x["node"] for x in reversed(e.events) if "node" in x), "")
        or str(e.heartbeat.get("host", ""))
    )
    trial = _trial_json(e.folder)
    return RunState(
        run=planned["id"],
        step=planned["step"],
        change=planned["change"],
        seed=planned["seed"],
        state=state,
        detail=detail,
        requeued=max(0, e.starts - (state != REQUEUED)) if e.job else 0,
        epoch=max(int(last.get("epoch", 0)), int(e.heartbeat.get("epoch", 0)) if live else 0),
        epochs=int(trial.get("recipe", {}).get("epochs", 0)),
        top1=e.record.get("top1") if state == DONE else last.get("top1"),
        images_per_second=e.heartbeat.get("images_per_second")
        if live
        else e.record.get("images_per_second") or last.get("images_per_second"),
        seconds_left=e.heartbeat.get("seconds_left") if live else None,
        node=node,
        job=e.job,
    )


def _trial_json(folder: RunFolder) -> Mapping[str, Any]:
    try:
        return read_json(folder.path / "trial.json") or {}
    except RunError:
        return {}


def _state(e: Evidence) -> tuple[str, str]:
    """The run's state and a few words to it. A record that is newer than the submission is the run's own last word."""
    status = str(e.record.get("status", ""))
    if status == FINISHED:
        return DONE, ""
    own_word = status in (FAILED, DIVERGED) and e.recorded >= e.submitted
    if e.seen and e.seen.alive and not (own_word and not e.seen.waiting):
        if e.seen.waiting:
            return (REQUEUED if e.starts else PENDING), e.seen.reason
        return RUNNING, "" if e.seen.state == "RUNNING" else e.seen.state.lower()
    if e.training:
        return RUNNING, ""
    if own_word:
        return status, _first_line(e.record)
    if e.job:
        return _ended_job(e)
    if e.submission and not e.job:
        return PENDING, "its submitter died; roadmap run --slurm finds it again"
    return _not_submitted(e, status)


def _ended_job(e: Evidence) -> tuple[str, str]:
    """A job that is over, or that Slurm no longer knows, without a record of its end."""
    if not e.answered:
        return (RUNNING if e.starts else PENDING), "Slurm does not answer"
    state, why = _from_log(e)
    if state == OUT_OF_MEMORY:
        return state, why
    if (e.folder.path / CANCELLED).exists():
        return CANCELLED_STATE, ""
    if e.seen:
        found = OF_SLURM.get(e.seen.state, FAILED)
        if found in (FAILED, LOST) and (kept := _kept(e)):
            return STOPPED, kept
        words = {
            "NODE_FAIL": "its node failed",
            "PREEMPTED": "preempted and not requeued",
            "COMPLETED": "ended without a record",
        }
        return found, words.get(e.seen.state, last_words(e) if found == FAILED else "")
    if kept := _kept(e):
        return STOPPED, kept
    return (state, why) if state else (LOST, "Slurm does not know its job, and it left no record")


def _kept(e: Evidence) -> str:
    """Why the run, having saved itself, is not in the queue; empty if that is not how its job ended."""
    last = e.events[-1] if e.events else {}
    return f"{last['why']}; not requeued: {last['said']}" if last.get("event") == "kept" else ""


def _not_submitted(e: Evidence, status: str) -> tuple[str, str]:
    """Of a run that no job has: what its own files say."""
    if status in (FAILED, DIVERGED):
        return status, _first_line(e.record)
    if e.heartbeat.get("state") == "running":
        return LOST, "its process is gone"
    if status == INTERRUPTED:
        return STOPPED, _first_line(e.record)
    return (STOPPED, "no record") if (e.folder.path / "attempts.jsonl").exists() else (NEW, "")


def _first_line(record: Mapping[str, Any]) -> str:
    return (str(record.get("error") or "").splitlines() or [""])[0]


# Logs --------------------------------------------------------------------------------------------------------------------


def log_of(folder: RunFolder, submission: Submission | None, job: str) -> Path:
    """The log of a run's first rank: its job's, or the local one."""
    return submission.folder / f"{job}_0_log.out" if submission and job else folder.log


def _tail(path: Path, size: int = 8192) -> list[str]:
    try:
        with open(path, "rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - size))
            return f.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _from_log(e: Evidence) -> tuple[str, str]:
    """How the job ended by its log's last lines: (state, the line), or two empty words."""
    lines = _tail(log_of(e.folder, e.submission, e.job))
    begun = max((k for k, line in enumerate(lines) if "Starting with JobEnvironment" in line), default=0)
    said = [
        line
        for line in lines[begun:]
        if ("slurmstepd" in line or "srun" in line) and "REQUEUE" not in line and "PREEMPTION" not in line
    ]
    for marks, state in IN_LOG:
        if found := next((line for line in said if any(m in line for m in marks)), None):
            return state, found.strip() if state == OUT_OF_MEMORY else ""
    return "", ""


def last_words(e: Evidence) -> str:
    """The log's last line that tells a cause."""
    lines = [line.strip() for line in _tail(log_of(e.folder, e.submission, e.job)) if line.strip()]
    return next(
        (
            x
            for x in reversed(lines)
            if any(w in x for w in ("Killed", "Error", "error:", "Exited with", "Segmentation"))
        ),
        lines[-1] if lines else "no log",
    )


def counts(states: Sequence[RunState]) -> str:
    """'14 runs: 3 done, 2 running, 9 pending'."""
    found = Counter(s.state for s in states)
    return f"{len(states)} runs: " + ", ".join(f"{found[s]} {s}" for s in STATES if found[s])
