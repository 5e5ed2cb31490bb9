"""Which study and which of its runs a verb is for. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from roadmap.config.errors import ConfigError, listing, nearest
from roadmap.ladder.convnext import find_step
from roadmap.launch.base import State
from roadmap.launch.launchers import LAUNCHERS
from roadmap.launch.status import RunState, study_states
from roadmap.runs.io import RunError

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
        seeds = [f"--seed {s}" for s in self.seeds]
        failed = ["--failed"] if self.failed else []
        return " ".join([*self.words, *steps, *seeds, *failed])


def find_study(name: str | None, out: Path) -> Path:
    """A study's folder, by name or path; without one, that whose files changed last. Raises RunError."""
    known = sorted((p.parent for p in out.glob("*/study.json")), key=_last_change)
    if name is None and known:
        return known[-1].resolve()
    for folder in (Path(name), out / name) if name else ():
        if (folder / "study.json").exists():
            return folder.resolve()
    names = [folder.name for folder in known]
    what = f"study {name!r} has no study.json" if name else "there is no study"
    advice = nearest(name, names) if names else "train or submit one with `roadmap run`, or say --out"
    raise RunError(f"{what} below {out}; legal: {listing(names) or 'none yet'}; {advice}")


def _last_change(study: Path) -> float:
    """When runs were last planned or launched, in seconds since the epoch."""
    files = [study / "study.json", *(study / name for name in LAUNCHERS)]
    return max(f.stat().st_mtime for f in files if f.exists())


def chosen_runs(folder: Path, selection: RunSelection, *, every: float = 0) -> list[RunState]:
    """The runs that a selection means. Raises RunError where there are none."""
    states = study_states(folder, every=every)
    chosen = [s for s in states if _meant(s, selection)]
    if selection.failed:
        chosen = [s for s in chosen if s.state in ENDED_BADLY]
    if not chosen:
        asked = str(selection)
        near = nearest(asked, [s.run for s in states])
        raise RunError(
            f"{asked or 'nothing'} means no run of study {folder.name}; legal: a run's id or its beginning, a step, "
            f"--seed N, --failed; {near} See roadmap status {folder.name}"
        )
    return chosen


def _meant(s: RunState, selection: RunSelection) -> bool:
    steps = {find_step(key).name for key in selection.steps}
    named = not selection.words or any(_is_named(s, word) for word in selection.words)
    return named and (not steps or s.step in steps) and (not selection.seeds or s.seed in selection.seeds)


def _is_named(s: RunState, word: str) -> bool:
    return s.run.startswith(word) or s.job == word or s.step == _step_name(word)


def _step_name(word: str) -> str:
    """The step of that id or name; empty if there is none."""
    try:
        return find_step(word).name
    except ConfigError:
        return ""
