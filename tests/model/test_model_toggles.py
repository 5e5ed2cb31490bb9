"""Every toggle can be changed alone wherever the result is a network; what is not is refused with the reason."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roadmap.config.errors import ConfigError
from roadmap.config.fields import show
from roadmap.config.model import DEPENDENCIES, Dependency, ModelSpec, broken_dependencies
from roadmap.model.build import build_model
from roadmap.model.network import ModernizableResNet
from tests.helpers.convnext import ladder, resolve

MICRO = resolve("baseline", "micro")
SETTINGS: dict[str, list[Any]] = {
    "depths": [(1, 1, 1, 1), (1, 2), (2,)],
    "width": [8, 12],
    "stem": ["resnet", "patchify", "cifar"],
    "stem_stride": [1, 2, 3, 4],
    "depthwise": [False, True],
    "inverted_bottleneck": [False, True],
    "move_up_depthwise": [False, True],
    "kernel_size": [1, 3, 7],
    "activation": ["relu", "gelu"],
    "activations": ["all", "one"],
    "norms": ["all", "one"],
    "norm": ["batch", "layer"],
    "grn": [False, True],
    "conv_bias": [False, True],
    "downsampling": ["block", "separate", "none"],
    "layer_scale": [None, 1e-6, 0.1],
    "drop_path_rate": [0.0, 0.2],
    "init": ["kaiming", "trunc_normal", "pytorch"],
    "head_init_scale": [1.0, 0.001],
    "num_classes": [0, 1, 3],
    "in_chans": [1, 3],
}
COMBINATIONS = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in SETTINGS.items()})
STEPS = [s.name for s in ladder(side_steps=True)]


def is_broken(d: Dependency, combination: dict[str, Any]) -> bool:
    """Written from the table's columns alone, so that a spec that forgets to look is noticed."""
    seen = {**combination, "stages": len(combination["depths"])}
    return seen[d.toggle] == d.setting and seen[d.needs] not in d.legal


def test_every_toggle_is_varied_here() -> None:
    assert set(SETTINGS) == {f.name for f in fields(ModelSpec)}


def forward_and_backward(spec: ModelSpec) -> None:
    model = ModernizableResNet(spec).train()
    pixels = 2 * spec.stage_strides[-1]
    x = torch.randn(2, spec.in_chans, pixels, pixels, requires_grad=True)
    y = model(x)
    assert y.shape == (2, spec.num_classes or spec.stage_channels[-1])
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert x.grad is not None


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    derandomize=True,
)
@given(COMBINATIONS)
def test_a_combination_either_trains_or_is_refused_with_its_reasons(combination: dict[str, Any]) -> None:
    broken = [d for d in DEPENDENCIES if is_broken(d, combination)]
    if not broken:
        forward_and_backward(ModelSpec(**combination))
        return
    with pytest.raises(ConfigError) as e:
        ModelSpec(**combination)
    assert all(d.reason in str(e.value) for d in broken)
    assert len(str(e.value).splitlines()) == len(broken)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(COMBINATIONS.filter(lambda c: not any(is_broken(d, c) for d in DEPENDENCIES)))
def test_legal_combinations_run_forward_and_backward(combination: dict[str, Any]) -> None:
    forward_and_backward(ModelSpec(**combination))


@pytest.mark.sampled(1, ci=7)
@pytest.mark.parametrize("step", STEPS)
def test_every_toggle_can_be_changed_alone_from_the_step(step: str) -> None:
    """On the meta device and with fewer blocks; the property tests above train samples."""
    base = resolve(step, "micro", depths=(1, 1))
    built = 0
    for name, values in SETTINGS.items():
        for value in (v for v in values if v != getattr(base, name)):
            combination = {**{f.name: getattr(base, f.name) for f in fields(ModelSpec)}, name: value}
            if any(is_broken(d, combination) for d in DEPENDENCIES):
                with pytest.raises(ConfigError, match="reason"):
                    replace(base, **{name: value})
                continue
            changed = replace(base, **{name: value})
            with torch.device("meta"):
                model = ModernizableResNet(changed).train()
                assert model(torch.zeros(2, changed.in_chans, 64, 64)).shape == (
                    2,
                    changed.num_classes or changed.stage_channels[-1],
                )
            built += 1
    assert built > len(SETTINGS)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_the_micro_regime_runs_forward_and_backward(step: str) -> None:
    forward_and_backward(resolve(step, "micro"))


BREAKING: dict[tuple[str, Any, str], dict[str, Any]] = {
    ("move_up_depthwise", True, "inverted_bottleneck"): {"move_up_depthwise": True},
    ("downsampling", "separate", "inverted_bottleneck"): {"downsampling": "separate"},
    ("stem", "resnet", "stem_stride"): {"stem_stride": 3},
    ("stem", "cifar", "stem_stride"): {"stem": "cifar", "stem_stride": 4},
    ("downsampling", "none", "stages"): {"downsampling": "none", "inverted_bottleneck": True},
    ("downsampling", "none", "inverted_bottleneck"): {"downsampling": "none", "depths": (2,)},
}


@pytest.mark.parametrize("d", DEPENDENCIES, ids=lambda d: f"{d.toggle}-{d.setting}-{d.needs}")
def test_each_dependency_is_refused_with_both_toggles_the_reason_and_the_remedy(d: Dependency) -> None:
    settings = BREAKING[(d.toggle, d.setting, d.needs)]
    with pytest.raises(ConfigError) as e:
        ModelSpec(**settings)
    (message,) = str(e.value).splitlines()
    legal = " or ".join(map(show, d.legal))
    assert message.startswith(f"ModelSpec.{d.toggle} is {show(d.setting)}, which needs {d.needs} {legal}, not ")
    remedy = d.remedy or f"set {d.needs}={legal}"
    assert message.endswith(f"{d.reason}; {remedy} or change {d.toggle}")


@pytest.mark.parametrize("d", DEPENDENCIES, ids=lambda d: f"{d.toggle}-{d.setting}-{d.needs}")
def test_each_dependency_is_needed(d: Dependency) -> None:
    """Without its table entry the same settings would pass or fail later: the entry alone is what refuses."""
    spec = object.__new__(ModelSpec)
    for f in fields(ModelSpec):
        object.__setattr__(spec, f.name, BREAKING[(d.toggle, d.setting, d.needs)].get(f.name, f.default))
    assert len(broken_dependencies(spec)) == 1


def test_settings_on_a_ready_spec_are_applied_and_checked() -> None:
    assert build_model(MICRO, num_classes=7, width=8).num_classes == 7
    with pytest.raises(ConfigError, match="toggle 'kernel_siz' is unknown; .*did you mean 'kernel_size'"):
        build_model(MICRO, kernel_siz=5)


@pytest.mark.parametrize("downsampling", ["block", "separate"])
def test_the_cifar_stem_is_a_convolution_and_one_norm_and_keeps_the_resolution(downsampling: str) -> None:
    model = build_model("inverted-bottleneck", "cifar", stem="cifar", stem_stride=1, downsampling=downsampling)
    assert [type(m).__name__ for m in model.stem] == ["Conv2d", "BatchNorm2d"]
    assert model.stem(torch.randn(2, 3, 32, 32)).shape == (2, 40, 32, 32)
