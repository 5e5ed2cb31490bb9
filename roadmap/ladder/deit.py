"""A second ladder: from ViT to a DeiT-III-like network, every step a keyword of timm's VisionTransformer.

The order is this project's own; each step names the paper that proposed its change. None of them is known to help.
"""

from __future__ import annotations

from roadmap.config.model import AnySpec, TimmSpec, with_settings
from roadmap.ladder.ladder import ORIGINAL, Ladder, Regime, Step

# Every keyword that a step sets, as ViT has it (arXiv 2010.11929): so that no network is silent about any.
VIT = {
    "class_token": True,
    "global_pool": "token",
    "no_embed_class": False,
    "reg_tokens": 0,
    "init_values": None,
    "qk_norm": False,
    "norm_layer": "layernorm",
    "mlp_layer": "Mlp",
    "mlp_ratio": 4.0,
}
AVERAGE = {"class_token": False, "global_pool": "avg"}
GATED = {"mlp_layer": "SwiGLU", "mlp_ratio": 8 / 3}  # as many parameters as a plain one of ratio 4
TOKENS, BLOCK = "tokens", "block"


def _step(
    number: int | None, name: str, parent: str | None, title: str, group: str, source: str, **overrides: object
) -> Step:
    return Step(
        id=None if number is None else str(number),
        name=name,
        parent=parent,
        title=title,
        group=group,
        source=f"arXiv {source}",
        overrides=overrides,
        structure=None,
        on_path=number is not None,
        evidence="inferred",
    )


_STEPS = (
    _step(0, "vit", None, "ViT with a class token", "start", "2010.11929"),
    _step(1, "stochastic-depth", "vit", "stochastic depth", BLOCK, "2012.12877, Table 9"),
    _step(2, "layer-scale", "stochastic-depth", "LayerScale", BLOCK, "2204.07118, Section 3", init_values=1e-6),
    _step(3, "bare-class-token", "layer-scale", "bare class token", TOKENS, "2204.07118", no_embed_class=True),
    _step(4, "average-pooling", "bare-class-token", "average pooling", TOKENS, "2205.01580", **AVERAGE),
    _step(5, "registers", "average-pooling", "four registers", TOKENS, "2309.16588", reg_tokens=4),
    _step(6, "qk-norm", "registers", "queries and keys normalized", BLOCK, "2302.05442", qk_norm=True),
    _step(None, "wider-mlp", "qk-norm", "MLP six times as wide", BLOCK, "2010.11929 has 4", mlp_ratio=6.0),
    _step(7, "gated-mlp", "qk-norm", "gated MLP", BLOCK, "2002.05202", **GATED),
    _step(8, "rms-norm", "gated-mlp", "LayerNorm to RMSNorm", BLOCK, "1910.07467", norm_layer="rmsnorm"),
)  # fmt: skip


def _vit(name: str, **settings: object) -> AnySpec:
    return with_settings(TimmSpec(timm=name), {**VIT, **settings})


def _regime(name: str, title: str, pixels: int, base: AnySpec, recipe: str, data: str, drop_path_rate: float) -> Regime:
    overrides = {"stochastic-depth": {"drop_path_rate": drop_path_rate}}
    recipes = {ORIGINAL: recipe}
    return Regime(name=name, title=title, image_size=pixels, base=base, overrides=overrides, recipes=recipes, data=data)


_SMALL = {"patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 10, "in_chans": 1}
DEIT = Ladder(
    name="deit",
    title="ViT to DeiT III",
    source="arXiv 2010.11929, 2204.07118",
    all_steps=_STEPS,
    all_regimes=(
        _regime("small", "ViT-S/16", 224, _vit("vit_small_patch16_224"), "convnext-300ep", "imagenet", 0.05),
        _regime("micro", "tiny ViT", 16, _vit("vit_tiny_patch16_224", **_SMALL), "digits-adamw", "digits", 0.05),
    ),
    end="rms-norm",
)  # fmt: skip
