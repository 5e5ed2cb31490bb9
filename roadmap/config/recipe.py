"""How a network is trained, as values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from roadmap.config.errors import ConfigError, refuse
from roadmap.config.fields import Choice, Flag, Number, Text, problems, setting


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, apart from the model. lr is the rate at `batch_size`, the global batch. Raises ConfigError."""

    name: str = setting(Text(), "the recipe's name", identity=False)
    source: str = setting(Text(), "where it is stated", identity=False)
    expected: str = setting(
        Text(empty=True), "cost and accuracy to expect, and what was scaled", identity=False, default=""
    )
    epochs: int = setting(Number(1, 100_000, whole=True), "passes over the training split")
    batch_size: int = setting(
        Number(1, 1_000_000, whole=True), "images per iteration over all devices and accumulated groups"
    )
    group_size: int = setting(
        Number(1, 100_000, whole=True),
        "images per forward pass: BatchNorm statistics and mixup pairs live inside one group",
    )
    optimizer: str = setting(Choice(("sgd", "adamw")), "sgd: with momentum; adamw: decoupled weight decay")
    lr: float = setting(Number(0, 1000), "peak learning rate at the global batch")
    weight_decay: float = setting(Number(0, 10), "weight decay")
    decay_1d: bool = setting(Flag(), "weight decay on biases and other 1-D parameters too", default=False)
    momentum: float = setting(Number(0, 1), "momentum of sgd", default=0.9)
    beta1: float = setting(Number(0, 1), "first beta of adamw", default=0.9)
    beta2: float = setting(Number(0, 1), "second beta of adamw", default=0.999)
    schedule: str = setting(
        Choice(("cosine", "step")),
        "cosine: per iteration to min_lr; step: x decay_rate every decay_epochs",
        default="cosine",
    )
    warmup_epochs: float = setting(Number(0, 100_000), "epochs of linear warm-up from 0", default=0)
    min_lr: float = setting(Number(0, 1000), "learning rate at the end of the cosine", default=0.0)
    decay_epochs: float = setting(Number(0.01, 100_000), "epochs between steps of the step schedule", default=30)
    decay_rate: float = setting(Number(0, 1), "factor of the step schedule", default=0.1)
    clip_grad: float | None = setting(Number(0, 1e6, none=True), "gradient norm limit, or none", default=None)
    label_smoothing: float = setting(Number(0, 0.99), "label smoothing", default=0.0)
    mixup: float = setting(Number(0, 100), "mixup alpha; 0 for none", default=0.0)
    cutmix: float = setting(Number(0, 100), "cutmix alpha; 0 for none", default=0.0)
    mix_prob: float = setting(Number(0, 1), "probability that a group is mixed at all", default=1.0)
    mix_switch_prob: float = setting(Number(0, 1), "probability of cutmix where both are on", default=0.5)
    augmentation: str = setting(Text(), "timm's policy string, such as rand-m9-mstd0.5-inc1, or none", default="none")
    crop: str = setting(
        Choice(("resized", "padded", "none")),
        "random resized crop, random crop of the image padded by an eighth, or none",
        default="resized",
    )
    hflip: float = setting(Number(0, 1), "probability of a horizontal flip", default=0.5)
    random_erasing: float = setting(
        Number(0, 1), "probability of erasing a rectangle with per-pixel noise", default=0.0
    )
    interpolation: str = setting(Choice(("bilinear", "bicubic")), "of every resize", default="bilinear")
    test_crop: float = setting(Number(0.1, 1), "central part of the resized image seen by evaluation", default=0.875)
    ema_decay: float | None = setting(
        Number(0, 1, none=True), "decay per iteration of the weights' moving average, or none", default=None
    )
    layer_decay: float | None = setting(
        Number(0.01, 1, none=True),
        "factor on the learning rate from each layer to the one below it, or none",
        default=None,
    )
    accuracy: str = setting(
        Choice(("last", "best")),
        "the epoch whose test accuracy is the result: the last, or the best on the validation split",
        default="last",
    )
    precision: str = setting(
        Choice(("auto", "fp32", "bf16")), "auto: bf16 autocast on GPUs, fp32 on CPUs", default="auto"
    )

    def __post_init__(self) -> None:
        refuse(problems("Recipe", self) or self._conflicts())

    def _conflicts(self) -> list[str]:
        found = []
        if self.batch_size % self.group_size:
            found.append(
                f"Recipe.batch_size is {self.batch_size}, not a multiple of group_size {self.group_size}; legal: whole groups; change one of the two"
            )
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            found.append(
                f"Recipe.warmup_epochs is {self.warmup_epochs:g} of {self.epochs} epochs; legal: fewer than epochs; shorten the warm-up"
            )
        if (self.mixup > 0 or self.cutmix > 0) and self.group_size % 2:
            found.append(
                f"Recipe.group_size is {self.group_size} with mixup or cutmix on; legal: even sizes, images are mixed in pairs; change group_size"
            )
        return found

    @property
    def groups(self) -> int:
        """Groups in one global batch."""
        return self.batch_size // self.group_size

    def groups_per_rank(self, ranks: int) -> int:
        """Groups each of `ranks` processes takes in an iteration. Raises ConfigError where the global batch does not divide."""
        if self.groups % ranks:
            legal = ", ".join(str(r) for r in range(1, self.groups + 1) if self.groups % r == 0)
            raise ConfigError(
                f"Recipe.batch_size is {self.batch_size}, {self.groups} groups of {self.group_size}, which {ranks} ranks do not divide; "
                f"legal: {legal} ranks; change the number of GPUs, or batch_size"
            )
        return self.groups // ranks

    def with_batch_size(self, batch_size: int) -> Recipe:
        """The same recipe at another global batch, the learning rate in proportion; groups shrink where the batch is smaller than one."""
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
