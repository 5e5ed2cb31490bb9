"""Where each run of a study is: its own files first, then what the launchers say of its job. No torch."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from roadmap.launch.base import MAX_AGE, JobReport, Phase, State
from roadmap.launch.launchers import every_launcher
from roadmap.runs.changes import EACH_TIME, Files
from roadmap.runs.folder import read_record
from roadmap.runs.io import RunError, read_json, read_last_lines
from roadmap.runs.record import DIVERGED, FAILED, FINISHED, HOPELESS, INTERRUPTED, Record

OWN_WORDS = (FAILED, DIVERGED, HOPELESS)  # of a run that has ended without finishing, as it says itself
FRESH = 120.0  # seconds: a heartbeat this old says that nobody is training


@dataclass(frozen=True)
class RunState:
    """One line of `roadmap status`.

    top1: percent, of the last evaluated epoch. waiting_share: the part of training's time, 0 to 1,
    that goes by waiting for images. seconds_left: None where not known. requeued: how often.
    job: its id in the queue of `launcher`; both empty where no launcher has one.
    """

    run: str
    step: str
    change: str
    seed: int
    state: State
    detail: str = ""
    requeued: int = 0
    epoch: int = 0
    epochs: int = 0
    top1: float | None = None
    images_per_second: float | None = None
    waiting_share: float | None = None
    seconds_left: float | None = None
    node: str = ""
    job: str = ""
    launcher: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """What is known of a run before it is judged. recorded: time of its record, in epoch seconds."""

    folder: str
    record: Record | None
    recorded: float
    heartbeat: Mapping[str, Any]
    report: JobReport | None

    @property
    def status(self) -> str:
        """The record's, empty where there is none."""
        return self.record.status if self.record else ""

    @property
    def error(self) -> str:
        """The first line of the record's error."""
        lines = ((self.record.error if self.record else None) or "").splitlines()
        return lines[0] if lines else ""

    @property
    def last_word(self) -> bool:
        """Whether the run itself has said that it ended without finishing, since it was last submitted."""
        submitted = self.report.submitted if self.report else 0.0
        return self.status in OWN_WORDS and self.recorded >= submitted

    @property
    def training(self) -> bool:
        """Whether a process has just said that it trains: a fresh heartbeat, of a job that has not ended.

        Where no launcher has a job and the process is of this machine, it must be there.
        """
        beat, report = self.heartbeat, self.report
        if beat.get("state") != "running" or time.time() - beat.get("time", 0) > FRESH:
            return False
        if report and report.phase == Phase.ENDED and beat.get("pid") == report.pid:
            return False
        if beat.get("host") == socket.gethostname() and not (report and report.job):
            return Path(f"/proc/{beat.get('pid')}").exists() or not Path("/proc").exists()
        return True


def study_states(
    study: Path,
    planned: Sequence[Mapping[str, Any]] | None = None,
    *,
    every: float = MAX_AGE,
    files: Files = EACH_TIME,
) -> list[RunState]:
    """The state of each planned trial of a study.

    planned: (id, step, change, seed) of each, study.json's unless given. every: seconds between two
    questions to a cluster. files: by which the run folders are read; `ChangedFiles` of earlier looks
    read what has changed since.
    """
    if planned is None:
        planned = files.read(f"{study}/study.json", _planned)
    present = {p["id"]: _evidence(study, p["id"], files) for p in planned}
    finished = {run for run, evidence in present.items() if evidence.status == FINISHED}
    reports = job_reports(study, list(present), finished=finished, max_age=every, files=files)
    return [_judge(p, present[p["id"]], reports.get(p["id"]), files) for p in planned]


def _planned(path: str) -> Sequence[Mapping[str, Any]]:
    """The trials of study.json."""
    trials: Sequence[Mapping[str, Any]] = (read_json(path) or {"trials": []})["trials"]
    return trials


def job_reports(
    study: Path,
    runs: Sequence[str],
    *,
    finished: Collection[str] = (),
    max_age: float = MAX_AGE,
    files: Files = EACH_TIME,
) -> dict[str, JobReport]:
    """The latest job of each run that any launcher has launched."""
    latest: dict[str, JobReport] = {}
    for launcher in every_launcher():
        for run, report in launcher.where(study, runs, finished=finished, max_age=max_age, files=files).items():
            if run not in latest or report.submitted >= latest[run].submitted:
                latest[run] = report
    return latest


def _evidence(study: Path, run: str, files: Files) -> Evidence:
    folder = f"{study}/{run}"
    # The heartbeat first: a run that ends writes its record before its last one, so never are both missed.
    heartbeat = files.read(f"{folder}/heartbeat.json", _object)
    record, recorded = files.read(f"{folder}/record.json", _record)
    return Evidence(folder, record, recorded, heartbeat, None)


def _record(path: str) -> tuple[Record | None, float]:
    """A record, or a failed one that says why it cannot be read, and when it was written."""
    recorded = 0.0
    try:
        recorded = os.stat(path).st_mtime
        return read_record(path), recorded
    except (FileNotFoundError, NotADirectoryError):
        return None, 0.0
    except OSError as e:
        text = f"{path} cannot be read: {e.strerror}; legal: a readable file; check its permissions"
        return Record(status=FAILED, error=text), recorded
    except RunError as e:
        return Record(status=FAILED, error=str(e)), recorded


def _object(path: str) -> Mapping[str, Any]:
    """A file's JSON object; empty where there is none, or it cannot be read or is damaged."""
    try:
        content = read_json(path)
    except (RunError, OSError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class Progress:
    """What a run has noted of its epochs: the last one's line, and the top-1 of the last evaluated one."""

    last: Mapping[str, Any]
    top1: float | None


def _progress(path: str) -> Progress:
    """From the end of metrics.jsonl: it grows with each epoch, and not each epoch is evaluated."""
    last: Mapping[str, Any] | None = None
    with contextlib.suppress(OSError):  # of a file that cannot be read nothing is shown
        for line in read_last_lines(path):
            last = last or line
            if "top1" in line:
                return Progress(last, line["top1"])
    return Progress(last or {}, None)


def _epochs(path: str) -> int:
    """How many epochs the trial has, by its file as it is: a look at a study checks no fingerprints."""
    recipe = _object(path).get("recipe")
    return _count(recipe.get("epochs")) if isinstance(recipe, dict) else 0


def _count(value: object) -> int:
    """A number of epochs; 0 for what is none."""
    return int(value) if isinstance(value, (int, float)) else 0


def _judge(planned: Mapping[str, Any], known: Evidence, job: JobReport | None, files: Files) -> RunState:
    e = replace(known, report=job) if job else known
    state, detail = _state(e)
    progress = files.read(f"{e.folder}/metrics.jsonl", _progress)
    last = progress.last
    live: Mapping[str, Any] = e.heartbeat if state == State.RUNNING and e.training else {}
    # A run that no launcher has launched has neither job nor node.
    report = e.report or JobReport(launcher="", phase=Phase.HANDED_OVER, log=Path(e.folder, "log.txt"))
    return RunState(
        run=planned["id"],
        step=planned["step"],
        change=planned["change"],
        seed=planned["seed"],
        state=state,
        detail=detail,
        requeued=max(0, report.starts - (state != State.REQUEUED)),
        epoch=max(_count(last.get("epoch")), _count(live.get("epoch"))),
        epochs=(e.record.epochs if e.record else None) or files.read(f"{e.folder}/trial.json", _epochs),
        top1=e.record.metrics.get("top1") if e.record and state == State.DONE else progress.top1,
        images_per_second=_rate(e, live, last),
        waiting_share=_waiting(e, live, last),
        seconds_left=live.get("seconds_left"),
        node=report.node or str(e.heartbeat.get("host", "")),
        job=report.job,
        launcher=report.launcher,
    )


def _rate(e: Evidence, live: Mapping[str, Any], last: Mapping[str, Any]) -> float | None:
    """Images per second: of now while it trains, else the record's, else the last epoch's."""
    if live:
        return live.get("images_per_second")
    return (e.record.images_per_second if e.record else None) or last.get("images_per_second")


def _waiting(e: Evidence, live: Mapping[str, Any], last: Mapping[str, Any]) -> float | None:
    """The part of the time spent waiting for images: of this epoch while it trains, else as of the rate."""
    if live:
        return live.get("waiting_share")
    return e.record.waiting_share if e.record and e.record.images_per_second else last.get("waiting_share")


def _state(e: Evidence) -> tuple[State, str]:
    """The run's state and a few words to it.

    A record that is newer than the submission is the run's own last word.
    """
    report = e.report
    if e.status == FINISHED:
        return State.DONE, ""
    if report and report.phase == Phase.WAITING:
        return (State.REQUEUED if report.starts else State.PENDING), report.reason
    if report and report.phase == Phase.ACTIVE and not e.last_word:
        return State.RUNNING, report.reason
    if e.training:
        return State.RUNNING, ""
    if e.last_word:
        return State(e.status), e.error
    if report and report.phase == Phase.UNANSWERED:
        return (State.RUNNING if report.starts else State.PENDING), report.reason
    if report and report.state:
        return report.state, report.reason
    return _without_job(e, report.reason if report else "")


def _without_job(e: Evidence, reason: str) -> tuple[State, str]:
    """Of a run whose own files alone tell. `reason`: why it is expected to start, where it has not."""
    if e.status in OWN_WORDS:
        return State(e.status), e.error
    if e.heartbeat.get("state") == "running":
        return State.LOST, "its process is gone"
    if e.status == INTERRUPTED:
        return State.STOPPED, e.error
    if os.path.exists(f"{e.folder}/attempts.jsonl"):
        return State.STOPPED, "no record"
    return State.NEW, reason


def counts(states: Sequence[RunState]) -> str:
    """'14 runs: 3 done, 2 running, 9 pending'."""
    number = Counter(s.state for s in states)
    return f"{len(states)} runs: " + ", ".join(f"{number[s]} {s}" for s in State if number[s])
