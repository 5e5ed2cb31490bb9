"""Two studies side by side -> a page: per row both top-1s and their difference, and everything that differs between the two setups.

A difference of two studies is the effect of all that differs between them. Where that is more than one setting, the page says "confounded" and lists it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.load import Entry, Study
from analysis.report.caption import Caption
from analysis.report.page import render
from analysis.report.view import View, count_text, views
from analysis.wording import NONE, one_line, plain, signed_interval, spread
from analysis.results.comparisons import least_std
from analysis.results.proof import CIRCUMSTANCES, Proof, prove
from analysis.results.rows import Row
from analysis.stats.comparisons import Change, change
from roadmap.config.errors import RoadmapError, listing

Difference = tuple[str, str, str]


@dataclass(frozen=True)
class Prepared:
    """A study with its rows and caption, as for a page of its own."""

    study: Study
    rows: list[Row]
    caption: Caption
    regime: str = ""


@dataclass(frozen=True)
class Pair:
    """A row of both studies: texts of the table's cells, the difference B − A, and what differs in their setups beyond what differs in every row."""

    key: str
    name: str
    title: str
    a: View
    b: View
    difference: Change | None
    note: str
    status: str
    differs: list[Difference]


def compare_page(a: Prepared, b: Prepared) -> str:
    """The page of A and B. Raises RoadmapError where they share no row."""
    matched = _matched(a, b)
    if not matched:
        raise RoadmapError(
            f"report.compare has no row in common: {one_line(a.study.name)} has {_listing(a.rows)}, {one_line(b.study.name)} has {_listing(b.rows)}; "
            "legal: studies that share a step; choose another pair"
        )
    proofs = [setups(va, vb) if va.row["n"] and vb.row["n"] else None for va, vb in matched]
    everywhere = _common([differences(proof) for proof in proofs if proof])
    pairs = [_pair(va, vb, proof, everywhere) for (va, vb), proof in zip(matched, proofs, strict=True)]
    names = [_name(a, b, "A"), _name(b, a, "B")]
    return render(
        "compare.html.jinja",
        title=f"{names[0]} and {names[1]} side by side",
        names=names,
        studies=[(n, p.caption, one_line(p.study.question)) for n, p in zip(names, (a, b), strict=True)],
        sentences=_sentences(pairs, everywhere, names),
        everywhere=everywhere,
        pairs=pairs,
        only=[(n, _only(p, matched, i)) for i, (n, p) in enumerate(zip(names, (a, b), strict=True))],
        spread=spread,
        count_text=count_text,
        interval=interval,
        refresh=None,
    )


def _name(study: Prepared, other: Prepared, letter: str) -> str:
    """The study's name; its letter too where both have one name."""
    name = one_line(study.study.name)
    return f"{name} ({letter})" if name == one_line(other.study.name) else name


def _listing(rows: Iterable[Row]) -> str:
    return listing(dict.fromkeys(one_line(r["label"]) for r in rows)) or "none"


def _matched(a: Prepared, b: Prepared) -> list[tuple[View, View]]:
    """Rows of both with one step and one change, in the order of A; a row trained otherwise matches the row that says the same."""
    theirs = {_cell(v): v for v in views(b.study, b.rows, b.regime)}
    return [(v, theirs[_cell(v)]) for v in views(a.study, a.rows, a.regime) if _cell(v) in theirs]


def _cell(view: View) -> tuple[str, str]:
    step, change_text = view.row["key"]
    return step, change_text or ("" if view.row["kind"] in ("step", "side") else view.row["what"])


def _only(study: Prepared, matched: Sequence[tuple[View, View]], side: int) -> list[str]:
    shared = {pair[side].key for pair in matched}
    return [v.name for v in views(study.study, study.rows, study.regime) if v.key not in shared]


def setups(a: View, b: View) -> Proof:
    """All that differs between the finished runs of two rows: every setting and every fact of code and machine is allowed to, so `changed` holds it."""
    return prove(_finished(b), _finished(a), ["*"])


def _finished(view: View) -> list[Entry]:
    return [e for e in view.entries if e["id"] in view.row["ids"]]


def differences(proof: Proof) -> list[Difference]:
    """(name, A's, B's value); without the facts that only repeat a setting which differs, and with what cannot be told at all."""
    repeated = {name for name, setting in CIRCUMSTANCES.items() if setting in proof.changed}
    found = [
        (one_line(name), plain(pair[0]), plain(pair[1])) for name, pair in proof.changed.items() if name not in repeated
    ]
    return found + [(one_line(reason), NONE, NONE) for reason in proof.confounded_by]


def _common(setups: Sequence[list[Difference]]) -> list[Difference]:
    """What differs in the same way in every row."""
    return [d for d in setups[0] if all(d in other for other in setups)] if setups else []


def _pair(a: View, b: View, proof: Proof | None, everywhere: list[Difference]) -> Pair:
    if proof is None:
        return Pair(
            a.key,
            a.name,
            a.title,
            a,
            b,
            None,
            "no finished run in " + " and ".join(word for word, v in (("A", a), ("B", b)) if not v.row["n"]),
            NONE,
            [],
        )
    found = differences(proof)
    return Pair(
        a.key,
        a.name,
        a.title,
        a,
        b,
        change(b.row["by_seed"], a.row["by_seed"], floor=least_std([a.row, b.row])),
        "",
        _status(proof, found),
        [d for d in found if d not in everywhere],
    )


def _status(proof: Proof, found: Sequence[Difference]) -> str:
    """How much differs: a bundle of several settings has no one cause."""
    if proof.confounded_by or len(found) > 1:
        return f"✗ confounded: {f'{len(found)} differences' if len(found) > 1 else found[0][0]}"
    if proof.unsaid:
        return f"? unproven: {listing(proof.unsaid)} not recorded"
    return f"✓ controlled: only {found[0][0]}" if found else "✓ same setup"


def _sentences(pairs: Sequence[Pair], everywhere: Sequence[Difference], names: Sequence[str]) -> list[str]:
    measured = [p for p in pairs if p.difference is not None]
    said = [f"{len(measured)} of {len(pairs)} shared rows have a finished run in both studies."]
    if measured:
        top = max(measured, key=lambda p: abs(p.difference.mean) if p.difference else 0.0)
        apart = sum(p.difference is not None and excludes_zero(p.difference) for p in measured)
        said.append(
            f"In {apart} of them the 95 % interval of {names[1]} − {names[0]} excludes 0; intervals are not adjusted for their number."
        )
        said.append(
            f"The largest difference is {top.name}, {interval(top.difference)} points (n = {top.a.row['n']} and {top.b.row['n']})."
        )
    if len(everywhere) > 1:
        said.append(f"{len(everywhere)} things differ in every row, so a difference has no one cause.")
    return said


def excludes_zero(difference: Change) -> bool:
    return difference.low is not None and difference.high is not None and not difference.low <= 0 <= difference.high


def interval(difference: Change | None) -> str:
    """'+0.54 [+0.10, +0.98]'; without an interval the difference alone."""
    return NONE if difference is None else signed_interval(difference.mean, difference.low, difference.high)
