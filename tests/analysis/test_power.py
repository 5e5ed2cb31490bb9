"""Seeds for an effect and effects for seeds: statsmodels says the same, simulated studies resolve as often as planned."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from statsmodels.stats.power import TTestIndPower  # type: ignore[import-untyped,unused-ignore]

from analysis.load import LABELS, gather
from analysis.results.analyse import analyse
from analysis.stats import power
from analysis.stats.power import (
    EFFECTS,
    SEEDS,
    PooledStd,
    paired_over,
    planned_comparisons,
    pooled_over,
    power_of,
    power_table,
    seeds_needed,
    smallest_effect,
    two_steps,
)
from analysis.study import Study
from roadmap.config.errors import ConfigError, RoadmapError
from tests.helpers.study_files import Draft, make_trial, write_runs


@pytest.mark.parametrize("effect", [0.1, 0.2, 0.35, 0.5])
@pytest.mark.parametrize("comparisons", [1, 13])
def test_seeds_agree_with_statsmodels(effect: float, comparisons: int) -> None:
    exact = TTestIndPower().solve_power(effect / 0.2, None, 0.05 / comparisons, 0.8, alternative="two-sided")
    assert seeds_needed(effect, 0.2, comparisons=comparisons) == math.ceil(exact)


@pytest.mark.parametrize("n", [3, 5, 10, 40])
def test_the_smallest_effect_agrees_with_statsmodels_and_is_the_inverse(n: int) -> None:
    effect = smallest_effect(n, 0.08)
    assert effect == pytest.approx(0.08 * float(TTestIndPower().solve_power(None, n, 0.05, 0.8)), rel=1e-5)
    assert seeds_needed(effect * 1.0001, 0.08) == n
    assert seeds_needed(effect * 0.9999, 0.08) == n + 1


def test_the_fewest_seeds_are_enough_and_one_less_is_not() -> None:
    for rule in (two_steps, pooled_over(14)):
        for effect in (0.05, 0.11, 0.3):
            n = seeds_needed(effect, 0.1, df_error=rule, comparisons=13)
            assert (
                power_of(effect, n, 0.1, df_error=rule, alpha=0.05 / 13)
                >= 0.8
                > power_of(effect, n - 1, 0.1, df_error=rule, alpha=0.05 / 13)
            )


def test_pooling_and_fewer_comparisons_never_need_more_seeds() -> None:
    assert pooled_over(14)(3) == 28 and two_steps(3) == 4
    assert seeds_needed(0.2, 0.1, df_error=pooled_over(14)) < seeds_needed(0.2, 0.1)
    assert seeds_needed(0.2, 0.1) < seeds_needed(0.2, 0.1, comparisons=13)


def test_every_size_of_effect_has_a_number_of_seeds() -> None:
    """scipy's noncentral t is not a number at some points far out; the search must pass them."""
    for rule in (two_steps, pooled_over(14)):
        needed = [
            seeds_needed(float(effect), 0.1, df_error=rule, comparisons=13) for effect in np.geomspace(0.002, 50, 60)
        ]
        assert needed == sorted(needed, reverse=True) and needed[-1] == 2
    assert seeds_needed(0.1, 0.0) == 2 and smallest_effect(3, 0.0) == 0.0


def test_simulated_comparisons_resolve_as_often_as_planned() -> None:
    effect, std, sims, rng = 0.2, 0.1, 20_000, np.random.default_rng(5)
    n = seeds_needed(effect, std)
    child, parent = rng.normal(80 + effect, std, (sims, n)), rng.normal(80, std, (sims, n))
    p = stats.ttest_ind(child, parent, axis=1).pvalue
    gains = float(np.mean((p < 0.05) & (child.mean(1) > parent.mean(1))))
    planned = power_of(effect, n, std)
    assert planned >= 0.8
    assert gains == pytest.approx(planned, abs=4 * math.sqrt(planned * (1 - planned) / sims))


def test_the_table_has_the_usual_effects_the_asked_one_and_the_reverse() -> None:
    table = power_table(0.08, 0.15, df_error=pooled_over(14), comparisons=13)
    assert [row.effect for row in table.by_effect] == sorted([*EFFECTS, 0.15])
    assert [row.effect for row in table.by_effect if row.asked] == [0.15]
    assert all(row.power >= 0.8 and row.df == 14 * (row.seeds - 1) for row in table.by_effect)
    assert [row.seeds for row in table.by_seeds] == list(SEEDS)
    effects = [row.effect for row in table.by_seeds]
    assert effects == sorted(effects, reverse=True)
    assert (table.std, table.comparisons, table.threshold) == (0.08, 13, pytest.approx(0.05 / 13))
    assert len(power_table(0.08, 0.1).by_effect) == len(EFFECTS)


def test_an_argument_outside_its_range_is_refused_by_name() -> None:
    for name, words in (
        ("resolve", {"resolve": 0.0, "std": 0.1}),
        ("resolve", {"resolve": math.nan, "std": 0.1}),
        ("std", {"resolve": 0.1, "std": -0.1}),
        ("power", {"resolve": 0.1, "std": 0.1, "power": 1.0}),
        ("alpha", {"resolve": 0.1, "std": 0.1, "alpha": 0.0}),
        ("comparisons", {"resolve": 0.1, "std": 0.1, "comparisons": 0}),
    ):
        with pytest.raises(ConfigError, match=rf"^power\.{name} is .+; legal: .+; .+"):
            seeds_needed(**words)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^power\.resolve 1e-05 with std 1 needs more than 1,000,000 seeds"):
        seeds_needed(1e-5, 1.0)
    with pytest.raises(ConfigError, match=r"^power\.seeds is 1; legal: 2 or more"):
        smallest_effect(1, 0.1)
    with pytest.raises(ConfigError, match=r"^power\.cells is 1; legal: 2 or more"):
        pooled_over(1)
    with pytest.raises(ConfigError, match=r"^power\.cells is 1; legal: 2 or more"):
        paired_over(1)
    with pytest.raises(ConfigError, match=r"^power\.comparisons is 0"):
        power_table(0.1, comparisons=0)


def pooled_std(study: Study) -> PooledStd:
    """Of a study's own comparisons, as the command asks for it."""
    return power.pooled_std(analyse(study).findings.error, study.name)


def test_the_pooled_deviation_is_of_finished_runs_within_their_steps(study_folder: Path) -> None:
    study = gather(study_folder)
    found = pooled_std(study)
    cells: dict[tuple[str, str], list[float]] = {}
    for run in study.runs:
        if run.status == "finished":
            cells.setdefault((run.cell.step, run.cell.change), []).append(run.record.metrics["top1"] or 0.0)
    squares = math.fsum(float(np.var(values)) * len(values) for values in cells.values())
    runs = sum(map(len, cells.values()))
    assert (found.cells, found.runs) == (len(cells), runs)
    assert found.std == pytest.approx(math.sqrt(squares / (runs - len(cells))))
    assert 0 < found.df <= runs - len(cells)
    assert [found.low, found.high] == pytest.approx(
        [found.std * math.sqrt(found.df / stats.chi2(found.df).ppf(q)) for q in (0.975, 0.025)]
    )


def draft_of(scatter: dict[str, list[float]], **said: Any) -> Draft:
    """Steps of the micro ladder with these deviations from 80 %, seed by seed."""
    found = []
    for step, values in scatter.items():
        for seed, value in enumerate(values):
            trial = make_trial(step, seed)
            found.append(
                {
                    "id": f"{step}-{seed}",
                    "fingerprint": "",
                    "regime": trial.regime,
                    "step": step,
                    "change": "",
                    "seed": seed,
                    "status": "finished",
                    "top1": 80 + value,
                    **said,
                }
            )
    return Draft("s", found)


def study_of(scatter: dict[str, list[float]], **values: Any) -> Study:
    return draft_of(scatter, **values).read()


LUCK = {
    "baseline": [0.3, -0.1, 0.2],
    "recipe": [0.1, 0.2, -0.3],
    "stage-ratio": [-0.2, 0.3, 0.1],
    "patchify-stem": [0.0, 0.4, 0.1],
}


def test_a_control_changes_nothing_in_the_plan() -> None:
    """A control repeats its step's runs: it is no evidence of its own."""
    draft = draft_of(LUCK)
    repeats = [{**t, "id": f"again-{t['id']}", "change": "again"} for t in draft.trials if t["step"] == "recipe"]
    control = {"child": ["recipe", "again"], "parent": ["recipe", ""], "declared": [], "kind": "a-a"}
    with_control = dataclasses.replace(draft, trials=[*draft.trials, *repeats], comparisons=[control])
    assert pooled_std(with_control.read()) == pooled_std(draft.read()) and pooled_std(draft.read()).runs == 12


def test_power_plans_with_the_error_of_the_report(study_folder: Path) -> None:
    for study in (gather(study_folder), study_of(LUCK)):
        error, found = analyse(study).findings.error, pooled_std(study)
        assert (found.std, found.df, found.cells, found.runs, found.method) == (
            error.std,
            error.df,
            error.cells,
            error.runs,
            error.method,
        )
    assert found.method == "pooled" and found.df == found.df_error(3) == 8


def test_where_the_report_pairs_by_seed_the_plan_does() -> None:
    shared = {
        step: [v / 20 + luck for v, luck in zip(values, (-0.9, 0.1, 0.8), strict=True)] for step, values in LUCK.items()
    }
    found = pooled_std(study_of(shared))
    assert found.method == "paired" and found.df == found.df_error(3) == 6 and found.std < 0.1


def test_where_steps_scatter_unlike_the_plan_pools_no_degrees_of_freedom() -> None:
    unlike = {step: [v * (100 if step == "recipe" else 0.2) for v in values] for step, values in LUCK.items()}
    found = pooled_std(study_of(unlike))
    assert found.method == "separate" and found.df_error is two_steps
    assert found.std == pytest.approx(math.sqrt(np.mean([np.var(v, ddof=1) for v in unlike.values()])))


def test_a_pilot_of_one_cell_plans_for_a_comparison_of_two() -> None:
    found = pooled_std(study_of({"baseline": LUCK["baseline"]}))
    assert (found.cells, found.runs, found.std) == (1, 3, pytest.approx(float(np.std(LUCK["baseline"], ddof=1))))
    assert [found.df_error(n) for n in (2, 3, 5)] == [2, 4, 8]
    assert seeds_needed(0.5, found.std, df_error=found.df_error) == seeds_needed(0.5, found.std)


def test_what_is_planned_counts_before_it_has_finished_and_controls_never_do(study_folder: Path) -> None:
    study = gather(study_folder)
    planned = planned_comparisons(study)
    assert planned == analyse(study).findings.family == len(study.comparisons) > 13
    draft = Draft.of(study)
    left = [t if t["step"] == "baseline" else {**{k: t[k] for k in LABELS}, "status": "missing"} for t in draft.trials]
    pilot = dataclasses.replace(draft, trials=left).read()
    assert planned_comparisons(pilot) == planned and analyse(pilot).findings.family == 0
    control = {"child": ["gelu", "a-a"], "parent": ["gelu", ""], "declared": [], "kind": "a-a"}
    repeats = [{**t, "change": "a-a"} for t in draft.trials if t["step"] == "gelu"]
    controlled = dataclasses.replace(draft, trials=[*draft.trials, *repeats], comparisons=[*draft.comparisons, control])
    assert planned_comparisons(controlled.read()) == planned


def test_a_comparison_with_a_cell_that_is_not_planned_does_not_count(study_folder: Path) -> None:
    draft = Draft.of(gather(study_folder))
    undefined = {
        "child": ["gelu", "stem_stride=8"],
        "parent": ["gelu", ""],
        "declared": ["model.stem_stride"],
        "kind": "change",
    }
    assert planned_comparisons(dataclasses.replace(draft, comparisons=[undefined, draft.comparisons[0]]).read()) == 1


@pytest.mark.parametrize("cells", [1, 2])
def test_seeds_that_coincide_promise_no_certainty(cells: int) -> None:
    """Top-1 moves in whole images: of few runs some coincide by chance, and their scatter is taken to be that of rounding."""
    found = pooled_std(study_of(dict.fromkeys(list(LUCK)[:cells], [0.0, 0.0]), test_images=250))
    assert found.std == pytest.approx(100 / 250 / math.sqrt(12))
    assert (
        power_of(0.5, 2, found.std, df_error=found.df_error) < 0.995
        and seeds_needed(0.5, found.std, df_error=found.df_error, comparisons=13) > 2
    )


def test_seeds_that_coincide_on_an_unknown_number_of_images_are_no_plan() -> None:
    with pytest.raises(
        RoadmapError,
        match=r"^power\.study s has a standard deviation of 0 and no record with its number of test_images; legal: .+; state --std$",
    ):
        pooled_std(study_of({"baseline": [0.0, 0.0]}))


def test_a_study_of_single_runs_has_no_deviation(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, [make_trial("recipe", 0), make_trial("stage-ratio", 0)], lambda trial: {"top1": 80.0})
    with pytest.raises(
        RoadmapError,
        match=r"^power\.study ladder has no step with two finished runs \(2 in 2 steps\); legal: .+ --std$",
    ):
        pooled_std(gather(folder))
