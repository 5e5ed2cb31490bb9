"""What a reader must know to judge a table: question, data, training, seeds, machine, code, runs, error, verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.report import judgement
from analysis.report.crossed import CrossTable, cross_table
from analysis.report.facts import Fact, FactKind
from analysis.results.analyse import common_words, seed_order
from analysis.results.results import Analysis
from analysis.study import LatencyTable, Outcome, Prediction, Run, Study
from analysis.wording import count, number, one_line, predicted_and_taken
from roadmap.ladder import Printed, Regime, find_ladder
from roadmap.runs.metric import Metric
from roadmap.runs.record import DIVERGED, FINISHED, HOPELESS, NO_HARDWARE

UNKNOWN = "not recorded"
ENDED = (FINISHED, DIVERGED, HOPELESS)  # with a result, so that training anew draws again


class Problem(NamedTuple):
    """A run that is in no mean, and why."""

    run: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What stands beside a table or a figure.

    title    one line
    facts    what a reader must know, in order
    short    the few of them that fit under a figure
    runs     how many runs finished
    problems the runs that are in no mean
    crossed  a crossed study at one look
    """

    title: str
    facts: Sequence[Fact]
    short: str
    runs: str = ""
    problems: Sequence[Problem] = ()
    crossed: CrossTable | None = None


def measured_caption(study: Study, analysis: Analysis) -> Caption:
    """Write the caption of one regime's results."""
    metric = analysis.metric
    planned = study.runs_in(analysis.regime)
    finished = [run for run in planned if run.finished(metric)]
    unfinished = [run for run in planned if not run.finished(metric)]
    data, recipes, counts = _data(finished), _recipes(finished), _counts(planned, metric)
    return Caption(
        title=f"Study {one_line(study.name)}, regime {analysis.regime}",
        facts=[
            *_made(study, analysis, finished, counts),
            *_numbers(analysis, finished),
            *judgement.facts(analysis),
            *_aside(study, analysis),
        ],
        short=f"{counts}; {data}; {recipes}",
        runs=counts,
        problems=[Problem(one_line(run.id), one_line(run.reason(metric))) for run in unfinished],
        crossed=cross_table(study, analysis),
    )


def _made(study: Study, analysis: Analysis, finished: Sequence[Run], counts: str) -> Iterator[Fact]:
    """How the runs were made."""
    regime = find_ladder(analysis.ladder).find_regime(analysis.regime)
    yield Fact(FactKind.QUESTION, one_line(study.question))
    yield Fact(FactKind.REGIME, f"{regime.name}: {regime.title}")
    yield Fact(FactKind.DATA, _data(finished))
    yield Fact(FactKind.RECIPE, _recipes(finished))
    yield Fact(FactKind.SEEDS, _distinct(sorted(finished, key=seed_order), lambda run: str(run.seed)))
    yield Fact(FactKind.RUNS, counts)
    if again := _drawn_again(study.runs_in(analysis.regime), analysis.metric):
        yield Fact(FactKind.DRAWN_AGAIN, again)
    yield Fact(FactKind.HARDWARE, _distinct(finished, _hardware))
    yield Fact(FactKind.CODE, _distinct(finished, _code))


def _numbers(analysis: Analysis, finished: Sequence[Run]) -> Iterator[Fact]:
    """What the numbers are."""
    metric = analysis.metric
    unit = "percent" if metric.proportion else metric.unit
    mean = "mean ± standard deviation (n − 1) over the finished seeds"
    averaged = "of the averaged weights where EMA is on"
    better = "" if metric.higher_is_better else "; less is better"
    yield Fact(FactKind.TEST_SPLIT, _test_split(analysis, finished))
    yield Fact(
        FactKind.METRIC, f"{unit} on the test split after the last epoch, {averaged}; {mean}{better}", metric.capital
    )


def _aside(study: Study, analysis: Analysis) -> Iterator[Fact]:
    """What else belongs to the study."""
    if common := common_words(study):
        yield Fact(FactKind.ON_ALL, common)
    if study.latency:
        yield Fact(FactKind.LATENCY, _latency(study.latency))
    if study.prediction and (taken := _taken(study, study.prediction)):
        yield Fact(FactKind.TIME, taken)
    yield from (Fact(FactKind.DESIGN, one_line(note)) for note in study.notes)
    others = Counter(run.regime for run in study.runs if run.regime != analysis.regime)
    if others:
        counted = [f"{n} trials of regime {name or '(none)'}" for name, n in others.items()]
        yield Fact(FactKind.NOT_SHOWN, ", ".join(counted))


def _latency(table: LatencyTable) -> str:
    hardware = table.hardware
    device = hardware.cpu if hardware.device == "cpu" else hardware.device
    rounds = next(iter(table.cells.values())).rounds
    how = f"one image, {table.precision}, evaluation mode, all networks in turn, {rounds} rounds"
    return f"{how}: median and quartiles, on {device}, {hardware.threads} threads"


def _taken(study: Study, prediction: Prediction) -> str:
    """What the finished runs were predicted to take beside what they took; empty where none of them was predicted."""
    taken = {run.id: run.record.wall_seconds for run in study.runs if run.record.status == FINISHED}
    both = [(prediction.seconds[run], s) for run, s in taken.items() if s is not None and run in prediction.seconds]
    if not both:
        return ""
    compared = predicted_and_taken(*map(sum, zip(*both, strict=True)))
    return f"{compared}: {len(both)} of {len(study.runs)} runs; measured on {'; '.join(prediction.measured)}"


def _distinct(runs: Iterable[Run], text: Callable[[Run], str]) -> str:
    """Every different text, in order of appearance."""
    return "; ".join(dict.fromkeys(one_line(text(run)) for run in runs)) or UNKNOWN


def _data(runs: Iterable[Run]) -> str:
    return _distinct(runs, lambda run: f"{run.record.data}, {run.record.image_size} px")


def _recipes(runs: Iterable[Run]) -> str:
    return _distinct(runs, lambda run: f"{run.record.recipe} ({run.record.epochs} epochs)")


def _counts(runs: Sequence[Run], metric: Metric) -> str:
    counts = Counter(run.outcome(metric) for run in runs)
    diverged = sum(run.status == DIVERGED for run in runs)
    parts = [f"{counts[Outcome.FINISHED]} of {len(runs)} runs finished"]
    if counts[Outcome.FAILED]:
        of_them = f" ({diverged} of them diverged)" if diverged else ""
        parts.append(f"{counts[Outcome.FAILED]} failed{of_them}")
    if counts[Outcome.MISSING]:
        parts.append(f"{counts[Outcome.MISSING]} missing")
    if counts[Outcome.HOPELESS]:
        parts.append(f"{counts[Outcome.HOPELESS]} ended early as hopeless")
    return ", ".join(parts)


def _drawn_again(runs: Sequence[Run], metric: Metric) -> str:
    """How often each cell's runs were trained anew although they had ended, and what they gave; else empty."""
    told: dict[str, list[str]] = {}
    for run in runs:
        for before in run.record.previous:
            if before["status"] in ENDED:
                gave = _gave(before["status"], before["metrics"], metric)
                told.setdefault(run.cell.in_words, []).append(f"seed {run.seed} had given {gave}")
    return "; ".join(
        f"{one_line(cell)} {count(len(given), 'time')} ({', '.join(given)})" for cell, given in told.items()
    )


def _gave(status: str, metrics: Mapping[str, float | None], metric: Metric) -> str:
    value = metric.value(metrics)
    return status if value is None else f"{number(value, metric.decimals)} {metric.unit}".strip()


def _hardware(run: Run) -> str:
    hardware, world_size = run.record.hardware, run.record.world_size or 1
    if hardware == NO_HARDWARE:
        return UNKNOWN
    device = f"{world_size} x {hardware.device}" if world_size > 1 else str(hardware.device)
    cores = f"{hardware.cores} cores" if hardware.cores else ""
    threads = f"threads {hardware.threads}" if hardware.threads else ""
    return ", ".join(part for part in (device, hardware.cpu, cores, threads) if part)


def _code(run: Run) -> str:
    commit = run.record.git_commit
    if not commit:
        return "no commit recorded"
    return f"{commit[:10]}{' with uncommitted changes' if run.record.git_dirty else ''}"


def _test_split(analysis: Analysis, finished: Sequence[Run]) -> str:
    """The test images, and the largest error that counting them leaves one run."""
    metric = analysis.metric
    images = _distinct(finished, lambda run: str(run.record.test_images))
    scores = [result.score for result in analysis.results if result.score.mean is not None]
    errors = [(score.sampling_se, score.mean) for score in scores if score.sampling_se is not None]
    if not errors:
        return f"{images} images"
    error, mean = max(errors)
    most = f"{number(error, metric.decimals)} {metric.difference_unit} (at {mean:.1f} {metric.unit})"
    return f"{images} images; binomial standard error of one run at most {most}"


# A paper's own table -----------------------------------------------------------------------------


def paper_caption(analysis: Analysis) -> Caption:
    """Write the caption of a paper's own ladder."""
    ladder = find_ladder(analysis.ladder)
    regime = ladder.find_regime(analysis.regime)
    printed = ladder.printed or Printed(ladder.source, "", "several seeds")
    many = any(result.paper.std is not None for result in analysis.results)
    spreads = f"mean ± standard deviation over {printed.seeds}"
    whose = f"{spreads}, as printed; where there is no deviation, the one number the paper prints"
    seeds = whose if many else "single runs"
    facts = [
        Fact(FactKind.REGIME, f"{regime.name}: {regime.title}"),
        Fact(FactKind.SOURCE, f"{printed.cited}; nothing here was measured by this project"),
        Fact(FactKind.METRIC, f"{printed.data} validation, percent; {seeds}", analysis.metric.capital),
        Fact(FactKind.COUNTS, _counted(regime)),
    ]
    quoted = [r for r in analysis.results if r.paper.quoted and r.paper.score is not None]
    facts += [Fact(FactKind.NOTE, f"{r.step}: {r.paper.score:.2f} is {r.paper.quoted}") for r in quoted]
    if regime.reference:
        facts.append(Fact(FactKind.REFERENCE, "{}: {:.2f} %, {:.2f} GFLOPs".format(*regime.reference)))
    return Caption(
        title=f"The paper's ladder: {regime.title}",
        facts=facts,
        short=f"{printed.data}; {spreads if many else seeds}",
    )


def _counted(regime: Regime) -> str:
    how = f"parameters and GMACs were counted on the network at {regime.image_size} px, without LayerScale"
    return f"{how}; GFLOPs are the paper's print of the same multiply-adds"
