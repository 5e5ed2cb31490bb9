"""Rows -> their changes: what is compared with what, the error term of the whole study, proof, Holm's verdicts, the controls' false positives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from analysis.load import Entry, Study
from analysis.results.proof import CONFOUNDED, CONTROLLED, Proof, prove
from analysis.stats.comparisons import (
    Change,
    ErrorTerm,
    FalsePositives,
    against_paper,
    binomial_se,
    change,
    change_sampling_se,
    error_term,
    false_positives,
    rounding_std,
    summarize,
    verdicts,
)
from roadmap.config.recipes import find_recipe
from roadmap.ladder.convnext import Regime, find_regime, recipe_of

Row = dict[str, Any]
Key = tuple[str, str]

IMAGENET_IMAGES = {
    "train_images": 1_281_167,
    "test_images": 50_000,
}  # all of ImageNet-1k, as the paper trains and tests

NO_OP = "no-op"
CONTROLS = ("a-a", NO_OP)

MARKS = {"paired": "p", "welch": "w", "pooled": "o", "none": ""}  # of a change whose error is not got as the study's is

# The keys of a row that a comparison fills in.
EMPTY: Mapping[str, Any] = {
    "parent": None, "change": None, "change_se": None, "change_low": None, "change_high": None, "change_p": None, "change_method": None, "change_note": None,
    "change_sampling_se": None, "change_mark": "", "p_holm": None, "verdict": None, "proof": None, "parent_ids": [], "contrast": None,
}  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """What holds for all rows together: the study's error term, how many comparisons Holm's test counted, how often the controls were resolved, and which of them repeat their base to the bit."""

    error: ErrorTerm
    family: int
    controls: FalsePositives | None
    identical: list[str]


def compare(study: Study, main: Mapping[Key, Row], runs: Mapping[Key, list[Entry]]) -> Findings:
    """Fill in the changes of the rows by cell (`main`), with the finished runs behind each (`runs`)."""
    planned = [(tuple(c["child"]), tuple(c["parent"]), c) for c in study.comparisons]
    compared = [(main[child], main[parent], c) for child, parent, c in planned if child in main and parent in main]
    controls = {main[child]["key"] for child, _, c in planned if child in main and c["kind"] in CONTROLS}
    error = error_term(
        {key: row["by_seed"] for key, row in main.items() if key not in controls and row["n"]},
        floor=least_std(main.values()),
    )
    for row in main.values():
        s = summarize(list(row["by_seed"].values()), error)
        row |= {"low": s.low, "high": s.high}
    for row, parent, comparison in compared:
        _change(row, parent, error)
        if row["n"] and parent["n"]:
            proof = prove(runs[row["key"]], runs[parent["key"]], comparison["declared"], comparison.get("planned"))
            if comparison["kind"] == NO_OP:
                proof = _no_op(proof, row, parent, runs[row["key"]])
            row["proof"] = _told(proof)
    _prove_contrasts(study, main, runs)
    family = _judge([row for row, _, c in compared if c["kind"] not in CONTROLS])
    of_controls = [
        (row, parent)
        for row, parent, c in compared
        if c["kind"] in CONTROLS and row["proof"] and row["proof"]["status"] == CONTROLLED
    ]
    for row, _ in of_controls:
        _judge([row])  # each by itself, without Holm: at 5 % one in twenty is expected to be resolved
    identical = [row["label"] for row, parent in of_controls if row["by_seed"] == parent["by_seed"]]
    return Findings(
        error,
        family,
        _false_positives([row for row, _ in of_controls if row["label"] not in identical], planned=bool(controls)),
        identical,
    )


def _prove_contrasts(study: Study, main: Mapping[Key, Row], runs: Mapping[Key, list[Entry]]) -> None:
    """Whether a change may be compared with the same change at the first crossed value: child and parent must each differ from themselves there in the crossed settings alone."""
    proofs: dict[Key, tuple[Proof, Row]] = {}
    for here, there, c in ((tuple(c["child"]), tuple(c["parent"]), c) for c in study.crossings):
        if here in main and there in main and main[here]["n"] and main[there]["n"]:
            proofs[here] = prove(runs[here], runs[there], c["declared"], c.get("planned")), main[there]
    for child, parent in ((tuple(c["child"]), tuple(c["parent"])) for c in study.comparisons):
        if child in proofs and parent in proofs:
            proof, first = proofs[child]
            worst = proof if proofs[parent][0].status == CONTROLLED else proofs[parent][0]
            main[child]["contrast"] = {**_told(worst), "against": first["label"]}


def _told(proof: Proof) -> dict[str, Any]:
    return {**asdict(proof), "text": proof.text}


def least_std(rows: Iterable[Row]) -> float:
    """The error's floor where top-1 is counted on the fewest images; 0 where no record says how many there were."""
    return max((rounding_std(row["test_images"]) for row in rows if row["test_images"]), default=0.0)


def _no_op(proof: Proof, row: Row, parent: Row, runs: list[Entry]) -> Proof:
    """On CPUs a toggle that does nothing gives the same bits, or something decides the outcome that no setting says. GPUs may sum in another order each time."""
    differs = [seed for seed, top1 in row["by_seed"].items() if parent["by_seed"].get(seed, top1) != top1]
    if not differs or any((run.get("hardware") or {}).get("device") != "cpu" for run in runs):
        return proof
    told = tuple(
        f"top1 {parent['by_seed'][seed]:g} and {row['by_seed'][seed]:g} at seed {seed}, although nothing was changed"
        for seed in differs
    )
    return replace(proof, status=CONFOUNDED, confounded_by=(*proof.confounded_by, *told))


def _change(row: Row, parent: Row, error: ErrorTerm) -> None:
    row["parent"], row["parent_ids"] = parent["label"], parent["ids"]
    if not row["n"] or not parent["n"]:
        row["change_note"] = "no finished run of " + (row["what"] if not row["n"] else parent["label"])
        return
    found = change(row["by_seed"], parent["by_seed"], error)
    assert found is not None
    row |= {
        "change": found.mean,
        "change_se": found.se,
        "change_low": found.low,
        "change_high": found.high,
        "change_p": found.p,
        "change_method": found.method,
        "change_sampling_se": _sampling_se_of_change(row, parent),
        "change_mark": "" if found.method == error.method else MARKS[found.method],
    }


def _sampling_se_of_change(row: Row, parent: Row) -> float | None:
    """The test images' part of a change's error; None where a record does not say how many there were."""
    known = row["test_images"] and parent["test_images"]
    return change_sampling_se(row["top1"], parent["top1"], row["test_images"], parent["test_images"]) if known else None


def _judge(rows: list[Row]) -> int:
    """Holm over the comparisons that are proven controlled; a confounded one has no verdict on the declared change. Returns how many were counted."""
    proven = {row["key"]: row for row in rows if row["proof"] and row["proof"]["status"] == CONTROLLED}
    changes = {key: change_of(row) for key, row in proven.items()}
    judged = verdicts(changes)
    for key, verdict in judged.items():
        proven[key] |= {"p_holm": verdict.p_holm, "verdict": verdict.verdict}
    return max((v.family for v in judged.values()), default=0)


def change_of(row: Row) -> Change:
    """The row's change as the statistics take it."""
    return Change(
        row["change"],
        row["change_se"],
        row["change_low"],
        row["change_high"],
        None,
        row["change_p"],
        row["change_method"],
    )


def _false_positives(rows: list[Row], *, planned: bool) -> FalsePositives | None:
    """Of the controls that are proven to differ in nothing but could: one that repeats its base's runs to the bit can never be resolved."""
    return false_positives(verdicts({row["key"]: change_of(row)})[row["key"]] for row in rows) if planned else None


def beside_paper(row: Row, regime: Regime) -> Row:
    """Difference from the printed number: a z where network, data and image size are the paper's, else only the list of what differs."""
    if row["paper_top1"] is None or not row["n"]:
        return {"paper_difference": None, "paper_z": None, "paper_p": None, "protocol": []}
    protocol = _protocol(row, regime)
    comparable = not any(text.startswith(("network", "data")) for text in protocol)
    # Beyond the paper's ladder one decimal is printed, on it two.
    rounding = 0.1 if row["group"] == "beyond the paper" else 0.01
    found = (
        against_paper(summarize(list(row["by_seed"].values())), row["paper_top1"], row["paper_std"], rounding=rounding)
        if comparable
        else None
    )
    notes = [found.note] if found and found.note else []
    return {
        "paper_difference": found.difference if found else None,
        "paper_z": found.z if found else None,
        "paper_p": found.p if found else None,
        "protocol": protocol + notes,
    }


def _protocol(row: Row, regime: Regime) -> list[str]:
    """In what the runs differ from the paper's protocol."""
    found = (
        []
        if row["paper_regime"] == regime.name
        else [f"network: regime {regime.name}, the paper's is {row['paper_regime']}"]
    )
    found += [] if row["data_name"] == "imagenet" else [f"data: {row['data']}, the paper's is ImageNet-1k"]
    if row["data_name"] == "imagenet":
        found += [
            f"images: {name} {row[name]:,}, the paper's are {n:,}"
            for name, n in IMAGENET_IMAGES.items()
            if row[name] not in (None, n)
        ]
    paper = find_regime(row["paper_regime"])
    if row["image_size"] != paper.image_size:
        found.append(f"data: {row['image_size']} px, the paper's are {paper.image_size}")
    stated = find_recipe(recipe_of(row["step"], paper.name))
    if row["recipe"] != stated.name:
        found.append(f"recipe: {row['recipe']}, the paper's for this step is {stated.name}")
    elif row["epochs"] != stated.epochs:
        found.append(f"epochs: {row['epochs']}, the paper's are {stated.epochs}")
    if row["global_batch"] != stated.batch_size:
        found.append(f"batch: {row['global_batch']} images, the paper's are {stated.batch_size}")
    return found


def sampling_se(row: Row) -> float | None:
    """The test set's own sampling error of the mean, in points: no number of seeds removes it."""
    return binomial_se(row["top1"], row["test_images"]) if row["top1"] is not None and row["test_images"] else None
