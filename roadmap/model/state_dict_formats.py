"""Formats of public state dicts: how each source names and shapes the tensors of our network.

They are data, read in both directions. A rule is a pair of templates (ours, theirs). `{b}` stands
for a block's number, `{p}` for a tensor's last name, `{n}` for any name; both sides have the same
ones in the same order. Sources: the state dicts of timm 1.0, torchvision 0.2x and of the authors'
repositories facebookresearch/ConvNeXt and ConvNeXt-V2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from torch import Tensor

from roadmap.config.errors import ConfigError, listing, lookup

Rules = tuple[tuple[str, str], ...]
_PLACEHOLDERS = {"{b}": r"(\d+)", "{p}": r"(\w+)", "{n}": r"(.+)"}
_STAGES = range(4)


@dataclass(frozen=True)
class StateDictFormat:
    """One source's state dicts.

    title: whose they are, as errors say it. mark: a name that this source has and the formats after
    it in the list do not. shapes: for our names that match, the tensor as the source holds it.
    needs: what one of our names must match for the source to have such a network.
    """

    name: str
    title: str
    rules: Rules
    mark: str
    shapes: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = ()
    needs: tuple[str, ...] = ()


def _block(ours: str, theirs: str, names: Mapping[str, str]) -> Rules:
    return tuple((f"{ours}.{a}", f"{theirs}.{b}") for a, b in names.items())


def _blocks(theirs: Callable[[int], str], names: Mapping[str, str]) -> Rules:
    """The rules of the blocks of four stages.

    theirs: the source's name of a block of stage i, with `{b}` in it.
    """
    rules: Rules = ()
    for i in _STAGES:
        rules += _block(f"stages.{i}.blocks.{{b}}", theirs(i), names)
    return rules


def _pairs(ours: str, theirs: str) -> Rules:
    """Rules of the two modules, a norm and a convolution, of a stem or a downsampling."""
    return tuple((f"{ours}.{k}.{{p}}", f"{theirs}.{k}.{{p}}") for k in (0, 1))


def _between(theirs: Callable[[int], str]) -> Rules:
    """The rules of the downsamplings in front of stages 1 to 3."""
    rules: Rules = ()
    for i in _STAGES[1:]:
        rules += _pairs(f"stages.{i}.downsample", theirs(i))
    return rules


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
    stem = _pairs("stem", "downsample_layers.0")
    between = _between("downsample_layers.{}".format)
    return (*stem, *between, *_blocks("stages.{}.{{b}}".format, block), *_OFFICIAL_HEAD)


def _torchvision() -> Rules:
    """Stem, stages and the downsamplings between them are numbered in one row."""
    stem = _pairs("stem", "features.0")
    between = _between(lambda stage: f"features.{2 * stage}")
    blocks = _blocks(lambda stage: f"features.{2 * stage + 1}.{{b}}", _TORCHVISION_BLOCK)
    return (*stem, *between, *blocks, ("head.norm.{p}", "classifier.0.{p}"), ("head.fc.{p}", "classifier.2.{p}"))


def _resnet() -> Rules:
    blocks = _blocks(lambda stage: f"layer{stage + 1}.{{b}}", _RESNET_BLOCK)
    return (("stem.0.{p}", "conv1.{p}"), ("stem.1.{p}", "bn1.{p}"), *blocks, ("head.fc.{p}", "fc.{p}"))


def _as_convolution(matrix: Tensor) -> Tensor:
    """(C_out, C_in) -> (C_out, C_in, 1, 1)."""
    return matrix[:, :, None, None]


def _as_scale(vector: Tensor) -> Tensor:
    """(C) -> (C, 1, 1), as it multiplies (N, C, H, W)."""
    return vector[:, None, None]


def _as_channels_last_scale(vector: Tensor) -> Tensor:
    """(C) -> (1, 1, 1, C), as it multiplies (N, H, W, C)."""
    return vector[None, None, None, :]


_IDENTITY: Rules = (("{n}", "{n}"),)
_MATRICES = (r".*\.mlp\.fc\d\.weight", _as_convolution)
_ISOTROPIC: Rules = (
    ("stem.0.{p}", "stem.{p}"),
    *_block("stages.0.blocks.{b}", "blocks.{b}", _V1_BLOCK),
    *_OFFICIAL_HEAD,
)

_LIST = (
    StateDictFormat(
        "torchvision",
        "torchvision's ConvNeXt",
        _torchvision(),
        r"features\.0\.0\.weight",
        shapes=((r".*\.gamma", _as_scale),),
        needs=(r"stem\.1\.weight", r".*\.gamma"),
    ),
    StateDictFormat(
        "torchvision_resnet",
        "torchvision's (and timm's) ResNet-50, -101, -152",
        _resnet(),
        r"layer1\.0\.conv3\.weight",
        shapes=(_MATRICES,),
        needs=(r".*\.shortcut\.1\.weight",),
    ),
    StateDictFormat(
        "official_v2",
        "the authors' ConvNeXt V2",
        _official(_V2_BLOCK),
        r"stages\.0\.0\.grn\.gamma",
        shapes=((r".*\.grn\..*", _as_channels_last_scale),),
        needs=(r"stem\.1\.weight", r".*\.mlp\.grn\.weight"),
    ),
    StateDictFormat(
        "official_v1",
        "the authors' ConvNeXt",
        _official(_V1_BLOCK),
        r"downsample_layers\.0\.0\.weight",
        needs=(r"stem\.1\.weight",),
    ),
    StateDictFormat("official_isotropic", "the authors' isotropic ConvNeXt", _ISOTROPIC, r"blocks\.0\.dwconv\.weight"),
    StateDictFormat(
        "timm",
        "timm's ConvNeXt, which is also ours for every step",
        _IDENTITY,
        r"stages\.0\.blocks\.0\.conv_dw\.weight",
    ),
    StateDictFormat(
        "timm_conv",
        "timm's ConvNeXt with 1x1 convolutions (conv_mlp; there V2 atto to nano)",
        _IDENTITY,
        r"stages\.0\.blocks\.0\.conv_dw\.weight",
        shapes=(_MATRICES,),
    ),
)

FORMATS: Mapping[str, StateDictFormat] = MappingProxyType({source.name: source for source in _LIST})


@lru_cache(maxsize=4096)
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile("".join(_PLACEHOLDERS.get(part, re.escape(part)) for part in re.split(r"(\{\w\})", template)))


def _renamed(name: str, rules: Rules) -> str | None:
    """The name by the first rule (source template, target template) that matches, or None."""
    for source, target in rules:
        match = _pattern(source).fullmatch(name)
        if match:
            parts = re.split(r"\{\w\}", target)
            return parts[0] + "".join(group + part for group, part in zip(match.groups(), parts[1:], strict=True))
    return None


def recognize(names: Mapping[str, object]) -> StateDictFormat:
    """The format of a state dict, by its names. Raises ConfigError.

    timm's two differ only in shapes, which reading does not mind.
    """
    for source in _LIST:
        if any(re.fullmatch(source.mark, name) for name in names):
            return source
    few = listing(list(names)[:3])
    raise ConfigError(
        f"weights.format of a state dict that starts with {few or 'nothing'} is unknown; "
        f"legal: {listing(FORMATS)}; give weights of such a network"
    )


def to_ours(state: Mapping[str, Tensor], source: StateDictFormat) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict under our names, in the source's shapes, and names without a place here."""
    rules = tuple((theirs, ours) for ours, theirs in source.rules)
    placed: dict[str, Tensor] = {}
    unplaced = []
    for theirs, tensor in state.items():
        ours = _renamed(theirs, rules)
        if ours is None:
            unplaced.append(theirs)
        else:
            placed[ours] = tensor
    return placed, unplaced


def from_ours(state: Mapping[str, Tensor], format_name: str) -> dict[str, Tensor]:
    """Our state dict as a source names and shapes it.

    Raises ConfigError where that source has no such network.
    """
    target = lookup("weights.format", format_name, FORMATS)
    theirs = {}
    for name, tensor in state.items():
        renamed = _renamed(name, target.rules)
        if renamed is None:
            raise _no_such_network(target, f"has no place for {name}")
        shape = next((change for pattern, change in target.shapes if re.fullmatch(pattern, name)), None)
        theirs[renamed] = shape(tensor) if shape else tensor
    for need in target.needs:
        if not any(re.fullmatch(need, name) for name in state):
            lacking = need.replace("\\", "").removeprefix(".*.")
            raise _no_such_network(target, f"needs {lacking}, which the network lacks")
    return theirs


def _no_such_network(target: StateDictFormat, problem: str) -> ConfigError:
    return ConfigError(
        f"weights.format {target.name} {problem}; legal: networks that are {target.title}; "
        "choose timm, which holds every step"
    )


def from_torchvision_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision ResNet's state dict under our names; 1x1 convolutions become matrices."""
    ours, _ = to_ours(state, FORMATS["torchvision_resnet"])
    for name, tensor in ours.items():
        if re.fullmatch(_MATRICES[0], name):
            ours[name] = tensor.flatten(1)
    return ours
