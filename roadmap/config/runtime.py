"""Settings of the machine that trains.

None of them decides what is trained, so none is part of a trial's fingerprint. No torch.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and how a run executes.

    data_dir: folder of the data set. workers: loader processes. device: auto, cpu or cuda. threads:
    CPU threads, 0 for all.
    channels_last: memory format of the features. checkpoint_every: epochs between checkpoints.
    init: file of initial weights; which one it must be is part of the trial.
    """

    data_dir: Path | None = None
    download: bool = False
    workers: int = 0
    device: str = "auto"
    threads: int = 0
    compile: bool = False
    channels_last: bool = True
    checkpoint_every: int = 1
    init: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Runtime:
        settings: dict[str, Any] = {k: Path(v) if k in ("data_dir", "init") and v else v for k, v in values.items()}
        return cls(**settings)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def limit_threads(threads: int) -> dict[str, str]:
    """Environment for a process that shall use this many threads; must be set before torch is imported there.

    Passive waiting: processes whose idle threads spin slow each other down many times over.
    """
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
