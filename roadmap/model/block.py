"""One residual block, from ResNet's bottleneck to ConvNeXt's: every toggle fills one slot.

x + drop_path(gamma * branch(x)), then `act`; the branch is three convolutions in one of two orders,

    k x k in the middle   expand, spatial, project      (ResNet, ResNeXt, MobileNetV2)
    k x k moved up        spatial, expand, project      (ConvNeXt)

    spatial = conv_dw, norm, act_dw           k x k, carries the stride
    expand  = mlp.fc1, mlp.norm1, mlp.act     1x1 from the input's width to the hidden one
    project = mlp.grn, mlp.fc2, mlp.norm2     1x1 to the block's output

Names are timm's, so that the last step's weights are timm's own; `conv_dw` is dense before the step
`depthwise`. Slots that a setting empties hold nn.Identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roadmap.config.model import ModelSpec
from roadmap.model.layers import NORMS, RESPONSE_NORMS, DropPath, Pointwise, activation
from roadmap.model.residual import RESIDUAL, Residual, to_stream


def conv(c_in: int, c_out: int, kernel_size: int, *, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A k x k convolution padded to keep H x W at stride 1."""
    return nn.Conv2d(c_in, c_out, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=bias)


class Mlp(nn.Module):
    """The two 1x1 convolutions of a block with what stands around them."""

    def __init__(self, spec: ModelSpec, c_in: int, hidden: int, c_out: int) -> None:
        super().__init__()
        norm = NORMS[spec.norm] if spec.norms == "all" else nn.Identity
        self.fc1 = Pointwise(c_in, hidden, bias=spec.conv_bias)
        self.norm1 = norm(hidden)
        # The one activation that stays is the last before the second 1x1: after fc1 where the k x k has moved up.
        self.act = activation(spec, last_before_projection=spec.move_up_depthwise)
        self.grn = RESPONSE_NORMS[spec.grn](hidden)
        self.fc2 = Pointwise(hidden, c_out, bias=spec.conv_bias)
        self.norm2 = norm(c_out)

    def expand(self, x: Tensor) -> Tensor:
        return self.act(self.norm1(self.fc1(x)))

    def project(self, x: Tensor) -> Tensor:
        return self.norm2(self.fc2(self.grn(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.expand(x))


class Block(nn.Module):
    """(N, C_in, H, W) -> (N, C_out, H/stride, W/stride).

    `drop_path` is this block's own stochastic-depth rate. The sum is in the stream's format, whatever
    the branch's and the shortcut's are.
    """

    def __init__(self, spec: ModelSpec, c_in: int, c_out: int, *, stride: int = 1, drop_path: float = 0.0) -> None:
        super().__init__()
        hidden = 4 * c_out if spec.inverted_bottleneck else c_out // 4
        spatial = c_in if spec.move_up_depthwise else hidden
        self.moved_up = spec.move_up_depthwise
        self.conv_dw = conv(
            spatial,
            spatial,
            spec.kernel_size,
            stride=stride,
            groups=spatial if spec.depthwise else 1,
            bias=spec.conv_bias,
        )
        self.norm = NORMS[spec.norm](spatial)
        self.act_dw = activation(spec, last_before_projection=not spec.move_up_depthwise)
        self.mlp = Mlp(spec, c_in, hidden, c_out)
        self.gamma = None if spec.layer_scale is None else nn.Parameter(spec.layer_scale * torch.ones(c_out))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.shortcut = projection(spec, c_in, c_out, stride) if stride > 1 or c_in != c_out else nn.Identity()
        self.act = activation(spec, last_before_projection=False)
        self.residual: Residual = RESIDUAL

    def spatial(self, x: Tensor) -> Tensor:
        return self.act_dw(self.norm(self.conv_dw(x)))

    def branch(self, x: Tensor) -> Tensor:
        if self.moved_up:
            return self.mlp(self.spatial(x))
        return self.mlp.project(self.spatial(self.mlp.expand(x)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.gamma is not None:
            y = y * self.gamma.reshape(1, -1, 1, 1)
        # The shortcut is converted before the sum: two terms of 8 bits would be added in 8 bits.
        total = self.drop_path(y) + to_stream(self.shortcut(x), self.residual)
        return self.act(to_stream(total, self.residual))


def projection(spec: ModelSpec, c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """1x1 with stride, norm: the shortcut where shapes change.

    It never has a bias, as the papers' parameter counts tell.
    """
    return nn.Sequential(conv(c_in, c_out, 1, stride=stride), NORMS[spec.norm](c_out))
