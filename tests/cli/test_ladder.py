"""steps and diff: the ladder as a table, and what changes between two steps."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadmap.cli.counts import built, counts, networks
from roadmap.ladder import Regime, find_ladder
from tests.helpers.marks import slow_but

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
Command = Callable[..., Any]
CONVNEXT, DEIT = find_ladder("convnext"), find_ladder("deit")
EVERY_STEP = list(CONVNEXT.steps)


def reference_rows(regime: str) -> dict[str, dict[str, str]]:
    """The reference table of a regime; empty for the regimes that are not the paper's."""
    table = REFERENCE / f"ladder-{regime}.csv"
    lines = table.read_text().splitlines() if table.exists() else []
    return {row["name"]: row for row in csv.DictReader(lines)}


def number(text: str) -> float | None:
    return float(text) if text else None


# Building ResNet-200's seventeen networks takes five seconds; the fast tests of the model count them too.
SLOW = pytest.param("resnet200", marks=pytest.mark.slow)
BY_REGIME = pytest.mark.parametrize("regime", [*(r for r in CONVNEXT.regimes if r != "resnet200"), SLOW])


@BY_REGIME
def test_steps_counts_every_network_as_the_reference_does(command: Command, regime: str) -> None:
    rows = {r["name"]: r for r in command("steps", "--regime", regime, "--json").json()}
    assert list(rows) == EVERY_STEP
    assert all(row["params"] < row["params_layer_scale"] and row["macs"] > 0 for row in rows.values())
    for name, want in reference_rows(regime).items():
        row = rows[name]
        for key in ("params", "params_layer_scale", "macs"):
            assert row[key] == int(want[key]), name
        assert (row["id"] or "", row["parent"] or "", row["on_path"]) == (
            want["id"],
            want["parent"],
            want["on_path"] == "1",
        )
        for key in ("paper_top1", "paper_top1_std", "paper_gflops"):
            assert row[key] == number(want[key])
        assert set(row["change"]) == set(CONVNEXT.overrides(CONVNEXT.steps[name], regime))


@pytest.mark.parametrize("regime", slow_but("micro".__eq__, CONVNEXT.regimes))
def test_the_kept_counts_are_those_of_the_networks(regime: str) -> None:
    where = CONVNEXT.find_regime(regime)
    for spec in networks(CONVNEXT, where):
        assert counts(spec, where.image_size) == built(spec, where.image_size)


@pytest.mark.slow
@pytest.mark.parametrize("regime", slow_but(lambda r: r.name == "micro", DEIT.all_regimes), ids=lambda r: r.name)
def test_the_kept_counts_are_those_of_timms_networks(regime: Regime) -> None:
    for spec in networks(DEIT, regime):
        assert counts(spec, regime.image_size) == built(spec, regime.image_size)


def test_a_network_that_is_not_kept_is_counted(command: Command) -> None:
    rows = command("steps", "--regime", "micro", "--set", "kernel_size=3", "--json").json()
    spec = CONVNEXT.model("9", "micro", kernel_size=3, layer_scale=None)
    [row] = [row for row in rows if row["id"] == "9"]
    assert (row["params"], row["macs"]) == built(spec, 16)


@pytest.mark.parametrize(
    ("setting", "column"), [("layer_scale=none", "params"), ("layer_scale=1e-6", "params_layer_scale")]
)
def test_steps_counts_layer_scale_where_it_is_asked_for(command: Command, setting: str, column: str) -> None:
    rows = {r["name"]: r for r in command("steps", "--json", "--set", setting).json()}
    want = {name: int(row[column]) for name, row in reference_rows("resnet50").items()}
    assert {name: rows[name]["params"] for name in want} == want


def test_steps_shows_the_reason_where_a_step_cannot_take_a_setting(command: Command) -> None:
    words = ("steps", "--regime", "micro", "--set", "move_up_depthwise=true")
    rows = command(*words, "--json").json()
    undefined = [row for row in rows if row["params"] is None]
    assert [row["name"] for row in undefined] == EVERY_STEP[: EVERY_STEP.index("inverted-bottleneck")]
    assert all("inverted_bottleneck" in row["not_defined"] for row in undefined)
    answer = command(*words)
    assert answer.status == 0 and all(row["not_defined"] in answer.out for row in undefined)


@BY_REGIME
def test_the_table_of_steps_has_a_line_for_each(command: Command, regime: str) -> None:
    out = command("steps", "--regime", regime).out
    for step in CONVNEXT.order(side_steps=True):
        assert any(step.name in line and step.title in line for line in out.splitlines())


def test_diff_tells_what_changes_between_two_steps(command: Command) -> None:
    values = command("diff", "7c", "layernorm", "--json").json()
    assert (values["a"], values["b"]) == ("fewer-norms", "layernorm")
    assert values["spec"] == {"norm": ["batch", "layer"], "conv_bias": [False, True]}
    assert values["recipe"] == {}
    reference = [reference_rows("resnet50")[name] for name in ("fewer-norms", "layernorm")]
    assert values["params"] == [int(row["params_layer_scale"]) for row in reference]
    assert values["macs"] == [int(row["macs"]) for row in reference]
    assert "~block.norm" in values["structure"]["roles"]


def test_diff_in_words_names_toggles_recipe_and_modules(command: Command) -> None:
    out = command("diff", "baseline", "recipe", "--regime", "micro").out
    for word in ("optimizer", "sgd", "adamw", "layer_scale", "params", "block.gamma"):
        assert word in out


def test_diff_applies_a_setting_to_the_second(command: Command) -> None:
    values = command("diff", "9", "9", "--set", "kernel_size=9", "--regime", "micro", "--json").json()
    assert values["spec"] == {"kernel_size": [7, 9]} and values["set"] == {"kernel_size": "9"}


def test_another_ladder_has_its_own_steps_and_regimes(command: Command) -> None:
    rows = command("steps", "--ladder", "deit", "--regime", "micro", "--json").json()
    assert [row["name"] for row in rows] == list(DEIT.steps) and all(row["params"] > 0 for row in rows)
    assert all(row["params_layer_scale"] is None for row in rows)
    values = command("diff", "--ladder", "deit", "--regime", "micro", "vit", "2", "--json").json()
    assert values["params"][1] > values["params"][0] and values["structure"]["added"]
    planned = command("plan", "--ladder", "deit", "--regime", "micro", "--step", "3", "--json").json()
    assert (planned["study"], planned["trials"][0]["step"]) == ("deit-micro", DEIT.find_step("3").name)


@pytest.mark.parametrize(("setting", "field", "values"), [
    ("recipe.lr=0.5", "lr", 0.5), ("epochs=2", "epochs", 2), ("recipe=cifar-sgd", "optimizer", "sgd"),
])  # fmt: skip
def test_diff_applies_overrides_of_the_recipe(command: Command, setting: str, field: str, values: object) -> None:
    found = command("diff", "9", "9", "--regime", "micro", "--set", setting, "--json").json()
    assert found["recipe"][field][1] == values and found["spec"] == {}


def test_steps_refuses_an_override_that_no_network_has(command: Command) -> None:
    refusal = command("steps", "--set", "recipe.lr=0.5").refusal()
    assert "recipe.lr=0.5" in refusal.what and "toggles" in refusal.legal


def test_a_ladder_goes_by_its_name(command: Command) -> None:
    words = ("steps", "--regime", "micro", "--json")
    assert command(*words, "--ladder", "convnext").json() == command(*words).json()


@pytest.mark.parametrize("verb", [("steps",), ("diff", "0", "1"), ("run",), ("plan",), ("report", "--paper")])
def test_a_ladder_that_is_not_there_is_refused(command: Command, verb: tuple[str, ...]) -> None:
    refusal = command(*verb, "--ladder", "convnxt").refusal()
    assert "'convnxt'" in refusal.what and "convnext" in refusal.legal and "'convnext'" in refusal.advice
