"""torch's DataLoader as a run uses it: forked workers that end with it, and errors as values.

A worker ignores the signals of a preemption, which the trainer answers; what ends it is its
loader's end, or the trainer's death.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import multiprocessing.context
import multiprocessing.popen_fork
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

from roadmap.config.errors import DataError
from roadmap.data.batch import Batch

QUEUED_BATCHES = 32  # about as many are ready at most, one a worker at least: 128 images of 224 pixels take 19 MB
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Stream:
    """The batches of a loader, in order. Raises DataError, also for a worker's.

    finish: what makes them of those that the loader gives, one after another.
    waited: seconds spent inside `next` since the last `take_waited`.
    """

    def __init__(self, loader: Iterable[Any], finish: Callable[[Iterator[Any]], Iterator[Any]] = iter) -> None:
        self._iterator, self.waited = iter(loader), 0.0
        self._batches: Iterator[Batch | DataError] = finish(self._iterator)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Batch:
        began = time.monotonic()
        try:
            batch = next(self._batches)
        finally:
            self.waited += time.monotonic() - began
        if isinstance(batch, DataError):
            raise batch
        return batch

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        """Close, and say in place of what a worker's death broke that it died.

        How that shows depends on the moment: torch's signal handler raises wherever the process is.
        """
        try:
            if error is not None:
                self.say_death(error)
        finally:
            self.close()

    def say_death(self, error: BaseException) -> None:
        """Raise DataError where a worker's death broke what broke; `error` may be a collective's, caused by it."""
        broken = (OSError, EOFError, RuntimeError)
        caused = isinstance(error, broken) or isinstance(error.__cause__, broken)
        death = _death_of_a_worker(self._iterator) if caused and not isinstance(error, DataError) else None
        if death:
            raise death from error

    def take_waited(self) -> float:
        """The seconds waited since the last call."""
        waited, self.waited = self.waited, 0.0
        return waited

    def close(self) -> None:
        """End the loader's workers, and the stream."""
        end_workers(self._iterator)
        self._iterator = self._batches = iter(())


def end_workers(iterator: object) -> None:
    """End the workers of a loader's iterator, where it has any; processes that do not go are killed.

    It does not go by itself after an error: whoever holds the error's trace holds the iterator.
    """
    if isinstance(iterator, Generator):
        iterator.close()
    if shut_down := getattr(iterator, "_shutdown_workers", None):
        shut_down()


def _death_of_a_worker(iterator: object) -> DataError | None:
    """What to say of a loader's worker that has died, None where all live."""
    workers = getattr(iterator, "_workers", ())
    with contextlib.suppress(RuntimeError):  # of torch's signal handler
        ended = wait([worker.sentinel for worker in workers], timeout=1)
        for worker in (worker for worker in workers if worker.sentinel in ended):
            worker.join()  # a process closes its files a moment before its exit code is known
    dead = next((worker for worker in workers if worker.exitcode), None)
    if dead is None:
        return None
    cause = f"killed by {signal.Signals(-dead.exitcode).name}" if dead.exitcode < 0 else f"ended with {dead.exitcode}"
    return DataError(
        f"loader worker (pid {dead.pid}) was {cause}; legal: workers that live as long as the run; give the job more "
        "memory or fewer --workers, and start the run again to go on"
    )


Collate = Callable[[Iterator[Any], int], Any]  # of items, which are made one after another, and their number


def _torchs_collate(items: Iterator[Any], _count: int) -> Any:
    return default_collate(list(items))


def _as_it_is(batch: Any) -> Any:
    return batch


class _Batches(Dataset[Any]):
    """Batches of a data set's items; a DataError is given in place of one.

    torch raises a worker's exception anew with its trace for a text; a value arrives as it is.
    """

    def __init__(self, dataset: Dataset[Any], collate: Collate) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitems__(self, keys: Sequence[Any]) -> Any:
        try:
            return self.collate((self.dataset[key] for key in keys), len(keys))
        except DataError as e:
            return e


def open_loader(
    dataset: Dataset[Any],
    batches: Iterable[Sequence[Any]],
    *,
    workers: int,
    pin_memory: bool,
    lasting: bool = False,
    collate: Collate = _torchs_collate,
) -> DataLoader[Any]:
    """A loader of these batches of keys, which gives a DataError in place of a batch.

    lasting: its workers stay for another pass.
    """
    common: dict[str, Any] = {"batch_sampler": batches, "collate_fn": _as_it_is, "pin_memory": pin_memory}
    if not workers:
        return DataLoader(_Batches(dataset, collate), **common)
    return DataLoader(
        _Batches(dataset, collate),
        **common,
        num_workers=workers,
        prefetch_factor=min(4, max(1, QUEUED_BATCHES // workers)),
        persistent_workers=lasting,
        worker_init_fn=functools.partial(_begin_worker, os.getpid()),
        # A process that was itself spawned would spawn its workers, each of which would import torch and timm again.
        multiprocessing_context=_ForkContext() if sys.platform == "linux" else None,
    )


# Workers --------------------------------------------------------------------------------------------------------------


def _begin_worker(trainer: int, _worker: int) -> None:
    """Leave signals to the trainer, this process's parent, and die with it."""
    for s in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(s, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != trainer:  # it died before it could be asked for
        os._exit(1)


class _KillingPopen(multiprocessing.popen_fork.Popen):
    """Ends a worker where torch or the interpreter's exit want it ended: SIGTERM it ignores."""

    def terminate(self) -> None:
        self.kill()


class _Worker(multiprocessing.context.ForkProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> _KillingPopen:  # the hook by which a start method is chosen
        return _KillingPopen(process_obj)


class _ForkContext(multiprocessing.context.ForkContext):
    Process = _Worker
