"""The ladder's data: the papers' numbers, names and ids, and what each entry may say."""

import csv
from pathlib import Path

import pytest

from roadmap.config.errors import ConfigError
from roadmap.config.fields import diff
from roadmap.config.recipes import RECIPES
from roadmap.ladder import Step
from roadmap.ladder.convnext import CONVNEXT
from tests.helpers.convnext import (
    GROUPS,
    REGIMES,
    change_of,
    find_regime,
    find_step,
    ladder,
    path,
    recipe_changes,
    recipe_of,
    resolve,
    step_recipe,
)

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
EVERY_STEP = ladder(side_steps=True)
ROWS = [
    (regime, row)
    for regime in ("resnet50", "resnet200")
    for row in csv.DictReader((REFERENCE / f"ladder-{regime}.csv").open())
]


@pytest.mark.parametrize(("regime", "row"), ROWS, ids=lambda x: x["name"] if isinstance(x, dict) else x)
def test_the_papers_numbers_are_those_of_its_tables(regime: str, row: dict[str, str]) -> None:
    step, paper = find_step(row["name"]), find_regime(regime).paper[row["name"]]
    assert paper.top1 == float(row["paper_top1"])
    assert paper.std == (float(row["paper_top1_std"]) if row["paper_top1_std"] else None)
    assert paper.gflops == float(row["paper_gflops"])
    assert (step.id or "", step.parent or "", step.on_path) == (row["id"], row["parent"], row["on_path"] == "1")


def test_every_row_of_the_tables_is_here() -> None:
    for regime in ("resnet50", "resnet200"):
        assert len([r for name, r in ROWS if name == regime]) == 17
        assert set(find_regime(regime).paper) <= {s.name for s in EVERY_STEP}


def test_the_ladder_does_not_contradict_itself() -> None:
    for i, step in enumerate(EVERY_STEP):
        assert step.parent in {None, *(s.name for s in EVERY_STEP[:i])}, "a parent comes earlier"
        assert step.group in GROUPS
    assert len({s.name for s in EVERY_STEP}) == len(EVERY_STEP)
    assert all(s.source and s.title and s.evidence in ("paper", "inferred", "open") for s in EVERY_STEP)


@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda s: s.name)
def test_a_step_is_found_by_its_name_and_its_id(step: Step) -> None:
    assert find_step(step.name) is step
    if step.id is not None:
        assert find_step(step.id) is step
        assert not step.id.isdigit() or find_step(int(step.id)) is step


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda s: s.name)
def test_a_step_changes_what_it_says_and_nothing_else(step: Step, regime: str) -> None:
    where = find_regime(regime)
    assert recipe_of(step.name, regime) in RECIPES
    if step.parent is None:
        assert resolve(step.name, regime) == where.base
        return
    model = {k: v for k, v in change_of(step, where).items() if k.partition(".")[0] != "recipe"}
    before, after = resolve(step.parent, regime), resolve(step.name, regime)
    assert {k: b for k, (_, b) in diff(before, after).items()} == model
    recipe = {k.removeprefix("recipe."): v for k, v in change_of(step, where).items() if k.startswith("recipe.")}
    assert recipe_changes(step.name, regime) == recipe_changes(step.parent, regime) | recipe
    assert model or recipe


@pytest.mark.parametrize("regime", REGIMES)
def test_a_regime_names_only_steps_of_the_ladder(regime: str) -> None:
    where, names = find_regime(regime), {s.name for s in EVERY_STEP}
    assert set(where.overrides) | set(where.structure) | set(where.paper) <= names
    assert set(where.recipes.values()) <= set(RECIPES)


def test_the_path_is_the_ladder_without_side_steps() -> None:
    on_path = ladder()
    assert path(on_path[-1]) == on_path
    beside = {s.name for s in EVERY_STEP} - {s.name for s in on_path}
    assert beside == {s.name for s in EVERY_STEP if not s.on_path} and beside >= {"kernel-5", "kernel-9", "kernel-11"}


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("separate-downsamplin", "did you mean 'separate-downsampling'?"),
        ("patchify", "'patchify-stem'"),
        ("4c", "'4'"),
        ("zzz", "choose one of these"),
    ],
)
def test_a_mistyped_step_gets_the_nearest(key: str, advice: str) -> None:
    with pytest.raises(ConfigError) as e:
        find_step(key)
    assert str(e.value).startswith(f"step {key!r} is unknown; legal: 0, 1, ")
    assert advice in str(e.value).rsplit("; ", 1)[1]


def test_a_mistyped_regime_gets_the_nearest() -> None:
    with pytest.raises(ConfigError) as e:
        find_regime("resnet500")
    assert (
        str(e.value)
        == "regime 'resnet500' is unknown; legal: resnet50, resnet200, resnet50-100ep-160px, cifar, micro, "
        "micro-deep; did you mean 'resnet50' or 'resnet200' or 'resnet50-100ep-160px'?"
    )


def test_a_mistyped_toggle_gets_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"toggle 'kernel' is unknown; legal: depths, .*; did you mean 'kernel_size'\?"
    ):
        resolve("9", "micro", kernel=3)


def test_the_cheaper_regime_is_the_full_one_on_fewer_pixels_and_epochs() -> None:
    full, small = find_regime("resnet50"), find_regime("resnet50-100ep-160px")
    assert (small.image_size, small.paper) == (160, {})
    for step in EVERY_STEP:
        assert resolve(step.name, small.name) == resolve(step.name, full.name)
        long, short = step_recipe(step, full.name), step_recipe(step, small.name)
        assert short.epochs in (30, 100) and short.epochs * 3 == long.epochs
        # A cosine has no steps to scale.
        unlike = {"decay_epochs"} if long.schedule == "cosine" else set()
        for name, (expected, found) in diff(long.with_epochs(short.epochs), short).items():
            assert name in unlike or found == pytest.approx(expected), (step.name, name)


def test_a_number_that_the_paper_quotes_is_marked() -> None:
    quoted = {(r.name, step) for r in CONVNEXT.all_regimes for step, paper in r.paper.items() if paper.quoted}
    assert quoted == {("resnet200", "baseline")}
