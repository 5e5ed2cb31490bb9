"""The published families: their counts, and outputs and gradients of timm's and torchvision's networks."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from timm.layers.grn import GlobalResponseNorm as TimmGRN
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import roadmap.model
from roadmap.config.errors import ConfigError
from roadmap.ladder.published import ISOTROPIC, V1, V2
from roadmap.model import ModernizableResNet, load_weights
from roadmap.model.block import Block
from roadmap.model.complexity import complexity, on_meta, params_of
from roadmap.model.layers import GlobalResponseNorm
from roadmap.model.published import VARIANTS, models_page, variant_spec
from tests.helpers.convnext import resolve
from tests.helpers.marks import slow_but

OnMemory = Callable[[Callable[[], nn.Module]], nn.Module]
IN_TIMM = [v.name for v in VARIANTS.values() if v.timm]
HEAVY = ("convnext_large", "convnext_xlarge", "convnextv2_large", "convnextv2_huge")
LARGE = ("convnext_large", "convnextv2_large")
FAST = ("convnext_tiny", "convnextv2_atto", "convnextv2_pico")
AT_FULL_DEPTH = [
    *slow_but(lambda name: name in FAST, [name for name in IN_TIMM if name not in HEAVY]),
    *(pytest.param(name, marks=[pytest.mark.slow, pytest.mark.soak]) for name in LARGE),
]
ROOT = Path(__file__).parents[2]


def meta_params(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return params_of(build())


def test_there_are_five_v1_eight_v2_and_three_isotropic_networks() -> None:
    families = [v.family for v in VARIANTS.values()]
    assert [families.count(f) for f in (V1, V2, ISOTROPIC)] == [5, 8, 3]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", IN_TIMM)
def test_parameters_equal_timms_to_the_unit(name: str) -> None:
    assert complexity(VARIANTS[name].spec, 224).params == meta_params(lambda: timm.create_model(name))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", VARIANTS)
def test_counts_are_the_published_ones(name: str) -> None:
    v = VARIANTS[name]
    count = complexity(v.spec, 224)
    digits = {
        "convnextv2_tiny": 4.46
    }  # printed 4.47, as the roadmap's last row is printed 4.49: more than convolutions and linear layers counted
    for published, counted in ((v.params, count.params / 1e6), (digits.get(name, v.gmacs), count.macs / 1e9)):
        unit = 10.0 ** -len(f"{published:g}".partition(".")[2])
        assert abs(counted - published) <= unit / 2 + 1e-9


ENDS = [
    ("convnext_tiny", "separate-downsampling", "resnet50"),
    ("convnext_base", "ema", "resnet200"),
    ("convnextv2_tiny", "grn", "resnet50"),
    ("convnextv2_base", "grn", "resnet200"),
]


@pytest.mark.parametrize(("name", "step", "regime"), ENDS)
def test_the_ladder_ends_at_the_published_networks(name: str, step: str, regime: str) -> None:
    spec = VARIANTS[name].spec
    assert replace(resolve(step, regime), drop_path_rate=spec.drop_path_rate) == spec
    if not spec.grn:
        assert resolve(step, regime) == spec


def test_cifars_last_step_has_the_size_of_v2_atto() -> None:
    atto, cifar = VARIANTS["convnextv2_atto"].spec, resolve("grn", "cifar")
    assert (cifar.depths, cifar.width, cifar.grn, cifar.layer_scale) == (atto.depths, atto.width, True, None)


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_has_a_builder_of_its_name(name: str) -> None:
    with torch.device("meta"):
        model = getattr(roadmap.model, name)(
            num_classes=7, in_chans=2, drop_path_rate=0.25, layer_scale_init_value=0.5, head_init_scale=0.1
        )
    assert model.spec == replace(
        VARIANTS[name].spec, num_classes=7, in_chans=2, drop_path_rate=0.25, layer_scale=0.5, head_init_scale=0.1
    )


@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_atto", "convnext_isotropic_small"])
def test_the_builders_arguments_reach_the_network(name: str) -> None:
    build = getattr(roadmap.model, name)
    model = build(drop_path_rate=0.3, layer_scale_init_value=0.25, head_init_scale=0.001, use_cifar_stem=True)
    blocks = [b for s in model.stages for b in s.blocks]
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for b in blocks]
    assert rates == pytest.approx([0.3 * i / (len(blocks) - 1) for i in range(len(blocks))])
    assert all((b.gamma == 0.25).all() for b in blocks)
    assert model.stem(torch.randn(1, 3, 32, 32)).shape == (1, model.spec.width, 32, 32)
    assert [type(m).__name__ for m in model.stem] == ["Conv2d", "LayerNorm2d"]
    assert float(model.head.fc.weight.detach().std()) == pytest.approx(0.001 * 0.02, rel=0.05)
    assert build(layer_scale_init_value=0).stages[0].blocks[0].gamma is None


def test_initial_weights_are_truncated_normal_with_zero_biases() -> None:
    model = roadmap.model.convnextv2_atto()
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            assert m.bias is None or (m.bias == 0).all()
            if m.weight.numel() > 10_000:
                assert (
                    float(m.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
                    and abs(float(m.weight.detach().mean())) < 1e-3
                )


def test_an_unknown_variant_gets_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match="variant 'convnext_tinny' is unknown; legal: .*did you mean 'convnext_tiny'"):
        variant_spec("convnext_tinny")


def compare(
    ours: nn.Module, theirs: nn.Module, state: dict[str, Tensor], names: Callable[[str], str], size: int = 64
) -> None:
    """Outputs within 1e-5 in eval and train mode; gradients within 1e-4 of their norm, tensor by tensor."""
    load_weights(ours, state)
    x, upstream = torch.randn(1, 3, size, size), None
    with torch.no_grad():
        assert float((ours.eval()(x) - theirs.eval()(x)).abs().max()) <= 1e-5
    for model in (ours, theirs):
        y = model.train()(x)
        upstream = torch.randn_like(y) if upstream is None else upstream
        y.backward(upstream)
    expected = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        grad = expected[names(name)].grad
        assert p.grad is not None and grad is not None
        assert (p.grad.flatten() - grad.flatten()).norm() <= 1e-4 * grad.norm(), name


@pytest.mark.parametrize("name", AT_FULL_DEPTH)
def test_outputs_and_gradients_equal_timms(name: str, on_memory: OnMemory) -> None:
    theirs = on_memory(lambda: timm.create_model(name))
    ours = on_memory(lambda: ModernizableResNet(replace(VARIANTS[name].spec, drop_path_rate=0.0)))
    compare(ours, theirs, theirs.state_dict(), lambda n: n)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_wide_variants_at_reduced_depth_equal_timms(name: str, on_memory: OnMemory) -> None:
    theirs = on_memory(lambda: timm.create_model(name, depths=(1, 1, 1, 1), num_classes=10))
    spec = replace(VARIANTS[name].spec, depths=(1, 1, 1, 1), num_classes=10, drop_path_rate=0.0)
    ours = on_memory(lambda: ModernizableResNet(spec))
    compare(ours, theirs, theirs.state_dict(), lambda n: n)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "name",
    [
        "convnext_tiny",
        "convnext_small",
        pytest.param("convnext_base", marks=pytest.mark.slow),
        pytest.param("convnext_large", marks=pytest.mark.slow),
    ],
)
def test_outputs_and_gradients_equal_torchvisions(name: str, on_memory: OnMemory) -> None:
    theirs = on_memory(lambda: torchvision.models.get_model(name, stochastic_depth_prob=0.0))
    ours = on_memory(lambda: ModernizableResNet(replace(VARIANTS[name].spec, drop_path_rate=0.0)))
    from roadmap.model.state_dict_formats import from_ours

    renamed = dict(zip(ours.state_dict(), from_ours(ours.state_dict(), "torchvision"), strict=True))
    compare(ours, theirs, theirs.state_dict(), renamed.__getitem__)


def grn_pair(channels: int) -> tuple[GlobalResponseNorm, nn.Module]:
    ours, theirs = GlobalResponseNorm(channels), TimmGRN(channels, channels_last=False)
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_grn_equals_timms_forward_and_backward(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours, theirs = grn_pair(24)
    x = torch.randn(3, 24, 5, 7).to(memory_format=memory_format)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(i) for layer, i in zip((ours, theirs), inputs, strict=True)]
    upstream = torch.randn_like(x)
    for y in outputs:
        y.backward(upstream)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-4)


def test_grn_divides_by_the_mean_over_channels() -> None:
    layer = GlobalResponseNorm(2)
    nn.init.ones_(layer.weight)
    x = torch.tensor([3.0, 1.0]).reshape(1, 2, 1, 1)
    assert layer(x).flatten().tolist() == pytest.approx([3 + 3 * 3 / 2, 1 + 1 * 1 / 2], rel=1e-5)


def test_grn_derivatives_are_right() -> None:
    ours, _ = grn_pair(4)
    assert torch.autograd.gradcheck(ours.double(), (torch.randn(2, 4, 3, 3, dtype=torch.double, requires_grad=True),))


def test_grn_of_nothing_is_finite_and_so_are_its_gradients() -> None:
    layer, _ = grn_pair(4)
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_grn_does_not_overflow_in_float16() -> None:
    layer = GlobalResponseNorm(4).half()
    nn.init.ones_(layer.weight)
    assert torch.isfinite(layer(torch.full((1, 4, 56, 56), 2000.0, dtype=torch.float16))).all()


def test_a_zero_initialized_v2_block_computes_exactly_the_block_without_grn() -> None:
    torch.manual_seed(0)
    with_grn, without = (Block(resolve("grn", "micro", grn=value), 24, 24) for value in (True, False))
    state = with_grn.state_dict()
    without.load_state_dict({k: v for k, v in state.items() if "grn" not in k}, strict=True)
    x = torch.randn(2, 24, 8, 8)
    assert torch.equal(with_grn(x), without(x))
    assert {k for k in state if "grn" in k} == {"mlp.grn.weight", "mlp.grn.bias"}


def test_grn_parameters_start_at_zero_and_never_decay() -> None:
    model = roadmap.model.convnextv2_atto()
    grn = {n: p for n, p in model.named_parameters() if ".grn." in n}
    assert set(grn) == model.no_weight_decay() and len(grn) == 2 * sum(model.spec.depths)
    assert all((p == 0).all() for p in grn.values())
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05)
    free = {id(p) for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]}
    assert {id(p) for p in grn.values()} <= free


@pytest.mark.slow
def test_models_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "models.md").read_text() == models_page(), (
        "run python -m roadmap.model.published > docs/models.md"
    )


def test_the_table_of_variants_needs_no_torch() -> None:
    code = "import sys, roadmap.ladder.published; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_reduced_counts_follow_from_the_spec() -> None:
    assert params_of(on_meta(variant_spec("convnext_tiny", num_classes=10))) == 28_589_128 - 990 * 769
