"""Which images a network is trained on, as values."""

from __future__ import annotations

from dataclasses import dataclass

from roadmap.config.errors import refuse
from roadmap.config.fields import Number, Numbers, Text, problems, setting


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, and how they are cut into splits. `digest` names the content where the name does not. Raises ConfigError."""

    name: str = setting(Text(), "a data set's name")
    title: str = setting(Text(), "how tables name it", identity=False)
    image_size: int = setting(Number(1, 4096, whole=True), "side of the network's input in pixels")
    num_classes: int = setting(Number(1, 1_000_000, whole=True), "classes")
    in_chans: int = setting(Number(1, 16, whole=True), "channels", default=3)
    mean: tuple[float, ...] = setting(
        Numbers(Number(-10, 10), 1, 16), "per-channel mean of pixel values in 0..1", default=(0.485, 0.456, 0.406)
    )
    std: tuple[float, ...] = setting(
        Numbers(Number(1e-6, 10), 1, 16), "per-channel standard deviation", default=(0.229, 0.224, 0.225)
    )
    validation: float = setting(
        Number(0, 0.9),
        "part of the training images set aside for choices; 0 where the paper's protocol trains on all of them",
        default=0.0,
    )
    split_seed: int = setting(Number(0, 2**31, whole=True), "seed of that cut", default=0)
    digest: str = setting(
        Text(empty=True), "hash of the file list of a folder; empty where the name says it all", default=""
    )

    def __post_init__(self) -> None:
        refuse(problems("Data", self))
