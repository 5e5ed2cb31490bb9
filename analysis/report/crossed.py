"""A crossed study at one look: arms down, crossed values across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.results.confounds import Proof, Status
from analysis.results.results import Analysis, Findings, Result
from analysis.stats.comparisons import contrast
from analysis.study import Study
from analysis.wording import NONE, number, one_line, signed, signed_interval

Arm = tuple[str, str]  # a cell's step, and what is set on top of it beside the crossed value
MARKS = {Status.CONFOUNDED: " ‡", Status.UNPROVEN: " ?"}


@dataclass(frozen=True)
class CrossTable:
    """Headings, then one row an arm of (name, a text for each crossed value)."""

    headings: list[str]
    rows: list[tuple[str, list[str]]]


def effect_mark(status: str | None, mark: str) -> str:
    """What a change's number alone would hide.

    status: of its proof, where more than the declared change differs. mark: of a method that is not
    the whole study's.
    """
    proof = MARKS.get(Status(status), "") if status else ""
    return f"{proof} {mark}" if mark else proof


def cross_table(study: Study, analysis: Analysis) -> CrossTable | None:
    """Lay out means with their intervals and n, and the changes from the same column's reference.

    Then how the changes themselves change; None for a study that is not crossed.
    """
    if len(study.points) < 2:
        return None
    points = range(len(study.points))
    arms = _arms(analysis.results)
    rows: list[tuple[str, list[str]]] = []
    for arm, cells in arms.items():
        rows.append((_name(arm), [_cell(cells.get(point)) for point in points]))
    for arm, cells in arms.items():
        first = cells.get(0)
        if first and first.effect.value is not None:
            contrasts = [_contrast(cells.get(point), first, analysis.findings) for point in points[1:]]
            rows.append((f"change of {_name(arm)}, less that in the first column", [NONE, *contrasts]))
    return CrossTable(["", *map(one_line, study.points)], rows)


def _arms(results: Sequence[Result]) -> dict[Arm, dict[int, Result]]:
    """{arm: {point: result}}, each cell's first row."""
    arms: dict[Arm, dict[int, Result]] = {}
    for result in results:
        cell = result.cell
        if cell is not None and cell.point is not None:
            arms.setdefault((cell.step, cell.arm), {}).setdefault(cell.point, result)
    return arms


def _name(arm: Arm) -> str:
    return one_line(" with ".join(filter(None, arm)))


def _cell(result: Result | None) -> str:
    if result is None:
        return NONE
    score, effect, decimals = result.score, result.effect, result.metric.decimals
    if score.mean is None:
        return f"0 of {result.runs.planned} finished"
    interval = ""
    if score.low is not None and score.high is not None:
        interval = f" [{number(score.low, decimals)}, {number(score.high, decimals)}]"
    change = ""
    if effect.value is not None:
        mark = effect_mark(effect.proof.status if effect.proof else None, effect.mark)
        change = f"; {signed(effect.value, decimals)}{mark}, {effect.verdict or 'no verdict'}"
    return f"{number(score.mean, decimals)}{interval}, n = {result.n}{change}"


def _contrast(result: Result | None, first: Result, findings: Findings) -> str:
    """By how much a change differs from the same change at the first crossed value.

    Marked, without an interval, where it is not proven that nothing else differs.
    """
    if result is None or result.effect.value is None:
        return NONE
    decimals = result.metric.decimals
    found = contrast(result.effect.change, first.effect.change, findings.error)
    statuses = _statuses(result, first)
    if statuses != {Status.CONTROLLED}:
        worst = Status.CONFOUNDED if Status.CONFOUNDED in statuses else Status.UNPROVEN
        return f"{signed(found.mean, decimals)}{MARKS[worst]}"
    return signed_interval(found.mean, found.low, found.high, decimals)


def _statuses(result: Result, first: Result) -> set[Status]:
    """Of both changes' proofs and of the crossing's."""
    crossing = result.effect.contrast.proof if result.effect.contrast else None
    return {_status(proof) for proof in (result.effect.proof, first.effect.proof, crossing)}


def _status(proof: Proof | None) -> Status:
    return proof.status if proof else Status.UNPROVEN
