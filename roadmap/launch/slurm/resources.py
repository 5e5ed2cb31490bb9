"""What a run asks of a Slurm cluster: the command line's options over a profile over defaults. No torch.

~/.config/roadmap/slurm.yaml has one profile a cluster; --profile chooses, else the profile named as
the cluster, else `default`, else the only one:

    mycluster:
      partition: gpu
      time: 1440           # minutes
      gpus_per_node: 8
      cpus_per_task: 12
      setup: ["module load cuda"]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator

from roadmap.config.errors import RoadmapError, listing, nearest, refuse
from roadmap.launch.resources import Count, CountOrNone, Flag, Legal, Resources, Seconds, Word

LINES = ("setup", "srun_args")  # one text in the profile stands for a list of one


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("not one line")
    return text


Line = Annotated[str, AfterValidator(_one_line)]
Lines = Annotated[tuple[Line, ...], Legal("one line of text each", "split it")]
SbatchWord = Annotated[
    Word | None, Legal("one word as sbatch takes it, without spaces, quotes, '%' or line breaks", "correct it")
]


class SlurmResources(Resources):
    """What one run gets on a Slurm cluster. Raises ConfigError naming every value that is not legal.

    cpus_per_task, mem: the cluster's own unless given.
    gres: sent instead of gpus-per-node where a cluster wants a type, such as gpu:a100:8.
    signal_seconds: warning before the time limit.
    restarts: how often a run may start again without a new checkpoint.
    hold: submitted, but not to start before `scontrol release`.
    setup: shell lines before the run. srun_args: further words for srun.
    python: what starts Python, such as `apptainer exec --nv image.sif python`.
    """

    where: ClassVar[str] = "slurm"

    partition: SbatchWord = None
    account: SbatchWord = None
    qos: SbatchWord = None
    constraint: SbatchWord = None
    exclude: SbatchWord = None
    nodelist: SbatchWord = None
    reservation: SbatchWord = None
    gres: SbatchWord = None
    wckey: SbatchWord = None
    array_parallelism: Annotated[Count | None, Legal("whole numbers from 1")] = None
    signal_seconds: Seconds = 120
    restarts: CountOrNone = 5
    hold: Flag = False
    exclusive: Flag = False
    setup: Lines = ()
    srun_args: Lines = ()
    python: Annotated[Line | None, Legal("one line of text", "split it")] = None


def profile_file() -> Path:
    """The user's file of profiles."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "roadmap" / "slurm.yaml"


def resources(given: Mapping[str, object], *, profile: str | None, cluster: str | None) -> SlurmResources:
    """The options that were given over the profile's values.

    Raises RoadmapError on an illegal file or value.
    """
    return SlurmResources(**{**_profile(profile, cluster), **given})


def _profile(name: str | None, cluster: str | None) -> dict[str, Any]:
    """One profile's values; its keys are checked, its values are checked together with the options."""
    path = profile_file()
    profiles = _read(path)
    name = name or _own_profile(profiles, cluster)
    if name is None:
        return {}
    if name not in profiles:
        legal = listing(profiles) or "none yet: the file is missing or empty"
        raise RoadmapError(f"--profile {name!r} is not in {path}; legal: {legal}; {nearest(name, profiles)}")
    values = profiles[name]
    if not isinstance(values, dict):
        raise RoadmapError(
            f"{path}: {name} is {values!r}; legal: options and their values below it; see docs/cluster.md"
        )
    options = {str(key).replace("-", "_"): value for key, value in values.items()}
    _check_keys(f"{path}: {name}", options)
    lines = {key: _as_lines(options[key]) for key in LINES if key in options}
    return {**options, **lines}


def _own_profile(profiles: Mapping[str, Any], cluster: str | None) -> str | None:
    """The profile of the cluster's name, else `default`, else the only one."""
    for name in (cluster, "default"):
        if name in profiles:
            return name
    return next(iter(profiles)) if len(profiles) == 1 else None


def _check_keys(where: str, options: Mapping[str, Any]) -> None:
    """Refuse a profile's unknown keys here, where their place in the file is known.

    Raises ConfigError.
    """
    legal = list(SlurmResources.model_fields)
    unknown = [key for key in options if key not in legal]
    refuse([f"{where}.{key} is unknown; legal: {listing(legal)}; {nearest(key, legal)}" for key in unknown])


def _as_lines(value: object) -> tuple[object, ...]:
    """A list of YAML as a tuple; one value alone, or none, as a tuple of that many."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise RoadmapError(f"{path} cannot be read: {e}; legal: YAML, one profile a cluster; correct the file") from e
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RoadmapError(
            f"{path} holds {type(content).__name__}, not profiles; legal: a name for each cluster with options below "
            "it; see docs/cluster.md"
        )
    return {str(k): v for k, v in content.items()}
