"""What a design trains and compares: the plan itself must be controlled, or no analysis can be."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roadmap.config.data import Data
from roadmap.config.errors import ConfigError
from roadmap.config.recipes import find_recipe
from roadmap.config.trial import Trial
from roadmap.data.registry import resolve_data
from roadmap.study.designs import Comparison, Key, design, listed
from roadmap.study.expand import Study, expand
from roadmap.study.file import EXPERIMENTS, read_plan
from roadmap.study.fractions import aliases
from roadmap.study.overrides import Override, declared
from roadmap.study.plan import CONTROLS, Plan
from tests.helpers.convnext import REGIMES, STEPS, change_of, find_regime, find_step, ladder, path, resolve

Command = Callable[..., Any]
STUDIES = sorted(EXPERIMENTS.glob("*.yaml"))
WITH_DIGITS = [p for p in STUDIES if "\ndigits:\n" in p.read_text()]
NINE = "separate-downsampling"


def plan_of(**values: Any) -> Plan:
    return Plan(**{"name": "p", "question": "?", "regime": "micro", **values})


def cells_of(study: Study) -> dict[Key, list[Trial]]:
    found: dict[Key, list[Trial]] = {}
    for t in study.trials:
        found.setdefault((t.step, t.change), []).append(t)
    return found


def flat(trial: Trial) -> dict[str, Any]:
    """Every resolved setting but the seed and the name of a control, by its dotted name."""
    resolved = trial.identity()
    return {"init": resolved["init"]} | {
        f"{part}.{name}": value for part in ("model", "recipe", "data") for name, value in resolved[part].items()
    }


def different(a: Trial, b: Trial) -> set[str]:
    one, other = flat(a), flat(b)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def is_declared(name: str, comparison: Comparison) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in comparison.declared)


def assert_controlled(study: Study) -> int:
    """Each comparison's two cells differ in declared settings only, each cell in the seed only.

    Returns how many comparisons have both sides.
    """
    cells = cells_of(study)
    for key, trials in cells.items():
        assert len({t.configuration for t in trials}) == 1, key
        assert len({t.seed for t in trials}) == len(trials), key
    both = [c for c in study.comparisons if c.child in cells and c.parent in cells]
    for c in (*both, *(c for c in study.crossings if c.child in cells and c.parent in cells)):
        strange = {n for n in different(cells[c.child][0], cells[c.parent][0]) if not is_declared(n, c)}
        assert not strange, (c, strange)
    return len(both)


# The plan is controlled -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_a_shipped_study_compares_nothing_but_what_it_declares(path: Path, imagenet: Path) -> None:
    study = expand(read_plan(path), data_dir=imagenet)
    assert assert_controlled(study) == len(study.comparisons) - sum(_lost(c, study) for c in study.comparisons)
    assert assert_controlled(study) >= 2


@pytest.mark.parametrize("path", WITH_DIGITS, ids=lambda p: p.stem)
def test_a_shipped_study_on_the_digits_compares_nothing_but_what_it_declares(path: Path) -> None:
    study = expand(read_plan(path, digits=True))
    assert assert_controlled(study) == len(study.comparisons) - sum(_lost(c, study) for c in study.comparisons)


def _lost(c: Comparison, study: Study) -> bool:
    """Whether one of the two cells cannot be built, which the study says, or lies outside a listed ladder."""
    cells = cells_of(study)
    missing = [key for key in (c.child, c.parent) if key not in cells]
    assert not missing or study.undefined, missing
    return bool(missing)


@pytest.mark.parametrize("regime", [r for r in REGIMES if REGIMES[r].data != "imagenet"])
def test_every_step_of_every_ladder_changes_nothing_but_what_it_declares(regime: str) -> None:
    study = expand(plan_of(regime=regime, side_steps=True))
    assert assert_controlled(study) == len(ladder(side_steps=True)) - 1
    for c in study.comparisons:
        step = STEPS[c.child[0]]
        assert c.kind == "step" and c.parent == (step.parent, "")
        assert c.declared == declared(Override(*one) for one in change_of(step, find_regime(regime)).items())


TOGGLES: dict[str, list[Any]] = {
    "kernel_size": [3, 5, 9],
    "norm": ["batch", "layer"],
    "activation": ["relu", "gelu"],
    "activations": ["all", "one"],
    "grn": [True, False],
    "downsampling": ["block", "separate"],
    "conv_bias": [True, False],
    "inverted_bottleneck": [False],
    "layer_scale": ["none", 0.1],
    "drop_path_rate": [0.0, 0.2],
    "depths": [[1, 1, 1, 1], [1, 2, 1]],
    "stem_stride": [1, 8],
    "init": ["kaiming", "pytorch"],
    "recipe": ["digits-sgd", "digits-adamw"],
    "recipe.lr": [0.001, 0.01],
    "recipe.group_size": [16, 48],
    "recipe.ema_decay": [0.9, "none"],
    "batch_size": [32, 128],
    "epochs": [1, 3],
    "data": ["digits", "fashion-mnist"],
}
CROSSED = ["recipe", "recipe.lr", "recipe.group_size", "batch_size", "epochs", "data"]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = draw(st.lists(st.sampled_from(sorted(TOGGLES)), min_size=1, max_size=3, unique=True))
    kind = draw(st.sampled_from(["one-at-a-time", "leave-one-out", "factorial", "grid", "single", "ladder"]))
    changes: list[dict[str, Any]] = [{name: draw(st.sampled_from(TOGGLES[name]))} for name in names]
    if kind == "grid":
        changes = [{name: TOGGLES[name]} for name in names]
    crossed = draw(st.lists(st.sampled_from([c for c in CROSSED if c not in names]), max_size=1))
    return plan_of(
        design=kind,
        seeds=(0, 3),
        controls=tuple(draw(st.lists(st.sampled_from(sorted(CONTROLS)), max_size=3))),
        cross={name: TOGGLES[name] for name in crossed},
        changes={"ladder": (), "single": tuple(changes[:1])}.get(kind, tuple(changes)),
        base=None if kind == "ladder" else draw(st.sampled_from(["6", "9", "11", "baseline"])),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
def test_any_plan_compares_nothing_but_what_it_declares_and_hides_no_cell(plan: Plan) -> None:
    try:
        study = expand(plan)
    except ConfigError as e:
        assert "; legal: " in str(e) or "; reason: " in str(e)
        return
    assert_controlled(study)
    cells, comparisons = design(plan)
    assert {c.key for c in cells} >= {c.child for c in comparisons} | {c.parent for c in comparisons}
    trained = cells_of(study)
    for cell in cells:
        assert (cell.key in trained) or cell.label in study.undefined, cell
    assert len({t.id for t in study.trials}) == len(study.trials)
    for c in comparisons:
        if c.kind in CONTROLS and c.child in trained and c.parent in trained:
            assert c.declared == () and not different(trained[c.child][0], trained[c.parent][0])


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


FACTORS: tuple[dict[str, Any], ...] = (
    {"activation": "gelu"},
    {"activations": "one"},
    {"norm": "layer", "conv_bias": True},
)


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


# Crossings and controls -----------------------------------------------------------------------------------------------


def test_a_crossed_design_is_repeated_at_each_point_and_compared_inside_it() -> None:
    study = expand(
        plan_of(
            design="one-at-a-time",
            base="9",
            seeds=(0, 1),
            changes=({"norm": "batch"},),
            cross={"recipe.group_size": [64, 16], "epochs": [1, 2]},
        )
    )
    cells = cells_of(study)
    points = [f"recipe.group_size={g} epochs={e}" for g in (64, 16) for e in (1, 2)]
    assert list(cells) == [
        (NINE, " ".join(filter(None, [arm, point]))) for point in points for arm in ("", "norm=batch")
    ]
    assert [(c.child[1].split(" ", 1)[1], c.parent[1]) for c in study.comparisons] == [(p, p) for p in points]
    assert {(t.recipe.group_size, t.recipe.epochs) for t in study.trials} == {(64, 1), (64, 2), (16, 1), (16, 2)}
    assert {c.declared for c in study.comparisons} == {("model.norm",)}
    assert_controlled(study)


def test_each_cell_of_a_crossed_design_is_laid_beside_itself_at_the_first_point() -> None:
    study = expand(
        plan_of(
            design="one-at-a-time",
            base="9",
            seeds=(0, 1),
            changes=({"norm": "batch"},),
            cross={"recipe.group_size": [64, 16], "epochs": [1, 2]},
        )
    )
    first = "recipe.group_size=64 epochs=1"
    assert {c.parent[1] for c in study.crossings} == {first, f"norm=batch {first}"} and len(study.crossings) == 6
    assert {c.declared for c in study.crossings if "group_size=16 epochs=2" in c.child[1]} == {
        ("recipe.group_size", "recipe.epochs", "recipe.warmup_epochs", "recipe.decay_epochs", "recipe.ema_decay")
    }
    assert all(c.kind == "crossing" and c.planned for c in study.crossings)
    assert study.header()["crossings"] == [c.to_json() for c in study.crossings]


def test_a_crossing_of_data_takes_the_networks_classes_along() -> None:
    study = expand(
        plan_of(design="single", base="9", changes=({"norm": "batch"},), cross={"data": ["digits", "cifar100"]})
    )
    assert {(t.data.name, t.model.num_classes, t.model.in_chans) for t in study.trials} == {
        ("digits", 10, 1),
        ("cifar100", 100, 3),
    }
    assert assert_controlled(study) == 2


def test_a_whole_folder_is_listed_once_for_all_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(name: str, **more: Any) -> Data:
        asked.append(name)
        return resolve_data(name, **more)

    monkeypatch.setattr("roadmap.study.expand.resolve_data", counted)
    expand(plan_of(design="factorial", base="6", changes=FACTORS, cross={"data": ["digits", "cifar10"]}))
    assert asked == ["digits", "cifar10"]


@pytest.mark.parametrize("kind", ["ladder", "one-at-a-time", "grid", "models"])
def test_a_control_repeats_its_cell_in_all_but_name_and_seeds(kind: str) -> None:
    keys: dict[str, dict[str, Any]] = {
        "ladder": {"through": "9"},
        "one-at-a-time": {"base": "9", "changes": ({"kernel_size": 3},)},
        "grid": {"base": "9", "changes": ({"kernel_size": [3, 5]},)},
        "models": {"model": ("convnextv2_atto", "timm/test_vit"), "recipe": "digits-adamw", "image_size": 32},
    }
    study = expand(plan_of(design=kind, seeds=(0, 2), controls=("a-a", "no-op", "a-a"), **keys[kind]))
    cells = cells_of(study)
    controls = [c for c in study.comparisons if c.kind in CONTROLS]
    assert [c.child[1] for c in controls] == ["a-a", "no-op", "a-a 2"] and all(c.declared == () for c in controls)
    [parent] = {c.parent for c in controls}
    same, idle, again = (cells[c.child] for c in controls)
    whole = cells[parent]
    assert {t.configuration for t in same + again} == {whole[0].configuration}
    seeds = [[t.seed for t in runs] for runs in (whole, same, again)]
    assert seeds == [[0, 2], [1000, 1002], [2000, 2002]]
    assert [t.seed for t in idle] == [0, 2] and not {t.fingerprint for t in idle} & {t.fingerprint for t in whole}
    for mine, theirs in zip(idle, whole, strict=True):
        assert (mine.model, mine.recipe, mine.data, mine.init, mine.seed) == (
            theirs.model,
            theirs.recipe,
            theirs.data,
            theirs.init,
            theirs.seed,
        )


@pytest.mark.parametrize(
    ("seeds", "first"),
    [((0, 1, 2), 1000), ((999,), 1999), ((0, 1000), 2000), ((5, 1000, 2999), 3005), ((123456,), 247456)],
)
def test_the_runs_of_a_control_are_never_another_cells(seeds: tuple[int, ...], first: int) -> None:
    """A run that base and control share, or two controls, would be one draw of luck counted as two."""
    study = expand(plan_of(steps=("9",), seeds=seeds, controls=("a-a", "a-a", "a-a")))
    assert (
        len(study.trials)
        == 4 * len(seeds)
        == len({t.fingerprint for t in study.trials})
        == len({t.seed for t in study.trials})
    )
    assert min(t.seed for t in study.trials if t.change == "a-a") == first


def test_a_control_on_the_command_line_is_one_word(command: Command) -> None:
    trials = command("plan", "--study", "kernel", "--digits", "--controls", "no-op", "--json").json()["trials"]
    assert [t["change"] for t in trials if "=" not in t["change"] and t["change"]] == ["no-op"] * 3


def test_a_study_notes_what_it_compares_beside_its_trials(tmp_path: Path) -> None:
    from roadmap.runs.study_folder import write_study

    study = expand(plan_of(design="one-at-a-time", base="9", changes=({"kernel_size": [3, 7]},), controls=("a-a",)))
    folder = write_study(tmp_path, study.name, study.question, study.regime, study.trials, header=study.header())
    noted = json.loads((folder / "study.json").read_text())
    assert noted["comparisons"] == [c.to_json() for c in study.comparisons]
    assert noted["undefined"] == dict(study.undefined) and noted["design"] == "one-at-a-time"


def test_a_no_op_toggle_trains_to_the_same_bits(command: Command, tmp_path: Path) -> None:
    """Two runs that differ in nothing but a name.

    If their results differ, something outside the trial reaches the training.
    """
    (tmp_path / "c.yaml").write_text("question: q\nregime: micro\nsteps: [0]\nepochs: 1\ncontrols: [no-op]\n")
    base, idle = command("run", "--study", "c.yaml", "--json").json()
    assert (base["change"], idle["change"]) == ("", "no-op") and base["fingerprint"] != idle["fingerprint"]
    assert [base[key] for key in ("metrics", "params", "macs")] == [idle[key] for key in ("metrics", "params", "macs")]
    losses = [(tmp_path / "runs" / "c" / r["id"] / "losses.jsonl").read_bytes() for r in (base, idle)]
    assert losses[0] == losses[1]
    assert base["resolved"]["model"] == idle["resolved"]["model"] and idle["resolved"]["control"] == "no-op"


def test_a_trial_without_a_control_has_the_fingerprint_it_had_before_there_were_controls() -> None:
    trial = expand(plan_of(steps=("9",))).trials[0]
    assert "control" not in trial.identity()
    assert replace(trial, control="no-op").fingerprint != trial.fingerprint
    assert Trial.from_json(json.loads(json.dumps(replace(trial, control="no-op").to_json()))).control == "no-op"


def test_a_plan_from_the_command_line_is_checked_like_a_file() -> None:
    with pytest.raises(ConfigError) as e:
        plan_of(design="grid", controls=("b-b",), cross={"kernel_size": [3]})
    assert [fault.field for fault in e.value.faults] == ["controls", "cross", "changes"]
    assert "study p.changes is empty in a grid design" in str(e.value)


def test_a_recipe_asked_for_is_every_cells() -> None:
    study = expand(
        plan_of(design="one-at-a-time", base="9", recipe="digits-sgd", changes=({"recipe.lr": 0.5}, {"batch_size": 32}))
    )
    sgd = find_recipe("digits-sgd")
    assert [t.recipe for t in study.trials] == [sgd, replace(sgd, lr=0.5), sgd.with_batch_size(32)]
