"""How the published networks are fine-tuned on ImageNet-1k: a recipe, and what goes with it on the network.

Sources: the ConvNeXt paper (arXiv 2201.03545), Table 6, and the authors' commands; the ConvNeXt V2 paper
(arXiv 2301.00808) and its authors' commands. A recipe says how to train; stochastic depth and the scale of the new head
are the network's, so this table has both. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from roadmap.ladder.published import FCMAE, IMAGE_SIZE, IN1K, IN22K

HEAD_INIT_SCALE = 0.001
LARGE = 384  # pixels, the other size that the first paper fine-tunes at


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """One line of the papers' fine-tuning tables. weights: what the network was trained on before."""

    variant: str
    weights: str
    recipe: str
    drop_path_rate: float
    image_size: int = IMAGE_SIZE


def _from_22k(variant: str, drop_path_rate: float, recipe: str = "convnext-finetune") -> tuple[FineTuning, FineTuning]:
    return (
        FineTuning(variant=variant, weights=IN22K, recipe=recipe, drop_path_rate=drop_path_rate),
        FineTuning(
            variant=variant,
            weights=IN22K,
            recipe=f"{recipe}-384",
            drop_path_rate=drop_path_rate,
            image_size=LARGE,
        ),
    )


def _from_1k(variant: str, drop_path_rate: float) -> FineTuning:
    recipe = "convnext-finetune-1k-384"
    return FineTuning(variant=variant, weights=IN1K, recipe=recipe, drop_path_rate=drop_path_rate, image_size=LARGE)


def _v2(size: str, recipe: str, drop_path_rate: float) -> FineTuning:
    return FineTuning(
        variant=f"convnextv2_{size}",
        weights=FCMAE,
        recipe=f"convnextv2-finetune-{recipe}",
        drop_path_rate=drop_path_rate,
    )


FINE_TUNING: tuple[FineTuning, ...] = (
    *_from_22k("convnext_tiny", 0.0),
    *_from_22k("convnext_small", 0.1),
    *_from_22k("convnext_base", 0.2),
    *_from_22k("convnext_large", 0.3),
    *_from_22k("convnext_xlarge", 0.4, "convnext-finetune-xl"),
    _from_1k("convnext_base", 0.8),
    _from_1k("convnext_large", 0.95),
    _v2("atto", "small", 0.1),
    _v2("femto", "small", 0.1),
    _v2("pico", "small", 0.1),
    _v2("nano", "small", 0.1),
    _v2("tiny", "tiny", 0.2),
    _v2("base", "base", 0.1),
    _v2("large", "base", 0.2),
    _v2("huge", "base", 0.3),
)


def find_fine_tuning(variant: str, *, image_size: int = IMAGE_SIZE, recipe: str | None = None) -> FineTuning | None:
    """Return how a network is fine-tuned: with this recipe, or as is usual at this size; None where nothing is stated.

    Weights of ImageNet-1k are fine-tuned at 384 px only when that recipe is asked for: from a file of weights it cannot
    be told what they were trained on.
    """
    lines = [line for line in FINE_TUNING if line.variant == variant]
    if recipe is not None:
        return next((line for line in lines if line.recipe == recipe), None)
    usual = [line for line in lines if line.weights != IN1K]
    fitting = [line for line in usual if line.image_size <= max(image_size, IMAGE_SIZE)]
    return max(fitting, key=lambda line: line.image_size, default=None)
