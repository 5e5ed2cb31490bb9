"""When several ranks agree on saving and leaving, and that one alone needs nobody."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

import roadmap.train.cadence
from roadmap.config.runtime import Runtime
from roadmap.train.cadence import AGREE_EVERY, Cadence, StopSignal, Wish
from roadmap.train.checkpoints import CheckpointWriter
from roadmap.train.distributed import Ranks


@dataclass(frozen=True)
class OneOfTwo(Ranks):
    """A rank whose partner wishes what `other` holds."""

    world_size: int = 2
    other: list[int] = field(default_factory=lambda: [0])
    asked: list[int] = field(default_factory=list)

    def largest(self, value: int) -> int:
        self.asked.append(value)
        return max(value, *self.other)


def cadence_of(ranks: Ranks, stop: str = "", minutes: float = 10.0) -> Cadence:
    return Cadence(ranks, Runtime(checkpoint_minutes=minutes), StopSignal(stop), CheckpointWriter(None))


def asked_after(cadence: Cadence, iterations: range, per_epoch: int = 1000) -> list[int]:
    """After which iterations all ranks were asked."""
    assert isinstance(cadence.ranks, OneOfTwo)
    asked, found = cadence.ranks.asked, []
    for i in iterations:
        before = len(asked)
        cadence.agree(i, end_of_epoch=i % per_epoch == 0)
        found += [i] if len(asked) > before else []
    return found


def test_ranks_agree_after_the_first_every_tenth_and_an_epochs_last_iteration() -> None:
    assert asked_after(cadence_of(OneOfTwo()), range(1, 40), per_epoch=27) == [1, 10, 20, 27, 30]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_that_one_rank_is_told_is_answered_by_both_within_ten_iterations(rank: int) -> None:
    ranks = OneOfTwo()
    cadence = cadence_of(ranks)
    cadence.agree(1)
    if rank == 0:
        cadence.stop.received = "SIGTERM"
    else:
        ranks.other[0] = 2 * Wish.LEAVE
    wishes = [cadence.agree(i) for i in range(2, 11)]
    assert wishes == [Wish.GO_ON] * 8 + [Wish.LEAVE] and len(wishes) < AGREE_EVERY


def test_one_rank_is_answered_at_once() -> None:
    cadence = cadence_of(Ranks())
    assert [cadence.agree(i) for i in (1, 2, 3)] == [Wish.GO_ON] * 3
    cadence.stop.received = "SIGTERM"
    assert cadence.agree(4) == Wish.LEAVE
    assert cadence_of(Ranks(), minutes=0.0).agree(7) == Wish.SAVE


def test_where_an_iteration_takes_seconds_on_any_rank_they_agree_after_each(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(roadmap.train.cadence, "time", SimpleNamespace(monotonic=lambda: now[0]))
    ranks = OneOfTwo()
    cadence = cadence_of(ranks)
    assert asked_after(cadence, range(1, 5)) == [1]
    now[0] += 60.0
    assert asked_after(cadence, range(5, 12)) == [10, 11], "60 s for nine iterations; the next one is fast"
    ranks.other[0] = 1  # the other rank is slow
    assert asked_after(cadence, range(12, 23)) == [20, 21, 22]


def test_a_resumed_run_does_not_count_what_it_did_before_among_the_iterations_of_its_first_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(roadmap.train.cadence, "time", SimpleNamespace(monotonic=lambda: now[0]))
    cadence = Cadence(OneOfTwo(), Runtime(), StopSignal(), CheckpointWriter(None), iteration=5000)
    now[0] += 20.0
    assert asked_after(cadence, range(5001, 5003)) == [5001, 5002], "20 s an iteration"
