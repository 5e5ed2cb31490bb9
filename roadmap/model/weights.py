"""Weights from anywhere into our network and back: state dicts, files, and the names that timm and torchvision can fetch.

Files are never unpickled freely: `.safetensors`, or `torch.load` restricted to tensors.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roadmap.config.errors import RoadmapError, listing, nearest
from roadmap.model.state_dict_formats import from_ours, recognize, to_ours

NESTS = ("model", "state_dict")
INPUT = "stem.0.weight"
HEAD = "head."


class WeightsError(RoadmapError, ValueError):
    """Weights that cannot be read, or that are not this network's."""


@dataclass(frozen=True)
class LoadReport:
    """What came of each tensor, under our names: copied; changed on the way; the network's own kept; in the source without use."""

    layout: str
    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    left: Mapping[str, str]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded from layout {self.layout}"]
        lines += [f"adapted {name}: {what}" for name, what in self.adapted.items()]
        lines += [f"left {name}: {why}" for name, why in self.left.items()]
        return "\n".join([*lines, *(f"unused {name}" for name in self.unused)])


def load_weights(model: nn.Module, source: Mapping[str, Any] | str | Path, *, adapt: bool = False) -> LoadReport:
    """Copy weights into the network. source: a state dict, a .pth or .safetensors file, or a name of timm or torchvision.

    A name may begin with `timm:` or `torchvision:`; without, timm is asked first. The layout is recognized. adapt: keep the
    network's own head where the source's has other classes or none, and fit the first convolution to other input channels;
    nothing else is ever adapted. Raises WeightsError, and ConfigError for an unknown layout; the network is then untouched.
    """
    where, state = _read(source)
    layout = recognize(state)
    theirs, unplaced = to_ours(state, layout)
    found = _fit(model.state_dict(), theirs, unplaced)
    if found.refusals or (not adapt and found.asked):
        lines = [f"weights.{text}" for text in (*found.refusals, *found.asked.values())]
        more = [f"... and {len(lines) - 12} more"] if len(lines) > 12 else []
        raise WeightsError("\n".join([f"{where} does not fit the network:", *lines[:12], *more]))
    model.load_state_dict({**model.state_dict(), **found.copies})
    loaded = tuple(name for name in found.copies if name not in found.adapted)
    return LoadReport(layout.name, loaded, found.adapted, found.left, tuple(found.unused))


def export_weights(model: nn.Module, layout: str) -> dict[str, Tensor]:
    """The network's state dict as `layout` names and shapes it (see roadmap.model.layouts.LAYOUTS). Raises ConfigError where it has no place for a tensor."""
    return from_ours(model.state_dict(), layout)


@dataclass
class _Fit:
    """`refusals`: never loaded; `asked`: needs adapt. Texts are `<tensor> <what is wrong>; <what is legal>; <what to do>`."""

    copies: dict[str, Tensor]
    adapted: dict[str, str]
    left: dict[str, str]
    unused: list[str]
    asked: dict[str, str]
    refusals: list[str]


def _fit(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], unplaced: list[str]) -> _Fit:
    """Compare a network's tensors with a source's, by name and shape."""
    fit = _Fit(
        {},
        {},
        {},
        [],
        {},
        [
            f"{name} has no place in the network; legal: its tensors; check that it is the same network"
            for name in unplaced
        ],
    )
    for name, own in ours.items():
        other = theirs.get(name)
        if other is None:
            _settle(fit, name, f"{name} is {_shape(own)} in the network and missing in the source", "not in the source")
        elif _squeezed(other) == _squeezed(own):
            fit.copies[name] = other.reshape(own.shape)
        elif name == INPUT and other.ndim == 4 and (other.shape[0], *other.shape[2:]) == (own.shape[0], *own.shape[2:]):
            fit.copies[name] = _other_channels(other, own.shape[1])
            fit.adapted[name] = f"{_shape(other)} to {_shape(own)}, input channels"
            fit.asked[name] = (
                f"{name} is {_shape(other)} in the source and {_shape(own)} in the network; legal: equal shapes; pass adapt=True to fit the input channels"
            )
        else:
            _settle(
                fit,
                name,
                f"{name} is {_shape(other)} in the source and {_shape(own)} in the network",
                f"{_shape(other)} in the source, {_shape(own)} here",
            )
    for name in theirs.keys() - ours.keys():
        _settle(fit, name, f"{name} is {_shape(theirs[name])} in the source and missing in the network", None)
    fit.unused.sort()
    return fit


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
    """The shape without its ones: what layouts agree on."""
    return tuple(n for n in tensor.shape if n != 1)


def _other_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution (C, I, k, k) for another number of input channels: the sum for one (grey), else repeated in turn, scaled to keep the response."""
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    before = weight.shape[1]
    return weight[:, torch.arange(channels) % before] * (before / channels)


def _read(source: Mapping[str, Any] | str | Path) -> tuple[str, dict[str, Tensor]]:
    """Name of the source for messages, and its flat state dict."""
    if isinstance(source, Mapping):
        return "the state dict", _flat("the state dict", source)
    where = str(source)
    if Path(where).is_file():
        return where, _flat(where, read_file(Path(where)))
    if isinstance(source, Path) or Path(where).suffix in (".pth", ".pt", ".safetensors", ".bin"):
        raise WeightsError(
            f"weights.source {where} is no file; legal: an existing .pth or .safetensors file; check the path"
        )
    return where, _flat(where, fetch(where))


def _flat(where: str, content: Mapping[str, Any]) -> dict[str, Tensor]:
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
            f"weights.source {where} holds {problem}; legal: a state dict, alone or under {' or '.join(NESTS)}; give such a file"
        )
    return state


def read_file(path: Path) -> Mapping[str, Any]:
    """The content of a .safetensors file, or of a torch file read without executing anything in it. Raises WeightsError."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(
            [argparse.Namespace]
        ):  # the authors' training code stores its options; they are data
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        what = "holds more than tensors, and nothing of it was executed"
        raise WeightsError(
            f"weights.source {path} {what}; legal: files that torch.load reads with weights_only=True, or .safetensors; ask its author for one"
        ) from e
    except Exception as e:  # each format has its own errors for a damaged file
        words = (str(e).splitlines() or [""])[0]
        raise WeightsError(
            f"weights.source {path} cannot be read ({type(e).__name__}: {words}); legal: a whole .pth or .safetensors file; fetch it again"
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

    in_timm, in_torchvision = timm.is_model(bare.partition(".")[0]), bare in torchvision.models.list_models()
    if library not in ("", "timm", "torchvision") or not {
        "": in_timm or in_torchvision,
        "timm": in_timm,
        "torchvision": in_torchvision,
    }.get(library):
        known = [
            *timm.list_models("convnext*", pretrained=True),
            *torchvision.models.list_models(include="convnext*"),
            "resnet50",
        ]
        legal = "legal: a path, NAME, timm:NAME or torchvision:NAME"
        raise WeightsError(
            f"weights.source {name!r} is neither a file nor known to timm or torchvision; {legal}; {nearest(bare, known)}"
        )
    try:
        if in_timm and library != "torchvision":
            return timm.create_model(bare, pretrained=True).state_dict()
        return torchvision.models.get_model(bare, weights="DEFAULT").state_dict()
    except Exception as e:  # no network, no such tag, a broken download: the library's own words say which
        legal = f"legal: a network that {library or 'timm or torchvision'} can download"
        raise WeightsError(
            f"weights.source {name!r} cannot be fetched ({type(e).__name__}: {e}); {legal}; check the network, or give a file"
        ) from e
