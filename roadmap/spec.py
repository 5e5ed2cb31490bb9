"""What is trained, as values: ModelSpec, Recipe, Data, Trial. Frozen, validated at construction, without torch.

A toggle is one field of ModelSpec, its value a setting. The trial's fingerprint hashes every resolved value, defaults
included, and nothing of the machine, so that the same question asked twice is the same run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from roadmap.rules import Choice, Flag, Number, Numbers, SpecError, Text, from_plain, lookup, plain, problems, refuse, setting

FINGERPRINT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One network between ResNet and ConvNeXt V2; each field is a toggle. Defaults: ResNet-50. Raises SpecError."""

    depths: tuple[int, ...] = setting(Numbers(Number(1, 200, whole=True), 1, 4), "blocks in each stage", default=(3, 4, 6, 3))
    width: int = setting(
        Number(2, 1024, whole=True),
        "channels of the first stage: of the 3x3 in a classic bottleneck (its output is 4x), of the residual stream in an inverted one; doubled each stage",
        default=64,
    )
    stem: str = setting(
        Choice(("resnet", "patchify", "cifar")),
        "resnet: 7x7/2 + max pool (3x3/s where the stem's stride is below 4); patchify: one s x s / s convolution; cifar: 3x3 at stride 1, then the norm",
        default="resnet",
    )
    stem_stride: int = setting(Number(1, 16, whole=True), "total stride s of the stem, in pixels", default=4)
    depthwise: bool = setting(Flag(), "the k x k convolution gets groups = channels", default=False)
    inverted_bottleneck: bool = setting(Flag(), "hidden width is 4 x the block's output instead of a quarter of it", default=False)
    move_up_depthwise: bool = setting(Flag(), "the k x k convolution comes before both 1x1s instead of between them", default=False)
    kernel_size: int = setting(Number(1, 63, whole=True, odd=True), "k of the k x k convolution", default=3)
    activation: str = setting(Choice(("relu", "gelu")), "the block's non-linearity", default="relu")
    activations: str = setting(Choice(("all", "one")), "all: after the first two convolutions and after the addition; one: only before the last 1x1", default="all")
    norms: str = setting(Choice(("all", "one")), "all: after every convolution of the block; one: only after the k x k", default="all")
    norm: str = setting(Choice(("batch", "layer")), "BatchNorm, or LayerNorm over channels at each position", default="batch")
    grn: bool = setting(Flag(), "Global Response Normalization before the block's last 1x1", default=False)
    conv_bias: bool = setting(Flag(), "the block's convolutions have biases", default=False)
    downsampling: str = setting(
        Choice(("block", "separate", "none")),
        "block: stride in the first block's k x k and a projection shortcut; separate: norm + 2x2/2 convolution between stages, "
        "norm after the stem and after pooling; none: one stage of one width, norm after pooling",
        default="block",
    )
    layer_scale: float | None = setting(Number(0, 10, none=True), "initial value of the per-channel scale on the residual branch, or none", default=None)
    drop_path_rate: float = setting(Number(0, 0.99), "stochastic depth: drop rate of the last block, linear from 0 at the first", default=0.0)
    init: str = setting(
        Choice(("kaiming", "trunc_normal", "pytorch")),
        "initial weights: torchvision's ResNet (fan-out), truncated normal .02 with zero biases, or PyTorch's own",
        default="kaiming",
    )
    head_init_scale: float = setting(Number(0, 1000), "factor on the classifier's initial weights and biases (0.001 in the paper's fine-tuning)", default=1.0)
    num_classes: int = setting(Number(0, 1_000_000, whole=True), "outputs of the head; 0 for none", default=1000)
    in_chans: int = setting(Number(1, 1024, whole=True), "channels of the input image", default=3)

    def __post_init__(self) -> None:
        refuse(problems("ModelSpec", self) or broken_dependencies(self))

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.depths)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Output channels of each stage."""
        out = self.width if self.inverted_bottleneck else 4 * self.width
        return tuple(out * 2**i for i in range(len(self.depths)))

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Total stride of the input image at the end of each stage."""
        return tuple(self.stem_stride * 2**i for i in range(len(self.depths)))


@dataclass(frozen=True)
class Dependency:
    """`toggle` at `setting` needs `needs`, a toggle or a property of the spec, to be one of `legal`, because of `reason`; `remedy` where "set it" is not enough."""

    toggle: str
    setting: Any
    needs: str
    legal: tuple[Any, ...]
    reason: str
    remedy: str = ""


DEPENDENCIES = (
    Dependency("move_up_depthwise", True, "inverted_bottleneck", (True,),
               "the paper moves the k x k of the inverted bottleneck; in a classic one the 1x1 in front of it is what narrows the block"),
    Dependency("downsampling", "separate", "inverted_bottleneck", (True,),
               "a classic bottleneck widens the stem's channels by 4 in the projection that separate downsampling removes"),
    Dependency("stem", "resnet", "stem_stride", (1, 2, 4),
               "the ResNet stem is one strided 3x3 convolution (strides 1, 2) or a strided 7x7 and a pooling (stride 4)"),
    Dependency("stem", "cifar", "stem_stride", (1,),
               "the CIFAR stem is a 3x3 convolution that keeps the image's resolution"),
    Dependency("downsampling", "none", "stages", (1,),
               "without downsampling every block runs at one width and one resolution, which is one stage",
               remedy="give one depth, such as depths=18"),
    Dependency("downsampling", "none", "inverted_bottleneck", (True,),
               "a classic bottleneck changes the width in its first block, and an isotropic network has one width throughout"),
)


def broken_dependencies(spec: ModelSpec) -> list[str]:
    """One sentence for each dependency that the settings break."""
    found = []
    for d in DEPENDENCIES:
        have = getattr(spec, d.needs)
        if getattr(spec, d.toggle) == d.setting and have not in d.legal:
            legal = " or ".join(map(show, d.legal))
            remedy = d.remedy or f"set {d.needs}={legal}"
            found.append(f"ModelSpec.{d.toggle} is {show(d.setting)}, which needs {d.needs} {legal}, not {show(have)}; reason: {d.reason}; {remedy} or change {d.toggle}")
    return found


@dataclass(frozen=True, kw_only=True)
class TimmSpec:
    """Any architecture of timm, randomly initialized: a subject to compare with ours. Raises SpecError."""

    timm: str = setting(Text(), "timm's name of the architecture")
    drop_path_rate: float = setting(Number(0, 0.99), "stochastic depth as timm does it in this architecture", default=0.0)
    num_classes: int = setting(Number(0, 1_000_000, whole=True), "outputs of the head; 0 for none", default=1000)
    in_chans: int = setting(Number(1, 1024, whole=True), "channels of the input image", default=3)

    def __post_init__(self) -> None:
        refuse(problems("TimmSpec", self))


AnySpec = ModelSpec | TimmSpec
S = TypeVar("S", bound=AnySpec)


def with_settings(spec: S, settings: Mapping[str, Any]) -> S:
    """The spec with some toggles set anew. Raises SpecError for an unknown toggle, an illegal setting or a broken dependency."""
    toggles = {f.name: f for f in fields(spec)}
    for name in settings:
        lookup("toggle", name, toggles)
    return replace(spec, **settings)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, apart from the model. lr is the rate at `batch_size`, the global batch. Raises SpecError."""

    name: str = setting(Text(), "the recipe's name", identity=False)
    source: str = setting(Text(), "where it is stated", identity=False)
    expected: str = setting(Text(empty=True), "cost and accuracy to expect, and what was scaled", identity=False, default="")
    epochs: int = setting(Number(1, 100_000, whole=True), "passes over the training split")
    batch_size: int = setting(Number(1, 1_000_000, whole=True), "images per iteration over all devices and accumulated groups")
    group_size: int = setting(Number(1, 100_000, whole=True), "images per forward pass: BatchNorm statistics and mixup pairs live inside one group")
    optimizer: str = setting(Choice(("sgd", "adamw")), "sgd: with momentum; adamw: decoupled weight decay")
    lr: float = setting(Number(0, 1000), "peak learning rate at the global batch")
    weight_decay: float = setting(Number(0, 10), "weight decay")
    decay_1d: bool = setting(Flag(), "weight decay on biases and other 1-D parameters too", default=False)
    momentum: float = setting(Number(0, 1), "momentum of sgd", default=0.9)
    beta1: float = setting(Number(0, 1), "first beta of adamw", default=0.9)
    beta2: float = setting(Number(0, 1), "second beta of adamw", default=0.999)
    schedule: str = setting(Choice(("cosine", "step")), "cosine: per iteration to min_lr; step: x decay_rate every decay_epochs", default="cosine")
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
    crop: str = setting(Choice(("resized", "padded", "none")), "random resized crop, random crop of the image padded by an eighth, or none", default="resized")
    hflip: float = setting(Number(0, 1), "probability of a horizontal flip", default=0.5)
    random_erasing: float = setting(Number(0, 1), "probability of erasing a rectangle with per-pixel noise", default=0.0)
    interpolation: str = setting(Choice(("bilinear", "bicubic")), "of every resize", default="bilinear")
    test_crop: float = setting(Number(0.1, 1), "central part of the resized image seen by evaluation", default=0.875)
    ema_decay: float | None = setting(Number(0, 1, none=True), "decay per iteration of the weights' moving average, or none", default=None)
    layer_decay: float | None = setting(Number(0.01, 1, none=True), "factor on the learning rate from each layer to the one below it, or none", default=None)
    accuracy: str = setting(Choice(("last", "best")), "the epoch whose test accuracy is the result: the last, or the best on the validation split", default="last")
    precision: str = setting(Choice(("auto", "fp32", "bf16")), "auto: bf16 autocast on GPUs, fp32 on CPUs", default="auto")

    def __post_init__(self) -> None:
        refuse(problems("Recipe", self) or self._conflicts())

    def _conflicts(self) -> list[str]:
        found = []
        if self.batch_size % self.group_size:
            found.append(f"Recipe.batch_size is {self.batch_size}, not a multiple of group_size {self.group_size}; legal: whole groups; change one of the two")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            found.append(f"Recipe.warmup_epochs is {self.warmup_epochs:g} of {self.epochs} epochs; legal: fewer than epochs; shorten the warm-up")
        if (self.mixup > 0 or self.cutmix > 0) and self.group_size % 2:
            found.append(f"Recipe.group_size is {self.group_size} with mixup or cutmix on; legal: even sizes, images are mixed in pairs; change group_size")
        return found

    @property
    def groups(self) -> int:
        """Groups in one global batch."""
        return self.batch_size // self.group_size

    def groups_per_rank(self, ranks: int) -> int:
        """Groups each of `ranks` processes takes in an iteration. Raises SpecError where the global batch does not divide."""
        if self.groups % ranks:
            legal = ", ".join(str(r) for r in range(1, self.groups + 1) if self.groups % r == 0)
            raise SpecError(
                f"Recipe.batch_size is {self.batch_size}, {self.groups} groups of {self.group_size}, which {ranks} ranks do not divide; "
                f"legal: {legal} ranks; change the number of GPUs, or batch_size"
            )
        return self.groups // ranks

    def with_batch_size(self, batch_size: int) -> Recipe:
        """The same recipe at another global batch, the learning rate in proportion; groups shrink where the batch is smaller than one."""
        return replace(self, batch_size=batch_size, lr=self.lr * batch_size / self.batch_size, group_size=min(self.group_size, batch_size))

    def with_epochs(self, epochs: int) -> Recipe:
        """The same recipe over another number of epochs; warm-up and step decay are scaled in proportion."""
        scale = epochs / self.epochs
        return replace(self, epochs=epochs, warmup_epochs=self.warmup_epochs * scale, decay_epochs=self.decay_epochs * scale)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, and how they are cut into splits. `digest` names the content where the name does not. Raises SpecError."""

    name: str = setting(Text(), "a data set's name")
    title: str = setting(Text(), "how tables name it", identity=False)
    image_size: int = setting(Number(1, 4096, whole=True), "side of the network's input in pixels")
    num_classes: int = setting(Number(1, 1_000_000, whole=True), "classes")
    in_chans: int = setting(Number(1, 16, whole=True), "channels", default=3)
    mean: tuple[float, ...] = setting(Numbers(Number(-10, 10), 1, 16), "per-channel mean of pixel values in 0..1", default=(0.485, 0.456, 0.406))
    std: tuple[float, ...] = setting(Numbers(Number(1e-6, 10), 1, 16), "per-channel standard deviation", default=(0.229, 0.224, 0.225))
    validation: float = setting(Number(0, 0.9), "part of the training images set aside for choices; 0 where the paper's protocol trains on all of them", default=0.0)
    split_seed: int = setting(Number(0, 2**31, whole=True), "seed of that cut", default=0)
    digest: str = setting(Text(empty=True), "hash of the file list of a folder; empty where the name says it all", default="")

    def __post_init__(self) -> None:
        refuse(problems("Data", self))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The unit of compute: model, recipe, data and seed. `init` is the SHA-256 of the file of initial weights, empty for random ones.

    `control` tells a trial apart from one that computes the same, so that both are run. `regime`, `step` and `change` are labels: where in a study it stands.
    """

    model: AnySpec
    recipe: Recipe
    data: Data
    seed: int
    init: str = ""
    control: str = ""
    regime: str = ""
    step: str = ""
    change: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise SpecError(f"Trial.seed is {self.seed!r}; legal: integers from 0 to {2**31 - 1}; give another seed")
        if self.model.num_classes != self.data.num_classes:
            raise SpecError(
                f"Trial.model.num_classes is {self.model.num_classes}, but the data set {self.data.name!r} has {self.data.num_classes} classes; "
                "legal: equal numbers; leave num_classes unset and it is taken from the data"
            )
        if self.model.in_chans != self.data.in_chans:
            raise SpecError(
                f"Trial.model.in_chans is {self.model.in_chans}, but images of {self.data.name!r} have {self.data.in_chans} channels; "
                "legal: equal numbers; leave in_chans unset and it is taken from the data"
            )

        if isinstance(self.model, ModelSpec) and self.data.image_size < self.model.stage_strides[-1]:
            raise SpecError(
                f"Trial.data.image_size is {self.data.image_size}, but the network strides over {self.model.stage_strides[-1]} pixels; "
                "legal: at least as many pixels; set another --image-size, or a smaller stem_stride"
            )
        if self.recipe.accuracy == "best" and self.data.validation == 0:
            raise SpecError(
                f"Trial.recipe.accuracy is 'best', but {self.data.name!r} sets no images aside for choices; "
                "legal: 'last', or a validation split; the test split is never used for choices: set --validation 0.1"
            )

    def identity(self) -> dict[str, Any]:
        """Everything that decides the outcome, as JSON-ready values: resolved, defaults included, no labels, no machine settings."""
        by_identity = {part: plain(getattr(self, part), lambda m: bool(m["identity"])) for part in ("model", "recipe", "data")}
        control = {"control": self.control} if self.control else {}
        return {"version": FINGERPRINT_VERSION, **by_identity, "seed": self.seed, "init": self.init, **control}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over `identity`, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True, allow_nan=False).encode()).hexdigest()

    @property
    def configuration(self) -> str:
        """SHA-256 over `identity` without the seed: trials that differ in nothing but their seed share it."""
        return hashlib.sha256(json.dumps({**self.identity(), "seed": None}, sort_keys=True, allow_nan=False).encode()).hexdigest()

    @property
    def id(self) -> str:
        """The run folder's name: readable, and unique by the fingerprint's first 10 digits."""
        words = [self.step or "trial", *([self.change.replace("=", "-")] if self.change else []), f"seed{self.seed}"]
        label = "".join(c if c.isalnum() or c in "-._" else "-" for c in "-".join(words))[:80].lstrip(".-")
        return f"{label}-{self.fingerprint[:10]}"

    def to_json(self) -> dict[str, Any]:
        labels = {"regime": self.regime, "step": self.step, "change": self.change}
        return {"fingerprint": self.fingerprint, "id": self.id, **labels, "seed": self.seed, "init": self.init, "control": self.control, "model": plain(self.model), "recipe": plain(self.recipe), "data": plain(self.data)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Trial:
        """Rebuild a trial from `to_json`; a fingerprint that does not fit its content is refused."""
        try:
            parts: dict[str, Any] = {
                "model": from_plain(TimmSpec if "timm" in values["model"] else ModelSpec, values["model"], "trial.model"),
                "recipe": from_plain(Recipe, values["recipe"], "trial.recipe"),
                "data": from_plain(Data, values["data"], "trial.data"),
            }
            trial = cls(**parts, seed=values["seed"], init=values["init"], control=values.get("control", ""), regime=values["regime"], step=values["step"], change=values["change"])
            stated = values["fingerprint"]
        except (KeyError, TypeError, AttributeError) as e:
            raise SpecError(f"trial file has no usable {e}; legal: what `roadmap plan --json` writes; write it again") from e
        if trial.fingerprint != stated:
            raise SpecError(f"trial.fingerprint is {stated[:10]}, but its content hashes to {trial.fingerprint[:10]}; legal: equal; the file was edited or is of another version: submit the trial again")
        return trial


def show(value: Any) -> str:
    """A setting as users write it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return ",".join(map(show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def diff(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """Fields whose values differ between two specs of one class, as {field: (a's, b's)}; labels are left out."""
    return {f.name: (getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if f.metadata["identity"] and getattr(a, f.name) != getattr(b, f.name)}
