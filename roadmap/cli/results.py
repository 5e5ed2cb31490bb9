"""report, check, power and attribute: what a study's records say.

They read what runs have left, and train nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadmap import api
from roadmap.cli.console import print_json, print_table, show
from roadmap.config.errors import RoadmapError, listing
from roadmap.study.find import FoundStudy, find_study, studies_with_records

if TYPE_CHECKING:
    from analysis.report.report import Report
    from analysis.results.confounds import Proof
    from analysis.results.results import Result
    from analysis.stats.power import PowerTable
    from analysis.study import Study
    from roadmap.runs.metric import Metric

NOT_PROVEN = 1
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"


def open_named(name: str | None, runs: Path) -> Study:
    """The study of that name, from its run folders or else from its committed results."""
    from analysis.load import open_study

    return open_study(find_study(name, runs).records_folder())


def report_folder(study: FoundStudy) -> Path:
    """The folder of a study's report: beside its run folders, which are not in git."""
    return (study.folder or study.runs / study.name) / api.REPORT


# report -------------------------------------------------------------------------------------------


def write_report(
    name: str | None, *, regime: str | None, metric: str, runs: Path, out: Path | None, as_json: bool
) -> int:
    """Write tables, figures and page of a study; print the table and the files."""
    from analysis.load import open_study
    from analysis.report.report import study_report

    asked = api.find_metric(metric)
    found = find_study(name, runs)
    report = study_report(open_study(found.records_folder(), curves=True), asked, regime or "")
    _print_report(report, report.write(out or report_folder(found)), as_json)
    return 0


def write_paper(*, regime: str | None, ladder: str | None, runs: Path, out: Path | None, as_json: bool) -> int:
    """Write the paper's own table and figure; print the table and the files."""
    from analysis.report.report import paper_report
    from roadmap.ladder import find_ladder

    of = find_ladder(ladder) if ladder else find_ladder()
    regime = regime or of.printed_regime(of.default_regime).name
    report = paper_report(regime, REFERENCE, of.name)
    _print_report(report, report.write(out or runs / f"paper-{regime}" / api.REPORT), as_json)
    return 0


def _print_report(report: Report, paths: Sequence[Path], as_json: bool) -> None:
    if as_json:
        print_json({"rows": report.frame.to_dict("records"), "files": list(map(str, paths))})
        return
    from analysis.report.tables import terminal

    show(terminal(report.frame, report.analysis.metric, report.caption.title))
    for path in paths:
        print(path)


def write_comparison(a: str, b: str, *, runs: Path, out: Path | None) -> int:
    """Write one page with two studies side by side; without `out` into the first one's report."""
    from analysis.report.report import compare_studies

    first, second = find_study(a, runs), find_study(b, runs)
    out = out or report_folder(first)
    print(compare_studies(first.records_folder(), second.records_folder(), out))
    return 0


def write_transfer(
    a: str, b: str, *, regime: str | None, metric: str, runs: Path, out: Path | None, as_json: bool
) -> int:
    """Write and print how well the effects of study `a` predict those of `b` or of the paper; into `a`'s report."""
    from analysis.report.transfer import TransferReport
    from analysis.results.transfer import PAPER

    asked = api.find_metric(metric)
    first = find_study(a, runs)
    if regime and b != PAPER:
        raise RoadmapError(
            f"--regime {regime!r} is given with --transfer {a} {b}; legal: with --transfer {a} {PAPER}, "
            "whose numbers it chooses; leave it out"
        )
    second = PAPER if b == PAPER else find_study(b, runs).records_folder()
    report = TransferReport.of(first.records_folder(), second, asked, regime or "")
    paths = report.write(out or report_folder(first))
    if as_json:
        print_json({**report.to_json(), "files": list(map(str, paths))})
        return 0
    show(report.terminal())
    for path in paths:
        print(path)
    return 0


def serve_report(name: str | None, *, metric: str, runs: Path, port: int, every: float) -> int:
    """Serve the page until Ctrl-C."""
    from analysis.report.serve import HOST, server

    source = find_study(name, runs).records_folder()
    age = round(every)
    with server(source, port=port, refresh=age, metric=api.find_metric(metric)) as pages:
        url = f"http://{HOST}:{pages.server_address[1]}/"
        print(f"{url} shows {source.name}, {age} s old at most; Ctrl-C ends it", flush=True)
        try:
            pages.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


# check --------------------------------------------------------------------------------------------


def check_study(name: str | None, *, runs: Path, as_json: bool) -> int:
    """Print the proof of each comparison; exit status 1 if any is confounded or unproven."""
    from analysis.results.analyse import analyse

    study = open_named(name, runs)
    found = [r for regime in study.regimes for r in analyse(study, regime=regime).results if r.effect.parent]
    compared = _compared(found)
    proven = [c for c in compared if c[2]]
    bad = [(child, parent, proof) for child, parent, proof in compared if proof and not proof.controlled]
    status = NOT_PROVEN if bad or not proven else 0
    if as_json:
        print_json({"study": study.name, "comparisons": [_comparison_to_json(row) for row in found]})
        return status
    columns = ["child", "parent", "declared change", "proof", "note"]
    title = f"{study.name}: is the declared change all that differs?"
    print_table(title, columns, [_proof_row(*c) for c in compared], left=5)
    for child, parent, proof in bad:
        print(f"{child} against {parent}: {proof.status}: {_why(proof)}")
    controlled = len(proven) - len(bad)
    missing = len(compared) - len(proven)
    print(
        f"{len(compared)} comparisons: {controlled} controlled, {len(bad)} not, "
        f"{missing} without finished runs on both sides"
    )
    return status


def _comparison_to_json(row: Result) -> dict[str, Any]:
    effect = row.effect
    contrast = effect.contrast
    return {
        "label": row.label,
        "parent": effect.parent,
        "ids": list(row.runs.ids),
        "parent_ids": list(effect.parent_ids),
        "proof": effect.proof.to_json() if effect.proof else None,
        "contrast": {**contrast.proof.to_json(), "against": contrast.against} if contrast else None,
    }


def _compared(found: Sequence[Result]) -> list[tuple[str, str, Proof | None]]:
    """The child, parent and proof of each comparison, then of each crossed one."""
    compared = [(row.label, str(row.effect.parent), row.effect.proof) for row in found]
    for row in found:
        if contrast := row.effect.contrast:
            compared.append((f"change of {row.label}", f"change of {contrast.against}", contrast.proof))
    return compared


def _proof_row(child: str, parent: str, proof: Proof | None) -> list[str]:
    if proof is None:
        return [child, parent, "", "no finished run to compare", ""]
    return [child, parent, _changes(proof), proof.text, proof.note]


def _why(proof: Proof) -> str:
    """Why a comparison is not controlled."""
    if proof.confounds:
        return "; ".join(proof.reasons)
    return f"{listing(proof.unsaid)} not recorded" if proof.unsaid else "the declared change did not happen"


def _changes(proof: Proof) -> str:
    """The declared settings that differ; of a bundle the number."""
    from analysis.wording import plain

    changed = [f"{name} {plain(before)} -> {plain(after)}" for name, (before, after) in proof.changed.items()]
    return ", ".join(changed) if len(changed) <= 3 else f"{len(changed)} settings"


# power --------------------------------------------------------------------------------------------


def show_power(
    name: str | None,
    *,
    resolve: float,
    metric: str,
    std: float | None,
    power: float,
    comparisons: int | None,
    runs: Path,
    as_json: bool,
) -> int:
    """Print how many seeds per step resolve a change, from a study's own scatter or a stated one.

    Holm's correction counts what a named study plans, for a pilot has finished none of it.
    """
    from analysis.results.analyse import analyse
    from analysis.stats.power import DfRule, planned_comparisons, pooled_std, power_table, two_steps

    asked = api.find_metric(metric)
    # A named study is opened even where the scatter is stated: its name may be wrong, and it knows what is compared.
    study = None if name is None and std is not None else open_named(name, runs)
    planned = None if study is None else planned_comparisons(study)
    source = "stated"
    rule: DfRule = two_steps
    if std is None:
        assert study is not None
        found = pooled_std(analyse(study, asked).findings.error, study.name)
        std, rule = found.std, found.df_error
        cells = f"{found.cells} cell{'s' if found.cells != 1 else ''}"
        interval = f"95 % interval {found.low:.3f} to {found.high:.3f}"
        source = f"{study.name}: {found.method}, over {found.runs} finished runs of {cells}, {interval}"
    count = max(planned or 0, 1) if comparisons is None else comparisons
    table = power_table(std, resolve, df_error=rule, power=power, comparisons=count)
    if as_json:
        print_json({**asdict(table), "planned_comparisons": planned, "source": source})
        return 0
    counted = study.name if study is not None and comparisons is None else ""
    _print_power(table, source, _threshold(table, counted, planned or 0), asked)
    return 0


def _threshold(table: PowerTable, study: str, planned: int) -> str:
    """Holm's first threshold in words, over what `study` plans or over a stated number."""
    at = f"two-sided at {table.alpha:g}"
    if study and planned == 0:
        return f"{at}, one comparison: {study} plans none; say --comparisons N for the study that it is the pilot of"
    if study and planned == 1:
        return f"{at}, 1 planned comparison of {study}"
    of_study = f" planned comparisons of {study}" if study else " comparisons"
    return f"{at} / {table.comparisons}{of_study} (the first threshold of Holm)" if table.comparisons > 1 else at


def _print_power(table: PowerTable, source: str, threshold: str, metric: Metric) -> None:
    """Print the answer in a sentence, what it is computed from, and the two tables around it."""
    unit = metric.difference_unit
    asked = next(r for r in table.by_effect if r.asked)
    print(
        f"{asked.seeds} seeds per step resolve a change of {asked.effect:g} {unit} "
        f"with a chance of {_chance(asked.power)}."
    )
    print(f"standard deviation over seeds: {table.std:.3f} {unit} ({source})")
    print(threshold)
    rows = []
    for r in table.by_effect:
        mark = " <" if r.asked else ""
        rows.append([f"{r.effect:g}{mark}", str(r.seeds), _chance(r.power), f"{r.df:g}"])
    print_table("seeds per step for a change", [f"change ({unit})", "seeds", "chance", "df"], rows, left=0)
    smallest = [[str(r.seeds), f"{r.effect:.{metric.decimals}f}", f"{r.df:g}"] for r in table.by_seeds]
    title = f"smallest change that is resolved with a chance of {table.power:.0%}"
    print_table(title, ["seeds", f"change ({unit})", "df"], smallest, left=0)


def _chance(power: float) -> str:
    """A chance in whole percent; no number of seeds makes it certain."""
    return f"{power:.0%}" if power < 0.995 else "more than 99%"


# attribute ----------------------------------------------------------------------------------------


def show_attribution(name: str | None, *, others: Sequence[str], metric: str, runs: Path, as_json: bool) -> int:
    """Print Shapley values of a study's toggles, over every study's runs of its cells."""
    from analysis.attribution.summary import attribute, to_json
    from analysis.attribution.text import terminal

    asked = api.find_metric(metric)
    study = open_named(name, runs)
    if study.design == "models":
        raise RoadmapError(
            f"attribute.study {study.name} compares whole networks, which share no toggles; "
            f"legal: ladders and changes; `roadmap report {study.name}` compares them as wholes"
        )
    names = others or [n for n in studies_with_records(runs) if n != study.name]
    opened = [_other(n, runs, asked=bool(others)) for n in names]
    found = attribute(study, metric=asked, others=[s for s in opened if s is not None])
    if as_json:
        print_json(to_json(found))
    else:
        show(terminal(found))
    return 0


def _other(name: str, runs: Path, *, asked: bool) -> Study | None:
    """Another study whose runs may count. One that is damaged matters only if it was asked for."""
    try:
        return open_named(name, runs)
    except RoadmapError as e:
        if asked:
            raise
        print(f"not used: {e}", file=sys.stderr)
        return None
