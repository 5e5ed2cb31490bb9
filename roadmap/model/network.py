"""The one network of the ladder: stem, four stages, head. From ResNet to ConvNeXt, every difference is a toggle of ModelSpec."""

from __future__ import annotations

from typing import Any

from timm.layers import NormMlpClassifierHead, calculate_drop_path_rates
from torch import Tensor, nn
from torch.nn.init import kaiming_normal_, trunc_normal_, zeros_

from roadmap.model.block import Block
from roadmap.model.layers import NORMS
from roadmap.model.stem import build_stem
from roadmap.spec import ModelSpec
from roadmap.steps import resolve


class Stage(nn.Module):
    """Blocks at one width. (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""

    def __init__(self, spec: ModelSpec, c_in: int, c_out: int, stride: int, drop_path_rates: list[float]) -> None:
        super().__init__()
        separate = stride > 1 and spec.downsampling == "separate"
        self.downsample = _downsample(spec, c_in, c_out, stride) if separate else nn.Identity()
        first_in, first_stride = (c_out, 1) if separate else (c_in, stride)
        self.blocks = nn.Sequential(*(
            Block(spec, first_in if i == 0 else c_out, c_out, stride=first_stride if i == 0 else 1, drop_path=rate)
            for i, rate in enumerate(drop_path_rates)
        ))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


def _downsample(spec: ModelSpec, c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """Norm, then a 2x2/2 convolution with bias between two stages (Section 2.6)."""
    return nn.Sequential(NORMS[spec.norm](c_in), nn.Conv2d(c_in, c_out, stride, stride=stride))


class ModernizableResNet(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes). Built from a ModelSpec alone; state-dict keys are timm's ConvNeXt keys."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.num_classes, self.in_chans, self.num_features = spec.num_classes, spec.in_chans, spec.stage_channels[-1]
        self.stem = build_stem(spec)
        rates = calculate_drop_path_rates(spec.drop_path_rate, list(spec.depths), stagewise=True)
        inputs = (spec.width, *spec.stage_channels[:-1])
        self.stages = nn.Sequential(*(
            Stage(spec, c_in, c_out, 1 if i == 0 else 2, rates[i])
            for i, (c_in, c_out) in enumerate(zip(inputs, spec.stage_channels, strict=True))
        ))
        head_norm: Any = NORMS[spec.norm] if spec.downsampling == "separate" else nn.Identity
        self.head = NormMlpClassifierHead(self.num_features, spec.num_classes, norm_layer=_without_factory(head_norm))
        INITS[spec.init](self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_features, H/s, W/s) with s the last of spec.stage_strides."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> (N, num_classes), or (N, num_features) before the classifier."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _without_factory(norm: Any) -> Any:
    """timm's head passes device and dtype to its norm layer; the builders of the tables take channels only."""
    return lambda channels, **_: norm(channels)


def _init_kaiming(model: nn.Module) -> None:
    """torchvision's ResNet: fan-out normal convolutions, unit norms, PyTorch's classifier; stays as built where a Linear is the head's."""
    for name, m in model.named_modules():
        if isinstance(m, nn.Conv2d) or (isinstance(m, nn.Linear) and not name.startswith("head.")):
            kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                zeros_(m.bias)


def _init_trunc_normal(model: nn.Module) -> None:
    """Truncated normal of std .02, zero biases, as in the paper's Table 5 (which prints 0.2) and the authors' code."""
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                zeros_(m.bias)


INITS = {"kaiming": _init_kaiming, "trunc_normal": _init_trunc_normal, "pytorch": lambda model: None}


def build_model(step: str | int | ModelSpec, regime: str = "resnet50", num_classes: int | None = None, **settings: Any) -> ModernizableResNet:
    """The network of a step (id, name, or a ready ModelSpec), with any toggles set on top.

    num_classes: 1000 in the paper's regimes, else the regime's own, unless given. Raises SpecError for a name or a combination that does not exist.
    """
    if num_classes is not None:
        settings["num_classes"] = num_classes
    if isinstance(step, ModelSpec):
        return ModernizableResNet(step)
    return ModernizableResNet(resolve(step, regime, **settings))
