"""Slots: processes that train one run after another, so that a further run costs no start. No torch.

One that dies takes only its own run with it. It may start loader workers, so it is no daemon, and
watches its parent itself: it never outlives it.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from roadmap.config.errors import RoadmapError
from roadmap.config.runtime import Runtime, limit_threads
from roadmap.launch.room import free_memory, wait_for_room
from roadmap.launch.run_queue import Network, Waiting
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import FAILED, Record

if TYPE_CHECKING:
    from roadmap.data.opened import OpenedImages

SAVE_SECONDS = 60.0  # that a run gets to save itself once its parent is gone, before its slot is killed


@dataclass
class Slot:
    """One worker process and the run it is at.

    device: that it trains on, empty for a CPU. ready: it has said so. shared: another run has been
    on the device during its run.
    """

    process: BaseProcess
    connection: Connection
    device: str = ""
    ready: bool = False
    run: Waiting | None = None
    shared: bool = False


@dataclass(frozen=True)
class Ready:
    """What a slot says once it can train.

    free: bytes of its GPU, None on a CPU. macs: multiply-adds of the networks it was asked about.
    """

    free: int | None
    macs: dict[Network, int]


@dataclass(frozen=True)
class Start:
    """What a slot is told: the run to train, and the bytes that its GPU must have free for it."""

    folder: Path
    need: int | None = None


def open_slot(runtime: Runtime, number: int, *, force: bool, networks: Sequence[Network] = ()) -> Slot:
    """Start a worker, which then counts these networks.

    Its thread limits must be in its environment before it imports torch.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    gpu = gpu_of(number) if runtime.device != "cpu" else {}
    with environment_with({**limit_threads(runtime.threads), **gpu}):
        process = context.Process(target=_work, args=(theirs, runtime.to_json(), force, tuple(networks)))
        process.start()
    theirs.close()
    return Slot(process, ours, device=gpu.get("CUDA_VISIBLE_DEVICES", ""))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as the environment or else the driver lists them.

    CUDA takes those before the first that there cannot be: people write -1, and Slurm NoDevFiles, for none.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        installed = list(Path("/proc/driver/nvidia/gpus").glob("*"))
        visible = ",".join(map(str, range(len(installed))))
    return [gpu for gpu in itertools.takewhile(_may_exist, map(str.strip, visible.split(","))) if gpu]


def _may_exist(gpu: str) -> bool:
    return not gpu.startswith("-") and gpu != "NoDevFiles"


def gpu_of(slot: int) -> dict[str, str]:
    """The GPU of a slot: the visible ones in turn."""
    gpus = visible_gpus()
    return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}


@contextlib.contextmanager
def environment_with(values: dict[str, str]) -> Iterator[None]:
    """Set these variables for the processes that are started meanwhile."""
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k, None) if v is None else os.environ.__setitem__(k, v)


def _work(connection: Connection, runtime_json: dict[str, object], force: bool, networks: Sequence[Network]) -> None:
    """A worker's life: one run folder after another, its output in the run's log.

    Between runs it ignores Ctrl-C (the parent passes on what concerns it), and ends when the parent
    closes the line.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import roadmap.train.execute  # noqa: F401  # all that a run needs, before the first
    from roadmap.data.opened import OpenedImages

    runtime, images = Runtime.from_json(runtime_json), OpenedImages()
    try:
        connection.send(Ready(free_memory(runtime.device), _counted(networks)))
        while True:
            record = _train(connection.recv(), runtime, images, force=force)
            free_memory(runtime.device)  # gives back what the allocator keeps: others on the device may need it
            connection.send(record)
    except (EOFError, ConnectionError):
        return


def _counted(networks: Sequence[Network]) -> dict[Network, int]:
    """Their multiply-adds, but of those that cannot be built: a run of such a one says why."""
    from roadmap.model.complexity import complexity

    counted = {}
    for spec, image_size in networks:
        with contextlib.suppress(Exception):
            counted[spec, image_size] = complexity(spec, image_size).macs
    return counted


def _train(start: Start, runtime: Runtime, images: OpenedImages, *, force: bool) -> Record:
    """Train one run, as soon as its device has room for it."""
    from roadmap.train.execute import execute

    folder = RunFolder(start.folder)
    with _output_to(folder.log):
        try:
            if start.need is not None:
                wait_for_room(start.need, runtime.device)
            return execute(folder, runtime, force=force, images=images)
        except RoadmapError as e:
            return Record(status=FAILED, error=str(e))


def _end_with_parent() -> None:
    """Wait until the parent is gone, however it went; then stop the run, which saves itself, or end at once.

    Its parent's death closes a pipe that this process holds the other end of.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send this process's output, that of libraries in C included, to the end of a file."""
    saved = os.dup(1), os.dup(2)
    with open(path, "ab", buffering=0) as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in zip((1, 2), saved, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)
