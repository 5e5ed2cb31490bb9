"""Results and their study -> what the page shows: one view a row with the runs behind it.

Plain text; the templates escape and lay out.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

from analysis.report.phrases import VERDICTS, facts_of, name_of, title_of
from analysis.results.confounds import Proof, Status
from analysis.results.costs import marks
from analysis.results.results import Analysis, Result, Role
from analysis.study import CellId, Run, Study
from analysis.wording import NONE, number, one_line, plain
from roadmap.runs.metric import Metric

PROOFS = {
    Status.CONTROLLED: "✓ controlled",
    Status.CONFOUNDED: "✗ confounded",
    Status.UNPROVEN: "? unproven",
    Status.UNCHANGED: "= unchanged",
}
DIGEST = 8  # characters of a cell's digest in its anchor


@dataclass(frozen=True)
class RunView:
    """A run behind a row: `role` is 'averaged', 'set aside', or why it is in no mean; `score` is its value."""

    id: str
    seed: str
    averaged: bool
    role: str
    score: str
    code: str


@dataclass(frozen=True)
class ProofView:
    """What was found to differ between a row's runs and its parent's.

    `changed` are (name, parent's, child's), `same` the names proven equal, `unsaid` what no record
    holds.
    """

    status: Status
    label: str
    declared: list[str]
    changed: list[tuple[str, str, str]]
    confounds: list[str]
    unsaid: list[str]
    same: list[str]
    note: str


@dataclass(frozen=True)
class View:
    """A row as the page shows it.

    key      its anchor
    mark     its short label in figures
    behind   its runs, averaged or not; `runs` are the same as texts
    facts    (label, text) pairs
    """

    key: str
    mark: str
    name: str
    title: str
    result: Result
    runs: list[RunView]
    behind: list[Run]
    parent_key: str
    facts: list[tuple[str, str]]
    verdict: str
    proof: ProofView | None

    @property
    def is_named(self) -> bool:
        """Whether its name is a step's, which does not say what changed."""
        return self.result.role in (Role.STEP, Role.SIDE)

    @property
    def is_control(self) -> bool:
        return self.result.role is Role.CONTROL

    @property
    def is_doubtful(self) -> bool:
        """Whether it is compared, but not proven controlled."""
        return self.proof is not None and self.proof.status is not Status.CONTROLLED


def views(study: Study, analysis: Analysis) -> list[View]:
    """One view a row, in the rows' order."""
    results = analysis.results
    keys = anchors(results)
    first_rows: dict[CellId, str] = {}
    for result, key in zip(results, keys, strict=True):
        if result.cell is not None:
            first_rows.setdefault(result.cell.id, key)
    parts = zip(results, keys, marks(results), runs_of(study, analysis), strict=True)
    return [_view(result, key, mark, behind, first_rows) for result, key, mark, behind in parts]


def _view(result: Result, key: str, mark: str, behind: list[Run], first_rows: dict[CellId, str]) -> View:
    effect = result.effect
    proof = _proof(effect.proof) if effect.proof else None
    return View(
        key=key,
        mark=mark,
        name=name_of(result),
        title=title_of(result),
        result=result,
        runs=list(map(_run, behind, repeat(result))),
        behind=behind,
        parent_key="" if effect.parent_cell is None else first_rows.get(effect.parent_cell, ""),
        facts=facts_of(result),
        verdict=VERDICTS.get(effect.verdict or "", NONE),
        proof=proof,
    )


def runs_of(study: Study, analysis: Analysis) -> list[list[Run]]:
    """The runs behind each row: first those averaged, then those set aside or not finished.

    Each run stands behind one row at most. Two rows share a cell where its runs were trained in two
    ways; what did not finish stands behind the first.
    """
    cells: dict[CellId, list[Run]] = defaultdict(list)
    for run in study.runs_in(analysis.regime):
        cells[run.cell.id].append(run)
    taken = {id_ for result in analysis.results for id_ in result.runs.ids}
    behind: list[list[Run]] = []
    for result in analysis.results:
        of_cell = cells[result.cell.id] if result.cell else []
        own = [run for run in of_cell if run.id in result.runs.ids]
        rest = [run for run in of_cell if run.id not in taken and _aside(run, result, analysis.metric)]
        taken |= {run.id for run in rest}
        behind.append(own + rest)
    return behind


def _aside(run: Run, result: Result, metric: Metric) -> bool:
    return not run.finished(metric) or run.id in result.runs.duplicates


def anchors(results: Sequence[Result]) -> list[str]:
    """An anchor a row, of its cell's identity; numbered where rows share a cell, or have none."""
    seen: Counter[str] = Counter()
    keys: list[str] = []
    for result in results:
        anchor = _anchor(result.cell.id) if result.cell else "row-undefined"
        seen[anchor] += 1
        keys.append(anchor if seen[anchor] == 1 else f"{anchor}-{seen[anchor]}")
    return keys


def _anchor(cell: CellId) -> str:
    """The step in letters and digits, and a digest of all that the cell is."""
    step = re.sub(r"[^a-z0-9]+", "-", cell.step.lower()).strip("-") or "cell"
    whole = "\n".join((cell.step, cell.configuration, cell.role))
    return f"row-{step}-{hashlib.sha256(whole.encode()).hexdigest()[:DIGEST]}"


def _run(run: Run, result: Result) -> RunView:
    metric = result.metric
    score = number(run.value(metric), metric.decimals) if run.finished(metric) else NONE
    commit = (run.record.git_commit or "")[:10] or NONE
    return RunView(
        id=one_line(run.id),
        seed=one_line(run.seed),
        averaged=run.id in result.runs.ids,
        role=_role(run, result),
        score=score,
        code=f"{commit} (changed)" if run.record.git_dirty else commit,
    )


def _role(run: Run, result: Result) -> str:
    """What the run counts for."""
    if run.id in result.runs.ids:
        return "averaged"
    if run.finished(result.metric):
        return "set aside: a later trial has the same seed"
    return f"not averaged: {one_line(run.reason(result.metric))}"


def _proof(proof: Proof) -> ProofView:
    confounds = [confound.text for confound in proof.confounds]
    return ProofView(
        status=proof.status,
        label=PROOFS[proof.status],
        declared=list(map(one_line, proof.declared)),
        changed=[(one_line(name), plain(before), plain(after)) for name, (before, after) in proof.changed.items()],
        confounds=list(map(one_line, confounds)),
        unsaid=list(map(one_line, proof.unsaid)),
        same=list(map(one_line, proof.same)),
        note=one_line(proof.note),
    )
