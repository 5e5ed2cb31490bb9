"""calibrate: measure what a study's runs cost on this machine."""

from __future__ import annotations

import os
import sys

from analysis.wording import duration
from roadmap.api import Study
from roadmap.cli.console import print_json, print_table
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.launch.calibration import calibrate
from roadmap.launch.preflight import initial_weights, refuse_before_training
from roadmap.runs.io import read_json
from roadmap.study.cost import Calibration, Cost, add_calibration, cost_key, distinct

COLUMNS = ("step", "change", "images/s", "waiting", "evaluation", "checkpoint", "start", "memory", "a run")


def calibrate_study(study: Study, runtime: Runtime, *, jobs: int, iterations: int, as_json: bool) -> int:
    """Measure each distinct network of the study, write calibration.json, and show what was measured."""
    refuse_before_training(study.content, initial_weights(study.content, runtime))
    networks = distinct(study.trials)
    jobs = jobs if len(study.trials) > 1 else 1  # as `run` does
    main = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0

    def tell(trial: Trial, cost: Cost) -> None:
        if main:
            label = " with ".join(filter(None, (trial.step, trial.change)))
            print(f"{label}: {1 / cost.image:,.0f} images/s", file=sys.stderr, flush=True)

    found = calibrate(study.trials, runtime, jobs=jobs, iterations=iterations, folder=study.folder, measured=tell)
    if not main:
        return 0
    path = add_calibration(study.folder, found)
    if as_json:
        print_json(read_json(path)[-1])
        return 0
    rows = [_row(trial, found, runtime) for trial in networks.values()]
    print_table(f"{study.name} on {found.where}", COLUMNS, rows)
    seconds = [found.seconds(trial, runtime) or 0.0 for trial in study.trials]
    side_by_side = f" with --jobs {jobs}" if jobs > 1 else ""
    in_all = f"{duration(found.elapsed(seconds))} in all{side_by_side}"
    print(f"{len(seconds)} runs: {duration(sum(seconds))} of runs, {in_all}")
    print(path)
    return 0


def _row(trial: Trial, calibration: Calibration, runtime: Runtime) -> list[str]:
    cost = calibration.costs[cost_key(trial)]
    return [
        trial.step,
        trial.change,
        f"{1 / cost.image:,.0f}",
        f"{100 * cost.waiting_share:.0f} %",
        duration(sum(cost.evaluation.values())),
        duration(cost.checkpoint),
        duration(cost.start),
        f"{cost.peak_memory / 2**20:,.0f} MiB",
        duration(calibration.seconds(trial, runtime) or 0.0),
    ]
