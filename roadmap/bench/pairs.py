"""Timing of two things in turn, A B A B: the ratio of each pair survives a drifting machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A over B: the median of the pairs' ratios, their range, and each side's median seconds."""

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
    of_a, of_b = zip(*times, strict=True)
    ratios = [x / y for x, y in times]
    return Ratio(
        name=name,
        a=a[0],
        b=b[0],
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        pairs=pairs,
        a_seconds=statistics.median(of_a),
        b_seconds=statistics.median(of_b),
    )
