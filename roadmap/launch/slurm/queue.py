"""What Slurm knows: its settings and the states of jobs, by one squeue and one sacct for all of them. No torch, no submitit."""

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
from roadmap.runs.io import RunError, read_json, write_json

ASK_EVERY = 30.0  # seconds between two questions to the cluster, whoever asks about a study
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
    """A Slurm command that is missing, cannot reach the cluster, or was refused; `said` holds its own words."""

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
        return self.state in WAITING

    @property
    def alive(self) -> bool:
        return self.state in WAITING or self.state in ACTIVE


@contextlib.contextmanager
def clean_environment() -> Iterator[None]:
    """Without what a surrounding job or launcher has set, which a job submitted from within it would inherit."""
    removed = {
        k: v
        for k, v in os.environ.items()
        if (k.startswith(("SLURM_", "SLURMD_", "SRUN_", "PMI_")) and k not in KEPT_IN_JOBS) or k in OF_A_LAUNCHER
    }
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
            f"{words[0]} is not on this machine; legal: a machine where Slurm's commands are; log in to the cluster, or leave --slurm out"
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
        config = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", ask("scontrol", "show", "config"), re.MULTILINE))
        size = config.get("MaxArraySize", "1001")
        return cls(config.get("ClusterName", ""), int(size) if size.isdigit() else 1001)


def live_jobs() -> dict[str, Seen]:
    """The user's jobs in Slurm's memory, ended ones of the last minutes included, by id: 12, or 12_3 in an array."""
    separator, fields = "\x1f", ("%i", "%T", "%r", "%N", "%k", "%j")
    text = ask(
        "squeue", "--noheader", "--array", "--states=all", f"--user={_user()}", "--format=" + separator.join(fields)
    )
    rows = [line.split(separator) for line in text.splitlines()]
    return {
        r[0].strip(): Seen(
            r[0].strip(), r[1], "" if r[2] == "None" else r[2], r[3], "" if r[4] == "(null)" else r[4], r[5]
        )
        for r in rows
        if len(r) == len(fields)
    }


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def past_jobs(ids: Iterable[str] = (), *, names: Iterable[str] = ()) -> dict[str, Seen]:
    """Jobs that accounting remembers, by id or by name; none where accounting is off. Tasks that have not begun stand together, as 12_[3-5]."""
    chosen = (
        ["--jobs=" + ",".join(sorted({i.split("_")[0] for i in ids}))]
        if ids
        else ["--name=" + ",".join(names), "--starttime=now-90days"]
    )
    try:
        text = ask(
            "sacct",
            "--allocations",
            "--noheader",
            "--parsable2",
            *chosen,
            "--format=JobID,State,NodeList,Comment,JobName",
        )
    except SlurmError:
        return {}
    rows = [line.split("|") for line in text.splitlines()]
    found = [
        Seen(r[0], r[1].split()[0], "", "" if r[2] == "None assigned" else r[2], r[3], r[4])
        for r in rows
        if len(r) == 5 and r[1]
    ]
    return {s.job: s for s in found}


def jobs_of(ids: Iterable[str], cache: Path | None = None, *, every: float = ASK_EVERY) -> dict[str, Seen] | None:
    """The state of each of these jobs that Slurm still knows: one squeue, and one sacct for those it does not show.

    `cache` keeps the answer for `every` seconds, for this process and for others. None where Slurm does not answer.
    """
    wanted = set(ids)
    if not wanted:
        return {}
    if cache and (kept := _cached(cache, wanted, every)) is not None:
        return kept
    try:
        live = live_jobs()
    except SlurmError:
        return None
    found = {i: live[i] for i in wanted if i in live}
    if missing := wanted - set(found):
        past = past_jobs(missing)
        found |= {i: past[i] for i in missing if i in past}
    if cache:
        with contextlib.suppress(RunError, OSError):
            write_json(
                cache, {"time": time.time(), "asked": sorted(wanted), "jobs": {k: asdict(s) for k, s in found.items()}}
            )
    return found


def _cached(cache: Path, wanted: set[str], every: float) -> dict[str, Seen] | None:
    try:
        content: Mapping[str, Any] = read_json(cache) or {}
        if 0 <= time.time() - content["time"] < every and wanted <= set(content["asked"]):
            return {k: Seen(**s) for k, s in content["jobs"].items() if k in wanted}
    except (RunError, KeyError, TypeError):
        pass
    return None
