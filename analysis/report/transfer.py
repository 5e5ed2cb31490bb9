"""A transfer -> the terminal's table, transfer-A-B.md and .csv, its figure, and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.figures.transfer import transfer_figure
from analysis.load import open_study
from analysis.report.caption import measured_caption
from analysis.results.analyse import analyse
from analysis.results.transfer import (
    PAPER,
    Shared,
    Side,
    SideEffect,
    Transfer,
    paper_of,
    study_side,
    transfer,
)
from analysis.stats.agreement import DRAWS, FEWEST, RESAMPLES, Share
from analysis.wording import NONE, count, markdown_text, one_line, signed, signed_interval
from roadmap.config.errors import RoadmapError, listing
from roadmap.runs.io import write_bytes
from roadmap.runs.metric import TOP1, Metric

if TYPE_CHECKING:
    from rich.console import Group

    from analysis.study import Study

WIDTH = 80
NAME = 21  # columns of a comparison's name, over several lines where it is longer


@dataclass(frozen=True)
class TransferReport:
    """A transfer, the name of its files, and what is told beside its table: (heading, sentence) pairs."""

    transfer: Transfer
    name: str
    facts: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, a: Path, b: Path | str, metric: Metric = TOP1, regime: str = "") -> TransferReport:
        """Open two studies' folders, or one and 'paper', of which `regime` may be named.

        Raises RoadmapError where they share no controlled comparison.
        """
        first = open_study(a)
        small = _side(first, metric)
        if isinstance(b, Path):
            large = _side(open_study(b), metric)
        elif metric is not TOP1:
            raise RoadmapError(f"report.metric is {metric.name!r}, but papers print top-1; legal: top1; leave it out")
        else:
            large = paper_of(first, regime)
        found = transfer(small, large, metric)
        names = a.resolve().name, b.resolve().name if isinstance(b, Path) else PAPER
        return cls(found, f"transfer-{names[0]}-{names[1]}", list(_facts(found)))

    def write(self, out: Path) -> list[Path]:
        """Write all files into a folder, and return them."""
        from analysis.report.report import make_folder

        make_folder(out)
        figure = transfer_figure(self.transfer)
        files = {
            "md": self.markdown().encode(),
            "csv": self.csv().encode(),
            "svg": figure.svg().encode(),
            "png": figure.png(),
        }
        paths = [out / f"{self.name}.{kind}" for kind in files]
        for path, content in zip(paths, files.values(), strict=True):
            write_bytes(path, content)
        return paths

    def markdown(self) -> str:
        """The facts, then the table."""
        found = self.transfer
        facts = [f"- {heading[:1].upper()}{heading[1:]}: {markdown_text(text)}" for heading, text in self.facts]
        head = [*_headings(found), "in A", "in B", "signs"]
        rules = [":--", *["--:"] * 2, *[":--"] * 3]
        rows = [[*_row(one, found.metric), _verdict(one.a), _verdict(one.b), _signs(one)] for one in found.shared]
        lines = [f"| {' | '.join(map(markdown_text, row))} |" for row in rows]
        table = [f"| {' | '.join(map(markdown_text, head))} |", f"| {' | '.join(rules)} |", *lines]
        return "\n".join([f"# {markdown_text(_title(found))}", "", *facts, "", *table]) + "\n"

    def csv(self) -> str:
        """A row a comparison, numbers unrounded but for the sixth decimal."""
        import pandas as pd

        rows = [_flat(one) for one in self.transfer.shared]
        return str(pd.DataFrame(rows).to_csv(index=False, float_format="%.6f", lineterminator="\n"))

    def terminal(self) -> Group:
        """The table and the facts, for 80 columns."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        found = self.transfer
        table = Table(title=Text(_title(found)), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for i, heading in enumerate([*_headings(found), "signs"]):
            table.add_column(
                Text(heading), justify="left" if i in (0, 3) else "right", max_width=NAME if not i else None
            )
        for one in found.shared:
            table.add_row(*map(Text, [*_row(one, found.metric), _signs(one)]))
        facts = Table(box=None, show_header=False, pad_edge=False, width=WIDTH)
        facts.add_column(no_wrap=True)
        facts.add_column()
        for heading, text in self.facts:
            facts.add_row(Text(heading), Text(text))
        return Group(table, Text(), facts)

    def to_json(self) -> dict[str, Any]:
        """Numbers, JSON-ready."""
        found = self.transfer
        ranks, seeds = found.ranks, found.seeds or (None, None)
        return {
            "a": found.a.name,
            "b": found.b.name,
            "metric": found.metric.name,
            "comparisons": [_flat(one) for one in found.shared],
            "left_out": [{"label": one.label, "why": one.why} for one in found.left_out],
            "only_a": list(found.only_a),
            "only_b": list(found.only_b),
            "kendall_tau_b": {
                "value": ranks.tau,
                "p": ranks.p,
                "over_comparisons": [ranks.low, ranks.high],
                "over_seeds": list(seeds),
            },
            "signs": {"all": _share_json(found.signs), "resolved_in_both": _share_json(found.resolved_signs)},
            "decisions": {
                "cells": found.decisions.cells,
                "all": _share_json(found.decisions.all),
                "resolved_in_b": _share_json(found.decisions.resolved),
                "unresolved_in_b": _share_json(found.decisions.unresolved),
            },
        }


def _side(study: Study, metric: Metric) -> Side:
    analysis = analyse(study, metric)
    caption = measured_caption(study, analysis)
    return study_side(study, analysis, f"regime {analysis.regime}; {caption.short}")


# Texts -------------------------------------------------------------------------------------------


def _title(found: Transfer) -> str:
    names = one_line(found.a.name), "the paper" if found.b.name == PAPER else one_line(found.b.name)
    return f"How well {names[0]} (A) predicts {names[1]} (B)"


def _headings(found: Transfer) -> list[str]:
    return ["change", f"in A ({found.metric.difference_unit})", f"in B ({found.metric.difference_unit})"]


def _row(one: Shared, metric: Metric) -> list[str]:
    decimals = metric.decimals
    effects = [signed_interval(e.value, e.low, e.high, decimals) for e in (one.a, one.b)]
    return [one_line(one.a.label), *effects]


def _verdict(effect: SideEffect) -> str:
    return effect.verdict or NONE


def _signs(one: Shared) -> str:
    """Whether the signs agree; * where both effects are resolved."""
    return ("same" if one.same_sign else "other") + (" *" if one.resolved else "")


def _facts(found: Transfer) -> Iterator[tuple[str, str]]:
    """What the table comes to, each with what its interval is of."""
    yield "A", one_line(found.a.about)
    yield "B", one_line(found.b.about)
    yield "ranks", _ranks(found)
    resolved = found.resolved_signs
    both = f"of those resolved in both (*) {_share(resolved)}" if resolved.total else "none is resolved in both"
    yield "signs", f"the same in {_share(found.signs)}; {both} (Wilson)"
    yield "decisions", _decisions(found)
    if found.left_out:
        told = "; ".join(f"{one.label}: {one.why}" for one in found.left_out)
        yield "left out", f"{count(len(found.left_out), 'comparison')} of both: {one_line(told)}"
    for letter, labels in (("A", found.only_a), ("B", found.only_b)):
        if labels:
            yield f"only in {letter}", listing(map(one_line, labels))


def _ranks(found: Transfer) -> str:
    ranks, n = found.ranks, count(found.ranks.n, "comparison")
    if ranks.tau is None or ranks.p is None:
        return f"none: {n} with no two different effects in both"
    text = f"Kendall's tau-b {signed_interval(ranks.tau, ranks.low, ranks.high)}, p = {ranks.p:.2g}, {n}"
    if ranks.low is None:
        text += f"; no interval over comparisons with fewer than {FEWEST}"
    elif abs(ranks.tau) > 1 - 1e-9:
        text += "; interval: Wilson's, for no resample disagrees"
    else:
        text += f"; interval: {RESAMPLES:,} resamples of the comparisons, the seeds' error in each"
    if found.seeds:
        low, high = (signed(end) for end in found.seeds)
        return f"{text}; with other seeds of these very cells: {low} to {high} ({DRAWS:,} draws of all means)"
    return f"{text}; no error over seeds is known"


def _decisions(found: Transfer) -> str:
    cells = found.decisions.cells
    parts = [f"the same one of two cells is better in {_share(found.decisions.all)}"]
    kinds = ((found.decisions.resolved, "resolves"), (found.decisions.unresolved, "does not resolve"))
    parts += [f"where B {does} the difference {_share(part)}" for part, does in kinds if part.total]
    free = f"Wilson, as of one trial fewer than there are cells: the pairs share {cells}"
    return f"{'; '.join(parts)} ({free})"


def _share(share: Share) -> str:
    """'8 of 13, 62 % [36, 82]'."""
    counted = f"{share.hits:g} of {share.total}"
    if share.value is None or share.low is None or share.high is None:
        return counted
    return f"{counted}, {100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def _share_json(share: Share) -> dict[str, Any]:
    return {"hits": share.hits, "total": share.total, "share": share.value, "low": share.low, "high": share.high}


def _flat(one: Shared) -> dict[str, Any]:
    """A comparison as one row."""
    sides = {**_numbers(one.a, "a"), **_numbers(one.b, "b")}
    return {"comparison": one.a.label, **sides, "same_sign": one.same_sign, "resolved_in_both": one.resolved}


def _numbers(effect: SideEffect, side: str) -> dict[str, Any]:
    values = {"effect": effect.value, "low": effect.low, "high": effect.high, "verdict": effect.verdict}
    return {f"{name}_{side}": value for name, value in values.items()}
