"""A run's record: how it ended, what it measured, and all that decides or may explain the outcome.

`roadmap.train.execute` writes it as record.json, `analysis.load` reads it, records.jsonl holds a
study's. What this program wrote is not validated again when it is read, so that ten thousand
records are read in little more than the time of their JSON. No torch, no pandas.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

VERSION = 2
FINISHED, FAILED, DIVERGED, INTERRUPTED = "finished", "failed", "diverged", "interrupted"
HOPELESS = "hopeless"  # ended early by --stop-hopeless, and in no mean
SETTLED = (FINISHED, HOPELESS)  # not trained again unless it is asked for
LOST_PEER = "lost-peer"  # an `error_kind`: another rank is gone, which is no fault of this one
OUT_OF_MEMORY = "out-of-memory"  # an `error_kind`: the device had no memory left for the run
MISSING = "missing"  # the status of a run without a record; never written by a run

# The numbers that a run measures; version 1 had them beside everything else.
METRIC_KEYS = ("top1", "top5", "loss", "ema_top1", "ema_top5", "ema_loss", "validation_top1")


class Hardware(NamedTuple):
    """What a run ran on: `device` is the GPU's name or 'cpu', `threads` those at work."""

    device: str | None = None
    cpu: str | None = None
    cores: int | None = None
    threads: int | None = None

    @classmethod
    def from_json(cls, content: object) -> Hardware:
        """Build it from JSON's object; anything else says nothing of the hardware."""
        if not isinstance(content, dict):
            return NO_HARDWARE
        return cls(*map(content.get, cls._fields))

    def to_json(self) -> dict[str, Any]:
        """All four, None where not known."""
        return self._asdict()


NO_HARDWARE = Hardware()


class Formats(NamedTuple):
    """In which formats and by which arithmetic a run computed.

    The fields are None where its writer did not know of them, and where there is no such thing.

    autocast     bfloat16, float16 or none
    residual     of the residual stream, as observed; several names joined where blocks differ
    matmul, convolution   arithmetic of float32 on the GPU: ieee or tf32
    cpu_capability        the instructions that torch's own CPU kernels use
    matmul_precision      of float32 matrix products, as torch calls it; on some CPUs it decides too
    reduced_reduction     which of bf16 and fp16 may be summed in their own format on a GPU
    onednn                whether torch's CPU kernels may be oneDNN's
    denormals             whether numbers below the normal ones are kept
    build                 digest of how torch was built: compiler, BLAS, CUDA
    cuda, cudnn, driver   versions, where a GPU computed
    environment           the variables that are set of those that decide arithmetic
    """

    autocast: str | None = None
    residual: str | None = None
    matmul: str | None = None
    convolution: str | None = None
    cudnn_benchmark: bool | None = None
    cudnn_deterministic: bool | None = None
    deterministic: bool | None = None
    cpu_capability: str | None = None
    matmul_precision: str | None = None
    reduced_reduction: str | None = None
    onednn: bool | None = None
    denormals: bool | None = None
    build: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    driver: str | None = None
    environment: Mapping[str, str] | None = None

    @classmethod
    def from_json(cls, content: object) -> Formats | None:
        """Build it from JSON's object; anything else says nothing."""
        return cls(*map(content.get, cls._fields)) if isinstance(content, dict) else None

    def to_json(self) -> dict[str, Any]:
        return self._asdict()


@dataclass(slots=True)
class Record:
    """The record of one run. None, or an empty mapping, stands for what its writer did not know of.

    status         finished, failed, diverged, interrupted, hopeless; `error` says why, in the
                   writer's words
    error_kind     what kind of failure, where a program asks: LOST_PEER, OUT_OF_MEMORY
    stopped_by     the signal that interrupted the run, or came when it had ended
    damaged        the file could not be read: there is nothing but the error
    id to init     labels: where in a study the run stands; `init` is its initial weights' digest
    data to test_images   title and registry name, digest of the file list, largest difference of the decoder's
                   pixels from the reference's (of 255), pixels a side, images
    params, macs   parameters; multiply-adds of one image
    precision to hardware   how it was computed, and by which code (`roadmap.runs.provenance`)
    waiting_share  the part of training's time, 0 to 1, that the slowest rank waited for images
    skipped_updates  of fp16: iterations whose scaled gradients were not finite, so that none was applied
    data_contents  {train, validation, test: digest of images and labels} (`roadmap.data.digest`)
    libraries      what torch and the others are beside their versions (`roadmap.runs.libraries`)
    compile_mode   of torch.compile, None without it
    cuda_graph     whether iterations were replayed as one CUDA graph; `eager_because`: why not
    configuration  SHA-256 of all that decides the outcome but the seed
    resolved       that content: {'model': {...}, 'recipe': {...}, 'data': {...}, 'seed': 0, ...}
    metrics        {one of METRIC_KEYS: value} on the test split (validation_...: on that), percent
                   or nats, after epoch `accuracy_epoch`
    hits           {split: which images' top-1 was right, a bit each} (`roadmap.runs.hits`)
    curves         {name: a value for each epoch}, where they were gathered
    earlier        of attempts before the last one, what was not as in the last: {name: value}
    previous       what `--force` set aside, oldest first: status, metrics, finished_at of each
    extra          what a newer version wrote and this one does not know
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
    decoder_difference: int | None = None
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
    formats: Formats | None = None
    workers: int | None = None
    compile: bool | None = None
    compile_mode: str | None = None
    channels_last: bool | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    code_digest: str | None = None
    packages: Mapping[str, str] | None = None
    libraries: Mapping[str, Any] | None = None
    data_contents: Mapping[str, str] | None = None
    hardware: Hardware = NO_HARDWARE
    configuration: str | None = None
    resolved: Mapping[str, Any] | None = None
    attempts: int | None = None
    earlier: Sequence[Mapping[str, Any]] = ()
    previous: Sequence[Mapping[str, Any]] = ()
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    hits: Mapping[str, Any] | None = None
    curves: Mapping[str, Sequence[Any]] | None = None
    accuracy_epoch: int | None = None
    iterations: int | None = None
    skipped_updates: int | None = None
    cuda_graph: bool | None = None
    eager_because: str | None = None
    images_per_second: float | None = None
    waiting_share: float | None = None
    wall_seconds: float | None = None
    peak_memory_bytes: int | None = None
    finished_at: str | None = None
    error: str | None = None
    error_kind: str | None = None
    stopped_by: str | None = None
    damaged: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Record:
        """Build a record from the content of a record.json of any version, which is used up."""
        if content.get("version") != VERSION:
            upgrade(content)
        values = {**_DEFAULTS, **content, "hardware": Hardware.from_json(content.get("hardware"))}
        if values["formats"] is not None:
            values["formats"] = Formats.from_json(values["formats"])
        if content.get("metrics"):
            values["metrics"] = {name: value for name, value in content["metrics"].items() if value is not None}
        else:
            values["metrics"] = {}
        values["extra"] = {}
        if len(values) > len(_DEFAULTS):
            values["extra"] = {name: content[name] for name in content if name not in _DEFAULTS}
        # By place: JSON's keys are not interned, and as keywords each would be compared with all names.
        return cls(*_by_place(values))

    def to_json(self) -> dict[str, Any]:
        """The content of record.json; what is not known is left out."""
        content = {name: getattr(self, name) for name in _WRITTEN}
        known = {name: value for name, value in content.items() if value is not None and value != ()}
        if self.hardware is not NO_HARDWARE:
            known["hardware"] = self.hardware.to_json()
        if self.formats is not None:
            known["formats"] = self.formats.to_json()
        return {**known, "metrics": dict(self.metrics), **({"damaged": True} if self.damaged else {}), **self.extra}

    def replace(self, **values: Any) -> Record:
        """A copy with other values."""
        return dataclasses.replace(self, **values)


def _default(of: dataclasses.Field[Any]) -> Any:
    return None if of.default is dataclasses.MISSING else of.default


_DEFAULTS = {f.name: _default(f) for f in dataclasses.fields(Record)}
_by_place = itemgetter(*_DEFAULTS)
_APART = ("hardware", "formats", "metrics", "damaged", "extra")
_WRITTEN = tuple(name for name in _DEFAULTS if name not in _APART)


def upgrade(content: dict[str, Any]) -> None:
    """Bring the content of a record of version 1 up to date: its metrics stood beside everything
    else.

    One of a newer version is left as it is.
    """
    if content.get("version", 1) == 1:
        measured = {name: content.pop(name, None) for name in METRIC_KEYS}
        content["metrics"] = {name: value for name, value in measured.items() if value is not None}
        content["version"] = VERSION


def damage_of(content: object) -> str:
    """Why this content of a record.json is no record; empty where it is one."""
    if not isinstance(content, dict) or not isinstance(content.get("status"), str):
        return "it has no status"
    return "" if isinstance(content.get("metrics") or {}, dict) else "its metrics have no names"


def with_neutral(resolved: Mapping[str, Any]) -> Mapping[str, Any]:
    """All settings that decided an outcome, those of fields that the writer did not know of
    included.

    A field younger than version 1 is left out of an identity at its neutral value: a record says
    nothing of it, whether its writer knew it or not.
    """
    if not _neutral_settings():
        return resolved
    known = [part for part in _neutral_settings() if part in resolved]
    if "timm" in resolved.get("model", {}):  # its toggles are timm's own
        known = [part for part in known if part != "model"]
    return {**resolved, **{part: {**_neutral_settings()[part], **resolved[part]} for part in known}}


def without_neutral(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of settings by dotted name (`model.norm`) what an older record does not know of."""
    return {name: value for name, value in settings.items() if not _is_neutral(name, value)}


def _is_neutral(name: str, value: Any) -> bool:
    part, _, field_name = name.partition(".")
    younger = _neutral_settings().get(part, {})
    return field_name in younger and younger[field_name] == value


@functools.cache
def _neutral_settings() -> dict[str, dict[str, Any]]:
    """The neutral values of the fields younger than version 1, by part of a trial.

    Empty parts left out.
    """
    from roadmap.config.data import Data
    from roadmap.config.fields import neutral_settings
    from roadmap.config.model import ModelSpec
    from roadmap.config.recipe import Recipe

    parts = {"model": neutral_settings(ModelSpec), "recipe": neutral_settings(Recipe), "data": neutral_settings(Data)}
    return {part: values for part, values in parts.items() if values}
