"""What is said of pairs of times, and of targets."""

from __future__ import annotations

import numpy as np
import pytest

from roadmap.bench.pairs import Check, interleaved, median_interval, of_pairs
from roadmap.bench.targets import PARTS, TARGETS, target


def test_a_ratio_is_the_median_over_the_pairs_not_of_the_medians() -> None:
    found = of_pairs("k", "name", "a", "b", [(1.0, 1.0), (4.0, 2.0), (9.0, 3.0)])
    assert (found.value, found.low, found.high, found.pairs) == (2.0, 1.0, 3.0, 3)
    assert (found.a_seconds, found.b_seconds) == (4.0, 2.0)


def test_pairs_can_be_combined_otherwise() -> None:
    assert of_pairs("k", "", "a", "b", [(3.0, 5.0)], combine=lambda a, b: 2 * a - b, unit="s").value == 1.0


@pytest.mark.parametrize(("n", "left_out"), [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (15, 3)])
def test_the_interval_leaves_out_as_many_as_95_percent_allow(n: int, left_out: int) -> None:
    assert median_interval([float(k) for k in range(n)]) == (left_out, n - 1 - left_out)


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).lognormal(size=(4000, 9))
    hits = [low <= 1 <= high for low, high in map(median_interval, draws.tolist())]
    assert 0.95 <= np.mean(hits) <= 0.97


def test_sides_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    interleaved("k", "", ("a", lambda: calls.append("a")), ("b", lambda: calls.append("b")), pairs=2, warmup=1)
    assert calls == ["a", "b"] * 3


def test_outputs_that_are_no_numbers_do_not_agree() -> None:
    assert Check(name="", apart=1.0, allowed=1.0).agrees and not Check(name="", apart=float("nan"), allowed=1.0).agrees


def test_each_target_has_one_measurement_and_all_seven_are_there() -> None:
    assert len({(t.part, t.key) for t in TARGETS}) == len(TARGETS)
    assert {t.id for t in TARGETS} == {f"C{k}" for k in range(1, 8)}
    assert {t.part for t in TARGETS} == set(PARTS)


@pytest.mark.parametrize(
    ("part", "key", "met", "missed"),
    [("model", "first-nchw", 1.03, 1.04), ("loader", "32-tensor", 8.0, 7.9), ("ladder", "prediction", 0.91, 1.2)],
)
def test_a_target_is_met_on_its_side_of_the_limit(part: str, key: str, met: float, missed: float) -> None:
    asked = target(part, key)
    assert asked.met(met) and not asked.met(missed) and asked.met(missed, margin=2.0)
