"""A run's record: how it ended, what it measured, and all that decides or may explain the outcome. No torch, no pandas.

`roadmap.train.execute` writes it as record.json, `analysis.load` reads it, records.jsonl holds a study's. Values only: a file that this program wrote is not validated again,
so that ten thousand are read in the time their JSON takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from roadmap.config.errors import RoadmapError

VERSION = 2
FINISHED, FAILED, DIVERGED, INTERRUPTED = "finished", "failed", "diverged", "interrupted"
MISSING = "missing"  # no record.json: never written, only read as the absence of one

# A record's measured numbers, and the names that version 1 had for them beside everything else.
METRIC_KEYS = ("top1", "top5", "loss", "ema_top1", "ema_top5", "ema_loss", "validation_top1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a run ran on: `device` is the GPU's name or 'cpu', `threads` those at work."""

    device: str | None = None
    cpu: str | None = None
    cores: int | None = None
    threads: int | None = None


NO_HARDWARE = Hardware()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record of one run; None (or an empty mapping) stands for what its writer did not know of.

    status        'finished', 'failed', 'diverged', 'interrupted'; `error` says why, in the writer's words. 'missing' stands for no record at all; `damaged`: the file could not be read
    id ... change labels: where in a study the run stands; `init` is the digest of its initial weights
    data ... test_images   the data set's title, registry name, digest of its file list, pixels a side, images
    params, macs  parameters, multiply-adds of one image
    precision ... packages, hardware   how it was computed and by which code (`roadmap.runs.provenance`)
    configuration SHA-256 of all that decides the outcome but the seed; `resolved` is that content: {'model': {...}, 'recipe': {...}, 'data': {...}, ...}
    metrics       {name: value} on the test split, percent or nats: top1, top5, loss, the same of the averaged weights as ema_..., validation_top1; `accuracy_epoch` says of which epoch
    curves        {name: one value an epoch}, where they were gathered
    earlier       of attempts before the last, what was not as in the last: {name: value}
    extra         keys that this version does not know
    """

    status: str
    version: int = VERSION
    id: str = ""
    fingerprint: str = ""
    study: str = ""
    ladder: str = "convnext"
    regime: str = ""
    step: str = ""
    change: str = ""
    seed: int | None = None
    init: str = ""
    data: str | None = None
    data_name: str | None = None
    data_digest: str | None = None
    image_size: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    recipe: str | None = None
    epochs: int | None = None
    params: int | None = None
    macs: int | None = None
    world_size: int | None = None
    device_batch: int | None = None
    group_size: int | None = None
    global_batch: int | None = None
    precision: str | None = None
    workers: int | None = None
    compile: bool | None = None
    channels_last: bool | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    code_digest: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    hardware: Hardware = NO_HARDWARE
    configuration: str | None = None
    resolved: Mapping[str, Any] = field(default_factory=dict)
    attempts: int | None = None
    earlier: Sequence[Mapping[str, Any]] = ()
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    accuracy_epoch: int | None = None
    iterations: int | None = None
    images_per_second: float | None = None
    wall_seconds: float | None = None
    peak_memory_bytes: int | None = None
    finished_at: str | None = None
    error: str | None = None
    damaged: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Record:
        """Build a record from the content of a record.json of any version."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """The content of record.json; what is not known is left out."""
        raise NotImplementedError


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Bring the content of a record of an older version up to date; one of today's is returned as it is."""
    raise NotImplementedError
