"""Every comparison of every plan differs in what it declares and in nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roadmap.config.errors import ConfigError
from roadmap.study.designs import Comparison, design
from roadmap.study.expand import Study, expand
from roadmap.study.file import EXPERIMENTS, read_plan
from roadmap.study.overrides import Override, declared
from roadmap.study.plan import CONTROLS, Plan
from tests.helpers.convnext import REGIMES, STEPS, change_of, find_regime, ladder
from tests.helpers.designs import (
    assert_controlled,
    cells_of,
    different,
    plan_of,
)

STUDIES = sorted(EXPERIMENTS.glob("*.yaml"))


WITH_DIGITS = [p for p in STUDIES if "\ndigits:\n" in p.read_text()]


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
