"""Two studies of one ladder -> how well the effects of the first, the small one, predict the second's.

Comparisons and cells are matched by what they are (`analysis.results.identity`). A comparison counts
where it is proven controlled in both. The second may be the paper: its printed means and standard
deviations over three seeds take the place of runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.results.costs import marks
from analysis.results.identity import SharedId, shared_ids
from analysis.results.results import Analysis, Effect, Result
from analysis.stats.agreement import (
    RankAgreement,
    Share,
    drawn_interval,
    drawn_means,
    rank_agreement,
    share,
)
from analysis.stats.comparisons import UNRESOLVED, Change, change, verdicts
from analysis.stats.error_term import NOISE, Cell, ErrorTerm, error_term, mean_of
from analysis.study import Study
from roadmap.config.errors import RoadmapError, listing
from roadmap.ladder import Ladder, Regime, find_ladder
from roadmap.runs.metric import TOP1, Metric

if TYPE_CHECKING:
    from analysis.stats.agreement import Numbers

PAPER = "paper"  # the name of what is printed, in the place of a study's
Pair = tuple[SharedId, SharedId]  # child and parent


@dataclass(frozen=True, kw_only=True)
class SideEffect:
    """A comparison's effect in one study; `why` says why it counts for nothing, empty where it does."""

    label: str
    mark: str
    value: float
    low: float | None
    high: float | None
    verdict: str | None
    why: str = ""

    @property
    def resolved(self) -> bool:
        return self.verdict not in (None, UNRESOLVED)


@dataclass(frozen=True, kw_only=True)
class Side:
    """A study, or the paper, as the transfer sees it.

    about     what it is, in one line
    effects   each comparison that both cells have runs of
    cells     each cell's values by seed
    """

    name: str
    about: str
    effects: Mapping[Pair, SideEffect]
    cells: Mapping[SharedId, Cell]
    error: ErrorTerm


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A comparison that counts: its effect in both."""

    a: SideEffect
    b: SideEffect

    @property
    def same_sign(self) -> bool:
        return self.a.value * self.b.value > 0

    @property
    def resolved(self) -> bool:
        return self.a.resolved and self.b.resolved


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A comparison of both that does not count, and why."""

    label: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """How often A has the same of two cells as the better one as B: of all pairs of cells, of those whose
    difference B resolves (after Holm over all of them), of the others."""

    cells: int
    all: Share
    resolved: Share
    unresolved: Share


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How well A predicts B.

    seeds              95 % interval of tau as other seeds of the same cells might have given it
    signs              effects of the same sign: of all, and of those resolved in both
    only_a, only_b     labels of comparisons that one side alone has
    """

    a: Side
    b: Side
    metric: Metric
    shared: Sequence[Shared]
    left_out: Sequence[LeftOut]
    only_a: Sequence[str]
    only_b: Sequence[str]
    ranks: RankAgreement
    seeds: tuple[float, float] | None
    signs: Share
    resolved_signs: Share
    decisions: Decisions


# Sides -------------------------------------------------------------------------------------------


def study_side(study: Study, analysis: Analysis, about: str = "") -> Side:
    """A study, analysed. Of a cell whose runs were trained in two ways the first row counts, which is compared."""
    ids = shared_ids(study, analysis.regime)
    effects: dict[Pair, SideEffect] = {}
    cells: dict[SharedId, Cell] = {}
    for result, mark in zip(analysis.results, marks(analysis.results), strict=True):
        id_ = ids.get(result.cell.id) if result.cell else None
        if id_ is None or id_ in cells or not result.n:
            continue
        if not result.runs.hopeless:
            cells[id_] = result.score.by_seed
        parent = ids.get(result.effect.parent_cell) if result.effect.parent_cell else None
        if parent and result.effect.value is not None:
            effects[id_, parent] = _side_effect(result, result.effect, mark, result.effect.value)
    return Side(name=study.name, about=about, effects=effects, cells=cells, error=analysis.findings.error)


def _side_effect(result: Result, effect: Effect, mark: str, value: float) -> SideEffect:
    proof = effect.proof
    why = proof.text if proof else "not proven"
    return SideEffect(
        label=result.label,
        mark=mark,
        value=value,
        low=effect.low,
        high=effect.high,
        verdict=effect.verdict,
        why="" if proof and proof.controlled else why,
    )


def paper_side(ladder: Ladder, regime: Regime) -> Side:
    """What the paper prints for a regime. Raises RoadmapError where it prints nothing."""
    if not regime.paper:
        legal = listing(r.name for r in ladder.all_regimes if r.paper) or "none: the ladder's source prints none"
        raise RoadmapError(
            f"report.transfer regime {regime.name!r} has no printed numbers; legal: {legal}; name one with --regime"
        )
    cells = {step: _as_printed(i, p.top1, p.std) for i, (step, p) in enumerate(regime.paper.items())}
    error = error_term(cells)
    changes: dict[str, Change | None] = {}
    for name in cells:
        parent = ladder.steps[name].parent
        if parent in cells:
            changes[name] = change(cells[name], cells[parent], error)
    judged = verdicts(changes, TOP1)
    ids = {name: SharedId(ladder.name, name) for name in cells}
    effects: dict[Pair, SideEffect] = {}
    for name, found in changes.items():
        step = ladder.steps[name]
        assert found is not None and step.parent is not None
        effects[ids[name], ids[step.parent]] = SideEffect(
            label=name,
            mark=step.id or name,
            value=round(found.mean, 2),  # printed with two decimals: rounding removes what binary fractions add
            low=found.low,
            high=found.high,
            verdict=judged[name].verdict,
        )
    about = f"{ladder.printed.cited if ladder.printed else ladder.source}, {regime.name}, as printed"
    return Side(
        name=PAPER, about=about, effects=effects, cells={ids[name]: cell for name, cell in cells.items()}, error=error
    )


def _as_printed(number: int, mean: float, std: float | None) -> Cell:
    """Values with the printed mean and standard deviation, as of three seeds that no other cell has.

    Any three such values give the same comparisons. Where no deviation is printed it is one run.
    """
    if std is None:
        return {10 * number: mean}
    return {10 * number: mean - std, 10 * number + 1: mean, 10 * number + 2: mean + std}


def paper_of(study: Study, regime: str = "") -> Side:
    """What the paper of a study's ladder prints, for the study's regime or the first that is printed."""
    ladder = find_ladder(study.ladder)
    where = ladder.find_regime(regime) if regime else ladder.printed_regime(study.regime)
    return paper_side(ladder, where)


# Both --------------------------------------------------------------------------------------------


def transfer(a: Side, b: Side, metric: Metric) -> Transfer:
    """How well A predicts B. Raises RoadmapError where no comparison of both counts."""
    both = [pair for pair in a.effects if pair in b.effects]
    left_out = [LeftOut(label=a.effects[p].label, why=why) for p in both if (why := _why_not(a, b, p))]
    pairs = [pair for pair in both if not _why_not(a, b, pair)]
    if not pairs:
        raise RoadmapError(_nothing_shared(a, b, left_out))
    shared = [Shared(a=a.effects[pair], b=b.effects[pair]) for pair in pairs]
    resolved = [one for one in shared if one.resolved]
    return Transfer(
        a=a,
        b=b,
        metric=metric,
        shared=shared,
        left_out=left_out,
        only_a=[effect.label for pair, effect in a.effects.items() if pair not in b.effects],
        only_b=[effect.label for pair, effect in b.effects.items() if pair not in a.effects],
        ranks=rank_agreement([one.a.value for one in shared], [one.b.value for one in shared]),
        seeds=_other_seeds(a, b, pairs),
        signs=_same_signs(shared),
        resolved_signs=_same_signs(resolved),
        decisions=_decisions(a, b, pairs, metric),
    )


def _why_not(a: Side, b: Side, pair: Pair) -> str:
    """Why a comparison of both does not count; empty where it does."""
    parts = [f"{side.effects[pair].why} in {side.name}" for side in (a, b) if side.effects[pair].why]
    return "; ".join(parts)


def _nothing_shared(a: Side, b: Side, left_out: Sequence[LeftOut]) -> str:
    if left_out:
        told = "; ".join(f"{one.label}: {one.why}" for one in left_out)
        return (
            f"report.transfer has no controlled comparison in common ({told}); legal: comparisons that are controlled "
            "in both; see `roadmap check`"
        )
    has = [f"{side.name} has {listing(e.label for e in side.effects.values()) or 'none'}" for side in (a, b)]
    return (
        f"report.transfer has no comparison in common: {', '.join(has)}; "
        "legal: studies that make the same steps or changes of one ladder; choose another pair"
    )


def _same_signs(shared: Sequence[Shared]) -> Share:
    return share(sum(one.same_sign for one in shared), len(shared))


def _other_seeds(a: Side, b: Side, pairs: Sequence[Pair]) -> tuple[float, float] | None:
    """Tau's interval over draws of every cell's mean; one that two comparisons share is drawn once."""
    drawn = [_drawn_effects(side, pairs, seed) for seed, side in enumerate((a, b))]
    return None if drawn[0] is None or drawn[1] is None else drawn_interval(drawn[0], drawn[1])


def _drawn_effects(side: Side, pairs: Sequence[Pair], seed: int) -> list[Numbers] | None:
    needed = dict.fromkeys(itertools.chain.from_iterable(pairs))
    means = drawn_means({id_: side.cells[id_] for id_ in needed}, side.error, seed=seed)
    return None if means is None else [means[child] - means[parent] for child, parent in pairs]


# Decisions ---------------------------------------------------------------------------------------


def _decisions(a: Side, b: Side, pairs: Sequence[Pair], metric: Metric) -> Decisions:
    """Over all pairs of cells that controlled comparisons of both lead from one to the other."""
    groups = _connected(pairs)
    asked = [pair for group in groups for pair in itertools.combinations(group, 2)]
    judged = verdicts({(x, y): change(b.cells[x], b.cells[y], b.error) for x, y in asked}, metric)
    resolved = [pair for pair in asked if judged[pair].verdict != UNRESOLVED]
    others = [pair for pair in asked if judged[pair].verdict == UNRESOLVED]
    return Decisions(
        cells=sum(map(len, groups)),
        all=_hits(a, b, asked),
        resolved=_hits(a, b, resolved),
        unresolved=_hits(a, b, others),
    )


def _hits(a: Side, b: Side, asked: Sequence[Pair]) -> Share:
    cells = set(itertools.chain.from_iterable(asked))
    return share(sum(_hit(a, b, *pair) for pair in asked), len(asked), independent=max(len(cells) - 1, 1))


def _hit(a: Side, b: Side, x: SharedId, y: SharedId) -> float:
    """1 where both have the same one as better, 0.5 where either cannot tell."""
    before, after = (mean_of(list(s.cells[x].values())) - mean_of(list(s.cells[y].values())) for s in (a, b))
    if abs(before) < NOISE or abs(after) < NOISE:
        return 0.5
    return float((before > 0) == (after > 0))


def _connected(pairs: Iterable[Pair]) -> list[list[SharedId]]:
    """Cells in groups: what is controlled against the same cell is controlled against each other."""
    groups: list[list[SharedId]] = []
    for child, parent in pairs:
        touched = [group for group in groups if child in group or parent in group]
        groups = [group for group in groups if group not in touched]
        groups.append(list(dict.fromkeys([*itertools.chain.from_iterable(touched), parent, child])))
    return groups
