"""Progress of a run: a bar on a terminal, lines elsewhere, and a heartbeat for others to read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from roadmap.train.metrics import EpochMetrics

HEARTBEAT_SECONDS = 5.0
MUCH_WAITING = 0.1  # the part of an epoch's time above which a run says that it waits for images
WORTH_SAYING = 10.0  # seconds of the whole run that such waiting must take


class Reporter:
    """Shows iterations and epochs as they pass.

    total: iterations of the run. images: of one iteration. workers: loader processes or threads of each rank;
    None where training and loading take turns on purpose. beat: receives the heartbeat. silent: not
    the main rank, which shows nothing.
    """

    def __init__(
        self,
        title: str,
        total: int,
        images: int,
        *,
        workers: int | None,
        beat: Callable[[Mapping[str, Any]], None],
        silent: bool = False,
    ) -> None:
        self.title, self.total, self.images, self.beat, self.silent = title, total, images, beat, silent
        self.workers, self.warned = workers, False
        self.waiting_share = 0.0  # of this epoch so far
        self.started, self.first, self.last_beat = time.monotonic(), 0, 0.0
        console = Console(stderr=True)
        self.bar = None if silent or not console.is_terminal else _bar(console)

    def start(self, iteration: int, epoch: int) -> None:
        """Begin, or begin again after a resume, at this iteration."""
        self.started, self.first = time.monotonic(), iteration
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total, completed=iteration, speed="")
        if iteration and not self.silent:
            print(
                f"{self.title}: resumed after epoch {epoch}, iteration {iteration} of {self.total}",
                file=sys.stderr,
                flush=True,
            )

    def speed(self, iteration: int) -> float:
        """Images per second since the start, evaluation included."""
        return (iteration - self.first) * self.images / max(time.monotonic() - self.started, 1e-9)

    def iteration(self, iteration: int, epoch: int, waiting_share: float) -> None:
        """`iteration` updates are done, within `epoch` (from 1).

        waiting_share: of this epoch's time so far. Cheap: reads a clock, writes every few seconds.
        """
        self.waiting_share, now = waiting_share, time.monotonic()
        if self.silent or now - self.last_beat < (0.2 if self.bar else HEARTBEAT_SECONDS):
            return
        if self.bar:
            speed = f"epoch {epoch}  {self.speed(iteration):,.0f} images/s  {_waiting_text(waiting_share)}"
            self.bar.update(self.task, completed=iteration, speed=speed)
        self._beat(iteration, epoch, waiting_share)

    def _beat(self, iteration: int, epoch: int, waiting_share: float) -> None:
        speed = self.speed(iteration)
        left = (self.total - iteration) * self.images / speed if speed else None
        self.beat(
            {
                "state": "running",
                "iteration": iteration,
                "iterations": self.total,
                "epoch": epoch,
                "images_per_second": speed,
                "seconds_left": left,
                "waiting_share": waiting_share,
            }
        )
        self.last_beat = time.monotonic()

    def saving(self, iteration: int, epoch: int) -> None:
        """A checkpoint follows: a heartbeat in any case, so that the time of what is in it is known."""
        if not self.silent:
            self._beat(iteration, epoch, self.waiting_share)

    def epoch(self, metrics: EpochMetrics, epochs: int) -> None:
        """Show an epoch's metrics in a line."""
        self.waiting_share = metrics.waiting_share
        if self.silent:
            return
        scores = metrics.evaluation
        left = (self.total - metrics.iteration) * self.images / max(self.speed(metrics.iteration), 1e-9)
        parts = (
            self.title,
            f"epoch {metrics.epoch}/{epochs}",
            f"loss {metrics.train_loss:.4f}",
            f"{metrics.split} top-1 {scores.weights.top1:.2f} %" if scores else "not evaluated",
            f"{metrics.images_per_second:,.0f} images/s",
            _waiting_text(metrics.waiting_share),
            f"{left:,.0f} s left",
        )
        self._say("  ".join(parts))
        self._warn_of_waiting(metrics, left)

    def _say(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _warn_of_waiting(self, metrics: EpochMetrics, left: float) -> None:
        """Say once that training waits for images much of its time, and what helps."""
        share, whole = metrics.waiting_share, time.monotonic() - self.started + left
        if self.warned or self.workers is None or share <= MUCH_WAITING or share * whole < WORTH_SAYING:
            return
        self.warned = True
        self._say(
            f"{self.title}: {_percent(share)} of epoch {metrics.epoch} went by waiting for images, with {self.workers} "
            "loader workers a rank; more of them (--workers) help where cores are idle, else more cores "
            "(--cpus-per-task), smaller files or a faster disk"
        )

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


def _waiting_text(share: float) -> str:
    return f"waiting {_percent(share)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
