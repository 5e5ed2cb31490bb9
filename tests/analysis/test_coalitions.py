"""Who the players of a study are, which cells can be built and which runs lie on them."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from analysis.attribution.coalitions import Game, Lattice, Player, flat, paths
from analysis.attribution.shapley import interaction_weights, shapley_weights
from roadmap.config.errors import RoadmapError
from roadmap.runs.record import with_neutral
from tests.helpers.games import (
    BASE,
    FREE,
    SINGLE,
    attribute,
    entry_of,
    factorial,
    game,
    game_of,
    ladder_study,
    pairwise,
    players_of,
    settings_of,
    study_of,
    subsets,
    trial_of,
    values_of,
    with_control,
)


def test_players_are_found_in_a_factorial_study() -> None:
    toggles = {k: FREE[k] for k in ("kernel_size", "gelu")}
    entries = [
        entry_of(
            trial_of(0, settings_of(s, toggles) | ({"model.norm": "layer", "model.conv_bias": True} if bias else {})),
            80.0,
        )
        for s in subsets(list(toggles))
        for bias in (0, 1)
    ]
    control = entry_of(replace(trial_of(0, {}), step="width", change="control"), 80.0)
    control["resolved"]["control"] = "no-op"
    found = game_of(study_of([*entries, control]))
    assert found.bottom == "width" and found.top == "width with all 3 changes"
    assert {p.name: dict(p.settings) for p in players_of(study_of(entries))} == {
        "norm + conv_bias": {"model.norm": ("batch", "layer"), "model.conv_bias": (False, True)},
        "kernel_size": {"model.kernel_size": (3, 7)},
        "activation": {"model.activation": ("relu", "gelu")},
    }
    complete = attribute(study_of(entries))
    assert complete.orders_used == complete.orders_legal == 6
    assert (
        complete.headline == "All of the 0.00 points from width to width with all 3 changes (1 run against 1) is the "
        "architecture's: no setting of the training differs."
    )


def test_declared_comparisons_say_what_is_a_player_and_what_is_the_base() -> None:
    ends = [{}, {"model.kernel_size": 7, "model.activation": "gelu"}]
    trials = [trial_of(0, s) for s in ends] + [trial_of(0, ends[1], epochs=40)]
    study = study_of([entry_of(t, 80.0) for t in trials])
    study.trials[2]["change"] += " epochs=40"
    parent, child = ([t["step"], t["change"]] for t in study.trials[:2])
    lone = [
        {"child": parent, "parent": child, "declared": [name], "kind": "change"}
        for name in ("model.kernel_size", "model.activation")
    ]
    found = game_of(replace(study, comparisons=lone))
    assert (found.bottom, found.top) == (" with ".join(child), f"{' with '.join(child)} with all 2 changes")
    assert [dict(p.settings) for p in found.players] == [
        {"model.kernel_size": (7, 3)},
        {"model.activation": ("gelu", "relu")},
    ]


def test_of_a_design_that_is_crossed_with_epochs_the_first_copy_is_attributed() -> None:
    arms = [{}, {"model.kernel_size": 7}, {"recipe.epochs": 40}, {"model.kernel_size": 7, "recipe.epochs": 40}]
    entries = [entry_of(trial_of(seed, arm), 80.0 + len(arm) * 2) for arm in arms for seed in range(2)]
    keys = [[t["step"], t["change"]] for t in entries[::2]]
    compared = [
        {"child": keys[i + 1], "parent": keys[i], "declared": ["model.kernel_size"], "kind": "change"} for i in (0, 2)
    ]
    found = attribute(replace(study_of(entries), comparisons=compared))
    assert values_of(found) == {"kernel_size": 2.0} and found.cells_trained == 2
    assert any("4 finished runs with settings or data of no cell not used" in note for note in found.notes)


@pytest.mark.parametrize("of_another_study", [False, True])
def test_runs_of_a_a_controls_are_on_no_cell(of_another_study: bool) -> None:
    study = factorial(pairwise(SINGLE, {}), noise=(0.1, -0.1))
    controlled = with_control(study, (1000, 1001), 10.0)
    found = (
        attribute(study, others=[controlled], game=game(FREE))
        if of_another_study
        else attribute(controlled, game=game(FREE))
    )
    assert found.cells[0].n == 2 and values_of(found) == values_of(attribute(study, game=game(FREE)))
    assert "the effect of the seeds they share (64 runs, 31 degrees of freedom)" in found.error
    assert any(note.startswith("2 finished runs of controls not used") for note in found.notes)


def test_a_study_of_nothing_but_a_control_has_no_game() -> None:
    with pytest.raises(RoadmapError, match="no finished run that says its resolved settings"):
        attribute(with_control(study_of([entry_of(BASE, None)]), (1000,), 80.0))


def test_a_controls_seeds_are_runs_of_the_cell_where_another_study_plans_them_as_such() -> None:
    study = with_control(factorial(pairwise(SINGLE, {}), noise=(0.1, -0.1)), (2, 3), 70.0)
    found = attribute(study, others=[study_of([entry_of(trial_of(2, {}), 70.0)], "more")], game=game(FREE))
    assert found.cells[0].n == 3 and any(note.startswith("1 finished run of controls not used") for note in found.notes)


def test_with_no_cell_that_can_be_built_no_order_is_legal_and_no_square_counted() -> None:
    lone = {
        "model.move_up_depthwise": True
    }  # refused without the inverted bottleneck, as the records of an older version may be
    toggles = {name: FREE[name] for name in ("kernel_size", "gelu")}
    entries = [entry_of(trial_of(0, settings_of(some, toggles)), 80.0) for some in subsets(list(toggles))]
    for t in entries:
        t["resolved"]["model"] |= {key.removeprefix("model."): value for key, value in lone.items()}
    of_old = game(toggles)
    found = attribute(study_of(entries), game=replace(of_old, base={**of_old.base, **lone}))
    assert (found.cells_legal, found.orders_legal, found.cells_trained) == (0, 0, 4)
    assert found.orders.startswith("no legal order") and [(p.squares, p.legal) for p in found.interactions] == [(1, 0)]


def test_a_toggle_with_three_settings_is_refused() -> None:
    study = study_of([entry_of(trial_of(0, {"model.kernel_size": k} if k > 3 else {}), 80.0) for k in (3, 5, 7)])
    with pytest.raises(RoadmapError, match=r"attribute.players model.kernel_size has the settings 3, 5, 7; legal: two"):
        attribute(study)


def test_studies_without_a_game_are_refused_with_the_reason() -> None:
    old = entry_of(BASE, 80.0)
    del old["resolved"]
    with pytest.raises(RoadmapError, match="no finished run that says its resolved settings"):
        attribute(study_of([old]))
    with pytest.raises(RoadmapError, match="finished runs of one setting only"):
        attribute(study_of([entry_of(BASE, 80.0)]))


def test_players_that_undo_each_other_wholly_are_refused() -> None:
    twice = (Player("a", {"model.kernel_size": (3, 5)}), Player("b", {"model.kernel_size": (5, 7)}))
    base = flat(with_neutral(json.loads(json.dumps(BASE.identity()))))
    study = study_of([entry_of(trial_of(0, s), 80.0) for s in ({}, {"model.kernel_size": 7})])
    with pytest.raises(RoadmapError, match="have the same settings"):
        attribute(study, game=Game(base, twice, "width", "top"))


def test_a_step_that_sets_again_what_an_earlier_one_set_has_its_own_cells() -> None:
    found = Lattice(game_of(ladder_study()))
    names = [p.name for p in found.game.players]
    assert [found.words(c) for c in (0, 1, 0b111, 0b101, 0b10, 2**15 - 1 - 2, 2**15 - 1)] == [
        "baseline",
        "recipe",
        "patchify-stem",
        "patchify-stem without stage-ratio",
        "baseline with stage-ratio",
        "grn without stage-ratio",
        "grn",
    ]
    recipe, grn = 1 << names.index("recipe"), 1 << names.index("grn")
    assert [found.settings(c)["model.layer_scale"] for c in (0, recipe, grn, recipe | grn)] == [None, 1e-6, None, None]
    for cell in random.Random(0).sample(range(1 << 15), 50):
        assert found.find(found.settings(cell)) == cell


def test_which_cells_can_be_built_is_what_building_each_says() -> None:
    found = Lattice(game_of(ladder_study()))
    legal = set(found.legal() or [])
    from analysis.attribution.coalitions import _refusal

    cells = random.Random(1).sample(range(1 << 15), 200)
    assert [cell in legal for cell in cells] == [not _refusal(found.settings(cell)) for cell in cells]
    assert len(found._refusals) <= 128


def test_beyond_the_limit_only_trained_cells_are_counted() -> None:
    names = [
        "weight_decay",
        "momentum",
        "beta1",
        "beta2",
        "min_lr",
        "decay_rate",
        "label_smoothing",
        "mixup",
        "cutmix",
        "mix_prob",
        "mix_switch_prob",
        "hflip",
        "random_erasing",
        "test_crop",
    ]
    keys = [(f"recipe.{n}", getattr(BASE.recipe, n), 0.31) for n in names] + [
        ("recipe.decay_1d", False, True),
        ("recipe.lr", BASE.recipe.lr, 0.3),
        ("model.kernel_size", 3, 7),
    ]
    toggles = {key: (key, off, on) for key, off, on in keys}
    cells = [frozenset(list(toggles)[:k]) for k in range(len(toggles) + 1)]
    found = attribute(factorial(lambda some: 70 + len(some), toggles, cells), game=game(toggles))
    assert len(toggles) == 17
    assert (found.orders_used, found.orders_legal, found.cells_legal, found.missing_total) == (1, None, None, None)
    assert "with more than 16 players the legal orders are not counted" in found.orders
    assert [v.value for v in found.values] == pytest.approx([1.0] * 17)


def test_counts_of_orders_are_exact_whole_numbers() -> None:
    up, down = paths(range(1 << 12), 12)
    assert up[(1 << 12) - 1] == down[0] == math.factorial(12)
    chain = [(1 << k) - 1 for k in range(41)]
    assert shapley_weights(dict.fromkeys(chain), 40)[1] == 1
    assert interaction_weights(dict.fromkeys(range(8)), 0, 1, 3)[1] == 2
