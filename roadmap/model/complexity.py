"""Parameters and multiply-adds, counted on the built module.

torch is imported by the functions, so that the package loads without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from roadmap.config.model import AnySpec, ModelSpec, TimmSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from roadmap.model.network import ModernizableResNet


@dataclass(frozen=True)
class Complexity:
    """Size of a network.

    params: learnable scalars. macs: multiply-adds of convolutions and linear layers for one image,
    as the papers count.
    """

    params: int
    macs: int


def macs_of(model: nn.Module, in_chans: int, image_size: int) -> int:
    """Run one image through the model and add up its convolutions and linear layers."""
    import torch
    from torch import nn

    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        per_output = module.weight[0].numel()  # type: ignore[index]
        total += output.numel() * per_output

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    device = next(model.parameters()).device
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, in_chans, image_size, image_size, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return total


def params_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def on_meta(spec: ModelSpec) -> ModernizableResNet:
    """The network without memory behind it: for counting and comparing."""
    import torch

    from roadmap.model.network import ModernizableResNet

    with torch.device("meta"):
        return ModernizableResNet(spec)


def timm_on_meta(spec: TimmSpec, image_size: int) -> nn.Module:
    """The same of a network of timm, whose weights may depend on the size of its images."""
    import torch

    from roadmap.model.build import build_network

    with torch.device("meta"):
        return build_network(spec, image_size)


@lru_cache(maxsize=256)
def complexity(spec: AnySpec, image_size: int) -> Complexity:
    """Count a spec's network at `image_size` pixels; timm's with the products inside attention."""
    if isinstance(spec, TimmSpec):
        return _complexity_of_timm(spec, image_size)
    model = on_meta(spec)
    return Complexity(params=params_of(model), macs=macs_of(model, spec.in_chans, image_size))


def _complexity_of_timm(spec: TimmSpec, image_size: int) -> Complexity:
    from roadmap.model.build import macs_by_operator

    model = timm_on_meta(spec, image_size)
    return Complexity(params=params_of(model), macs=macs_by_operator(model, spec.in_chans, image_size))
