"""Settings of the machine that trains.

None of them decides what is trained, so none is part of a trial's fingerprint. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from roadmap.config.errors import ConfigError
from roadmap.config.fields import config, plain, setting
from roadmap.config.recipe import Recipe

PATHS = ("data_dir", "init")


@config
class Runtime:
    """Where and how a run executes. Raises ConfigError."""

    data_dir: Path | None = setting("folder of the data set", default=None)
    download: bool = setting("let torchvision or timm fetch the data set", default=False)
    workers: Annotated[int, Interval(ge=0, le=1024)] = setting("loader processes", default=0)
    device: Literal["auto", "cpu", "cuda"] = setting("what trains", default="auto")
    threads: Annotated[int, Interval(ge=0, le=4096)] = setting("CPU threads; 0 for all", default=0)
    compile: bool = setting("torch.compile the network", default=False)
    channels_last: bool = setting("memory format of the features", default=True)
    checkpoint_every: Annotated[int, Interval(ge=1, le=1_000_000)] = setting("epochs between checkpoints", default=1)
    init: Path | None = setting("file of initial weights; which one it must be is part of the trial", default=None)
    checkpoint_minutes: Annotated[float, Interval(ge=0, le=1_000_000)] = setting(
        "minutes between checkpoints, besides those of epochs; 0: as often as one is written", default=10.0
    )
    eval_every: Annotated[int, Interval(ge=1, le=1_000_000)] = setting(
        "epochs between evaluations; the last five are evaluated each", default=1
    )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON holds them."""
        return {name: str(value) if name in PATHS and value else value for name, value in plain(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Runtime:
        """Read what `to_json` wrote. Raises ConfigError."""
        paths = {name: Path(values[name]) for name in PATHS if values.get(name)}
        return cls(**{**values, **paths})


def refuse_sparse_evaluation(runtime: Runtime, recipe: Recipe) -> None:
    """Raise ConfigError where a recipe chooses among epochs that would not all be evaluated."""
    if runtime.eval_every > 1 and recipe.accuracy == "best":
        raise ConfigError(
            f"--eval-every is {runtime.eval_every}, but recipe {recipe.name!r} reports the best epoch, which then "
            "depends on which ones are looked at; legal: 1; leave --eval-every out, or set recipe.accuracy to last"
        )


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def limit_threads(threads: int) -> dict[str, str]:
    """Environment for a process that shall use this many threads; must be set before torch is imported there.

    Passive waiting: processes whose idle threads spin slow each other down many times over.
    """
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
