"""When a run evaluates, saves itself and leaves: by its epochs, by rank 0's clock, when it is told to.

Several ranks agree between hosts after every tenth iteration, after each one where they are slow, and
at an epoch's end; none of them waits for a device for that. One rank alone looks after each iteration.
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

AGREE_EVERY = 10  # iterations between two agreements of several ranks
SLOW = 1.0  # seconds of an iteration from which on they agree after each, so that a warning before a kill suffices


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
    """When a run is saved, and by what. One on each rank; only rank 0's clock and writer decide.

    iteration: at which the run begins here, or goes on from a checkpoint.
    """

    def __init__(
        self, ranks: Ranks, runtime: Runtime, stop: StopSignal, writer: CheckpointWriter, *, iteration: int = 0
    ) -> None:
        self.ranks, self.runtime, self.stop, self.writer = ranks, runtime, stop, writer
        self.saved_iteration, self.saved_at = -1, time.monotonic()
        self.reserved = False
        self.agreed_iteration, self.agreed_at = iteration, time.monotonic()
        self.slow = True  # until it is known; the same on all ranks

    def reserve_once(self, state: Callable[[], TrainingState]) -> None:
        """Take memory for copies, after the first update: only then has the optimizer a state."""
        if not self.reserved:
            self.writer.reserve(state())
            self.reserved = True

    def agree(self, iteration: int, *, end_of_epoch: bool = False) -> Wish:
        """What the ranks do after so many iterations. Collective, where it is time to agree.

        Raises RunError where the last checkpoint could not be written.
        """
        self.writer.check()
        if self.ranks.world_size > 1 and iteration % AGREE_EVERY and not end_of_epoch and not self.slow:
            return Wish.GO_ON
        answer = self.ranks.largest(2 * self._wish() + self._is_slow(iteration))
        self.slow = bool(answer % 2)
        return Wish(answer // 2)

    def _is_slow(self, iteration: int) -> bool:
        """Whether an iteration has taken this rank long since the ranks last agreed."""
        iterations, seconds = iteration - self.agreed_iteration, time.monotonic() - self.agreed_at
        self.agreed_iteration, self.agreed_at = iteration, self.agreed_at + seconds
        return seconds > SLOW * iterations

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
