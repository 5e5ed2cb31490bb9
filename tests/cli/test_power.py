"""power: how many seeds resolve a change."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from small_studies import SCATTER, small_study, write_planned
from study_files import make_trial, write_runs

from roadmap.config.trial import Trial
from roadmap.study.file import Plan

Command = Callable[..., Any]
Power = Callable[..., Any]


@pytest.fixture
def power(command: Command) -> Power:
    """The answer of `power ... --json`."""
    return lambda *words: command("power", *words, "--json").json()


def asked(answer: Any) -> Any:
    """The line of the answer that was asked for."""
    [line] = [r for r in answer["by_effect"] if r["asked"]]
    return line


def test_power_counts_seeds_for_a_stated_scatter(command: Command, power: Power) -> None:
    found = power("--resolve", "0.1", "--std", "0.08")
    seeds = asked(found)["seeds"]
    # Two-sided t test of two means: the normal approximation is a floor, 2 (1.96 + 0.8416)^2 (std / effect)^2 = 10.05.
    assert math.ceil(2 * (1.96 + 0.8416) ** 2 * 0.8**2) <= seeds <= 13
    assert asked(found)["power"] >= 0.8
    assert (found["comparisons"], found["threshold"], found["source"]) == (1, 0.05, "stated")
    out = command("power", "--resolve", "0.1", "--std", "0.08").out
    assert out.startswith(f"{seeds} seeds per step") and "0.080 points (stated)" in out


def test_power_takes_scatter_and_comparisons_from_a_studys_own_runs(
    command: Command, power: Power, tmp_path: Path
) -> None:
    small_study(tmp_path)
    found = power("small", "--resolve", "0.5")
    assert found["std"] == pytest.approx(0.1)
    assert (found["comparisons"], found["planned_comparisons"], found["threshold"]) == (2, 2, 0.025)
    assert found["source"].startswith("small: pooled, over 9 finished runs of 3 cells")
    assert power("small", "--resolve", "0.5", "--comparisons", "13")["comparisons"] == 13
    out = command("power", "small", "--resolve", "0.5", "--comparisons", "13").out
    assert "/ 13 comparisons" in out


def test_power_after_a_pilot_counts_what_is_planned(command: Command, power: Power, tmp_path: Path) -> None:
    plan = Plan(name="pilot", question="?", regime="micro", through="9", seeds=(0, 1, 2), controls=("a-a", "no-op"))

    def only_the_first_step(t: Trial) -> dict[str, float] | None:
        return {"top1": 80 + SCATTER[t.seed]} if t.step == "baseline" else None

    write_planned(tmp_path, plan, only_the_first_step)
    found = power("pilot", "--resolve", "0.5")
    assert (found["comparisons"], found["planned_comparisons"]) == (13, 13)
    assert found["std"] == pytest.approx(0.1)
    assert asked(found)["df"] == 2 * (asked(found)["seeds"] - 1), "two cells are compared"
    one = power("pilot", "--resolve", "0.5", "--comparisons", "1")
    assert one["comparisons"] == 1 and asked(found)["seeds"] > asked(one)["seeds"]
    assert "/ 13 planned comparisons of pilot" in command("power", "pilot", "--resolve", "0.5").out


def test_power_of_a_pilot_without_any_comparison_says_that_it_counts_one(
    command: Command, power: Power, tmp_path: Path
) -> None:
    plan = Plan(name="base", question="?", regime="micro", steps=("baseline",), seeds=(0, 1, 2))
    write_planned(tmp_path, plan, lambda t: {"top1": 80 + SCATTER[t.seed]})
    found = power("base", "--resolve", "0.5")
    assert (found["comparisons"], found["planned_comparisons"]) == (1, 0)
    assert "--comparisons N" in command("power", "base", "--resolve", "0.5").out


def test_a_stated_scatter_beside_a_study_takes_the_studys_comparisons(
    command: Command, power: Power, tmp_path: Path
) -> None:
    small_study(tmp_path)
    words = ("--resolve", "0.1", "--std", "0.08")
    found = power("small", *words)
    assert (found["source"], found["comparisons"]) == ("stated", 2)
    refusal = command("power", "smal", *words).refusal()
    assert "'smal'" in refusal.what and "'small'" in refusal.advice


def test_power_promises_no_certainty(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, values=lambda t: {"top1": 80.0})
    out = command("power", "small", "--resolve", "5").out
    assert out.startswith("2 seeds per step") and "more than 99%" in out and "100%" not in out
    assert "0.016 points" in out, "1,797 images: 100 / 1797 / sqrt(12)"


class Case(NamedTuple):
    words: str
    field: str
    value: str
    legal: str = ""


@pytest.mark.parametrize(
    "case",
    [
        Case("--resolve 0 --std 0.1", "power.resolve", "0.0", "above 0"),
        Case("--resolve nan --std 0.1", "power.resolve", "nan"),
        Case("--resolve 0.1 --std -1", "power.std", "-1.0", "0 or more"),
        Case("--resolve 0.1 --std 0.1 --power 1", "power.power", "1.0", "below 1"),
        Case("--resolve 0.1 --std 0.1 --comparisons 0", "power.comparisons", "0", "1 or more"),
        Case("--resolve 1e-9 --std 0.1", "seeds", "1,000,000"),
        Case("lonely --resolve 0.1", "lonely", "1 in 1 steps", "two seeds"),
        Case("lonely --resolve 0.1 --metric top9", "metric", "'top9'", "top1"),
    ],
    ids=lambda case: case.words,
)
def test_power_refuses_in_words(command: Command, tmp_path: Path, case: Case) -> None:
    write_runs(tmp_path / "runs", [make_trial("gelu", 0)], lambda t: {"top1": 80.0}, name="lonely")
    refusal = command("power", *case.words.split()).refusal()
    assert case.field in refusal.what and case.value in refusal.what and case.legal in refusal.legal
