"""Which images a network is trained on, and how they are cut into splits, as values. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Interval, Len

from roadmap.config.fields import Text, TextOrEmpty, config, setting

IMAGENET_CLASSES = 1000


@config
class Data:
    """Which images, and how they are cut into splits.

    `digest` names the content where the name does not. Raises ConfigError.
    """

    name: Text = setting("a data set's name")
    title: Text = setting("how tables name it", identity=False)
    image_size: Annotated[int, Interval(ge=1, le=4096)] = setting("side of the network's input in pixels")
    num_classes: Annotated[int, Interval(ge=1, le=1000000)] = setting("classes")
    in_chans: Annotated[int, Interval(ge=1, le=16)] = setting("channels", default=3)
    mean: Annotated[tuple[Annotated[float, Interval(ge=-10, le=10)], ...], Len(1, 16)] = setting(
        "per-channel mean of pixel values in 0..1", default=(0.485, 0.456, 0.406)
    )
    std: Annotated[tuple[Annotated[float, Interval(ge=1e-06, le=10)], ...], Len(1, 16)] = setting(
        "per-channel standard deviation", default=(0.229, 0.224, 0.225)
    )
    validation: Annotated[float, Interval(ge=0, le=0.9)] = setting(
        "part of the training images set aside for choices; 0 where the paper's protocol trains on all of them",
        default=0.0,
    )
    split_seed: Annotated[int, Interval(ge=0, le=2**31)] = setting("seed of that cut", default=0)
    digest: TextOrEmpty = setting("hash of the file list of a folder; empty where the name says it all", default="")
    decoder: Literal["pillow", "torchvision", "torchcodec"] = setting(
        "what decodes JPEG files: their pixels differ by rounding", default="pillow", since=2, neutral="pillow"
    )
