"""Which study and which of its runs a verb is for. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from roadmap.config.errors import ConfigError, nearest
from roadmap.ladder import find_ladder
from roadmap.launch.base import State
from roadmap.launch.status import RunState, study_states
from roadmap.runs.io import RunError
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
    states = study_states(folder, every=every)
    steps = {step for key in selection.steps for step in _steps_of(states, key)}
    chosen = [s for s in states if _meant(s, selection, steps)]
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


Step = tuple[str, str]  # its ladder and its name


def _steps_of(states: Sequence[RunState], key: str) -> set[Step]:
    """The steps of that id or name in the ladders of these runs. Raises ConfigError without one."""
    ladders = {s.ladder for s in states}
    steps = {step for ladder in ladders if (step := _step_of(ladder, key))}
    if not steps:
        find_ladder(min(ladders)).find_step(key)
    return steps


def _step_of(ladder: str, key: str) -> Step | None:
    try:
        return ladder, find_ladder(ladder).find_step(key).name
    except ConfigError:
        return None


def _meant(s: RunState, selection: RunSelection, steps: Collection[Step]) -> bool:
    """Whether a run is one of those selected; `steps`: those that `selection.steps` names."""
    named = not selection.words or any(_is_named(s, word) for word in selection.words)
    of_step = not selection.steps or (s.ladder, s.step) in steps
    return named and of_step and (not selection.seeds or s.seed in selection.seeds)


def _is_named(s: RunState, word: str) -> bool:
    return s.run.startswith(word) or s.job == word or _step_of(s.ladder, word) == (s.ladder, s.step)
