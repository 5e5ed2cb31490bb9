"""A study -> its results, in the ladder's order: which runs make a row, what they say together, how
it is called."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.results.compare import Side, compare
from analysis.results.paper import PRINTED, beside_paper, paper_numbers
from analysis.results.results import Analysis, Effect, PaperNumbers, Result, Role, Runs, Score, Setup, Speed
from analysis.stats.comparisons import summarize
from analysis.study import Cell, CellId, Kind, Outcome, Run, Study
from roadmap.ladder import Ladder, Regime, find_ladder
from roadmap.runs.metric import TOP1, Metric

CONTROLS, OTHER, NOT_DEFINED = "controls", "other", "not defined"  # groups that no ladder has
SETUP = tuple(field.name for field in dataclasses.fields(Setup))
# What all runs of one row share: everything but the seed, which `configuration` hashes, and the network.
SAME = (*SETUP, "params", "macs")


@dataclass(frozen=True)
class _Asked:
    """What a study's rows are made for."""

    study: Study
    ladder: Ladder
    regime: Regime
    metric: Metric
    kinds: Mapping[CellId, Kind]


def analyse(study: Study, metric: Metric = TOP1, regime: str = "") -> Analysis:
    """Analyse one regime of a study (its own by default) by one metric.

    A ladder's path is shown up to the last planned step, with side steps where runs are planned;
    other designs show their cells in planned order.
    """
    ladder = find_ladder(study.ladder)
    where = ladder.find_regime(regime or study.regime)
    asked = _Asked(study, ladder, where, metric, {c.child: c.kind for c in study.comparisons})
    cells: dict[CellId, list[Run]] = defaultdict(list)
    for run in study.runs_in(where.name):
        cells[run.cell.id].append(run)
    rows: list[Result] = []
    sides: dict[CellId, Side] = {}
    for cell in _order(study, ladder, cells):
        first, *others = _by_setup(cells.get(cell.id, []), metric)
        main = _result(asked, cell, first, asked.kinds.get(cell.id))
        rows.append(main)
        rows += [_trained_otherwise(asked, cell, main, runs) for runs in others]
        sides[cell.id] = Side(main, [run for run in first if run.id in main.runs.ids])
    effects, findings = compare(study, sides, metric)
    main_rows = {id(side.result) for side in sides.values()}
    results: list[Result] = []
    for row in rows:
        whole = _completed(row, study, effects, findings.error) if id(row) in main_rows else row
        results.append(replace(whole, beside=beside_paper(ladder, whole, where)))
    results += [_undefined(asked, cell.label, cell.reason) for cell in study.undefined]
    return Analysis(results, findings, where.name, metric, study.ladder)


def _completed(row: Result, study: Study, effects: Mapping[CellId, Effect], error: Any) -> Result:
    """A cell's first row with what only the whole study tells: its interval, effect and latency."""
    assert row.cell is not None
    summary = summarize(list(row.score.by_seed.values()), error)
    timed = study.latency.cells.get(row.cell.id) if study.latency else None
    return replace(
        row,
        score=replace(row.score, low=summary.low, high=summary.high),
        effect=effects.get(row.cell.id, row.effect),
        latency=timed,
    )


def _order(study: Study, ladder: Ladder, cells: Mapping[CellId, Sequence[Run]]) -> list[Cell]:
    """Of a ladder: step by step, each with its changes, then what is no step. Else: as planned."""
    planned = [runs[0].cell for runs in cells.values()]
    if study.design != "ladder":
        return planned
    steps = ladder.order(side_steps=True)
    of_step: dict[str, list[Cell]] = {step.name: [] for step in steps}
    for cell in planned:
        of_step.get(cell.step, []).append(cell)
    names = {cell.step for cell in planned}
    whole = len({cell.step for cell in planned if cell.whole}) > 1
    end = max((i for i, step in enumerate(steps) if step.name in names), default=len(steps))
    found: list[Cell] = []
    for i, step in enumerate(steps):
        bare = [cell for cell in of_step[step.name] if cell.whole]
        shown = step.on_path and (step.name in names or (whole and i <= end))
        found += bare or ([_unplanned(study, step.name)] if shown else [])
        found += [cell for cell in of_step[step.name] if not cell.whole]
    return found + [cell for cell in planned if cell.step not in of_step]


def _unplanned(study: Study, step: str) -> Cell:
    """A step on the path that has no run: the cell that comparisons name, where there is one."""
    named = [cell for cell in study.cells.values() if cell.step == step and cell.whole]
    return named[0] if named else Cell(CellId(step, "", "unplanned"), step, "")


def _by_setup(runs: Sequence[Run], metric: Metric) -> list[list[Run]]:
    """Runs of one cell that were trained the same way, the largest such part first.

    Runs of 1 and of 50 epochs may share a study; they must never share a mean. A run whose record
    says less joins the first part that it does not contradict.
    """
    parts: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    quiet: list[Run] = []
    for run in runs:
        setup = tuple(getattr(run.record, name) for name in SAME)
        whole = None not in setup and run.finished(metric)
        (parts[*setup, run.averaged(metric)] if whole else quiet).append(run)
    order = sorted(parts.values(), key=len, reverse=True)
    for run in quiet:
        fitting = [part for part in order if not _contradicts(run, part)]
        if fitting:
            fitting[0].append(run)
        else:
            order.append([run])
    return order or [[]]


def _contradicts(run: Run, part: Sequence[Run]) -> bool:
    """Whether the run's record says something else than the part's."""
    for name in SAME:
        mine, theirs = getattr(run.record, name), _said(part, name)
        if mine is not None and theirs is not None and mine != theirs:
            return True
    return False


def _result(asked: _Asked, cell: Cell, runs: Sequence[Run], kind: Kind | None) -> Result:
    """Counts and statistics of runs that differ in nothing but the seed; no comparison yet."""
    metric = asked.metric
    latest = {run.seed: run for run in runs if run.finished(metric)}
    duplicates = [run.id for run in runs if run.finished(metric) and run is not latest[run.seed]]
    kept = [run for run in runs if run.id not in duplicates]
    finished = sorted(latest.values(), key=seed_order)
    says = finished or kept
    named = _named(asked, cell, kind, kept)
    numbers = paper_numbers(asked.ladder, asked.ladder.steps.get(cell.step) if named.is_step else None, asked.regime)
    counts = Counter(run.outcome(metric) for run in kept)
    behind = Runs(
        ids=[run.id for run in finished],
        duplicates=duplicates,
        planned=len(kept),
        failed=counts[Outcome.FAILED],
        missing=counts[Outcome.MISSING],
        hopeless=[run.id for run in kept if run.outcome(metric) is Outcome.HOPELESS],
    )
    setup = {name: _said(says, name) for name in SETUP}
    return replace(
        named,
        params=_said(says, "params"),
        macs=_said(says, "macs"),
        metric=metric,
        setup=Setup(**setup),
        score=_score(finished, _said(says, "test_images"), metric),
        runs=behind,
        speed=_speed(finished),
        paper=numbers if metric is PRINTED else PaperNumbers(regime=numbers.regime),
    )


def _score(finished: Sequence[Run], test_images: int | None, metric: Metric) -> Score:
    by_seed = {run.seed: run.value(metric) for run in finished}
    summary = summarize(list(by_seed.values()))
    return Score(
        mean=summary.mean,
        std=summary.std,
        sampling_se=metric.sampling_se(summary.mean, test_images),
        averaged=any(run.averaged(metric) for run in finished),
        by_seed=by_seed,
    )


def seed_order(run: Run) -> tuple[str, Any]:
    """Sort runs by their seeds, which a damaged record may hold as something else than numbers."""
    return str(type(run.seed)), run.seed


def common_words(study: Study) -> str:
    """What is set on every network of a study that compares networks: it need not stand in each
    row."""
    if study.design != "models":  # asked for each row of a study that may have thousands of runs
        return ""
    texts = {run.cell.change for run in study.runs}
    return texts.pop() if len(texts) == 1 else ""


def _named(asked: _Asked, cell: Cell, kind: Kind | None, runs: Sequence[Run]) -> Result:
    """How a cell is called and drawn."""
    step = asked.ladder.steps.get(cell.step)
    role = _role(asked, cell, kind)
    if cell.step and common_words(asked.study):
        what = label = cell.step
    else:
        run = runs[0].id if runs else ""
        what = cell.change or (step.title if step else cell.step or run)
        label = cell.in_words or what
    named = Result(role=role, cell=cell, what=what, label=label, group=OTHER)
    if step is not None:
        named = replace(named, id=step.id, step=step.name, group=step.group)
    return replace(named, group=CONTROLS) if role is Role.CONTROL else named


def _role(asked: _Asked, cell: Cell, kind: Kind | None) -> Role:
    step = asked.ladder.steps.get(cell.step)
    if kind is not None and kind.control:
        return Role.CONTROL
    if step is None:
        return Role.OTHER
    if not cell.whole and (kind or asked.study.design == "ladder"):
        return Role.VARIANT
    return Role.STEP if step.on_path else Role.SIDE


def _trained_otherwise(asked: _Asked, cell: Cell, main: Result, runs: Sequence[Run]) -> Result:
    """A row of runs of a cell that were trained otherwise than its first row's: compared with
    nothing."""
    row = _result(asked, cell, runs, Kind.CHANGE)
    return replace(row, role=Role.VARIANT, what=_difference(main, row, runs))


def _difference(main: Result, other: Result, runs: Sequence[Run]) -> str:
    """How runs of one cell were trained, where it is not as its first row's."""
    words: list[str] = []
    for name in SAME:
        said = _said(runs, name)
        base = getattr(main.setup, name) if name in SETUP else getattr(main, name)
        if name != "configuration" and said != base:
            words.append(f"{name} {said}")
    if other.score.averaged != main.score.averaged:
        words.append("EMA on" if other.score.averaged else "EMA off")
    return ", ".join(words) or "another setting"


def _speed(finished: Sequence[Run]) -> Speed:
    """Throughput and hours, which are of one machine: those of several have no mean."""
    machines = {run.machine for run in finished}
    if len(machines) > 1:
        return Speed(several=True)
    rates = [run.record.images_per_second for run in finished]
    hours = [run.hours.hours for run in finished]
    machine = machines.pop() if machines else None
    return Speed(machine=machine, images_per_second=_mean_of(rates), hours=_mean_of(hours))


def _mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of what runs say; a value of 0 says nothing."""
    said = [value for value in values if value]
    return sum(said) / len(said) if said else None


def _undefined(asked: _Asked, label: str, reason: str) -> Result:
    """A planned cell that cannot be built: a row that says so."""
    return Result(
        role=Role.UNDEFINED,
        what=label,
        label=label,
        group=NOT_DEFINED,
        undefined=reason,
        metric=asked.metric,
        effect=Effect(note=f"not defined: {reason}"),
        paper=paper_numbers(asked.ladder, None, asked.regime),
    )


def _said(runs: Iterable[Run], name: str) -> Any:
    """The first value that a record states."""
    values = (getattr(run.record, name) for run in runs)
    return next((value for value in values if value is not None), None)
