"""What a launcher is: how prepared runs reach a machine, and what is known of them there. No torch.

A launcher is a class below `Launcher` and a line in roadmap.launch.launchers. It gets run folders
that are prepared (trial.json is written), notes in each what it is launched with (`Launch.write`),
and has `roadmap.launch.prepared.train_prepared` called for it, here, in a job or by `roadmap run
--folder RUN`. Everything else is told by the run folders, so that nothing has to stay alive to
watch.
"""

from __future__ import annotations

import contextlib
import fcntl
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from roadmap.config.errors import RoadmapError
from roadmap.config.runtime import Runtime
from roadmap.launch.prepared import Launch
from roadmap.launch.resources import Resources
from roadmap.runs.changes import EACH_TIME, Files
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError
from roadmap.runs.record import DIVERGED, FAILED, HOPELESS

MAX_AGE = 30.0  # seconds between two questions to a cluster, whoever asks about a study


class State(StrEnum):
    """Where a run is, in the words of `roadmap status`, in the order in which they are counted."""

    DONE = "done"
    RUNNING = "running"
    REQUEUED = "requeued"
    PENDING = "pending"
    STOPPED = "stopped"
    FAILED = FAILED
    DIVERGED = DIVERGED
    HOPELESS = HOPELESS
    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    LOST = "lost"
    NEW = "new"


UNDER_WAY = (State.RUNNING, State.REQUEUED, State.PENDING)  # something may still change
IN_HAND = (State.DONE, State.HOPELESS, *UNDER_WAY)  # nothing to launch


class Phase(StrEnum):
    """What a launcher knows of a job."""

    WAITING = "waiting"
    ACTIVE = "active"
    ENDED = "ended"
    FORGOTTEN = "forgotten"  # no longer known to the cluster; its log is the only witness
    UNANSWERED = "unanswered"  # the cluster cannot be asked now
    HANDED_OVER = "handed over"  # started, if at all, by something that this program cannot ask


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """What a launcher says of the latest job of one run.

    job: its id in the launcher's queue, empty where there is none to cancel.
    state: of a job that is over, how it ended. reason: why it waits or how it ended, for people.
    starts: how often it has started. submitted: seconds since the epoch.
    pid: of the process that started last. log: what its first rank prints.
    """

    launcher: str
    phase: Phase
    log: Path
    job: str = ""
    state: State | None = None
    reason: str = ""
    node: str = ""
    starts: int = 0
    submitted: float = 0.0
    pid: int | None = None


@dataclass(frozen=True, kw_only=True)
class Launched:
    """Runs that went out together.

    job: their id, where the launcher has one. text: the line that tells the user.
    """

    runs: tuple[str, ...]
    job: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a launch would be.

    script: what would be submitted; estimate: when it would start; empty where unknown.
    """

    script: str = ""
    estimate: str = ""


class Launcher(ABC):
    """One way to run a study's runs.

    What a launcher has no notion of (a queue, a preemption) keeps the default.
    """

    name: ClassVar[str]
    asks_first: ClassVar[bool] = True  # whether a launch is worth a question to the user

    @abstractmethod
    def launch(
        self, study: Path, runs: Sequence[RunFolder], runtime: Runtime, resources: Resources, *, code: Path
    ) -> Sequence[Launched]:
        """Run or submit these prepared runs of a study folder, all with the same resources.

        `code`: the folder that the package is imported from in a job. Raises RoadmapError where
        nothing, or not all, could be launched; what is launched by then stays.
        """

    @abstractmethod
    def where(
        self,
        study: Path,
        runs: Sequence[str],
        *,
        finished: Collection[str] = (),
        max_age: float = MAX_AGE,
        files: Files = EACH_TIME,
    ) -> Mapping[str, JobReport]:
        """The latest job of each of these runs that this launcher has launched, by run.

        Of `finished` runs only what costs no question to the cluster. `max_age`: seconds an earlier
        answer holds. `files`: by which the run folders are read.
        """

    def resources(self, given: Mapping[str, object], *, profile: str | None = None, offline: bool = False) -> Resources:
        """What each run gets, from the options that were given. `offline`: the cluster need not answer.

        Raises ConfigError naming every option that is not legal with this launcher.
        """
        if profile is not None:
            raise RoadmapError(
                f"--profile {profile!r} is given with the launcher {self.name}; legal: with --launcher slurm, whose "
                "options a profile holds; leave it out"
            )
        return Resources(**given)

    def stored_resources(self, values: Mapping[str, Any]) -> Resources:
        """The inverse of `Resources.to_json` for this launcher's class of resources."""
        return Resources.from_json(values)

    def last_launch(self, run: RunFolder) -> Launch | None:
        """What the run was last launched with, by any launcher; None where it never was."""
        return Launch.read(run)

    def preview(self, study: Path, count: int, resources: Resources, *, code: Path) -> Preview:
        """What launching `count` runs would be. Raises RoadmapError where it would be refused."""
        return Preview()

    @contextlib.contextmanager
    def exclusive(self, study: Path) -> Iterator[None]:
        """Keep other processes from deciding what this study launches, meanwhile. Raises RunError."""
        folder = study / self.name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(folder / "lock", "w") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                raise RunError(
                    f"study {study.name} is being submitted by another process; legal: one at a time; wait for it"
                ) from e
            yield

    def recover(self, study: Path) -> Sequence[str]:
        """Find again the jobs of launches that died half-way; one sentence for each."""
        return ()

    def cancel(self, study: Path, jobs: Mapping[RunFolder, str]) -> None:
        """Take jobs, as `JobReport.job` names them, out of the queue. Raises RoadmapError."""
        raise RunError(
            f"launcher {self.name} has no queue to take {len(jobs)} runs out of; legal: runs that `roadmap status` "
            "shows with a job; stop their processes instead"
        )

    def preemption_test(self, run: RunFolder, job: str, *, wait: float, signal_name: str) -> int:
        """Preempt a job that trains and see that nothing is lost: 0, or 1. Raises RoadmapError."""
        raise RunError(
            f"launcher {self.name} preempts nothing; legal: runs that `roadmap status` shows with a job; stop the "
            "run's process and start it again instead"
        )
