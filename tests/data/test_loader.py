"""Loader workers: forked, silent to signals, gone with their run; and errors that arrive as they were raised."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from roadmap.config.errors import DataError
from roadmap.data.loader import Stream, open_loader
from tests.helpers.launches import eventually
from tests.helpers.small_runs import child, in_child

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
PR_GET_PDEATHSIG = 2


class Answers(Dataset[int]):
    """What `ask` says in the process that loads."""

    def __init__(self, ask: Callable[[int], Any]) -> None:
        self.ask = ask

    def __getitem__(self, key: int) -> Any:
        return self.ask(key)


def stream_of(ask: Callable[[int], Any], *, workers: int, batches: int = 4) -> Stream:
    return Stream(open_loader(Answers(ask), [[k, k] for k in range(batches)], workers=workers, pin_memory=False))


@pytest.fixture
def spawning() -> Iterator[None]:
    """A process whose default is to spawn, as in one that was itself spawned."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_workers_are_forked_also_where_processes_are_spawned(spawning: None) -> None:
    """A fork has what its parent holds: nothing is imported anew, and this closure is not pickled."""
    here = os.getpid()
    with contextlib.closing(stream_of(lambda _: [here, os.getppid(), os.getpid()], workers=1)) as stream:
        parent, seen, worker = (int(column[0]) for column in next(stream))
    assert parent == seen != worker


def slow_pid(_key: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def death_signal(_key: int) -> int:
    number = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(number))
    return number.value


def test_a_worker_is_killed_by_its_trainers_death() -> None:
    with contextlib.closing(stream_of(death_signal, workers=1)) as stream:
        assert next(stream).tolist() == [signal.SIGKILL] * 2  # type: ignore[attr-defined]


@pytest.mark.slow
def test_no_worker_outlives_a_trainer_that_was_killed(tmp_path: Path) -> None:
    def work() -> None:
        stream = stream_of(slow_pid, workers=2, batches=10_000)
        (tmp_path / "pids").write_text(f"{next(stream)[0]} {next(stream)[0]}")
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    pids = (tmp_path / "pids").read_text().split()
    assert len(set(pids)) == 2
    eventually(lambda: not any(alive(int(pid)) for pid in pids), seconds=60)


def alive(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def fail_at_two(key: int) -> int:
    if key == 2:
        raise DataError("image DataError: 2.png cannot be decoded: ValueError: no; legal: whole ones; replace it")
    return key


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_arrives_with_its_own_words_in_its_place(workers: int) -> None:
    with contextlib.closing(stream_of(fail_at_two, workers=workers)) as stream:
        assert [next(stream).tolist() for _ in range(2)] == [[0, 0], [1, 1]]  # type: ignore[attr-defined]
        with pytest.raises(DataError) as e:
            next(stream)
    assert str(e.value) == "image DataError: 2.png cannot be decoded: ValueError: no; legal: whole ones; replace it"
    assert not multiprocessing.active_children()


def test_a_bug_in_a_worker_keeps_its_trace_and_no_worker_stays() -> None:
    with contextlib.closing(stream_of(lambda key: 1 // (key - 1), workers=2)) as stream:
        next(stream)
        with pytest.raises(ZeroDivisionError, match="test_loader.py") as e:
            next(stream)
    assert e.tb  # which holds the loader's iterator
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_process_that_closed_nothing_ends_all_the_same() -> None:
    """Its exit joins the workers, which ignore SIGTERM."""

    def work() -> None:
        stream = stream_of(lambda key: key, workers=2, batches=100)
        next(stream)
        sys.modules["kept"] = stream  # type: ignore[assignment]

    process = child(work)
    process.start()
    process.join(60)
    hangs = process.exitcode is None
    if hangs:
        process.kill()
    assert not hangs


def test_waiting_is_the_time_inside_next_and_is_taken_once() -> None:
    stream = stream_of(slow_pid, workers=0)
    next(stream)
    time.sleep(0.2)
    assert 0.04 <= stream.take_waited() < 0.15
    assert stream.take_waited() == 0.0


@pytest.mark.parametrize(("workers", "ahead"), [(1, 4), (8, 4), (15, 2), (63, 1)])
def test_many_workers_have_few_batches_ready_each(workers: int, ahead: int) -> None:
    loader = open_loader(Answers(abs), [[0]], workers=workers, pin_memory=False)
    assert loader.prefetch_factor == ahead


def test_a_lasting_loader_keeps_its_workers_from_pass_to_pass() -> None:
    loader = open_loader(Answers(lambda _: os.getpid()), [[0], [1]], workers=1, pin_memory=False, lasting=True)
    first, second = ({int(pid) for batch in Stream(loader) for pid in torch.as_tensor(batch)} for _ in range(2))
    assert first == second != {os.getpid()}
