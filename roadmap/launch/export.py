"""Export as a launcher: lines of JSON and one script that runs any run by its index.

<study>/export/runs.jsonl   one line a run: {index, run, argv, environment, resources}
               run.sh       run.sh INDEX trains that run; without INDEX, that of the array index

Kubernetes indexed jobs, PBS and Slurm arrays, AWS Batch, HyperQueue, SkyPilot and GNU parallel
can run a study so. An index is never given to another run: new ones are added at the end, and a
finished run that is started again does nothing. The study folder and the code must be at the same
path where the jobs run. No torch.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roadmap.config.errors import RoadmapError
from roadmap.config.runtime import Runtime, limit_threads
from roadmap.launch.base import MAX_AGE, JobReport, Launched, Launcher, Phase
from roadmap.launch.prepared import LAUNCH, Launch
from roadmap.launch.resources import Resources
from roadmap.runs.changes import EACH_TIME, Files
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import read_lines, write_bytes

LINES, SCRIPT = "runs.jsonl", "run.sh"
# Where schedulers say which task of an array a process is; the argument goes before all.
INDEX_VARIABLES = (
    "SLURM_ARRAY_TASK_ID",
    "JOB_COMPLETION_INDEX",  # Kubernetes
    "PBS_ARRAY_INDEX",
    "HQ_TASK_ID",  # HyperQueue
    "SKYPILOT_JOB_RANK",
    "AWS_BATCH_JOB_ARRAY_INDEX",
)

TEMPLATE = """\
#!/usr/bin/env bash
# The runs of study {study}, one a call, by index: 0 to {last}. Made by `roadmap run --launcher export`.
#   {script} INDEX
# Without INDEX, the index is that of the array task: {variables}.
# What a run prints goes to log.txt in its folder. ROADMAP_PYTHON: another Python, such as a container's.
# Exit status 0: finished; 1: failed; 75: it was told to stop and goes on when started again.
set -euo pipefail
index=${{1:-{index}}}
python=${{ROADMAP_PYTHON:-{python}}}

train() {{  # RUN-FOLDER COMMAND...
  echo "$1; its output: $1/log.txt"
  exec >> "$1/log.txt" 2>&1
  shift
  exec "$@"
}}

case $index in
{cases}
  *)
    echo "$0: index '$index' is unknown; legal: 0 to {last}; give one, or start this as a task of an array" >&2
    exit 2 ;;
esac
"""


@dataclass(frozen=True, kw_only=True)
class ExportedRun:
    """One line of runs.jsonl: what starts a run, in a shell or in a scheduler's own words."""

    index: int
    run: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    resources: Mapping[str, Any]


class ExportLauncher(Launcher):
    """Writes what other schedulers start; `status` and `report` read what the runs leave."""

    name = "export"
    asks_first = False

    def launch(
        self, study: Path, runs: Sequence[RunFolder], runtime: Runtime, resources: Resources, *, code: Path
    ) -> Sequence[Launched]:
        """Add these runs to the study's export, or renew them there.

        Raises RoadmapError for more than one node.
        """
        if resources.nodes > 1:
            raise RoadmapError(
                f"export.nodes is {resources.nodes}; legal: 1, with any number of GPUs; reason: a script cannot bring "
                "processes of several machines together; use --launcher slurm, or fewer ranks"
            )
        for run in runs:
            Launch(launcher=self.name, runtime=runtime, resources=resources.to_json()).write(run)
        exported = self._renewed(study, runs, resources, code)
        _write(study, exported)
        names = {run.path.name for run in runs}
        indexes = index_ranges(x.index for x in exported if x.run in names)
        folder = study / self.name
        text = f"exported {len(runs)} runs of {len(exported)}, indexes {indexes}: {folder / LINES}, {folder / SCRIPT}"
        return [Launched(runs=tuple(run.path.name for run in runs), job="", text=text)]

    def _renewed(self, study: Path, runs: Sequence[RunFolder], resources: Resources, code: Path) -> list[ExportedRun]:
        """All exported runs of the study, the given ones renewed, each at the index it ever had."""
        exported = {x.run: x for x in exported_runs(study)}
        for run in runs:
            name = run.path.name
            index = exported[name].index if name in exported else len(exported)
            exported[name] = ExportedRun(
                index=index,
                run=name,
                argv=tuple(command(run, resources)),
                environment=environment(code, resources),
                resources=resources.to_json(),
            )
        return list(exported.values())

    def where(
        self,
        study: Path,
        runs: Sequence[str],
        *,
        finished: Collection[str] = (),
        max_age: float = MAX_AGE,
        files: Files = EACH_TIME,
    ) -> Mapping[str, JobReport]:
        """The index of each run that was last launched so; its folder alone tells whether it began."""
        asked = set(runs)
        exported = files.read(_lines(study), _exported)
        wanted = [x for x in exported if x.run in asked]
        reports = [self._report(study, x, files.read(f"{study}/{x.run}/{LAUNCH}", _launched)) for x in wanted]
        return {x.run: report for x, report in zip(wanted, reports, strict=True) if report}

    def _report(self, study: Path, exported: ExportedRun, launched: tuple[str, float]) -> JobReport | None:
        """None where another launcher has launched the run since."""
        launcher, submitted = launched
        if launcher != self.name:
            return None
        return JobReport(
            launcher=self.name,
            phase=Phase.HANDED_OVER,
            log=RunFolder(study / exported.run).log,
            reason=f"exported as index {exported.index}",
            submitted=submitted,
        )


def _launched(path: str) -> tuple[str, float]:
    """By which launcher a launch.json says that its run was launched last, and when.

    ("", 0) where there is none.
    """
    file = Path(path)
    launch = Launch.read(RunFolder(file.parent))
    return (launch.launcher, file.stat().st_mtime) if launch else ("", 0.0)


def exported_runs(study: Path) -> list[ExportedRun]:
    """The lines of a study's runs.jsonl, in the order of their indexes."""
    return _exported(_lines(study))


def _lines(study: Path) -> str:
    return f"{study}/{ExportLauncher.name}/{LINES}"


def _exported(path: str) -> list[ExportedRun]:
    lines, _ = read_lines(path)
    return [ExportedRun(**{**line, "argv": tuple(line["argv"])}) for line in lines]


def command(run: RunFolder, resources: Resources) -> list[str]:
    """What trains one prepared run, from any working directory: one process, or a rank for each GPU."""
    train = ["-m", "roadmap", "run", "--folder", str(run.path.resolve())]
    if resources.ranks_per_node == 1:
        return [sys.executable, *train]
    ranks = f"--nproc-per-node={resources.ranks_per_node}"
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", ranks, *train]


def environment(code: Path, resources: Resources) -> dict[str, str]:
    """Variables of that command: which code runs, wherever it is started, and on how many threads."""
    threads = limit_threads(resources.cpus_per_task) if resources.cpus_per_task else {}
    return {"PYTHONPATH": str(code.resolve()), "PYTHONSAFEPATH": "1", **threads}


def index_ranges(indexes: Iterable[int]) -> str:
    """'0-4,7' of 0, 1, 2, 3, 4, 7, as schedulers write array indexes."""
    ranges: list[list[int]] = []
    for index in sorted(indexes):
        if ranges and index == ranges[-1][-1] + 1:
            ranges[-1].append(index)
        else:
            ranges.append([index])
    return ",".join(_range_text(r[0], r[-1]) for r in ranges)


def _range_text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _write(study: Path, exported: Sequence[ExportedRun]) -> None:
    folder = study / ExportLauncher.name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lines = [json.dumps(asdict(x)) + "\n" for x in exported]
    write_bytes(folder / LINES, "".join(lines).encode())
    write_bytes(folder / SCRIPT, script(study, exported).encode())
    (folder / SCRIPT).chmod(0o700)


def script(study: Path, exported: Sequence[ExportedRun]) -> str:
    """The text of run.sh."""
    index = ""
    for name in reversed(INDEX_VARIABLES):
        index = f"${{{name}:-{index}}}"
    return TEMPLATE.format(
        study=study.name,
        script=shlex.quote(str(study.resolve() / ExportLauncher.name / SCRIPT)),
        variables=", ".join(INDEX_VARIABLES),
        index=index,
        python=shlex.quote(sys.executable),
        cases="\n".join(_case(study, x) for x in exported),
        last=len(exported) - 1,
    )


def _case(study: Path, exported: ExportedRun) -> str:
    """The line of run.sh that trains one run; its Python may be another one there."""
    variables = [shlex.quote(f"{name}={value}") for name, value in exported.environment.items()]
    words = ["env", *variables, '"$python"', *map(shlex.quote, exported.argv[1:])]
    folder = shlex.quote(str(study.resolve() / exported.run))
    return f"  {exported.index}) train {folder} {' '.join(words)} ;;"
