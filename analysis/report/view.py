"""Rows and their study -> what the page says: the headline, one view a row with the runs behind it, the table's columns. Plain text; the templates escape and lay out."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.load import Entry, Study, accuracy, outcome, reason
from analysis.wording import NONE, median_text, minus, one_line, plain, scaled, signed, signed_interval, spread
from analysis.results.costs import marks
from analysis.results.rows import Row
from roadmap.runs.record import FINISHED

VERDICTS = {"gain": "▲ gain", "loss": "▼ loss", "unresolved": "○ unresolved"}
PROOFS = {
    "controlled": "✓ controlled",
    "confounded": "✗ confounded",
    "unproven": "? unproven",
    "unchanged": "= unchanged",
}
METHODS = {
    "paired": "paired by seed",
    "welch": "Welch's interval",
    "pooled": "with the pooled error",
    "none": "no error known from a single run",
}


# What a row may lack: None then, as where there is nothing to say.
OPTIONAL = (
    "ids", "parent_ids", "low", "high", "change_p", "p_holm", "verdict", "proof", "images_per_second", "hours", "sampling_se", "change_sampling_se", "paper_difference", "paper_z",
    "latency", "latency_low", "latency_high", "protocol",
)  # fmt: skip


@dataclass(frozen=True)
class RunView:
    """A run behind a row: `role` is 'averaged', 'set aside', or why it is in no mean."""

    id: str
    seed: str
    averaged: bool
    role: str
    top1: str
    code: str


@dataclass(frozen=True)
class ProofView:
    """What was found to differ between a row's runs and its parent's: `changed` are (name, parent's, child's), `same` the names proven equal, `unsaid` what no record holds."""

    status: str
    label: str
    declared: list[str]
    changed: list[tuple[str, str, str]]
    confounded_by: list[str]
    unsaid: list[str]
    same: list[str]
    note: str


@dataclass(frozen=True)
class View:
    """A row as the page shows it; `key` is its anchor, `mark` its short label in figures, `facts` are (label, text) pairs."""

    key: str
    mark: str
    name: str
    title: str
    row: Row
    runs: list[RunView]
    entries: list[Entry]
    parent_key: str
    facts: list[tuple[str, str]]
    verdict: str
    proof: ProofView | None


@dataclass(frozen=True)
class Column:
    """A column of the table: `text` is shown, `value` sorts (None last); `about` explains the heading."""

    heading: str
    about: str
    text: Callable[[View], str]
    value: Callable[[View], float | str | None]
    words: bool = False


def views(study: Study, rows: Sequence[Row], regime: str = "") -> list[View]:
    """One view a row, in the rows' order."""
    rows = [{**dict.fromkeys(OPTIONAL), **row} for row in rows]
    behind = runs_of(study, rows, regime)
    keys = _keys(rows)
    anchors = {row["label"]: key for row, key in zip(reversed(rows), reversed(keys), strict=True)}
    found = []
    for row, key, mark, entries in zip(rows, keys, marks(rows), behind, strict=True):
        found.append(View(key, mark, _name(row), title_of(row), row, [_run(e, row) for e in entries], entries, anchors.get(row["parent"] or "", ""), facts_of(row),
                          VERDICTS.get(row["verdict"] or "", NONE), _proof(row["proof"])))  # fmt: skip
    return found


def runs_of(study: Study, rows: Sequence[Row], regime: str = "") -> list[list[Entry]]:
    """The trials' entries behind each row: first those averaged, then those set aside or not finished. Each entry stands behind one row at most."""
    cells: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for trial in study.trials:
        if trial["regime"] == (regime or study.regime):
            cells[trial["step"], trial["change"]].append(trial)
    taken = {i for row in rows for i in row["ids"]}
    found: list[list[Entry]] = []
    for row in (
        rows
    ):  # two rows share a cell where its runs were trained in two ways; what did not finish stands behind the first
        own = [t for t in cells[row["key"]] if t["id"] in row["ids"]]
        rest = [
            t
            for t in cells[row["key"]]
            if t["id"] not in taken and (outcome(t) != FINISHED or t["id"] in row["duplicates"])
        ]
        taken |= {t["id"] for t in rest}
        found.append(own + rest)
    return found


def _keys(rows: Sequence[Row]) -> list[str]:
    """An anchor a row: its step and change in letters and digits, numbered where two are alike."""
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        slug = re.sub(r"[^a-z0-9]+", "-", row["label"].lower()).strip("-") or "row"
        seen[slug] += 1
        found.append(f"row-{slug}" + (f"-{seen[slug]}" if seen[slug] > 1 else ""))
    return found


def _name(row: Row) -> str:
    """The row's name: a step's id and name, else its cell in words; one trained otherwise also says how."""
    if row["kind"] in ("step", "side") and row["step"] and not row["key"][1]:
        return " ".join(word for word in (row["id"], row["step"]) if word)
    other = f", {row['what']}" if row["kind"] == "variant" and not row["key"][1] else ""
    return one_line(row["label"] + other)


def title_of(row: Row) -> str:
    what = one_line(row["what"])
    ema = " (top-1 of the averaged weights)" if row.get("ema") else ""
    named = {
        "side": f"{what} (side step)",
        "variant": f"with {what}",
        "control": f"{what} (control)",
        "undefined": f"{what} (not defined)",
    }
    return named.get(row["kind"], what) + ema


def _run(entry: Entry, row: Row) -> RunView:
    averaged = entry["id"] in row["ids"]
    finished = outcome(entry) == FINISHED
    role = (
        "averaged"
        if averaged
        else "set aside: a later trial has the same seed"
        if finished
        else f"not averaged: {one_line(reason(entry))}"
    )
    commit = str(entry.get("git_commit") or "")[:10] or NONE
    return RunView(
        one_line(entry["id"]),
        one_line(entry["seed"]),
        averaged,
        role,
        f"{accuracy(entry):.2f}" if finished else NONE,
        commit + (" (changed)" if entry.get("git_dirty") else ""),
    )


def _proof(proof: Mapping[str, Any] | None) -> ProofView | None:
    if not proof:
        return None
    changed = [(one_line(name), plain(pair[0]), plain(pair[1])) for name, pair in proof["changed"].items()]
    declared, confounded_by, unsaid, same = (
        [one_line(x) for x in proof.get(key) or []] for key in ("declared", "confounded_by", "unsaid", "same")
    )
    return ProofView(
        proof["status"],
        PROOFS[proof["status"]],
        declared,
        changed,
        confounded_by,
        unsaid,
        same,
        one_line(proof["note"]),
    )


def facts_of(row: Row) -> list[tuple[str, str]]:
    """(label, text) of a row's numbers, each with its n and its error."""
    found = [("Top-1", _mean_text(row)), ("Change", _change_text(row))]
    if row.get("sampling_se") is not None:
        found.append(
            (
                "Test set",
                f"its own sampling error of this mean is {row['sampling_se']:.2f} points"
                + _change_sampling(row)
                + "; not part of the seeds' intervals",
            )
        )
    if row["paper_top1"] is not None:
        found.append(("Paper", _paper_text(row)))
    if row.get("protocol"):
        found.append(("Protocol", "differs from the paper's: " + "; ".join(one_line(p) for p in row["protocol"])))
    return found


def _mean_text(row: Row) -> str:
    if row["top1"] is None:
        return (
            f"no finished run of {row['planned']} planned"
            if row["planned"]
            else "not defined"
            if row["kind"] == "undefined"
            else "not planned in this study"
        )
    between = (
        f", 95 % interval of the mean {row['low']:.2f} to {row['high']:.2f}"
        if row.get("low") is not None and row.get("high") is not None
        else ""
    )
    return f"{spread(row['top1'], row['std'])} %{between}; mean of n = {row['n']} finished of {row['planned']} planned runs"


def _change_text(row: Row) -> str:
    if row["change"] is None:
        return one_line(row["change_note"] or "none: the row has nothing to be compared with")
    chances = [
        f"{p_phrase(row[key])}{words}"
        for key, words in (("change_p", ""), ("p_holm", " after Holm"))
        if row.get(key) is not None
    ]
    parts = [
        f"{change_text(row)} points against {row['parent']}, {n_text(row)}",
        METHODS.get(row["change_method"], str(row["change_method"])),
        *chances,
    ]
    return ", ".join(parts) + (f": {row['verdict']}" if row.get("verdict") else "")


def change_text(row: Row) -> str:
    """'+0.27 [−0.77, +1.30]'; the change alone where it has no interval."""
    return signed_interval(row["change"], row["change_low"], row["change_high"])


def _change_sampling(row: Row) -> str:
    return (
        f", of the change at most {row['change_sampling_se']:.2f}" if row.get("change_sampling_se") is not None else ""
    )


def _paper_text(row: Row) -> str:
    text = f"{spread(row['paper_top1'], row['paper_std'])} % in regime {row['paper_regime']}, change {signed(row['paper_change'])}"
    if row.get("paper_difference") is not None:
        text += f"; measured − paper = {signed(row['paper_difference'])} points" + (
            f", z = {minus(format(row['paper_z'], '.2f'))}" if row.get("paper_z") is not None else ""
        )
    return text


def p_text(p: float | None) -> str:
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_phrase(p: float) -> str:
    """'p = 0.031' or 'p < 0.001'."""
    return f"p {p_text(p)}" if p < 0.001 else f"p = {p_text(p)}"


def verdict_text(row: Row) -> str:
    """A change in a list of its own verdict: points with interval, adjusted p, and both sides' n."""
    chance = f", {p_phrase(row['p_holm'])} after Holm" if row.get("p_holm") is not None else ""
    return f"{change_text(row)} points against {row['parent']}{chance}, {n_text(row)}"


def n_text(row: Row) -> str:
    """The runs on both sides of a change: 'n = 3 and 2'."""
    return f"n = {row['n']} and {len(row['parent_ids'] or [])}"


def count_text(row: Row) -> str:
    """'2 of 3, 1 failed'; 'not run' where nothing was planned, 'not defined' where nothing can be."""
    if not row["planned"]:
        return "not defined" if row["kind"] == "undefined" else "not run"
    rest = [f"{row[key]} {key}" for key in ("failed", "missing") if row[key]]
    return ", ".join([f"{row['n']} of {row['planned']}", *rest])


def columns(found: Sequence[View], hours: str) -> list[Column]:
    """The table's columns after the row's heading; those that no row can fill are left out."""
    order = {"gain": 0, "unresolved": 1, "loss": 2}
    regime = found[0].row["paper_regime"] if found else ""
    every = [
        Column("what changed", "", lambda v: v.title, lambda v: v.title, words=True),
        Column(
            "top-1 (%)",
            "mean ± standard deviation (n − 1) over the finished seeds",
            lambda v: spread(v.row["top1"], v.row["std"]),
            lambda v: v.row["top1"],
        ),
        Column("n", "finished of planned runs", lambda v: count_text(v.row), lambda v: v.row["n"]),
        Column(
            "change [95 %]",
            "points against the row's parent, with the 95 % interval",
            lambda v: change_text(v.row),
            lambda v: v.row["change"],
        ),
        Column(
            "p (Holm)",
            "two-sided, adjusted for all changes of the ladder after Holm",
            lambda v: p_text(v.row.get("p_holm")),
            lambda v: v.row.get("p_holm"),
        ),
        Column(
            "verdict",
            "gain or loss where the adjusted p is below 0.05, else unresolved",
            lambda v: v.verdict,
            lambda v: order.get(v.row.get("verdict") or ""),
            words=True,
        ),
        Column(
            "proof",
            "controlled: only what was declared differs from the parent",
            lambda v: v.proof.label if v.proof else NONE,
            lambda v: v.proof.status if v.proof else None,
            words=True,
        ),
        Column("95 % of mean", "95 % interval of the mean", _interval, lambda v: v.row.get("low")),
        Column(
            "params (M)", "parameters in millions", lambda v: scaled(v.row["params"], 1e6), lambda v: v.row["params"]
        ),
        Column(
            "GMACs",
            "multiply-adds of one image, in billions",
            lambda v: scaled(v.row["macs"], 1e9),
            lambda v: v.row["macs"],
        ),
        Column(
            "ms an image",
            "latency of one image in evaluation: median and quartiles",
            lambda v: median_text(v.row["latency"], v.row["latency_low"], v.row["latency_high"]),
            lambda v: v.row["latency"],
        ),
        Column(
            "images/s",
            "in training, mean over the finished runs; none where they ran on different machines",
            lambda v: _whole(v.row.get("images_per_second")),
            lambda v: v.row.get("images_per_second"),
        ),
        Column(
            f"{hours} a run",
            "mean over the finished runs, of all devices together",
            lambda v: scaled(v.row.get("hours"), 1),
            lambda v: v.row.get("hours"),
        ),
        Column(
            "paper (%)",
            f"as printed, regime {regime}",
            lambda v: spread(v.row["paper_top1"], v.row["paper_std"]),
            lambda v: v.row["paper_top1"],
        ),
        Column(
            "paper's change", "as printed", lambda v: signed(v.row["paper_change"]), lambda v: v.row["paper_change"]
        ),
    ]
    return [c for c in every if any(c.value(v) is not None for v in found)]


def _interval(view: View) -> str:
    low, high = view.row.get("low"), view.row.get("high")
    return NONE if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _whole(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}".replace(",", " ")
