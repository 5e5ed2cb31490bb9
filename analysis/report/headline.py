"""What a study found, in sentences made from its rows: how much of it ran, what is resolved, what is largest, what is not proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from analysis.report.view import View, change_text, n_text


def headline(found: Sequence[View], runs: str) -> list[str]:
    """One to three sentences; `runs` says how many runs finished."""
    found = [v for v in found if v.row["kind"] != "control"]
    changes = [v for v in found if v.row["change"] is not None]
    lost = [v for v in found if v.row["parent"] is not None and v.row["change"] is None and v.row["planned"]]
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


def warnings(found: Sequence[View]) -> list[str]:
    """What a reader must know before the numbers: comparisons that are confounded or not proven."""
    said = []
    for status, words in (("confounded", "confounded: more than the declared change differs"), ("unproven", "unproven: the records do not say enough to prove that nothing else changed"),
                          ("unchanged", "unchanged: the declared change did not happen")):  # fmt: skip
        these = [v for v in found if v.proof and v.proof.status == status]
        if these:
            said.append(
                f"{_count(len(these), 'comparison')} {'is' if len(these) == 1 else 'are'} {words}: {_names(these)}."
            )
    return said


def _verdicts(changes: Sequence[View]) -> str:
    counts = Counter(v.row["verdict"] for v in changes)
    if set(counts) == {None}:
        return f"{_count(len(changes), 'change')} measured, none with a verdict: confounded, unproven or with no known error."
    parts = [
        f"{counts['gain']} {'is a gain' if counts['gain'] == 1 else 'are gains'}",
        f"{counts['loss']} {'is a loss' if counts['loss'] == 1 else 'are losses'}",
        f"{counts['unresolved']} unresolved",
    ]
    open_ones = f", {counts[None]} without a verdict" if counts[None] else ""
    return f"Of {_count(len(changes), 'measured change')}, {parts[0]}, {parts[1]} and {parts[2]}{open_ones} (family-wise error 5 %, after Holm)."


def _largest(changes: Sequence[View]) -> str:
    """The largest resolved change; where none is, the largest, with the warning that it may be nothing."""
    resolved = [v for v in changes if v.row["verdict"] in ("gain", "loss")]
    judged = [v for v in changes if v.row["verdict"]]
    top = max(resolved or judged or changes, key=lambda v: abs(v.row["change"]))
    seeds = f"{top.title}, {change_text(top.row)} points ({n_text(top.row)})"
    if resolved:
        return f"The largest resolved one is {seeds}."
    return f"The largest is {seeds}, {'not told apart from no change' if judged else 'without a verdict'}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _names(found: Sequence[View]) -> str:
    return ", ".join(v.name for v in found)
