"""What the harness is to reach, as data: the targets on a CPU, each by the measurement that decides it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PARTS = ("startup", "gather", "model", "iteration", "loader", "ladder")  # in the order of `roadmap bench all`
USUAL = ("model", "iteration")  # of `roadmap bench` alone
MARGIN = 1.25  # by which a shared machine may miss a target before a test fails


@dataclass(frozen=True, kw_only=True)
class Target:
    """A limit on one measurement: the median over its pairs.

    part, key: which one. sense: the median is to be `most` the limit, at `least` it, or `within` this
    part of 1, on either side.
    """

    id: str
    part: str
    key: str
    text: str
    sense: Literal["most", "least", "within"]
    limit: float
    unit: str = ""

    def met(self, value: float, margin: float = 1.0) -> bool:
        """Whether a median reaches the target, or misses it by less than a factor of `margin`."""
        if self.sense == "most":
            return value <= self.limit * margin
        if self.sense == "least":
            return value >= self.limit / margin
        return abs(value - 1) <= self.limit * margin

    @property
    def wanted(self) -> str:
        """'<= 1.03', '>= 8', '0.9 to 1.1'."""
        if self.sense == "within":
            return f"{1 - self.limit:g} to {1 + self.limit:g}"
        return f"{'<=' if self.sense == 'most' else '>='} {self.limit:g}{f' {self.unit}' if self.unit else ''}"


def _most(id_: str, part: str, key: str, text: str, limit: float, unit: str = "") -> Target:
    return Target(id=id_, part=part, key=key, text=text, sense="most", limit=limit, unit=unit)


def _least(id_: str, part: str, key: str, text: str, limit: float) -> Target:
    return Target(id=id_, part=part, key=key, text=text, sense="least", limit=limit)


TARGETS = (
    _most("C1", "startup", "help", "`--help` over a bare Python", 2.5),
    _most("C1", "startup", "list", "`run --list` over a bare Python", 2.5),
    _most("C2", "gather", "gather", "10,000 runs to mean and std over reading the same files", 1.25),
    _most("C3", "model", "first-nchw", "step 0 over torchvision's resnet50, NCHW", 1.03),
    _most("C3", "model", "first-channels-last", "step 0 over torchvision's resnet50, channels_last", 1.03),
    _most("C3", "model", "last-nchw", "step 9 over timm's convnext_tiny, NCHW", 1.03),
    _most("C3", "model", "last-channels-last", "step 9 over timm's convnext_tiny, channels_last", 1.03),
    _most("C4", "iteration", "iteration", "ConvNeXt-T: an iteration over its forward and backward", 1.10),
    _least("C5", "ladder", "slots", "the ladder in two slots, times as fast as one run after another", 1.35),
    _most("C5", "ladder", "further-run", "fixed cost of a further run", 0.2, "s"),
    _least("C6", "loader", "224-tensor", "224 px, `tensor` in memory, times timm's `create_loader`", 1.2),
    _least("C6", "loader", "224-threads", "224 px, `tensor` from files, times timm's `create_loader`", 1.2),
    _least("C6", "loader", "224-pil", "224 px, `pil`, times timm's `create_loader`", 1.2),
    _least("C6", "loader", "32-tensor", "32 px, `tensor` in memory, times timm's `create_loader`", 8.0),
    Target(
        id="C7",
        part="ladder",
        key="prediction",
        text="predicted over taken, time of all runs",
        sense="within",
        limit=0.1,
    ),
)


def target(part: str, key: str) -> Target:
    """The target that one measurement decides. Raises KeyError where it decides none."""
    return {(t.part, t.key): t for t in TARGETS}[part, key]
