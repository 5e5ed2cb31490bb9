"""Which study and which of its runs a verb is for. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from roadmap.config.errors import ConfigError, nearest
from roadmap.ladder.convnext import find_step
from roadmap.launch.status import CANCELLED_STATE, LOST, NEW, OUT_OF_MEMORY, STOPPED, TIMED_OUT, RunState, study_states
from roadmap.runs.io import RunError
from roadmap.runs.record import DIVERGED, FAILED
from roadmap.study import find

TO_RETRY = (FAILED, DIVERGED, CANCELLED_STATE, TIMED_OUT, OUT_OF_MEMORY, LOST, STOPPED, NEW)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which runs a verb is for: words (run ids or their beginnings, steps), and options that narrow them down."""

    study: str | None = None
    out: Path = Path("runs")
    words: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    failed: bool = False

    @property
    def everything(self) -> bool:
        return not (self.words or self.steps or self.seeds or self.failed)


def find_study(name: str | None, out: Path) -> Path:
    """The folder of a study's runs, by the rules of all verbs. Raises RunError."""
    return find.find_study(name, out).run_folder().resolve()


def chosen_runs(folder: Path, choice: Choice, *, every: float = 0) -> list[RunState]:
    """The runs that a choice means. Raises RunError where there are none."""
    states = study_states(folder, every=every)
    found = [s for s in states if _meant(s, choice)]
    if choice.failed:
        found = [s for s in found if s.state in TO_RETRY and s.state != NEW]
    if not found:
        asked = " ".join(
            [
                *choice.words,
                *(f"--step {s}" for s in choice.steps),
                *(f"--seeds {s}" for s in choice.seeds),
                *(["--failed"] if choice.failed else []),
            ]
        )
        ids = [s.run for s in states]
        raise RunError(
            f"{asked or 'nothing'} means no run of study {folder.name}; legal: a run's id or its beginning, a step, --seeds N, --failed; {nearest(asked, ids)} See roadmap status {folder.name}"
        )
    return found


def _meant(s: RunState, choice: Choice) -> bool:
    steps = {find_step(k).name for k in choice.steps}
    words = [s.run.startswith(w) or s.job == w or s.step == _step_name(w) for w in choice.words]
    return (
        (not choice.words or any(words))
        and (not steps or s.step in steps)
        and (not choice.seeds or s.seed in choice.seeds)
    )


def _step_name(word: str) -> str:
    try:
        return find_step(word).name
    except ConfigError:
        return ""
