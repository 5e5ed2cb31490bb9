"""What a run asks of a cluster: the options of the command line over a profile of the user's file over built-in values. No torch.

~/.config/roadmap/slurm.yaml, one profile a cluster; --profile chooses, else the profile named as the cluster, else the only one:

    mycluster:
      partition: gpu
      time: 1440           # minutes
      gpus_per_node: 8
      cpus_per_task: 12
      setup: ["module load cuda"]
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from roadmap.config.errors import RoadmapError, listing, nearest, refuse
from roadmap.config.trial import Trial

WORDS = ("partition", "account", "qos", "mem", "constraint", "exclude", "nodelist", "reservation", "gres", "wckey")
COUNTS = {
    "time": 1,
    "nodes": 1,
    "gpus_per_node": 0,
    "cpus_per_task": 1,
    "array_parallelism": 1,
    "signal_seconds": 1,
    "restarts": 0,
}
FLAGS = ("hold", "exclusive")
LINES = ("setup", "srun_args")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one run gets. Raises ConfigError naming every value that is not legal.

    time: minutes. gpus_per_node: ranks on each node; 0 for one rank without GPU. cpus_per_task: cores of a rank; the cluster's own unless given.
    gres: sent instead of gpus-per-node where a cluster wants a type, such as gpu:a100:8. signal_seconds: warning before the time limit.
    restarts: how often a run may start again without a new checkpoint. hold: submitted, but not to start before `scontrol release`.
    setup: shell lines before the run. srun_args: further words for srun. python: what starts Python, such as `apptainer exec --nv image.sif python`.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: int = 240
    nodes: int = 1
    gpus_per_node: int = 1
    cpus_per_task: int | None = None
    mem: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    reservation: str | None = None
    gres: str | None = None
    wckey: str | None = None
    array_parallelism: int | None = None
    signal_seconds: int = 120
    restarts: int = 5
    hold: bool = False
    exclusive: bool = False
    setup: tuple[str, ...] = ()
    srun_args: tuple[str, ...] = ()
    python: str | None = None

    def __post_init__(self) -> None:
        refuse(_problems(self))

    @property
    def ranks_per_node(self) -> int:
        return max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Resources:
        words: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**words)


def _problems(r: Resources) -> list[str]:
    found = []
    for name, least in COUNTS.items():
        value = getattr(r, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            unit = " (minutes)" if name == "time" else " (seconds)" if name == "signal_seconds" else ""
            found.append(
                f"slurm.{name} is {value!r}; legal: whole numbers from {least}{unit}; {_time_advice(value) if name == 'time' else 'give one of them'}"
            )
    for name in WORDS:
        value = getattr(r, name)
        if value is not None and not (
            isinstance(value, str)
            and re.fullmatch(r"[A-Za-z0-9_./:,&|\[\]()*@=+-]+", value)
            and not value.startswith("-")
        ):
            found.append(
                f"slurm.{name} is {value!r}; legal: one word as sbatch takes it, without spaces, quotes, '%' or line breaks; correct it"
            )
    for name in FLAGS:
        if not isinstance(getattr(r, name), bool):
            found.append(f"slurm.{name} is {getattr(r, name)!r}; legal: true, false; write one of them")
    lines = [(name, line) for name in LINES for line in getattr(r, name)] + (
        [("python", r.python)] if r.python is not None else []
    )
    for name, line in lines:
        if not isinstance(line, str) or not line.strip() or not line.isprintable():
            found.append(f"slurm.{name} holds {line!r}; legal: one line of text each; split it")
    return found


def _time_advice(value: object) -> str:
    """A time in Slurm's notation is answered with its minutes."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+)(?::(\d+))?", str(value))
    if not match:
        return "give minutes, such as 1440 for a day"
    days, hours, minutes = (int(match[k] or 0) for k in (1, 2, 3))
    return f"give minutes: {value} is {days * 1440 + hours * 60 + minutes}"


def minutes_text(minutes: float) -> str:
    """Minutes with their unit, in hours too where that is easier to read."""
    return f"{minutes:g} minutes" + (f" ({minutes / 60:.3g} h)" if minutes >= 120 else "")


def profile_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "roadmap" / "slurm.yaml"


def resources(given: Mapping[str, Any], *, profile: str | None, cluster: str | None) -> Resources:
    """The options that were given over the profile's values. Raises RoadmapError on a file or value that is not legal."""
    values = _profile(profile, cluster)
    values |= {k: v for k, v in given.items() if v is not None and v != ()}
    return Resources(**values)


def _profile(name: str | None, cluster: str | None) -> dict[str, Any]:
    """One profile's values, checked key by key."""
    path = profile_file()
    profiles = _read(path)
    if name is None:
        name = next(
            (n for n in (cluster, "default") if n in profiles), next(iter(profiles)) if len(profiles) == 1 else None
        )
        if name is None:
            return {}
    if name not in profiles:
        raise RoadmapError(
            f"--profile {name!r} is not in {path}; legal: {listing(profiles) or 'none yet: the file is missing or empty'}; {nearest(name, profiles)}"
        )
    values = profiles[name]
    legal = [f.name for f in fields(Resources)]
    if not isinstance(values, dict):
        raise RoadmapError(
            f"{path}: {name} is {values!r}; legal: options and their values below it; see docs/cluster.md"
        )
    words = {str(k).replace("-", "_"): v for k, v in values.items()}
    refuse(
        [
            f"{path}: {name}.{key} is unknown; legal: {listing(legal)}; {nearest(key, legal)}"
            for key in words
            if key not in legal
        ]
    )
    return {k: ((v,) if isinstance(v, str) else tuple(v or ())) if k in LINES else v for k, v in words.items()}


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
            f"{path} holds {type(content).__name__}, not profiles; legal: a name for each cluster with options below it; see docs/cluster.md"
        )
    return {str(k): v for k, v in content.items()}


def shape_of(trial: Trial, wanted: Resources) -> Resources:
    """What this trial runs on: as wanted, or on fewer whole nodes where its global batch has fewer groups than there are ranks.

    A rank takes whole groups, so that BatchNorm sees the same images whatever the number of GPUs. Raises ConfigError where no number of these nodes divides.
    """
    groups = trial.recipe.groups
    if groups < wanted.ranks and groups % wanted.ranks_per_node == 0:
        return replace(wanted, nodes=groups // wanted.ranks_per_node)
    trial.recipe.groups_per_rank(wanted.ranks)
    return wanted
