"""Part `model`: the first and the last network of the ladder beside their public twins.

Both sides have the same weights and images, so their logits and gradients are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from roadmap.bench.pairs import Check, Finding, interleaved
from roadmap.model.build import build_model
from roadmap.model.state_dict_formats import recognize, to_ours
from roadmap.model.weights import load_weights

METHOD = (
    "Forward and backward of random images of 224 px, wall time, in training mode without stochastic depth: step 0 "
    "beside torchvision's `resnet50`, step 9 beside timm's `convnext_tiny`, with the twin's weights in both."
)
IMAGE_SIZE = 224
BATCH = {"cpu": 4, "cuda": 64}
LOGITS, GRADIENTS = 1e-4, 1e-2  # of the twin's norm: float32 sums in another order
FORMATS = {"nchw": torch.contiguous_format, "channels-last": torch.channels_last}


def networks(device: str, pairs: int, *, batch: int | None = None, pixels: int = IMAGE_SIZE) -> Iterator[Finding]:
    """Compare and time both twins in both memory formats."""
    import timm
    import torchvision

    batch = batch or BATCH[device]
    twins: tuple[tuple[str, str, Callable[[], nn.Module], str, Callable[[], nn.Module]], ...] = (
        ("first", "step 0", lambda: build_model(0), "torchvision resnet50", torchvision.models.resnet50),
        (
            "last",
            "step 9",
            lambda: build_model(9, drop_path_rate=0.0),
            "timm convnext_tiny",
            lambda: timm.create_model("convnext_tiny"),
        ),
    )
    for key, name, make, twin, make_twin in twins:
        ours, theirs = make(), opened(make_twin())
        load_weights(ours, theirs.state_dict())
        for label, memory_format in FORMATS.items():
            a, b = (m.to(device).to(memory_format=memory_format).train() for m in (ours, theirs))
            images = torch.randn(batch, 3, pixels, pixels, device=device)
            images = images.contiguous(memory_format=memory_format)
            yield from compared(f"{name} and {twin}, {label}", a, b, images)
            yield interleaved(
                f"{key}-{label}",
                f"forward + backward, {label}, batch {batch}",
                (name, forward_backward(a, images)),
                (twin, forward_backward(b, images)),
                pairs=pairs,
            )


def opened(model: nn.Module) -> nn.Module:
    """The network with LayerScale at 1: as initialized, at 1e-6, its blocks would not show in the logits."""
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.ones_(parameter)
    return model


def forward_backward(model: nn.Module, images: Tensor) -> Callable[[], None]:
    def act() -> None:
        model(images).sum().backward()

    return act


def compared(name: str, ours: nn.Module, theirs: nn.Module, images: Tensor) -> Iterator[Check]:
    """How far logits and gradients of two networks with the same weights are apart, as parts of the twin's norm.

    images: (N, C, H, W) on their device. Gradients are left as they were found: none.
    """
    outputs = [model(images) for model in (ours, theirs)]
    upstream = torch.randn_like(outputs[0])
    for logits in outputs:
        logits.backward(upstream)
    yield Check(name=f"{name}: logits", apart=apart(*outputs), allowed=LOGITS)
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    renamed, _ = to_ours(gradients, recognize(theirs.state_dict()))
    each = [apart(p.grad, renamed[name]) for name, p in ours.named_parameters() if p.grad is not None]
    whole = len(each) == len(list(ours.parameters())) == len(gradients)
    yield Check(name=f"{name}: gradients", apart=max(each) if whole else float("inf"), allowed=GRADIENTS)
    for model in (ours, theirs):
        model.zero_grad(set_to_none=True)


@torch.no_grad()
def apart(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference as a part of the norm of what is expected."""
    return float((found.flatten() - expected.flatten()).norm() / expected.norm().clamp_min(1e-12))
