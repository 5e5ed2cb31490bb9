"""Two studies side by side -> a page: per row both scores and their difference, and everything that
differs between the two setups.

A difference of two studies is the effect of all that differs between them. Where that is more than one
setting, the page says "confounded" and lists it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from analysis.report.caption import Caption, measured_caption
from analysis.report.drawings import in_unit
from analysis.report.phrases import count_text, score_text
from analysis.report.render import render
from analysis.report.view import View, views
from analysis.results.circumstances import follows_from
from analysis.results.compare import least_std
from analysis.results.confounds import Proof, prove
from analysis.results.results import Analysis, Result, Setup
from analysis.stats.comparisons import Change, change
from analysis.study import CellId, Run, Study
from analysis.wording import NONE, one_line, plain, signed_interval
from roadmap.config.errors import RoadmapError, listing
from roadmap.runs.metric import Metric

Difference = tuple[str, str, str]  # name, A's value, B's value
Otherwise = tuple[
    tuple[str, object], ...
]  # settings in which a row's runs were trained otherwise than its cell's first
Key = tuple[str, str, Otherwise]


@dataclass(frozen=True)
class Shown:
    """A study on the page: its name there, what it is, and its rows."""

    name: str
    caption: Caption
    question: str
    rows: list[View]


@dataclass(frozen=True)
class Pair:
    """A row of both studies.

    difference   B − A, None where one has no finished run; `interval` is its text, `note` says why
    status, differs   what differs in their setups, beyond what differs in every row
    """

    a: View
    b: View
    difference: Change | None
    interval: str
    note: str
    status: str
    differs: list[Difference]

    @property
    def key(self) -> str:
        return self.a.key

    @property
    def name(self) -> str:
        return self.a.name

    @property
    def title(self) -> str:
        return self.a.title


def compare_page(a: tuple[Study, Analysis], b: tuple[Study, Analysis]) -> str:
    """Write the page of A and B, both analysed by one metric. Raises RoadmapError where they share no row."""
    metric = a[1].metric
    shown = _shown(a, b)
    matched = _matched(*(study.rows for study in shown))
    if not matched:
        told = ", ".join(f"{study.name} has {_listing(study.rows)}" for study in shown)
        raise RoadmapError(
            f"report.compare has no row in common: {told}; legal: studies that share a step; choose another pair"
        )
    proofs = [setups(*pair) for pair in matched]
    everywhere = _common([differences(proof) for proof in proofs if proof])
    pairs = [_pair(*views, proof, everywhere) for views, proof in zip(matched, proofs, strict=True)]
    names = [study.name for study in shown]
    return render(
        "compare.html.jinja",
        metric=metric,
        score_in_unit=in_unit(metric)[:1].upper() + in_unit(metric)[1:],
        title=f"{names[0]} and {names[1]} side by side",
        names=names,
        studies=shown,
        sentences=list(_sentences(pairs, everywhere, names, metric)),
        everywhere=everywhere,
        pairs=pairs,
        only=[(study.name, _only(study, matched)) for study in shown],
        score_text=score_text,
        count_text=count_text,
    )


def _shown(*studies: tuple[Study, Analysis]) -> list[Shown]:
    """Both studies; a letter tells them apart where both have one name."""
    names = [one_line(study.name) for study, _ in studies]
    if len(set(names)) < len(names):
        names = [f"{name} ({letter})" for name, letter in zip(names, "AB", strict=True)]
    return [
        Shown(name, measured_caption(*study), one_line(study[0].question), views(*study))
        for name, study in zip(names, studies, strict=True)
    ]


def _listing(rows: Sequence[View]) -> str:
    return listing(dict.fromkeys(one_line(view.result.label) for view in rows)) or "none"


def _matched(a: Sequence[View], b: Sequence[View]) -> list[tuple[View, View]]:
    """Rows of both that stand for one cell, in the order of A.

    One trained otherwise matches that which says the same.
    """
    theirs = dict(_keyed(b))
    return [(view, theirs[key]) for key, view in _keyed(a) if key in theirs]


def _keyed(rows: Sequence[View]) -> Iterator[tuple[Key, View]]:
    """Each row by what is the same in two studies: step, change, and what was otherwise than in its cell's first row.

    The configuration is not, for studies are compared because they differ.
    """
    first: dict[CellId, Result] = {}
    for view in rows:
        cell = view.result.cell
        if cell is not None:
            main = first.setdefault(cell.id, view.result)
            yield (cell.step, cell.change, _otherwise(main, view.result)), view


def _otherwise(main: Result, result: Result) -> Otherwise:
    names = [field.name for field in fields(Setup) if field.name != "configuration"]
    values = [(name, getattr(main.setup, name), getattr(result.setup, name)) for name in names]
    averaged = ("averaged", main.score.averaged, result.score.averaged)
    return tuple((name, after) for name, before, after in [*values, averaged] if before != after)


def _only(study: Shown, matched: Sequence[tuple[View, View]]) -> list[str]:
    """The rows of a study that the other does not have."""
    shared = {id(view) for pair in matched for view in pair}
    return [view.name for view in study.rows if id(view) not in shared]


def setups(a: View, b: View) -> Proof | None:
    """All that differs between the finished runs of two rows; None where one has none.

    Every setting and every fact of code and machine is allowed to, so `changed` holds it.
    """
    if not a.result.n or not b.result.n:
        return None
    return prove(_averaged(b), _averaged(a), ["*"])


def _averaged(view: View) -> list[Run]:
    return [run for run in view.behind if run.id in view.result.runs.ids]


def differences(proof: Proof) -> list[Difference]:
    """All differences, and what cannot be told at all; without facts that only repeat a setting which differs."""
    repeated = {name for name in proof.changed if not proof.changed.keys().isdisjoint(follows_from(name))}
    told = [(name, *pair) for name, pair in proof.changed.items() if name not in repeated]
    changed = [(one_line(name), plain(before), plain(after)) for name, before, after in told]
    return [*changed, *((one_line(confound.text), NONE, NONE) for confound in proof.confounds)]


def _common(setups: Sequence[list[Difference]]) -> list[Difference]:
    """What differs in the same way in every row."""
    common = list(setups[0]) if setups else []
    for other in setups:
        common = [difference for difference in common if difference in other]
    return common


def _pair(a: View, b: View, proof: Proof | None, everywhere: Sequence[Difference]) -> Pair:
    if proof is None:
        empty = [letter for letter, view in (("A", a), ("B", b)) if not view.result.n]
        return Pair(a, b, None, NONE, f"no finished run in {' and '.join(empty)}", NONE, [])
    metric = a.result.metric
    floor = least_std([a.result, b.result], metric)
    difference = change(b.result.score.by_seed, a.result.score.by_seed, floor=floor)
    found = differences(proof)
    here = [one for one in found if one not in everywhere]
    return Pair(a, b, difference, interval(difference, metric), "", _status(proof, found), here)


def _status(proof: Proof, found: Sequence[Difference]) -> str:
    """How much differs: a bundle of several settings has no one cause."""
    if len(found) > 1:
        return f"✗ confounded: {len(found)} differences"
    if proof.confounds:
        return f"✗ confounded: {found[0][0]}"
    if proof.unsaid:
        return f"? unproven: {listing(proof.unsaid)} not recorded"
    return f"✓ controlled: only {found[0][0]}" if found else "✓ same setup"


def _sentences(
    pairs: Sequence[Pair], everywhere: Sequence[Difference], names: Sequence[str], metric: Metric
) -> Iterator[str]:
    measured = [(pair, pair.difference) for pair in pairs if pair.difference is not None]
    yield f"{len(measured)} of {len(pairs)} shared rows have a finished run in both studies."
    if measured:
        top, largest = max(measured, key=lambda one: abs(one[1].mean))
        apart = sum(excludes_zero(difference) for _, difference in measured)
        excludes = f"the 95 % interval of {names[1]} − {names[0]} excludes 0"
        yield f"In {apart} of them {excludes}; intervals are not adjusted for their number."
        size = f"{interval(largest, metric)} {metric.difference_unit}"
        yield f"The largest difference is {top.name}, {size} (n = {top.a.result.n} and {top.b.result.n})."
    if len(everywhere) > 1:
        yield f"{len(everywhere)} things differ in every row, so a difference has no one cause."


def excludes_zero(difference: Change) -> bool:
    return difference.low is not None and difference.high is not None and not difference.low <= 0 <= difference.high


def interval(difference: Change | None, metric: Metric) -> str:
    """'+0.54 [+0.10, +0.98]'; without an interval the difference alone."""
    if difference is None:
        return NONE
    return signed_interval(difference.mean, difference.low, difference.high, metric.decimals)
