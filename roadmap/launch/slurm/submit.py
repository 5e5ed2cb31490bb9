"""Submission of runs as arrays: one for each resource shape, one task a run. No torch.

<study>/slurm/<submission>/submission.json   trials in the order of the array's tasks, resources,
                                             code; `job` once sbatch has answered
                           <job>_<task>_<rank>_log.out and submitit's own files

The submission's id is in each job's comment and name, so that jobs whose submitter died before it
could note them are found again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadmap.config.runtime import Runtime
from roadmap.launch.prepared import Launch
from roadmap.launch.slurm import submitit_adapter
from roadmap.launch.slurm.job import CANCELLED, RunJob
from roadmap.launch.slurm.queue import Seen, SlurmError, ask, clean_environment, live_jobs, past_jobs
from roadmap.launch.slurm.resources import SlurmResources
from roadmap.runs.changes import EACH_TIME, Files
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, read_json, write_json

RETRY_WAITS = (2, 4, 8, 15, 30, 30)  # seconds between attempts to reach the controller
UNREACHABLE = re.compile(r"contact|connect|timed out|timeout|socket|temporarily|try again|communication", re.IGNORECASE)
JOB_MODULE = "roadmap.launch.slurm.job"  # started as `python -m`; does not depend on the submitter having lived on
AS_THEY_ARE = (
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
)  # resources that submitit calls as we do


@dataclass(frozen=True)
class Submission:
    """One array as its file tells it. `job`: the array's id, empty until sbatch has answered."""

    folder: Path
    trials: tuple[str, ...]
    job: str

    @property
    def id(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def single(self) -> bool:
        """Whether it is a plain job, no array."""
        return len(self.trials) == 1

    @property
    def submitted(self) -> float:
        """When it was submitted, in seconds since the epoch."""
        return (self.folder / "submission.json").stat().st_mtime

    def job_at(self, index: int) -> str:
        """The id of the job of the trial at this place; empty where Slurm never answered."""
        return f"{self.job}_{index}" if self.job and not self.single else self.job


def submissions(study: Path, files: Files = EACH_TIME) -> list[Submission]:
    """All submissions of a study, the oldest first."""
    paths = sorted((study / "slurm").glob("*/submission.json"))
    contents = [(path.parent, files.read(str(path), read_json)) for path in paths]
    return [Submission(folder, tuple(c["trials"]), str(c.get("job") or "")) for folder, c in contents]


def latest_jobs(study: Path, files: Files = EACH_TIME) -> dict[str, tuple[Submission, str]]:
    """For each submitted trial its last submission and job id."""
    return {trial: (s, s.job_at(i)) for s in submissions(study, files) for i, trial in enumerate(s.trials)}


def adopt(study: Path, *, wait: float = 20) -> list[Submission]:
    """Find the jobs of submissions whose submitter died before it noted them. Raises SlurmError.

    A submission of the last seconds is waited for: its sbatch may outlive the process that called
    it. One that never reached the cluster is set aside.
    """
    adopted = []
    while nameless := [s for s in submissions(study) if not s.job]:
        names = [job_name(study, s.id) for s in nameless]
        jobs = [*live_jobs().values(), *past_jobs(names=names).values()]
        for s in nameless:
            if base := _base_of(s.id, jobs):
                _note_job(s.folder, base)
                adopted.append(s)
            elif time.time() - s.submitted > wait:
                (s.folder / "submission.json").rename(s.folder / "never-submitted.json")
        time.sleep(0.5)
    return adopted


def _base_of(submission: str, jobs: Sequence[Seen]) -> str:
    """The array's id of the job whose comment or name holds the submission's id."""
    ours = [j.job for j in jobs if submission in j.comment.split() or j.name.endswith(submission)]
    return ours[0].split("_")[0] if ours else ""


def _note_job(folder: Path, job: str) -> None:
    write_json(folder / "submission.json", {**read_json(folder / "submission.json"), "job": job})


def job_name(study: Path, submission: str) -> str:
    """A submission's name in the queue."""
    return f"{study.name[:40]}-{submission}"


def refuse_shared(folder: Path) -> None:
    """Refuse a folder that others can write to: submitit's files in it are unpickled where a job starts.

    Raises RunError.
    """
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise RunError(
            f"{folder} belongs to uid {about.st_uid} with mode {about.st_mode & 0o777:o}; "
            "legal: your own, not writable by others; chmod 700 it, or choose another --out"
        )


# Submitting -----------------------------------------------------------------------------------------------------------


def submit(
    study: Path, runs: Sequence[RunFolder], shape: SlurmResources, runtime: Runtime, *, code: Path, max_array: int
) -> list[Submission]:
    """Submit these runs, all of one shape, in arrays that the cluster accepts.

    Raises SlurmError with sbatch's own words; what is submitted by then stays.
    """
    starts = range(0, len(runs), max_array)
    return [_submit_array(study, runs[first : first + max_array], shape, runtime, code) for first in starts]


def _submit_array(
    study: Path, runs: Sequence[RunFolder], shape: SlurmResources, runtime: Runtime, code: Path
) -> Submission:
    folder = _new_folder(study)
    names = tuple(r.path.name for r in runs)
    content = {"trials": names, "job": None, "resources": shape.to_json(), "code": str(code), "time": time.time()}
    launch = Launch(launcher="slurm", runtime=runtime, resources=shape.to_json(), submission=folder.name)
    for run in runs:
        (run.path / CANCELLED).unlink(missing_ok=True)
        launch.write(run)
    write_json(folder / "submission.json", content)
    try:
        job = _sbatch_patiently(folder, runs, shape, code)
    except SlurmError:
        if not (base := _found_again(folder.name)):
            (folder / "submission.json").rename(folder / "refused.json")  # nothing of it is in the queue
            raise
        job = base
    _note_job(folder, job)
    return Submission(folder, names, job)


def _new_folder(study: Path) -> Path:
    """<study>/slurm/<time>-<random>: sorts by time, and the name is the submission's id."""
    folder = study / "slurm" / f"{time.strftime('%y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder.mkdir(parents=True, mode=0o700)
    return folder


def _sbatch_patiently(folder: Path, runs: Sequence[RunFolder], shape: SlurmResources, code: Path) -> str:
    """Submit, again while the controller cannot be reached; returns the array's id.

    Before each further try it is looked for: an answer may be lost after the job was taken.
    """
    for wait in RETRY_WAITS:
        try:
            return _sbatch(folder, runs, shape, code)
        except SlurmError as e:
            # One that ended without a word, killed by a time limit, may have been taken all the same.
            if e.said and not UNREACHABLE.search(e.said):
                raise
        time.sleep(wait)
        with contextlib.suppress(SlurmError):
            if base := _found_again(folder.name):
                return base
    return _sbatch(folder, runs, shape, code)


def _found_again(submission: str) -> str:
    return _base_of(submission, list(live_jobs().values()))


def _sbatch(folder: Path, runs: Sequence[RunFolder], shape: SlurmResources, code: Path) -> str:
    """One submission by submitit; returns the array's id. Raises SlurmError."""
    jobs = [RunJob(str(r.path)) for r in runs]
    parameters = _parameters(folder, shape, code)
    try:
        with clean_environment():
            return submitit_adapter.submit(folder, jobs, module=JOB_MODULE, python=shape.python, parameters=parameters)
    except submitit_adapter.SubmissionRefused as e:
        raise SlurmError(
            f"sbatch refused {len(runs)} runs: {e}; legal: what the cluster accepts; change the options, see "
            "`roadmap run --slurm --dry-run`",
            str(e),
        ) from e


def _parameters(folder: Path, shape: SlurmResources, code: Path) -> dict[str, Any]:
    """submitit's names for the shape. Memory, constraint and the like go as they are."""
    _refuse_unprintable(folder, code)
    path = f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
    # One of the two says how many GPUs a node gives; no option at all for a run without.
    gpus_per_node = None if shape.gres or not shape.gpus_per_node else shape.gpus_per_node
    return {
        **{name: getattr(shape, name) for name in AS_THEY_ARE},
        "job_name": job_name(folder.parents[1], folder.name),
        "comment": f"roadmap {folder.name}",
        "time": shape.time,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.ranks_per_node,
        "gpus_per_node": gpus_per_node,
        "signal_delay_s": shape.signal_seconds,
        "array_parallelism": shape.array_parallelism or 1_000_000,
        "exclusive": shape.exclusive or None,
        "stderr_to_stdout": True,
        "setup": [path, *shape.setup],
        "srun_args": _srun_words(shape),
        "additional_parameters": _sbatch_words(shape, code),
        "teardown": _after_srun(folder, shape.restarts),
    }


def _refuse_unprintable(*paths: Path) -> None:
    for path in paths:
        if not str(path).isprintable() or "%" in str(path):
            raise RunError(
                f"folder {str(path)!r} cannot be given to Slurm; legal: paths without '%' and line breaks; "
                "choose another --out"
            )


def _srun_words(shape: SlurmResources) -> list[str]:
    """Words for srun, which takes neither cpus-per-task (since 22.05) nor open-mode from sbatch.

    One dead rank ends the others.
    """
    words = ["--kill-on-bad-exit=1", "--open-mode=append"]
    if shape.cpus_per_task:
        words.append(f"--cpus-per-task={shape.cpus_per_task}")
    return [*words, *shape.srun_args]


def _sbatch_words(shape: SlurmResources, code: Path) -> dict[str, Any]:
    """Options that submitit has no name for."""
    words: dict[str, Any] = {"requeue": True, "chdir": str(code)}
    if shape.hold:
        words["hold"] = True
    if shape.reservation:
        words["reservation"] = shape.reservation
    return words


def _after_srun(folder: Path, restarts: int) -> list[str]:
    """Shell lines after the run: a step that Slurm could not create goes back into the queue.

    That happens when a node has just died.
    """
    sign = '"Unable to create step"'
    failed = f'[ $status != 0 ] && tail -n 2 "$log" | grep -q {sign} && [ $(grep -c {sign} "$log") -le {restarts} ]'
    return [
        "status=$?",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
        "job=${job:-$SLURM_JOB_ID}",
        f"log={shlex.quote(str(folder))}/${{job}}_0_log.out",
        f"if {failed}; then scontrol requeue $job && sleep 60; fi",
        "exit $status",
    ]


def script(study: Path, count: int, shape: SlurmResources, code: Path) -> str:
    """The sbatch script that would be submitted for `count` runs."""
    folder = study / "slurm" / "SUBMISSION"
    parameters = _parameters(folder, shape, code)
    return submitit_adapter.script(folder, count, module=JOB_MODULE, python=shape.python, parameters=parameters)


def start_estimate(text: str) -> str:
    """What `sbatch --test-only` says of a script: when it would start.

    Raises SlurmError where it would be refused.
    """
    try:
        code, said = _test_only(re.sub(r"^#SBATCH --(chdir|output)=.*\n", "", text, flags=re.MULTILINE))
    except TimeoutError:
        return "no estimate: sbatch --test-only has not answered for 60 s"
    if code and not UNREACHABLE.search(said):
        raise SlurmError(
            f"slurm options are refused by the cluster: {said}; legal: see `sinfo` and `sacctmgr show assoc "
            "user=$USER`; change the options or the profile",
            said,
        )
    match = re.search(r"to start at (\S+)", said)
    if match is None:
        return f"no estimate: {said}"
    if int(match[1][:4]) > time.localtime().tm_year + 2:
        return "start not known: the cluster is full of jobs without a time limit"
    return f"would start at {match[1].replace('T', ' ')}"


def _test_only(text: str) -> tuple[int, str]:
    """Ask `sbatch --test-only` about a script: exit status, and what it said.

    Raises SlurmError where there is no sbatch, TimeoutError where it does not answer.
    """
    import subprocess

    with tempfile.NamedTemporaryFile("w", suffix=".sh") as f, clean_environment():
        f.write(text)
        f.flush()
        words = ["sbatch", "--test-only", f.name]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, cwd=os.sep)
        except FileNotFoundError as e:
            raise SlurmError(
                "sbatch is not on this machine; legal: a machine where Slurm's commands are; log in to the cluster, "
                "or leave --slurm out"
            ) from e
        except subprocess.TimeoutExpired as e:
            raise TimeoutError from e
    return done.returncode, " ".join(done.stderr.replace("sbatch: ", "").split())


def cancel(jobs: Mapping[RunFolder, str]) -> None:
    """Mark each run as cancelled, so that it does not requeue itself, and cancel its job.

    Raises SlurmError.
    """
    for run in jobs:
        write_json(run.path / CANCELLED, {"time": time.time()})
    ids = [j for j in jobs.values() if j]
    for first in range(0, len(ids), 500):
        ask("scancel", *ids[first : first + 500])
