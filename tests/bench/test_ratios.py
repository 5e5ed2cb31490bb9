"""The cheap targets, on whatever machine the tests run: with a margin, as others may use its cores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roadmap.bench import gather, iteration, loader, startup
from roadmap.bench.pairs import Finding, Paired
from roadmap.bench.targets import MARGIN, target
from roadmap.cli.tools import means_of

pytestmark = pytest.mark.slow
PAIRS = 5
CIFAR = replace(loader.CIFAR, pipelines=("tensor",))


def assert_near_target(part: str, key: str, findings: Iterable[Finding]) -> None:
    found = next(f for f in findings if isinstance(f, Paired) and f.key == key)
    asked = target(part, key)
    assert asked.met(found.value, MARGIN), f"{asked.text}: {found.value:.3g}, wanted {asked.wanted}, {found}"


@pytest.mark.parametrize("key", ["help", "list"])
def test_startup(key: str, tmp_path: Path) -> None:
    assert_near_target("startup", key, startup.startup(PAIRS, tmp_path))


def test_gather(tmp_path: Path) -> None:
    assert_near_target("gather", "gather", gather.gather(means_of, PAIRS, tmp_path, runs=3000))


def test_loader_at_32_pixels(tmp_path: Path) -> None:
    assert_near_target("loader", "32-tensor", loader.loader("cpu", PAIRS, tmp_path, (CIFAR,)))


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
def test_iteration() -> None:
    assert_near_target("iteration", "iteration", iteration.iteration("cpu", PAIRS, batch=4))
