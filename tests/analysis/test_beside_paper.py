"""Measured beside the paper's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.results.protocol import ProtocolKind
from analysis.results.results import Result
from roadmap.config.data import Data
from roadmap.config.recipes import find_recipe
from roadmap.config.trial import Trial
from tests.helpers.comparisons import LADDER, NINE, SCATTER, TOP, ladder_trials, shifted, table_of
from tests.helpers.study_files import write_runs

PAPER_RESNET50 = LADDER.find_regime("resnet50").paper


# Beside the paper -----------------------------------------------------------------------------------------------------


def paper_trial(
    step: str,
    seed: int,
    *,
    epochs: int | None = None,
    size: int = 224,
    batch: int | None = None,
    recipe: str = "",
    data: str = "imagenet",
    validation: float = 0.0,
    regime: str = "resnet50",
) -> Trial:
    named = find_recipe(recipe or LADDER.recipe_name(step, regime))
    named = named.with_epochs(epochs) if epochs else named
    named = named.with_batch_size(batch) if batch else named
    images = Data(name=data, title=data, image_size=size, num_classes=1000, validation=validation)
    return Trial(model=LADDER.model(step, regime), recipe=named, data=images, seed=seed, regime=regime, step=step)


def beside(tmp_path: Path, trials: list[Trial], top1: float = 82.0) -> dict[str, Result]:
    values = {"test_images": 50_000, "train_images": round(1_281_167 * (1 - trials[0].data.validation))}
    folder = write_runs(
        tmp_path,
        trials,
        lambda t: {**values, "top1": top1 + SCATTER[t.seed], "image_size": t.data.image_size},
        regime=trials[0].regime,
    )
    return table_of(folder)[0]


def test_a_run_by_the_papers_protocol_has_a_z_and_nothing_to_list(tmp_path: Path) -> None:
    rows = beside(tmp_path, [paper_trial(s, seed) for s in ("baseline", NINE) for seed in range(3)])
    row = rows[NINE]
    assert row.beside.difference == pytest.approx(82.0 - PAPER_RESNET50[NINE].top1)
    std = PAPER_RESNET50[NINE].std
    assert std is not None
    se = (0.1**2 / 3 + std**2 / 3 + 0.01**2 / 12) ** 0.5
    assert row.beside.z == pytest.approx(0.03 / se) and 0 < row.beside.p < 1
    assert row.beside.protocol == () and row.beside.note == ""
    assert rows["baseline"].beside.protocol == () and "prints no deviation" in rows["baseline"].beside.note


@pytest.mark.parametrize(("change", "says"), [
    ({"epochs": 90}, "epochs: 90, the paper's are 300"),
    ({"batch": 1024}, "batch: 1024 images, the paper's are 4096"),
    ({"recipe": "pytorch-90ep"}, "recipe: pytorch-90ep, the paper's for this step is convnext-300ep"),
    ({"validation": 0.1}, "images: train_images 1,153,050, the paper's are 1,281,167"),
    ({"recipe": "cifar-adamw"}, "recipe: cifar-adamw, the paper's for this step is convnext-300ep"),
])  # fmt: skip
def test_what_was_trained_otherwise_is_listed_beside_the_z(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    row = beside(tmp_path, [paper_trial(NINE, seed, **change) for seed in range(3)])[NINE]
    assert says in [difference.text for difference in row.beside.protocol]
    assert row.beside.difference == pytest.approx(82.0 - PAPER_RESNET50[NINE].top1) and row.beside.z is not None


def test_no_run_is_held_against_a_number_that_the_paper_quotes(tmp_path: Path) -> None:
    rows = beside(tmp_path, [paper_trial(s, seed, regime="resnet200") for s in ("baseline", NINE) for seed in range(2)])
    assert rows["baseline"].beside.difference is None and rows["baseline"].paper.score == 78.2
    [difference] = rows["baseline"].beside.protocol
    assert difference.kind is ProtocolKind.QUOTED and "pytorch-90ep does not make it" in difference.text
    assert rows[NINE].beside.difference is not None


def test_the_baseline_trained_by_the_modern_recipe_is_not_the_papers_baseline(tmp_path: Path) -> None:
    row = beside(tmp_path, [paper_trial("baseline", seed, recipe="convnext-300ep") for seed in range(3)])["baseline"]
    differs = [d for d in row.beside.protocol if d.kind is ProtocolKind.RECIPE]
    assert [(d.measured, d.paper) for d in differs] == [("convnext-300ep", "pytorch-90ep")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": 160}, "data: 160 px, the paper's are 224"),
        ({"data": "imagefolder"}, "data: imagefolder, the paper's is ImageNet-1k"),
    ],
)
def test_other_images_are_not_compared_with_the_paper(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    row = beside(tmp_path, [paper_trial(NINE, seed, **change) for seed in range(3)])[NINE]
    assert row.beside.difference is row.beside.z is row.beside.p is None
    assert says in [difference.text for difference in row.beside.protocol]


def test_another_regime_is_never_compared_with_the_paper(tmp_path: Path) -> None:
    rows, _ = table_of(write_runs(tmp_path, ladder_trials(), lambda t: shifted(t, TOP)))
    for row in rows.values():
        assert row.beside.difference is row.beside.z is None
        assert row.beside.protocol[0].kind is ProtocolKind.NETWORK


def test_a_step_without_a_finished_run_is_not_beside_the_paper(tmp_path: Path) -> None:
    folder = write_runs(
        tmp_path, [paper_trial(NINE, 0)], lambda t: {"status": "failed", "top1": 82.0, "error": "x"}, regime="resnet50"
    )
    row = table_of(folder)[0][NINE]
    assert row.beside.difference is None and row.beside.protocol == () and row.paper.score == PAPER_RESNET50[NINE].top1
