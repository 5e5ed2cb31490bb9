"""Places of labels beside points.

None on a point, an error bar, the stairs of a front or another label, where that can be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

# Inches: a letter's width, half a label's height included gap, a marker's radius.
LETTER, LINE, MARKER = 0.062, 0.105, 0.045
RINGS, TURNS = (1.0, 1.7, 2.5), 8


class Spot(NamedTuple):
    """A point and its error bar's half length, in inches from the lower left corner of the axes."""

    x: float
    y: float
    rod: float


class Box(NamedTuple):
    """A rectangle in inches."""

    left: float
    right: float
    bottom: float
    top: float

    @property
    def x(self) -> float:
        return (self.left + self.right) / 2

    @property
    def y(self) -> float:
        return (self.bottom + self.top) / 2

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, wide) * max(0.0, high)

    def inside(self, size: tuple[float, float]) -> bool:
        """Whether it lies within axes of this size."""
        return self.left >= 0 and self.right <= size[0] and self.bottom >= 0 and self.top <= size[1]


def placed(
    labels: Sequence[tuple[Spot, str]],
    spots: Sequence[Spot],
    front: Sequence[Spot],
    size: tuple[float, float],
    *,
    before: bool,
    lines: Sequence[Box] = (),
) -> list[Box]:
    """Place labels one after the other, each where it covers least of `spots`, `front`, `lines` and earlier labels.

    size: of the axes. before: whether the front's line rises before its points, as a speed's does.
    """
    taken = [Box(s.x - MARKER, s.x + MARKER, s.y - MARKER, s.y + MARKER) for s in spots]
    taken += [Box(s.x - 0.02, s.x + 0.02, s.y - s.rod, s.y + s.rod) for s in spots]
    taken += [*_stairs(front, before=before), *lines]
    boxes: list[Box] = []
    for spot, text in labels:
        around = list(_around(spot, LETTER * len(text) / 2))
        inside = [box for box in around if box.inside(size)] or around
        boxes.append(min(inside, key=partial(_covered, taken=taken)))
        taken.append(boxes[-1])
    return boxes


def _covered(box: Box, taken: Sequence[Box]) -> float:
    """The area of the others that a box covers."""
    return sum(box.overlap(other) for other in taken)


def _stairs(front: Sequence[Spot], *, before: bool) -> Iterator[Box]:
    """The front's line as thin boxes: it rises at the dearer point of a cost, falls at the slower point of a speed."""
    for a, b in pairwise(front):
        level, turn = (b.y, a.x) if before else (a.y, b.x)
        yield Box(a.x, b.x, level - 0.02, level + 0.02)
        yield Box(turn - 0.02, turn + 0.02, min(a.y, b.y), max(a.y, b.y))


def _around(spot: Spot, half: float) -> Iterator[Box]:
    """Boxes of a label `2 half` wide in eight directions, from above on, near ones first."""
    for ring in RINGS:
        for turn in range(TURNS):
            angle = math.pi / 2 - turn * math.pi / 4
            x = spot.x + math.cos(angle) * (half + MARKER + 0.03) * ring
            y = spot.y + math.sin(angle) * (LINE / 2 + MARKER + 0.02) * ring
            yield Box(x - half, x + half, y - LINE / 2, y + LINE / 2)
