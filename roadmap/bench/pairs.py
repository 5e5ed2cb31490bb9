"""Timing two things so that the comparison survives a machine whose speed drifts: in turn, A B A B, the ratio pair by pair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ratio:
    """A over B: the median of the pairs' ratios with their range, and each side's median seconds."""

    name: str
    a: str
    b: str
    ratio: float
    low: float
    high: float
    pairs: int
    a_seconds: float
    b_seconds: float


def seconds(act: Callable[[], object]) -> float:
    """Wall time of one call, the GPU's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def interleaved(
    name: str, a: tuple[str, Callable[[], object]], b: tuple[str, Callable[[], object]], *, pairs: int, warmup: int = 2
) -> Ratio:
    """Time A and B in turn, `pairs` times after a warm-up of both."""
    for _ in range(warmup):
        seconds(a[1])
        seconds(b[1])
    times = [(seconds(a[1]), seconds(b[1])) for _ in range(pairs)]
    ratios = [x / y for x, y in times]
    return Ratio(
        name,
        a[0],
        b[0],
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        pairs,
        statistics.median(x for x, _ in times),
        statistics.median(y for _, y in times),
    )
