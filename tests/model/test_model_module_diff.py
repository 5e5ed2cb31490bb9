"""What a step says that it changes is what changes in the built network: no more, no less."""

from dataclasses import replace
from functools import lru_cache

import pytest

from roadmap.ladder import Regime, Step
from roadmap.model.module_diff import inventory, module_diff, role
from tests.helpers.convnext import REGIMES, STEPS, ladder, resolve, structure_of
from tests.helpers.marks import slow_but

ALL_CHANGES = [
    pytest.param(s, r, id=f"{r.name}-{s.name}") for r in REGIMES.values() for s in ladder(side_steps=True) if s.parent
]
CHANGES = slow_but(lambda _, regime: regime.name in ("resnet50", "micro"), ALL_CHANGES)


@lru_cache
def computed(step: str, regime: str) -> frozenset[str]:
    parent = STEPS[step].parent
    assert parent is not None
    return module_diff(resolve(parent, regime), resolve(step, regime), REGIMES[regime].image_size).roles


def disagreement(step: Step, regime: Regime) -> frozenset[str]:
    return computed(step.name, regime.name) ^ structure_of(step, regime)


@pytest.mark.sampled(12, ci=40)
@pytest.mark.parametrize(("step", "regime"), CHANGES)
def test_declared_structure_is_the_computed_one(step: Step, regime: Regime) -> None:
    assert disagreement(step, regime) == frozenset()


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("step", "regime"), CHANGES)
def test_a_wrong_declaration_is_noticed(step: Step, regime: Regime) -> None:
    """The comparison above finds both a role too many and a role too few."""
    assert disagreement(replace(step, structure=step.structure | {"+head.norm.extra"}), regime) == {"+head.norm.extra"}
    for one in step.structure - regime.structure.get(step.name, frozenset()):
        assert disagreement(replace(step, structure=step.structure - {one}), regime) == {one}


def test_a_step_changes_its_block_everywhere_it_stands() -> None:
    diff = module_diff(resolve("move-up-depthwise"), resolve("kernel-7"), 224)
    assert len(diff.changed) == sum(resolve("kernel-7").depths)
    assert {role(name) for name in diff.changed} == {"block.conv_dw"}


def test_the_paper_counts_of_norms_and_activations() -> None:
    """Section 2.6: after `fewer-norms` and `fewer-activations` a block has one of each."""
    before, after = (inventory(resolve(s), 224) for s in ("gelu", "fewer-norms"))
    blocks = sum(resolve("gelu").depths)
    assert (before.activations, before.norms) == (3 * blocks, 3 * blocks + 3)
    assert (after.activations, after.norms) == (blocks, blocks + 3)


def test_the_moving_average_leaves_the_network_alone() -> None:
    for regime in REGIMES:
        assert resolve("ema", regime) == resolve(STEPS["ema"].parent or "", regime)
