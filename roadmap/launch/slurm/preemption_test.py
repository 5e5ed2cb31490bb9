"""A preemption on purpose: for a user to try on a new cluster before trusting it. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from roadmap.launch.slurm.job import JOBS
from roadmap.launch.slurm.queue import ask
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, read_lines
from roadmap.runs.record import FINISHED


def preemption_test(run: RunFolder, job: str, *, wait: float, signal_name: str) -> int:
    """Signal the job that trains this run, wait for its resume, and say whether anything was lost.

    wait: seconds for each stage. Returns the exit status; raises RunError where a stage does not
    come.
    """
    before = dict(run.heartbeat() or {})
    noted = len(_events(run))
    print(
        f"{run.path.name}: job {job} is at iteration {before.get('iteration', '?')}; sending {signal_name}", flush=True
    )
    ask("scancel", f"--signal={signal_name}", job)
    requeued = _await("its requeue", wait, lambda: _next_event(run, noted, "requeue", "kept"))
    if requeued["event"] == "kept":
        print(f"saved, but not requeued: {requeued['said']}; on this cluster: roadmap retry {run.path.name}")
        return 1
    print(f"saved at iteration {requeued['checkpoint']}, requeued ({requeued['why']})", flush=True)
    attempts = len(_attempts(run))
    _await("its next start", wait, lambda: _next_event(run, noted, "start"))
    resumed = _await("its resume", wait, lambda: next(iter(_attempts(run)[attempts:]), None))
    went_on = _await("its next iteration", wait, lambda: _beyond(run, requeued["checkpoint"]))
    return _verdict(run, before, requeued, resumed, went_on)


def _events(run: RunFolder) -> list[dict[str, Any]]:
    return read_lines(run.path / JOBS)[0]


def _next_event(run: RunFolder, noted: int, *kinds: str) -> dict[str, Any] | None:
    """The first event of these kinds after the `noted` first ones."""
    return next((e for e in _events(run)[noted:] if e["event"] in kinds), None)


def _attempts(run: RunFolder) -> list[dict[str, Any]]:
    return read_lines(run.path / "attempts.jsonl")[0]


def _beyond(run: RunFolder, iteration: int) -> dict[str, Any] | None:
    """The run's heartbeat or record once it is past an iteration."""
    record, beat = run.record(), run.heartbeat() or {}
    if record and record.status == FINISHED:
        return {"iteration": record.iterations}
    return beat if beat.get("state") == "running" and beat.get("iteration", 0) > iteration else None


def _await(what: str, seconds: float, look: Callable[[], Mapping[str, Any] | None]) -> dict[str, Any]:
    """Look until there is something. Raises RunError."""
    end = time.monotonic() + seconds
    while (seen := look()) is None:
        if time.monotonic() > end:
            raise RunError(
                f"preemption test: {what} has not come in {seconds:g} s; legal: up to --wait SECONDS; look at "
                "`roadmap status` and the log, or wait longer"
            )
        time.sleep(0.5)
    return dict(seen)


def _verdict(
    run: RunFolder,
    before: Mapping[str, Any],
    requeued: Mapping[str, Any],
    resumed: Mapping[str, Any],
    went_on: Mapping[str, Any],
) -> int:
    """Print what was lost, or that nothing was; returns the exit status."""
    epochs = [m["epoch"] for m in run.metrics()]
    faults = []
    if resumed["from_iteration"] != requeued["checkpoint"]:
        faults.append(f"it resumed from iteration {resumed['from_iteration']}, not {requeued['checkpoint']}")
    if requeued["checkpoint"] < before.get("iteration", 0):
        faults.append(f"it saved iteration {requeued['checkpoint']}, but had reached {before['iteration']}")
    if epochs != list(range(1, len(epochs) + 1)):
        faults.append(f"its epochs are recorded as {epochs}")
    once = "yes" if epochs == sorted(set(epochs)) else "no"
    print(
        f"resumed from iteration {resumed['from_iteration']}, now at {went_on['iteration']}; "
        f"epochs recorded once each: {once}"
    )
    print("nothing was lost" if not faults else "LOST: " + "; ".join(faults))
    return 1 if faults else 0
