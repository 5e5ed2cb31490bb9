"""The processes that train one run together, found by torchrun's or Slurm's variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from roadmap.config.errors import RoadmapError

# Gloo's errors are plain RuntimeErrors: only the library's own words tell that a connection is gone.
GLOO_CONNECTION = re.compile(r"gloo.*(connect|peer|socket|timed out|broken pipe)", re.IGNORECASE | re.DOTALL)


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

    def any(self, value: bool) -> bool:
        """Whether it is true on any rank. Between hosts: no device is waited for."""
        if self.world_size == 1:
            return value
        flag = torch.tensor([value], dtype=torch.uint8)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.host_group)
        return bool(flag)

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def max(self, values: Tensor) -> Tensor:
        """Elementwise maximum over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone: NCCL's and the store's errors by type, Gloo's by text."""
    if isinstance(error, dist.DistError | ConnectionError):
        return True
    return type(error) is RuntimeError and GLOO_CONNECTION.search(str(error)) is not None


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
