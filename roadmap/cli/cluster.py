"""What the verbs for a cluster do: submit and return, show where each run is, its log, cancel, retry, and the drill."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from roadmap.config.errors import ConfigError, RoadmapError, listing, refuse
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.launch.selection import TO_RETRY, Choice, chosen_runs, find_study
from roadmap.launch.slurm import submit as slurm
from roadmap.launch.slurm.preemption_test import drill
from roadmap.launch.slurm.queue import ASK_EVERY, Cluster, SlurmError
from roadmap.launch.slurm.resources import Resources, minutes_text, resources, shape_of
from roadmap.launch.snapshot import freeze, live_code
from roadmap.launch.status import (
    DONE,
    IN_HAND,
    PENDING,
    REQUEUED,
    RUNNING,
    UNDER_WAY,
    RunState,
    counts,
    log_of,
    study_states,
)
from roadmap.runs.folder import RunFolder, study_folder, write_study
from roadmap.runs.io import RunError, read_json
from roadmap.runs.record import FINISHED
from roadmap.study.expand import Study, images_to_train


@dataclass(frozen=True, kw_only=True)
class Order:
    """How to submit: the options given, the profile they go over, and what to ask before."""

    given: Mapping[str, Any]
    profile: str | None = None
    freeze: bool = True
    yes: bool = False
    dry_run: bool = False
    force: bool = False
    as_json: bool = False
    images_per_second: float | None = None  # of one GPU, where nothing is measured


@dataclass(frozen=True)
class Batch:
    """Runs of one shape, submitted together."""

    shape: Resources
    trials: tuple[Trial, ...]


# Submitting --------------------------------------------------------------------------------------------------------------


def submit_study(study: Study, machine: Runtime, order: Order, *, out: Path) -> int:
    """Show what would be submitted, ask, submit in arrays and return. Returns the exit status."""
    from roadmap.cli.train import refuse_before_training

    wanted, cluster = _wanted(order)
    folder = study_folder(out.resolve(), study.name)
    machine = replace(machine, **{k: p.resolve() for k in ("data_dir", "init") if (p := getattr(machine, k, None))})
    if order.dry_run:
        return _show_submission(study, folder, _states(study, folder), wanted, cluster, order)
    refuse_before_training(study, machine)
    with slurm.one_submitter(folder):
        for found in slurm.adopt(folder):
            print(
                f"job {found.job} of an earlier submission, whose submitter died, is found again: {len(found.trials)} runs",
                file=sys.stderr,
            )
        states = _states(study, folder)
        batches = _batches(study.trials, states, wanted, force=order.force)
        _show_submission(study, folder, states, wanted, cluster, order)
        if not batches or not _confirmed(sum(len(b.trials) for b in batches), order.yes):
            return 0
        write_study(out.resolve(), study.name, study.question, study.regime, study.trials, header=study.header())
        return _submit(folder, batches, machine, cluster, order)


def show_submission_plan(study: Study, order: Order, *, out: Path) -> int:
    """What a submission would be, with its cost; no script, and no cluster is needed."""
    wanted, _ = _wanted(order)
    folder = study_folder(out.resolve(), study.name)
    states = _states(study, folder)
    batches = _batches(study.trials, states, wanted)
    hours = {t.id: gpu_hours(t, _rates(study, folder), order.images_per_second) for t in study.trials}
    if order.as_json:
        print(json.dumps({"study": study.name, "runs": _rows(batches, states, hours)}, indent=1))
    else:
        _print_plan(study, states, wanted, batches, hours)
    return 0


def _wanted(order: Order) -> tuple[Resources, Cluster | None]:
    """The resources of a run, by the options over the profile. The cluster is not needed to show a script."""
    try:
        cluster = Cluster.here()
    except SlurmError:
        if not order.dry_run:
            raise
        cluster = None
    return resources(order.given, profile=order.profile, cluster=cluster.name if cluster else None), cluster


def _states(study: Study, folder: Path) -> dict[str, RunState]:
    planned = [{"id": t.id, "step": t.step, "change": t.change, "seed": t.seed} for t in study.trials]
    return {s.run: s for s in study_states(folder, planned, every=0)}


def _batches(
    trials: Sequence[Trial], states: Mapping[str, RunState], wanted: Resources, *, force: bool = False
) -> list[Batch]:
    """The trials to submit, by the shape each one takes. Raises ConfigError naming every trial that cannot use the GPUs asked for."""
    skipped = UNDER_WAY if force else IN_HAND
    by_shape: dict[Resources, list[Trial]] = {}
    problems = []
    for trial in trials:
        if states[trial.id].state in skipped:
            continue
        try:
            by_shape.setdefault(shape_of(trial, wanted), []).append(trial)
        except ConfigError as e:
            problems.append(f"{trial.id}: {e}")
    refuse(problems)
    return [Batch(shape, tuple(chosen)) for shape, chosen in by_shape.items()]


def _submit(folder: Path, batches: Sequence[Batch], machine: Runtime, cluster: Cluster | None, order: Order) -> int:
    code = freeze(folder) if order.freeze else live_code()
    done = []
    for batch in batches:
        runs = [RunFolder(folder / t.id) for t in batch.trials]
        for run, trial in zip(runs, batch.trials, strict=True):
            run.prepare(trial)
            if order.force:
                from roadmap.train.execute import set_aside

                set_aside(run)
        done += slurm.submit(
            folder, runs, batch.shape, machine, code=code, max_array=cluster.max_array if cluster else 1000
        )
    (folder / "slurm" / "queue.json").unlink(missing_ok=True)
    if order.as_json:
        print(json.dumps([{"job": s.job, "trials": list(s.trials)} for s in done], indent=1))
        return 0
    for s in done:
        print(f"submitted {len(s.trials)} runs as {'job' if s.single else 'array'} {s.job}")
    print(
        f"where they are: roadmap status {folder.name}   one run's log: roadmap logs RUN -f   when they are done: roadmap report {folder.name}"
    )
    return 0


def _confirmed(count: int, yes: bool) -> bool:
    """The question before submitting. Raises RoadmapError where nobody can answer it."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise RoadmapError(
            f"submission of {count} runs was not confirmed: there is no terminal to ask on; legal: --yes; add it"
        )
    return input(f"Submit {count} runs? [y/N] ").strip().lower() in ("y", "yes")


def _show_submission(
    study: Study, folder: Path, states: Mapping[str, RunState], wanted: Resources, cluster: Cluster | None, order: Order
) -> int:
    """The plan as a table, the cluster's estimate, and with --dry-run the scripts."""
    batches = _batches(study.trials, states, wanted, force=order.force)
    hours = {t.id: gpu_hours(t, _rates(study, folder), order.images_per_second) for t in study.trials}
    if order.as_json and order.dry_run:
        print(
            json.dumps(
                {
                    "study": study.name,
                    "to_submit": _rows(batches, states, hours),
                    "scripts": [_script(folder, b, cluster) for b in batches],
                },
                indent=1,
            )
        )
        return 0
    if not order.as_json:
        _print_plan(study, states, wanted, batches, hours)
    for batch in batches:
        text = _script(folder, batch, cluster)
        if batch.shape.nodes < wanted.nodes and not order.as_json:
            print(
                f"{len(batch.trials)} runs take {batch.shape.nodes} of {wanted.nodes} nodes: their global batch has no more groups, and a rank takes whole groups"
            )
        if cluster and not order.as_json:
            print(f"{len(batch.trials)} runs on {shape_text(batch.shape)}: {slurm.start_estimate(text)}")
        if order.dry_run:
            print(text)
    return 0


def _rows(
    batches: Sequence[Batch], states: Mapping[str, RunState], hours: Mapping[str, float | None]
) -> list[dict[str, Any]]:
    return [
        {
            "run": t.id,
            "state": states[t.id].state,
            "gpus": b.shape.gpus,
            "ranks": b.shape.ranks,
            "gpu_hours": hours[t.id],
        }
        for b in batches
        for t in b.trials
    ]


def _script(folder: Path, batch: Batch, cluster: Cluster | None) -> str:
    """Of a batch's first array: longer ones than the cluster takes are split."""
    return slurm.script(
        folder, min(len(batch.trials), cluster.max_array if cluster else len(batch.trials)), batch.shape, live_code()
    )


def shape_text(shape: Resources) -> str:
    """'2 nodes x 8 GPUs, 1440 minutes (24 h) each'."""
    each = (
        f"{shape.gpus_per_node} GPU{'s' * (shape.gpus_per_node != 1)}" if shape.gpus_per_node else "1 rank without GPU"
    )
    return f"{shape.nodes} node{'s' * (shape.nodes != 1)} x {each}, {minutes_text(shape.time)} each"


def _print_plan(
    study: Study,
    states: Mapping[str, RunState],
    wanted: Resources,
    batches: Sequence[Batch],
    hours: Mapping[str, float | None],
) -> None:
    from roadmap.cli.train import print_table

    shapes = {t.id: b.shape for b in batches for t in b.trials}
    rows = [
        [
            t.step,
            t.change,
            str(t.seed),
            states[t.id].state,
            str(shapes.get(t.id, wanted).gpus),
            _layout(t, shapes.get(t.id, wanted)),
            _hours(hours[t.id]),
            t.id,
        ]
        for t in study.trials
    ]
    print_table(
        f"{study.name}: {study.question}",
        ["step", "change", "seed", "state", "GPUs", "a batch", "GPU-hours", "run"],
        rows,
    )
    for step, reason in study.undefined.items():
        print(f"{step}: not defined: {reason}")
    left = [t for b in batches for t in b.trials]
    known = [h for t in left if (h := hours[t.id]) is not None]
    unknown = len(left) - len(known)
    total = (
        f"{sum(known):,.1f} GPU-hours" + (f" and {unknown} runs of unknown length" if unknown else "")
        if known
        else "unknown: no images per second measured yet"
    )
    print(
        f"{counts(list(states.values()))}; to submit: {len(left)}, in hand: {len(study.trials) - len(left)}; predicted: {total}"
    )


def _layout(trial: Trial, shape: Resources) -> str:
    """Images of the global batch by rank: '32 ranks x 1 x 128' is ranks x accumulated groups x group."""
    groups = trial.recipe.groups
    return (
        f"{shape.ranks} x {groups // shape.ranks} x {trial.recipe.group_size}"
        if groups % shape.ranks == 0
        else f"{trial.recipe.batch_size}"
    )


def _rates(study: Study, folder: Path) -> dict[tuple[str, str], float]:
    """Images per second of one GPU (or process) that a finished run of each (step, change) has measured."""
    records = [
        r
        for t in study.trials
        if (r := RunFolder(folder / t.id).record()) and r["status"] == FINISHED and r.get("images_per_second")
    ]
    return {(r["step"], r["change"]): r["images_per_second"] / r.get("world_size", 1) for r in records}


def gpu_hours(trial: Trial, rates: Mapping[tuple[str, str], float], stated: float | None) -> float | None:
    """Of one run: images over images per second of a GPU, measured or stated; None where neither is known."""
    images, rate = images_to_train(trial), rates.get((trial.step, trial.change), stated)
    return images / rate / 3600 if images and rate else None


def _hours(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f}" if value >= 0.1 else f"{value:.4f}"


# status, logs ------------------------------------------------------------------------------------------------------------


def show_status(name: str | None, *, out: Path, watch: bool, every: float, as_json: bool) -> int:
    """One line a run and the counts; `watch` shows it again until every run has ended."""
    folder = find_study(name, out)
    while True:
        states = study_states(folder, every=min(every, ASK_EVERY))
        if as_json:
            print(
                json.dumps({"study": folder.name, "runs": [s.to_json() for s in states], "counts": counts(states)}),
                flush=True,
            )
        else:
            if watch and sys.stdout.isatty():
                print("\033[2J\033[H", end="")
            _print_status(folder, states)
        if not watch or not any(s.state in UNDER_WAY for s in states):
            return 0
        time.sleep(min(5.0, every))


def _print_status(folder: Path, states: Sequence[RunState]) -> None:
    from roadmap.cli.train import print_table

    change = any(s.change for s in states)
    rows = [
        [
            s.step,
            *([s.change] if change else []),
            str(s.seed),
            _state_text(s),
            f"{s.epoch}/{s.epochs}" if s.epochs else "",
            "" if s.top1 is None else f"{s.top1:.2f}",
            "" if not s.images_per_second else f"{s.images_per_second:,.0f}",
            _time_left(s.seconds_left),
            s.node,
            s.job,
            s.run,
        ]
        for s in states
    ]
    print_table(
        folder.name,
        [
            "step",
            *(["change"] if change else []),
            "seed",
            "state",
            "epoch",
            "top-1",
            "images/s",
            "left",
            "node",
            "job",
            "run",
        ],
        rows,
    )
    for s in states:
        if s.detail and s.state not in (PENDING, RUNNING, REQUEUED):
            print(f"{s.run}: {s.state}: {s.detail}")
    print(counts(states))


def _state_text(s: RunState) -> str:
    text = s.state if s.state != REQUEUED else f"requeued {s.requeued}x"
    if s.state in (RUNNING, DONE) and s.requeued:
        text += f", requeued {s.requeued}x"
    return f"{text} ({s.detail})" if s.detail and s.state in (PENDING, REQUEUED, RUNNING) else text


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def show_logs(choice: Choice, *, follow: bool, lines: int) -> int:
    """The log of each chosen run, its last `lines` lines; `follow` goes on with the first run's as it grows."""
    folder = find_study(choice.study, choice.out)
    runs = chosen_runs(folder, choice, every=ASK_EVERY)
    submitted = slurm.latest_jobs(folder)
    paths = {s.run: log_of(RunFolder(folder / s.run), *submitted.get(s.run, (None, ""))) for s in runs}
    for run, path in paths.items():
        print(f"==> {run} ({path}) <==")
        if not path.exists():
            print("no log yet")
            continue
        print(
            "\n".join(
                path.read_text(errors="replace").splitlines()[-lines:]
                if lines
                else path.read_text(errors="replace").splitlines()
            ),
            flush=True,
        )
    return _follow(folder, runs[0], next(iter(paths.values()))) if follow else 0


def _follow(folder: Path, run: RunState, path: Path) -> int:
    """Print what is added to a log until its run has ended."""
    at, planned = (
        path.stat().st_size if path.exists() else 0,
        [{"id": run.run, "step": run.step, "change": run.change, "seed": run.seed}],
    )
    while True:
        state = study_states(folder, planned)[
            0
        ].state  # before the log is read, so that nothing written before the end is missed
        if path.exists():
            with open(path, errors="replace") as f:
                f.seek(at)
                print(f.read(), end="", flush=True)
                at = f.tell()
        if state not in UNDER_WAY:
            print(f"{run.run}: {state}")
            return 0
        time.sleep(1)


# cancel, retry -----------------------------------------------------------------------------------------------------------


def cancel_runs(choice: Choice, *, yes: bool) -> int:
    """Cancel the jobs of the chosen runs that are in the queue or run."""
    folder = find_study(choice.study, choice.out)
    slurm.adopt(folder)
    runs = [s for s in chosen_runs(folder, choice) if s.state in UNDER_WAY]
    local = [s.run for s in runs if not s.job]
    if local:
        print(f"not Slurm's, stop their process instead: {listing(local)}", file=sys.stderr)
    jobs = {RunFolder(folder / s.run): s.job for s in runs if s.job}
    if not jobs:
        print(f"nothing to cancel: none of these runs is in the queue ({counts(chosen_runs(folder, choice))})")
        return 0
    if not yes and sys.stdin.isatty() and input(f"Cancel {len(jobs)} runs? [y/N] ").strip().lower() not in ("y", "yes"):
        return 0
    slurm.cancel(jobs)
    (folder / "slurm" / "queue.json").unlink(missing_ok=True)
    print(f"cancelled {len(jobs)} runs; to go on with them: roadmap retry --study {folder.name}")
    return 0


def retry_runs(choice: Choice, order: Order) -> int:
    """Submit again what failed, was cancelled, was lost or never submitted, with the resources it had unless others are given."""
    folder = find_study(choice.study, choice.out)
    cluster = Cluster.here()
    with slurm.one_submitter(folder):
        slurm.adopt(folder)
        runs = [s for s in chosen_runs(folder, choice) if s.state in TO_RETRY]
        if not runs:
            print(f"nothing to retry: {counts(chosen_runs(folder, choice))}")
            return 0
        trials = {s.run: _trial_of(folder, s) for s in runs}
        batches, machines = _again(folder, list(trials.values()), order, cluster)
        for batch in batches:
            print(
                f"{len(batch.trials)} runs on {shape_text(batch.shape)}: {listing(t.id for t in batch.trials)}",
                file=sys.stderr,
            )
        if not _confirmed(len(runs), order.yes):
            return 0
        return _submit(folder, batches, machines, cluster, order)


def _trial_of(folder: Path, state: RunState) -> Trial:
    return RunFolder(folder / state.run).trial()


def _again(folder: Path, trials: Sequence[Trial], order: Order, cluster: Cluster) -> tuple[list[Batch], Runtime]:
    """Batches by the shape each run had, with what is given in its place; the machine settings of the first."""
    submitted = slurm.latest_jobs(folder)
    by_shape: dict[Resources, list[Trial]] = {}
    given = {k: v for k, v in order.given.items() if v is not None and v != ()}
    for trial in trials:
        before = submitted.get(trial.id)
        had = (
            Resources.from_json(read_json(before[0].folder / "submission.json")["resources"])
            if before and order.profile is None
            else resources({}, profile=order.profile, cluster=cluster.name)
        )
        by_shape.setdefault(shape_of(trial, replace(had, **given)), []).append(trial)
    first = read_json(folder / trials[0].id / "slurm.json") or {}
    machine = Runtime.from_json(first["machine"]) if first else Runtime()
    return [Batch(shape, tuple(found)) for shape, found in by_shape.items()], machine


def drill_run(choice: Choice, *, wait: float, signal_name: str) -> int:
    """Preempt one of the chosen runs that is training, and see that nothing is lost."""
    folder = find_study(choice.study, choice.out)
    running = [
        s for s in chosen_runs(folder, choice) if s.state == RUNNING and s.job and RunFolder(folder / s.run).heartbeat()
    ]
    if not running:
        raise RunError(
            f"drill: no run of study {folder.name} is training on Slurm now; legal: a run that has begun to train; submit one and wait for `roadmap status` to show its epoch"
        )
    return drill(RunFolder(folder / running[0].run), running[0].job, wait=wait, signal_name=signal_name)
