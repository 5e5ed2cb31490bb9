"""What a study found, in sentences: how much of it ran, what is resolved, what is largest, what is not proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from analysis.report.phrases import change_text, n_text
from analysis.report.view import View
from analysis.results.confounds import Status
from analysis.stats.comparisons import GAIN, LOSS, UNRESOLVED

WARNINGS = {
    Status.CONFOUNDED: "confounded: more than the declared change differs",
    Status.UNPROVEN: "unproven: the records do not say enough to prove that nothing else changed",
    Status.UNCHANGED: "unchanged: the declared change did not happen",
}


def headline(found: Sequence[View], runs: str) -> list[str]:
    """One to three sentences; `runs` says how many runs finished."""
    judged = [view for view in found if not view.is_control]
    changes = [view for view in judged if view.result.effect.value is not None]
    lost = [view for view in judged if _is_lost(view)]
    sentences = [f"{runs}."]
    if changes:
        sentences.append(_verdicts(changes))
        sentences.append(_largest(changes))
    elif lost:
        sentences.append("No change can be measured yet: none has a finished run on both of its sides.")
    else:
        sentences.append("The records name no comparisons, so no change is judged.")
    if lost:
        sentences.append(f"{_count(len(lost), 'change')} could not be measured: {_names(lost)}.")
    return sentences


def _is_lost(view: View) -> bool:
    """Whether a planned comparison has no finished run on one of its sides."""
    effect = view.result.effect
    return effect.parent is not None and effect.value is None and bool(view.result.runs.planned)


def warnings(found: Sequence[View]) -> list[str]:
    """What a reader must know before the numbers: comparisons that are confounded or not proven."""
    sentences: list[str] = []
    for status, words in WARNINGS.items():
        these = [view for view in found if view.proof and view.proof.status is status]
        if these:
            are = "is" if len(these) == 1 else "are"
            sentences.append(f"{_count(len(these), 'comparison')} {are} {words}: {_names(these)}.")
    return sentences


def _verdicts(changes: Sequence[View]) -> str:
    counts = Counter(view.result.effect.verdict for view in changes)
    if set(counts) == {None}:
        none = "none with a verdict: confounded, unproven or with no known error"
        return f"{_count(len(changes), 'change')} measured, {none}."
    gains = f"{counts[GAIN]} {'is a gain' if counts[GAIN] == 1 else 'are gains'}"
    losses = f"{counts[LOSS]} {'is a loss' if counts[LOSS] == 1 else 'are losses'}"
    silent = f", {counts[None]} without a verdict" if counts[None] else ""
    of_all = f"Of {_count(len(changes), 'measured change')}, {gains}, {losses}"
    return f"{of_all} and {counts[UNRESOLVED]} unresolved{silent} (family-wise error 5 %, after Holm)."


def _largest(changes: Sequence[View]) -> str:
    """The largest resolved change; where none is, the largest, with the warning that it may be nothing."""
    resolved = [view for view in changes if view.result.effect.verdict in (GAIN, LOSS)]
    judged = [view for view in changes if view.result.effect.verdict]
    top = max(resolved or judged or changes, key=_size)
    unit = top.result.metric.difference_unit
    change = f"{top.title}, {change_text(top.result)} {unit} ({n_text(top.result)})"
    if resolved:
        return f"The largest resolved one is {change}."
    return f"The largest is {change}, {'not told apart from no change' if judged else 'without a verdict'}."


def _size(view: View) -> float:
    return abs(view.result.effect.value or 0.0)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _names(found: Sequence[View]) -> str:
    return ", ".join(view.name for view in found)
