"""The second ladder: timm's networks by timm's keywords, in one file, with nothing changed elsewhere."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import timm
import torch

from roadmap.config.errors import ConfigError
from roadmap.config.fields import diff
from roadmap.config.model import TimmSpec, with_settings
from roadmap.ladder import Step, deit, find_ladder
from roadmap.model.build import build_network
from roadmap.model.complexity import complexity

DEIT = find_ladder("deit")
STEPS = DEIT.order(side_steps=True)
BY_STEP = pytest.mark.parametrize("step", STEPS, ids=lambda s: s.name)


def test_the_ladder_is_one_short_file() -> None:
    assert len(Path(inspect.getfile(deit)).read_text().splitlines()) <= 80


def test_it_starts_at_timms_own_vit_to_the_bit() -> None:
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    theirs = timm.create_model("vit_small_patch16_224").eval()
    torch.manual_seed(0)
    ours = build_network(DEIT.model("vit", "small"), 224).eval()
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))


@BY_STEP
@pytest.mark.parametrize("regime", DEIT.regimes)
def test_a_step_differs_from_its_parent_in_what_it_sets(step: Step, regime: str) -> None:
    if step.parent is not None:
        changed = diff(DEIT.model(step.parent, regime), DEIT.model(step.name, regime))
        assert {name: after for name, (_, after) in changed.items()} == DEIT.overrides(step, regime)


@BY_STEP
def test_every_step_is_built_and_answers(step: Step) -> None:
    network = build_network(DEIT.model(step.name, "micro"), 16).eval()
    assert network(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def test_the_gated_mlp_has_as_many_parameters_as_the_one_it_replaces() -> None:
    before, after = (complexity(DEIT.model(name, "small"), 224).params for name in ("qk-norm", "gated-mlp"))
    assert after == pytest.approx(before, rel=1e-3)


def test_a_keyword_that_timm_does_not_take_is_refused_with_the_network_and_the_reason() -> None:
    spec = with_settings(TimmSpec(timm="vit_tiny_patch16_224"), {"clas_token": False})
    with pytest.raises(ConfigError, match="vit_tiny_patch16_224 cannot be built .*clas_token.*; legal: "):
        build_network(spec, 224)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deitt", "did you mean 'deit'"),
        ("no_such_module:LADDER", "cannot be loaded"),
        ("roadmap.ladder.deit:VIT", "is dict; legal: a roadmap.ladder.Ladder"),
        ("roadmap.ladder.deit:NONE", "cannot be loaded"),
    ],
)
def test_a_ladder_that_is_not_there_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as e:
        find_ladder(name)
    assert message in str(e.value)


def test_a_ladder_of_another_package_is_found_by_module_and_name() -> None:
    assert find_ladder("roadmap.ladder.deit:DEIT") is DEIT
