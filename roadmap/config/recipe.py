"""How a network is trained, as values. No torch."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Annotated, Literal

from annotated_types import Interval

from roadmap.config.errors import ConfigError, refuse
from roadmap.config.fields import Fraction, Text, TextOrEmpty, config, setting

# timm's RandAugment with its increasing operations: what roadmap/data/batched_augmentation.py draws from.
TENSOR_POLICY = r"none|rand(-(m|n|p|mstd)\d+(\.\d+)?)*-inc1(-(m|n|p|mstd)\d+(\.\d+)?)*"


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
        "images that BatchNorm takes its statistics over, one forward pass unless --micro-batch joins several"
    )
    mix_group_size: Annotated[int, Interval(ge=1, le=100000)] | None = setting(
        "images that mixup and CutMix draw for and mix among, or none for group_size", default=None, since=2
    )
    optimizer: Literal["sgd", "adamw"] = setting("sgd: with momentum; adamw: decoupled weight decay")
    lr: Annotated[float, Interval(ge=0, le=1000)] = setting("peak learning rate at the global batch")
    lr_scaling: Literal["linear", "sqrt", "none"] = setting(
        "how lr follows another global batch that is asked for: in proportion, by its square root, or not",
        identity=False,
        default="linear",
        since=2,
        neutral="linear",
    )
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
        "pil: timm's transforms, an image at a time; tensor: the same in batches, on the device",
        default="pil",
        since=2,
        neutral="pil",
    )
    test_crop: Annotated[float, Interval(ge=0.1, le=1)] = setting(
        "central part of the resized image seen by evaluation", default=0.875
    )
    test_resize: Literal["shorter", "square"] = setting(
        "what evaluation resizes to image size / test_crop: the shorter side, or both, which loses no part of an image",
        default="shorter",
        since=2,
        neutral="shorter",
    )
    ema_decay: Fraction | None = setting("decay per iteration of the weights' moving average, or none", default=None)
    ema_warmup: bool = setting(
        "the moving average's decay grows as 1 - t^(-2/3) up to ema_decay, so that initial weights count nothing",
        default=False,
        since=2,
        neutral=False,
    )
    layer_decay: Annotated[float, Interval(ge=0.01, le=1)] | None = setting(
        "factor on the learning rate from each layer to the one below it, or none", default=None
    )
    layer_decay_type: Literal["timm", "single", "group"] = setting(
        "layers of layer_decay: timm's blocks, or the ConvNeXt authors' blocks (single) or groups of three (group)",
        default="timm",
        since=2,
        neutral="timm",
    )
    accuracy: Literal["last", "best"] = setting(
        "the epoch whose test accuracy is the result: the last, or the best on the validation split", default="last"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto: bf16 autocast on GPUs, fp32 on CPUs; fp16: with loss scaling, for GPUs without bf16", default="auto"
    )
    residual: Literal["fp32", "compute"] = setting(
        "number format of the residual stream under autocast, of all steps alike; compute: autocast's own",
        default="fp32",
        since=2,
        neutral="fp32",
    )
    tf32: bool = setting(
        "TF32 for float32 convolutions and matrix products on a GPU; both or none",
        default=False,
        since=2,
        neutral=False,
    )

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
                "sections m, n, p, mstd and inc1 once, such as rand-m9-mstd0.5-inc1; set pipeline to pil"
            )
        return found + self._conflicts_of_mixing()

    def _conflicts_of_mixing(self) -> list[str]:
        found = []
        name = "group_size" if self.mix_group_size is None else "mix_group_size"
        if (self.mixup > 0 or self.cutmix > 0) and self.mix_group % 2:
            found.append(
                f"Recipe.{name} is {self.mix_group} with mixup or cutmix on; legal: even sizes, images "
                f"are mixed in pairs; change {name}"
            )
        sizes = (self.load_size % self.group_size, self.load_size % self.mix_group, self.batch_size % self.load_size)
        if self.mix_group_size is not None and any(sizes):
            found.append(
                f"Recipe.mix_group_size is {self.mix_group_size} with group_size {self.group_size} and batch_size "
                f"{self.batch_size}; legal: a multiple or a part of group_size that divides the batch; change "
                "mix_group_size"
            )
        return found

    @property
    def groups(self) -> int:
        """Groups in one global batch."""
        return self.batch_size // self.group_size

    @property
    def mix_group(self) -> int:
        """Images that are mixed among each other."""
        return self.group_size if self.mix_group_size is None else self.mix_group_size

    @property
    def load_size(self) -> int:
        """Images that a rank takes at a time: whole groups of BatchNorm and of mixing."""
        return max(self.group_size, self.mix_group)

    @property
    def loads(self) -> int:
        """Parts of `load_size` images in one global batch, which ranks divide among themselves."""
        return self.batch_size // self.load_size

    def loads_per_rank(self, ranks: int) -> int:
        """Return the parts that each of `ranks` processes takes in an iteration.

        Raises ConfigError where the global batch does not divide.
        """
        if self.loads % ranks:
            legal = ", ".join(str(r) for r in range(1, self.loads + 1) if self.loads % r == 0)
            raise ConfigError(
                f"Recipe.batch_size is {self.batch_size}, {self.loads} groups of {self.load_size}, which "
                f"{ranks} ranks do not divide; "
                f"legal: {legal} ranks; change the number of GPUs, or batch_size"
            )
        return self.loads // ranks

    def groups_per_forward(self, micro_batch: int | None, ranks: int) -> int:
        """Return how many groups a forward pass takes: one unless a micro-batch is asked for.

        Raises ConfigError where it is no whole number of groups, or no part of a rank's share.
        """
        share = self.loads_per_rank(ranks) * self.load_size
        size = micro_batch or self.group_size
        if size % self.group_size or share % size:
            raise ConfigError(
                f"--micro-batch is {size} with groups of {self.group_size} and {share} images on each rank; "
                "legal: whole groups that divide a rank's images; leave it out for one group"
            )
        return size // self.group_size

    def with_batch_size(self, batch_size: int) -> Recipe:
        """The same recipe at another global batch: lr follows by lr_scaling, the moving average keeps its span.

        Groups shrink where the batch is smaller than one.
        """
        return replace(
            self,
            batch_size=batch_size,
            lr=self._lr_at(batch_size),
            group_size=min(self.group_size, batch_size),
            mix_group_size=None if self.mix_group_size is None else min(self.mix_group_size, batch_size),
            ema_decay=_over_iterations(self.ema_decay, self.batch_size / batch_size),
        )

    def _lr_at(self, batch_size: int) -> float:
        if self.lr_scaling == "none":
            return self.lr
        if self.lr_scaling == "sqrt":
            return self.lr * math.sqrt(batch_size / self.batch_size)
        return self.lr * batch_size / self.batch_size

    def with_epochs(self, epochs: int) -> Recipe:
        """The same recipe over another number of epochs.

        Warm-up, step decay and the moving average's span are scaled in proportion.
        """
        scale = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            warmup_epochs=self.warmup_epochs * scale,
            decay_epochs=self.decay_epochs * scale,
            ema_decay=_over_iterations(self.ema_decay, scale),
        )


def _over_iterations(decay: float | None, scale: float) -> float | None:
    """Return the decay whose span, 1 / (1 - decay) iterations, is `scale` times as long; of one iteration at least."""
    if decay is None or decay == 1 or scale == 1:
        return decay
    return max(0.0, 1 - (1 - decay) / scale)
