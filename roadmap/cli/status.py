"""What the verbs status and logs do: show where each run is, and what it prints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from roadmap.launch.base import MAX_AGE, UNDER_WAY, State
from roadmap.launch.selection import RunSelection, chosen_runs, find_study
from roadmap.launch.status import RunState, counts, job_reports, study_states
from roadmap.runs.changes import ChangedFiles
from roadmap.runs.folder import RunFolder


def show_status(name: str | None, *, out: Path, watch: bool, every: float, as_json: bool) -> int:
    """One line a run and the counts; `watch` shows it again until every run has ended."""
    folder, files = find_study(name, out), ChangedFiles()
    while True:
        states = study_states(folder, every=min(every, MAX_AGE), files=files)
        if as_json:
            answer = {"study": folder.name, "runs": [s.to_json() for s in states], "counts": counts(states)}
            print(json.dumps(answer), flush=True)
        else:
            if watch and sys.stdout.isatty():
                print("\033[2J\033[H", end="")
            _print_status(folder, states)
        if not watch or not any(s.state in UNDER_WAY for s in states):
            return 0
        time.sleep(min(5.0, every))


def _print_status(folder: Path, states: Sequence[RunState]) -> None:
    from roadmap.cli.console import print_table

    columns = ["step", "change", "seed", "state", "epoch", "top-1", "images/s", "waiting", "left", "node", "job", "run"]
    rows = [_row(s) for s in states]
    if not any(s.change for s in states):
        columns.remove("change")
        rows = [[row[0], *row[2:]] for row in rows]
    print_table(folder.name, columns, rows)
    for s in states:
        if s.detail and not _detail_in_table(s):
            print(f"{s.run}: {s.state}: {s.detail}")
    print(counts(states))


def _row(s: RunState) -> list[str]:
    """A run's line, one text a column."""
    return [
        s.step,
        s.change,
        str(s.seed),
        _state_text(s),
        f"{s.epoch}/{s.epochs}" if s.epochs else "",
        _number(s.top1, ".2f"),
        _number(s.images_per_second or None, ",.0f"),
        "" if s.waiting_share is None else f"{100 * s.waiting_share:.0f} %",
        _time_left(s.seconds_left),
        s.node,
        s.job,
        s.run,
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _detail_in_table(s: RunState) -> bool:
    """Whether the detail is a word or two beside the state, rather than a sentence below the table."""
    return s.state in (State.PENDING, State.RUNNING, State.REQUEUED)


def _state_text(s: RunState) -> str:
    text = f"requeued {s.requeued}x" if s.state == State.REQUEUED else str(s.state)
    if s.state in (State.RUNNING, State.DONE) and s.requeued:
        text += f", requeued {s.requeued}x"
    return f"{text} ({s.detail})" if s.detail and _detail_in_table(s) else text


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_logs(selection: RunSelection, *, follow: bool, lines: int) -> int:
    """Print each selected run's log, its last `lines` lines (0: all); `follow` the first run's."""
    folder = find_study(selection.study, selection.out)
    runs = chosen_runs(folder, selection, every=MAX_AGE)
    reports = job_reports(folder, [s.run for s in runs])
    paths = {s.run: RunFolder(folder / s.run).log for s in runs}
    paths |= {run: report.log for run, report in reports.items()}
    shown = {run: _print_log(run, path, lines) for run, path in paths.items()}
    first = runs[0]
    return _follow(folder, first, paths[first.run], shown[first.run]) if follow else 0


def _print_log(run: str, path: Path, count: int) -> int:
    """Print the last `count` lines of a log (0: all); returns how many bytes it has been read to."""
    print(f"==> {run} ({path}) <==")
    if not path.exists():
        print("no log yet", flush=True)
        return 0
    content = path.read_bytes()
    lines = content.decode(errors="replace").splitlines()
    print("\n".join(lines[-count:] if count else lines), flush=True)
    return len(content)


def _follow(folder: Path, run: RunState, path: Path, at: int) -> int:
    """Print what a log has after its first `at` bytes, until its run has ended."""
    planned = [{"id": run.run, "step": run.step, "change": run.change, "seed": run.seed}]
    files = ChangedFiles()
    while True:
        # The state before the log, so that nothing written before the end is missed.
        state = study_states(folder, planned, files=files)[0].state
        if path.exists():
            with open(path, "rb") as f:
                f.seek(at)
                print(f.read().decode(errors="replace"), end="", flush=True)
                at = f.tell()
        if state not in UNDER_WAY:
            print(f"{run.run}: {state}")
            return 0
        time.sleep(1)
