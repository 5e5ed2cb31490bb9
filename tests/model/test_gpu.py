"""On a GPU: the ends of the ladder against torchvision and timm.

In float32 and bfloat16; eager, channels last and compiled.
"""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from roadmap.model import build_model, load_weights

OnMemory = Callable[[Callable[[], nn.Module]], nn.Module]

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

ENDS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "baseline": (torchvision.models.resnet50, "resnet50"),
    "separate-downsampling": (partial(timm.create_model, "convnext_tiny"), "resnet50"),
    "grn": (partial(timm.create_model, "convnextv2_tiny"), "resnet50"),
}
WAYS = ("eager", "channels_last", "compiled")
# float32 without TF32: other kernels, other order of sums. bfloat16: 8 bits, relative to the outputs' spread.
FP32, FP32_OTHER_KERNELS, FP32_GRADIENT, BF16 = 1e-5, 5e-5, 1e-3, 0.05


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.compiler.reset()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def pair(step: str, on_memory: OnMemory) -> tuple[nn.Module, nn.Module, Tensor]:
    """Ours and theirs with the same weights, and images."""
    build, regime = ENDS[step]
    theirs, ours = on_memory(build), on_memory(lambda: build_model(step, regime, drop_path_rate=0.0))
    load_weights(ours, theirs.state_dict())
    return ours.cuda(), theirs.cuda(), torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0)).cuda()


def prepared(model: nn.Module, x: Tensor, way: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    if way == "channels_last":
        return model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    return (torch.compile(model) if way == "compiled" else model), x


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ENDS)
def test_outputs_are_equal_in_float32(step: str, way: str, training: bool, on_memory: OnMemory) -> None:
    ours, theirs, x = pair(step, on_memory)
    ours.train(training)
    theirs.train(training)
    with torch.no_grad():
        expected = theirs(x)
        model, x = prepared(ours, x, way)
        found = model(x)
    scale = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= scale * (FP32 if way == "eager" else FP32_OTHER_KERNELS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ENDS)
def test_gradients_are_equal_in_float32(step: str, way: str, on_memory: OnMemory) -> None:
    ours, theirs, x = pair(step, on_memory)
    model, images = prepared(ours.train(), x, way)
    upstream = torch.randn(4, 1000, generator=torch.Generator().manual_seed(1)).cuda()
    model(images).backward(upstream)
    theirs.train()(x).backward(upstream)
    for a, b in zip((p.grad for p in ours.parameters()), reordered(ours, theirs), strict=True):
        assert a is not None and float((a.flatten() - b.flatten()).norm()) <= FP32_GRADIENT * float(b.norm())


def reordered(ours: nn.Module, theirs: nn.Module) -> Iterator[Tensor]:
    """Their gradients in the order of our parameters."""
    from roadmap.model.state_dict_formats import recognize, to_ours

    named, _ = to_ours(
        {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}, recognize(theirs.state_dict())
    )
    return (named[n] for n, _ in ours.named_parameters())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ENDS)
def test_autocast_to_bfloat16_stays_near_float32(step: str, way: str, on_memory: OnMemory) -> None:
    ours, theirs, x = pair(step, on_memory)
    with torch.no_grad():
        expected = theirs(x)
        model, x = prepared(ours, x, way)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found = model(x)
    assert float((found.float() - expected).abs().max()) <= BF16 * float(expected.std()) * 3


@pytest.mark.parametrize("step", ENDS)
def test_autocast_to_bfloat16_trains_with_finite_gradients(step: str, on_memory: OnMemory) -> None:
    ours, _, x = pair(step, on_memory)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = ours.train()(x).float().square().mean()
    loss.backward()
    for p in ours.parameters():
        assert p.grad is not None
        assert p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all()
