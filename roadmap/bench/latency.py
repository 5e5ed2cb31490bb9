"""How long each network of a study takes for one image: all of them in turn, round by round, so that a drifting machine favours none."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch

from roadmap.bench.pairs import seconds
from roadmap.config.trial import Trial
from roadmap.model.build import build_network

WARMUP = 3


@torch.inference_mode()
def latencies(
    trials: Mapping[str, Trial], device: torch.device, *, rounds: int, batch: int = 1
) -> dict[str, dict[str, Any]]:
    """{cell: {"ms": median, "low", "high": quartiles, "rounds": n}} of a forward pass of `batch` images at the trial's size, fp32, evaluation mode."""
    networks = {
        cell: build_network(t.model, t.data.image_size).eval().to(device).to(memory_format=torch.channels_last)
        for cell, t in trials.items()
    }
    images = {
        cell: torch.randn(batch, t.data.in_chans, t.data.image_size, t.data.image_size, device=device).contiguous(
            memory_format=torch.channels_last
        )
        for cell, t in trials.items()
    }
    times: dict[str, list[float]] = {cell: [] for cell in trials}
    for i in range(WARMUP + rounds):
        for cell, network in networks.items():
            took = seconds(lambda network=network, cell=cell: network(images[cell]))  # type: ignore[misc]
            if i >= WARMUP:
                times[cell].append(1000 * took)
    quartiles = {
        cell: statistics.quantiles(ms, n=4, method="inclusive") if rounds > 1 else [ms[0]] * 3
        for cell, ms in times.items()
    }
    return {
        cell: {"ms": round(middle, 4), "low": round(low, 4), "high": round(high, 4), "rounds": rounds}
        for cell, (low, middle, high) in quartiles.items()
    }
