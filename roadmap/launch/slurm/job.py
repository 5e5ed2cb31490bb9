"""What a Slurm job does: one run, from wherever it stands, and back into the queue when the cluster wants the node.

Slurm may send SIGUSR2 before the time limit and at a preemption, or SIGTERM alone; either means: save and leave.
  before training   rank 0 asks for a requeue at once: there is nothing to save
  while training    the loop saves at the end of the iteration, all ranks agreeing; then rank 0 asks for the requeue
A restart that finds a newer checkpoint than the last one is free; those that do not are counted, and refused beyond a limit.

<run>/slurm.json    what the run was submitted with: its submission's folder, its machine settings
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

from roadmap.config.runtime import Runtime, cores, limit_threads
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, read_json, read_lines, write_json
from roadmap.runs.record import FAILED, FINISHED, INTERRUPTED, Record

JOBS = "jobs.jsonl"
SUBMITTED = "slurm.json"
CANCELLED = "cancelled"  # a file of this name in the run folder: `roadmap cancel` was here
TRY_LATER = 75  # exit status of a run that has saved itself but was not requeued
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
LOST_PEER = re.compile(
    r"Connection (closed|reset|refused)|closed by peer|Broken pipe|socket|NCCL|Gloo|EADDRINUSE|address already in use|timed out|heartbeat",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Attempt:
    """This process's place in the job: 12_3 for an array's task, the restart count, the rank."""

    job: str
    restart: int
    rank: int
    world: int

    @classmethod
    def here(cls) -> Attempt:
        env = os.environ
        job = (
            f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
            if "SLURM_ARRAY_JOB_ID" in env
            else env["SLURM_JOB_ID"]
        )
        return cls(
            job,
            int(env.get("SLURM_RESTART_COUNT", 0)),
            int(env.get("SLURM_PROCID", 0)),
            int(env.get("SLURM_NTASKS", 1)),
        )


class RunJob:
    """What is submitted: a run folder's path and nothing else. Called on every rank of the job; everything else is read from the folder."""

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
            return _end_of_other_rank(run, here, record)
        if record["status"] == FAILED and _lost_a_peer(run, here, record):
            record = record.replace(status=INTERRUPTED)
            run.write_record(record)
        if record["status"] == INTERRUPTED:
            leave(run, here, str(record.get("error", "")).split(";")[0])
        if record["status"] != FINISHED:
            raise RuntimeError(f"{run.path.name} {record['status']}: {record.get('error')}")
        return str(record["status"])

    def checkpoint(self) -> Any:
        """Only for a signal in the instant before `__call__` has taken over from submitit's handler: start again as submitted."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


# Before training ---------------------------------------------------------------------------------------------------------


def listen(run: RunFolder, here: Attempt) -> None:
    """From now until the loop listens: rank 0 requeues at once, other ranks pass the signal on when the loop is there."""

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
    run.append(
        JOBS,
        {
            "event": "start",
            "job": here.job,
            "restart": here.restart,
            "checkpoint": newest,
            "node": _node(),
            "pid": os.getpid(),
            "cores": cores(),
            "time": time.time(),
        },
    )
    allowed = int(_submitted(run).get("restarts", 5))
    if idle > allowed:
        error = f"started again {idle} times without a new checkpoint; legal: {allowed}; see `roadmap logs {run.path.name}`, then `roadmap retry {run.path.name}`"
        run.write_record({**_labels(run), "status": FAILED, "error": error})
        raise RunError(f"{run.path.name} {error}")


def idle_restarts(run: RunFolder, job: str, newest: int) -> int:
    """How many earlier starts in a row of this job began with the checkpoint that is still the newest."""
    starts = [
        line["checkpoint"] for line in read_lines(run.path / JOBS)[0] if line["event"] == "start" and line["job"] == job
    ]
    return next((k for k, checkpoint in enumerate(reversed(starts)) if checkpoint != newest), len(starts))


def _labels(run: RunFolder) -> dict[str, Any]:
    trial = run.trial()
    return {
        "version": 1,
        "id": trial.id,
        "fingerprint": trial.fingerprint,
        "study": run.path.parent.name,
        "regime": trial.regime,
        "step": trial.step,
        "change": trial.change,
        "seed": trial.seed,
    }


def _submitted(run: RunFolder) -> dict[str, Any]:
    return read_json(run.path / SUBMITTED) or {}


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _meet(run: RunFolder, here: Attempt) -> None:
    """Agree on rank 0's address and a port that is free now, so that no process of an earlier attempt can be there. Raises RunError after five minutes."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    if here.world == 1:
        return
    path = run.path / f"meeting-{here.job}-{here.restart}.json"
    if here.rank == 0:
        for old in run.path.glob("meeting-*.json"):
            old.unlink(missing_ok=True)
        with socket.socket() as s:
            s.bind(("", 0))
            write_json(
                path,
                {
                    "address": os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or socket.gethostname(),
                    "port": s.getsockname()[1],
                },
            )
    end = time.monotonic() + 300
    while (point := read_json(path)) is None:
        if time.monotonic() > end:
            raise RunError(
                f"{path} has not appeared in 300 s; legal: a folder that all nodes share; check the file system of --out"
            )
        time.sleep(0.2)
    os.environ.update(MASTER_ADDR=str(point["address"]), MASTER_PORT=str(point["port"]))


# Training and its end ----------------------------------------------------------------------------------------------------


def _train(run: RunFolder, here: Attempt) -> Record:
    """Execute the run. A folder still held by a process that is being killed is waited for."""
    machine = Runtime.from_json(_submitted(run)["machine"])
    threads = machine.threads or int(
        os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK") or cores()
    )
    os.environ.update({k: v for k, v in limit_threads(threads).items() if k not in os.environ})
    from roadmap.train.execute import execute

    for tries in range(24):
        try:
            return execute(run, machine)
        except RunError as e:
            if "is being trained by" not in str(e) or here.world > 1 or tries == 23:
                raise
            print(f"{e}; waiting 5 s", file=sys.stderr, flush=True)
            time.sleep(5)
    raise AssertionError


def _end_of_other_rank(run: RunFolder, here: Attempt, record: Record) -> str:
    """Rank 0 speaks for all. An interrupted rank waits to be ended with the job, a failed one says why first."""
    if record["status"] == FINISHED:
        return FINISHED
    if record["status"] == INTERRUPTED or LOST_PEER.search(str(record.get("error"))):
        time.sleep(60)
        return INTERRUPTED
    write_json(run.path / f"failed-rank-{here.rank}-{here.job}-{here.restart}.json", {"error": record.get("error")})
    raise RuntimeError(f"rank {here.rank}: {record.get('error')}")


def _lost_a_peer(run: RunFolder, here: Attempt, record: Record) -> bool:
    """Whether the failure is only another rank's silence: its node died, which is no fault of the run."""
    if here.world == 1 or not LOST_PEER.search(str(record.get("error"))):
        return False
    time.sleep(3)
    return not list(run.path.glob(f"failed-rank-*-{here.job}-{here.restart}.json"))


# Back into the queue -----------------------------------------------------------------------------------------------------


def leave(run: RunFolder, here: Attempt, why: str) -> NoReturn:
    """Ask Slurm to run this job again and end the process. Refused: the run stays as it was saved, and the log says how to go on."""
    status = TRY_LATER
    if (run.path / CANCELLED).exists():
        said = "it was cancelled"
    elif (state := _job_state(here.job)) not in ("RUNNING", ""):
        # Slurm is ending the job by itself: cancelled, out of time, or about to be requeued. Asking would undo a user's scancel.
        said, status = f"Slurm is ending the job already ({state})", 0
    else:
        said = requeue(here.job)
    if said:
        run.append(JOBS, {"event": "kept", "job": here.job, "why": why, "said": said, "time": time.time()})
        print(
            f"{run.path.name}: {why}; not requeued: {said}; nothing is lost, to go on: roadmap retry {run.path.name}",
            file=sys.stderr,
        )
    else:
        run.append(
            JOBS,
            {
                "event": "requeue",
                "job": here.job,
                "why": why,
                "checkpoint": run.newest_checkpoint(),
                "time": time.time(),
            },
        )
        print(f"{run.path.name}: {why}; requeued as job {here.job}", file=sys.stderr)
        status = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def requeue(job: str, *, tries: int = 6) -> str:
    """`scontrol requeue`; empty where it was accepted, else why not. A controller that does not answer is asked again for half a minute."""
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
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--array", f"--jobs={job}", "--states=all", "--format=%T"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0].strip() if done.stdout.strip() else ""


def start(folder: Path) -> None:
    """The job's entry: make what submitit needs if the submitter died before it could, then hand over to submitit."""
    import shlex

    here = Attempt.here()
    submission = read_json(folder / "submission.json")
    if submission is None:
        raise RunError(
            f"{shlex.quote(str(folder))} has no submission.json; legal: a folder of `roadmap run --slurm` that all nodes share; check the file system of --out"
        )
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    run = RunFolder(folder.parents[1] / submission["trials"][index])
    listen(run, here)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise RunError(
            f"{folder} is writable by others; legal: mode 700; nothing is unpickled from it: chmod 700 it, then roadmap retry {run.path.name}"
        )
    from submitit.core.submission import process_job
    from submitit.core.utils import DelayedSubmission, JobPaths

    pickle = JobPaths(folder, job_id=here.job).submitted_pickle
    if here.rank == 0:
        pickle.with_suffix(pickle.suffix + ".save_tmp").unlink(
            missing_ok=True
        )  # left by a process that was killed while it wrote
    if not pickle.exists():
        temporary = pickle.with_name(f".{pickle.name}.{here.rank}.{os.getpid()}")
        DelayedSubmission(RunJob(str(run.path))).dump(temporary)
        os.replace(temporary, pickle)
    process_job(folder)


if __name__ == "__main__":
    # The object must be unpickled as roadmap.launch.slurm.job's, not as __main__'s.
    from roadmap.launch.slurm.job import start as start_imported

    start_imported(Path(sys.argv[1]))
