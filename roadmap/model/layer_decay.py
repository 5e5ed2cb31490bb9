"""Which layer of a network a parameter counts with, as the ConvNeXt authors' fine-tuning counts layers.

Layers count from the stem up; the highest holds the head and the norm before it and learns at the full rate. Sources:
`group` is the ConvNeXt authors' rule, made for depths (3, 3, 27, 3) and used for every size; `single` is their other
rule, which ConvNeXt V2 uses up to Tiny.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

LayerOf = Callable[[str], int]
IN_STAGE = re.compile(r"stages\.(\d+)\.(?:blocks\.(\d+)|downsample)\.")
GROUP = 3  # blocks of the third stage that make one layer
THIRD_STAGE, LAST_STAGE = 3, 12  # layers that the third stage begins at, and that the fourth is


def _place(name: str) -> tuple[int, int] | None:
    """Return (stage, block) of a parameter, from 0; a downsampling counts with the block after it."""
    found = IN_STAGE.match(name)
    return (int(found[1]), int(found[2] or 0)) if found else None


def _group_of(name: str) -> int:
    if name.startswith("stem."):
        return 0
    place = _place(name)
    if place is None:
        return LAST_STAGE + 1
    stage, block = place
    if stage == 2:
        return min(THIRD_STAGE + block // GROUP, LAST_STAGE)
    return LAST_STAGE if stage == 3 else stage + 1


def _single_of(name: str, depths: tuple[int, ...]) -> int:
    place = (0, 0) if name.startswith("stem.") else _place(name)
    if place is None:
        return sum(depths) + 1
    stage, block = place
    return sum(depths[:stage]) + block + 1


def _group(depths: tuple[int, ...]) -> tuple[LayerOf, int]:
    return _group_of, LAST_STAGE + 1


def _single(depths: tuple[int, ...]) -> tuple[LayerOf, int]:
    return partial(_single_of, depths=depths), sum(depths) + 1


# From depths to the rule, parameter's name -> layer, and the highest layer.
LAYERS: Mapping[str, Callable[[tuple[int, ...]], tuple[LayerOf, int]]] = {"group": _group, "single": _single}
