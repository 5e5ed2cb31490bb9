"""How a network is trained, as values. No torch."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Literal

from annotated_types import Interval

from roadmap.config.errors import ConfigError, refuse
from roadmap.config.fields import Fraction, Text, TextOrEmpty, config, setting

# timm's RandAugment with its increasing operations: what roadmap/data/batched_augmentation.py draws from.
TENSOR_POLICY = r"none|rand(?=.*-inc1(-|$))(-(m|n|p|mstd|inc)\d+(\.\d+)?)+"


@config
class Recipe:
    """How to train, apart from the model. lr is the rate at `batch_size`, the global batch. Raises ConfigError."""

    name: Text = setting("the recipe's name", identity=False)
    source: Text = setting("where it is stated", identity=False)
    expected: TextOrEmpty = setting("cost and accuracy to expect, and what was scaled", identity=False, default="")
    epochs: Annotated[int, Interval(ge=1, le=100000)] = setting("passes over the training split")
    batch_size: Annotated[int, Interval(ge=1, le=1000000)] = setting(
        "images per iteration over all devices and accumulated groups"
    )
    group_size: Annotated[int, Interval(ge=1, le=100000)] = setting(
        "images per forward pass: BatchNorm statistics and mixup pairs live inside one group"
    )
    optimizer: Literal["sgd", "adamw"] = setting("sgd: with momentum; adamw: decoupled weight decay")
    lr: Annotated[float, Interval(ge=0, le=1000)] = setting("peak learning rate at the global batch")
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = setting("weight decay")
    decay_1d: bool = setting("weight decay on biases and other 1-D parameters too", default=False)
    momentum: Fraction = setting("momentum of sgd", default=0.9)
    beta1: Fraction = setting("first beta of adamw", default=0.9)
    beta2: Fraction = setting("second beta of adamw", default=0.999)
    schedule: Literal["cosine", "step"] = setting(
        "cosine: per iteration to min_lr; step: x decay_rate every decay_epochs", default="cosine"
    )
    warmup_epochs: Annotated[float, Interval(ge=0, le=100000)] = setting("epochs of linear warm-up from 0", default=0)
    min_lr: Annotated[float, Interval(ge=0, le=1000)] = setting("learning rate at the end of the cosine", default=0.0)
    decay_epochs: Annotated[float, Interval(ge=0.01, le=100000)] = setting(
        "epochs between steps of the step schedule", default=30
    )
    decay_rate: Fraction = setting("factor of the step schedule", default=0.1)
    clip_grad: Annotated[float, Interval(ge=0, le=1000000.0)] | None = setting(
        "gradient norm limit, or none", default=None
    )
    label_smoothing: Annotated[float, Interval(ge=0, le=0.99)] = setting("label smoothing", default=0.0)
    mixup: Annotated[float, Interval(ge=0, le=100)] = setting("mixup alpha; 0 for none", default=0.0)
    cutmix: Annotated[float, Interval(ge=0, le=100)] = setting("cutmix alpha; 0 for none", default=0.0)
    mix_prob: Fraction = setting("probability that a group is mixed at all", default=1.0)
    mix_switch_prob: Fraction = setting("probability of cutmix where both are on", default=0.5)
    augmentation: Text = setting("timm's policy string, such as rand-m9-mstd0.5-inc1, or none", default="none")
    crop: Literal["resized", "padded", "none"] = setting(
        "random resized crop, random crop of the image padded by an eighth, or none", default="resized"
    )
    hflip: Fraction = setting("probability of a horizontal flip", default=0.5)
    random_erasing: Fraction = setting("probability of erasing a rectangle with per-pixel noise", default=0.0)
    interpolation: Literal["bilinear", "bicubic"] = setting("of every resize", default="bilinear")
    pipeline: Literal["pil", "tensor"] = setting(
        "pil: timm's transforms, an image at a time; tensor: the same in batches, on the device, of images in memory",
        default="pil",
        since=2,
        neutral="pil",
    )
    test_crop: Annotated[float, Interval(ge=0.1, le=1)] = setting(
        "central part of the resized image seen by evaluation", default=0.875
    )
    ema_decay: Fraction | None = setting("decay per iteration of the weights' moving average, or none", default=None)
    layer_decay: Annotated[float, Interval(ge=0.01, le=1)] | None = setting(
        "factor on the learning rate from each layer to the one below it, or none", default=None
    )
    accuracy: Literal["last", "best"] = setting(
        "the epoch whose test accuracy is the result: the last, or the best on the validation split", default="last"
    )
    precision: Literal["auto", "fp32", "bf16"] = setting("auto: bf16 autocast on GPUs, fp32 on CPUs", default="auto")

    def __post_init__(self) -> None:
        refuse(self._conflicts())

    def _conflicts(self) -> list[str]:
        found = []
        if self.batch_size % self.group_size:
            found.append(
                f"Recipe.batch_size is {self.batch_size}, not a multiple of group_size {self.group_size}; "
                "legal: whole groups; change one of the two"
            )
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            found.append(
                f"Recipe.warmup_epochs is {self.warmup_epochs:g} of {self.epochs} epochs; legal: fewer than "
                "epochs; shorten the warm-up"
            )
        if self.pipeline == "tensor" and not re.fullmatch(TENSOR_POLICY, self.augmentation):
            found.append(
                f"Recipe.augmentation is {self.augmentation!r} with pipeline 'tensor'; legal: none, or rand with "
                "sections m, n, p, mstd and inc1, such as rand-m9-mstd0.5-inc1; set pipeline to pil"
            )
        if (self.mixup > 0 or self.cutmix > 0) and self.group_size % 2:
            found.append(
                f"Recipe.group_size is {self.group_size} with mixup or cutmix on; legal: even sizes, images "
                "are mixed in pairs; change group_size"
            )
        return found

    @property
    def groups(self) -> int:
        """Groups in one global batch."""
        return self.batch_size // self.group_size

    def groups_per_rank(self, ranks: int) -> int:
        """Groups each of `ranks` processes takes in an iteration.

        Raises ConfigError where the global batch does not divide.
        """
        if self.groups % ranks:
            legal = ", ".join(str(r) for r in range(1, self.groups + 1) if self.groups % r == 0)
            raise ConfigError(
                f"Recipe.batch_size is {self.batch_size}, {self.groups} groups of {self.group_size}, which "
                f"{ranks} ranks do not divide; "
                f"legal: {legal} ranks; change the number of GPUs, or batch_size"
            )
        return self.groups // ranks

    def with_batch_size(self, batch_size: int) -> Recipe:
        """The same recipe at another global batch, the learning rate in proportion.

        Groups shrink where the batch is smaller than one.
        """
        return replace(
            self,
            batch_size=batch_size,
            lr=self.lr * batch_size / self.batch_size,
            group_size=min(self.group_size, batch_size),
        )

    def with_epochs(self, epochs: int) -> Recipe:
        """The same recipe over another number of epochs; warm-up and step decay are scaled in proportion."""
        scale = epochs / self.epochs
        return replace(
            self, epochs=epochs, warmup_epochs=self.warmup_epochs * scale, decay_epochs=self.decay_epochs * scale
        )
