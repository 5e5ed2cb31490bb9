"""Simulated cells with a known error."""

from __future__ import annotations

import math

import numpy as np

Cells = dict[int, dict[int, float]]


def draw(
    correlation: float, *, steps: int = 14, seeds: int = 3, scale: dict[int, float] | None = None, rng: int = 0
) -> Cells:
    """Cells whose step i has mean 80 + i / 2, standard deviation 0.1 (times `scale[i]`) and this
    correlation over seeds.
    """
    g = np.random.default_rng(rng)
    common, own = g.normal(size=seeds), g.normal(size=(steps, seeds))
    scatter = 0.1 * (math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own)
    return {
        i: {seed: 80 + i / 2 + float(x) * (scale or {}).get(i, 1.0) for seed, x in enumerate(row)}
        for i, row in enumerate(scatter)
    }


def listed(cell: dict[int, float]) -> list[float]:
    return list(cell.values())
