"""What a design trains and compares: the plan itself must be controlled, or no analysis can be."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.errors import ConfigError
from roadmap.study.designs import listed
from roadmap.study.expand import expand
from roadmap.study.file import EXPERIMENTS, read_plan
from roadmap.study.fractions import aliases
from tests.helpers.convnext import change_of, find_regime, find_step, ladder, path, resolve
from tests.helpers.designs import (
    FACTORS,
    NINE,
    Command,
    assert_controlled,
    cells_of,
    different,
    plan_of,
)

# Each design ----------------------------------------------------------------------------------------------------------


def test_a_ladder_has_each_step_against_its_parent() -> None:
    study = expand(plan_of(through="9"))
    assert list(cells_of(study)) == [(s.name, "") for s in ladder()[: ladder().index(find_step("9")) + 1]]
    assert {(c.child[0], c.parent[0]): c.declared for c in study.comparisons}["layernorm", "fewer-norms"] == (
        "model.norm",
        "model.conv_bias",
    )


def test_a_single_change_is_the_step_with_and_without_it() -> None:
    for plan in (
        plan_of(design="single", base="9", set=("kernel_size=3",)),
        plan_of(design="single", base="9", changes=({"kernel_size": 3},)),
    ):
        study = expand(plan)
        assert list(cells_of(study)) == [(NINE, ""), (NINE, "kernel_size=3")]
        assert [c.to_json() for c in study.comparisons] == [
            {
                "child": [NINE, "kernel_size=3"],
                "parent": [NINE, ""],
                "declared": ["model.kernel_size"],
                "kind": "change",
                "planned": {"model.kernel_size": [7, 3]},
            }
        ]


def test_one_at_a_time_is_the_base_and_each_value_alone() -> None:
    study = expand(
        plan_of(
            design="one-at-a-time", base="9", changes=({"kernel_size": [3, 5]}, {"norm": "batch", "conv_bias": False})
        )
    )
    assert list(cells_of(study)) == [
        (NINE, ""),
        (NINE, "kernel_size=3"),
        (NINE, "kernel_size=5"),
        (NINE, "norm=batch conv_bias=false"),
    ]
    assert [c.declared for c in study.comparisons] == [
        ("model.kernel_size",),
        ("model.kernel_size",),
        ("model.norm", "model.conv_bias"),
    ]
    assert {c.parent for c in study.comparisons} == {(NINE, "")}


def test_a_change_to_what_the_base_is_already_changes_nothing_and_is_said() -> None:
    study = expand(
        plan_of(design="one-at-a-time", base="9", changes=({"kernel_size": [7, 5]}, {"recipe": "digits-adamw"}))
    )
    assert list(cells_of(study)) == [(NINE, ""), (NINE, "kernel_size=5")]
    assert study.undefined == {
        f"{NINE} with kernel_size=7": f"changes nothing: it is {NINE}",
        f"{NINE} with recipe=digits-adamw": f"changes nothing: it is {NINE}",
    }


def test_what_cannot_be_built_is_told_with_its_reason_also_where_only_the_data_forbids_it() -> None:
    study = expand(
        plan_of(
            design="one-at-a-time",
            base="9",
            changes=({"inverted_bottleneck": False}, {"stem_stride": 8}, {"recipe.group_size": 48}, {"kernel_size": 3}),
        )
    )
    assert list(cells_of(study)) == [(NINE, ""), (NINE, "kernel_size=3")]
    reasons = {label.removeprefix(f"{NINE} with "): why for label, why in study.undefined.items()}
    assert reasons["inverted_bottleneck=false"].startswith(
        "ModelSpec.move_up_depthwise is true, which needs inverted_bottleneck true, not false; reason: "
    )
    assert reasons["stem_stride=8"].startswith(
        "Trial.data.image_size is 16, but the network strides over 64 pixels; legal: "
    )
    assert reasons["recipe.group_size=48"].startswith(
        "Recipe.batch_size is 64, not a multiple of group_size 48; legal: "
    )


@pytest.mark.parametrize("base", ["9", "10", "11"])
@pytest.mark.parametrize("regime", ["micro", "cifar"])
def test_leave_one_out_takes_exactly_one_steps_change_back(base: str, regime: str) -> None:
    study = expand(plan_of(design="leave-one-out", regime=regime, base=base))
    top, where, cells = find_step(base), find_regime(regime), cells_of(study)
    whole = cells[top.name, ""][0]
    for step in path(top)[1:]:
        key = (top.name, f"without {step.name}")
        if key not in cells:
            assert f"{top.name} without {step.name}" in study.undefined, step.name
            continue
        [trial] = cells[key]
        changed = change_of(step, where)
        before, last = resolve(step.parent or step.name, regime), resolve(top.name, regime)
        for name in different(trial, whole):
            part, _, field = name.partition(".")
            if part == "model":
                assert field in changed and getattr(trial.model, field) == getattr(before, field)
            else:
                assert (part == "recipe") and ("recipe" in changed or name in changed), (step.name, name)
        assert all(
            getattr(trial.model, n) == getattr(before, n)
            for n, v in changed.items()
            if not n.startswith("recipe") and getattr(last, n) == v
        )
        if step.name != "ema" and top.name in ("ema", "grn"):
            assert trial.recipe.ema_decay == whole.recipe.ema_decay is not None, (
                f"without {step.name} the moving average stays"
            )
    assert "inverted-bottleneck" in "".join(study.undefined)


def test_leave_one_out_of_listed_changes_is_the_base_with_each_alone() -> None:
    study = expand(plan_of(design="leave-one-out", base="9", changes=({"norm": "batch"}, {"activation": "relu"})))
    assert list(cells_of(study)) == [(NINE, ""), (NINE, "norm=batch"), (NINE, "activation=relu")]


# Further bases --------------------------------------------------------------------------------------------------------


def test_further_bases_are_compared_with_themselves_alone() -> None:
    also = {"recipe": [{"layer_scale": "none"}], "7c": [{"layer_scale": ["none", 0.1]}, {"kernel_size": 3}]}
    study = expand(plan_of(design="one-at-a-time", base="9", changes=({"norm": "batch"},), also=also))
    assert list(cells_of(study)) == [
        (NINE, ""),
        (NINE, "norm=batch"),
        ("recipe", ""),
        ("recipe", "layer_scale=none"),
        ("fewer-norms", ""),
        ("fewer-norms", "layer_scale=none"),
        ("fewer-norms", "layer_scale=0.1"),
        ("fewer-norms", "kernel_size=3"),
    ]
    assert all(c.child[0] == c.parent[0] and c.parent[1] == "" for c in study.comparisons)
    assert assert_controlled(study) == 5


def test_layer_scale_is_tried_both_ways_on_three_earlier_steps() -> None:
    study = expand(read_plan(EXPERIMENTS / "open-points.yaml", digits=True))
    scales = {key: trials[0].model.layer_scale for key, trials in cells_of(study).items()}  # type: ignore[union-attr]
    for step in ("baseline", "recipe", "fewer-norms"):
        assert {scale for (name, _), scale in scales.items() if name == step} == {None, 1e-6}, step


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"design": "factorial"}, "also names recipe in a factorial design; legal: in a one-at-a-time design; "),
        ({"also": {"99": [{"norm": "batch"}]}}, "also: step '99' is unknown"),
        (
            {"also": {"recipe": {"norm": "batch"}}},
            "also.recipe is {'norm': 'batch'}; legal: steps with changes such as",
        ),
        ({"also": {"recipe": []}}, "also.recipe is []; legal: "),
        ({"also": {"recipe": [{"norm": "bacth"}]}}, "also: ModelSpec.norm is 'bacth'"),
        ({"also": {"recipe": [{}]}}, "also holds an empty mapping"),
        ({"also": {"recipe": [{"recipe.lr": 0.1}]}, "cross": {"recipe.lr": [0.1, 0.2]}}, "changes sets recipe.lr too"),
    ],
)
def test_what_is_wrong_with_further_bases_is_told(plan: dict[str, Any], says: str) -> None:
    whole = {"design": "one-at-a-time", "changes": ({"norm": "batch"},), "also": {"recipe": [{"norm": "batch"}]}}
    with pytest.raises(ConfigError) as e:
        plan_of(**{**whole, **plan})
    assert says in str(e.value)


# Recipes at another size ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["leave-one-out", "ladder"])
def test_the_ladders_own_moving_average_follows_the_length_of_training(change: str) -> None:
    long, short = (
        expand(plan_of(design=change, epochs=epochs, **({"base": "ema"} if change == "leave-one-out" else {})))
        for epochs in (16, 4)
    )
    spans = [{round(1 / (1 - t.recipe.ema_decay)) for t in s.trials if t.recipe.ema_decay} for s in (long, short)]
    assert spans == [{100}, {25}]


def test_the_rule_that_lr_follows_may_be_set_beside_a_batch() -> None:
    for rule, lr in (("none", 4e-3), ("linear", 1e-3), ("sqrt", 2e-3)):
        [trial] = expand(plan_of(steps=("9",), batch_size=16, set=(f"recipe.lr_scaling={rule}",))).trials
        assert trial.recipe.lr == pytest.approx(lr), rule


def test_a_full_factorial_has_every_combination_against_the_base() -> None:
    study = expand(plan_of(design="factorial", base="6", changes=FACTORS))
    words = ["activation=gelu", "activations=one", "norm=layer conv_bias=true"]
    every = {("kernel-7", " ".join(some)) for k in range(4) for some in itertools.combinations(words, k)}
    assert set(cells_of(study)) == every and len(every) == 2**3
    assert not study.undefined and not study.notes
    by_child = {c.child: c for c in study.comparisons}
    assert by_child["kernel-7", " ".join(words)].declared == (
        "model.activation",
        "model.activations",
        "model.norm",
        "model.conv_bias",
    )
    assert {c.parent for c in study.comparisons} == {("kernel-7", "")} and len(study.comparisons) == 7


def test_a_factorial_has_no_cell_for_a_network_that_cannot_be_built_but_says_why() -> None:
    study = expand(
        plan_of(
            design="factorial",
            base="4b",
            changes=({"inverted_bottleneck": True}, {"move_up_depthwise": True}, {"norm": "layer"}),
        )
    )
    assert len(cells_of(study)) == 2**3 - 2
    assert list(study.undefined) == [
        "width with move_up_depthwise=true",
        "width with move_up_depthwise=true norm=layer",
    ]


@pytest.mark.parametrize("generators", ["a b ab", "a b -ab", "a b c", "a b c ab", "a b c abc", "a b c d abcd"])
def test_a_fractional_factorial_has_the_runs_that_its_generators_make_and_the_base(generators: str) -> None:
    from pyDOE3 import fracfact

    names = ["activation", "activations", "norm", "grn", "kernel_size"][: len(generators.split())]
    values: dict[str, Any] = {
        "activation": "gelu",
        "activations": "one",
        "norm": "layer",
        "grn": True,
        "kernel_size": 3,
    }
    study = expand(
        plan_of(design="factorial", base="6", fraction=generators, changes=tuple({n: values[n]} for n in names))
    )
    base = resolve("6", "micro")
    on = {tuple(bool(getattr(t[0].model, n) != getattr(base, n)) for n in names) for t in cells_of(study).values()}
    runs = {tuple(bool(x > 0) for x in run) for run in fracfact(generators)}
    assert on == runs | {(False,) * len(names)}
    assert len(cells_of(study)) == len(on)


def test_aliases_are_in_the_changes_own_words() -> None:
    plan = plan_of(design="factorial", base="6", fraction="a b ab", changes=FACTORS)
    third = "norm=layer conv_bias=true"
    assert aliases(plan, listed(plan)) == [
        f"activation=gelu = activations=one x {third}",
        f"activations=one = activation=gelu x {third}",
        f"{third} = activation=gelu x activations=one",
        f"activation=gelu x activations=one x {third} = the mean",
    ]
    assert expand(plan).notes == tuple(f"aliased: {line}" for line in aliases(plan, listed(plan)))


def test_an_alias_with_the_other_sign_is_an_alias() -> None:
    plan = plan_of(design="factorial", base="6", fraction="a b -ab", changes=FACTORS)
    found = aliases(plan, listed(plan))
    third = "norm=layer conv_bias=true"
    assert (
        found[0] == f"activation=gelu = −(activations=one x {third})"
        and found[-1] == f"−(activation=gelu x activations=one x {third}) = the mean"
    )


def test_generators_that_alias_nothing_have_no_note() -> None:
    assert expand(plan_of(design="factorial", base="6", fraction="a b c", changes=FACTORS)).notes == ()


@pytest.mark.parametrize("generators", ["a b", "a b c d", "", "1 2 3", "a b Z!"])
def test_generators_that_make_no_design_are_refused(generators: str) -> None:
    with pytest.raises(ConfigError) as e:
        expand(plan_of(design="factorial", base="6", fraction=generators, changes=FACTORS))
    assert str(e.value).startswith(f"study p.fraction is {generators!r}, ") and "; legal: " in str(e.value)


def test_the_plan_prints_the_aliases(command: Command, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(
        "question: q\ndesign: factorial\nregime: micro\nbase: 6\nfraction: a b ab\nchanges: [{activation: "
        "gelu}, {activations: one}, {norms: one}]\n"
    )
    assert "\naliased: activation=gelu = activations=one x norms=one\n" in command("plan", "--study", "f.yaml").out
    assert (
        command("plan", "--study", "f.yaml", "--json").json()["notes"][0]
        == "aliased: activation=gelu = activations=one x norms=one"
    )


def test_a_grid_has_all_combinations_against_the_first_and_declares_what_differs() -> None:
    study = expand(
        plan_of(
            design="grid",
            base="9",
            changes=({"kernel_size": [3, 5]}, {"depths": [[1, 1, 3, 1], [1, 1, 1, 1]]}, {"recipe.lr": [0.001]}),
        )
    )
    labels = [f"kernel_size={k} depths={d} recipe.lr=0.001" for k in (3, 5) for d in ("1,1,3,1", "1,1,1,1")]
    assert list(cells_of(study)) == [(NINE, label) for label in labels]
    assert {c.child[1]: c.declared for c in study.comparisons} == {
        labels[1]: ("model.depths",),
        labels[2]: ("model.kernel_size",),
        labels[3]: ("model.kernel_size", "model.depths"),
    }
    assert {c.parent for c in study.comparisons} == {(NINE, labels[0])}


def test_models_are_trained_alike_and_compared_with_the_first() -> None:
    study = expand(
        plan_of(
            design="models",
            model=("convnextv2_atto", "timm/test_vit", "step/9"),
            recipe="digits-adamw",
            data="digits",
            image_size=32,
        )
    )
    assert list(cells_of(study)) == [("convnextv2_atto", ""), ("timm/test_vit", ""), (NINE, "")]
    assert {c.declared for c in study.comparisons} == {("model.*",)} and {c.parent for c in study.comparisons} == {
        ("convnextv2_atto", "")
    }
    assert len({(t.recipe, t.data) for t in study.trials}) == 1
