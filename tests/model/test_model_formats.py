"""Number formats under autocast: the residual stream's is declared, whatever an architecture holds.

Looked at without data or arithmetic, as on a CPU and as on a GPU.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from roadmap.config.model import ModelSpec, TimmSpec
from roadmap.ladder import Step
from roadmap.model.block import Block
from roadmap.model.build import build_network
from roadmap.model.complexity import on_meta
from roadmap.model.layers import DropPath, GlobalResponseNorm
from roadmap.train.criterion import seed_group
from roadmap.train.formats import observed_residual
from roadmap.train.microbatch import draw_masks, set_masks
from tests.helpers.convnext import ladder, resolve

PRODUCTS = {torch.ops.aten.convolution.default, torch.ops.aten.addmm.default, torch.ops.aten.mm.default}
STREAMS = {"fp32": torch.float32, "compute": torch.bfloat16}
BATCH = 32


@dataclass
class Formats:
    """What a pass showed: formats of the stream, of the factors of products, of the logits; bytes saved an image."""

    stream: set[torch.dtype] = field(default_factory=set)
    factors: set[torch.dtype] = field(default_factory=set)
    logits: torch.dtype | None = None
    saved: float = 0.0


class Products(TorchDispatchMode):
    """Notes the formats of what convolutions and matrix products take."""

    def __init__(self, seen: set[torch.dtype]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.seen |= {a.dtype for a in args if isinstance(a, Tensor)}
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def autocast(device: str, dtype: torch.dtype) -> Iterator[None]:
    """torch.autocast, which by itself refuses GPUs where there is none."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


def look(spec: ModelSpec, device: str, residual: str, image_size: int = 64) -> Formats:
    """A training pass of the network without arithmetic."""
    model, seen = on_meta(spec).train(), Formats()
    model.set_residual(residual)  # type: ignore[arg-type]
    for module in (*(m for m in model.modules() if isinstance(m, Block)), model.head):
        module.register_forward_pre_hook(lambda _module, inputs: seen.stream.add(inputs[0].dtype))
    saved: dict[int, Tensor] = {}

    def pack(t: Tensor) -> Tensor:
        return saved.setdefault(t.untyped_storage()._cdata, t)

    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with FakeTensorMode():
        state = {n: torch.empty(t.shape, dtype=t.dtype, device=device) for n, t in tensors.items()}
        for name, _ in model.named_parameters():
            state[name].requires_grad_()
        images = torch.empty(BATCH, spec.in_chans, image_size, image_size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        keep = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
        with autocast(device, torch.bfloat16), Products(seen.factors), keep:
            seen.logits = torch.func.functional_call(model, state, (images,)).dtype
    weights = {t.untyped_storage()._cdata for t in state.values()}
    seen.saved = sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in weights) / BATCH
    return seen


def small(step: Step) -> ModelSpec:
    return resolve(step.name, "resnet50", depths=(2, 2, 2, 2), drop_path_rate=0.1)


@pytest.mark.sampled(5, ci=30)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("residual", STREAMS)
@pytest.mark.parametrize("step", ladder(side_steps=True), ids=lambda s: s.name)
def test_every_step_has_the_declared_format_of_the_stream_and_autocasts_in_products(
    step: Step, residual: str, device: str
) -> None:
    seen = look(small(step), device, residual)
    assert (seen.stream, seen.factors, seen.logits) == ({STREAMS[residual]}, {torch.bfloat16}, torch.bfloat16)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("step", ladder(), ids=lambda s: s.name)
def test_a_stream_in_autocasts_format_never_saves_more_for_the_backward_pass(step: Step) -> None:
    full, compute = (look(small(step), "cuda", residual).saved for residual in STREAMS)
    assert 0.5 < compute / full <= 1


def test_what_recipe_saves_for_the_backward_pass_at_224_pixels() -> None:
    spec = resolve("recipe", "resnet50")
    saved = {residual: look(spec, "cuda", residual, 224).saved / 1e6 for residual in STREAMS}
    assert saved == {"fp32": pytest.approx(81.5, abs=1), "compute": pytest.approx(56.4, abs=1)}


def test_the_observed_format_is_the_declared_one_for_our_networks_and_timms_own_for_others() -> None:
    ours = resolve("recipe", "micro")
    for residual, dtype in STREAMS.items():
        seen = observed_residual(ours, residual, 32, "cpu", torch.bfloat16)  # type: ignore[arg-type]
        assert seen == (str(dtype).removeprefix("torch."),)
    scaled = TimmSpec(timm="convnext_atto", num_classes=10)
    plain = TimmSpec(timm="convnextv2_atto", num_classes=10)
    assert observed_residual(scaled, "compute", 32, "cpu", torch.bfloat16) == ("float32",)
    assert observed_residual(plain, "compute", 32, "cpu", torch.bfloat16) == ("bfloat16",)


@pytest.mark.parametrize("residual", STREAMS)
@pytest.mark.parametrize("step", ["baseline", "separate-downsampling", "grn"])
def test_nothing_is_converted_without_autocast(step: str, residual: Any) -> None:
    spec = resolve(step, "micro")
    torch.manual_seed(0)
    model = build_network(spec, 32).double().train()
    model.set_residual(residual)
    images = torch.randn(2, spec.in_chans, 32, 32, dtype=torch.float64)
    assert model(images).dtype == torch.float64
    assert model.bfloat16()(images.bfloat16()).dtype == torch.bfloat16


def test_response_normalization_in_low_precision_rounds_only_its_output() -> None:
    torch.manual_seed(0)
    layer = GlobalResponseNorm(64)
    nn.init.normal_(layer.weight, std=0.03)
    nn.init.normal_(layer.bias, std=0.03)
    x = torch.randn(4, 64, 14, 14).bfloat16()
    exact = layer(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    assert low.dtype == torch.bfloat16 and torch.equal(low, exact.bfloat16())


def test_masks_drawn_beforehand_are_those_drawn_on_the_way_in_any_format() -> None:
    layer = DropPath(0.3).train()
    x = torch.rand(64, 3, 2, 2) + 1
    key, cpu = (0, 1, 2), torch.device("cpu")
    seed_group(*key, cpu)
    expected = timm.layers.drop_path(x, 0.3, training=True)
    seed_group(*key, cpu)
    assert torch.equal(layer(x), expected)
    set_masks([layer], draw_masks([layer], [key], 64, cpu))
    assert torch.equal(layer(x), expected) and layer(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(layer.eval()(x), x)
