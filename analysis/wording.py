"""How numbers are printed, the same in tables and figures.

Signs and dashes are typographic; tables.latex translates them.
"""

from __future__ import annotations

import math
from typing import Any

NONE = "–"


def minus(text: str) -> str:
    return text.replace("-", "−")


def signed(value: float | None, decimals: int = 2) -> str:
    """A difference: '+0.54', '−1.23', '0.00'."""
    if value is None:
        return NONE
    text = f"{value:+.{decimals}f}"
    return minus(text) if float(text) else f"{0:.{decimals}f}"


def signed_interval(value: float | None, low: float | None, high: float | None, decimals: int = 2) -> str:
    """'+0.54 [+0.20, +0.88]'; the value alone where it has no interval."""
    if value is None or low is None or high is None:
        return signed(value, decimals)
    return f"{signed(value, decimals)} [{signed(low, decimals)}, {signed(high, decimals)}]"


def number(value: float | None, decimals: int = 2) -> str:
    """'81.97', with so many decimals."""
    return NONE if value is None else f"{value:.{decimals}f}"


def spread(mean: float | None, std: float | None, decimals: int = 2) -> str:
    """'81.97 ± 0.06'; without a standard deviation the mean alone."""
    if mean is None or std is None:
        return number(mean, decimals)
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


def median_text(median: float | None, low: float | None, high: float | None) -> str:
    """A median and its quartiles: '1.02 [1.01, 1.04]'."""
    return NONE if median is None else f"{median:.2f} [{low:.2f}, {high:.2f}]"


def scaled(value: float | None, unit: float) -> str:
    """A count in units of 1e6 or 1e9, with two decimals and always three significant digits:
    '25.56', '0.00123'."""
    if value is None:
        return NONE
    x = value / unit
    decimals = 2 if x >= 1 or x <= 0 else 2 - math.floor(math.log10(x))
    return f"{x:.{decimals}f}"


def count(n: int, what: str) -> str:
    """'1 run', '1,200 runs'."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def one_line(text: object) -> str:
    """Whitespace and control characters, which error messages may hold, as single spaces."""
    return " ".join("".join(map(_printable, str(text))).split())


def _printable(letter: str) -> str:
    return letter if letter.isprintable() else " "


def plain(value: Any) -> str:
    """A setting as a proof holds it, JSON or not, without the quotes of a word."""
    text = one_line(value)
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


_MARKDOWN = str.maketrans({c: "\\" + c for c in "\\|*_`[]"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def markdown_text(text: str) -> str:
    """The text as Markdown shows it: no character of it is markup."""
    return text.translate(_MARKDOWN)


def duration(seconds: float) -> str:
    """A time in the unit in which it is easily read: '8.4 s', '48 s', '12.5 min', '1.25 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.2f} h"


def predicted_and_taken(predicted: float, taken: float) -> str:
    """'predicted 1.20 h, took 1.25 h (+4 %)', from seconds."""
    deviation = minus(f"{100 * (taken / predicted - 1):+.0f}") if predicted else NONE
    return f"predicted {duration(predicted)}, took {duration(taken)} ({deviation} %)"
