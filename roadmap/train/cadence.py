"""When a run evaluates, saves itself and leaves: by its epochs, by rank 0's clock, when it is told to.

All ranks agree between hosts after each iteration; none of them waits for a device for that.
"""

from __future__ import annotations

import contextlib
import enum
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from roadmap.config.errors import RoadmapError
from roadmap.config.runtime import Runtime
from roadmap.train.checkpoints import CheckpointWriter, TrainingState
from roadmap.train.distributed import Ranks


class Interrupted(RoadmapError):
    """The run was told to stop and has saved itself.

    signal: what told this rank, empty where another rank was told.
    """

    def __init__(self, message: str, *, signal: str = "") -> None:
        super().__init__(message)
        self.signal = signal


@dataclass
class StopSignal:
    """Notes SIGTERM, SIGUSR2 and Ctrl-C; the loop looks at an iteration's end.

    A second Ctrl-C stops at once.
    """

    received: str = ""
    _previous: dict[signal.Signals, Any] = field(default_factory=dict)

    def __enter__(self) -> StopSignal:
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for s in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
                self._previous[s] = signal.signal(s, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._previous.items():
            signal.signal(s, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name


class Wish(enum.IntEnum):
    """What a rank wants; of several ranks' wishes the largest counts."""

    GO_ON = 0
    SAVE = 1
    LEAVE = 2


class Cadence:
    """When a run is saved, and by what. One on each rank; only rank 0's clock and writer decide."""

    def __init__(self, ranks: Ranks, runtime: Runtime, stop: StopSignal, writer: CheckpointWriter) -> None:
        self.ranks, self.runtime, self.stop, self.writer = ranks, runtime, stop, writer
        self.saved_iteration, self.saved_at = -1, time.monotonic()
        self.reserved = False

    def reserve_once(self, state: Callable[[], TrainingState]) -> None:
        """Take memory for copies, after the first update: only then has the optimizer a state."""
        if not self.reserved:
            self.writer.reserve(state())
            self.reserved = True

    def agree(self) -> Wish:
        """What the ranks do now. Collective.

        Raises RunError where the last checkpoint could not be written.
        """
        self.writer.check()
        return Wish(self.ranks.largest(self._wish()))

    def _wish(self) -> Wish:
        if self.stop.received:
            return Wish.LEAVE
        late = time.monotonic() - self.saved_at >= 60 * self.runtime.checkpoint_minutes
        return Wish.SAVE if self.ranks.is_main and late and not self.writer.busy else Wish.GO_ON

    def save(self, state: TrainingState) -> None:
        """Have a checkpoint written, from a copy. Raises RunError where the one before could not be."""
        self.writer.save(state, state["iteration"])
        self.saved_iteration, self.saved_at = state["iteration"], time.monotonic()

    def finish(self) -> None:
        """Wait until what is saved is on disk, on all ranks. Raises RunError where it could not be."""
        self.writer.wait()
        self.ranks.barrier()

    def leave(self, total: int) -> None:
        """Raise Interrupted, once the state that was saved is on disk."""
        self.finish()
        cause = self.stop.received or "another rank"
        raise Interrupted(
            f"stopped by {cause} at iteration {self.saved_iteration} of {total}; saved; start it again to go on",
            signal=self.stop.received,
        )
