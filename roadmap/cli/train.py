"""run and plan: train the trials of a study on this machine, or show what would be trained."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roadmap.api import Study
from roadmap.cli.console import Progress, print_json, print_table
from roadmap.cli.forecast import Forecast
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.registry import held_out
from roadmap.launch.local import Jobs, slots_for
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import DIVERGED, FAILED, FINISHED, HOPELESS, INTERRUPTED, SETTLED, Record

NOT_PRINTED = ("resolved", "hits")  # of a record, whose file has them
STOPPED = 130  # exit status, as of a shell whose program was interrupted
STATE_TEXTS = {
    FINISHED: "finished",
    FAILED: "failed: starts again",
    DIVERGED: "diverged: starts again",
    INTERRUPTED: "interrupted: goes on",
    HOPELESS: "hopeless: ended early",
}


def state_of(folder: RunFolder) -> str:
    """A run's state from its folder: new, one of the record's, or started (no record yet)."""
    record = folder.record()
    if record:
        return record.status
    return "started" if (folder.path / "attempts.jsonl").exists() else "new"


# run ----------------------------------------------------------------------------------------------


def run_study(study: Study, runtime: Runtime, *, jobs: Jobs, force: bool, as_json: bool) -> int:
    """Train what is not finished; print the record, or one line a run. Returns the exit status."""
    study.prepare(runtime)
    count = len(study.trials)
    todo = study.unfinished(force=force)
    for cell, reason in study.undefined.items():
        print(f"{cell}: not defined: {reason}", file=sys.stderr)
    if not _rank():
        print(*_held_out(study), sep="\n", file=sys.stderr)
    _print_settled(study, count - len(todo))
    alone = len(todo) == 1 and (slots_for(jobs, runtime) == 1 or count == 1)
    progress, ended = Progress(len(todo), quiet=alone), set[str]()

    def finished(folder: RunFolder, record: Record) -> None:
        ended.add(record.status)
        progress.finished(folder, record)

    began = time.monotonic()
    predicted = study.train(runtime, jobs=jobs, force=force, finished=finished)
    if _rank():  # rank 0 prints; each says by its exit status how it ended
        return _exit_status(ended or {FINISHED}, missing=False)
    if predicted is not None and {state_of(run) for run in todo} == {FINISHED}:
        from analysis.wording import predicted_and_taken

        print(predicted_and_taken(predicted, time.monotonic() - began), file=sys.stderr)
    records = [record for run in study.run_folders if (record := run.record())]
    _print_records(study, records, as_json)
    return _exit_status({record.status for record in records}, missing=len(records) < count)


def _print_settled(study: Study, settled: int) -> None:
    """Say what is not trained, and how it would be."""
    if not settled:
        return
    records = (run.record() for run in study.run_folders)
    hopeless = sum(record is not None and record.status == HOPELESS for record in records)
    if done := settled - hopeless:
        note = "are finished already and are not trained again (--force does)"
        print(f"{done} of {len(study.trials)} runs {note}", file=sys.stderr)
    if hopeless:
        note = "were ended early as hopeless and are not trained on (`roadmap retry RUN --local` does)"
        print(f"{hopeless} of {len(study.trials)} runs {note}", file=sys.stderr)


def _rank() -> int:
    """This process's rank, as torchrun or Slurm tells it."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))


def _exit_status(statuses: set[str], *, missing: bool) -> int:
    """0 where all runs are finished, 130 where some were interrupted and none failed, else 1."""
    if statuses == {FINISHED} and not missing:
        return 0
    failed = statuses & {FAILED, DIVERGED, HOPELESS}
    return STOPPED if INTERRUPTED in statuses and not failed else 1


def _print_records(study: Study, records: Sequence[Record], as_json: bool) -> None:
    if as_json:
        print_json([record.to_json() for record in records])
    elif len(study.trials) == 1 and records:
        _print_record(records[0], study.run_folders[0])
    else:
        finished = sum(r.status == FINISHED for r in records)
        name = study.name if study.root == Path("runs") else study.folder
        print(f"{study.name}: {finished} of {len(study.trials)} runs finished; table and figure: roadmap report {name}")


def _print_record(record: Record, folder: RunFolder) -> None:
    """Print the record as name and value, one a line; the file has it as JSON."""
    for key, value in record.to_json().items():
        if value is not None and value != "" and key not in NOT_PRINTED:
            print(f"{key:<20} {_value_text(value)}")
    print(f"{'record':<20} {folder.path / 'record.json'}")


def _value_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {v}" for name, v in value.items())
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


# plan ---------------------------------------------------------------------------------------------


def show_plan(study: Study, *, jobs: int | None, as_json: bool) -> int:
    """Show the trials, what there is of each, and their time where a calibration or a finished run tells it."""
    states = {run.path.name: state_of(run) for run in study.run_folders}
    forecast = Forecast.of(study, jobs)
    if as_json:
        print_json(_plan_json(study, states, forecast))
        return 0
    rows = [_plan_row(trial, states[trial.id], forecast.seconds[trial.id]) for trial in study.trials]
    columns = ["step", "change", "seed", "recipe", "epochs", "state", "minutes", "run"]
    print_table(f"{study.name}: {study.question}", columns, rows)
    for cell, reason in study.undefined.items():
        print(f"{cell}: not defined: {reason}")
    for note in (*study.content.notes, *_held_out(study)):
        print(note)
    left = [trial.id for trial in study.trials if states[trial.id] not in SETTLED]
    print(f"{_counts(list(states.values()), len(left))}; time left: {forecast.time_left(left)}")
    print(forecast.source)
    return 0


def _counts(states: Sequence[str], left: int) -> str:
    """'48 trials: 40 finished, 8 to train'; those that ended early are counted apart, where there are any."""
    hopeless = f", {n} {HOPELESS}" if (n := states.count(HOPELESS)) else ""
    return f"{len(states)} trials: {states.count(FINISHED)} finished{hopeless}, {left} to train"


def _plan_json(study: Study, states: Mapping[str, str], forecast: Forecast) -> dict[str, Any]:
    trials = [{**t.to_json(), "state": states[t.id], "predicted_seconds": forecast.seconds[t.id]} for t in study.trials]
    calibration = forecast.calibration
    return {
        "study": study.name,
        "question": study.question,
        "regime": study.content.regime,
        "trials": trials,
        "undefined": dict(study.undefined),
        "notes": list(study.content.notes),
        "held_out": _held_out(study),
        "measured_on": calibration.where if calibration else None,
    }


def _held_out(study: Study) -> list[str]:
    """A sentence for each data set: what of it is not trained on."""
    return list(dict.fromkeys(held_out(trial.data) for trial in study.trials))


def _plan_row(trial: Trial, state: str, seconds: float | None) -> list[str]:
    recipe = trial.recipe
    minutes = "unknown" if seconds is None else f"{seconds / 60:.1f}"
    shown = STATE_TEXTS.get(state, state)
    return [trial.step, trial.change, str(trial.seed), recipe.name, str(recipe.epochs), shown, minutes, trial.id]
