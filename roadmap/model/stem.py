"""The stem: (N, C_image, H, W) -> (N, width, H/s, W/s) with s = stem_stride."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from roadmap.config.model import ModelSpec
from roadmap.model.block import conv
from roadmap.model.layers import ACTIVATIONS, NORMS


def _resnet(spec: ModelSpec) -> list[nn.Module]:
    """7x7/2, norm, act, 3x3/2 max pool at stride 4; 3x3/s, norm, act below."""
    small = spec.stem_stride < 4
    first = conv(spec.in_chans, spec.width, 3 if small else 7, stride=spec.stem_stride if small else 2)
    pool: list[nn.Module] = [] if small else [nn.MaxPool2d(3, stride=2, padding=1)]
    return [first, NORMS[spec.norm](spec.width), ACTIVATIONS["relu"](), *pool]


def _patchify(spec: ModelSpec) -> list[nn.Module]:
    """One s x s / s convolution with bias; no norm, no activation (inferred from the authors' code)."""
    return [nn.Conv2d(spec.in_chans, spec.width, spec.stem_stride, stride=spec.stem_stride)]


def _cifar(spec: ModelSpec) -> list[nn.Module]:
    """3x3/1 with bias: 32 pixels stay 32. The norm follows in `build_stem`."""
    return [conv(spec.in_chans, spec.width, 3, bias=True)]


STEMS: dict[str, Callable[[ModelSpec], list[nn.Module]]] = {"resnet": _resnet, "patchify": _patchify, "cifar": _cifar}


def build_stem(spec: ModelSpec) -> nn.Sequential:
    """The stem of the setting; separate downsampling puts a norm before every stage, and the CIFAR stem always ends in one."""
    last = [NORMS[spec.norm](spec.width)] if spec.downsampling == "separate" or spec.stem == "cifar" else []
    return nn.Sequential(*STEMS[spec.stem](spec), *last)
