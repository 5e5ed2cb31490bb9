"""Named recipes.

How a network is trained, each with its source, what to expect, and what was scaled if it is a short
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from roadmap.config.errors import lookup
from roadmap.config.recipe import Recipe

PYTORCH_90EP = Recipe(
    name="pytorch-90ep",
    source="torchvision's reference for resnet50; the ConvNeXt paper's starting point (Section 2)",
    expected="76.13 top-1 for ResNet-50 on ImageNet-1k; 90 epochs. BatchNorm groups of 32: the reference's 8 GPUs x "
    "32 images (inferred)",
    epochs=90,
    batch_size=256,
    group_size=32,
    optimizer="sgd",
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    decay_1d=True,
    schedule="step",
    decay_epochs=30,
    decay_rate=0.1,
    crop="resized",
    hflip=0.5,
    interpolation="bilinear",
    test_crop=0.875,
)

CONVNEXT_300EP = Recipe(
    name="convnext-300ep",
    source="ConvNeXt paper (arXiv 2201.03545), Table 5 without EMA, as Section A.1 trains the roadmap; 4 nodes x 8 "
    "GPUs x 128 images",
    expected="78.82 (ResNet-50) to 81.97 (last step) top-1 on ImageNet-1k; 300 epochs",
    epochs=300,
    batch_size=4096,
    group_size=128,
    optimizer="adamw",
    lr=4e-3,
    beta1=0.9,
    beta2=0.999,
    weight_decay=0.05,
    schedule="cosine",
    warmup_epochs=20,
    min_lr=1e-6,
    label_smoothing=0.1,
    mixup=0.8,
    cutmix=1.0,
    mix_prob=1.0,
    mix_switch_prob=0.5,
    augmentation="rand-m9-mstd0.5-inc1",
    random_erasing=0.25,
    crop="resized",
    hflip=0.5,
    interpolation="bicubic",
    test_crop=0.875,
)

CONVNEXT_FINETUNE = replace(
    CONVNEXT_300EP,
    name="convnext-finetune",
    source="ConvNeXt paper, Table 6 (ImageNet-22k to ImageNet-1k); set head_init_scale=0.001 on the model",
    expected="82.9 (T) to 87.0 (XL) top-1 from 22k weights; 30 epochs. Layer-wise decay 0.8 of the stated 0.7-0.8, "
    "block by block as timm groups layers (the authors' code has fewer, coarser ones: open); no EMA (open)",
    epochs=30,
    batch_size=512,
    group_size=32,
    lr=5e-5,
    weight_decay=1e-8,
    warmup_epochs=0,
    mixup=0.0,
    cutmix=0.0,
    layer_decay=0.8,
)

CIFAR_SGD = replace(
    PYTORCH_90EP,
    name="cifar-sgd",
    source="derived from pytorch-90ep for 32 px images",
    expected="epochs 90 -> 20, with the steps of the learning rate at the same thirds; groups 32 -> 128, two a batch; "
    "crop: padded by an eighth; whole image at test",
    epochs=20,
    group_size=128,
    decay_epochs=20 / 3,
    crop="padded",
    test_crop=1.0,
)

CIFAR_ADAMW = replace(
    CONVNEXT_300EP,
    name="cifar-adamw",
    source="derived from convnext-300ep for 32 px images",
    expected="epochs 300 -> 20, warm-up in proportion; batch 4096 -> 256 with lr 4e-3 -> 1e-3 (square-root scaling); "
    "crop: padded by an eighth; whole image at test",
    epochs=20,
    batch_size=256,
    lr=1e-3,
    warmup_epochs=20 * 20 / 300,
    crop="padded",
    test_crop=1.0,
)

DIGITS_SGD = replace(
    PYTORCH_90EP,
    name="digits-sgd",
    source="derived from pytorch-90ep for 1,797 images of 16 px",
    expected=(
        "epochs 90 -> 16, with the steps at the same thirds; batch 256 -> 64 in one group, lr in proportion; "
        "crop: padded by an eighth; "
        "no flip (digits have a hand); bicubic; whole image at test"
    ),
    epochs=16,
    batch_size=64,
    group_size=64,
    lr=0.025,
    decay_epochs=16 / 3,
    crop="padded",
    hflip=0.0,
    interpolation="bicubic",
    test_crop=1.0,
)

DIGITS_ADAMW = replace(
    CONVNEXT_300EP,
    name="digits-adamw",
    source="derived from convnext-300ep for 1,797 images of 16 px",
    expected=(
        "epochs 300 -> 16, warm-up in proportion; batch 4096 -> 64 in one group; lr kept at 4e-3; "
        "no RandAugment, erasing, mixup or cutmix (288 iterations are too few for them); crop: padded by an "
        "eighth; no flip; whole image at test; "
        "epochs and mixup were chosen on the validation split"
    ),
    epochs=16,
    batch_size=64,
    group_size=64,
    lr=4e-3,
    warmup_epochs=16 * 20 / 300,
    mixup=0.0,
    cutmix=0.0,
    augmentation="none",
    random_erasing=0.0,
    crop="padded",
    hflip=0.0,
    test_crop=1.0,
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        r.name: r
        for r in (PYTORCH_90EP, CONVNEXT_300EP, CONVNEXT_FINETUNE, CIFAR_SGD, CIFAR_ADAMW, DIGITS_SGD, DIGITS_ADAMW)
    }
)


def find_recipe(name: str) -> Recipe:
    return lookup("recipe", name, RECIPES)
