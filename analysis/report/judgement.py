"""How a study's changes were judged, as facts: whose scatter the intervals are made of, verdicts, controls, proofs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.report.facts import Fact, FactKind
from analysis.results.confounds import Status
from analysis.results.results import Analysis, Findings, Result
from analysis.stats.comparisons import FalsePositives
from analysis.stats.error_term import NONE, PAIRED, ErrorTerm
from analysis.wording import number, one_line
from roadmap.config.errors import listing
from roadmap.ladder import find_ladder
from roadmap.runs.metric import Metric

MANY = 8  # notes of one kind that a caption lists


def facts(analysis: Analysis) -> Iterator[Fact]:
    """How changes, verdicts and the paper's numbers are to be read, then what is confounded or set aside."""
    findings = analysis.findings
    yield Fact(FactKind.CHANGE, _change(findings.error, analysis.metric))
    yield Fact(FactKind.VERDICT, _verdict(findings.family))
    if told := _controls(findings):
        yield Fact(FactKind.CONTROLS, told)
    if any(result.paper.score is not None for result in analysis.results):
        yield Fact(FactKind.PAPER, paper_note(analysis))
    yield from _proofs(analysis.results)
    yield from _duplicates(analysis.results)


def _change(error: ErrorTerm, metric: Metric) -> str:
    """Whose scatter the intervals are made of."""
    what = f"difference of means to the parent in {metric.difference_unit}, with its 95 % interval"
    if error.method == NONE:
        return f"{what}; no cell has two runs, so no error is known"
    others = "; o: other seeds, not paired" if error.method == PAIRED else ""
    tested = error.p_equal is not None and error.std is not None
    equal = f"; test of equal variances: p = {error.p_equal:.2f}" if tested else ""
    return f"{what}; error: {_scatter(error, metric)}{others}{equal}"


def _scatter(error: ErrorTerm, metric: Metric) -> str:
    if error.std is None or error.df is None:
        own = "each comparison by its own scatter (p: paired by seed, w: Welch)"
        return f"{own}, for equal variances are rejected (p = {error.p_equal:.3f})"
    size = f"{number(error.std, metric.decimals)} {metric.difference_unit} at {error.df:g} degrees of freedom"
    if error.method == PAIRED:
        seeds = f"(correlation over seeds {error.correlation:.2f})"
        return f"paired by seed with the error term of the whole study, {size} {seeds}"
    return f"the pooled standard deviation of {error.cells} cells and {error.runs} runs, {size}"


def _verdict(family: int) -> str:
    holm = f"gain or loss where p < 0.05 after Holm over {family} controlled comparisons, else unresolved"
    return f"{holm}; ‡ confounded: no verdict on the declared change"


def _controls(findings: Findings) -> str:
    """What the negative controls gave; empty where none are planned."""
    controls = findings.controls
    if controls is None:
        return ""
    told = [_false_positives(controls)]
    if findings.identical:
        told.append(f"{listing(findings.identical)}: the same {findings.metric.title} as its base for every seed")
    return "; ".join(filter(None, told)) or "planned, not finished or not controlled"


def _false_positives(controls: FalsePositives) -> str:
    if controls.total and controls.low is not None and controls.high is not None:
        rate = f"false-positive rate {controls.resolved / controls.total:.0%}"
        interval = f"95 % interval {controls.low:.0%} to {controls.high:.0%}; 5 % are expected"
        different = "comparisons without any difference were called different"
        return f"{controls.resolved} of {controls.total} {different} ({rate}, {interval})"
    return f"{controls.untested} compared, but without a known error" if controls.untested else ""


def paper_note(analysis: Analysis) -> str:
    """Which regime of which paper the paper's columns quote."""
    ladder = find_ladder(analysis.ladder)
    quoted = [result for result in analysis.results if result.paper.score is not None]
    regime = ladder.find_regime(quoted[0].paper.regime)
    steps = [ladder.steps[result.step] for result in quoted]
    elsewhere = dict.fromkeys(step.source for step in steps if not step.of_ladder)
    where = f" on {ladder.printed.data}" if ladder.printed else ""
    note = f"{regime.title}{where}, as printed ({'; '.join([ladder.source, *elsewhere])})"
    if regime.name == analysis.regime:
        return note
    return f"{note}; another network and another data set than this regime, so only signs and order compare"


def _proofs(results: Sequence[Result]) -> Iterator[Fact]:
    """What confounds a comparison, and what a reader of 'controlled' must still know."""
    for result in results:
        proof = result.effect.proof
        if proof and proof.status is Status.CONFOUNDED:
            reasons = "; ".join(confound.text for confound in proof.confounds)
            yield Fact(FactKind.CONFOUNDED, f"{result.label}: {one_line(reasons)}")
    told = [text for result in results if (text := _told(result))]
    if len(told) <= MANY:
        yield from (Fact(FactKind.PROOF, text) for text in told)
        return
    several = f"{len(told)} comparisons change several settings together, as declared, or have other seeds"
    yield Fact(FactKind.PROOF, f"{several}: the proof column says which, `roadmap check` how")


def _told(result: Result) -> str:
    """The notes on the proof of a comparison with a verdict."""
    proof = result.effect.proof
    return f"{result.label}: {one_line(proof.note)}" if proof and proof.note and result.effect.verdict else ""


def _duplicates(results: Sequence[Result]) -> Iterator[Fact]:
    for result in results:
        if result.runs.duplicates:
            aside = ", ".join(result.runs.duplicates)
            told = f"{result.step}: a later trial has the same seed as {aside}; only the later is counted"
            yield Fact(FactKind.NOTE, told)
