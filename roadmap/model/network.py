"""The one network: stem, stages, head.

From ResNet to ConvNeXt V2, every difference is a toggle of ModelSpec.

Besides `forward` it offers what timm's tools ask of a network: feature maps, gradient
checkpointing, a classifier that can be replaced, and parameter groups for layer-wise decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn
from torch.nn.init import kaiming_normal_, trunc_normal_, zeros_

from roadmap.config.model import ModelSpec
from roadmap.model.block import Block
from roadmap.model.checkpointing import checkpointed
from roadmap.model.head import build_head, scale_classifier
from roadmap.model.layers import NORMS, GlobalResponseNorm
from roadmap.model.residual import RESIDUAL, Residual, to_stream
from roadmap.model.stem import build_stem


class Stage(nn.Module):
    """Blocks at one width. (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""

    def __init__(self, spec: ModelSpec, c_in: int, c_out: int, stride: int, drop_path_rates: list[float]) -> None:
        super().__init__()
        separate = stride > 1 and spec.downsampling == "separate"
        self.grad_checkpointing = False
        self.downsample = _downsample(spec, c_in, c_out, stride) if separate else nn.Identity()
        first_in, first_stride = (c_out, 1) if separate else (c_in, stride)
        first = Block(spec, first_in, c_out, stride=first_stride, drop_path=drop_path_rates[0])
        others = [Block(spec, c_out, c_out, drop_path=rate) for rate in drop_path_rates[1:]]
        self.blocks = nn.Sequential(first, *others)
        self.residual: Residual = RESIDUAL

    def forward(self, x: Tensor) -> Tensor:
        x = to_stream(self.downsample(x), self.residual)  # of the first stage: what the stem gives
        return checkpointed(self.blocks, x) if self.grad_checkpointing else self.blocks(x)


def _downsample(spec: ModelSpec, c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """Norm, then a 2x2/2 convolution with bias between two stages (Section 2.6)."""
    return nn.Sequential(NORMS[spec.norm](c_in), nn.Conv2d(c_in, c_out, stride, stride=stride))


def _build_stages(spec: ModelSpec) -> nn.Sequential:
    """(N, width, H, W) -> (N, stage_channels[-1], H/r, W/r): stages after the first halve both."""
    rates: Any = calculate_drop_path_rates(spec.drop_path_rate, list(spec.depths), stagewise=True)
    stages: list[nn.Module] = []
    c_in, stride = spec.width, 1
    for c_out, drop_path_rates in zip(spec.stage_channels, rates, strict=True):
        stages.append(Stage(spec, c_in, c_out, stride, drop_path_rates))
        c_in, stride = c_out, 2
    return nn.Sequential(*stages)


class ModernizableResNet(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes).

    Built from a ModelSpec; state-dict keys are timm's ConvNeXt keys.

    global_pool: timm's pooling name; "" leaves a map of logits (N, num_classes, h, w).
    drop_rate: dropout before the classifier.
    """

    def __init__(self, spec: ModelSpec, *, global_pool: str = "avg", drop_rate: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.num_classes, self.in_chans, self.drop_rate = spec.num_classes, spec.in_chans, drop_rate
        self.num_features = spec.stage_channels[-1]
        self.stem = build_stem(spec)
        self.stages = _build_stages(spec)
        self.head = build_head(spec, global_pool=global_pool, drop_rate=drop_rate)
        self.head_hidden_size = self.head.num_features
        shapes = zip(spec.stage_channels, spec.stage_strides, strict=True)
        self.feature_info = [{"num_chs": c, "reduction": s, "module": f"stages.{i}"} for i, (c, s) in enumerate(shapes)]
        INITS[spec.init](self)
        scale_classifier(self.head.fc, spec.head_init_scale)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_features, H/s, W/s), s the last of spec.stage_strides."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> (N, num_classes), or (N, num_features) if pre_logits."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps at the end of the stages in `indices`; the last map before them if asked for.

        indices: None for all, an int for that many last ones. norm: timm's argument; there is no norm after
        the last stage to apply. stop_early: stages after the last index are not run. Raises ValueError.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"forward_intermediates.output_fmt is {output_fmt!r}; legal: NCHW; leave it out")
        taken, last = _taken(len(self.stages), indices)
        maps = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in taken:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last index, and the head with them.

        The spec no longer describes what is left.
        """
        taken, last = _taken(len(self.stages), indices)
        cut = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if cut:
            self.num_features = self.head_hidden_size = self.spec.stage_channels[last]
        if prune_head or cut:
            self.reset_classifier(0, "", reset_other=True)
        return taken

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """Put in a new classifier (none for 0 classes), initialized as the spec says.

        reset_other: the norm before it goes too.
        """
        self.num_classes = num_classes
        self.spec = replace(self.spec, num_classes=num_classes)
        like = next(self.parameters())
        self.head.reset(
            num_classes,
            global_pool,
            reset_other=reset_other,
            in_features=self.num_features,
            device=like.device,
            dtype=like.dtype,
        )
        self.head_hidden_size = self.head.num_features
        INITS[self.spec.init](self.head.fc)
        scale_classifier(self.head.fc, self.spec.head_init_scale)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for m in self.modules():
            if isinstance(m, Stage):
                m.grad_checkpointing = enable

    def set_residual(self, residual: Residual) -> None:
        """Choose the number format of the residual stream under autocast; see model/residual.py."""
        for m in self.modules():
            if isinstance(m, Stage | Block):
                m.residual = residual

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's parameter groups: the stem, then each block (each stage if coarse), then the head.

        A downsampling counts with the block after it.
        """
        blocks: Any = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        if coarse:
            blocks = r"^stages\.(\d+)"
        return {"stem": r"^stem", "blocks": blocks}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that never get weight decay: GRN's (V2 paper)."""
        names: set[str] = set()
        for layer, module in self.named_modules():
            if isinstance(module, GlobalResponseNorm):
                names |= {f"{layer}.weight", f"{layer}.bias"}
        return names


def _from_start(index: int, stages: int) -> int:
    """The index counted from 0, of one that may count from the end."""
    return index + stages if index < 0 else index


def _taken(stages: int, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
    """The stages asked for, counted from 0, and the last of them. Raises ValueError."""
    if indices is None:
        taken = list(range(stages))
    elif isinstance(indices, int):
        taken = list(range(stages - indices, stages))
    else:
        taken = [_from_start(i, stages) for i in indices]
    if not taken or not all(0 <= i < stages for i in taken):
        raise ValueError(
            f"indices are {indices!r}; legal: stages from 0 to {stages - 1}, or the number of last stages; "
            "choose among them"
        )
    return taken, max(taken)


def _init_kaiming(model: nn.Module) -> None:
    """torchvision's ResNet: fan-out normal convolutions, unit norms; the head stays as built."""
    for name, m in model.named_modules():
        if name and not name.startswith("head.") and isinstance(m, (nn.Conv2d, nn.Linear)):
            kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                zeros_(m.bias)


def _init_trunc_normal(model: nn.Module) -> None:
    """Truncated normal of std .02, zero biases: the authors' code (their Table 5 prints 0.2)."""
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                zeros_(m.bias)


INITS = {"kaiming": _init_kaiming, "trunc_normal": _init_trunc_normal, "pytorch": lambda model: None}
