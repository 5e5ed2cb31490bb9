"""What of a result is drawn, and how: its numbers, its bar's filling and hatching.

Measured and paper's rows differ here only.
"""

from __future__ import annotations

from typing import NamedTuple

from analysis.figures.style import BAR, MIDDLE, TINT
from analysis.results.results import Result, Role
from analysis.stats.comparisons import UNRESOLVED

SIDE, CONTROL, OPEN, CONFOUNDED = "/////", "|||||", "/////", "xxxxx"
VARIANT = "....."  # of a paper's single changes
_OF_PAPER = {Role.SIDE: SIDE, Role.VARIANT: VARIANT, Role.CONTROL: CONTROL}


class Values(NamedTuple):
    """A bar's mean, its standard deviation, and the single seeds."""

    mean: float | None
    std: float | None
    seeds: list[float]

    @property
    def low(self) -> float:
        """The least that is drawn."""
        return min([(self.mean or 0.0) - (self.std or 0), *self.seeds])

    @property
    def high(self) -> float:
        """The most that is drawn."""
        return max([(self.mean or 0.0) + (self.std or 0), *self.seeds])


def values(result: Result) -> Values:
    """The numbers of the bar."""
    if not result.measured:
        return Values(result.paper.score, result.paper.std, [])
    return Values(result.score.mean, result.score.std, list(result.score.by_seed.values()))


def effect(result: Result) -> float | None:
    """The change beside the bar."""
    return result.effect.value if result.measured else result.paper.effect


def macs(result: Result) -> float | None:
    """Multiply-adds of one image; of a paper's row as printed."""
    return result.macs if result.measured else (result.paper.cost or 0) * 1e9


def hatch(result: Result) -> str:
    """The paper's side steps are hatched; measured bars show how sure the change is."""
    if not result.measured:
        return _OF_PAPER.get(result.role, "")
    if is_confounded(result):
        return CONFOUNDED
    if result.role is Role.CONTROL:
        return CONTROL
    return OPEN if is_open(result) else ""


def is_confounded(result: Result) -> bool:
    """Whether more than the declared change differs, or that is not shown."""
    proof = result.effect.proof
    return result.measured and proof is not None and not proof.controlled


def is_open(result: Result) -> bool:
    """Whether the change of a row, other than a control's, is not resolved."""
    return result.measured and result.effect.verdict == UNRESOLVED and result.role is not Role.CONTROL


def is_adopted(result: Result) -> bool:
    """Whether it is a step on the path whose change is sure."""
    return result.role is Role.STEP and not hatch(result)


def face(result: Result) -> str:
    """The bar's colour: dark where adopted, lighter on the path, pale beside it."""
    if is_adopted(result):
        return BAR
    return MIDDLE if result.role is Role.STEP else TINT


def is_misprinted(result: Result) -> bool:
    """Whether a paper's multiply-adds differ from counted ones by more than rounding and the
    smallest layers explain.
    """
    if result.measured or result.paper.cost is None:
        return False
    return abs(result.paper.cost - (result.macs or 0) / 1e9) > 0.02
