"""Settings of the machine that trains.

None of them decides what is trained, so none is part of a trial's fingerprint. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from roadmap.config.fields import config, plain, setting

PATHS = ("data_dir", "init")


@config
class Runtime:
    """Where and how a run executes. Raises ConfigError."""

    data_dir: Path | None = setting("folder of the data set", default=None)
    download: bool = setting("let torchvision or timm fetch the data set", default=False)
    workers: Annotated[int, Interval(ge=0, le=1024)] | None = setting(
        "loader processes of each rank; none: chosen for its device", default=None
    )
    device: Literal["auto", "cpu", "cuda"] = setting("what trains", default="auto")
    threads: Annotated[int, Interval(ge=0, le=4096)] = setting("CPU threads; 0 for all", default=0)
    compile: bool = setting("torch.compile the network", default=False)
    channels_last: bool = setting("memory format of the features", default=True)
    checkpoint_every: Annotated[int, Interval(ge=1, le=1_000_000)] = setting("epochs between checkpoints", default=1)
    init: Path | None = setting("file of initial weights; which one it must be is part of the trial", default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON holds them."""
        return {name: str(value) if name in PATHS and value else value for name, value in plain(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Runtime:
        """Read what `to_json` wrote. Raises ConfigError."""
        paths = {name: Path(values[name]) for name in PATHS if values.get(name)}
        return cls(**{**values, **paths})

    def on(self, device: str, environment: Mapping[str, str] = os.environ) -> Runtime:
        """The settings with `workers` chosen for a rank on this device, 'cpu' or 'cuda', unless it was given.

        On a GPU every core of the rank but one loads, and at least one does, so that loading and
        training overlap. On a CPU training itself takes the cores.
        """
        if self.workers is not None:
            return self
        loading = max(1, (self.threads or rank_cores(environment)) - 1)
        return Runtime.from_json({**self.to_json(), "workers": loading if device == "cuda" else 0})


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def rank_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Cores for this rank, at least one, of those that its machine gives to the run.

    torchrun binds no rank to cores, so that all of a machine's see the same ones. Slurm may bind its
    tasks or not; what it says of them holds either way.
    """
    if local_ranks := environment.get("LOCAL_WORLD_SIZE"):
        return max(1, cores() // int(local_ranks))
    if "SLURM_STEP_ID" not in environment:
        return cores()
    if per_task := environment.get("SLURM_CPUS_PER_TASK"):
        return min(int(per_task), cores())
    on_node, tasks = (int(environment.get(f"SLURM_{name}", 0)) for name in ("CPUS_ON_NODE", "NTASKS_PER_NODE"))
    return max(1, min(on_node // max(1, tasks), cores())) if on_node else cores()


def limit_threads(threads: int) -> dict[str, str]:
    """Environment for a process that shall use this many threads; must be set before torch is imported there.

    Passive waiting: processes whose idle threads spin slow each other down many times over.
    """
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
