"""Rows -> table.md, table.csv, table.tex and the terminal. One list of columns serves all but the CSV, which holds raw numbers."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from analysis.report.caption import Caption, mark
from analysis.wording import NONE, as_change, median_text, one_line, scaled, signed, signed_interval, spread
from analysis.results.rows import Row, rows

if TYPE_CHECKING:
    from rich.table import Table

Column = tuple[str, Callable[[Row], str]]

__all__ = ["csv", "latex", "markdown", "rows", "terminal"]


def columns(found: list[Row]) -> list[Column]:
    """(heading, row -> text) of the readable tables; the paper's own table has no measured columns."""
    shared: list[Column] = [
        ("step", _step),
        ("what changed", _what),
        ("params (M)", lambda r: scaled(r["params"], 1e6)),
        ("GMACs", lambda r: scaled(r["macs"], 1e9)),
    ]
    if not found or found[0]["source"] == "paper":
        return [
            *shared,
            ("paper GFLOPs", lambda r: spread(r["paper_gflops"], None)),
            ("paper top-1 (%)", _paper_top1),
            ("paper change", lambda r: signed(r["paper_change"])),
        ]
    name = found[0]["paper_regime"]
    paper: list[Column] = [
        (f"paper top-1 (%, {name})", _paper_top1),
        ("paper change", lambda r: signed(r["paper_change"])),
    ]
    timed = (
        [("ms an image", lambda r: median_text(r["latency"], r["latency_low"], r["latency_high"]))]
        if any(r["latency"] for r in found)
        else []
    )
    return [
        *shared,
        *timed,
        ("measured top-1 (%)", lambda r: spread(r["top1"], r["std"])),
        ("n", lambda r: f"{r['n']} of {r['planned']}" if r["planned"] else "not run"),
        ("change [95 %]", _change),
        ("verdict", _verdict),
        ("proof", _proof),
        *(paper if any(r["paper_top1"] is not None for r in found) else []),
        ("failed", lambda r: str(r["failed"])),
        ("missing", lambda r: str(r["missing"])),
    ]


def _step(row: Row) -> str:
    return " ".join(word for word in (row["id"] if row["kind"] == "step" else None, row["step"]) if word) or NONE


def _what(row: Row) -> str:
    what = one_line(row["what"])
    ema = " (top-1 of the EMA)" if row.get("ema") else ""
    named = {
        "side": f"{what} (side step)",
        "variant": as_change(what),
        "control": f"{what} (control)",
        "undefined": f"{what}: {one_line(row.get('change_note'))}",
    }
    return named.get(row["kind"], what) + ema


def _paper_top1(row: Row) -> str:
    return spread(row["paper_top1"], row["paper_std"])


def _change(row: Row) -> str:
    return signed_interval(row["change"], row["change_low"], row["change_high"]) + mark(row)


def _verdict(row: Row) -> str:
    if row["verdict"]:
        return str(row["verdict"])
    return str(row["proof"]["status"]) if row["proof"] and row["proof"]["status"] != "controlled" else NONE


def _proof(row: Row) -> str:
    return one_line(row["proof"]["text"]) if row["proof"] else NONE


def markdown(found: list[Row], caption: Caption) -> str:
    """table.md: what a reader must know, the table, then the runs that did not finish."""
    shown = columns(found)
    lines = [
        f"# {markdown_text(caption.title)}",
        "",
        *(f"- {label}: {markdown_text(text)}" for label, text in caption.facts),
        "",
    ]
    lines.append("| " + " | ".join(markdown_text(heading) for heading, _ in shown) + " |")
    lines.append("|" + "|".join(" :-- " if i < 2 else " --: " for i in range(len(shown))) + "|")
    lines += ["| " + " | ".join(markdown_text(text(row)) for _, text in shown) + " |" for row in found]
    if caption.crossed:
        lines += [
            "",
            "## Crossed: top-1 (%) with its 95 % interval, and the change in the same column",
            "",
            "| " + " | ".join(map(markdown_text, caption.crossed.headings)) + " |",
        ]
        lines += ["|" + "|".join([" :-- "] * len(caption.crossed.headings)) + "|"]
        lines += ["| " + " | ".join(map(markdown_text, [arm, *texts])) + " |" for arm, texts in caption.crossed.rows]
    if caption.problems:
        lines += [
            "",
            f"## Not averaged: {len(caption.problems)}",
            "",
            *(f"- `{run.replace('`', '')}`: {markdown_text(why)}" for run, why in caption.problems),
        ]
    return "\n".join(lines) + "\n"


_MARKDOWN = str.maketrans({c: "\\" + c for c in "\\|*_`[]"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def markdown_text(text: str) -> str:
    return text.translate(_MARKDOWN)


CSV_KEYS = (
    "source", "kind", "id", "step", "what", "group", "parent", "params", "macs", "ema", "top1", "std", "low", "high", "n", "sampling_se", "planned", "failed", "missing", "change", "change_se",
    "change_low", "change_high", "change_p", "change_method", "change_sampling_se", "p_holm", "verdict", "latency", "latency_low", "latency_high", "images_per_second", "hours",
    "paper_regime", "paper_top1", "paper_std", "paper_change", "paper_gflops", "paper_difference", "paper_z",
)  # fmt: skip
_MEASURED = {
    "top1", "std", "low", "high", "sampling_se", "change", "change_se", "change_low", "change_high", "change_p", "change_sampling_se",
    "latency", "latency_low", "latency_high", "images_per_second", "hours",
}  # fmt: skip


def csv(found: list[Row]) -> str:
    """table.csv: a key of `analysis.results.rows` a column, `measured_` in front of the measured ones; numbers unrounded but for the sixth decimal; seeds and their top-1 in one order."""
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    keys = [k for k in CSV_KEYS if not found or k in found[0]]
    measured = bool(found) and "by_seed" in found[0]
    writer.writerow(
        ["measured_" + k if k in _MEASURED else k for k in keys]
        + (["proof", "seeds", "measured_top1_by_seed", "runs"] if measured else [])
    )
    for row in found:
        by_seed = row.get("by_seed", {})
        behind = (
            [
                _proof(row),
                " ".join(map(str, by_seed)),
                " ".join(_raw(v) for v in by_seed.values()),
                " ".join(row["ids"]),
            ]
            if measured
            else []
        )
        writer.writerow([_raw(row[k]) for k in keys] + behind)
    return out.getvalue()


def _raw(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else one_line(value)


_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "[": "{[}", "]": "{]}", "±": r"$\pm$", "−": "$-$", "–": "--", "→": r"$\to$", "×": r"$\times$", "‡": r"\ddag{}",
})  # fmt: skip


def latex(found: list[Row], caption: Caption) -> str:
    """table.tex: a whole table environment for \\input, at most 15 cm wide; the document needs booktabs and nothing else."""
    shown = _latex_columns(found)
    facts = " ".join(
        f"{label}: {text}."
        for label, text in caption.facts
        if label in ("Data", "Recipe", "Runs", "Source", "Top-1", "Change", "Verdict", "Controls", "Paper")
    )
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering\scriptsize\setlength{\tabcolsep}{2pt}",
        rf"\caption{{{_tex(caption.title)}. {_tex(facts)}}}",
        rf"\begin{{tabular}}{{lp{{30mm}}{'r' * (len(shown) - 2)}}}",
        r"\toprule",
        " & ".join(_tex(heading) for heading, _ in shown) + r" \\",
    ]
    group = None
    for row in found:
        lines += [r"\midrule"] if row["group"] != group else []
        group = row["group"]
        cells = [_tex(text(row)) for _, text in shown]
        lines.append(" & ".join([cells[0], r"\raggedright " + cells[1], *cells[2:]]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"]) + "\n"


def _latex_columns(found: list[Row]) -> list[Column]:
    """The columns of `columns`, narrower: the step's id alone where it has one, the interval, which is symmetric, as a half-width."""
    narrow: dict[str, Column] = {
        "step": ("", lambda r: r["id"] or ""),
        "what changed": ("what changed", _what),
        "params (M)": ("M params", lambda r: scaled(r["params"], 1e6)),
        "measured top-1 (%)": ("measured (%)", lambda r: spread(r["top1"], r["std"])),
        "n": ("n", lambda r: f"{r['n']}/{r['planned']}" if r["planned"] else NONE),
        "change [95 %]": ("change ± 95 %", _half_width),
        "verdict": ("verdict", lambda r: "unres." if _verdict(r) == "unresolved" else _verdict(r)),
        "paper top-1 (%)": ("paper (%)", _paper_top1),
        "paper change": ("change", lambda r: signed(r["paper_change"])),
        "failed": ("fail", lambda r: str(r["failed"])),
        "missing": ("miss", lambda r: str(r["missing"])),
    }
    plain = [
        (heading.split(" (%, ")[0] + " (%)" if " (%, " in heading else heading, text)
        for heading, text in columns(found)
    ]
    return [narrow.get(heading, (heading, text)) for heading, text in plain if heading != "proof"]


def _half_width(row: Row) -> str:
    if row["change"] is None or row["change_low"] is None:
        return signed(row["change"])
    return f"{signed(row['change'])} ± {(row['change_high'] - row['change_low']) / 2:.2f}{mark(row)}"


def _tex(text: str) -> str:
    """Escaped; other letters outside ASCII stay as they are: LaTeX reads UTF-8."""
    return text.translate(_LATEX)


def terminal(found: list[Row], title: str = "") -> Table:
    """The readable table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    shown = [c for c in columns(found) if c[0] != "proof"]  # `roadmap check` prints it
    table = Table(title=Text(title) if title else None, title_justify="left")
    for i, (heading, _) in enumerate(shown):
        table.add_column(Text(heading), justify="left" if i < 2 else "right")
    for i, row in enumerate(found):
        last_of_group = i + 1 == len(found) or found[i + 1]["group"] != row["group"]
        table.add_row(*(Text(text(row)) for _, text in shown), end_section=last_of_group)
    return table
