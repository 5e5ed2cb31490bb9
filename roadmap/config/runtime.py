"""Settings of the machine that trains.

None of them decides what is trained, so none is part of a trial's fingerprint. No torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from roadmap.config.errors import ConfigError
from roadmap.config.fields import config, plain, setting
from roadmap.config.recipe import Recipe

EVALUATED_AT_END = 5  # the last epochs, each of which is evaluated
PATHS = ("data_dir", "init")
LoaderName = Literal["threads", "spdl"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
GRAPHED_MODES = ("reduce-overhead", "max-autotune")  # of the compiler, which then captures CUDA graphs itself


@config
class Runtime:
    """Where and how a run executes. Raises ConfigError."""

    data_dir: Path | None = setting("folder of the data set", default=None)
    download: bool = setting("let torchvision or timm fetch the data set", default=False)
    workers: Annotated[int, Interval(ge=0, le=1024)] | None = setting(
        "loader processes or threads of each rank; none: chosen for its device", default=None
    )
    loader: LoaderName = setting(
        "threads that decode what a recipe with pipeline tensor cannot hold in memory: our own, or those of SPDL",
        default="threads",
    )
    device: Literal["auto", "cpu", "cuda"] = setting("what trains", default="auto")
    threads: Annotated[int, Interval(ge=0, le=4096)] = setting("CPU threads; 0 for all", default=0)
    compile: bool = setting("torch.compile the network", default=False)
    compile_mode: CompileMode | None = setting("mode of torch.compile; none: its default", default=None)
    cuda_graph: Literal["auto", "off"] = setting(
        "replay iterations on a GPU as one CUDA graph: auto, where they can be captured, or off", default="auto"
    )
    micro_batch: Annotated[int, Interval(ge=1, le=100000)] | None = setting(
        "images of one forward pass, of whole groups; one group unless given", default=None
    )
    channels_last: bool = setting("memory format of the features", default=True)
    gradient_checkpointing: bool = setting("compute activations again in the backward pass: less memory", default=False)
    checkpoint_every: Annotated[int, Interval(ge=1, le=1_000_000)] = setting("epochs between checkpoints", default=1)
    stop_hopeless: bool = setting("end a run that guesses after half of its epochs", default=False)
    init: Path | None = setting("file of initial weights; which one it must be is part of the trial", default=None)
    checkpoint_minutes: Annotated[float, Interval(ge=0, le=1_000_000)] = setting(
        "minutes between checkpoints, besides those of epochs; 0: as often as one is written", default=10.0
    )
    eval_every: Annotated[int, Interval(ge=1, le=1_000_000)] = setting(
        "epochs between evaluations; the last five are evaluated each", default=1
    )

    def __post_init__(self) -> None:
        if self.compile_mode and not self.compile:
            raise ConfigError(
                f"--compile-mode is {self.compile_mode} without --compile; legal: both, or neither; give --compile too"
            )

    def evaluates(self, epoch: int, epochs: int) -> bool:
        """Whether this epoch (from 1) ends with an evaluation: each of the last five does."""
        return epoch % self.eval_every == 0 or epoch > epochs - EVALUATED_AT_END

    def saves(self, epoch: int, epochs: int) -> bool:
        """Whether this epoch (from 1) ends with a checkpoint."""
        return epoch % self.checkpoint_every == 0 or epoch == epochs

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
        return dataclasses.replace(self, workers=loading if device == "cuda" else 0)


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
