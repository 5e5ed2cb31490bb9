"""What the verbs for launchers do: launch, show what a launch would be, cancel, retry, preempt."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from roadmap.cli.forecast import GpuHours
from roadmap.config.errors import ConfigError, RoadmapError, listing, refuse
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.registry import held_out
from roadmap.launch.base import IN_HAND, UNDER_WAY, Launched, Launcher, State
from roadmap.launch.launchers import every_launcher, find_launcher
from roadmap.launch.local import LocalLauncher
from roadmap.launch.preflight import (
    initial_weights,
    recorded_runs,
    refuse_before_training,
    refuse_other_threads,
    usual_threads,
)
from roadmap.launch.prepared import Launch
from roadmap.launch.resources import Resources, shape_of, shape_text
from roadmap.launch.selection import RunSelection, chosen_runs, find_study, runs_to_retry, seeds_in_turn
from roadmap.launch.snapshot import live_code, take_snapshot
from roadmap.launch.status import RunState, counts, study_states
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError
from roadmap.runs.study_folder import study_folder, write_study
from roadmap.study.cost import note_prediction
from roadmap.study.expand import Study

Hours = Mapping[str, float | None]  # GPU-hours of each run, None where not known


@dataclass(frozen=True, kw_only=True)
class Order:
    """How to launch: with what, the options given, the profile they go over, and what to ask before.

    images_per_second: of one GPU, where nothing is measured.
    """

    launcher: str
    given: Mapping[str, Any]
    profile: str | None = None
    snapshot: bool = True
    yes: bool = False
    dry_run: bool = False
    force: bool = False
    as_json: bool = False
    images_per_second: float | None = None


@dataclass(frozen=True)
class Batch:
    """Runs of one shape with the same settings, launched together."""

    shape: Resources
    runtime: Runtime
    trials: tuple[Trial, ...]


@dataclass(frozen=True, kw_only=True)
class SubmissionPlan:
    """What a launch of a study would be: its runs as they are, those to launch, what they cost.

    source: on what that was measured; empty where it was not.
    """

    study: Study
    folder: Path
    wanted: Resources
    states: Mapping[str, RunState]
    batches: Sequence[Batch]
    hours: Hours
    source: str

    @classmethod
    def of(cls, study: Study, launcher: Launcher, order: Order, runtime: Runtime, *, out: Path) -> SubmissionPlan:
        """Look at the study's folder.

        Raises RoadmapError on resources that are not legal or divide no batch, or a micro-batch that
        divides no rank's share.
        """
        wanted = launcher.resources(order.given, profile=order.profile, offline=order.dry_run)
        folder = study_folder(out.resolve(), study.name)
        planned = [{"id": t.id, "step": t.step, "change": t.change, "seed": t.seed} for t in study.trials]
        states = {s.run: s for s in study_states(folder, planned, every=0)}
        skipped = UNDER_WAY if order.force else IN_HAND
        order_of_runs = seeds_in_turn(study.trials, lambda t: (t.step, t.change))
        left = [(t, wanted, runtime) for t in order_of_runs if states[t.id].state not in skipped]
        batches = _by_shape(left)
        ranks = {t.id: batch.shape.ranks for batch in batches for t in batch.trials}
        known = GpuHours.of(
            folder,
            study.trials,
            on_gpus=wanted.gpus > 0,
            images_per_second=order.images_per_second,
            data_dir=runtime.data_dir,
        )
        return cls(
            study=study,
            folder=folder,
            wanted=wanted,
            states=states,
            batches=batches,
            hours={t.id: known.hours(t, ranks.get(t.id, wanted.ranks)) for t in study.trials},
            source=known.source,
        )

    @property
    def to_launch(self) -> list[Trial]:
        """The trials of all batches."""
        return [t for b in self.batches for t in b.trials]


def _by_shape(wanted: Sequence[tuple[Trial, Resources, Runtime]]) -> list[Batch]:
    """Trials by the shape each one takes and by their settings.

    Raises ConfigError naming every trial that cannot use the GPUs or the micro-batch asked for.
    """
    alike: dict[tuple[Resources, Runtime], list[Trial]] = {}
    problems = []
    for trial, resources, runtime in wanted:
        try:
            shape = shape_of(trial, resources)
            trial.recipe.groups_per_forward(runtime.micro_batch, shape.ranks)
            alike.setdefault((shape, runtime), []).append(trial)
        except ConfigError as e:
            problems.append(f"{trial.id}: {e}")
    refuse(problems)
    return [Batch(*manner, tuple(trials)) for manner, trials in alike.items()]


# Launching ------------------------------------------------------------------------------------------------------------


def submit_study(study: Study, runtime: Runtime, order: Order, *, out: Path) -> int:
    """Show what would be launched, ask, launch and return. Returns the exit status."""
    launcher = find_launcher(order.launcher)
    runtime = _with_whole_paths(initial_weights(study, runtime))
    if order.dry_run:
        plan = SubmissionPlan.of(study, launcher, order, runtime, out=out)
        return _show_dry_run(plan, launcher, order)
    launcher.resources(order.given, profile=order.profile)
    refuse_before_training(study, runtime)
    with _deciding(launcher, study_folder(out.resolve(), study.name)):
        plan = SubmissionPlan.of(study, launcher, order, runtime, out=out)
        _refuse_other_threads(plan, force=order.force)
        if not order.as_json:
            _print_plan(plan)
        _scripts(plan, launcher, order)
        if not plan.batches or not _confirmed(len(plan.to_launch), launcher, order):
            return 0
        write_study(out.resolve(), study.name, study.question, study.regime, study.trials, header=study.header())
        return _launch(plan.folder, plan.batches, launcher, order)


def _refuse_other_threads(plan: SubmissionPlan, *, force: bool) -> None:
    """Refuse runs on CPUs with other threads than the study's, as far as it is known what each will have."""
    runs = recorded_runs(plan.folder)
    todo = [RunFolder(plan.folder / trial.id) for trial in plan.to_launch]
    for batch in plan.batches:
        if batch.shape.gpus == 0:
            threads = batch.runtime.threads or batch.shape.cpus_per_task
            refuse_other_threads(plan.study.name, runs, todo, threads, force=force)


def _with_whole_paths(runtime: Runtime) -> Runtime:
    """The settings with whole paths: jobs start in another working directory."""
    given = {"data_dir": runtime.data_dir, "init": runtime.init}
    whole = {name: str(path.resolve()) for name, path in given.items() if path}
    return Runtime.from_json({**runtime.to_json(), **whole})


@contextmanager
def _deciding(launcher: Launcher, folder: Path) -> Iterator[None]:
    """Keep others from launching this study meanwhile; find jobs of half-way launches again first."""
    with launcher.exclusive(folder):
        for sentence in launcher.recover(folder):
            print(sentence, file=sys.stderr)
        yield


def show_submission_plan(study: Study, order: Order, *, out: Path, data_dir: Path | None = None) -> int:
    """What a launch would be, with its cost; no script, and no cluster is needed."""
    plan = SubmissionPlan.of(study, find_launcher(order.launcher), order, Runtime(data_dir=data_dir), out=out)
    if order.as_json:
        print(json.dumps({"study": study.name, "runs": _rows(plan)}, indent=1))
    else:
        _print_plan(plan)
    return 0


def _launch(folder: Path, batches: Sequence[Batch], launcher: Launcher, order: Order) -> int:
    """Prepare the runs and hand them to the launcher; returns the exit status."""
    code = take_snapshot(folder) if order.snapshot else live_code()
    done: list[Launched] = []
    for batch in batches:
        runs = [_prepared(folder, trial, force=order.force) for trial in batch.trials]
        note_prediction(folder, batch.trials, batch.runtime, ranks=batch.shape.ranks)
        done += launcher.launch(folder, runs, batch.runtime, batch.shape, code=code)
    if order.as_json:
        print(json.dumps([{"job": x.job, "trials": list(x.runs)} for x in done], indent=1))
        return 0
    for x in done:
        print(x.text)
    print(
        f"where they are: roadmap status {folder.name}   one run's log: roadmap logs RUN -f   "
        f"when they are done: roadmap report {folder.name}"
    )
    return 0


def _prepared(folder: Path, trial: Trial, *, force: bool) -> RunFolder:
    run = RunFolder(folder / trial.id)
    run.prepare(trial)
    if force:
        from roadmap.train.execute import set_aside

        set_aside(run)
    return run


def _confirmed(count: int, launcher: Launcher, order: Order) -> bool:
    """The question before launching. Raises RoadmapError where nobody can answer it."""
    if order.yes or not launcher.asks_first:
        return True
    if not sys.stdin.isatty():
        raise RoadmapError(
            f"submission of {count} runs was not confirmed: there is no terminal to ask on; legal: --yes; add it"
        )
    return _answered_yes(f"Submit {count} runs?")


def _answered_yes(question: str) -> bool:
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


# The plan -------------------------------------------------------------------------------------------------------------


def _scripts(plan: SubmissionPlan, launcher: Launcher, order: Order) -> list[str]:
    """The script of each batch, after the cluster's estimate for it is printed.

    Raises where it would be refused.
    """
    scripts = []
    for batch in plan.batches:
        count, shape = len(batch.trials), batch.shape
        preview = launcher.preview(plan.folder, count, shape, code=live_code())
        scripts.append(preview.script)
        if order.as_json:
            continue
        if shape.nodes < plan.wanted.nodes:
            print(
                f"{count} runs take {shape.nodes} of {plan.wanted.nodes} nodes: their global batch has no more groups, "
                "and a rank takes whole groups"
            )
        if preview.estimate:
            print(f"{count} runs on {shape_text(shape)}: {preview.estimate}")
    return scripts


def _show_dry_run(plan: SubmissionPlan, launcher: Launcher, order: Order) -> int:
    if order.as_json:
        scripts = _scripts(plan, launcher, order)
        print(json.dumps({"study": plan.study.name, "to_submit": _rows(plan), "scripts": scripts}, indent=1))
        return 0
    _print_plan(plan)
    scripts = _scripts(plan, launcher, order)
    for script in filter(None, scripts):
        print(script)
    return 0


def _rows(plan: SubmissionPlan) -> list[dict[str, Any]]:
    """Runs to launch, as JSON."""
    return [
        {
            "run": t.id,
            "state": plan.states[t.id].state,
            "gpus": b.shape.gpus,
            "ranks": b.shape.ranks,
            "gpu_hours": plan.hours[t.id],
        }
        for b in plan.batches
        for t in b.trials
    ]


def _print_plan(plan: SubmissionPlan) -> None:
    """One line a run, what is not defined, and the totals."""
    from roadmap.cli.console import print_table

    study = plan.study
    shapes = {t.id: b.shape for b in plan.batches for t in b.trials}
    rows = [_plan_row(t, plan, shapes.get(t.id, plan.wanted)) for t in study.trials]
    columns = ["step", "change", "seed", "state", "GPUs", "a batch", "GPU-hours", "run"]
    print_table(f"{study.name}: {study.question}", columns, rows)
    for step, reason in study.undefined.items():
        print(f"{step}: not defined: {reason}")
    print(*dict.fromkeys(held_out(t.data) for t in study.trials), sep="\n")
    left = plan.to_launch
    print(
        f"{counts(list(plan.states.values()))}; to submit: {len(left)}, in hand: {len(study.trials) - len(left)}; "
        f"predicted: {_total([plan.hours[t.id] for t in left])}"
    )
    if plan.source:
        print(plan.source)


def _plan_row(trial: Trial, plan: SubmissionPlan, shape: Resources) -> list[str]:
    state, hours = plan.states[trial.id].state, _hours(plan.hours[trial.id])
    layout = _layout(trial, shape)
    return [trial.step, trial.change, str(trial.seed), state, str(shape.gpus), layout, hours, trial.id]


def _total(hours: Sequence[float | None]) -> str:
    """GPU-hours of all runs, and how many are of unknown length."""
    known = [h for h in hours if h is not None]
    if not known:
        return "unknown: not calibrated (roadmap calibrate STUDY, on a node), and no run has finished"
    unknown = len(hours) - len(known)
    return f"{sum(known):,.1f} GPU-hours" + (f" and {unknown} runs of unknown length" if unknown else "")


def _layout(trial: Trial, shape: Resources) -> str:
    """Images of the global batch by rank: '32 x 1 x 128' is ranks x groups of each rank x images of a group."""
    recipe = trial.recipe
    if recipe.loads % shape.ranks:
        return f"{recipe.batch_size}"
    return f"{shape.ranks} x {recipe.groups // shape.ranks} x {recipe.group_size}"


def _hours(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.1f}" if value >= 0.1 else f"{value:.4f}"


# cancel, retry, preemption-test ---------------------------------------------------------------------------------------


def cancel_runs(selection: RunSelection, *, yes: bool) -> int:
    """Cancel the jobs of the selected runs that are in a queue or run."""
    folder = find_study(selection.study, selection.out)
    for launcher in every_launcher():
        launcher.recover(folder)
    runs = [s for s in chosen_runs(folder, selection) if s.state in UNDER_WAY]
    without_job = [s.run for s in runs if not s.job]
    if without_job:
        print(f"in no launcher's queue, stop their process instead: {listing(without_job)}", file=sys.stderr)
    runs = [s for s in runs if s.job]
    if not runs:
        now = counts(chosen_runs(folder, selection))
        print(f"nothing to cancel: none of these runs is in the queue ({now})")
        return 0
    if not yes and sys.stdin.isatty() and not _answered_yes(f"Cancel {len(runs)} runs?"):
        return 0
    for name in dict.fromkeys(s.launcher for s in runs):
        jobs = {RunFolder(folder / s.run): s.job for s in runs if s.launcher == name}
        find_launcher(name).cancel(folder, jobs)
    print(f"cancelled {len(runs)} runs; to go on with them: roadmap retry --study {folder.name}")
    return 0


def retry_runs(selection: RunSelection, order: Order) -> int:
    """Launch again what failed, was cancelled, lost or never launched, as it was or as options say."""
    folder = find_study(selection.study, selection.out)
    launcher = find_launcher(order.launcher)
    launcher.resources(order.given, profile=order.profile)
    with _deciding(launcher, folder):
        runs = runs_to_retry(folder, selection)
        if not runs:
            print(f"nothing to retry: {counts(chosen_runs(folder, selection))}")
            return 0
        folders = [RunFolder(folder / s.run) for s in runs]
        before = {run.path.name: launcher.last_launch(run) for run in folders}
        first = before[folders[0].path.name]
        runtime = first.runtime if first else Runtime()
        if launcher.name == LocalLauncher.name and not runtime.threads:
            runtime = replace(runtime, threads=usual_threads(recorded_runs(folder)))
        batches = _by_shape(
            [
                (run.trial(), _resources_again(before[s.run], launcher, order), _runtime_again(s, runtime))
                for s, run in zip(runs, folders, strict=True)
            ]
        )
        for batch in batches:
            names = listing(t.id for t in batch.trials)
            print(f"{len(batch.trials)} runs on {shape_text(batch.shape)}: {names}", file=sys.stderr)
        if not _confirmed(len(runs), launcher, order):
            return 0
        return _launch(folder, batches, launcher, order)


def _runtime_again(run: RunState, runtime: Runtime) -> Runtime:
    """The settings, but for a hopeless run without the rule that ended it and would end it again."""
    return replace(runtime, stop_hopeless=False) if run.state == State.HOPELESS else runtime


def _resources_again(before: Launch | None, launcher: Launcher, order: Order) -> Resources:
    """What the run had with this launcher, the given options over it; else as for a first launch."""
    if before is None or before.launcher != launcher.name or order.profile is not None:
        return launcher.resources(order.given, profile=order.profile)
    return launcher.stored_resources(before.resources).replace(**order.given)


def preemption_test(selection: RunSelection, *, wait: float, signal_name: str) -> int:
    """Preempt one of the selected runs that is training, and see that nothing is lost."""
    folder = find_study(selection.study, selection.out)
    active = [s for s in chosen_runs(folder, selection) if s.state == State.RUNNING and s.job]
    training = [s for s in active if RunFolder(folder / s.run).heartbeat()]
    if not training:
        raise RunError(
            f"preemption test: no job of study {folder.name} is training now; legal: a run that has begun to train; "
            "submit one and wait for `roadmap status` to show its epoch"
        )
    run = training[0]
    launcher = find_launcher(run.launcher)
    return launcher.preemption_test(RunFolder(folder / run.run), run.job, wait=wait, signal_name=signal_name)
