"""A study, or a paper's numbers, -> rows: one dict per step of the ladder, side step and single change, in the ladder's order.

Keys of a row (None where there is nothing to say; measured and paper never share a key):
    source          'measured' or 'paper'
    kind            'step' (on the path, or what others are compared with), 'side' (tried, not adopted), 'variant' (a change, or other training), 'control', 'other' (no step
                    of the ladder), 'undefined' (cannot be built: `change_note` says why)
    key, label      the cell (step, change), and how it is named in words
    id, step        the ladder's; `what` is what changed, `group` the part of the ladder, `parent` what the change is measured against
    params, macs    parameters, multiply-adds of one image: from the records, in the paper's rows counted on the network
    top1, std, n    measured: percent, over the n finished runs, of the averaged weights where `ema`; low, high: the mean's 95 % interval; sampling_se: the test set's own error
    by_seed, ids    {seed: top-1} and the ids of those runs; `duplicates` are the ids of runs set aside because a later trial has their seed
    planned, failed, missing   counts of trials; n + failed + missing = planned
    latency         median milliseconds of one image, where it was measured; latency_low, latency_high: its quartiles
    images_per_second, hours   means over the n runs, None where these ran on different machines; hours of all devices together (on CPUs: of the cores at work). `machine` is theirs
    change, change_se, change_low, change_high, change_p, change_method, change_sampling_se, p_holm, verdict, proof, parent_ids   see analysis.results.comparisons
    contrast        of a crossed study: the proof that the change may be compared with the same change at the first crossed value
    paper_top1, paper_std, paper_change, paper_gflops, paper_regime   as printed; paper_difference, paper_z, paper_p, protocol: the measured beside them
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from analysis.load import (
    MISSING,
    Entry,
    Study,
    accuracy,
    averaged,
    common_words,
    device_hours,
    machine,
    outcome,
    seed_order,
)
from analysis.wording import with_words
from analysis.results.comparisons import CONTROLS, EMPTY, Findings, Key, Row, beside_paper, compare, sampling_se
from analysis.stats.comparisons import summarize
from roadmap.config.errors import RoadmapError
from roadmap.ladder.convnext import REGIMES, STEPS, Paper, Regime, Step, find_regime, ladder
from roadmap.runs.record import FAILED, FINISHED

DATA = ("data", "data_name", "data_digest", "image_size", "train_images", "test_images")
# What all runs of one row share: everything but the seed, which `configuration` hashes, and the network.
SETUP = (*DATA, "recipe", "epochs", "global_batch", "group_size", "precision", "init")
SAME = (*SETUP, "configuration", "params", "macs")


def rows(study: Study, regime: str = "") -> list[Row]:
    """All rows of one regime of a study (its own by default)."""
    return analyse(study, regime)[0]


def analyse(study: Study, regime: str = "") -> tuple[list[Row], Findings]:
    """All rows, and what holds for them together.

    A ladder's path is shown up to the last planned step, with side steps where trials are planned; other designs show their cells in planned order.
    """
    where = find_regime(regime or study.regime)
    cells: dict[Key, list[Entry]] = defaultdict(list)
    for trial in study.trials:
        if trial["regime"] == where.name:
            cells[trial["step"], trial["change"]].append(trial)
    kinds = {tuple(c["child"]): c["kind"] for c in study.comparisons}
    common = common_words(study)
    found: list[Row] = []
    main: dict[Key, Row] = {}
    runs: dict[Key, list[Entry]] = {}
    for key in _order(cells, study.design):
        first, *others = _by_setup(cells.get(key, []))
        row = _row(key, where, first, kinds.get(key), design=study.design)
        if common and key[0]:
            row |= {"what": key[0], "label": key[0]}
        found.append(row)
        main[key], runs[key] = row, [t for t in first if t["id"] in row["ids"]]
        found += [
            {**_row(key, where, other, "change"), "kind": "variant", "what": _difference(row, other)}
            for other in others
        ]
    findings = compare(study, main, runs)
    timed = {tuple(c["cell"]): c for c in study.latency.get("cells", [])}
    for key, row in main.items():
        if of_cell := timed.get(key):
            row |= {"latency": of_cell["ms"], "latency_low": of_cell["low"], "latency_high": of_cell["high"]}
    for row in found:
        row |= beside_paper(row, where)
    return found + [_undefined(label, why, where) for label, why in study.undefined.items()], findings


def _order(cells: Mapping[Key, list[Entry]], design: str) -> list[Key]:
    """Of a ladder: step by step, each with its changes, then what is no step. Of another design: as planned."""
    if design != "ladder":
        return list(cells)
    planned = {name for name, _ in cells}
    whole = len({name for name, text in cells if not text}) > 1
    order = ladder(side_steps=True)
    end = max((i for i, step in enumerate(order) if step.name in planned), default=len(order))
    found: list[Key] = []
    for i, step in enumerate(order):
        changes = [text for name, text in cells if name == step.name and text]
        if (step.name, "") in cells or (step.name in planned and step.on_path) or (whole and step.on_path and i <= end):
            found.append((step.name, ""))
        found += [(step.name, text) for text in changes]
    return found + [key for key in cells if key[0] not in STEPS]


def _by_setup(trials: list[Entry]) -> list[list[Entry]]:
    """Trials of one cell that were trained the same way, the largest such part first.

    Runs of 1 and of 50 epochs may share a study; they must never share a mean. A trial whose record says less joins the first part that it does not contradict.
    """
    parts: dict[tuple[Any, ...], list[Entry]] = defaultdict(list)
    quiet: list[Entry] = []
    for trial in trials:
        setup = tuple(trial.get(key) for key in SAME)
        (quiet if None in setup or outcome(trial) != FINISHED else parts[(*setup, averaged(trial))]).append(trial)
    order = sorted(parts.values(), key=len, reverse=True)
    for trial in quiet:
        fitting = [
            part
            for part in order
            if all(None in (theirs := {trial.get(key), _said(part, key)}) or len(theirs) == 1 for key in SAME)
        ]
        if fitting:
            fitting[0].append(trial)
        else:
            order.append([trial])
    return order or [[]]


def _row(key: Key, regime: Regime, trials: list[Entry], kind: str | None, *, design: str = "ladder") -> Row:
    """Counts and statistics of trials that differ in nothing but the seed. Of two finished ones with one seed the later planned is averaged. `kind`: how the cell is compared."""
    latest = {t["seed"]: t for t in trials if outcome(t) == FINISHED}
    aside = [t["id"] for t in trials if outcome(t) == FINISHED and t is not latest[t["seed"]]]
    kept = [t for t in trials if t["id"] not in aside]
    counts = Counter(outcome(t) for t in kept)
    finished = sorted(latest.values(), key=seed_order)
    by_seed = {t["seed"]: float(accuracy(t)) for t in finished}
    s = summarize(list(by_seed.values()))
    says = finished or kept
    row: Row = {
        "source": "measured", **_named(key, kind, design, kept), "params": _said(says, "params"), "macs": _said(says, "macs"), **{name: _said(says, name) for name in (*SETUP, "configuration")},
        "ema": any(map(averaged, finished)), "top1": s.mean, "std": s.std, "n": s.n, "low": None, "high": None, "by_seed": by_seed, "ids": [t["id"] for t in finished], "duplicates": aside,
        "planned": len(kept), "failed": counts[FAILED], "missing": counts[MISSING],
        **_speed(finished), "latency": None, "latency_low": None, "latency_high": None, **EMPTY,
    }  # fmt: skip
    row["sampling_se"] = sampling_se(row)
    return row | _paper(STEPS.get(key[0]) if row["kind"] in ("step", "side") and not key[1] else None, regime)


def _named(key: Key, kind: str | None, design: str, trials: list[Entry]) -> Row:
    """How a cell is called and drawn."""
    name, text = key
    step = STEPS.get(name)
    what = text or (step.title if step else name or (trials[0]["id"] if trials else ""))
    if kind in CONTROLS:
        drawn = "control"
    elif step is None:
        drawn = "other"
    elif text and (kind or design == "ladder"):
        drawn = "variant"
    else:
        drawn = "step" if step.on_path else "side"
    label = with_words(name, text) or what
    return {
        "kind": drawn,
        "key": key,
        "label": label,
        "id": step.id if step else None,
        "step": name if step else "",
        "what": what,
        "group": "controls" if drawn == "control" else step.group if step else "other",
    }


def _speed(finished: list[Entry]) -> Row:
    """Throughput and hours, which are of one machine: those of several have no mean."""
    if len({machine(t) for t in finished}) > 1:
        return {"machine": "several", "images_per_second": None, "hours": None}
    where = machine(finished[0]) if finished else None
    return {
        "machine": where,
        "images_per_second": _mean_of(finished, lambda t: t.get("images_per_second")),
        "hours": _mean_of(finished, lambda t: device_hours(t)[0]),
    }


def _mean_of(trials: list[Entry], value: Callable[[Entry], Any]) -> float | None:
    found = [v for t in trials if (v := value(t))]
    return sum(found) / len(found) if found else None


def _undefined(label: str, why: str, regime: Regime) -> Row:
    """A planned cell that cannot be built: a row that says so."""
    row = _row(("", label), regime, [], None)
    return {
        **row,
        "kind": "undefined",
        "what": label,
        "label": label,
        "group": "not defined",
        "change_note": f"not defined: {why}",
        **beside_paper(row, regime),
    }


def _said(trials: Iterable[Entry], key: str) -> Any:
    """The first value that a record states."""
    return next((t[key] for t in trials if t.get(key) is not None), None)


def _difference(base: Row, trials: list[Entry]) -> str:
    """How trials of one step were trained, where it is not as its main row."""
    words = [
        f"{key} {_said(trials, key)}" for key in SAME if key != "configuration" and _said(trials, key) != base[key]
    ]
    ema = any(averaged(t) for t in trials if outcome(t) == FINISHED)
    return ", ".join(words + (["EMA on" if ema else "EMA off"] if ema != base["ema"] else [])) or "another setting"


def _paper(step: Step | None, regime: Regime) -> Row:
    """What the paper prints for the step: in this regime, else in the first one that the paper has, which the row names."""
    printed = regime if regime.paper else next(r for r in REGIMES.values() if r.paper)
    here = printed.paper.get(step.name) if step else None
    before = printed.paper.get(step.parent or "") if step else None
    return _paper_columns(here, before, printed.name)


def _paper_columns(here: Paper | None, before: Paper | None, regime: str) -> Row:
    if here is None:
        return {
            "paper_top1": None,
            "paper_std": None,
            "paper_change": None,
            "paper_gflops": None,
            "paper_regime": regime,
        }
    # Both are printed with two decimals, and so is their difference; rounding removes what binary fractions add.
    delta = round(here.top1 - before.top1, 2) if before else None
    return {
        "paper_top1": here.top1,
        "paper_std": here.std,
        "paper_change": delta,
        "paper_gflops": here.gflops,
        "paper_regime": regime,
    }


def paper_rows(regime: str, reference: Path) -> list[Row]:
    """The paper's own ladder from ladder-<regime>.csv. Raises RoadmapError for a file that does not fit the ladder."""
    lines = _read_reference(reference)
    printed = {
        name: Paper(top1=float(x["paper_top1"]), std=_float(x["paper_top1_std"]), gflops=_float(x["paper_gflops"]))
        for name, x in lines.items()
    }
    found = []
    for step in ladder(side_steps=True):
        if step.name in lines:
            line = lines[step.name]
            columns = _paper_columns(printed[step.name], printed.get(step.parent or ""), regime)
            found.append({"source": "paper", "kind": "step" if step.on_path else "side", "id": step.id, "step": step.name, "what": step.title, "group": step.group,
                          "parent": step.parent, "params": int(line["params"]), "macs": int(line["macs"]), **columns})  # fmt: skip
    return found


def _float(text: str) -> float | None:
    return float(text) if text else None


def _read_reference(path: Path) -> dict[str, dict[str, str]]:
    """Lines of the reference file by step name."""
    try:
        with open(path, newline="") as f:
            lines = {line["name"]: line for line in csv.DictReader(f)}
    except (OSError, KeyError) as e:
        raise RoadmapError(
            f"report.reference {path} cannot be read ({type(e).__name__}: {e}); legal: a ladder-<regime>.csv of results/reference; restore it from git"
        ) from e
    for name in lines:
        if name not in STEPS:
            raise RoadmapError(
                f"report.reference {path} names step {name!r}, which is not on the ladder; legal: {', '.join(STEPS)}; correct the file or roadmap/steps.py"
            )
    return lines
