"""What a reader must know to judge a table: question, data, training, seeds, machine, code, how many runs finished, and which did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from analysis.load import MISSING, Entry, Study, common_words, outcome, reason, seed_order
from analysis.wording import NONE, one_line, signed, signed_interval
from analysis.results.comparisons import Findings, Row, change_of
from analysis.results.proof import CONFOUNDED, CONTROLLED, UNPROVEN
from analysis.stats.comparisons import binomial_se, contrast
from roadmap.config.errors import listing
from roadmap.ladder.convnext import STEPS, Regime, find_regime
from roadmap.runs.record import DIVERGED, FAILED, FINISHED

UNKNOWN = "not recorded"
MANY = 8  # notes of one kind that a caption lists


@dataclass(frozen=True)
class Caption:
    """`title` is one line, `facts` are (label, text) pairs, `short` are the few that fit under a figure, `problems` are (run id, reason) pairs."""

    title: str
    facts: list[tuple[str, str]]
    short: str
    problems: list[tuple[str, str]]
    crossed: CrossTable | None = None


@dataclass(frozen=True)
class CrossTable:
    """A crossed study at one look: headings, then one row an arm of (name, a cell for each crossed value)."""

    headings: list[str]
    rows: list[tuple[str, list[str]]]


def measured_caption(study: Study, rows: list[Row], regime: str = "", findings: Findings | None = None) -> Caption:
    where = find_regime(regime or study.regime)
    here = [t for t in study.trials if t["regime"] == where.name]
    finished = [t for t in here if outcome(t) == FINISHED]
    others = Counter(t["regime"] for t in study.trials if t["regime"] != where.name)
    data = _distinct(finished, lambda t: f"{t.get('data')}, {t.get('image_size')} px")
    recipes = _distinct(finished, lambda t: f"{t.get('recipe')} ({t.get('epochs')} epochs)")
    runs = _counts(here)
    facts = [
        ("Question", one_line(study.question)),
        ("Regime", f"{where.name}: {where.title}"),
        ("Data", data),
        ("Recipe", recipes),
        ("Seeds", _distinct(sorted(finished, key=seed_order), lambda t: str(t["seed"]))),
        ("Runs", runs),
        ("Hardware", _distinct(finished, _hardware)),
        ("Code", _distinct(finished, _code)),
        ("Test split", _test_split(finished, rows)),
        (
            "Top-1",
            "percent on the test split after the last epoch, of the averaged weights where EMA is on; mean ± standard deviation (n − 1) over the finished seeds",
        ),
        ("Change", _change_note(findings)),
        *_judged(findings),
        *([("Paper", paper_note(rows, where))] if any(r["paper_top1"] is not None for r in rows) else []),
        *_remarks(rows),
    ]
    if common := common_words(study):
        facts.append(("On all", common))
    if study.latency:
        h = study.latency["hardware"]
        device = h["cpu"] if h["device"] == "cpu" else h["device"]
        rounds = study.latency["cells"][0]["rounds"]
        facts.append(
            (
                "Latency",
                f"one image, {study.latency['precision']}, evaluation mode, all networks in turn, {rounds} rounds: median and quartiles, on {device}, {h['threads']} threads",
            )
        )
    facts += [("Design", one_line(note)) for note in study.notes]
    if others:
        facts.append(("Not shown", ", ".join(f"{n} trials of regime {name or '(none)'}" for name, n in others.items())))
    problems = [(one_line(t["id"]), one_line(reason(t))) for t in here if outcome(t) != FINISHED]
    return Caption(
        f"Study {one_line(study.name)}, regime {where.name}",
        facts,
        f"{runs}; {data}; {recipes}",
        problems,
        cross_table(study, rows, findings),
    )


def cross_table(study: Study, rows: list[Row], findings: Findings | None = None) -> CrossTable | None:
    """Arms down, crossed values across: mean with its 95 % interval and n, and the change from the same column's reference; then how the change itself changes."""
    if len(study.points) < 2:
        return None
    cells: dict[str, dict[str, Row]] = {}
    for row in rows:
        point = next(
            (
                p
                for p in study.points
                if row["kind"] != "undefined" and (row["key"][1] == p or row["key"][1].endswith(f" {p}"))
            ),
            None,
        )
        if point is not None:
            arm = " with ".join(filter(None, [row["key"][0], row["key"][1].removesuffix(point).strip()]))
            cells.setdefault(one_line(arm), {}).setdefault(point, row)
    table = [(arm, [_crossing(found.get(p)) for p in study.points]) for arm, found in cells.items()]
    for arm, found in cells.items():
        first = found.get(study.points[0])
        if first and first["change"] is not None and findings:
            table.append(
                (
                    f"change of {arm}, less that in the first column",
                    [NONE, *(_contrast(found.get(p), first, findings) for p in study.points[1:])],
                )
            )
    return CrossTable(["", *map(one_line, study.points)], table)


def _contrast(row: Row | None, first: Row, findings: Findings) -> str:
    """How much a change differs from the same change at the first crossed value; marked, without an interval, where that is not proven."""
    if row is None or row["change"] is None:
        return NONE
    found = contrast(change_of(row), change_of(first), findings.error)
    statuses = {proof["status"] if proof else UNPROVEN for proof in (row["proof"], first["proof"], row["contrast"])}
    if statuses != {CONTROLLED}:
        return f"{signed(found.mean)} {'‡' if CONFOUNDED in statuses else '?'}"
    return signed_interval(found.mean, found.low, found.high)


def _crossing(row: Row | None) -> str:
    if row is None or row["top1"] is None:
        return NONE if row is None else f"0 of {row['planned']} finished"
    interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if row["low"] is not None else ""
    verdict = (
        f"; {signed(row['change'])}{mark(row)}, {row['verdict'] or 'no verdict'}" if row["change"] is not None else ""
    )
    return f"{row['top1']:.2f}{interval}, n = {row['n']}{verdict}"


def mark(row: Row) -> str:
    """What a change's number alone would hide: a comparison in which more than the declared change differs, and a method that is not the whole study's."""
    status = str((row["proof"] or {}).get("status"))
    return {CONFOUNDED: " ‡", UNPROVEN: " ?"}.get(status, "") + (f" {row['change_mark']}" if row["change_mark"] else "")


def _change_note(findings: Findings | None) -> str:
    """Whose scatter the intervals are made of."""
    what = "difference of means to the parent in points, with its 95 % interval"
    e = findings.error if findings else None
    if e is None or e.method == "none":
        return f"{what}; no cell has two runs, so no error is known"
    if e.std is None or e.df is None:
        how = f"each comparison by its own scatter (p: paired by seed, w: Welch), for equal variances are rejected (p = {e.p_equal:.3f})"
    elif e.method == "paired":
        how = f"paired by seed with the error term of the whole study, {e.std:.2f} points at {e.df:g} degrees of freedom (correlation over seeds {e.correlation:.2f})"
    else:
        how = f"the pooled standard deviation of {e.cells} cells and {e.runs} runs, {e.std:.2f} points at {e.df:g} degrees of freedom"
    if e.method == "paired":
        how += "; o: other seeds, not paired"
    equal = f"; test of equal variances: p = {e.p_equal:.2f}" if e.p_equal is not None and e.std is not None else ""
    return f"{what}; error: {how}{equal}"


def _judged(findings: Findings | None) -> list[tuple[str, str]]:
    if findings is None:
        return []
    facts = [
        (
            "Verdict",
            f"gain or loss where p < 0.05 after Holm over {findings.family} controlled comparisons, else unresolved; ‡ confounded: no verdict on the declared change",
        )
    ]
    if told := _controls(findings):
        facts.append(("Controls", told))
    return facts


def _controls(findings: Findings) -> str:
    """What the negative controls gave."""
    c, found = findings.controls, []
    if c is not None and c.total and c.low is not None and c.high is not None:
        rate = f"false-positive rate {c.resolved / c.total:.0%}, 95 % interval {c.low:.0%} to {c.high:.0%}; 5 % are expected"
        found.append(f"{c.resolved} of {c.total} comparisons without any difference were called different ({rate})")
    elif c is not None and c.untested:
        found.append(f"{c.untested} compared, but without a known error")
    found += [f"{listing(findings.identical)}: the same top-1 as its base for every seed"] if findings.identical else []
    return "; ".join(found) or ("planned, not finished or not controlled" if c is not None else "")


def paper_caption(rows: list[Row], regime: str) -> Caption:
    where = find_regime(regime)
    spreads = any(r["paper_std"] is not None for r in rows)
    seeds = (
        "mean ± standard deviation over three seeds, as printed; where there is no deviation, the one number the paper prints"
        if spreads
        else "single runs"
    )
    facts = [
        ("Regime", f"{where.name}: {where.title}"),
        ("Source", "ConvNeXt, arXiv 2201.03545 v2, Tables 10 and 11; nothing here was measured by this project"),
        ("Top-1", f"ImageNet-1k validation, percent; {seeds}"),
        (
            "Counts",
            f"parameters and GMACs were counted on the network at {where.image_size} px, without LayerScale; GFLOPs are the paper's print of the same multiply-adds",
        ),
    ]
    if where.reference:
        facts.append(("Reference", "{}: {:.2f} %, {:.2f} GFLOPs".format(*where.reference)))
    return Caption(f"The paper's ladder: {where.title}", facts, f"ImageNet-1k; {seeds.split(',')[0].split(';')[0]}", [])


def paper_note(rows: list[Row], regime: Regime) -> str:
    """Which regime of the paper the paper's columns quote."""
    printed = find_regime(rows[0]["paper_regime"]) if rows else regime
    beyond = dict.fromkeys(
        STEPS[r["step"]].source for r in rows if r["paper_top1"] is not None and "arXiv" in STEPS[r["step"]].source
    )
    note = f"{printed.title} on ImageNet-1k, as printed ({'; '.join(['arXiv 2201.03545 v2', *beyond])})"
    return (
        note
        if printed.name == regime.name
        else f"{note}; another network and another data set than this regime, so only signs and order compare"
    )


def _distinct(trials: Iterable[Entry], text: Callable[[Entry], str]) -> str:
    """Every different text, in order of appearance; with counts of runs where there is more than one machine or code."""
    return "; ".join(dict.fromkeys(one_line(text(t)) for t in trials)) or UNKNOWN


def _counts(trials: list[Entry]) -> str:
    counts = Counter(outcome(t) for t in trials)
    diverged = sum(t["status"] == DIVERGED for t in trials)
    failed = (
        f", {counts[FAILED]} failed" + (f" ({diverged} of them diverged)" if diverged else "") if counts[FAILED] else ""
    )
    missing = f", {counts[MISSING]} missing" if counts[MISSING] else ""
    return f"{counts[FINISHED]} of {len(trials)} runs finished{failed}{missing}"


def _hardware(trial: Entry) -> str:
    h: Any = trial.get("hardware")
    if not isinstance(h, dict):
        return UNKNOWN
    cores = f"{h['cores']} cores" if h.get("cores") else ""
    threads = f"threads {h['threads']}" if h.get("threads") else ""
    world = f"{trial['world_size']} x " if (trial.get("world_size") or 1) > 1 else ""
    return ", ".join(str(part) for part in (f"{world}{h.get('device')}", h.get("cpu"), cores, threads) if part)


def _code(trial: Entry) -> str:
    commit = trial.get("git_commit")
    if not commit:
        return "no commit recorded"
    return f"{str(commit)[:10]}{' with uncommitted changes' if trial.get('git_dirty') else ''}"


def _test_split(finished: list[Entry], rows: list[Row]) -> str:
    images = _distinct(finished, lambda t: str(t.get("test_images")))
    widest = max(
        (
            (binomial_se(r["top1"], r["test_images"]), r["top1"])
            for r in rows
            if r["top1"] is not None and r["test_images"]
        ),
        default=None,
    )
    error = (
        f"; binomial standard error of one run at most {widest[0]:.2f} points (at {widest[1]:.1f} %)" if widest else ""
    )
    return f"{images} images{error}"


def _remarks(rows: list[Row]) -> list[tuple[str, str]]:
    """Changes that could not be computed although both sides ran, and trials set aside."""
    notes = [
        ("Confounded", f"{r['label']}: {one_line('; '.join(r['proof']['confounded_by']))}")
        for r in rows
        if r["proof"] and r["proof"]["status"] == "confounded"
    ]
    told = [
        ("Proof", f"{r['label']}: {one_line(r['proof']['note'])}")
        for r in rows
        if r["proof"] and r["proof"]["note"] and r["verdict"]
    ]
    notes += (
        told
        if len(told) <= MANY
        else [
            (
                "Proof",
                f"{len(told)} comparisons change several settings together, as declared, or have other seeds: the proof column says which, `roadmap check` how",
            )
        ]
    )
    return notes + [
        (
            "Note",
            f"{r['step']}: a later trial has the same seed as {', '.join(r['duplicates'])}; only the later is counted",
        )
        for r in rows
        if r["duplicates"]
    ]
