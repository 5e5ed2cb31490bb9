"""The published ConvNeXt networks as data: every one is ModernizableResNet with other toggles.

    V1          T, S, B, L, XL               the ladder's separate-downsampling
    isotropic   S, B, L                      one stage of one width after a 16x16/16 stem
    V2          atto ... huge                the ladder's grn

docs/models.md is made from this table. No torch: plans and study files name variants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from roadmap.config.errors import lookup
from roadmap.config.model import ModelSpec, with_settings
from roadmap.ladder.convnext import convnext_spec

IMAGE_SIZE = 224
PUBLISHED_RECIPE = "convnext-300ep"  # Table 5
V1, ISOTROPIC, V2 = "ConvNeXt", "ConvNeXt, isotropic", "ConvNeXt V2"
IN1K, IN22K, FCMAE, FCMAE_22K = "ImageNet-1k", "ImageNet-22k, then 1k", "FCMAE, then 1k", "FCMAE, 22k, then 1k"
TRAINING = (IN1K, IN22K, FCMAE, FCMAE_22K)

_V1_SOURCE = "arXiv 2201.03545, Table 1"
_ISOTROPIC_SOURCE = "arXiv 2201.03545, Table 2"
_V2_SOURCE = "arXiv 2301.00808, and the authors' model list"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A published network.

    `params` in M, `gmacs` and `top1` in % by training regime at 224 px, as printed in `source`;
    `timm`: its name there. `recipe`: what it is trained with from random weights.
    """

    name: str
    family: str
    spec: ModelSpec
    params: float
    gmacs: float
    top1: Mapping[str, float]
    source: str
    timm: str | None
    recipe: str = PUBLISHED_RECIPE


def _v1(
    name: str,
    depths: tuple[int, ...],
    width: int,
    drop: float,
    params: float,
    gmacs: float,
    in1k: float | None,
    in22k: float,
) -> Variant:
    spec = with_settings(
        convnext_spec("separate-downsampling"), {"depths": depths, "width": width, "drop_path_rate": drop}
    )
    return _variant(name, V1, spec, params, gmacs, {IN1K: in1k, IN22K: in22k}, _V1_SOURCE)


def _isotropic(
    name: str, depth: int, width: int, drop: float, layer_scale: float | None, params: float, gmacs: float, in1k: float
) -> Variant:
    settings = {
        "depths": (depth,),
        "width": width,
        "stem_stride": 16,
        "downsampling": "none",
        "layer_scale": layer_scale,
        "drop_path_rate": drop,
    }
    spec = with_settings(convnext_spec("separate-downsampling"), settings)
    return _variant(name, ISOTROPIC, spec, params, gmacs, {IN1K: in1k}, _ISOTROPIC_SOURCE)


def _v2(
    name: str,
    depths: tuple[int, ...],
    width: int,
    drop: float,
    params: float,
    gmacs: float,
    in1k: float | None,
    fcmae: float,
    in22k: float | None,
) -> Variant:
    spec = with_settings(convnext_spec("grn"), {"depths": depths, "width": width, "drop_path_rate": drop})
    return _variant(name, V2, spec, params, gmacs, {IN1K: in1k, FCMAE: fcmae, FCMAE_22K: in22k}, _V2_SOURCE)


def _variant(
    name: str, family: str, spec: ModelSpec, params: float, gmacs: float, top1: Mapping[str, float | None], source: str
) -> Variant:
    printed = MappingProxyType({regime: value for regime, value in top1.items() if value is not None})
    return Variant(
        name=name,
        family=family,
        spec=spec,
        params=params,
        gmacs=gmacs,
        top1=printed,
        source=source,
        timm=None if family == ISOTROPIC else name,
        recipe="convnext-isotropic" if family == ISOTROPIC else PUBLISHED_RECIPE,
    )


# Stochastic depth: V1 and isotropic from the authors' commands (XL: its 22k pre-training); V2 from their fine-tuning
# commands for atto, tiny and base, open for the others.
_LIST = (
    _v1("convnext_tiny", (3, 3, 9, 3), 96, 0.1, 29, 4.5, 82.1, 82.9),
    _v1("convnext_small", (3, 3, 27, 3), 96, 0.4, 50, 8.7, 83.1, 84.6),
    _v1("convnext_base", (3, 3, 27, 3), 128, 0.5, 89, 15.4, 83.8, 85.8),
    _v1("convnext_large", (3, 3, 27, 3), 192, 0.5, 198, 34.4, 84.3, 86.6),
    _v1("convnext_xlarge", (3, 3, 27, 3), 256, 0.2, 350, 60.9, None, 87.0),
    _isotropic("convnext_isotropic_small", 18, 384, 0.1, None, 22, 4.3, 79.7),
    _isotropic("convnext_isotropic_base", 18, 768, 0.2, None, 87, 16.9, 82.0),
    _isotropic("convnext_isotropic_large", 36, 1024, 0.5, 1e-6, 306, 59.7, 82.6),
    _v2("convnextv2_atto", (2, 2, 6, 2), 40, 0.1, 3.7, 0.55, 76.2, 76.7, None),
    _v2("convnextv2_femto", (2, 2, 6, 2), 48, 0.1, 5.2, 0.78, 78.0, 78.5, None),
    _v2("convnextv2_pico", (2, 2, 6, 2), 64, 0.1, 9.1, 1.37, 79.7, 80.3, None),
    _v2("convnextv2_nano", (2, 2, 8, 2), 80, 0.1, 15.6, 2.45, 81.2, 81.9, 82.1),
    _v2("convnextv2_tiny", (3, 3, 9, 3), 96, 0.2, 28.6, 4.47, 82.5, 83.0, 83.9),
    _v2("convnextv2_base", (3, 3, 27, 3), 128, 0.1, 89, 15.4, 84.3, 84.9, 86.8),
    _v2("convnextv2_large", (3, 3, 27, 3), 192, 0.2, 198, 34.4, 84.5, 85.8, 87.3),
    _v2("convnextv2_huge", (3, 3, 27, 3), 352, 0.3, 660, 115, None, 86.3, None),
)

VARIANTS: Mapping[str, Variant] = MappingProxyType({v.name: v for v in _LIST})


def find_variant(name: str) -> Variant:
    """Raises ConfigError naming the legal ones."""
    return lookup("variant", name, VARIANTS)


def variant_spec(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    drop_path_rate: float | None = None,
    layer_scale_init_value: float | None = None,
    use_cifar_stem: bool = False,
    head_init_scale: float = 1.0,
) -> ModelSpec:
    """A variant's toggles. drop_path_rate, layer_scale_init_value: the variant's own unless given;
    a LayerScale of 0 means none.

    use_cifar_stem: a 3x3 convolution at stride 1 and the norm, so that 32 pixels stay 32. Raises ConfigError.
    """
    spec = find_variant(name).spec
    settings: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans, "head_init_scale": head_init_scale}
    if drop_path_rate is not None:
        settings["drop_path_rate"] = drop_path_rate
    if layer_scale_init_value is not None:
        settings["layer_scale"] = layer_scale_init_value or None
    if use_cifar_stem:
        settings |= {"stem": "cifar", "stem_stride": 1}
    return with_settings(spec, settings)
