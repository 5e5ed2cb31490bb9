"""Which study and which of its runs a verb is for, and in which order they go. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from roadmap.config.errors import ConfigError, nearest
from roadmap.ladder import DEFAULT, Ladder, find_ladder
from roadmap.launch.base import State
from roadmap.launch.status import RunState, study_states
from roadmap.runs.io import RunError, read_json
from roadmap.study import find

ENDED_BADLY = (
    State.FAILED,
    State.DIVERGED,
    State.CANCELLED,
    State.TIMED_OUT,
    State.OUT_OF_MEMORY,
    State.LOST,
    State.STOPPED,
)
TO_RETRY = (*ENDED_BADLY, State.NEW)
T = TypeVar("T")


def seeds_in_turn(runs: Sequence[T], cell: Callable[[T], object]) -> list[T]:
    """The runs in the order in which they go: the first seed of each cell, then the second of each, and so on.

    A study that is not over then has every cell, each with about as many seeds.
    """
    turns: list[tuple[int, T]] = []
    before: Counter[object] = Counter()
    for run in runs:
        turns.append((before[cell(run)], run))
        before[cell(run)] += 1
    return [run for _, run in sorted(turns, key=lambda turn: turn[0])]


@dataclass(frozen=True, kw_only=True)
class RunSelection:
    """Which runs a verb is for.

    words: run ids or their beginnings, job ids, steps; the other options narrow them down.
    """

    study: str | None = None
    out: Path = Path("runs")
    words: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    failed: bool = False

    @property
    def names_runs(self) -> bool:
        """Whether runs are named, and not a whole study's meant."""
        return bool(self.words or self.steps or self.seeds)

    def __str__(self) -> str:
        """As it was asked for, in the command line's words."""
        steps = [f"--step {s}" for s in self.steps]
        seeds = [f"--seeds {s}" for s in self.seeds]
        failed = ["--failed"] if self.failed else []
        return " ".join([*self.words, *steps, *seeds, *failed])


def find_study(name: str | None, out: Path) -> Path:
    """The folder of a study's runs, by the rules of all verbs. Raises RunError."""
    return find.find_study(name, out).run_folder().resolve()


def chosen_runs(folder: Path, selection: RunSelection, *, every: float = 0) -> list[RunState]:
    """The runs that a selection means. Raises RunError where there are none."""
    states, ladder = study_states(folder, every=every), _ladder_of(folder)
    chosen = [s for s in states if _meant(s, selection, ladder)]
    if selection.failed:
        chosen = [s for s in chosen if s.state in ENDED_BADLY]
    if not chosen:
        asked = str(selection)
        near = nearest(asked, [s.run for s in states])
        raise RunError(
            f"{asked or 'nothing'} means no run of study {folder.name}; legal: a run's id or its beginning, a step, "
            f"--seeds N, --failed; {near} See roadmap status {folder.name}"
        )
    return chosen


def runs_to_retry(folder: Path, selection: RunSelection) -> list[RunState]:
    """Those of a selection that are to be launched again, in the order in which they go.

    Those that `--stop-hopeless` ended only where runs are named. Raises RunError.
    """
    states = (*TO_RETRY, State.HOPELESS) if selection.names_runs else TO_RETRY
    chosen = [s for s in chosen_runs(folder, selection) if s.state in states]
    return seeds_in_turn(chosen, lambda s: (s.step, s.change))


def _ladder_of(folder: Path) -> Ladder:
    """The ladder that a study's steps are of."""
    return find_ladder((read_json(folder / find.STUDY_JSON) or {}).get("ladder", DEFAULT))


def _meant(s: RunState, selection: RunSelection, ladder: Ladder) -> bool:
    steps = {ladder.find_step(key).name for key in selection.steps}
    named = not selection.words or any(_is_named(s, word, ladder) for word in selection.words)
    return named and (not steps or s.step in steps) and (not selection.seeds or s.seed in selection.seeds)


def _is_named(s: RunState, word: str, ladder: Ladder) -> bool:
    return s.run.startswith(word) or s.job == word or s.step == _step_name(word, ladder)


def _step_name(word: str, ladder: Ladder) -> str:
    """The step of that id or name; empty if there is none."""
    try:
        return ladder.find_step(word).name
    except ConfigError:
        return ""
