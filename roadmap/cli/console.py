"""How answers reach the terminal: tables, JSON, and a line for each run that ends.

The libraries are imported when used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from roadmap.runs.folder import RunFolder
from roadmap.runs.metric import TOP1
from roadmap.runs.record import FINISHED, Record

WIDE = 200  # columns, where output is no terminal: nothing is cut


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def terminal_width() -> int | None:
    """None where output is a terminal, which knows its own width."""
    return None if sys.stdout.isatty() else WIDE


def show(renderable: Any) -> None:
    """Print what rich can draw."""
    from rich.console import Console

    Console(width=terminal_width()).print(renderable)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 2) -> None:
    """Print a plain table; the first `left` columns are aligned left, the others right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if i < left else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    show(table)


class Progress:
    """Prints one line for each run that ends, on standard error."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self.total, self.quiet, self.count = total, quiet, 0

    def finished(self, folder: RunFolder, record: Record) -> None:
        """Note that a run has ended, with this record."""
        self.count += 1
        if not self.quiet:
            line = f"[{self.count}/{self.total}] {folder.path.name}  {record.status}  {_outcome(record)}"
            print(line, file=sys.stderr, flush=True)


def _outcome(record: Record) -> str:
    """The accuracy of a finished run, or the first line of what went wrong."""
    score = record.metrics.get(TOP1.key)
    if record.status == FINISHED and score is not None:
        return f"{TOP1.title} {score:.2f} {TOP1.unit}  {record.wall_seconds:.1f} s"
    return (record.error or "no error noted").splitlines()[0]
