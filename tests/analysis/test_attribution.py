"""Shapley values, interactions and intervals against closed forms and against a brute force over
permutations; and which runs may lie on which cell.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import random
import time
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from analysis.attribution.coalitions import Game, Player, flat
from analysis.attribution.summary import to_json
from analysis.attribution.text import markdown, terminal
from roadmap.ladder import find_ladder
from roadmap.runs.record import MISSING, with_neutral
from tests.helpers.games import (
    BASE,
    BOUND,
    FREE,
    PAIRS,
    SINGLE,
    attribute,
    buildable,
    by_permutations,
    entry_of,
    factorial,
    game,
    ladder_study,
    micro_trial,
    pairwise,
    study_of,
    subsets,
    table,
    trial_of,
    values_of,
)


def test_additive_games_are_attributed_exactly() -> None:
    found = attribute(factorial(pairwise(SINGLE, {})), game=game(FREE))
    assert values_of(found) == pytest.approx(SINGLE, abs=1e-12)
    assert all(p.value == pytest.approx(0, abs=1e-12) for p in found.interactions)
    assert (found.orders_used, found.orders_legal, found.orders) == (120, 120, "all 120 legal orders")
    assert not found.missing and found.missing_total == 0 and found.missing_cost == ""


def test_pairwise_games_are_attributed_exactly() -> None:
    found = attribute(factorial(pairwise(SINGLE, PAIRS)), game=game(FREE))
    closed = {name: SINGLE[name] + sum(gain / 2 for pair, gain in PAIRS.items() if name in pair) for name in FREE}
    assert values_of(found) == pytest.approx(closed, abs=1e-12)
    assert {frozenset((p.a, p.b)): p.value for p in found.interactions} == pytest.approx(PAIRS, abs=1e-12)
    assert {(p.squares, p.legal) for p in found.interactions} == {(8, 8)}


@pytest.mark.parametrize("seed", range(3))
def test_any_game_agrees_with_all_permutations(seed: int) -> None:
    value = table(seed)
    found = attribute(factorial(value), game=game(FREE))
    assert values_of(found) == pytest.approx(by_permutations(value, list(FREE))[0], abs=1e-10)
    for pair in found.interactions:
        others = [name for name in FREE if name not in (pair.a, pair.b)]
        squares = [
            (math.factorial(len(s)) * math.factorial(3 - len(s)) / math.factorial(4), s) for s in subsets(others)
        ]
        index = sum(
            w * (value(s | {pair.a, pair.b}) - value(s | {pair.a}) - value(s | {pair.b}) + value(s)) for w, s in squares
        )
        assert pair.value == pytest.approx(index, abs=1e-10)


def test_orders_pass_only_cells_that_can_be_built() -> None:
    value = table(7)
    found = attribute(factorial(value, BOUND), game=game(BOUND))
    brute, orders = by_permutations(value, list(BOUND), buildable)
    assert orders == 8 and (found.orders_used, found.orders_legal) == (8, 8)
    assert values_of(found) == pytest.approx(brute, abs=1e-10)
    assert (found.cells_trained, found.cells_legal, found.cells_total) == (10, 10, 16)
    squares = {(p.a, p.b): (p.squares, p.legal) for p in found.interactions}
    assert (
        squares["inverted", "move-up"] == (0, 0)
        and squares["move-up", "separate"] == (2, 2)
        and squares["inverted", "gelu"] == (1, 1)
    )
    assert next(p.value for p in found.interactions if (p.a, p.b) == ("inverted", "move-up")) is None
    assert any(
        "6 of 16 cells cannot be built" in note and "needs inverted_bottleneck true" in note for note in found.notes
    )


@pytest.mark.parametrize("seed", range(4))
def test_with_cells_missing_the_orders_that_are_whole_are_averaged(seed: int) -> None:
    value, rng = table(seed), random.Random(seed)
    chosen = {some for some in subsets(list(FREE)) if len(some) in (0, 5) or rng.random() < 0.75}
    found = attribute(factorial(value, cells=sorted(chosen, key=sorted)), game=game(FREE))
    brute, orders = by_permutations(value, list(FREE), chosen.__contains__)
    assert found.orders_used == orders < 120 == found.orders_legal
    assert values_of(found) == pytest.approx(brute, abs=1e-10)
    gain = value(frozenset(FREE)) - value(frozenset())
    assert sum(values_of(found).values()) == pytest.approx(gain) == found.gain.value  # type: ignore[union-attr]
    assert f"{orders} orders of 120 legal ones; other orders may divide the gain otherwise" in markdown(found)


def test_missing_cells_are_named_costed_and_the_most_useful_comes_first() -> None:
    lacking = [frozenset({"kernel_size", "gelu"}), frozenset({"fewer"}), frozenset({"fewer", "grn"})]
    found = attribute(
        factorial(table(1), cells=[s for s in subsets(list(FREE)) if s not in lacking], noise=(0.1, -0.1)),
        game=game(FREE),
    )
    assert [(set(m.on), m.completes, m.orders) for m in found.missing] == [
        (set(lacking[1]), 18, 24),
        (set(lacking[0]), 12, 12),
        (set(lacking[2]), 6, 12),
    ]
    assert found.missing[1].cell == "width with kernel_size, gelu"
    assert found.missing[1].settings == {"model.kernel_size": 7, "model.activation": "gelu"}
    assert (
        found.missing[1].cost == "1 cell x 2 seeds = 0.02 core-hours"
        and found.missing_cost == "3 cells x 2 seeds = 0.06 core-hours"
    )
    assert (
        "1 cell x 3 seeds = 0.03 core-hours"
        in attribute(factorial(table(1), cells=[frozenset()], noise=(0.1,)), game=game(FREE), seeds=(0, 1, 2))
        .missing[0]
        .cost
    )
    brute = {
        s: sum(
            all(frozenset(o[:k]) not in lacking or frozenset(o[:k]) == s for k in range(6))
            and s in map(frozenset, itertools.accumulate(o, lambda a, b: {*a, b}, initial=()))
            for o in itertools.permutations(FREE)
        )
        for s in lacking
    }
    assert [m.completes for m in found.missing] == [brute[frozenset(m.on)] for m in found.missing]


def test_costs_on_gpus_count_every_gpu() -> None:
    entries = [
        entry_of(trial_of(0, s), 70, hardware={"device": "NVIDIA H100"}, world_size=8, wall_seconds=3600.0)
        for s in ({}, {"model.grn": True, "model.kernel_size": 7})
    ]
    toggles = {"grn": FREE["grn"], "kernel_size": FREE["kernel_size"]}
    assert attribute(study_of(entries), game=game(toggles)).missing_cost == "2 cells x 1 seed = 16 GPU-hours"


def test_a_ladder_is_one_order_and_says_so() -> None:
    started = time.perf_counter()
    found = attribute(ladder_study())
    assert time.perf_counter() - started < 4  # 2^15 cells
    assert [v.player for v in found.values] == [s.name for s in find_ladder().order()][1:]
    assert [v.value for v in found.values] == pytest.approx([0.5] * 15)
    assert (
        found.orders_used == 1
        and found.orders
        == f"one order of {found.orders_legal:,} legal ones; other orders may divide the gain otherwise"
    )
    # 15! orders with `inverted-bottleneck` before the two steps that need it: a third of them.
    assert found.orders_legal == math.factorial(15) // 3 and found.cells_legal == 2**15 * 5 // 8
    assert found.missing_total == 2**12 * 5 - 16 and len(found.missing) == 32
    assert found.missing[0].completes == 1 and all(p.value is None and p.squares == 0 for p in found.interactions)
    assert "105 of 105 pairs" in " ".join(found.notes)


def test_recipe_and_architecture_share_the_gain_of_a_ladder() -> None:
    found = attribute(ladder_study("separate-downsampling"))
    assert (
        found.headline.startswith("Of the +6.50 [")
        and "points from baseline to separate-downsampling (3 runs against 3) the recipe gives +0.50 ["
        in found.headline
    )
    assert "the architecture +6.00 [" in found.headline
    lacking = "the network of separate-downsampling with the training of baseline"
    assert f"(in one of 2 orders; the other needs {lacking})" in found.headline
    assert (
        found.shares
        and [m.cell for m in found.shares.missing] == [lacking]
        and found.shares.missing[0].settings["model.kernel_size"] == 7
    )
    assert (
        "model.drop_path_rate" not in found.shares.missing[0].settings
    )  # belongs to the training, like LayerScale and initial weights


def test_the_fourth_cell_of_recipe_and_architecture_is_taken_from_another_study() -> None:
    wanted = attribute(ladder_study("separate-downsampling")).shares.missing[0].settings  # type: ignore[union-attr]
    baseline = micro_trial("baseline", 0)
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in wanted.items()}
    other = study_of(
        [entry_of(trial_of(seed, settings, replace(baseline, seed=seed)), 83.0) for seed in range(3)], "crossed"
    )
    found = attribute(ladder_study("separate-downsampling"), others=[other])
    assert found.shares and found.shares.orders == 2
    before, after = 0.5, 80 + 6.5 + 0.05 - 83.0  # the recipe's gain before and after the architecture
    assert found.shares.recipe and found.shares.recipe.value == pytest.approx((before + after) / 2)
    assert "(mean over both orders)" in found.headline
    assert any(note.startswith("Recipe and architecture together give +3.05") for note in found.notes)
    assert "separate-downsampling without recipe" in [c.cell for c in found.cells]


def test_beyond_separate_downsampling_the_players_of_each_side_are_summed() -> None:
    found = attribute(ladder_study())
    assert (
        "the recipe gives +1.00 [" in found.headline
        and "(recipe, ema, and 13 players of the network, summed over one order of" in found.headline
    )
    assert next(v.kind for v in found.values if v.player == "grn") == "architecture"


def test_steps_without_a_finished_run_are_told_together() -> None:
    found = attribute(ladder_study(without=["gelu", "width"]))
    assert {"width to inverted-bottleneck", "gelu to fewer-activations"} <= set(values_of(found))
    assert values_of(found)["gelu to fewer-activations"] == pytest.approx(1.0)
    assert any("gelu without a finished run" in note for note in found.notes)


def test_a_single_changes_cell_on_the_ladder_is_reused_and_no_run_counts_twice() -> None:
    first = ladder_study("separate-downsampling")
    alone = entry_of(micro_trial("separate-downsampling", 0, kernel_size=3), 85.0)
    found = attribute(first, others=[study_of([*first.trials, alone], "single")])
    assert "separate-downsampling without kernel-7" in [c.cell for c in found.cells]
    assert len(found.ids) == len(set(found.ids)) == 14 * 3 + 1
    assert any("42 finished runs listed again in another study counted once" in note for note in found.notes)
    assert values_of(found) == values_of(attribute(first))


def test_diverged_failed_and_missing_runs_are_never_averaged() -> None:
    study = factorial(pairwise(SINGLE, PAIRS), noise=(0.0, 0.0, 0.0))
    spoiled = [
        {**t, "status": "diverged", "top1": 10.0, "error": "loss is nan"} if t["seed"] == 2 and i < 20 else t
        for i, t in enumerate(study.trials)
    ]
    labels = ("id", "fingerprint", "regime", "step", "change", "seed")
    spoiled[0] = {**{k: spoiled[0][k] for k in labels}, "status": MISSING}
    spoiled[3] = {**spoiled[3], "status": "failed", "top1": 55.0, "error": None}
    found = attribute(study_of(spoiled), game=game(FREE))
    assert values_of(found) == pytest.approx(values_of(attribute(study, game=game(FREE))), abs=1e-12)
    for t in spoiled[:20]:
        if t["status"] != "finished":
            assert t["id"] not in found.ids and any(
                note.startswith(f"Not averaged: {t['id']} (") for note in found.notes
            )
    assert any("Fewer than 3 finished runs: width (1)" in note for note in found.notes)


def test_half_a_bundle_is_on_no_cell() -> None:
    bundle = {"model.norm": "layer", "model.conv_bias": True}
    ladder_like = Game(
        flat(with_neutral(json.loads(json.dumps(BASE.identity())))),
        (Player("layernorm", {"model.norm": ("batch", "layer"), "model.conv_bias": (False, True)}),),
        "width",
        "layernorm",
    )
    runs = [
        entry_of(trial_of(0, {}), 80.0),
        entry_of(trial_of(0, bundle), 82.0),
        entry_of(trial_of(0, {"model.norm": "layer"}), 99.0),
        entry_of(trial_of(0, bundle, lr=0.5), 98.0),
    ]
    other_data = replace(trial_of(1, bundle), data=replace(BASE.data, split_seed=1))
    found = attribute(
        study_of([*runs, entry_of(other_data, 97.0), entry_of(trial_of(2, bundle), 96.0, precision="bf16")]),
        game=ladder_like,
    )
    assert [(c.mean, c.n) for c in found.cells] == [(80.0, 1), (82.0, 1)]
    assert any("3 finished runs with settings or data of no cell not used" in note for note in found.notes)
    assert any(
        note.startswith("1 finished run of other code")
        and note.endswith("What differs, the base's first: precision fp32 and bf16.")
        for note in found.notes
    )


OTHERWISE: list[tuple[dict[str, Any], str]] = [
    ({"git_commit": "feedbeef"}, "git_commit 0123456789abcdef and feedbeef"),
    ({"packages": {"torch": "2.14.0", "timm": "1.0.31"}}, "packages.torch 2.15.0 and 2.14.0"),
    ({"hardware": {"device": "NVIDIA H100", "cpu": "a CPU"}}, "hardware.device cpu and NVIDIA H100"),
    ({"hardware": {"device": "cpu", "cpu": "another CPU"}}, "hardware.cpu a CPU and another CPU"),
    ({"world_size": 8}, "world_size 1 and 8"),
    ({"compile": True}, "compile false and true"),
    ({"precision": "bf16"}, "precision fp32 and bf16"),
    ({"data_digest": "abc"}, " and abc"),
    ({"test_images": 500}, "test_images 1797 and 500"),
    ({"world_size": None}, "world_size 1 and null"),
]


@pytest.mark.parametrize(("values", "reason"), OTHERWISE)
def test_runs_made_otherwise_than_the_bases_are_not_averaged(values: dict[str, Any], reason: str) -> None:
    study = factorial(pairwise(SINGLE, PAIRS), noise=(0.1, -0.1))
    strange = [entry_of(trial_of(seed, {"model.kernel_size": 7}), 10.0, **values) for seed in (2, 3)]
    found = attribute(study, others=[study_of(strange, "elsewhere")], game=game(FREE))
    assert values_of(found) == values_of(attribute(study, game=game(FREE))) and {c.n for c in found.cells} == {2}
    note = next(note for note in found.notes if "of other code, packages, hardware, ranks" in note)
    assert note.startswith("2 finished runs of ") and all(t["id"] in note for t in strange) and reason in note


def test_where_only_runs_made_otherwise_are_at_the_top_there_is_no_gain() -> None:
    study = factorial(pairwise(SINGLE, {}), cells=[frozenset(), frozenset(FREE)])
    study.trials[1]["world_size"] = 2
    found = attribute(study, game=game(FREE))
    assert found.gain is None and found.headline.endswith("no finished run of all on that was made as the others were.")
    assert len(found.ids) == 1


def test_what_follows_from_a_players_setting_is_no_other_circumstance() -> None:
    toggles = {"groups": ("recipe.group_size", 32, 16), "kernel_size": FREE["kernel_size"]}
    study = factorial(lambda some: 70 + len(some), toggles)
    assert {t["group_size"] for t in study.trials} == {t["device_batch"] for t in study.trials} == {16, 32}
    assert attribute(study, game=game(toggles)).cells_trained == 4
    only_kernels = {"kernel_size": FREE["kernel_size"]}
    kernels = factorial(lambda some: 70 + len(some), only_kernels)
    kernels.trials[1]["group_size"] = 16
    assert attribute(kernels, game=game(only_kernels)).cells_trained == 1


def test_of_a_base_whose_runs_disagree_the_largest_group_counts() -> None:
    study = factorial(pairwise(SINGLE, {}), noise=(0.0, 0.0, 0.0))
    for t in study.trials:
        t["git_commit"] = "old" if t["seed"] == 0 else "new"
    elsewhere = [entry_of(trial_of(seed, {}), 10.0, git_commit="old") for seed in range(10, 20)]
    found = attribute(study, others=[study_of(elsewhere, "elsewhere")], game=game(FREE))
    assert {c.n for c in found.cells} == {2} and values_of(found) == pytest.approx(SINGLE, abs=1e-12)
    assert any(
        note.startswith("42 finished runs of other code") and note.endswith("git_commit new and old.")
        for note in found.notes
    )


def test_a_run_made_otherwise_does_not_hide_its_repetition_that_was_made_alike() -> None:
    study = factorial(pairwise(SINGLE, {}))
    study.trials[-1] |= {"git_commit": "old", "top1": 10.0}
    again = factorial(pairwise(SINGLE, {}), cells=[frozenset(FREE)])
    found = attribute(study, others=[again], game=game(FREE))
    assert values_of(found) == pytest.approx(SINGLE, abs=1e-12) and not any(
        "listed again" in note for note in found.notes
    )
    assert any(note.startswith("1 finished run of other code") for note in found.notes)


def test_what_the_records_of_the_base_leave_open_is_said() -> None:
    study = factorial(pairwise(SINGLE, {}))
    for t in study.trials:
        t["git_dirty"] = True
        del t["channels_last"]
    found = attribute(study, game=game(FREE))
    assert found.cells_trained == 32
    assert any("code with uncommitted changes cannot be told apart" in note for note in found.notes)
    assert any(
        note.startswith("Not recorded, so not shown to be alike in all runs: channels_last") for note in found.notes
    )


def test_thousands_of_runs_made_otherwise_take_seconds() -> None:
    study = ladder_study("kernel-7")
    more = [
        {**t, "fingerprint": f"{t['fingerprint']}{k}", "seed": t["seed"] + 3 * k, "git_commit": str(k % 50)}
        for k in range(1, 120)
        for t in study.trials
    ]
    started = time.perf_counter()
    found = attribute(study, others=[study_of(more, "more")])
    assert time.perf_counter() - started < 5 and {c.n for c in found.cells} == {3} and len(more) > 3000


def test_the_texts_hold_values_counts_and_every_run() -> None:
    found = attribute(ladder_study("kernel-7"))
    page = markdown(found)
    assert found.headline.replace("−", "-") in page.replace("\\", "").replace("−", "-")
    assert all(run in page.replace("\\", "") for run in found.ids)
    assert "Trained cells: 9 (legal:" in page and "Missing cells:" in page and "degrees of freedom" in page
    screen = io.StringIO()
    Console(file=screen, width=200).print(terminal(found))
    assert "Shares of the gain over one order of" in screen.getvalue() and "patchify-stem" in screen.getvalue()
    plain = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert {"headline", "values", "interactions", "orders", "missing", "notes"} <= plain.keys() and plain["values"][0][
        "player"
    ] == "recipe"


def test_hostile_names_stay_text() -> None:
    study = factorial(pairwise(SINGLE, {}))
    study = replace(study, name="<script>|x")
    assert "<script>" not in markdown(attribute(study, game=game(FREE)))
