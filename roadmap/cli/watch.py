"""watch: the ladder as it fills, in the terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from roadmap.api import find_metric
from roadmap.launch.base import UNDER_WAY, State
from roadmap.launch.status import RunState, counts, study_states
from roadmap.runs.changes import ChangedFiles
from roadmap.study.find import find_study

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from analysis.results.results import Result
    from analysis.study import CellId, Study
    from roadmap.runs.metric import Metric

QUIET_LOOKS = 3  # between two runs of one queue no run says that it trains
ASK_EVERY = 30.0  # seconds between two questions to a queue
WIDE = 160  # columns where output is no terminal
# Columns of the table: heading, justification, the least width; in a narrow terminal the last one gives way.
METRIC = "metric"  # the column that is headed by the metric asked for
COLUMNS: Sequence[tuple[str, str, int | None]] = (
    ("cell", "left", None),
    (METRIC, "right", 13),
    ("", "left", None),
    ("n", "right", 7),
    ("change", "right", 7),
    ("verdict", "left", 10),
    ("now", "left", None),
)
OTHER_COLUMNS = 78  # what they take beside the names and the bar
SHORTEST_BAR = 0.15  # of the lowest mean, as a part of the longest


def watch_study(name: str | None, *, metric: str, runs: Path, every: float) -> int:
    """Show each cell's mean so far and its runs, again and again until no run is under way.

    Where output is no terminal, one table a look. `every`: seconds between two looks.
    """
    from rich.console import Console
    from rich.live import Live

    asked = find_metric(metric)
    folder = find_study(name, runs).run_folder()
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    looks = _Looks(folder, asked)
    quiet = 0
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        while True:
            look = looks.now()
            states = look.states
            shown = _filling(look, console.width, console.height if console.is_terminal else None)
            if live is None:
                console.print(shown)
            else:
                live.update(shown, refresh=True)
            at_work = any(s.state in UNDER_WAY for s in states)
            quiet = 0 if at_work else quiet + 1
            waiting = any(s.state in (State.NEW, State.STOPPED) for s in states)
            if quiet >= (QUIET_LOOKS if waiting else 1):
                return 0
            time.sleep(every)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What is known of a study at one time: rows of cells that have runs, and where each run is."""

    study: Study
    metric: Metric
    rows: Sequence[Result]
    states: Sequence[RunState]


class _Looks:
    """Looks at a study: each reads what has changed, and counts again only where a record has."""

    def __init__(self, folder: Path, metric: Metric) -> None:
        from analysis.load import LiveStudy

        self._folder, self._metric = folder, metric
        self._live, self._files = LiveStudy(folder), ChangedFiles()
        self._last: _Look | None = None

    def now(self) -> _Look:
        """The study as it is now."""
        states = study_states(self._folder, every=ASK_EVERY, files=self._files)
        study = self._live.now()
        if self._last is not None and self._last.study is study:
            self._last = replace(self._last, states=states)
        else:
            self._last = _Look(study=study, metric=self._metric, rows=self._rows(study), states=states)
        return self._last

    def _rows(self, study: Study) -> list[Result]:
        from analysis.results.analyse import analyse

        return [row for row in analyse(study, self._metric).results if row.runs.planned]


def _filling(look: _Look, width: int, height: int | None) -> RenderableType:
    """A table with one row a cell: its mean as a bar, n of N, and what its runs are doing."""
    from rich.console import Group
    from rich.text import Text

    found, states = look.rows, look.states
    runs_of = _runs_by_cell(look.study, states)
    shown = _fitting(found, runs_of, height)
    table = _table(f"{look.study.name}: {look.study.question}", look.metric)
    bar_width = max(6, min(30, width - 110))
    name_width = max(20, width - bar_width - OTHER_COLUMNS)
    bar = _Bar(found, bar_width)
    one_step = len({row.step for row in found}) == 1
    for row in shown:
        name = row.what if one_step else row.label
        doing = _doing(_states_of(row, runs_of))
        table.add_row(Text(_shortened(name, name_width)), *_cells(row, bar), Text(doing))
    hidden = len(found) - len(shown)
    footer = (f"{hidden} cells more; " if hidden else "") + counts(list(states))
    return Group(table, Text(footer))


def _runs_by_cell(study: Study, states: Sequence[RunState]) -> dict[CellId, list[RunState]]:
    """The states of each cell's planned runs."""
    by_id = {s.run: s for s in states}
    runs_of: dict[CellId, list[RunState]] = {}
    for run in study.runs:
        if run.id in by_id:
            runs_of.setdefault(run.cell.id, []).append(by_id[run.id])
    return runs_of


def _states_of(row: Result, runs_of: Mapping[CellId, Sequence[RunState]]) -> Sequence[RunState]:
    return runs_of.get(row.cell.id, []) if row.cell else []


def _table(title: str, metric: Metric) -> Table:
    """The empty table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for heading, justify, least in COLUMNS:
        table.add_column(
            metric.heading if heading == METRIC else heading,
            justify="right" if justify == "right" else "left",
            no_wrap=True,
            min_width=least,
        )
    return table


class _Bar:
    """Bars whose lengths lie between the lowest and the highest mean."""

    def __init__(self, found: Sequence[Result], width: int) -> None:
        means = [row.score.mean for row in found if row.score.mean is not None] or [0.0, 1.0]
        self.low, self.high, self.width = min(means), max(means), width

    def __call__(self, mean: float | None) -> str:
        if mean is None:
            return ""
        part = (mean - self.low) / max(self.high - self.low, 1e-9)
        return "█" * round((SHORTEST_BAR + (1 - SHORTEST_BAR) * part) * self.width)


def _cells(row: Result, bar: _Bar) -> list[RenderableType]:
    """What stands between a row's name and its runs: mean, bar, n of N, change, verdict."""
    from rich.text import Text

    score, decimals = row.score, row.metric.decimals
    mean = "" if score.mean is None else f"{score.mean:.{decimals}f}"
    spread = "" if score.std is None else f" ± {score.std:.{decimals}f}"
    colour = "blue" if row.role == "step" else "cyan"
    count = f"{row.n} of {row.runs.planned}"
    change = "" if row.effect.value is None else f"{row.effect.value:+.{decimals}f}"
    return [mean + spread, Text(bar(score.mean), style=colour), count, change, row.effect.verdict or ""]


def _shortened(name: str, width: int) -> str:
    """The name, without its middle where it is too long."""
    if len(name) <= width:
        return name
    half = width // 2
    return name[: half - 1] + "…" + name[half - width :]


def _fitting(
    found: Sequence[Result], runs_of: Mapping[CellId, Sequence[RunState]], height: int | None
) -> Sequence[Result]:
    """The rows that a screen holds: those at work, then the latest finished, then the next."""
    room = len(found) if height is None else max(5, height - 6)
    if len(found) <= room:
        return found

    def urgency(i: int) -> tuple[bool, bool, int]:
        row = found[i]
        busy = any(s.state == State.RUNNING for s in _states_of(row, runs_of))
        return not busy, not row.n, -i if row.n else i

    chosen = sorted(range(len(found)), key=urgency)[:room]
    return [found[i] for i in sorted(chosen)]


def _doing(states: Sequence[RunState]) -> str:
    """What the runs of a cell that have not finished are at, three of them at most."""
    texts = [_at_work(s) for s in states if s.state != State.DONE]
    more = f"; {len(texts) - 3} more" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more


def _at_work(state: RunState) -> str:
    """What one run is at."""
    if state.state != State.RUNNING:
        return f"seed {state.seed}: {state.state}"
    top1 = "" if state.top1 is None else f", {state.top1:.1f} %"
    return f"seed {state.seed}: epoch {state.epoch}/{state.epochs}{top1}"
