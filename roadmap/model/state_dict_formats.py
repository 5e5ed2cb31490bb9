"""Public weight layouts: how each source names and shapes the tensors of our network, as data read in both directions.

A rule is a pair of templates (ours, theirs). `{b}` stands for a block's number, `{p}` for a tensor's last name, `{n}` for any name;
both sides have the same ones in the same order. Sources: the state dicts of timm 1.0, torchvision 0.2x and of the authors'
repositories facebookresearch/ConvNeXt and ConvNeXt-V2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from torch import Tensor

from roadmap.config.errors import ConfigError, listing, lookup

Rules = tuple[tuple[str, str], ...]
_PLACEHOLDERS = {"{b}": r"(\d+)", "{p}": r"(\w+)", "{n}": r"(.+)"}
_STAGES = range(4)


@dataclass(frozen=True)
class Layout:
    """`shapes`: for our names that match, the tensor as the source holds it. `needs`: what one of our names must match for the source to have such a network."""

    name: str
    title: str
    rules: Rules
    mark: str
    shapes: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = ()
    needs: tuple[str, ...] = ()


def _block(ours: str, theirs: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((f"{ours}.{a}", f"{theirs}.{b}") for a, b in names.items())


_OFFICIAL_BLOCK = {
    "conv_dw.{p}": "dwconv.{p}",
    "norm.{p}": "norm.{p}",
    "mlp.fc1.{p}": "pwconv1.{p}",
    "mlp.fc2.{p}": "pwconv2.{p}",
}
_V1_BLOCK = {**_OFFICIAL_BLOCK, "gamma": "gamma"}
_V2_BLOCK = {**_OFFICIAL_BLOCK, "mlp.grn.weight": "grn.gamma", "mlp.grn.bias": "grn.beta"}
_OFFICIAL_HEAD = (("head.norm.{p}", "norm.{p}"), ("head.fc.{p}", "head.{p}"))
_TORCHVISION_BLOCK = {
    "conv_dw.{p}": "block.0.{p}",
    "norm.{p}": "block.2.{p}",
    "mlp.fc1.{p}": "block.3.{p}",
    "mlp.fc2.{p}": "block.5.{p}",
    "gamma": "layer_scale",
}
_RESNET_BLOCK = {
    "mlp.fc1.{p}": "conv1.{p}",
    "mlp.norm1.{p}": "bn1.{p}",
    "conv_dw.{p}": "conv2.{p}",
    "norm.{p}": "bn2.{p}",
    "mlp.fc2.{p}": "conv3.{p}",
    "mlp.norm2.{p}": "bn3.{p}",
    "shortcut.0.{p}": "downsample.0.{p}",
    "shortcut.1.{p}": "downsample.1.{p}",
}


def _official(block: Mapping[str, str]) -> Rules:
    stages = [r for i in _STAGES for r in _block(f"stages.{i}.blocks.{{b}}", f"stages.{i}.{{b}}", block)]
    between = [
        (f"stages.{i}.downsample.{k}.{{p}}", f"downsample_layers.{i}.{k}.{{p}}") for i in _STAGES[1:] for k in (0, 1)
    ]
    stem = [(f"stem.{k}.{{p}}", f"downsample_layers.0.{k}.{{p}}") for k in (0, 1)]
    return (*stem, *between, *stages, *_OFFICIAL_HEAD)


def _torchvision() -> Rules:
    stages = [
        r
        for i in _STAGES
        for r in _block(f"stages.{i}.blocks.{{b}}", f"features.{2 * i + 1}.{{b}}", _TORCHVISION_BLOCK)
    ]
    between = [(f"stages.{i}.downsample.{k}.{{p}}", f"features.{2 * i}.{k}.{{p}}") for i in _STAGES[1:] for k in (0, 1)]
    stem = [(f"stem.{k}.{{p}}", f"features.0.{k}.{{p}}") for k in (0, 1)]
    return (*stem, *between, *stages, ("head.norm.{p}", "classifier.0.{p}"), ("head.fc.{p}", "classifier.2.{p}"))


def _resnet() -> Rules:
    stages = [r for i in _STAGES for r in _block(f"stages.{i}.blocks.{{b}}", f"layer{i + 1}.{{b}}", _RESNET_BLOCK)]
    return (("stem.0.{p}", "conv1.{p}"), ("stem.1.{p}", "bn1.{p}"), *stages, ("head.fc.{p}", "fc.{p}"))


def _as_convolution(matrix: Tensor) -> Tensor:
    return matrix[:, :, None, None]


_IDENTITY: Rules = (("{n}", "{n}"),)
_MATRICES = (r".*\.mlp\.fc\d\.weight", _as_convolution)
_ISOTROPIC: Rules = (
    ("stem.0.{p}", "stem.{p}"),
    *_block("stages.0.blocks.{b}", "blocks.{b}", _V1_BLOCK),
    *_OFFICIAL_HEAD,
)

# `mark`: a name that this source has and the ones after it do not.
_LIST = (
    Layout(
        "torchvision",
        "torchvision's ConvNeXt",
        _torchvision(),
        r"features\.0\.0\.weight",
        shapes=((r".*\.gamma", lambda t: t[:, None, None]),),
        needs=(r"stem\.1\.weight", r".*\.gamma"),
    ),
    Layout(
        "torchvision_resnet",
        "torchvision's (and timm's) ResNet-50, -101, -152",
        _resnet(),
        r"layer1\.0\.conv3\.weight",
        shapes=(_MATRICES,),
        needs=(r".*\.shortcut\.1\.weight",),
    ),
    Layout(
        "official_v2",
        "the authors' ConvNeXt V2",
        _official(_V2_BLOCK),
        r"stages\.0\.0\.grn\.gamma",
        shapes=((r".*\.grn\..*", lambda t: t[None, None, None, :]),),
        needs=(r"stem\.1\.weight", r".*\.mlp\.grn\.weight"),
    ),
    Layout(
        "official_v1",
        "the authors' ConvNeXt",
        _official(_V1_BLOCK),
        r"downsample_layers\.0\.0\.weight",
        needs=(r"stem\.1\.weight",),
    ),
    Layout("official_isotropic", "the authors' isotropic ConvNeXt", _ISOTROPIC, r"blocks\.0\.dwconv\.weight"),
    Layout(
        "timm",
        "timm's ConvNeXt, which is also ours for every step",
        _IDENTITY,
        r"stages\.0\.blocks\.0\.conv_dw\.weight",
    ),
    Layout(
        "timm_conv",
        "timm's ConvNeXt with 1x1 convolutions (conv_mlp; there V2 atto to nano)",
        _IDENTITY,
        r"stages\.0\.blocks\.0\.conv_dw\.weight",
        shapes=(_MATRICES,),
    ),
)

LAYOUTS: Mapping[str, Layout] = MappingProxyType({layout.name: layout for layout in _LIST})


@lru_cache(maxsize=4096)
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile("".join(_PLACEHOLDERS.get(part, re.escape(part)) for part in re.split(r"(\{\w\})", template)))


def _renamed(name: str, rules: Rules) -> str | None:
    """The name by the first rule (source template, target template) that matches, or None."""
    for source, target in rules:
        if found := _pattern(source).fullmatch(name):
            groups = iter(found.groups())
            return re.sub(r"\{\w\}", lambda _: next(groups), target)  # noqa: B023  used before the next turn
    return None


def recognize(names: Mapping[str, object]) -> Layout:
    """The layout of a state dict, by its names (timm's two differ only in shapes, which reading does not mind). Raises ConfigError."""
    for layout in _LIST:
        if any(re.fullmatch(layout.mark, name) for name in names):
            return layout
    few = listing(list(names)[:3])
    raise ConfigError(
        f"weights.layout of a state dict that starts with {few or 'nothing'} is unknown; legal: {listing(LAYOUTS)}; give weights of such a network"
    )


def to_ours(state: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict under our names, still in the source's shapes, and the names that have no place with us."""
    rules = tuple((theirs, ours) for ours, theirs in layout.rules)
    named = {name: _renamed(name, rules) for name in state}
    return {ours: state[name] for name, ours in named.items() if ours is not None}, [
        name for name, ours in named.items() if ours is None
    ]


def from_ours(state: Mapping[str, Tensor], layout_name: str) -> dict[str, Tensor]:
    """Our state dict as a source names and shapes it. Raises ConfigError where that source has no such network."""
    layout = lookup("weights.layout", layout_name, LAYOUTS)
    theirs = {}
    for name, tensor in state.items():
        renamed = _renamed(name, layout.rules)
        if renamed is None:
            raise ConfigError(
                f"weights.layout {layout.name} has no place for {name}; legal: networks that are {layout.title}; choose timm, which holds every step"
            )
        shape = next((change for pattern, change in layout.shapes if re.fullmatch(pattern, name)), None)
        theirs[renamed] = shape(tensor) if shape else tensor
    for need in layout.needs:
        if not any(re.fullmatch(need, name) for name in state):
            lacking = need.replace("\\", "").removeprefix(".*.")
            raise ConfigError(
                f"weights.layout {layout.name} needs {lacking}, which the network lacks; legal: networks that are {layout.title}; choose timm, which holds every step"
            )
    return theirs


def from_torchvision_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision ResNet-50/101/152 state dict under our names; 1x1 convolutions of a block become matrices."""
    ours, _ = to_ours(state, LAYOUTS["torchvision_resnet"])
    return {name: tensor.flatten(1) if re.fullmatch(_MATRICES[0], name) else tensor for name, tensor in ours.items()}
