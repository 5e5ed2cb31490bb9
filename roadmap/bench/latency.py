"""Time of one image through each network of a study.

All networks take turns, round by round, so that a machine whose speed drifts favours none.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from roadmap.bench.pairs import seconds
from roadmap.config.trial import Trial
from roadmap.model.build import build_network

WARMUP = 3
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of a forward pass: ms is the median of `rounds`, low and high its quartiles."""

    ms: float
    low: float
    high: float
    rounds: int


@torch.inference_mode()
def latencies(trials: Mapping[K, Trial], device: torch.device, *, rounds: int, batch: int = 1) -> dict[K, Latency]:
    """Each trial's latency of `batch` images at its size, in fp32 and evaluation mode."""
    networks = {key: _network(trial, device) for key, trial in trials.items()}
    images = {key: _images(trial, device, batch) for key, trial in trials.items()}
    times: dict[K, list[float]] = {key: [] for key in trials}
    for i in range(WARMUP + rounds):
        for key, network in networks.items():
            took = seconds(partial(network, images[key]))
            if i >= WARMUP:
                times[key].append(1000 * took)
    return {key: _summary(milliseconds) for key, milliseconds in times.items()}


def _network(trial: Trial, device: torch.device) -> nn.Module:
    network = build_network(trial.model, trial.data.image_size)
    return network.eval().to(device).to(memory_format=torch.channels_last)


def _images(trial: Trial, device: torch.device, batch: int) -> Tensor:
    """(batch, in_chans, H, W) of random numbers."""
    size = trial.data.image_size
    images = torch.randn(batch, trial.data.in_chans, size, size, device=device)
    return images.contiguous(memory_format=torch.channels_last)


def _summary(times: list[float]) -> Latency:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return Latency(ms=round(middle, 4), low=round(low, 4), high=round(high, 4), rounds=len(times))
