"""What Slurm knows: its settings and its jobs' states, by one squeue and one sacct for all.

No torch, no submitit.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roadmap.config.errors import RoadmapError
from roadmap.launch.base import MAX_AGE
from roadmap.runs.io import RunError, read_json, write_json

WAITING = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
    "STAGE_OUT",
)
ACTIVE = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING")
OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "PMI_")
KEPT_IN_JOBS = ("SLURM_CONF",)
OF_A_LAUNCHER = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SUBMITIT_EXECUTOR",
    "SUBMITIT_FOLDER",
)


class SlurmError(RoadmapError):
    """A Slurm command that is missing, gets no answer or was refused; `said`: its own words."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


@dataclass(frozen=True)
class Seen:
    """A job as squeue or sacct shows it. `state`: Slurm's word. `comment`, `name`: as submitted."""

    job: str
    state: str
    reason: str = ""
    nodes: str = ""
    comment: str = ""
    name: str = ""

    @property
    def waiting(self) -> bool:
        """Whether it is in the queue."""
        return self.state in WAITING

    @property
    def alive(self) -> bool:
        """Whether it waits or runs."""
        return self.state in WAITING or self.state in ACTIVE


@contextlib.contextmanager
def clean_environment() -> Iterator[None]:
    """Take away what a surrounding job or launcher has set, for a job would inherit it."""
    of_a_job = {k for k in os.environ if k.startswith(OF_A_JOB)} - set(KEPT_IN_JOBS)
    removed = {k: v for k, v in os.environ.items() if k in of_a_job or k in OF_A_LAUNCHER}
    for k in removed:
        del os.environ[k]
    try:
        yield
    finally:
        os.environ.update(removed)


def ask(*words: str, timeout: float = 60) -> str:
    """A Slurm command's output. Raises SlurmError."""
    try:
        with clean_environment():
            done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as e:
        raise SlurmError(
            f"{words[0]} is not on this machine; legal: a machine where Slurm's commands are; "
            "log in to the cluster, or leave --slurm out"
        ) from e
    except subprocess.TimeoutExpired as e:
        raise SlurmError(
            f"{words[0]} has not answered for {timeout:g} s; legal: a controller that answers; try again later",
            "timeout",
        ) from e
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise SlurmError(
            f"{words[0]} ended with {done.returncode}: {said}; legal: what the cluster accepts; see `man {words[0]}`",
            said,
        )
    return done.stdout


@dataclass(frozen=True)
class Cluster:
    """A cluster's name and the size from which it refuses arrays."""

    name: str
    max_array: int

    @classmethod
    def here(cls) -> Cluster:
        """The cluster of this machine. Raises SlurmError."""
        config = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", ask("scontrol", "show", "config"), re.MULTILINE))
        size = config.get("MaxArraySize", "1001")
        return cls(config.get("ClusterName", ""), int(size) if size.isdigit() else 1001)


def live_jobs() -> dict[str, Seen]:
    """The user's jobs in Slurm's memory, just ended ones included, by id: 12, or 12_3 in an array."""
    separator, columns = "\x1f", ("%i", "%T", "%r", "%N", "%k", "%j")
    wanted = f"--format={separator.join(columns)}"
    text = ask("squeue", "--noheader", "--array", "--states=all", f"--user={_user()}", wanted)
    rows = [line.split(separator) for line in text.splitlines()]
    seen = [_live_job(*row) for row in rows if len(row) == len(columns)]
    return {s.job: s for s in seen}


def _live_job(job: str, state: str, reason: str, nodes: str, comment: str, name: str) -> Seen:
    """One row of squeue; its words for "nothing" left out."""
    return Seen(job.strip(), state, _unless(reason, "None"), nodes, _unless(comment, "(null)"), name)


def _unless(text: str, nothing: str) -> str:
    """The text, empty where it is Slurm's word for nothing."""
    return "" if text == nothing else text


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def past_jobs(ids: Iterable[str] = (), *, names: Iterable[str] = ()) -> dict[str, Seen]:
    """Jobs that accounting remembers, by id or by name; none where accounting is off.

    Tasks of an array that have not begun stand together, as 12_[3-5].
    """
    chosen = [f"--name={','.join(names)}", "--starttime=now-90days"]
    if ids:
        arrays = sorted({i.split("_")[0] for i in ids})
        chosen = [f"--jobs={','.join(arrays)}"]
    columns = "--format=JobID,State,NodeList,Comment,JobName"
    try:
        text = ask("sacct", "--allocations", "--noheader", "--parsable2", *chosen, columns)
    except SlurmError:
        return {}
    rows = [line.split("|") for line in text.splitlines()]
    seen = [_past_job(*row) for row in rows if len(row) == 5 and row[1]]
    return {s.job: s for s in seen}


def _past_job(job: str, state: str, nodes: str, comment: str, name: str) -> Seen:
    """One row of sacct; 'CANCELLED by 1000' is CANCELLED."""
    return Seen(job, state.split()[0], "", _unless(nodes, "None assigned"), comment, name)


def jobs_of(ids: Iterable[str], cache: Path | None = None, *, max_age: float = MAX_AGE) -> dict[str, Seen] | None:
    """The state of each of these jobs that Slurm still knows: one squeue, one sacct for the rest.

    `cache` keeps the answer for `max_age` seconds, for this process and for others. None where
    Slurm does not answer.
    """
    wanted = set(ids)
    if not wanted:
        return {}
    if cache and (kept := _cached(cache, wanted, max_age)) is not None:
        return kept
    try:
        live = live_jobs()
    except SlurmError:
        return None
    missing = wanted - set(live)
    known = live | (past_jobs(missing) if missing else {})
    seen = {i: known[i] for i in wanted if i in known}
    if cache:
        answer = {"time": time.time(), "asked": sorted(wanted), "jobs": {k: asdict(s) for k, s in seen.items()}}
        with contextlib.suppress(RunError, OSError):
            write_json(cache, answer)
    return seen


def _cached(cache: Path, wanted: set[str], max_age: float) -> dict[str, Seen] | None:
    """The kept answer, where it is young enough and was about all of these jobs."""
    try:
        content: Mapping[str, Any] = read_json(cache) or {}
        if 0 <= time.time() - content["time"] < max_age and wanted <= set(content["asked"]):
            return {k: Seen(**s) for k, s in content["jobs"].items() if k in wanted}
    except (RunError, KeyError, TypeError):
        pass
    return None
