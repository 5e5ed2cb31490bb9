"""The network of a trial, as values: one field is one toggle, what toggles need of each other is a table. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Interval, Len

from roadmap.config.errors import ConfigError, lookup, refuse
from roadmap.config.fields import Odd, Text, config, field_types, setting, show


@config
class ModelSpec:
    """One network between ResNet and ConvNeXt V2; each field is a toggle. Defaults: ResNet-50. Raises ConfigError."""

    depths: Annotated[tuple[Annotated[int, Interval(ge=1, le=200)], ...], Len(1, 4)] = setting(
        "blocks in each stage", default=(3, 4, 6, 3)
    )
    width: Annotated[int, Interval(ge=2, le=1024)] = setting(
        "channels of the first stage: of the 3x3 in a classic bottleneck (its output is 4x), of the residual "
        "stream in an inverted one; doubled each stage",
        default=64,
    )
    stem: Literal["resnet", "patchify", "cifar"] = setting(
        "resnet: 7x7/2 + max pool (3x3/s where the stem's stride is below 4); patchify: one s x s / s "
        "convolution; cifar: 3x3 at stride 1, then the norm",
        default="resnet",
    )
    stem_stride: Annotated[int, Interval(ge=1, le=16)] = setting("total stride s of the stem, in pixels", default=4)
    depthwise: bool = setting("the k x k convolution gets groups = channels", default=False)
    inverted_bottleneck: bool = setting(
        "hidden width is 4 x the block's output instead of a quarter of it", default=False
    )
    move_up_depthwise: bool = setting(
        "the k x k convolution comes before both 1x1s instead of between them", default=False
    )
    kernel_size: Annotated[int, Interval(ge=1, le=63), Odd()] = setting("k of the k x k convolution", default=3)
    activation: Literal["relu", "gelu"] = setting("the block's non-linearity", default="relu")
    activations: Literal["all", "one"] = setting(
        "all: after the first two convolutions and after the addition; one: only before the last 1x1", default="all"
    )
    norms: Literal["all", "one"] = setting(
        "all: after every convolution of the block; one: only after the k x k", default="all"
    )
    norm: Literal["batch", "layer"] = setting("BatchNorm, or LayerNorm over channels at each position", default="batch")
    grn: bool = setting("Global Response Normalization before the block's last 1x1", default=False)
    conv_bias: bool = setting("the block's convolutions have biases", default=False)
    downsampling: Literal["block", "separate", "none"] = setting(
        "block: stride in the first block's k x k and a projection shortcut; separate: norm + 2x2/2 "
        "convolution between stages, norm after the stem and after pooling; none: one stage of one width, "
        "norm after pooling",
        default="block",
    )
    layer_scale: Annotated[float, Interval(ge=0, le=10)] | None = setting(
        "initial value of the per-channel scale on the residual branch, or none", default=None
    )
    drop_path_rate: Annotated[float, Interval(ge=0, le=0.99)] = setting(
        "stochastic depth: drop rate of the last block, linear from 0 at the first", default=0.0
    )
    init: Literal["kaiming", "trunc_normal", "pytorch"] = setting(
        "initial weights: torchvision's ResNet (fan-out), truncated normal .02 with zero biases, or PyTorch's own",
        default="kaiming",
    )
    head_init_scale: Annotated[float, Interval(ge=0, le=1000)] = setting(
        "factor on the classifier's initial weights and biases (0.001 in the paper's fine-tuning)", default=1.0
    )
    num_classes: Annotated[int, Interval(ge=0, le=1000000)] = setting("outputs of the head; 0 for none", default=1000)
    in_chans: Annotated[int, Interval(ge=1, le=1024)] = setting("channels of the input image", default=3)

    def __post_init__(self) -> None:
        refuse(broken_dependencies(self))

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
    """`toggle` at `setting` needs `needs`, a toggle or a property of the spec, to be one of
    `legal`, because of `reason`; `remedy` where "set it" is not enough.
    """

    toggle: str
    setting: Any
    needs: str
    legal: tuple[Any, ...]
    reason: str
    remedy: str = ""


DEPENDENCIES = (
    Dependency(
        "move_up_depthwise",
        True,
        "inverted_bottleneck",
        (True,),
        "the paper moves the k x k of the inverted bottleneck; in a classic one the 1x1 in front of it is "
        "what narrows the block",
    ),
    Dependency(
        "downsampling",
        "separate",
        "inverted_bottleneck",
        (True,),
        "a classic bottleneck widens the stem's channels by 4 in the projection that separate downsampling removes",
    ),
    Dependency(
        "stem",
        "resnet",
        "stem_stride",
        (1, 2, 4),
        "the ResNet stem is one strided 3x3 convolution (strides 1, 2) or a strided 7x7 and a pooling (stride 4)",
    ),
    Dependency(
        "stem", "cifar", "stem_stride", (1,), "the CIFAR stem is a 3x3 convolution that keeps the image's resolution"
    ),
    Dependency(
        "downsampling",
        "none",
        "stages",
        (1,),
        "without downsampling every block runs at one width and one resolution, which is one stage",
        remedy="give one depth, such as depths=18",
    ),
    Dependency(
        "downsampling",
        "none",
        "inverted_bottleneck",
        (True,),
        "a classic bottleneck changes the width in its first block, and an isotropic network has one width throughout",
    ),
)


def broken_dependencies(spec: ModelSpec) -> list[str]:
    """One sentence for each dependency that the settings break."""
    found = []
    for d in DEPENDENCIES:
        have = getattr(spec, d.needs)
        if getattr(spec, d.toggle) == d.setting and have not in d.legal:
            legal = " or ".join(map(show, d.legal))
            remedy = d.remedy or f"set {d.needs}={legal}"
            found.append(
                f"ModelSpec.{d.toggle} is {show(d.setting)}, which needs {d.needs} {legal}, not {show(have)}; "
                f"reason: {d.reason}; {remedy} or change {d.toggle}"
            )
    return found


# What timm's create_model takes for itself, or what a trial says elsewhere.
RESERVED = (
    "model_name",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "img_size",
)
Scalar = bool | int | float | str | None


@config
class TimmSpec:
    """Any architecture of timm, randomly initialized. Raises ConfigError.

    `keywords` are its constructor's own, each a toggle: `with_settings(spec, {"class_token": False})`. One that is
    not set, or set to None, keeps timm's default. That timm knows them is seen when the network is built.
    """

    timm: Text = setting("timm's name of the architecture")
    drop_path_rate: Annotated[float, Interval(ge=0, le=0.99)] = setting(
        "stochastic depth as timm does it in this architecture", default=0.0
    )
    num_classes: Annotated[int, Interval(ge=0, le=1_000_000)] = setting("outputs of the head; 0 for none", default=1000)
    in_chans: Annotated[int, Interval(ge=1, le=1024)] = setting("channels of the input image", default=3)
    keywords: tuple[tuple[str, Scalar | tuple[Scalar, ...]], ...] = setting(
        "keywords of the architecture, by name", default=(), since=2, neutral=(), open_=True
    )

    def __post_init__(self) -> None:
        for name, value in self.keywords:
            if not name.isidentifier() or name in RESERVED:
                raise ConfigError(
                    f"TimmSpec.{name} is {show(value)}, but no keyword that an experiment sets; legal: keywords of "
                    f"timm's {self.timm}, other than {', '.join(RESERVED)}; leave it out"
                )


AnySpec = ModelSpec | TimmSpec
S = TypeVar("S", bound=AnySpec)


def with_settings(spec: S, settings: Mapping[str, Any]) -> S:
    """Return the spec with some toggles set anew.

    Raises ConfigError for an unknown toggle, an illegal setting or a broken dependency. Of a TimmSpec every name that
    is no field is a keyword of the architecture; None leaves it to timm.
    """
    toggles = field_types(type(spec))
    if not isinstance(spec, TimmSpec):
        for name in settings:
            lookup("toggle", name, toggles)
        return replace(spec, **settings)
    given = {name: value for name, value in settings.items() if name not in toggles}
    keywords = {**dict(spec.keywords), **given}
    known = {name: value for name, value in settings.items() if name in toggles}
    return replace(spec, **known, keywords=tuple(sorted(keywords.items())))
