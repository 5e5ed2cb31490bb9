"""Settings of the machine: how many processes load, where nobody says."""

from __future__ import annotations

import pytest

from roadmap.config import runtime
from roadmap.config.runtime import Runtime, rank_cores

STEP = {"SLURM_STEP_ID": "0"}


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cores", lambda: 16)


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({}, 16),
        ({"LOCAL_WORLD_SIZE": "4"}, 4),  # torchrun, whose ranks all see the machine's cores
        ({"LOCAL_WORLD_SIZE": "64"}, 1),
        ({**STEP, "SLURM_CPUS_PER_TASK": "12"}, 12),
        ({**STEP, "SLURM_CPUS_PER_TASK": "12", "LOCAL_WORLD_SIZE": "8"}, 2),  # torchrun as the one task of a node
        ({**STEP, "SLURM_CPUS_ON_NODE": "16", "SLURM_NTASKS_PER_NODE": "8"}, 2),
        ({**STEP, "SLURM_CPUS_ON_NODE": "128", "SLURM_NTASKS_PER_NODE": "8"}, 16),  # bound to its own 16
        (STEP, 16),
        ({"SLURM_CPUS_PER_TASK": "12"}, 16),  # a shell of salloc, which is no task of its own
    ],
)
def test_a_rank_has_its_part_of_the_allocations_cores(environment: dict[str, str], cores: int) -> None:
    assert rank_cores(environment) == cores


@pytest.mark.parametrize(
    ("given", "device", "environment", "workers"),
    [
        ({}, "cpu", {}, 0),
        ({}, "cuda", {}, 15),
        ({}, "cuda", {"LOCAL_WORLD_SIZE": "8"}, 1),
        ({}, "cuda", {"LOCAL_WORLD_SIZE": "16"}, 1),  # one core: it loads while the GPU trains
        ({"threads": 4}, "cuda", {}, 3),  # a slot of --jobs 4
        ({"workers": 0}, "cuda", {}, 0),
        ({"workers": 7}, "cpu", {}, 7),
    ],
)
def test_on_a_gpu_all_cores_but_one_load_unless_a_number_is_given(
    given: dict[str, int], device: str, environment: dict[str, str], workers: int
) -> None:
    asked = Runtime(**given)
    assert asked.on(device, environment).workers == workers
    assert Runtime.from_json(asked.to_json()) == asked
