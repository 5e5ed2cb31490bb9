"""Each part compares what both sides make, and would notice a side that does less.

Small sizes: nothing is timed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import DropPath

from roadmap.bench import gather, iteration, ladder, loader, model, startup
from roadmap.bench.pairs import Check, Finding, Paired
from roadmap.bench.photographs import Photographs
from roadmap.bench.targets import TARGETS
from roadmap.cli.tools import means_of
from roadmap.model.build import build_model

SMALL = (
    replace(loader.CIFAR, files=replace(loader.CIFAR.files, count=256), batch=64),
    replace(loader.IMAGENET, files=Photographs(count=64, width=100, height=75, quality=90), batch=32),
)


def checks(findings: Iterable[Finding]) -> dict[str, Check]:
    return {f.name: f for f in findings if isinstance(f, Check)}


def assert_whole(part: str, findings: Iterable[Finding]) -> None:
    """All outputs agree, and every target of the part has its measurement."""
    found = list(findings)
    assert [c for c in checks(found).values() if not c.agrees] == []
    assert {t.key for t in TARGETS if t.part == part} <= {f.key for f in found if isinstance(f, Paired)}


def test_startup_checks_that_answers_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "PER_PAIR", 1)
    assert_whole("startup", startup.startup(1, tmp_path))


def test_startup_notices_a_verb_that_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "VERBS", ("run", "no-such-verb"))
    first = next(startup.startup(1, tmp_path))
    assert isinstance(first, Check) and first.apart == 1 and not first.agrees


def test_gather_compares_means_and_standard_deviations(tmp_path: Path) -> None:
    assert_whole("gather", gather.gather(means_of, 1, tmp_path, runs=60))


def test_gather_notices_a_side_that_leaves_out_a_cell_or_rounds(tmp_path: Path) -> None:
    def less(folder: Path) -> gather.Cells:
        means = means_of(folder)
        means.pop(next(iter(means)))
        return {cell: (round(mean), std, n) for cell, (mean, std, n) in means.items()}

    found = checks(gather.gather(less, 1, tmp_path, runs=60)).values()
    assert [c.agrees for c in found] == [False, False]


@pytest.mark.slow
def test_model_compares_logits_and_gradients() -> None:
    assert_whole("model", model.networks("cpu", 1, batch=2, pixels=64))


def test_model_notices_a_network_that_computes_something_else() -> None:
    ours, less = (model.opened(build_model(9, "micro", drop_path_rate=0.0)) for _ in range(2))
    less.load_state_dict(ours.state_dict())
    less.stages[2].blocks[1].drop_path = DropPath(1.0)  # a block that is left out
    images = torch.randn(2, 1, 16, 16)
    assert model.apart(less(images), ours(images)) > model.LOGITS


@pytest.mark.slow
def test_iteration_makes_the_updates_that_are_usually_written() -> None:
    assert_whole("iteration", iteration.iteration("cpu", 1, batch=2, pixels=32))


@pytest.mark.slow
def test_iteration_notices_an_optimizer_that_does_less(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = iteration.as_usually_written

    def decaying_less(model: Any, recipe: Any, *batch: Any) -> Any:
        return usual(model, replace(recipe, lr=0.9 * recipe.lr), *batch)

    monkeypatch.setattr(iteration, "as_usually_written", decaying_less)
    assert [c.agrees for c in iteration.same_updates("cpu", 2, 32)] == [False, False]


@pytest.mark.slow
def test_loader_compares_pixels_and_distributions(tmp_path: Path) -> None:
    assert_whole("loader", loader.loader("cpu", 1, tmp_path, SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("less", [{"random_erasing": 0.0}, {"augmentation": "none"}], ids=str)
def test_loader_notices_an_operation_that_is_left_out(tmp_path: Path, less: dict[str, Any]) -> None:
    size = replace(SMALL[0], files=replace(SMALL[0].files, count=2048))
    root, cpu = size.files.write(tmp_path / "images"), torch.device("cpu")
    theirs = loader.features(loader.TimmPass(root, size, size.trial().recipe, cpu)())
    open_ = partial(loader.open_pipeline, "tensor", root, size, cpu)
    whole, without = (loader.features(loader.Pass(open_(**recipe))()) for recipe in ({}, less))
    assert loader.deviations(whole, theirs) <= loader.DEVIATIONS < loader.deviations(without, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("size", SMALL, ids=lambda size: str(size.pixels))
@pytest.mark.parametrize("less", [{"crop": "none"}, {"hflip": 0.0}], ids=str)
def test_loader_notices_a_crop_or_flip_that_is_left_out(
    tmp_path: Path, size: loader.Size, less: dict[str, Any]
) -> None:
    ramps = replace(size.files, count=loader.RAMPS, ramps=True).write(tmp_path / "ramps")
    apart = partial(loader.places_apart, "tensor", ramps, size, torch.device("cpu"))
    assert apart() <= loader.DEVIATIONS < apart(**less)


def test_fewer_images_are_no_distribution_to_compare() -> None:
    assert math.isinf(loader.deviations(torch.zeros(3, 5), torch.zeros(4, 5)))


@pytest.mark.soak
@pytest.mark.slow
def test_ladder_compares_runs_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "EPOCHS", 1)
    monkeypatch.setattr(ladder, "FURTHER", 1)
    monkeypatch.setattr(ladder, "ACCURACY", 100.0)  # after one epoch it says nothing
    assert_whole("ladder", ladder.ladder(1, tmp_path, steps=("6", "9")))
