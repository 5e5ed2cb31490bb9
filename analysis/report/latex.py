"""Results -> table.tex, from the same frame as the other tables, in narrower columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.report.caption import Caption
from analysis.report.facts import FactKind
from analysis.report.tables import columns
from roadmap.runs.metric import Metric

if TYPE_CHECKING:
    import pandas as pd

# What of a caption fits above a table.
SHOWN = frozenset(
    {
        FactKind.DATA,
        FactKind.RECIPE,
        FactKind.RUNS,
        FactKind.SOURCE,
        FactKind.METRIC,
        FactKind.CHANGE,
        FactKind.VERDICT,
        FactKind.CONTROLS,
        FactKind.PAPER,
    }
)
_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "→": r"$\to$",
    "×": r"$\times$",
    "‡": r"\ddag{}",
}
_LATEX = str.maketrans(_ESCAPED | {letter: "\\" + letter for letter in "&%$#_{}"})


def latex(frame: pd.DataFrame, metric: Metric, caption: Caption) -> str:
    """table.tex: a whole table environment for \\input, at most 15 cm wide; it needs booktabs and nothing else."""
    shown = [column for column in columns(frame, metric) if not column.wide]
    facts = " ".join(f"{fact.label}: {fact.text}." for fact in caption.facts if fact.kind in SHOWN)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering\scriptsize\setlength{\tabcolsep}{2pt}",
        rf"\caption{{{_tex(caption.title)}. {_tex(facts)}}}",
        rf"\begin{{tabular}}{{lp{{30mm}}{'r' * (len(shown) - 2)}}}",
        r"\toprule",
        " & ".join(_tex(column.short_heading) for column in shown) + r" \\",
    ]
    rows = zip(*(column.short_texts for column in shown), strict=True)
    starts = frame["group"] != frame["group"].shift()
    for (step, what, *rest), first_of_group in zip(rows, starts, strict=True):
        if first_of_group:
            lines.append(r"\midrule")
        lines.append(" & ".join([_tex(step), r"\raggedright " + _tex(what), *map(_tex, rest)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"]) + "\n"


def _tex(text: str) -> str:
    """Escape the text; other letters outside ASCII stay as they are: LaTeX reads UTF-8."""
    return text.translate(_LATEX)
