"""What the verbs do that ask a study's records: report, check, power, attribute, watch. They read what runs left behind and train nothing."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadmap.cli.train import REFERENCE, RESULTS, print_table
from roadmap.config.errors import RoadmapError, listing, nearest
from roadmap.runs.io import RunError

if TYPE_CHECKING:
    from analysis.load import Study
    from analysis.stats.power import PowerTable

NOT_PROVEN = 1
DEFAULT = "digits"  # the study of `roadmap run` without any option
MIN_WIDTHS = {
    "top-1 (%)": 13,
    "n": 7,
    "change": 7,
    "verdict": 10,
}  # of a narrow terminal's columns: the last one gives way
QUIET_LOOKS = 3  # between two runs of one queue no run says that it trains


def known_studies(runs: Path) -> list[str]:
    """Names of all studies with run folders or committed results."""
    return sorted(
        {
            p.parent.name
            for pattern, root in (("*/study.json", runs), ("*/records.jsonl", RESULTS))
            for p in root.glob(pattern)
        }
    )


def find_study(name: str | None, runs: Path, verb: str = "report") -> Path:
    """The folder of a study: as given, below runs/, else below results/. Raises RunError with the nearest name."""
    known = known_studies(runs)
    if name is None:
        raise RoadmapError(
            f"{verb} has no study; legal: a name{ {'report': ', or --paper', 'power': ', or --std POINTS'}.get(verb, '') }; known: {listing(known) or 'none yet'}; run `roadmap run` first"
        )
    for folder in (Path(name), runs / name, RESULTS / name):
        if (folder / "study.json").exists() or (folder / "records.jsonl").exists():
            return folder
    raise RunError(
        f"study {name!r} has no records in {runs / name} or {RESULTS / name}; legal: {listing(known) or 'none yet'}; {nearest(name, known)}"
    )


def open_named(name: str | None, runs: Path, verb: str) -> Study:
    from analysis.load import open_study

    return open_study(find_study(name, runs, verb))


def _show(renderable: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(renderable)


# report ------------------------------------------------------------------------------------------------------------------


def write_report(
    name: str | None, *, paper: bool, regime: str | None, runs: Path, out: Path | None, as_json: bool
) -> int:
    """Tables, figures and page of a study, or the paper's own table and figure; prints the table and the files."""
    from analysis.report.report import paper_table, report_paper, report_study, study_table

    if paper:
        regime = regime or "resnet50"
        found, caption = paper_table(regime, REFERENCE)
        paths = report_paper(regime, REFERENCE, out or RESULTS / "reference" / regime)
    else:
        from analysis.load import open_study

        source = find_study(name, runs)
        found, caption = study_table(open_study(source), regime or "")
        paths = report_study(source, out or RESULTS / source.name, regime or "")
    if as_json:
        print(json.dumps({"rows": found, "files": [str(p) for p in paths]}, indent=1))
        return 0
    from analysis.report.tables import terminal

    _show(terminal(found, caption.title))
    for path in paths:
        print(path)
    return 0


def write_comparison(a: str, b: str, *, runs: Path, out: Path | None) -> int:
    """Two studies side by side on one page."""
    from analysis.report.report import compare_studies

    first, second = find_study(a, runs), find_study(b, runs)
    print(compare_studies(first, second, out or RESULTS))
    return 0


def serve_report(name: str | None, *, runs: Path, port: int, every: float) -> int:
    """Serve the page until Ctrl-C."""
    from analysis.report.serve import HOST, server

    source = find_study(name, runs)
    with server(source, port=port, refresh=round(every)) as pages:
        print(
            f"http://{HOST}:{pages.server_address[1]}/ shows {source.name}, {round(every)} s old at most; Ctrl-C ends it",
            flush=True,
        )
        try:
            pages.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


# check, power, attribute -------------------------------------------------------------------------------------------------


def check_study(name: str | None, *, runs: Path, as_json: bool) -> int:
    """The proof of each comparison; exit status 1 if any is confounded or unproven."""
    from analysis.results.rows import rows

    study = open_named(name, runs, "check")
    found = [r for regime in study.regimes for r in rows(study, regime) if r["parent"]]
    compared = [(r["label"], r["parent"], r["proof"]) for r in found]
    compared += [
        (f"change of {r['label']}", f"change of {r['contrast']['against']}", r["contrast"])
        for r in found
        if r["contrast"]
    ]
    proven = [c for c in compared if c[2]]
    bad = [c for c in proven if c[2]["status"] != "controlled"]
    failed = NOT_PROVEN if bad or not proven else 0
    if as_json:
        keys = ("label", "parent", "ids", "parent_ids", "proof", "contrast")
        print(json.dumps({"study": study.name, "comparisons": [{k: r[k] for k in keys} for r in found]}, indent=1))
        return failed
    lines = [
        [
            child,
            parent,
            _changes(proof),
            proof["text"] if proof else "no finished run to compare",
            proof["note"] if proof else "",
        ]
        for child, parent, proof in compared
    ]
    print_table(
        f"{study.name}: is the declared change all that differs?",
        ["child", "parent", "declared change", "proof", "note"],
        lines,
        left=5,
    )
    for child, parent, proof in bad:
        print(f"{child} against {parent}: {proof['status']}: {_why(proof)}")
    print(
        f"{len(compared)} comparisons: {len(proven) - len(bad)} controlled, {len(bad)} not, {len(compared) - len(proven)} without finished runs on both sides"
    )
    return failed


def _why(proof: dict[str, Any]) -> str:
    """Why a comparison is not controlled."""
    if proof["confounded_by"]:
        return "; ".join(proof["confounded_by"])
    return f"{listing(proof['unsaid'])} not recorded" if proof["unsaid"] else "the declared change did not happen"


def _changes(proof: dict[str, Any] | None) -> str:
    """The declared settings that differ; of a bundle the number."""
    if proof is None:
        return ""
    from analysis.wording import plain

    changed = [f"{name} {plain(before)} -> {plain(after)}" for name, (before, after) in proof["changed"].items()]
    return ", ".join(changed) if len(changed) <= 3 else f"{len(changed)} settings"


def show_power(
    name: str | None,
    *,
    resolve: float,
    std: float | None,
    power: float,
    comparisons: int | None,
    runs: Path,
    as_json: bool,
) -> int:
    """Seeds per step that resolve a change, from a study's own scatter or a stated one; Holm counts what a named study plans, for a pilot has finished none of it."""
    from dataclasses import asdict

    from analysis.stats.power import DfRule, planned_comparisons, pooled_std, power_table, two_steps

    # A study that is named is opened even where the scatter is stated: its name may be wrong, and it knows what is compared.
    study = (
        open_named(name or (DEFAULT if DEFAULT in known_studies(runs) else None), runs, "power")
        if name is not None or std is None
        else None
    )
    planned = planned_comparisons(study) if study is not None else None
    source = "stated"
    rule: DfRule = two_steps
    if std is None:
        assert study is not None
        found = pooled_std(study)
        std, rule = found.std, found.df_error
        source = f"{study.name}: {found.method}, over {found.runs} finished runs of {found.cells} cell{'s' if found.cells != 1 else ''}, 95 % interval {found.low:.3f} to {found.high:.3f}"
    table = power_table(
        std,
        resolve,
        df_error=rule,
        power=power,
        comparisons=max(planned or 0, 1) if comparisons is None else comparisons,
    )
    if as_json:
        print(json.dumps({**asdict(table), "planned_comparisons": planned, "source": source}, indent=1))
    else:
        _print_power(
            table, source, _threshold(table, study.name if study and comparisons is None else "", planned or 0)
        )
    return 0


def _threshold(table: PowerTable, study: str, planned: int) -> str:
    """The first threshold of Holm in words: over the comparisons that `study` plans, or, where it is empty, over a stated number."""
    at = f"two-sided at {table.alpha:g}"
    if study and planned < 2:
        return (
            f"{at}, 1 planned comparison of {study}"
            if planned
            else f"{at}, one comparison: {study} plans none; say --comparisons N for the study that it is the pilot of"
        )
    of_study = f" planned comparisons of {study}" if study else " comparisons"
    return f"{at} / {table.comparisons}{of_study} (the first threshold of Holm)" if table.comparisons > 1 else at


def _print_power(table: PowerTable, source: str, threshold: str) -> None:
    """The answer in a sentence, what it is computed from, and the two tables around it."""
    asked = next(r for r in table.by_effect if r.asked)
    print(
        f"{asked.seeds} seeds per step resolve a change of {asked.effect:g} points with a chance of {_chance(asked.power)}."
    )
    print(f"standard deviation over seeds: {table.std:.3f} points ({source})")
    print(threshold)
    rows = [
        [f"{r.effect:g}{' <' if r.asked else ''}", str(r.seeds), _chance(r.power), f"{r.df:g}"] for r in table.by_effect
    ]
    print_table("seeds per step for a change", ["change (points)", "seeds", "chance", "df"], rows, left=0)
    print_table(
        f"smallest change that is resolved with a chance of {table.power:.0%}",
        ["seeds", "change (points)", "df"],
        [[str(r.seeds), f"{r.effect:.2f}", f"{r.df:g}"] for r in table.by_seeds],
        left=0,
    )


def _chance(power: float) -> str:
    """A chance in whole percent; no number of seeds makes it certain."""
    return f"{power:.0%}" if power < 0.995 else "more than 99%"


def show_attribution(name: str | None, *, others: Sequence[str], runs: Path, as_json: bool) -> int:
    """Shapley values of a study's toggles, over its own runs and those of other studies that lie among its cells."""
    from analysis.attribution.summary import attribute, terminal, to_json

    study = open_named(name, runs, "attribute")
    if any("timm" in (t.get("resolved") or {}).get("model", {}) for t in study.records):
        raise RoadmapError(
            f"attribute.study {study.name} trains networks of timm, which have no toggles; legal: ladders and changes of our own networks; `roadmap report {study.name}` compares them as wholes"
        )
    names = list(others) or [n for n in known_studies(runs) if n != study.name]
    found = attribute(study, others=[s for n in names if (s := _other(n, runs, asked=bool(others)))])
    if as_json:
        print(json.dumps(to_json(found), indent=1))
    else:
        _show(terminal(found))
    return 0


def _other(name: str, runs: Path, *, asked: bool) -> Study | None:
    """Another study whose runs may count. One that is damaged matters only if it was asked for."""
    try:
        return open_named(name, runs, "attribute")
    except RoadmapError as e:
        if asked:
            raise
        print(f"not used: {e}", file=sys.stderr)
        return None


# watch -------------------------------------------------------------------------------------------------------------------


def watch_study(name: str | None, *, runs: Path, every: float) -> int:
    """The ladder as it fills: each cell's mean so far and its runs, again and again until no run is under way. Where output is no terminal, one table a look."""
    from rich.console import Console
    from rich.live import Live

    from roadmap.launch.status import NEW, STOPPED, UNDER_WAY, counts, study_states

    folder = find_study(name, runs, "watch")
    if not (folder / "study.json").exists():
        raise RunError(
            f"study {folder} has no run folders; legal: a study below {runs}; it has ended, see `roadmap report {folder.name}`"
        )
    console, quiet = Console(width=None if sys.stdout.isatty() else 160), 0
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        while True:
            states = study_states(folder, every=30)
            filling = _filling(
                folder, states, counts(states), console.width, console.height if console.is_terminal else None
            )
            if live is None:
                console.print(filling)
            else:
                live.update(filling, refresh=True)
            quiet = 0 if any(s.state in UNDER_WAY for s in states) else quiet + 1
            waiting = any(s.state in (NEW, STOPPED) for s in states)
            if quiet >= (QUIET_LOOKS if waiting else 1):
                return 0
            time.sleep(every)


def _filling(folder: Path, states: Sequence[Any], footer: str, width: int, height: int | None) -> Any:
    """One row a cell: a bar from the lowest to the highest mean, n of N, and what its runs are doing. What a screen does not hold is counted."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from analysis.load import gather
    from analysis.results.rows import rows

    study = gather(folder)
    by_id = {s.run: s for s in states}
    runs_of: dict[tuple[str, str], list[Any]] = {}
    for t in study.trials:
        runs_of.setdefault((t["step"], t["change"]), []).append(by_id.get(t["id"]))
    found = [r for r in rows(study) if r["kind"] != "undefined" and r["planned"]]
    means = [r["top1"] for r in found if r["top1"] is not None]
    low, high = (min(means), max(means)) if means else (0.0, 1.0)
    table = Table(title=Text(f"{study.name}: {study.question}"), title_justify="left", box=None, pad_edge=False)
    for heading in ("cell", "top-1 (%)", "", "n", "change", "verdict", "now"):
        table.add_column(
            heading,
            justify="right" if heading in ("top-1 (%)", "n", "change") else "left",
            no_wrap=True,
            min_width=MIN_WIDTHS.get(heading),
        )
    room = max(6, min(30, width - 110))
    names = max(20, width - room - 78)
    one_step = len({r["step"] for r in found}) == 1
    shown = _fitting(found, runs_of, height)
    for r in shown:
        name = r["what"] if one_step else r["label"]
        name = name if len(name) <= names else name[: names // 2 - 1] + "…" + name[-(names - names // 2) :]
        part = 0.0 if r["top1"] is None else 0.15 + 0.85 * (r["top1"] - low) / max(high - low, 1e-9)
        bar = Text("█" * round(part * room), style="blue" if r["kind"] == "step" else "cyan")
        text = "" if r["top1"] is None else f"{r['top1']:.2f}" + ("" if r["std"] is None else f" ± {r['std']:.2f}")
        table.add_row(
            Text(name),
            text,
            bar,
            f"{r['n']} of {r['planned']}",
            "" if r["change"] is None else f"{r['change']:+.2f}",
            r["verdict"] or "",
            Text(_doing(runs_of.get(r["key"], []))),
        )
    rest = f"{len(found) - len(shown)} cells more; " if len(shown) < len(found) else ""
    return Group(table, Text(rest + footer))


def _fitting(found: list[Any], runs_of: dict[tuple[str, str], list[Any]], height: int | None) -> list[Any]:
    """The rows that a screen holds, in the study's order: those at work first of all, then the latest finished, then the next."""
    room = len(found) if height is None else max(5, height - 6)
    if len(found) <= room:
        return found
    busy = [any(s is not None and s.state == "running" for s in runs_of.get(r["key"], [])) for r in found]
    order = sorted(range(len(found)), key=lambda i: (not busy[i], not found[i]["n"], -i if found[i]["n"] else i))
    return [found[i] for i in sorted(order[:room])]


def _doing(states: Sequence[Any]) -> str:
    """What the runs of a cell that have not finished are at."""
    words = []
    for s in states:
        if s is not None and s.state == "running":
            words.append(
                f"seed {s.seed}: epoch {s.epoch}/{s.epochs}" + (f", {s.top1:.1f} %" if s.top1 is not None else "")
            )
        elif s is not None and s.state != "done":
            words.append(f"seed {s.seed}: {s.state}")
    return "; ".join(words[:3]) + (f"; {len(words) - 3} more" if len(words) > 3 else "")
