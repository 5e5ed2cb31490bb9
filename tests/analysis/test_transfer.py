"""report --transfer: what is matched, what counts, and what comes of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.load import open_study
from analysis.report.transfer import TransferReport
from analysis.results.analyse import analyse
from analysis.results.identity import shared_ids
from analysis.results.transfer import Side, Transfer, paper_of, study_side, transfer
from analysis.study import Study
from roadmap.config.errors import RoadmapError
from roadmap.config.trial import Trial
from roadmap.ladder import find_ladder
from roadmap.runs.metric import LOSS, TOP1
from roadmap.study.expand import expand
from roadmap.study.plan import Plan
from tests.helpers.small_studies import Values, finished, small_study, top1
from tests.helpers.study_files import Draft, write_runs

RESULTS = Path(__file__).parents[2] / "results"


def between(a: Study | Side, b: Study | Side) -> Transfer:
    sides = [one if isinstance(one, Side) else study_side(one, analyse(one)) for one in (a, b)]
    return transfer(sides[0], sides[1], TOP1)


def planned(root: Path, regime: str = "micro", **plan: Any) -> Study:
    """A study with runs of all its trials, whose scores differ by cell and a little by seed."""
    name = plan.pop("name", regime)
    study = expand(Plan(name=name, question="?", regime=regime, data="digits", seeds=(0, 1), **plan))
    cells = list(dict.fromkeys((t.step, t.change) for t in study.trials))

    def values(trial: Trial) -> Values:
        return {"top1": 70.0 + cells.index((trial.step, trial.change)) + 0.1 * trial.seed}

    return open_study(write_runs(root, list(study.trials), values, name=name, regime=regime, header=study.header()))


# What is matched ---------------------------------------------------------------------------------


def test_a_study_predicts_itself(tmp_path: Path) -> None:
    study = open_study(small_study(tmp_path))
    found = between(study, study)
    assert [one.a.label for one in found.shared] == ["kernel-7", "gelu"]
    assert (found.signs.hits, found.resolved_signs.hits, found.decisions.all.hits) == (2, 2, 3)
    assert found.decisions.resolved.total == 3 and found.decisions.cells == 3


def test_steps_are_matched_whatever_regime_they_are_in(tmp_path: Path) -> None:
    small, large = planned(tmp_path, through="9"), planned(tmp_path, "cifar", through="9")
    found = between(small, large)
    assert [one.a.label for one in found.shared] == [one.b.label for one in found.shared]
    assert len(found.shared) == 13 and not found.only_a and not found.only_b and found.ranks.n == 13


@pytest.mark.slow
def test_steps_that_are_left_out_are_matched_though_their_values_differ_by_regime(tmp_path: Path) -> None:
    small, large = (planned(tmp_path, regime, design="leave-one-out", base="9") for regime in ("micro", "cifar"))
    labels = [one.a.label for one in between(small, large).shared]
    assert "separate-downsampling without stage-ratio" in labels and "separate-downsampling without width" in labels


def changed(root: Path, name: str, *values: int, **more: Any) -> Study:
    return planned(root, name=name, design="one-at-a-time", base="9", changes=({"kernel_size": list(values)},), **more)


@pytest.mark.slow
def test_changes_are_matched_by_their_values_never_by_their_labels(tmp_path: Path) -> None:
    first, second = changed(tmp_path, "first", 3, 5, 11), changed(tmp_path, "second", 5, 3, 9)
    assert [one.a.label.rsplit("=")[1] for one in between(first, second).shared] == ["3", "5"]
    assert len(between(first, _relabelled(second)).shared) == 2
    assert between(first, second).only_a == ["separate-downsampling with kernel_size=11"]


def _relabelled(study: Study) -> Study:
    """The same study with other words for its changes: 3 is called 11."""

    def other(text: str) -> str:
        return text.replace("kernel_size=3", "kernel_size=11")

    draft = Draft.of(study)
    trials = [{**t, "change": other(t["change"])} for t in draft.trials]
    comparisons = [{**c, "child": [c["child"][0], other(c["child"][1])]} for c in draft.comparisons]
    return replace(draft, trials=trials, comparisons=comparisons).read()


def test_a_crossed_change_is_matched_at_its_own_value(tmp_path: Path) -> None:
    first = changed(tmp_path, "first", 3, cross={"recipe.group_size": (32, 64)})
    second = changed(tmp_path, "second", 3, cross={"recipe.group_size": (64, 16)})
    (one,) = between(first, second).shared
    assert "group_size=64" in one.a.label and "group_size=64" in one.b.label


def test_no_identity_is_given_twice_and_controls_have_none(tmp_path: Path) -> None:
    study = changed(tmp_path, "first", 3, 5, controls=("a-a", "no-op"))
    ids = shared_ids(study, "micro")
    assert len(set(ids.values())) == len(ids) == 3


def test_studies_without_a_common_comparison_are_refused_with_what_each_has(tmp_path: Path) -> None:
    steps, kernels = open_study(small_study(tmp_path)), changed(tmp_path, "kernels", 3)
    with pytest.raises(RoadmapError, match=r"small has kernel-7, gelu, kernels has .*kernel_size=3; legal: "):
        between(steps, kernels)


# What counts -------------------------------------------------------------------------------------


def other_code(trial: Trial) -> Values:
    more = {"git_commit": "f" * 16} if trial.step == "gelu" else {}
    return {**finished(trial), **more}


@pytest.mark.slow
def test_a_confounded_comparison_is_left_out_and_counted(tmp_path: Path) -> None:
    clean = open_study(small_study(tmp_path))
    mixed = open_study(small_study(tmp_path, "mixed", values=other_code))
    found = between(clean, mixed)
    assert [one.a.label for one in found.shared] == ["kernel-7"]
    assert [(one.label, one.why) for one in found.left_out] == [("gelu", "confounded by git_commit in mixed")]
    assert found.decisions.all.total == 1, "nor is its cell in a pair"


@pytest.mark.slow
def test_a_worse_step_in_both_agrees_in_sign_and_a_reversed_study_in_nothing(tmp_path: Path) -> None:
    up = open_study(small_study(tmp_path))
    down = open_study(small_study(tmp_path, "down", values=lambda t: {"top1": 160 - top1(t)}))
    assert between(down, down).signs.hits == 2
    found = between(up, down)
    assert (found.signs.hits, found.decisions.all.hits, found.decisions.resolved.hits) == (0, 0, 0)


def test_pairs_that_b_does_not_resolve_are_counted_apart(tmp_path: Path) -> None:
    clear = open_study(small_study(tmp_path))
    noisy = open_study(small_study(tmp_path, "noisy", values=lambda t: {"top1": 80 + (-3, 0, 3)[t.seed]}))
    found = between(clear, noisy).decisions
    assert (found.resolved.total, found.unresolved.total, found.all.hits) == (0, 3, 1.5), "a tie counts half"


# The paper ---------------------------------------------------------------------------------------


def test_the_papers_cells_have_its_printed_means_and_deviations() -> None:
    study = open_study(RESULTS / "digits")
    side, printed = paper_of(study), find_ladder().find_regime("resnet50").paper
    import numpy as np

    for id_, cell in side.cells.items():
        values = list(cell.values())
        assert np.mean(values) == pytest.approx(printed[id_.step].top1)
        if (std := printed[id_.step].std) is not None:
            assert np.std(values, ddof=1) == pytest.approx(std)
    effects = {child.step: effect.value for (child, _), effect in side.effects.items()}
    assert (effects["recipe"], effects["depthwise"], effects["kernel-7"]) == (2.69, -1.23, 0.65)


def test_the_papers_other_regime_can_be_asked_for() -> None:
    study = open_study(RESULTS / "digits")
    assert paper_of(study, "resnet200").cells != paper_of(study).cells
    with pytest.raises(RoadmapError, match="'micro' has no printed numbers; legal: .*resnet50"):
        paper_of(study, "micro")


def _means(study: Study) -> Mapping[str, float]:
    import pandas as pd

    rows = [(r.cell.step, r.record.metrics["top1"]) for r in study.runs if r.cell.whole]
    return dict(pd.DataFrame(rows).groupby(0)[1].mean())


@pytest.mark.slow
def test_the_committed_ladder_beside_the_paper_by_plain_loops() -> None:
    study = open_study(RESULTS / "digits")
    found = between(study, paper_of(study))
    ladder, printed = find_ladder(), find_ladder().find_regime("resnet50").paper
    means = _means(study)
    steps = [s for s in ladder.order() if s.name in means]
    links = [(s.name, s.parent) for s in steps if s.parent]
    pairs = [(means[child] - means[parent], printed[child].top1 - printed[parent].top1) for child, parent in links]
    assert found.signs.hits == sum(a * b > 0 for a, b in pairs) == 8
    cells = list(itertools.combinations([s.name for s in steps], 2))
    hits = sum((means[x] > means[y]) == (printed[x].top1 > printed[y].top1) for x, y in cells)
    assert (found.decisions.all.hits, found.decisions.all.total) == (hits, len(cells)) == (47, 91)
    from scipy.stats import kendalltau  # type: ignore[import-untyped,unused-ignore]

    rounded = [(round(a, 6), round(b, 6)) for a, b in pairs]
    assert found.ranks.tau == pytest.approx(kendalltau(*zip(*rounded, strict=True)).statistic)


@pytest.mark.slow
def test_a_loss_is_not_held_against_the_paper() -> None:
    with pytest.raises(RoadmapError, match="papers print top-1"):
        TransferReport.of(RESULTS / "digits", "paper", LOSS)


# Files -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    written = [TransferReport.of(study, "paper").write(tmp_path / n) for n in "ab"]
    assert [p.name for p in written[0]] == [f"transfer-small-paper.{kind}" for kind in ("md", "csv", "svg", "png")]
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    table = written[0][0].read_text()
    assert "| kernel-7 | +2.00 \\[" in table and "| gain | gain | same \\* |" in table
