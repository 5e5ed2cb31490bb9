"""All that is used of submitit, private members included; nothing else imports submitit.

`broken_members` says what of it is gone or has another signature; the test of it, and `_checked`
before a submission, name submitit's version. No torch; submitit is imported only where something is
submitted or a job begins.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from roadmap.config.errors import RoadmapError, listing

SUPPORTED = ">=1.5.2,<1.6"  # as in pyproject.toml
SBATCH_PARAMETERS = (
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
    "job_name",
    "comment",
    "time",
    "nodes",
    "ntasks_per_node",
    "gpus_per_node",
    "signal_delay_s",
    "array_parallelism",
    "exclusive",
    "stderr_to_stdout",
    "setup",
    "teardown",
    "srun_args",
    "additional_parameters",
)  # legal for SlurmExecutor.update_parameters
# What is called or overridden, with the parameters that it must have; None: a property, or an attribute of an instance.
MEMBERS: Mapping[str, tuple[str, ...] | None] = {
    "submitit.slurm.slurm:SlurmExecutor": ("folder", "python"),
    "submitit.slurm.slurm:SlurmExecutor.affinity": (),
    "submitit.slurm.slurm:SlurmExecutor.update_parameters": ("kwargs",),
    "submitit.slurm.slurm:SlurmExecutor.submit_array": ("fns",),
    "submitit.slurm.slurm:SlurmExecutor._submitit_command_str": None,
    "submitit.slurm.slurm:SlurmExecutor._make_submission_file_text": ("self", "command", "uid"),
    "submitit.slurm.slurm:_make_sbatch_string": ("command", "folder", "map_count", *SBATCH_PARAMETERS),
    "submitit.core.core:Job.job_id": None,
    "submitit.core.submission:process_job": ("folder",),
    "submitit.core.utils:DelayedSubmission": ("function",),
    "submitit.core.utils:DelayedSubmission.dump": ("self", "filepath"),
    "submitit.core.utils:DelayedSubmission.load": ("filepath",),
    "submitit.core.utils:JobPaths": ("folder", "job_id"),
    "submitit.core.utils:JobPaths.submitted_pickle": None,
    "submitit.core.utils:FailedJobError": None,
    "submitit.core.utils:FailedSubmissionError": None,
}


class SubmissionRefused(RoadmapError):
    """sbatch did not take a submission; the text is sbatch's own."""


def version() -> str:
    """The installed submitit's, as text."""
    return importlib.metadata.version("submitit")


def broken_members() -> list[str]:
    """What this file uses of submitit and the installed one lacks, or has with other parameters."""
    return [f"{name} {fault}" for name, parameters in MEMBERS.items() if (fault := _fault(name, parameters))]


def _fault(name: str, parameters: tuple[str, ...] | None) -> str:
    """What is wrong with one member; empty if nothing is."""
    module, _, path = name.partition(":")
    try:
        member: Any = importlib.import_module(module)
        for part in path.split("."):
            member = inspect.getattr_static(member, part) if part.startswith("_") else getattr(member, part)
    except (ImportError, AttributeError):
        return "is gone"
    if parameters is None:
        return ""
    has = inspect.signature(member).parameters
    missing = [p for p in parameters if p not in has]
    return f"lacks the parameter {listing(missing)}" if missing else ""


def _checked() -> None:
    """Refuse a submitit that lacks what is used here, before anything is submitted.

    Raises RoadmapError.
    """
    if broken := broken_members():
        raise RoadmapError(
            f"submitit {version()} is not usable: {'; '.join(broken)}; legal: submitit{SUPPORTED}; "
            f"pip install 'submitit{SUPPORTED}'"
        )


def _executor(folder: Path, module: str, python: str | None, parameters: Mapping[str, Any]) -> Any:
    """An executor of submitit's that starts each task as `python -m MODULE FOLDER`."""
    _checked()
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        @property
        def _submitit_command_str(self) -> str:
            return f"{self.python} -u -m {module} {shlex.quote(str(self.folder))}"

        @classmethod
        def affinity(cls) -> int:
            return 2  # a script can be shown on any machine; sbatch itself tells where there is none

    executor = Executor(folder, python=python)
    executor.update_parameters(**parameters)
    return executor


def submit(
    folder: Path,
    functions: Sequence[Callable[[], Any]],
    *,
    module: str,
    python: str | None,
    parameters: Mapping[str, Any],
) -> str:
    """Submit these functions as one array, or as a job if there is one; returns its id.

    Raises SubmissionRefused.
    """
    executor = _executor(folder, module, python, parameters)
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        jobs = executor.submit_array(functions)
    except (FailedJobError, FailedSubmissionError) as e:
        raise SubmissionRefused(" ".join(str(e).split())) from e
    return str(jobs[0].job_id).split("_")[0]


def script(folder: Path, count: int, *, module: str, python: str | None, parameters: Mapping[str, Any]) -> str:
    """The sbatch script that `submit` would give to sbatch for `count` functions."""
    executor = _executor(folder, module, python, parameters)
    if count > 1:
        executor.parameters["map_count"] = count
    return str(executor._make_submission_file_text(executor._submitit_command_str, "0"))


def begin(folder: Path, job: str, rank: int, function: Callable[[], Any]) -> None:
    """Run the job's pickled function, making the pickle if the submitter died before it could.

    Removes the half-written pickle of a process that was killed, which would fail the next
    preemption.
    """
    from submitit.core.submission import process_job
    from submitit.core.utils import DelayedSubmission, JobPaths

    pickle = JobPaths(folder, job_id=job).submitted_pickle
    if rank == 0:
        pickle.with_suffix(pickle.suffix + ".save_tmp").unlink(missing_ok=True)
    if not pickle.exists():
        temporary = pickle.with_name(f".{pickle.name}.{rank}.{os.getpid()}")
        DelayedSubmission(function).dump(temporary)
        os.replace(temporary, pickle)
    process_job(folder)


def submission_again(function: Callable[[], Any]) -> Any:
    """What a job's `checkpoint` returns to be started again as it was submitted."""
    from submitit.core.utils import DelayedSubmission

    return DelayedSubmission(function)
