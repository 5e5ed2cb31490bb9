"""A network in one file: safetensors with the spec inside, from which it is rebuilt.

Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roadmap.config.fields import from_plain, neutral_settings, plain
from roadmap.config.model import ModelSpec
from roadmap.model.build import TIMM_SPEC, timm_from_metadata
from roadmap.model.network import ModernizableResNet
from roadmap.model.weights import WeightsError
from roadmap.runs.io import write_bytes

SPEC, HEAD, FORMAT = "roadmap.spec", "roadmap.head", "pt"


def save(model: ModernizableResNet, path: str | Path) -> Path:
    """Write weights, spec, pooling and dropout; the file appears whole or not at all.

    Raises WeightsError for a network that its spec no longer describes.
    """
    from safetensors.torch import save as to_bytes

    head: dict[str, Any] = {"global_pool": model.head.global_pool.pool_type, "drop_rate": model.drop_rate}
    with torch.device("meta"):
        described = ModernizableResNet(model.spec, **head).state_dict()
    state = model.state_dict()
    if _shapes(state) != _shapes(described):
        raise WeightsError(
            "model.spec does not describe the network's tensors; "
            "legal: a network as built, or with another classifier; save its state dict instead"
        )
    target = Path(path)
    metadata = {"format": FORMAT, SPEC: json.dumps(plain(model.spec)), HEAD: json.dumps(head)}
    write_bytes(target, to_bytes({name: t.detach().cpu().contiguous() for name, t in state.items()}, metadata))
    return target


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def load(path: str | Path) -> Any:
    """The network that `save` wrote, on the CPU, in evaluation mode, in the file's number formats.

    A ModernizableResNet, or timm's of a finished run that trained one. Toggles that are younger
    than the file get their defaults. Raises WeightsError.
    """
    metadata, state = _read(Path(path))
    if TIMM_SPEC in metadata:
        return _filled(timm_from_metadata(metadata, str(path)), state, path)
    if SPEC not in metadata:
        raise WeightsError(
            f"weights.file {path} has no spec inside; legal: files that roadmap.save wrote; "
            "build the network and use load_weights"
        )
    spec = from_plain(
        ModelSpec,
        {**plain(ModelSpec()), **neutral_settings(ModelSpec), **_entry(path, metadata, SPEC)},
        f"{path}: spec",
    )
    head = _entry(path, metadata, HEAD)
    with torch.device("meta"):
        model = ModernizableResNet(
            spec, global_pool=str(head.get("global_pool", "avg")), drop_rate=float(head.get("drop_rate", 0.0))
        )
    return _filled(model, state, path)


def _filled(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> nn.Module:
    """The model with the file's tensors in place of its own."""
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as e:
        last = str(e).splitlines()[-1].strip()
        raise WeightsError(
            f"weights.file {path} does not hold the network of its spec ({last}); "
            "legal: files that roadmap.save wrote; save it again"
        ) from e
    return model.eval()


def _entry(path: str | Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """One JSON object of the metadata, empty if absent."""
    try:
        return dict(json.loads(metadata.get(key, "{}")))
    except (ValueError, TypeError) as e:
        raise WeightsError(
            f"weights.file {path} has a damaged {key} ({e}); legal: files that roadmap.save wrote; save it again"
        ) from e


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            opened: Any = f
            return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as e:
        raise WeightsError(
            f"weights.file {path} cannot be read ({e}); legal: files that roadmap.save wrote; check the path"
        ) from e
