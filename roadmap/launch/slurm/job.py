"""What a Slurm job does: one run, from wherever it stands, until the cluster wants the node.

Slurm may send SIGUSR2 before the time limit and at a preemption, or SIGTERM alone; either means:
save and leave.
  before training   rank 0 asks for a requeue at once: there is nothing to save
  while training    the loop saves at the iteration's end, all ranks agreeing; rank 0 asks then
A restart that finds a newer checkpoint than the last one is free; those that do not are counted,
and refused beyond a limit.

<run>/launch.json   what the run was submitted with, see roadmap.launch.prepared
      jobs.jsonl    one line for each start, requeue and refused requeue
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from roadmap.config.runtime import cores
from roadmap.launch.prepared import TRY_LATER, Launch, train_prepared, unfinished_record
from roadmap.launch.slurm import submitit_adapter
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, read_json, read_lines, write_json
from roadmap.runs.record import FAILED, INTERRUPTED, LOST_PEER, SETTLED, Record

JOBS = "jobs.jsonl"
CANCELLED = "cancelled"  # a file of this name in the run folder: `roadmap cancel` was here
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
MEET_SECONDS = 300  # within which rank 0 must have said where it is


@dataclass(frozen=True)
class Attempt:
    """This process's place in the job. job: 12_3 for an array's task. restart: how many before."""

    job: str
    restart: int
    rank: int
    world_size: int

    @classmethod
    def here(cls) -> Attempt:
        """As Slurm's variables tell."""
        env = os.environ
        job = env["SLURM_JOB_ID"]
        if "SLURM_ARRAY_JOB_ID" in env:
            job = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
        return cls(
            job,
            int(env.get("SLURM_RESTART_COUNT", 0)),
            int(env.get("SLURM_PROCID", 0)),
            int(env.get("SLURM_NTASKS", 1)),
        )


class RunJob:
    """What is submitted: a run folder's path and nothing else.

    Called on every rank; the folder tells the rest.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self) -> str:
        run, here = RunFolder(Path(self.folder)), Attempt.here()
        listen(run, here)
        if here.rank == 0:
            _begin(run, here)
        _meet(run, here)
        record = _train(run, here)
        for s in SIGNALS:
            signal.signal(s, signal.SIG_IGN)
        if here.rank:
            return _end_of_other_rank(here, record)
        if record.error_kind == LOST_PEER:  # no rank has failed by itself: a node died, which is no fault of the run
            record = record.replace(status=INTERRUPTED)
            run.write_record(record)
        if record.status == INTERRUPTED:
            leave(run, here, _why_interrupted(record))
        if record.status not in SETTLED:
            raise RuntimeError(f"{run.path.name} {record.status}: {record.error}")
        return record.status

    def checkpoint(self) -> Any:
        """Start again as submitted: for a signal before `__call__` takes over from submitit."""
        return submitit_adapter.submission_again(self)


def _why_interrupted(record: Record) -> str:
    if record.error_kind == LOST_PEER:
        return "another rank is gone"
    return f"stopped by {record.stopped_by or 'another rank'}"


# Before training ------------------------------------------------------------------------------------------------------


def listen(run: RunFolder, here: Attempt) -> None:
    """Listen until the loop does: rank 0 requeues at once, others pass the signal on to the loop."""

    def handle(number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if here.rank == 0:
            for s in SIGNALS:
                signal.signal(s, signal.SIG_IGN)
            leave(run, here, f"{name} while not training")
        threading.Thread(target=pass_on, args=(number,), daemon=True).start()

    def pass_on(number: int) -> None:
        while signal.getsignal(number) is handle:
            time.sleep(0.1)
        os.kill(os.getpid(), number)

    for s in SIGNALS:
        signal.signal(s, handle)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)


def _begin(run: RunFolder, here: Attempt) -> None:
    """Note the start; refuse one restart too many. Raises RunError, which makes the job FAILED."""
    (run.path / CANCELLED).unlink(missing_ok=True)
    newest = run.newest_checkpoint()
    idle = idle_restarts(run, here.job, newest)
    start = {"restart": here.restart, "checkpoint": newest, "node": _node(), "pid": os.getpid(), "cores": cores()}
    _note(run, here, "start", **start)
    allowed = int(_launch(run).resources["restarts"])
    if idle > allowed:
        error = (
            f"started again {idle} times without a new checkpoint; legal: {allowed}; "
            f"see `roadmap logs {run.path.name}`, then `roadmap retry {run.path.name}`"
        )
        run.write_record(unfinished_record(run, FAILED, error))
        raise RunError(f"{run.path.name} {error}")


def idle_restarts(run: RunFolder, job: str, newest: int) -> int:
    """How many earlier starts in a row of this job began with the checkpoint that is still the newest."""
    lines = read_lines(run.path / JOBS)[0]
    starts = [line["checkpoint"] for line in lines if line["event"] == "start" and line["job"] == job]
    idle = 0
    while idle < len(starts) and starts[-1 - idle] == newest:
        idle += 1
    return idle


def _launch(run: RunFolder) -> Launch:
    """What the run was submitted with. Raises RunError where the folder does not say."""
    launch = Launch.read(run)
    if launch is None:
        raise RunError(
            f"{run.path} has no launch.json; legal: a folder that `roadmap run --slurm` prepared and that all nodes "
            "share; check the file system of --out"
        )
    return launch


def _note(run: RunFolder, here: Attempt, event: str, **more: Any) -> None:
    """Append an event of this job to the run's jobs.jsonl."""
    run.append(JOBS, {"event": event, "job": here.job, **more, "time": time.time()})


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _meet(run: RunFolder, here: Attempt) -> None:
    """Agree on rank 0's address and a port that is free now: no earlier attempt can be there.

    Raises RunError after five minutes.
    """
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    if here.world_size == 1:
        return
    path = run.path / f"meeting-{here.job}-{here.restart}.json"
    if here.rank == 0:
        for old in run.path.glob("meeting-*.json"):
            old.unlink(missing_ok=True)
        address = os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or socket.gethostname()
        with socket.socket() as s:
            s.bind(("", 0))
            write_json(path, {"address": address, "port": s.getsockname()[1]})
    end = time.monotonic() + MEET_SECONDS
    while (point := read_json(path)) is None:
        if time.monotonic() > end:
            raise RunError(
                f"{path} has not appeared in {MEET_SECONDS} s; legal: a folder that all nodes share; "
                "check the file system of --out"
            )
        time.sleep(0.2)
    os.environ.update(MASTER_ADDR=str(point["address"]), MASTER_PORT=str(point["port"]))


# Training and its end -------------------------------------------------------------------------------------------------


def _train(run: RunFolder, here: Attempt) -> Record:
    """Execute the run, on the cores of a rank.

    One rank alone waits for a process that is being killed.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK") or 0)
    return train_prepared(run, _launch(run).runtime, threads=threads, patient=here.world_size == 1)


def _end_of_other_rank(here: Attempt, record: Record) -> str:
    """Rank 0 speaks for all.

    An interrupted rank waits to be ended with the job; a failed one has left its cause for rank 0.
    """
    if record.status in SETTLED:
        return record.status
    if record.status == INTERRUPTED or record.error_kind == LOST_PEER:
        time.sleep(60)
        return INTERRUPTED
    raise RuntimeError(f"rank {here.rank}: {record.error}")


# Back into the queue --------------------------------------------------------------------------------------------------


def leave(run: RunFolder, here: Attempt, why: str) -> NoReturn:
    """Ask Slurm to run this job again and end the process.

    Refused: the run stays as it was saved, and the log says how to go on.
    """
    said, status = "", 0
    if (run.path / CANCELLED).exists():
        said, status = "it was cancelled", TRY_LATER
    elif (state := _job_state(here.job)) not in ("RUNNING", ""):
        # Slurm is ending the job itself: cancelled, out of time, or about to be requeued.
        # Asking would undo a user's scancel.
        said = f"Slurm is ending the job already ({state})"
    elif said := requeue(here.job):
        status = TRY_LATER
    name = run.path.name
    if said:
        _note(run, here, "kept", why=why, said=said)
        print(f"{name}: {why}; not requeued: {said}; nothing is lost, to go on: roadmap retry {name}", file=sys.stderr)
    else:
        _note(run, here, "requeue", why=why, checkpoint=run.newest_checkpoint())
        print(f"{name}: {why}; requeued as job {here.job}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def requeue(job: str, *, tries: int = 6) -> str:
    """Ask for a requeue; returns why it was refused, empty where it was accepted.

    A controller that does not answer is asked again for half a minute.
    """
    said = ""
    for k in range(tries):
        if k:
            time.sleep(6)
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as e:
            said = f"scontrol requeue: {e}"
            continue
        said = " ".join((done.stderr or done.stdout).split())
        if done.returncode == 0:
            return ""
        if not re.search(r"contact|connect|timed out|Socket", said, re.IGNORECASE):
            break
    return said or "refused"


def _job_state(job: str) -> str:
    """Slurm's word for this job now, empty where it cannot be had."""
    words = ["squeue", "--noheader", "--array", f"--jobs={job}", "--states=all", "--format=%T"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0].strip() if done.stdout.strip() else ""


def start(folder: Path) -> None:
    """Begin as the job's entry: listen for signals first, then hand over to submitit. Raises RunError."""
    here = Attempt.here()
    submission = read_json(folder / "submission.json")
    if submission is None:
        raise RunError(
            f"{folder} has no submission.json; legal: a folder of `roadmap run --slurm` that all nodes share; "
            "check the file system of --out"
        )
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    run = RunFolder(folder.parents[1] / submission["trials"][index])
    listen(run, here)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise RunError(
            f"{folder} is writable by others; legal: mode 700; nothing is unpickled from it: chmod 700 it, "
            f"then roadmap retry {run.path.name}"
        )
    submitit_adapter.begin(folder, here.job, here.rank, RunJob(str(run.path)))


if __name__ == "__main__":
    # The object must be unpickled as roadmap.launch.slurm.job's, not as __main__'s.
    from roadmap.launch.slurm.job import start as start_imported

    start_imported(Path(sys.argv[1]))
