"""One prepared run, trained as its launcher said: what every job of every launcher comes to.

<run>/launch.json   what it was last launched with: launcher, runtime, resources, submission
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from roadmap.config.runtime import Runtime, cores, limit_threads
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunHeld, read_json, write_json
from roadmap.runs.record import FINISHED, INTERRUPTED, Record

LAUNCH = "launch.json"
TRY_LATER = 75  # exit status (sysexits.h: EX_TEMPFAIL) of a run that has saved itself and goes on when started again
HELD_TRIES, HELD_WAIT = 24, 5.0  # a process that is being killed may hold its run for a while: tries, seconds between


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a run was launched with.

    resources: as JSON, for their class is the launcher's. submission: its id there.
    """

    launcher: str
    runtime: Runtime
    resources: Mapping[str, Any] = field(default_factory=dict)
    submission: str = ""

    @classmethod
    def read(cls, run: RunFolder) -> Launch | None:
        """The run's launch.json; None where there is none. Raises RunError on a damaged one."""
        content = read_json(run.path / LAUNCH)
        if content is None:
            return None
        return cls(
            launcher=content["launcher"],
            runtime=Runtime.from_json(content["runtime"]),
            resources=content["resources"],
            submission=content["submission"],
        )

    def write(self, run: RunFolder) -> None:
        """Note it in the run folder."""
        content = {
            "launcher": self.launcher,
            "runtime": self.runtime.to_json(),
            "resources": dict(self.resources),
            "submission": self.submission,
        }
        write_json(run.path / LAUNCH, content)


def train_prepared(run: RunFolder, runtime: Runtime, *, threads: int = 0, patient: bool = True) -> Record:
    """Train a prepared run in this process and return its record; call it before torch is imported.

    threads: of the CPU, where the runtime settings do not say; 0: OMP_NUM_THREADS, else all cores.
    patient: wait up to two minutes for another process that holds the run. Raises RunError as
    `execute` does.
    """
    threads = runtime.threads or threads or int(os.environ.get("OMP_NUM_THREADS") or cores())
    for name, value in limit_threads(threads).items():
        os.environ.setdefault(name, value)
    from roadmap.train.execute import execute

    for _ in range(HELD_TRIES - 1 if patient else 0):
        try:
            return execute(run, runtime)
        except RunHeld as e:
            print(f"{e}; waiting {HELD_WAIT:g} s", file=sys.stderr, flush=True)
            time.sleep(HELD_WAIT)
    return execute(run, runtime)


def run_prepared(run: RunFolder, runtime: Runtime) -> int:
    """Train a prepared run as it was launched, else with `runtime`; returns the exit status.

    0: finished, now or before. 1: failed, diverged or hopeless. 75: it was told to stop and has saved itself.
    """
    launch = Launch.read(run)
    # Ranks of one run start together: none may wait for the lease while the others wait for it.
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    record = train_prepared(run, _as_launched(launch) if launch else runtime, patient=alone)
    if record.status == FINISHED:
        return 0
    print(f"{run.path.name}: {record.status}: {record.error}", file=sys.stderr)
    return TRY_LATER if record.status == INTERRUPTED else 1


def _as_launched(launch: Launch) -> Runtime:
    """Its settings, with the cores that each rank was given as threads, by which loaders are counted too."""
    cores_of_rank = launch.resources.get("cpus_per_task")
    if launch.runtime.threads or not cores_of_rank:
        return launch.runtime
    return replace(launch.runtime, threads=cores_of_rank)


def unfinished_record(run: RunFolder, status: str, error: str) -> Record:
    """The record of a run whose own process could not write one."""
    trial = run.trial()
    return Record(
        status=status,
        error=error,
        id=trial.id,
        fingerprint=trial.fingerprint,
        study=run.path.parent.name,
        ladder=trial.ladder,
        regime=trial.regime,
        step=trial.step,
        change=trial.change,
        seed=trial.seed,
    )
