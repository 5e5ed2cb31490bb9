"""The images of a process's last run, kept for its next one where that sees the same ones.

A slot trains one run after another, most of them on the same pixels: decoded, resized and cut once,
they are there for the next. One set is kept, and dropped before another is opened, so that no run
needs more memory than it did alone.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadmap.config.trial import Trial
from roadmap.data.listing_cache import SETTLED_NS
from roadmap.data.pipeline import Pipeline
from roadmap.data.registry import TIMM_PREFIXES

MOST_ENTRIES = 100_000  # below a data folder: to look at more may take longer than it saves

# Fields of a recipe that change neither a decoded pixel nor a view of evaluation: what is drawn or
# trained from them is made anew for each run. Any other, a later one too, is taken to change them.
_NOT_OPENED = frozenset(
    {
        "name",
        "source",
        "expected",
        "epochs",
        "optimizer",
        "lr",
        "lr_scaling",
        "weight_decay",
        "decay_1d",
        "momentum",
        "beta1",
        "beta2",
        "schedule",
        "warmup_epochs",
        "min_lr",
        "decay_epochs",
        "decay_rate",
        "clip_grad",
        "label_smoothing",
        "mixup",
        "cutmix",
        "mix_prob",
        "mix_switch_prob",
        "augmentation",
        "hflip",
        "random_erasing",
        "ema_decay",
        "ema_warmup",
        "layer_decay",
        "layer_decay_type",
        "accuracy",
    }
)


@dataclass
class OpenedImages:
    """What a process has opened last: `open` gives it again to a trial that sees the same images."""

    _key: object = None
    _stamp: str | None = None
    _pipeline: Pipeline | None = None

    def open(self, trial: Trial, *, data_dir: Path | None, **how: Any) -> Pipeline:
        """The trial's pipeline; `how`: what `Pipeline.open` takes besides. Raises DataError.

        Decoded anew where a file below the data folder has changed, come or gone since.
        """
        key, stamp = (_images_of(trial), data_dir, how), stamp_of(trial.data.name, data_dir)
        if self._pipeline is not None and stamp is not None and (key, stamp) == (self._key, self._stamp):
            self._pipeline = self._pipeline.with_trial(trial)  # with the views that the run before has opened
            return self._pipeline
        self._pipeline = None  # before the next is opened: two would take twice the memory
        pipeline = Pipeline.open(trial, data_dir=data_dir, **how)
        self._key, self._stamp, self._pipeline = key, stamp, pipeline if stamp is not None else None
        return pipeline


def _images_of(trial: Trial) -> dict[str, Any]:
    """What of a trial decides the images that are opened, and their views."""
    parts = trial.identity()
    recipe = {name: value for name, value in parts["recipe"].items() if name not in _NOT_OPENED}
    return {"data": parts["data"], "recipe": recipe}


def stamp_of(name: str, data_dir: Path | None) -> str | None:
    """What changes whenever a file of the data set does; None where that cannot be told.

    It cannot of timm's data sets, which may lie anywhere, of more than 100,000 files, and of files
    so young that another change might leave their times as they are.
    """
    if name == "digits":
        return name  # comes with scikit-learn
    if data_dir is None or name == "imagenet" or name.startswith(TIMM_PREFIXES):
        return None
    latest, count, digest = 0, 0, hashlib.sha256()
    settled = time.time_ns() - SETTLED_NS
    try:
        for path, status in _entries(str(data_dir)):
            count, latest = count + 1, max(latest, status.st_mtime_ns, status.st_ctime_ns)
            if count > MOST_ENTRIES:
                return None
            what = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            digest.update(f"{path}\0{what}\0".encode(errors="surrogateescape"))
    except OSError:
        return None
    return digest.hexdigest() if latest < settled else None


def _entries(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder, in the order in which the file system lists it, which a change may change too."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.path, entry.stat()
            if entry.is_dir():
                yield from _entries(entry.path)
