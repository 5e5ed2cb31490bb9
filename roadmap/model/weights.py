"""Weights into our network and back: state dicts, files, names that timm and torchvision fetch.

Files are never unpickled freely: `.safetensors`, or `torch.load` restricted to tensors.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roadmap.config.errors import RoadmapError, listing, nearest
from roadmap.model.state_dict_formats import from_ours, recognize, to_ours

NESTS = ("model", "state_dict")
INPUT = "stem.0.weight"
HEAD = "head."
SHOWN = 12  # lines of an error before the rest is counted


class WeightsError(RoadmapError, ValueError):
    """Weights that cannot be read, or that are not this network's."""


@dataclass(frozen=True)
class LoadReport:
    """What came of each tensor, under our names; `format` is the source's, by name.

    loaded: copied as they are. adapted: changed on the way, and how. left: the network's own kept,
    and why. unused: in the source, and without a place here.
    """

    format: str
    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    left: Mapping[str, str]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded from format {self.format}"]
        lines += [f"adapted {name}: {what}" for name, what in self.adapted.items()]
        lines += [f"left {name}: {why}" for name, why in self.left.items()]
        return "\n".join([*lines, *(f"unused {name}" for name in self.unused)])


def load_weights(model: nn.Module, source: Mapping[str, Any] | str | Path, *, adapt: bool = False) -> LoadReport:
    """Copy weights into the network.

    source: a state dict, a .pth or .safetensors file, or a name of timm or torchvision. A name may
    begin with `timm:` or `torchvision:`; without, timm is asked first. The format is recognized.
    adapt: keep the network's own head where the source's has other classes or none, and fit the
    first convolution to other input channels; nothing else is ever adapted. Raises WeightsError,
    and ConfigError for an unknown format; the network is then untouched.
    """
    title, state = _read(source)
    source_format = recognize(state)
    theirs, unplaced = to_ours(state, source_format)
    fit = _fit(model.state_dict(), theirs, unplaced)
    if fit.refusals or (not adapt and fit.asked):
        lines = [f"weights.{text}" for text in (*fit.refusals, *fit.asked.values())]
        more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        raise WeightsError("\n".join([f"{title} does not fit the network:", *lines[:SHOWN], *more]))
    model.load_state_dict({**model.state_dict(), **fit.copies})
    loaded = tuple(name for name in fit.copies if name not in fit.adapted)
    return LoadReport(source_format.name, loaded, fit.adapted, fit.left, tuple(sorted(fit.unused)))


def export_weights(model: nn.Module, format_name: str) -> dict[str, Tensor]:
    """The network's state dict as a format (see state_dict_formats.FORMATS) names and shapes it.

    Raises ConfigError where it has no place for a tensor.
    """
    return from_ours(model.state_dict(), format_name)


@dataclass
class _Fit:
    """A comparison of a network's tensors with a source's.

    asked: loaded with adapt=True alone. refusals: never loaded. The texts of both say
    `<tensor> <what is wrong>; <what is legal>; <what to do>`; the others are as in LoadReport.
    """

    copies: dict[str, Tensor] = field(default_factory=dict)
    adapted: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    asked: dict[str, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)


def _fit(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], unplaced: list[str]) -> _Fit:
    """Compare a network's tensors with a source's, by name and shape."""
    fit = _Fit()
    for name in unplaced:
        fit.refusals.append(
            f"{name} has no place in the network; legal: its tensors; check that it is the same network"
        )
    for name, own in ours.items():
        other = theirs.get(name)
        if other is None:
            _settle(fit, name, f"{name} is {_shape(own)} in the network and missing in the source", "not in the source")
        elif _squeezed(other) == _squeezed(own):
            fit.copies[name] = other.reshape(own.shape)
        elif name == INPUT and _differs_in_channels_alone(own, other):
            _adapt_channels(fit, name, own, other)
        else:
            problem = f"{name} is {_shape(other)} in the source and {_shape(own)} in the network"
            _settle(fit, name, problem, f"{_shape(other)} in the source, {_shape(own)} here")
    for name in theirs.keys() - ours.keys():
        _settle(fit, name, f"{name} is {_shape(theirs[name])} in the source and missing in the network", None)
    return fit


def _differs_in_channels_alone(own: Tensor, other: Tensor) -> bool:
    """Whether two weights (C, I, k, k) agree in C and k."""
    return other.ndim == 4 and (other.shape[0], *other.shape[2:]) == (own.shape[0], *own.shape[2:])


def _adapt_channels(fit: _Fit, name: str, own: Tensor, other: Tensor) -> None:
    fit.copies[name] = _other_channels(other, own.shape[1])
    fit.adapted[name] = f"{_shape(other)} to {_shape(own)}, input channels"
    fit.asked[name] = (
        f"{name} is {_shape(other)} in the source and {_shape(own)} in the network; "
        "legal: equal shapes; pass adapt=True to fit the input channels"
    )


def _settle(fit: _Fit, name: str, problem: str, why: str | None) -> None:
    """A tensor that cannot be copied: the head's may be left on request, any other is refused."""
    if not name.startswith(HEAD):
        fit.refusals.append(f"{problem}; legal: the same tensors in equal shapes; check that it is the same network")
        return
    fit.asked[name] = f"{problem}; legal: equal shapes; pass adapt=True to keep the network's own head"
    if why is None:
        fit.unused.append(name)
    else:
        fit.left[name] = why


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """The shape without its ones: what formats agree on."""
    return tuple(n for n in tensor.shape if n != 1)


def _other_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution (C, I, k, k) for another number of input channels.

    The sum over I for one channel (grey), else the channels in turn, scaled to keep the response.
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    before = weight.shape[1]
    return weight[:, torch.arange(channels) % before] * (before / channels)


def _read(source: Mapping[str, Any] | str | Path) -> tuple[str, dict[str, Tensor]]:
    """Name of the source for messages, and its flat state dict."""
    if isinstance(source, Mapping):
        return "the state dict", _flat("the state dict", source)
    title = str(source)
    if Path(title).is_file():
        return title, _flat(title, read_file(Path(title)))
    if isinstance(source, Path) or Path(title).suffix in (".pth", ".pt", ".safetensors", ".bin"):
        raise WeightsError(
            f"weights.source {title} is no file; legal: an existing .pth or .safetensors file; check the path"
        )
    return title, _flat(title, fetch(title))


def _flat(title: str, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without the prefix of DistributedDataParallel."""
    for nest in NESTS:
        if isinstance(content.get(nest), Mapping):
            content = content[nest]
            break
    state = {str(name).removeprefix("module."): value for name, value in content.items()}
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong or not state:
        problem = f"something else than a tensor under {listing(wrong[:3])}" if wrong else "nothing"
        raise WeightsError(
            f"weights.source {title} holds {problem}; "
            f"legal: a state dict, alone or under {' or '.join(NESTS)}; give such a file"
        )
    return state


def read_file(path: Path) -> Mapping[str, Any]:
    """The content of a .safetensors file, or of a torch file, in which nothing is executed.

    Raises WeightsError.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # The authors' training code stores its options, an argparse.Namespace; they are data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise WeightsError(
            f"weights.source {path} holds more than tensors, and nothing of it was executed; "
            "legal: files that torch.load reads with weights_only=True, or .safetensors; ask its author for one"
        ) from e
    except Exception as e:  # each format has its own errors for a damaged file
        problem = str(e).partition("\n")[0]
        raise WeightsError(
            f"weights.source {path} cannot be read ({type(e).__name__}: {problem}); "
            "legal: a whole .pth or .safetensors file; fetch it again"
        ) from e
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"weights.source {path} holds a {type(content).__name__}; legal: a state dict; save model.state_dict()"
        )
    return content


def fetch(name: str) -> Mapping[str, Any]:
    """The state dict of a network that timm or torchvision can download. Raises WeightsError."""
    library, _, bare = name.rpartition(":")
    import timm
    import torchvision

    in_timm = library in ("", "timm") and timm.is_model(bare.partition(".")[0])
    in_torchvision = library in ("", "torchvision") and bare in torchvision.models.list_models()
    if not in_timm and not in_torchvision:
        known = [
            *timm.list_models("convnext*", pretrained=True),
            *torchvision.models.list_models(include="convnext*"),
            "resnet50",
        ]
        raise WeightsError(
            f"weights.source {name!r} is neither a file nor known to timm or torchvision; "
            f"legal: a path, NAME, timm:NAME or torchvision:NAME; {nearest(bare, known)}"
        )
    try:
        if in_timm:
            return timm.create_model(bare, pretrained=True).state_dict()
        return torchvision.models.get_model(bare, weights="DEFAULT").state_dict()
    except Exception as e:  # no network, no such tag, a broken download: the library's own words say which
        raise WeightsError(
            f"weights.source {name!r} cannot be fetched ({type(e).__name__}: {e}); "
            f"legal: a network that {library or 'timm or torchvision'} can download; "
            "check the connection, or give a file"
        ) from e
