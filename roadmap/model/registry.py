"""The networks under timm's roof.

Importing this module registers them, and nothing else in the project imports it.

    import roadmap.model.registry
    timm.create_model("modernizable_resnet", step="5", regime="resnet50")      any step, any toggle as an argument
    timm.create_model("roadmap_convnext_tiny", pretrained=True)                the variants, with timm's weights

timm's scripts take them through `python -m roadmap.model.registry train.py --model
roadmap_convnext_tiny ...`.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import timm.models
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from roadmap.config.model import ModelSpec, with_settings
from roadmap.ladder.convnext import CONVNEXT, convnext_spec
from roadmap.ladder.published import VARIANTS, Variant, variant_spec
from roadmap.model.network import ModernizableResNet
from roadmap.model.state_dict_formats import recognize, to_ours

PREFIX = "roadmap_"
STEP_MODEL = "modernizable_resnet"
_TAGS = ("fb_", "fcmae_ft_")  # the authors' weights with a classifier
_ISOTROPIC_URL = "https://dl.fbaipublicfiles.com/convnext/convnext_iso_{}_1k_224_ema.pth"
# What timm hands to every network and a spec does not hold.
_TIMM_ARGUMENTS = (
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "features_only",
    "out_indices",
    "feature_cls",
    "drop_rate",
    "global_pool",
)


_VARIANT_ARGUMENTS = ("drop_path_rate", "layer_scale_init_value", "use_cifar_stem", "head_init_scale")


def _taken_out(arguments: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of the arguments, which then hold only the others."""
    return {name: arguments.pop(name) for name in names if name in arguments}


def _cfg(**values: Any) -> PretrainedCfg:
    """timm's evaluation settings: its defaults, with our names of the first and last layer."""
    usual = {"input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 0.875, "interpolation": "bicubic"}
    return PretrainedCfg(**{**usual, "first_conv": "stem.0", "classifier": "head.fc", **values})


def _cfgs_of(variant: Variant) -> dict[str, PretrainedCfg]:
    """The variant's published weights by tag, those without ImageNet-22k first.

    They are timm's own entries, read from timm's hub; the isotropic networks' are the authors'.
    """
    name = PREFIX + variant.name
    if variant.timm is None:
        return {f"{name}.fb_in1k": _cfg(url=_ISOTROPIC_URL.format(variant.name.rpartition("_")[2]), pool_size=(14, 14))}
    entries = timm.models.get_arch_pretrained_cfgs(variant.timm)
    published = {full.partition(".")[2]: cfg for full, cfg in entries.items()}
    tags = [tag for tag in published if tag.startswith(_TAGS)]
    tags.sort(key=_knows_more_than_imagenet_1k)
    return {f"{name}.{tag}": replace(published[tag], architecture=None, tag=None) for tag in tags}


def _knows_more_than_imagenet_1k(tag: str) -> bool:
    return "22k" in tag


def _all_cfgs() -> dict[str, PretrainedCfg]:
    cfgs = {STEP_MODEL: _cfg()}
    for variant in VARIANTS.values():
        cfgs |= _cfgs_of(variant)
    return cfgs


default_cfgs = generate_default_cfgs(_all_cfgs())


def _network(
    *, spec: ModelSpec, num_classes: int, in_chans: int, global_pool: str = "avg", drop_rate: float = 0.0
) -> ModernizableResNet:
    return ModernizableResNet(
        replace(spec, num_classes=num_classes, in_chans=in_chans), global_pool=global_pool, drop_rate=drop_rate
    )


def _adopt(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict of any public format under our names and in our shapes, for timm's loader."""
    ours, _ = to_ours(state, recognize(state))
    for name, own in model.state_dict().items():
        if name in ours and ours[name].numel() == own.numel():
            ours[name] = ours[name].reshape(own.shape)
    return ours


def _create(name: str, spec: ModelSpec, pretrained: bool, arguments: Mapping[str, Any]) -> nn.Module:
    return build_model_with_cfg(
        _network,
        name,
        pretrained,
        pretrained_filter_fn=_adopt,
        feature_cfg={"out_indices": tuple(range(spec.stages)), "flatten_sequential": True},
        spec=spec,
        **{"num_classes": spec.num_classes, "in_chans": spec.in_chans, **arguments},
    )


def modernizable_resnet(
    pretrained: bool = False, *, step: str | int = "separate-downsampling", regime: str = "resnet50", **arguments: Any
) -> nn.Module:
    """The network of a step. Raises ConfigError.

    arguments: toggles, and timm's own (features_only, out_indices, global_pool, drop_rate, ...).
    """
    for_timm = _taken_out(arguments, _TIMM_ARGUMENTS)
    spec = convnext_spec(step, regime, **arguments)
    size = CONVNEXT.find_regime(regime).image_size
    usual = _cfg(num_classes=spec.num_classes, input_size=(spec.in_chans, size, size)).to_dict()
    for_timm["pretrained_cfg"] = for_timm.get("pretrained_cfg") or usual
    return _create(STEP_MODEL, spec, pretrained, for_timm)


def _entry(variant: Variant) -> Any:
    """timm's entry point of a variant: a function of the registered name."""

    def build(pretrained: bool = False, **arguments: Any) -> nn.Module:
        for_timm = _taken_out(arguments, _TIMM_ARGUMENTS)
        own = _taken_out(arguments, _VARIANT_ARGUMENTS)
        spec = with_settings(variant_spec(variant.name, **own), arguments)
        counts: dict[str, Any] = {key: arguments[key] for key in ("num_classes", "in_chans") if key in arguments}
        return _create(PREFIX + variant.name, spec, pretrained, {**for_timm, **counts})

    build.__name__ = build.__qualname__ = PREFIX + variant.name
    build.__doc__ = f"{variant.name}: the arguments are those of its builder, any toggle, and timm's own."
    return build


def register() -> None:
    """Put every network into timm's registry, once."""
    for entry in (modernizable_resnet, *map(_entry, VARIANTS.values())):
        if not timm.models.is_model(entry.__name__):
            register_model(entry)


def main(words: list[str]) -> None:
    """Run one of timm's scripts with the networks registered."""
    if not words:
        sys.exit(
            "registry.script is missing; legal: a Python script and its arguments; "
            "write python -m roadmap.model.registry train.py ..."
        )
    import roadmap.model.registry  # noqa: F401  under its own name, which timm's registry notes

    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
else:
    register()
