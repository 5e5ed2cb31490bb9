"""The verb: which parts it measures, where it writes, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from roadmap.bench import gather, iteration, model
from roadmap.bench.pairs import Check, Finding, of_pairs
from roadmap.bench.targets import PARTS
from roadmap.cli.tools import asked_parts

Command = Callable[..., Any]


def finding(apart: float = 0.0) -> Callable[..., Iterator[Finding]]:
    """What stands in a part's place: one pair and one comparison of outputs."""

    def find(*_: object) -> Iterator[Finding]:
        yield Check(name="logits", apart=apart, allowed=0.5)
        yield of_pairs("iteration", "all of it", "ours", "theirs", [(1.0, 1.0)])

    return find


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((model, "networks"), (iteration, "iteration"), (gather, "gather")):
        monkeypatch.setattr(module, name, finding())


def test_without_a_part_it_measures_networks_and_iterations(command: Command, quick: None) -> None:
    answer = command("bench", "--device", "cpu")
    assert answer.status == 0, answer.err
    assert sorted(path.name for path in Path("runs/bench/cpu").iterdir()) == ["iteration.json", "model.json"]
    assert "iteration: ours / theirs: 1.000 (1.000 to 1.000, n = 1)" in answer.out


def test_each_part_leaves_a_file_with_its_circumstances_and_the_page(command: Command, quick: None) -> None:
    (content,) = command("bench", "gather", "--device", "cpu", "--out", "there", "--json").json()
    assert json.loads(Path("there/cpu/gather.json").read_text()) == content
    assert {"hardware", "packages", "code_digest", "took_seconds", "method", "pairs", "checks"} <= set(content)
    assert "## gather, on a CPU" in Path("there/README.md").read_text()


def test_outputs_that_differ_are_said_and_end_it_with_1(
    command: Command, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "gather", finding(apart=0.7))
    answer = command("bench", "gather", "--device", "cpu")
    assert answer.status == 1 and "0.7 of 0.5 allowed, OUTPUTS DIFFER" in answer.out


def test_all_is_every_part_and_parts_come_in_their_order() -> None:
    assert asked_parts(["all"]) == PARTS == tuple(asked_parts(PARTS[::-1]))


def test_an_unknown_part_is_refused_with_the_nearest(command: Command) -> None:
    command("bench", "lader").refused("PART 'lader'", "loader, ladder, all", "'ladder'")


def test_a_part_beside_a_study_is_refused(command: Command) -> None:
    command("bench", "model", "--study", "digits").refused("PART 'model' is given beside --study")
