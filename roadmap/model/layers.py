"""The parts a block is made of: one table per toggle, from its setting to a builder.

Shapes: images and features are (N, C, H, W), in any memory format.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import DropPath as TimmDropPath
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from roadmap.config.model import ModelSpec
from roadmap.model.residual import autocasts

LAYER_NORM_EPS = 1e-6  # facts of the paper's code: LayerNorm eps 1e-6, BatchNorm keeps PyTorch's 1e-5
GRN_EPS = 1e-6

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: LayerNorm2d(channels, eps=LAYER_NORM_EPS),
}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
}


class GlobalResponseNorm(nn.Module):
    """x + weight * (x * n) + bias with n = g / (mean of g over channels + eps).

    (N, C, H, W) -> (N, C, H, W); g is the L2 norm of a channel over H, W. Weight and bias start at
    zero, so that the layer starts as the identity; all is computed in float32 at least, as autocast
    does in the authors' code, and given back in the format of x. Source: ConvNeXt V2 (arXiv
    2301.00808), its pseudo-code: Eq. 2 prints a sum over channels where the code has the mean.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not autocasts(x.device.type):
            return self._normalized(x)
        # Autocast would keep a float32 copy of x for the backward pass; without it the kernels convert as they read.
        with torch.autocast(x.device.type, enabled=False):
            return self._normalized(x)

    def _normalized(self, x: Tensor) -> Tensor:
        g = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        n = g / (g.mean(dim=1, keepdim=True) + GRN_EPS)
        scale = 1 + self.weight.reshape(1, -1, 1, 1) * n
        return torch.addcmul(self.bias.reshape(1, -1, 1, 1), x, scale).to(x.dtype)

    def extra_repr(self) -> str:
        return str(self.channels)


class DropPath(TimmDropPath):
    """Stochastic depth by image, timm's draws in timm's order: (N, ...) -> (N, ...), the format of x kept.

    mask: (N,) scales to use instead of drawing them; see roadmap.train.microbatch. It stays until the next, as
    gradient checkpointing asks for it again.
    """

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__(drop_prob, scale_by_keep)
        self.mask: Tensor | None = None

    @property
    def drops(self) -> bool:
        return self.training and self.drop_prob > 0

    def draw(self, images: int, device: torch.device) -> Tensor:
        """(N,) float32: 0 where the branch is dropped, else what keeps its mean; from the device's generator."""
        keep = 1 - self.drop_prob
        mask = torch.empty(images, device=device).bernoulli_(keep)
        return mask.div_(keep) if keep > 0 and self.scale_by_keep else mask

    def forward(self, x: Tensor) -> Tensor:
        if not self.drops:
            return x
        mask = self.draw(len(x), x.device) if self.mask is None else self.mask
        return (x * mask.reshape(-1, *[1] * (x.ndim - 1))).to(x.dtype)


def with_own_drop_path(model: nn.Module) -> None:
    """Put DropPath in the place of timm's, so that masks drawn before a pass reach timm's networks too."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, TimmDropPath) and not isinstance(child, DropPath):
                setattr(parent, name, DropPath(child.drop_prob, child.scale_by_keep))


class Pointwise(nn.Linear):
    """A 1x1 convolution with a matrix (C_out, C_in): (N, C_in, H, W) -> (N, C_out, H, W).

    One parameter shape on the whole ladder, timm's `mlp.fc1` and `mlp.fc2`. With a bias,
    channels-last features go through a matrix product, which fuses it; all else through a
    convolution, which is faster for ResNet-50 on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None and x.is_contiguous(memory_format=torch.channels_last):
            return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


def activation(spec: ModelSpec, *, last_before_projection: bool) -> nn.Module:
    """The activation of one slot of a block, nn.Identity where the setting leaves none there.

    last_before_projection: whether no other slot lies between this one and the last 1x1.
    """
    stays = spec.activations == "all" or last_before_projection
    return ACTIVATIONS[spec.activation]() if stays else nn.Identity()


RESPONSE_NORMS: dict[bool, Callable[[int], nn.Module]] = {False: nn.Identity, True: GlobalResponseNorm}
