"""The stem: (N, C_image, H, W) -> (N, width, H/s, W/s) with s = stem_stride."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from roadmap.config.model import ModelSpec
from roadmap.model.block import conv
from roadmap.model.layers import ACTIVATIONS, NORMS


def _resnet(spec: ModelSpec) -> list[nn.Module]:
    """7x7/2, norm, act, 3x3/2 max pool at stride 4; 3x3/s, norm, act below."""
    kernel_size, stride, pool = (7, 2, [nn.MaxPool2d(3, stride=2, padding=1)])
    if spec.stem_stride < 4:
        kernel_size, stride, pool = (3, spec.stem_stride, [])
    first = conv(spec.in_chans, spec.width, kernel_size, stride=stride)
    return [first, NORMS[spec.norm](spec.width), ACTIVATIONS["relu"](), *pool]


def _patchify(spec: ModelSpec) -> list[nn.Module]:
    """One s x s / s convolution with bias; no norm, no activation (from the authors' code)."""
    return [nn.Conv2d(spec.in_chans, spec.width, spec.stem_stride, stride=spec.stem_stride)]


def _cifar(spec: ModelSpec) -> list[nn.Module]:
    """3x3/1 with bias: 32 pixels stay 32. The norm follows in `build_stem`."""
    return [conv(spec.in_chans, spec.width, 3, bias=True)]


STEMS: dict[str, Callable[[ModelSpec], list[nn.Module]]] = {"resnet": _resnet, "patchify": _patchify, "cifar": _cifar}


def build_stem(spec: ModelSpec) -> nn.Sequential:
    """The stem of the setting.

    A norm ends it before separate downsampling, and always in the CIFAR stem.
    """
    last = [NORMS[spec.norm](spec.width)] if spec.downsampling == "separate" or spec.stem == "cifar" else []
    return nn.Sequential(*STEMS[spec.stem](spec), *last)
