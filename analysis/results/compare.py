"""Results -> their effects: what is compared with what, the error term of the whole study, proof,
Holm's verdicts, the controls' false positives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.results.confounds import Cause, Confound, Proof, Status, prove
from analysis.results.results import Contrast, Effect, Findings, Result
from analysis.stats.comparisons import FalsePositives, change, change_sampling_se, false_positives, verdicts
from analysis.stats.error_term import NONE, PAIRED, POOLED, WELCH, ErrorTerm, error_term
from analysis.study import CellId, Comparison, Kind, Run, Study
from roadmap.runs.metric import Metric

MARKS = {PAIRED: "p", WELCH: "w", POOLED: "o", NONE: ""}  # of an effect whose error is not got as the study's is


@dataclass(frozen=True)
class Side:
    """A cell's result with the finished runs behind it."""

    result: Result
    runs: Sequence[Run]


Sides = Mapping[CellId, Side]


@dataclass(frozen=True)
class Compared:
    """One comparison with both its sides."""

    comparison: Comparison
    child: Side
    parent: Side

    @property
    def both_ran(self) -> bool:
        return bool(self.child.result.n and self.parent.result.n)


def compare(study: Study, sides: Sides, metric: Metric) -> tuple[dict[CellId, Effect], Findings]:
    """The effect of every cell that is compared, and what holds for all of them together."""
    compared = _compared(study.comparisons, sides)
    controls = {c.child for c in study.comparisons if c.kind.control and c.child in sides}
    error = _error(sides, controls, metric)
    effects = {c.comparison.child: _effect(c, error, metric) for c in compared}
    for child, contrast in _contrasts(study, sides, metric).items():
        effects[child] = replace(effects[child], contrast=contrast)
    judged = [c.comparison.child for c in compared if not c.comparison.kind.control]
    effects, family = _judge(effects, judged, metric)
    tested = [c for c in compared if c.comparison.kind.control and _controlled(effects[c.comparison.child])]
    for c in tested:  # each by itself, without Holm: at 5 % one in twenty is expected to be resolved
        effects, _ = _judge(effects, [c.comparison.child], metric)
    identical = [c for c in tested if c.child.result.score.by_seed == c.parent.result.score.by_seed]
    others = [effects[c.comparison.child] for c in tested if c not in identical]
    labels = [c.child.result.label for c in identical]
    rate = _false_positives(others, metric) if controls else None
    findings = Findings(
        metric=metric,
        error=error,
        family=family,
        controls=rate,
        identical=labels,
    )
    return effects, findings


def _compared(comparisons: Iterable[Comparison], sides: Sides) -> list[Compared]:
    """The comparisons of which both cells are shown."""
    known = [c for c in comparisons if c.child in sides and c.parent in sides]
    return [Compared(c, sides[c.child], sides[c.parent]) for c in known]


def _error(sides: Sides, controls: set[CellId], metric: Metric) -> ErrorTerm:
    """The study's error term. A control, which repeats a cell's runs, adds no evidence to it."""
    own = {id_: side.result.score.by_seed for id_, side in sides.items() if id_ not in controls and side.result.n}
    return error_term(own, floor=least_std([side.result for side in sides.values()], metric))


def least_std(results: Iterable[Result], metric: Metric) -> float | None:
    """The error's floor where the metric is counted on the fewest images.

    0 where no record says how many there were, None for a metric that is not counted.
    """
    if not metric.proportion:
        return None
    floors = [metric.floor(result.setup.test_images) for result in results]
    return max((floor for floor in floors if floor is not None), default=0.0)


def _effect(compared: Compared, error: ErrorTerm, metric: Metric) -> Effect:
    """The effect without its verdict."""
    child, parent = compared.child.result, compared.parent.result
    against = Effect(parent=parent.label, parent_cell=compared.comparison.parent, parent_ids=parent.runs.ids)
    found = change(child.score.by_seed, parent.score.by_seed, error)
    if found is None:
        return replace(against, note=f"no finished run of {parent.label if child.n else child.what}")
    images = child.setup.test_images, parent.setup.test_images
    return replace(
        against,
        value=found.mean,
        se=found.se,
        low=found.low,
        high=found.high,
        p=found.p,
        method=found.method,
        sampling_se=change_sampling_se(metric, child.score.mean, parent.score.mean, *images),
        mark="" if found.method == error.method else MARKS[found.method],
        proof=_prove(compared, metric),
    )


def _prove(compared: Compared, metric: Metric) -> Proof:
    """What differs between the two cells' runs.

    On CPUs a toggle that does nothing gives the same bits, or something decides the outcome that no
    setting says. GPUs may sum in another order each time.
    """
    c = compared.comparison
    proof = prove(compared.child.runs, compared.parent.runs, c.declared, c.planned)
    told = list(_selected(compared))
    if c.kind is Kind.NO_OP and all(run.record.hardware.device == "cpu" for run in compared.child.runs):
        told += _other_outcomes(compared, metric, proof)
    return replace(proof, status=Status.CONFOUNDED, confounds=(*proof.confounds, *told)) if told else proof


def _selected(compared: Compared) -> Iterable[Confound]:
    """The runs that ended early: what is left of a cell is no sample of its seeds."""
    ended = (*compared.parent.result.runs.hopeless, *compared.child.result.runs.hopeless)
    if ended:
        yield Confound(Cause.SELECTED, "runs ended early", after=ended)


def _other_outcomes(compared: Compared, metric: Metric, proof: Proof) -> Iterable[Confound]:
    """The seeds at which two cells that should compute the same did not, with what else differs."""
    because = tuple(confound.name for confound in proof.confounds)
    before, after = compared.parent.result.score.by_seed, compared.child.result.score.by_seed
    for seed, value in after.items():
        if before.get(seed, value) != value:
            yield Confound(
                Cause.OUTCOME, metric.name, (f"{before[seed]:g}",), (f"{value:g}",), seed=seed, because=because
            )


def _contrasts(study: Study, sides: Sides, metric: Metric) -> dict[CellId, Contrast]:
    """Whether a change may be compared with the same change at the first crossed value.

    Child and parent must each differ from themselves there in the crossed settings alone.
    """
    crossed = {c.comparison.child: c for c in _compared(study.crossings, sides) if c.both_ran}
    proofs = {id_: _prove(c, metric) for id_, c in crossed.items()}
    found: dict[CellId, Contrast] = {}
    for c in study.comparisons:
        if c.child in proofs and c.parent in proofs:
            worst = proofs[c.child] if proofs[c.parent].controlled else proofs[c.parent]
            found[c.child] = Contrast(proof=worst, against=crossed[c.child].parent.result.label)
    return found


def _controlled(effect: Effect) -> bool:
    return effect.proof is not None and effect.proof.controlled


def _judge(
    effects: Mapping[CellId, Effect], asked: Iterable[CellId], metric: Metric
) -> tuple[dict[CellId, Effect], int]:
    """Holm over those that are proven controlled, and how many were counted.

    A confounded one has no verdict on the declared change.
    """
    proven = {id_: effects[id_].change for id_ in asked if _controlled(effects[id_])}
    judged = verdicts(proven, metric)
    with_verdict = {
        id_: replace(effects[id_], p_holm=verdict.p_holm, verdict=verdict.verdict) for id_, verdict in judged.items()
    }
    return {**effects, **with_verdict}, max((verdict.family for verdict in judged.values()), default=0)


def _false_positives(effects: Iterable[Effect], metric: Metric) -> FalsePositives:
    """How often controls were resolved that are proven to differ in nothing but could.

    One that repeats its base's runs to the bit can never be resolved.
    """
    return false_positives(verdicts({0: effect.change}, metric)[0] for effect in effects)
