"""The processes that train one run together, found by torchrun's or Slurm's variables.

<run>/ranks/1.json   why rank 1 failed, left by it for rank 0, which sees a lost connection only
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from roadmap.config.errors import RoadmapError
from roadmap.runs.io import RunError, read_json, write_json

# Gloo's errors are plain RuntimeErrors. Those of our own collectives between hosts are told by where they come from
# (see `LostPeer`); for DDP's, on CPUs alone, there are only the library's own words.
GLOO_CONNECTION = re.compile(r"gloo.*(connect|peer|socket|timed out|broken pipe)", re.IGNORECASE | re.DOTALL)
PEER_SECONDS = 3.0  # within which a rank that failed by itself has said so, on a file system that nodes share


class LostPeer(RoadmapError):
    """Another rank is gone; why, only that one knows."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among all that train the run: `rank` of `world_size`, on `device`.

    host_group: the process group by which hosts agree without their GPUs, None where there is no
    need of one.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = torch.device("cpu")
    host_group: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @classmethod
    def start(cls, device: str = "auto", environment: Mapping[str, str] = os.environ) -> Ranks:
        """Join the process group that the environment describes.

        Raises RoadmapError if a GPU is asked for and there is none.
        """
        rank, world_size, local_rank = rendezvous(environment)
        cuda = torch.cuda.is_available()
        if device == "cuda" and not cuda:
            raise RoadmapError("device is 'cuda', but torch sees no GPU; legal: auto, cpu; leave --device out")
        use_cuda = cuda and device != "cpu"
        own = torch.device("cpu")
        if use_cuda:
            own = torch.device("cuda", local_rank % torch.cuda.device_count())
            torch.cuda.set_device(own)
        if world_size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if use_cuda else "gloo", rank=rank, world_size=world_size)
        # What hosts agree on among themselves must not wait for their GPUs.
        host_group = dist.new_group(backend="gloo") if world_size > 1 and use_cuda else None
        return cls(rank, world_size, local_rank, own, host_group)

    def largest(self, value: int) -> int:
        """The largest of all ranks' values, from 0 to 255. Between hosts: no device is waited for."""
        if self.world_size == 1:
            return value
        values = torch.tensor([value], dtype=torch.uint8)
        with self._between_hosts():
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.host_group)
        return int(values)

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over all ranks, in place."""
        if self.world_size > 1:
            with self._between_hosts(values.device.type):
                dist.all_reduce(values)
        return values

    def max(self, values: Tensor) -> Tensor:
        """Elementwise maximum over all ranks, in place."""
        if self.world_size > 1:
            with self._between_hosts(values.device.type):
                dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def barrier(self) -> None:
        if self.world_size > 1:
            with self._between_hosts(self.device.type):
                dist.barrier()

    @contextlib.contextmanager
    def _between_hosts(self, device_type: str = "cpu") -> Iterator[None]:
        """Raise LostPeer for Gloo's errors: a collective of host memory fails for no other reason.

        A GPU's may be this rank's own; those of NCCL have types of their own.
        """
        try:
            yield
        except RuntimeError as e:
            if device_type != "cpu" or type(e) is not RuntimeError:
                raise
            raise LostPeer(
                f"rank {self.rank} has lost another rank ({e}); legal: all {self.world_size} ranks alive; "
                "see the other ranks' logs, then start all again to go on from the last checkpoint"
            ) from e


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone.

    Told by the type: ours, NCCL's, the store's; for Gloo within DDP by its text alone.
    """
    if isinstance(error, LostPeer | dist.DistError | ConnectionError):
        return True
    return type(error) is RuntimeError and GLOO_CONNECTION.search(str(error)) is not None


# Why a rank failed -----------------------------------------------------------------------------------------------


def forget_failure(run: Path, ranks: Ranks) -> None:
    """Remove what this rank left in an earlier attempt. Each its own, so no other's is lost."""
    _failure_file(run, ranks.rank).unlink(missing_ok=True)


def leave_failure(run: Path, ranks: Ranks, error: str) -> None:
    """Leave for rank 0 why this rank failed by itself."""
    path = _failure_file(run, ranks.rank)
    with contextlib.suppress(RunError, OSError):  # where it cannot be left, it is in this rank's own output
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"rank": ranks.rank, "error": error, "time": time.time()})


def first_failure(run: Path, ranks: Ranks) -> str:
    """Why the first of the others failed, as `rank 1: text`; empty where none has said it in time."""
    until = time.monotonic() + PEER_SECONDS
    while True:
        others = [read_json(_failure_file(run, k)) for k in range(ranks.world_size) if k != ranks.rank]
        if left := [failure for failure in others if failure]:
            first = min(left, key=lambda failure: failure["time"])
            return f"rank {first['rank']}: {first['error']}"
        if time.monotonic() > until:
            return ""
        time.sleep(0.1)


def _failure_file(run: Path, rank: int) -> Path:
    return run / "ranks" / f"{rank}.json"


# Where the others are --------------------------------------------------------------------------------------------


def rendezvous(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """(rank, world size, local rank) from torchrun's variables, a Slurm step's, or (0, 1, 0).

    torchrun says where rank 0 listens; for a Slurm step it is put into this process's environment.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return int(environment["RANK"]), int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", 0))
    if "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1:
        _set_slurm_address(environment)
        return (
            int(environment["SLURM_PROCID"]),
            int(environment["SLURM_NTASKS"]),
            int(environment.get("SLURM_LOCALID", 0)),
        )
    return 0, 1, 0


def _set_slurm_address(environment: Mapping[str, str]) -> None:
    """Set address and port of rank 0 for torch.distributed.

    The port follows from the job and its restart count, so that stale ranks of an earlier attempt
    cannot join.
    """
    attempt = int(environment["SLURM_JOB_ID"]) * 64 + int(environment.get("SLURM_RESTART_COUNT", 0))
    os.environ.setdefault("MASTER_ADDR", environment.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))
    os.environ.setdefault("MASTER_PORT", str(20_000 + attempt % 20_000))
