"""A study, or a paper's numbers, -> rows: one dict per step of the ladder, side step and single change, in the ladder's order.

Keys of a row (None where there is nothing to say; measured and paper never share a key):
    source          'measured' or 'paper'
    kind            'step' (on the path), 'side' (tried, not adopted), 'variant' (a single change, or other training), 'other' (no step of the ladder)
    id, step        the ladder's; `what` is what changed, `group` the part of the ladder, `parent` what the change is measured against
    params, macs    parameters, multiply-adds of one image: from the records, in the paper's rows counted on the network
    top1, std, n    measured: percent, over the n finished runs, of the averaged weights where `ema`
    by_seed         {seed: top-1} of those runs; `duplicates` are the ids of runs set aside because a later trial has their seed
    planned, failed, missing   counts of trials; n + failed + missing = planned
    change, change_se, change_low, change_high, change_method   see analysis.statistics.Change; `change_note` says why there is none
    paper_top1, paper_std, paper_change, paper_gflops, paper_regime   as printed
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from analysis.gather import MISSING, Entry, Study, accuracy, averaged, outcome
from analysis.statistics import change, summarize
from roadmap.record import FAILED, FINISHED
from roadmap.rules import RoadmapError
from roadmap.steps import REGIMES, STEPS, Paper, Regime, Step, change_of, find_regime, ladder

Row = dict[str, Any]

# What a record says about data and training: two steps are compared only where these agree, a step that changes the recipe only where DATA agrees.
DATA = ("data", "data_digest", "image_size", "train_images", "test_images")
SETUP = (*DATA, "recipe", "epochs", "global_batch", "group_size", "precision", "init")
# What all runs of one row share: everything but the seed, which `configuration` hashes, and the network.
SAME = (*SETUP, "configuration", "params", "macs")


def rows(study: Study, regime: str = "") -> list[Row]:
    """All rows of one regime of a study (its own by default).

    The path is shown up to the last planned step, with side steps where trials are planned; a study of single changes alone shows only the steps it touches.
    """
    where = find_regime(regime or study.regime)
    cells: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for trial in study.trials:
        if trial["regime"] == where.name:
            cells[(trial["step"] if trial["step"] in STEPS else "", trial["change"])].append(trial)
    planned = {name for name, _ in cells}
    unchanged = {name for name, text in cells if not text}
    whole = len(unchanged) > 1
    found: list[Row] = []
    main: dict[str, Row] = {}
    order = ladder(side_steps=True)
    end = max((i for i, step in enumerate(order) if step.name in planned), default=len(order))
    for i, step in enumerate(order):
        if step.name in planned or (whole and step.on_path and i <= end):
            found += _rows_of_step(step, where, cells, main)
    for (name, text), trials in cells.items():
        if not name:
            found += [_row(None, where, setup, kind="other", what=text or trials[0]["id"]) for setup in _by_setup(trials)]
    return found


def _rows_of_step(step: Step, regime: Regime, cells: Mapping[tuple[str, str], list[Entry]], main: dict[str, Row]) -> list[Row]:
    """The step's row, then those of runs trained otherwise, then its single changes. Adds the step's row to `main`."""
    first, *others = _by_setup(cells.get((step.name, ""), []))
    variants = [(text, trials) for (name, text), trials in cells.items() if name == step.name and text]
    base = _row(step, regime, first, kind="step" if step.on_path else "side", what=step.title)
    main[step.name] = base
    _compare(base, main.get(step.parent or ""), trained_otherwise=any(name.partition(".")[0] == "recipe" for name in change_of(step, regime)))
    found = [base] if first or not variants or step.on_path else []
    found += [_row(step, regime, other, kind="variant", what=_difference(base, other)) for other in others]
    for text, trials in variants:
        for setup in _by_setup(trials):
            row = _row(step, regime, setup, kind="variant", what=text)
            _compare(row, base, trained_otherwise=False)
            found.append(row)
    return found


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
        fitting = [part for part in order if all(None in (theirs := {trial.get(key), _said(part, key)}) or len(theirs) == 1 for key in SAME)]
        if fitting:
            fitting[0].append(trial)
        else:
            order.append([trial])
    return order or [[]]


def _row(step: Step | None, regime: Regime, trials: list[Entry], *, kind: str, what: str) -> Row:
    """Counts and statistics of trials that differ in nothing but the seed. Of two finished ones with one seed the later planned is averaged."""
    latest = {t["seed"]: t for t in trials if outcome(t) == FINISHED}
    aside = [t["id"] for t in trials if outcome(t) == FINISHED and t is not latest[t["seed"]]]
    kept = [t for t in trials if t["id"] not in aside]
    counts = Counter(outcome(t) for t in kept)
    finished = sorted(latest.values(), key=lambda t: (str(type(t["seed"])), t["seed"]))
    by_seed = {t["seed"]: float(accuracy(t)) for t in finished}
    s = summarize(list(by_seed.values()))
    says = finished or kept
    return {
        "source": "measured", "kind": kind, "id": step.id if step else None, "step": step.name if step else "", "what": what, "group": step.group if step else "other",
        "parent": None, "params": _said(says, "params"), "macs": _said(says, "macs"), **{key: _said(says, key) for key in (*SETUP, "configuration")},
        "ema": any(map(averaged, finished)), "top1": s.mean, "std": s.std, "n": s.n, "by_seed": by_seed, "duplicates": aside,
        "planned": len(kept), "failed": counts[FAILED], "missing": counts[MISSING],
        "change": None, "change_se": None, "change_low": None, "change_high": None, "change_method": None, "change_note": None,
        **_paper(step if kind in ("step", "side") else None, regime),
    }  # fmt: skip


def _said(trials: Iterable[Entry], key: str) -> Any:
    """The first value that a record states."""
    return next((t[key] for t in trials if t.get(key) is not None), None)


def _compare(row: Row, parent: Row | None, *, trained_otherwise: bool) -> None:
    """Fill in the change from the parent, unless data or training differ by more than the step itself changes."""
    if parent is None:
        return
    row["parent"] = parent["step"]
    keys = DATA if trained_otherwise else SETUP
    if not row["n"] or not parent["n"]:
        row["change_note"] = "no finished run of " + (row["what"] if not row["n"] else parent["step"])
    elif differs := [key for key in keys if row[key] != parent[key]]:
        row["change_note"] = f"not comparable with {parent['step']}: " + ", ".join(f"{key} {row[key]} and {parent[key]}" for key in differs)
    elif c := change(row["by_seed"], parent["by_seed"]):
        row |= {"change": c.mean, "change_se": c.se, "change_low": c.low, "change_high": c.high, "change_method": c.method}


def _difference(base: Row, trials: list[Entry]) -> str:
    """How trials of one step were trained, where it is not as its main row."""
    words = [f"{key} {_said(trials, key)}" for key in SAME if key != "configuration" and _said(trials, key) != base[key]]
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
        return {"paper_top1": None, "paper_std": None, "paper_change": None, "paper_gflops": None, "paper_regime": regime}
    # Both are printed with two decimals, and so is their difference; rounding removes what binary fractions add.
    delta = round(here.top1 - before.top1, 2) if before else None
    return {"paper_top1": here.top1, "paper_std": here.std, "paper_change": delta, "paper_gflops": here.gflops, "paper_regime": regime}


def paper_rows(regime: str, reference: Path) -> list[Row]:
    """The paper's own ladder from ladder-<regime>.csv. Raises RoadmapError for a file that does not fit the ladder."""
    lines = _read_reference(reference)
    printed = {name: Paper(top1=float(x["paper_top1"]), std=_float(x["paper_top1_std"]), gflops=_float(x["paper_gflops"])) for name, x in lines.items()}
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
        raise RoadmapError(f"report.reference {path} cannot be read ({type(e).__name__}: {e}); legal: a ladder-<regime>.csv of results/reference; restore it from git") from e
    for name in lines:
        if name not in STEPS:
            raise RoadmapError(f"report.reference {path} names step {name!r}, which is not on the ladder; legal: {', '.join(STEPS)}; correct the file or roadmap/steps.py")
    return lines
