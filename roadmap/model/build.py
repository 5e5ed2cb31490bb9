"""The network of a trial: our own of a ModelSpec, or timm's of a TimmSpec.

Built, counted and saved in one way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadmap.config.errors import ConfigError, nearest
from roadmap.config.fields import from_plain, plain
from roadmap.config.model import AnySpec, ModelSpec, TimmSpec, with_settings
from roadmap.ladder import DEFAULT, find_ladder

if TYPE_CHECKING:
    from torch import nn

ANY_SIZE = 224  # of a spec that comes without a regime: pixels, for architectures that are built for one size
TIMM_SPEC, IMAGE_SIZE = "roadmap.timm", "roadmap.image_size"


def build_network(spec: AnySpec, image_size: int) -> nn.Module:
    """The network of either kind of spec, with random weights. Raises ConfigError.

    image_size: pixels, for timm's architectures that are built for one size.
    """
    if isinstance(spec, TimmSpec):
        return _from_timm(spec, image_size)
    from roadmap.model.network import ModernizableResNet

    return ModernizableResNet(spec)


def build_model(
    step: str | int | AnySpec,
    regime: str = "",
    num_classes: int | None = None,
    *,
    ladder: str = DEFAULT,
    **settings: Any,
) -> nn.Module:
    """The network of a step (id or name), or of a ready spec, with any toggles set on top. Raises ConfigError.

    regime: the ladder's first one unless given. num_classes: the regime's own, 1000 in the paper's,
    unless given.

    >>> build_model("5b")  # ModernizableResNet, ResNet-50 regime
    >>> build_model("separate-downsampling", kernel_size=5)  # ConvNeXt-T with one change
    >>> build_model("registers", "micro", ladder="deit")
    """
    if num_classes is not None:
        settings["num_classes"] = num_classes
    if isinstance(step, ModelSpec | TimmSpec):
        return build_network(with_settings(step, settings), ANY_SIZE)
    of = find_ladder(ladder)
    where = of.find_regime(regime or of.default_regime)
    return build_network(of.model(step, where.name, **settings), where.image_size)


def _from_timm(spec: TimmSpec, image_size: int) -> nn.Module:
    import timm

    if not timm.is_model(spec.timm):
        known = timm.list_models()
        raise ConfigError(
            f"TimmSpec.timm is {spec.timm!r}, which timm does not know; "
            f"legal: the {len(known)} names of timm.list_models(); {nearest(spec.timm, known)}"
        )
    drop = {"drop_path_rate": spec.drop_path_rate} if spec.drop_path_rate else {}
    keywords = {name: _layer_class(name, value) for name, value in spec.keywords}
    try:
        card = timm.get_pretrained_cfg(spec.timm)  # refuses an unknown tag after the name's dot
        sized = {"img_size": image_size} if card is not None and card.fixed_input_size else {}
        model: nn.Module = timm.create_model(
            spec.timm,
            pretrained=False,
            num_classes=spec.num_classes,
            in_chans=spec.in_chans,
            **sized,
            **drop,
            **keywords,
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as e:
        raise ConfigError(
            f"TimmSpec {spec.timm} cannot be built at {image_size} px ({type(e).__name__}: {e}); "
            f"legal: sizes and settings that timm's {spec.timm} takes; change --image-size or drop_path_rate"
        ) from e
    return model


def _layer_class(keyword: str, value: object) -> object:
    """The class of timm.layers that a keyword such as mlp_layer names; any other value as it is."""
    import timm.layers

    named = getattr(timm.layers, value, None) if keyword.endswith("_layer") and isinstance(value, str) else None
    return named if isinstance(named, type) else value


def macs_by_operator(model: nn.Module, in_chans: int, image_size: int) -> int:
    """Multiply-adds of one image over all of torch's operators.

    Unlike a count over layers it sees the products inside attention.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]  # the fused operator has no count outside GPUs
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(torch.zeros(1, in_chans, image_size, image_size, device=next(model.parameters()).device))
    return counter.get_total_flops() // 2


def save_timm(model: nn.Module, spec: TimmSpec, image_size: int, path: Path) -> Path:
    """Write a timm network's weights with its name inside; `roadmap.load` rebuilds it."""
    from safetensors.torch import save as to_bytes

    from roadmap.runs.io import write_bytes

    metadata = {"format": "pt", TIMM_SPEC: json.dumps(plain(spec)), IMAGE_SIZE: str(image_size)}
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    write_bytes(path, to_bytes(state, metadata))
    return path


def timm_from_metadata(metadata: Mapping[str, str], file: str) -> nn.Module:
    """The network that `save_timm` described, with random weights.

    Raises ConfigError for a damaged description.
    """
    try:
        values, image_size = dict(json.loads(metadata[TIMM_SPEC])), int(metadata[IMAGE_SIZE])
    except (KeyError, ValueError, TypeError) as e:
        raise ConfigError(
            f"weights.file {file} has a damaged {TIMM_SPEC} or {IMAGE_SIZE} ({e}); "
            "legal: files that a finished run wrote; train it again"
        ) from e
    return _from_timm(from_plain(TimmSpec, values, f"{file}: spec"), image_size)
