"""run and plan: train the trials of a study on this machine, or show what would be trained."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roadmap.api import Study
from roadmap.cli.console import Progress, print_json, print_table
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.registry import held_out
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import DIVERGED, FAILED, FINISHED, HOPELESS, INTERRUPTED, SETTLED, Record
from roadmap.study.expand import images_to_train

STOPPED = 130  # exit status, as of a shell whose program was interrupted
STATE_TEXTS = {
    FINISHED: "finished",
    FAILED: "failed: starts again",
    DIVERGED: "diverged: starts again",
    INTERRUPTED: "interrupted: goes on",
    HOPELESS: "hopeless: ended early",
}
Rates = Mapping[tuple[str, str], float]


def state_of(folder: RunFolder) -> str:
    """A run's state from its folder: new, one of the record's, or started (no record yet)."""
    record = folder.record()
    if record:
        return record.status
    return "started" if (folder.path / "attempts.jsonl").exists() else "new"


# run ----------------------------------------------------------------------------------------------


def run_study(study: Study, runtime: Runtime, *, jobs: int, force: bool, as_json: bool) -> int:
    """Train what is not finished; print the record, or one line a run. Returns the exit status."""
    study.prepare(runtime)
    count = len(study.trials)
    todo = study.unfinished(force=force)
    for cell, reason in study.undefined.items():
        print(f"{cell}: not defined: {reason}", file=sys.stderr)
    if not _rank():
        print(*_held_out(study), sep="\n", file=sys.stderr)
    _print_settled(study, count - len(todo))
    alone = len(todo) == 1 and (jobs == 1 or count == 1)
    progress, ended = Progress(len(todo), quiet=alone), set[str]()

    def finished(folder: RunFolder, record: Record) -> None:
        ended.add(record.status)
        progress.finished(folder, record)

    study.train(runtime, jobs=jobs, force=force, finished=finished)
    if _rank():  # rank 0 prints; each says by its exit status how it ended
        return _exit_status(ended or {FINISHED}, missing=False)
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
        if value is not None and value != "" and key != "resolved":
            print(f"{key:<20} {_value_text(value)}")
    print(f"{'record':<20} {folder.path / 'record.json'}")


def _value_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {v}" for name, v in value.items())
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


# plan ---------------------------------------------------------------------------------------------


def show_plan(study: Study, *, as_json: bool) -> int:
    """Show the trials, what there is of each, and their time where a finished run tells it."""
    states = {run.path.name: state_of(run) for run in study.run_folders}
    rates = _measured_rates(study.run_folders)
    seconds = {trial.id: _seconds(trial, rates) for trial in study.trials}
    if as_json:
        print_json(_plan_json(study, states, seconds))
        return 0
    rows = [_plan_row(trial, states[trial.id], seconds[trial.id]) for trial in study.trials]
    columns = ["step", "change", "seed", "recipe", "epochs", "state", "minutes", "run"]
    print_table(f"{study.name}: {study.question}", columns, rows)
    for cell, reason in study.undefined.items():
        print(f"{cell}: not defined: {reason}")
    for note in (*study.content.notes, *_held_out(study)):
        print(note)
    left = [seconds[trial.id] for trial in study.trials if states[trial.id] not in SETTLED]
    print(f"{_counts(list(states.values()), len(left))}; time left: {_time_left(left)}")
    return 0


def _counts(states: Sequence[str], left: int) -> str:
    """'48 trials: 40 finished, 8 to train'; those that ended early are counted apart, where there are any."""
    hopeless = f", {n} {HOPELESS}" if (n := states.count(HOPELESS)) else ""
    return f"{len(states)} trials: {states.count(FINISHED)} finished{hopeless}, {left} to train"


def _plan_json(study: Study, states: Mapping[str, str], seconds: Mapping[str, float | None]) -> dict[str, Any]:
    trials = [{**t.to_json(), "state": states[t.id], "predicted_seconds": seconds[t.id]} for t in study.trials]
    return {
        "study": study.name,
        "question": study.question,
        "regime": study.content.regime,
        "trials": trials,
        "undefined": dict(study.undefined),
        "notes": list(study.content.notes),
        "held_out": _held_out(study),
    }


def _held_out(study: Study) -> list[str]:
    """A sentence for each data set: what of it is not trained on."""
    return list(dict.fromkeys(held_out(trial.data) for trial in study.trials))


def _plan_row(trial: Trial, state: str, seconds: float | None) -> list[str]:
    recipe = trial.recipe
    minutes = "unknown" if seconds is None else f"{seconds / 60:.1f}"
    shown = STATE_TEXTS.get(state, state)
    return [trial.step, trial.change, str(trial.seed), recipe.name, str(recipe.epochs), shown, minutes, trial.id]


def _time_left(left: Sequence[float | None]) -> str:
    """The sum over the runs that are left, and how many of them nothing is known of."""
    known = [seconds for seconds in left if seconds is not None]
    if left and not known:
        return "unknown"
    unknown = len(left) - len(known)
    more = f", and {unknown} of unknown length" if unknown else ""
    return f"{sum(known) / 60:.1f} minutes of one process{more}"


def _measured_rates(folders: Sequence[RunFolder]) -> Rates:
    """Images per second of each (step, change) that a finished run has measured."""
    records = [record for folder in folders if (record := folder.record())]
    rates = {(r.step, r.change): r.images_per_second for r in records if r.status == FINISHED}
    return {cell: rate for cell, rate in rates.items() if rate}


def _seconds(trial: Trial, rates: Rates) -> float | None:
    """How long a run would take: its images over the rate of its cell;

    None where either is unknown.
    """
    images, rate = images_to_train(trial), rates.get((trial.step, trial.change))
    return images / rate if images and rate else None
