"""Processes that measure side by side, and the death of one of them."""

from __future__ import annotations

from multiprocessing import Pipe
from threading import Timer

import pytest

from roadmap.config.errors import RoadmapError
from roadmap.launch.calibration import _Processes


def test_a_process_that_is_killed_is_told_though_its_neighbours_are_silent() -> None:
    processes = _Processes.__new__(_Processes)
    (silent, theirs), (dead, ended) = Pipe(), Pipe()
    processes.connections = [silent, dead]
    ended.close()
    end = Timer(20, theirs.close)  # of a neighbour that waits at the barrier
    end.start()
    with pytest.raises(RoadmapError, match="^1 of 2 processes that measured have died"):
        processes.answers()
    end.cancel()


def test_a_refusal_is_told_rather_than_the_end_of_its_neighbours() -> None:
    processes = _Processes.__new__(_Processes)
    (ours, theirs), (dead, ended) = Pipe(), Pipe()
    processes.connections = [dead, ours]
    theirs.send(RoadmapError("no such image"))
    ended.close()
    with pytest.raises(RoadmapError, match="no such image"):
        processes.answers()
