"""Named recipes.

How a network is trained, each with its source, what to expect, and what was scaled if it is a short
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

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

CONVNEXT_100EP = replace(
    CONVNEXT_300EP,
    name="convnext-100ep",
    source="derived from convnext-300ep for cheaper studies",
    expected="epochs 300 -> 100, warm-up in proportion; not published: no accuracy to expect",
    epochs=100,
    warmup_epochs=20 / 3,
)

PYTORCH_30EP = replace(
    PYTORCH_90EP,
    name="pytorch-30ep",
    source="derived from pytorch-90ep for cheaper studies",
    expected="epochs 90 -> 30, with the steps of the learning rate at the same thirds; not published: no accuracy to "
    "expect",
    epochs=30,
    decay_epochs=10,
)

CONVNEXT_ISOTROPIC = replace(
    CONVNEXT_300EP,
    name="convnext-isotropic",
    source="ConvNeXt paper, Tables 2 and 5, and the authors' commands for isotropic networks",
    expected="79.7 (S), 82.0 (B), 82.6 (L) top-1 on ImageNet-1k; 300 epochs, 50 of them warm-up, with EMA. LayerScale "
    "for L alone; drop path .1 / .2 / .5: `--model convnext_isotropic_small` and its sisters hold both",
    warmup_epochs=50,
    ema_decay=0.9999,
)

CONVNEXT_22K = replace(
    CONVNEXT_300EP,
    name="convnext-22k",
    source="ConvNeXt paper, Table 5 and Section 3.1 (pre-training on ImageNet-22k); 16 nodes x 8 GPUs x 32 images",
    expected="no accuracy of its own: fine-tuning follows; 90 epochs without EMA. Drop path 0 / 0 / .1 / .1 / .2 for T "
    "to XL: `--set drop_path_rate=...`",
    epochs=90,
    group_size=32,
    warmup_epochs=5,
)

CONVNEXT_FINETUNE = replace(
    CONVNEXT_300EP,
    name="convnext-finetune",
    source="ConvNeXt paper, Table 6 (ImageNet-22k to ImageNet-1k at 224 px), and the authors' commands",
    expected="82.9 (T) to 86.6 (L) top-1 from 22k weights; 30 epochs. Drop path 0 / .1 / .2 / .3 for T to L and a head "
    "scaled by 0.001 are the network's: `--model convnext_base --init FILE` sets both",
    epochs=30,
    batch_size=512,
    group_size=32,
    lr=5e-5,
    weight_decay=1e-8,
    warmup_epochs=0,
    mixup=0.0,
    cutmix=0.0,
    layer_decay=0.8,
    layer_decay_type="group",
)

# The authors resize whole images to a square from 384 px on.
WHOLE_IMAGE: Mapping[str, Any] = MappingProxyType({"test_crop": 1.0, "test_resize": "square"})

CONVNEXT_FINETUNE_384 = replace(
    CONVNEXT_FINETUNE,
    name="convnext-finetune-384",
    source="ConvNeXt paper, Table 6 (ImageNet-22k to ImageNet-1k at 384 px), and the authors' commands",
    expected="the recipe of 224 px, evaluated on the whole image; 84.1 (T) to 87.5 (L) top-1 from 22k weights. Give "
    "`--image-size 384` too",
    **WHOLE_IMAGE,
)

CONVNEXT_FINETUNE_XL = replace(
    CONVNEXT_FINETUNE,
    name="convnext-finetune-xl",
    source="ConvNeXt paper, Table 6 (ConvNeXt-XL, ImageNet-22k to ImageNet-1k at 224 px), and the authors' commands",
    expected="87.0 top-1 for XL from 22k weights: the one network fine-tuned with EMA. Drop path .4",
    ema_decay=0.9999,
)

CONVNEXT_FINETUNE_XL_384 = replace(
    CONVNEXT_FINETUNE_XL,
    name="convnext-finetune-xl-384",
    source="ConvNeXt paper, Table 6 (ConvNeXt-XL, ImageNet-22k to ImageNet-1k at 384 px), and the authors' commands",
    expected="87.8 top-1 for XL from 22k weights, evaluated on the whole image. Drop path .4; give "
    "`--image-size 384` too",
    **WHOLE_IMAGE,
)

CONVNEXT_FINETUNE_1K_384 = replace(
    CONVNEXT_FINETUNE_384,
    name="convnext-finetune-1k-384",
    source="ConvNeXt paper, Table 6 (ImageNet-1k at 224 px to 384 px), and the authors' commands",
    expected="85.1 (B), 85.5 (L) top-1 from weights trained on ImageNet-1k at 224 px, of L its moving average. Drop "
    "path .8 (B), .95 (L); give `--image-size 384` too",
    layer_decay=0.7,
)

# ConvNeXt V2 states learning rates for 256 images; lr is what its code makes of them at a batch of 1,024.
CONVNEXTV2_FINETUNE_SMALL = replace(
    CONVNEXT_300EP,
    name="convnextv2-finetune-small",
    source="ConvNeXt V2 paper (arXiv 2301.00808), fine-tuning of Atto to Nano, and the authors' command for Atto",
    expected="76.7 (Atto) to 81.9 (Nano) top-1 from FCMAE weights; 600 epochs with EMA; base lr 2e-4. As the command "
    "for Atto has it; that Femto, Pico and Nano mix no images either is open. Drop path .1",
    epochs=600,
    batch_size=1024,
    group_size=32,
    lr=8e-4,
    weight_decay=0.3,
    warmup_epochs=0,
    label_smoothing=0.2,
    mixup=0.0,
    cutmix=0.0,
    ema_decay=0.9999,
    layer_decay=0.9,
    layer_decay_type="single",
)

CONVNEXTV2_FINETUNE_TINY = replace(
    CONVNEXT_300EP,
    name="convnextv2-finetune-tiny",
    source="ConvNeXt V2 paper (arXiv 2301.00808), fine-tuning of Tiny, and the authors' command",
    expected="83.0 top-1 from FCMAE weights; 300 epochs with EMA; base lr 8e-4. Drop path .2",
    batch_size=1024,
    group_size=32,
    lr=3.2e-3,
    warmup_epochs=40,
    ema_decay=0.9999,
    layer_decay=0.9,
    layer_decay_type="single",
)

CONVNEXTV2_FINETUNE_BASE = replace(
    CONVNEXTV2_FINETUNE_TINY,
    name="convnextv2-finetune-base",
    source="ConvNeXt V2 paper (arXiv 2301.00808), fine-tuning of Base to Huge, and the authors' command for Base",
    expected="84.9 (Base), 85.8 (Large), 86.3 (Huge) top-1 from FCMAE weights; 100 epochs with EMA; base lr 6.25e-4. "
    "As the command for Base has it; open for Large and Huge. Drop path .1 / .2 / .3",
    epochs=100,
    lr=2.5e-3,
    warmup_epochs=20,
    layer_decay=0.6,
    layer_decay_type="group",
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
    expected="epochs 300 -> 20, warm-up in proportion; batch 4096 -> 256 with lr 4e-3 -> 1e-3 (square-root scaling, "
    "which --batch-size goes on with); crop: padded by an eighth; whole image at test",
    epochs=20,
    batch_size=256,
    lr=1e-3,
    lr_scaling="sqrt",
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

_LIST = (
    PYTORCH_90EP,
    CONVNEXT_300EP,
    PYTORCH_30EP,
    CONVNEXT_100EP,
    CONVNEXT_ISOTROPIC,
    CONVNEXT_22K,
    CONVNEXT_FINETUNE,
    CONVNEXT_FINETUNE_384,
    CONVNEXT_FINETUNE_XL,
    CONVNEXT_FINETUNE_XL_384,
    CONVNEXT_FINETUNE_1K_384,
    CONVNEXTV2_FINETUNE_SMALL,
    CONVNEXTV2_FINETUNE_TINY,
    CONVNEXTV2_FINETUNE_BASE,
    CIFAR_SGD,
    CIFAR_ADAMW,
    DIGITS_SGD,
    DIGITS_ADAMW,
)
RECIPES: Mapping[str, Recipe] = MappingProxyType({r.name: r for r in _LIST})


def find_recipe(name: str) -> Recipe:
    return lookup("recipe", name, RECIPES)
