"""Submission through submitit: one array for each resource shape, one task a run. No torch; submitit only where something is submitted.

<study>/slurm/<submission>/submission.json   trials in the order of the array's tasks, resources, code; `job` once sbatch has answered
                           <job>_<task>_<rank>_log.out and submitit's own files
The submission's id is in each job's comment and name, so that jobs whose submitter died before it could note them are found again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadmap.config.runtime import Runtime
from roadmap.launch.slurm.job import CANCELLED, SUBMITTED, RunJob
from roadmap.launch.slurm.queue import Seen, SlurmError, ask, clean_environment, live_jobs, past_jobs
from roadmap.launch.slurm.resources import Resources
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, read_json, write_json

RETRY_WAITS = (2, 4, 8, 15, 30, 30)  # seconds between attempts to reach the controller
UNREACHABLE = re.compile(r"contact|connect|timed out|timeout|socket|temporarily|try again|communication", re.IGNORECASE)


@dataclass(frozen=True)
class Submission:
    """One array as its file tells it. `job`: the array's id, empty until sbatch has answered."""

    folder: Path
    trials: tuple[str, ...]
    job: str
    single: bool

    @property
    def id(self) -> str:
        return self.folder.name

    def job_of(self, trial: str) -> str:
        """The id of this trial's job; empty where the submission was never answered."""
        if not self.job:
            return ""
        return self.job if self.single else f"{self.job}_{self.trials.index(trial)}"


def submissions(study: Path) -> list[Submission]:
    """All submissions of a study, the oldest first."""
    found = []
    for path in sorted((study / "slurm").glob("*/submission.json")):
        content = read_json(path)
        found.append(
            Submission(
                path.parent, tuple(content["trials"]), str(content.get("job") or ""), len(content["trials"]) == 1
            )
        )
    return found


def latest_jobs(study: Path) -> dict[str, tuple[Submission, str]]:
    """For each submitted trial its last submission and job id."""
    return {trial: (s, s.job_of(trial)) for s in submissions(study) for trial in s.trials}


def adopt(study: Path, *, wait: float = 20) -> list[Submission]:
    """Find the jobs of submissions whose submitter died before it noted them; returns those found. Raises SlurmError.

    A submission of the last seconds is waited for: its sbatch may outlive the process that called it. One that never reached the cluster is set aside.
    """
    found = []
    while nameless := [s for s in submissions(study) if not s.job]:
        jobs = [*live_jobs().values(), *past_jobs(names=[job_name(study, s.id) for s in nameless]).values()]
        for s in nameless:
            if base := _base_of(s.id, jobs):
                _note_job(s.folder, base)
                found.append(s)
            elif time.time() - (s.folder / "submission.json").stat().st_mtime > wait:
                (s.folder / "submission.json").rename(s.folder / "never-submitted.json")
        time.sleep(0.5)
    return found


def _base_of(submission: str, jobs: Sequence[Seen]) -> str:
    """The array's id of the job whose comment or name holds the submission's id."""
    return next(
        (j.job.split("_")[0] for j in jobs if submission in j.comment.split() or j.name.endswith(submission)), ""
    )


def _note_job(folder: Path, job: str) -> None:
    write_json(folder / "submission.json", {**read_json(folder / "submission.json"), "job": job})


def job_name(study: Path, submission: str) -> str:
    return f"{study.name[:40]}-{submission}"


@contextlib.contextmanager
def one_submitter(study: Path) -> Iterator[None]:
    """Only one process at a time decides what a study submits, into folders that nobody else can enter. Raises RunError."""
    for folder in (study, study / "slurm"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        refuse_shared(folder)
    with open(folder / "lock", "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise RunError(
                f"study {study.name} is being submitted by another process; legal: one at a time; wait for it"
            ) from e
        yield


def refuse_shared(folder: Path) -> None:
    """submitit's files are unpickled where a job starts: nobody else may be able to put one there. Raises RunError."""
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise RunError(
            f"{folder} belongs to uid {about.st_uid} with mode {about.st_mode & 0o777:o}; legal: your own, not writable by others; chmod 700 it, or choose another --out"
        )


# Submitting --------------------------------------------------------------------------------------------------------------


def submit(
    study: Path, runs: Sequence[RunFolder], shape: Resources, machine: Runtime, *, code: Path, max_array: int
) -> list[Submission]:
    """Submit these runs, all of one shape, in arrays that the cluster accepts. Raises SlurmError with sbatch's own words; what is submitted by then stays."""
    done = []
    for first in range(0, len(runs), max_array):
        done.append(_submit_array(study, runs[first : first + max_array], shape, machine, code))
    return done


def _submit_array(study: Path, runs: Sequence[RunFolder], shape: Resources, machine: Runtime, code: Path) -> Submission:
    folder = _new_folder(study)
    names = tuple(r.path.name for r in runs)
    content = {"trials": names, "job": None, "resources": shape.to_json(), "code": str(code), "time": time.time()}
    for run in runs:
        (run.path / CANCELLED).unlink(missing_ok=True)
        write_json(
            run.path / SUBMITTED, {"submission": folder.name, "machine": machine.to_json(), "restarts": shape.restarts}
        )
    write_json(folder / "submission.json", content)
    try:
        job = _sbatch_patiently(folder, runs, shape, code)
    except SlurmError:
        if not (base := _found_again(folder.name)):
            (folder / "submission.json").rename(folder / "refused.json")  # nothing of it is in the queue
            raise
        job = base
    _note_job(folder, job)
    return Submission(folder, names, job, len(runs) == 1)


def _new_folder(study: Path) -> Path:
    """<study>/slurm/<time>-<random>: sorts by time, and the name is the submission's id."""
    folder = study / "slurm" / f"{time.strftime('%y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder.mkdir(parents=True, mode=0o700)
    return folder


def _sbatch_patiently(folder: Path, runs: Sequence[RunFolder], shape: Resources, code: Path) -> str:
    """submitit's submission, again while the controller cannot be reached; before each further try it is looked for, for an answer may be lost after the job was taken."""
    for wait in (*RETRY_WAITS, None):
        try:
            return _sbatch(folder, runs, shape, code)
        except SlurmError as e:
            if wait is None or not UNREACHABLE.search(e.said):
                raise
        time.sleep(wait)
        with contextlib.suppress(SlurmError):
            if base := _found_again(folder.name):
                return base
    raise AssertionError


def _found_again(submission: str) -> str:
    return _base_of(submission, list(live_jobs().values()))


def _sbatch(folder: Path, runs: Sequence[RunFolder], shape: Resources, code: Path) -> str:
    """One submission by submitit; returns the array's id. Raises SlurmError."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = _executor(folder, shape, code)
    try:
        with clean_environment():
            jobs = executor.submit_array([RunJob(str(r.path)) for r in runs])
    except (FailedJobError, FailedSubmissionError) as e:
        said = " ".join(str(e).split())
        raise SlurmError(
            f"sbatch refused {len(runs)} runs: {said}; legal: what the cluster accepts; change the options, see `roadmap run --slurm --dry-run`",
            said,
        ) from e
    return str(jobs[0].job_id).split("_")[0]


def _executor(folder: Path, shape: Resources, code: Path) -> Any:
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        """submitit's, starting each task through slurm_job.start, which does not depend on the submitter having lived on."""

        @property
        def _submitit_command_str(self) -> str:
            return f"{self.python} -u -m roadmap.launch.slurm.job {shlex.quote(str(self.folder))}"

        @classmethod
        def affinity(cls) -> int:
            return 2  # a script can be shown on any machine; sbatch itself tells where there is none

    executor = Executor(folder, python=shape.python)
    executor.update_parameters(**_parameters(folder, shape, code))
    return executor


def _parameters(folder: Path, shape: Resources, code: Path) -> dict[str, Any]:
    """submitit's names for the shape. Memory, constraint and the like go as they are."""
    for path in (folder, code):
        if not str(path).isprintable() or "%" in str(path):
            raise RunError(
                f"folder {str(path)!r} cannot be given to Slurm; legal: paths without '%' and line breaks; choose another --out"
            )
    words = {
        k: getattr(shape, k)
        for k in (
            "partition",
            "account",
            "qos",
            "mem",
            "constraint",
            "exclude",
            "nodelist",
            "gres",
            "wckey",
            "cpus_per_task",
        )
    }
    further: dict[str, Any] = {"requeue": True, "chdir": str(code)}
    further |= {"hold": True} if shape.hold else {}
    further |= {"reservation": shape.reservation} if shape.reservation else {}
    # srun takes neither cpus-per-task (since 22.05) nor open-mode from sbatch; one dead rank ends the others.
    srun = [
        "--kill-on-bad-exit=1",
        "--open-mode=append",
        *([f"--cpus-per-task={shape.cpus_per_task}"] if shape.cpus_per_task else []),
        *shape.srun_args,
    ]
    paths = [f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"]
    return {
        **words,
        "job_name": job_name(folder.parents[1], folder.name),
        "comment": f"roadmap {folder.name}",
        "time": shape.time,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.ranks_per_node,
        "gpus_per_node": shape.gpus_per_node or None if not shape.gres else None,
        "signal_delay_s": shape.signal_seconds,
        "array_parallelism": shape.array_parallelism or 1_000_000,
        "exclusive": True if shape.exclusive else None,
        "stderr_to_stdout": True,
        "setup": [*paths, *shape.setup],
        "srun_args": srun,
        "additional_parameters": further,
        "teardown": _after_srun(folder, shape.restarts),
    }


def _after_srun(folder: Path, restarts: int) -> list[str]:
    """Shell lines after the run: a step that Slurm could not even create, as happens when a node has just died, goes back into the queue a few times."""
    sign = '"Unable to create step"'
    return [
        "status=$?",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
        "job=${job:-$SLURM_JOB_ID}",
        f"log={shlex.quote(str(folder))}/${{job}}_0_log.out",
        f'if [ $status != 0 ] && tail -n 2 "$log" | grep -q {sign} && [ $(grep -c {sign} "$log") -le {restarts} ]; then scontrol requeue $job && sleep 60; fi',
        "exit $status",
    ]


def script(study: Path, count: int, shape: Resources, code: Path) -> str:
    """The sbatch script that would be submitted for `count` runs."""
    executor = _executor(study / "slurm" / "SUBMISSION", shape, code)
    if count > 1:
        executor.parameters["map_count"] = count
    return str(executor._make_submission_file_text(executor._submitit_command_str, "0"))


def start_estimate(text: str) -> str:
    """What `sbatch --test-only` says of a script: when it would start. Raises SlurmError where the cluster would refuse it."""
    import subprocess

    with tempfile.NamedTemporaryFile("w", suffix=".sh") as f:
        f.write(re.sub(r"^#SBATCH --(chdir|output)=.*\n", "", text, flags=re.MULTILINE))
        f.flush()
        try:
            with clean_environment():
                done = subprocess.run(
                    ["sbatch", "--test-only", f.name],
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                    cwd=os.sep,
                )
        except FileNotFoundError as e:
            raise SlurmError(
                "sbatch is not on this machine; legal: a machine where Slurm's commands are; log in to the cluster, or leave --slurm out"
            ) from e
        except subprocess.TimeoutExpired:
            return "no estimate: sbatch --test-only has not answered for 60 s"
    said = " ".join(done.stderr.replace("sbatch: ", "").split())
    if done.returncode and not UNREACHABLE.search(said):
        raise SlurmError(
            f"slurm options are refused by the cluster: {said}; legal: see `sinfo` and `sacctmgr show assoc user=$USER`; change the options or the profile",
            said,
        )
    if match := re.search(r"to start at (\S+)", said):
        return (
            "start not known: the cluster is full of jobs without a time limit"
            if int(match[1][:4]) > time.localtime().tm_year + 2
            else f"would start at {match[1].replace('T', ' ')}"
        )
    return f"no estimate: {said}"


def cancel(jobs: Mapping[RunFolder, str]) -> None:
    """Mark each run as cancelled, so that it does not requeue itself, and cancel its job. Raises SlurmError."""
    for run in jobs:
        write_json(run.path / CANCELLED, {"time": time.time()})
    ids = [j for j in jobs.values() if j]
    for first in range(0, len(ids), 500):
        ask("scancel", *ids[first : first + 500])
