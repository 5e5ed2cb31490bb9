"""Builders of the published networks, and the page that lists them.

`python -m roadmap.model.published` writes docs/models.md to standard output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roadmap.config.fields import show
from roadmap.ladder.published import IMAGE_SIZE, TRAINING, VARIANTS, Variant, find_variant, variant_spec
from roadmap.model.complexity import complexity
from roadmap.model.network import ModernizableResNet

__all__ = ["VARIANTS", "Variant", "build_variant", "find_variant", "models_page", "variant_spec"]


def build_variant(name: str, **arguments: Any) -> ModernizableResNet:
    """The network of a variant; `arguments` are those of `variant_spec`. Raises ConfigError."""
    return ModernizableResNet(variant_spec(name, **arguments))


def _builder(name: str) -> Callable[..., ModernizableResNet]:
    def build(
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float | None = None,
        layer_scale_init_value: float | None = None,
        use_cifar_stem: bool = False,
        head_init_scale: float = 1.0,
    ) -> ModernizableResNet:
        return build_variant(
            name,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            use_cifar_stem=use_cifar_stem,
            head_init_scale=head_init_scale,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name} with random weights; the arguments are those of `variant_spec`."
    return build


def __getattr__(name: str) -> Callable[..., ModernizableResNet]:
    """Each variant's builder under the variant's name."""
    if name in VARIANTS:
        return _builder(name)
    raise AttributeError(f"module 'roadmap.model.published' has no attribute {name!r}")


PAGE = """\
# Networks

Written by `python -m roadmap.model.published`; a test compares this file with its output.
Parameters and multiply-adds (convolutions and linear layers, 224 x 224, 1000 classes) are counted on the built network;
`published` and top-1 (in %, 224 x 224) are the papers' and nothing measured here.
The authors' repository lists 78.7 for the isotropic S where the paper prints 79.7.
"""


def models_page() -> str:
    """docs/models.md: the variants with what is counted here and what their papers print."""
    trainings = [f"top-1, {training}" for training in TRAINING]
    head = ["network", "depths", "width", "parameters", "GMACs", "published", *trainings, "source"]
    rule = "|---|---|--:|--:|--:|--:|" + "--:|" * len(TRAINING) + "---|"
    rows = [_table_row(_cells(variant)) for variant in VARIANTS.values()]
    return "\n".join([PAGE, _table_row(head), rule, *rows]) + "\n"


def _table_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(variant: Variant) -> list[str]:
    count = complexity(variant.spec, IMAGE_SIZE)
    top1 = {training: f"{value:.1f}" for training, value in variant.top1.items()}
    return [
        f"`{variant.name}`",
        show(variant.spec.depths),
        show(variant.spec.width),
        f"{count.params:,}",
        f"{count.macs / 1e9:.2f}",
        f"{variant.params:g}M, {variant.gmacs:g}G",
        *(top1.get(training, "-") for training in TRAINING),
        variant.source,
    ]


if __name__ == "__main__":
    print(models_page(), end="")
