"""Timing of two things in turn, A B A B: what is said of each pair survives a drifting machine."""

from __future__ import annotations

import math
import operator
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

CONFIDENCE = 0.95
Act = Callable[[], object]
Timer = Callable[[Act], float]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What the pairs of two sides say: a ratio of A over B, unless `unit` is given.

    key: what targets know it by. value: the median over the pairs. low, high: the median's interval
    (`median_interval`). a_seconds, b_seconds: each side's median.
    """

    key: str
    name: str
    a: str
    b: str
    value: float
    low: float
    high: float
    pairs: int
    a_seconds: float
    b_seconds: float
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """How far two sides' outputs are apart, and how far they may be, so that no time is won by doing less."""

    name: str
    apart: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether the outputs are equal as far as they can be; never where one is not a number."""
        return self.apart <= self.allowed


Finding = Paired | Check


def seconds(act: Act) -> float:
    """Wall time of one call, the GPU's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def seconds_of_work(act: Act) -> float:
    """Processor time of one call, that of all threads together."""
    started = time.process_time()
    act()
    return time.process_time() - started


def interleaved(
    key: str,
    name: str,
    a: tuple[str, Act],
    b: tuple[str, Act],
    *,
    pairs: int,
    warmup: int = 2,
    timer: Timer = seconds,
) -> Paired:
    """Time A and B in turn, `pairs` times after a warm-up of both."""
    for _ in range(warmup):
        timer(a[1])
        timer(b[1])
    times = [(timer(a[1]), timer(b[1])) for _ in range(pairs)]
    return of_pairs(key, name, a[0], b[0], times)


def of_pairs(
    key: str,
    name: str,
    a: str,
    b: str,
    times: Sequence[tuple[float, float]],
    *,
    combine: Callable[[float, float], float] = operator.truediv,
    unit: str = "",
) -> Paired:
    """Sum up pairs of seconds that were measured already; `combine` makes one number of a pair."""
    values = [combine(*pair) for pair in times]
    low, high = median_interval(values)
    of_a, of_b = zip(*times, strict=True)
    return Paired(
        key=key,
        name=name,
        a=a,
        b=b,
        value=statistics.median(values),
        low=low,
        high=high,
        pairs=len(values),
        a_seconds=statistics.median(of_a),
        b_seconds=statistics.median(of_b),
        unit=unit,
    )


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of ordered values that covers the median with 95 %, whatever the distribution.

    Fewer than 6 values cannot: then their range (5 values: 94 %).
    """
    ordered, n = sorted(values), len(values)
    cut = 0  # values left out at each end
    while 2 * cut + 2 < n and _coverage(n, cut + 1) >= CONFIDENCE:
        cut += 1
    return ordered[cut], ordered[n - 1 - cut]


def _coverage(n: int, cut: int) -> float:
    """The probability that the median of the distribution lies within n ordered values without `cut` at each end."""
    return 1 - 2 * sum(math.comb(n, k) for k in range(cut + 1)) / 2**n
