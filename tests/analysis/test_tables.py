from __future__ import annotations

import csv as csv_module
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.load import gather
from analysis.report import latex, tables
from analysis.report.caption import Caption, paper_caption
from analysis.report.facts import FactKind
from analysis.report.report import paper_report
from analysis.results.analyse import analyse
from analysis.results.confounds import Status
from analysis.results.frames import results_frame
from analysis.results.results import Result, Role
from roadmap.config.errors import RoadmapError
from roadmap.config.trial import Trial
from roadmap.ladder import find_ladder
from roadmap.runs.metric import LOSS, TOP1, Metric
from tests.helpers.page_samples import Sample
from tests.helpers.study_files import make_trial, write_runs

LADDER = find_ladder()
STEPS = LADDER.order(side_steps=True)
AS_STEPS = (Role.STEP, Role.SIDE)


def analysed(folder: Path, regime: str = "", metric: Metric = TOP1) -> Sample:
    study = gather(folder)
    return Sample(study, analyse(study, metric, regime))


def row_of(found: Sample, step: str, roles: tuple[Role, ...] = AS_STEPS) -> Result:
    return next(result for result in found.results if result.step == step and result.role in roles)


def texts_of(caption: Caption, kind: FactKind) -> list[str]:
    return [fact.text for fact in caption.facts if fact.kind is kind]


def markdown(found: Sample) -> str:
    return tables.markdown(results_frame(found.results), found.analysis.metric, found.caption)


def read_csv(found: Sample) -> list[dict[str, str]]:
    return list(csv_module.DictReader(io.StringIO(tables.csv(results_frame(found.results), found.analysis.metric))))


def test_tables_go_through_the_whole_ladder_in_its_order(study_folder: Path) -> None:
    steps = [result for result in analysed(study_folder).results if result.role is not Role.VARIANT]
    shown = [(result.step, result.what) for result in steps]
    assert shown == [(step.name, step.title) for step in STEPS]


def test_a_diverged_run_is_counted_and_never_averaged(study_folder: Path) -> None:
    found = analysed(study_folder)
    width = row_of(found, "width")
    assert (width.n, width.runs.planned, width.runs.failed, width.runs.missing) == (2, 3, 1, 0)
    values = list(width.score.by_seed.values())
    assert 10.0 not in values and list(width.score.by_seed) == [0, 2]
    assert width.score.mean == pytest.approx(np.mean(values))
    assert width.score.std == pytest.approx(np.std(values, ddof=1))
    reasons = [problem.reason for problem in found.caption.problems if problem.run.startswith("width-seed1")]
    assert len(reasons) == 1 and "loss is nan | epoch 3 see the log" in reasons[0]


def test_counts_add_up(study_folder: Path) -> None:
    found = analysed(study_folder)
    runs = [result.runs for result in found.results]
    assert all(counted.n + counted.failed + counted.missing == counted.planned for counted in runs)
    total = len(found.study.runs)
    assert sum(counted.planned for counted in runs) == total
    assert found.caption.runs == f"{total - 3} of {total} runs finished, 2 failed (1 of them diverged), 1 missing"
    assert texts_of(found.caption, FactKind.RUNS) == [found.caption.runs]
    unfinished = sorted(problem.run.rsplit("-", 1)[0] for problem in found.caption.problems)
    assert unfinished == ["gelu-seed2", "kernel-11-seed0", "width-seed1"]


def test_the_change_is_measured_against_the_parent(study_folder: Path) -> None:
    found = analysed(study_folder)
    for step in STEPS:
        row = row_of(found, step.name)
        if step.parent is None:
            assert row.effect.value is None
            continue
        parent = row_of(found, step.parent)
        assert row.effect.parent == step.parent and parent.cell and row.effect.parent_cell == parent.cell.id
        assert row.score.mean is not None and parent.score.mean is not None
        assert row.effect.value == pytest.approx(row.score.mean - parent.score.mean)
        assert row.effect.proof is not None and row.effect.proof.status is Status.CONTROLLED
        assert row.effect.verdict in ("gain", "loss", "unresolved") and row.effect.method == "pooled"


def test_a_single_change_stands_under_its_step_and_is_compared_with_it(study_folder: Path) -> None:
    found = analysed(study_folder).results
    at = next(i for i, result in enumerate(found) if result.role is Role.VARIANT)
    assert (found[at].step, found[at].what, found[at - 1].step) == (
        "separate-downsampling",
        "kernel_size=3",
        "separate-downsampling",
    )
    assert found[at].effect.value == pytest.approx(1.0)
    assert found[at].paper.score is None


def test_runs_trained_otherwise_share_neither_a_mean_nor_a_change(tmp_path: Path) -> None:
    trials = [make_trial(step, seed) for step in ("recipe", "stage-ratio") for seed in range(2)]
    trials.append(make_trial("stage-ratio", 0, epochs=1))

    def values(trial: Trial) -> dict[str, object]:
        return {"top1": 30.0 if trial.recipe.epochs == 1 else 90.0 + trial.seed}

    found = analysed(write_runs(tmp_path, trials, values))
    main, other = row_of(found, "stage-ratio"), row_of(found, "stage-ratio", (Role.VARIANT,))
    assert (main.score.mean, main.n, main.effect.value) == (90.5, 2, 0.0)
    assert (other.score.mean, other.n, other.effect.value) == (30.0, 1, None)
    assert "epochs" in other.what


def test_a_confounded_change_of_single_runs_has_no_verdict_and_says_what_differs(tmp_path: Path) -> None:
    trials = [make_trial("recipe", 0), make_trial("stage-ratio", 0, epochs=1)]
    found = analysed(write_runs(tmp_path, trials, lambda t: {}))
    effect = row_of(found, "stage-ratio").effect
    assert effect.verdict is None and effect.proof is not None
    assert effect.proof.status is Status.CONFOUNDED
    assert {confound.name for confound in effect.proof.confounds} == {"recipe.epochs", "epochs"}
    (told,) = texts_of(found.caption, FactKind.CONFOUNDED)
    assert "stage-ratio" in told and "recipe.epochs 20 and 1" in told
    verdicts = next(c for c in tables.columns(results_frame(found.results), TOP1) if c.heading == "verdict")
    assert "confounded" in verdicts.texts


@pytest.mark.parametrize(
    "other",
    [
        {"global_batch": 32},
        {"train_images": 500},
        {"precision": "bf16"},
        {"init": "f" * 64},
        {"data_digest": "d" * 64},
        {"configuration": "another"},
    ],
    ids=lambda o: next(iter(o)),
)
def test_a_run_that_differs_in_anything_but_its_seed_gets_a_row_of_its_own(
    other: dict[str, object], tmp_path: Path
) -> None:
    def values(trial: Trial) -> dict[str, object]:
        return {"top1": 50.0, **other} if trial.seed == 2 else {"top1": 90.0}

    found = analysed(write_runs(tmp_path, [make_trial("gelu", seed) for seed in range(3)], values))
    assert [(r.n, r.score.mean) for r in found.results if r.step == "gelu"] == [(2, 90.0), (1, 50.0)]


def test_two_finished_trials_with_one_seed_count_once(tmp_path: Path) -> None:
    def values(trial: Trial) -> dict[str, object]:
        return {"top1": 70.0 if trial.model.layer_scale == 0.1 else 90.0, "configuration": "one"}  # type: ignore[union-attr]

    trials = [make_trial("gelu", 0), make_trial("gelu", 0, layer_scale=0.1), make_trial("gelu", 1)]
    found = analysed(write_runs(tmp_path, trials, values))
    row = row_of(found, "gelu")
    assert (row.score.by_seed, row.n, row.runs.planned) == ({0: 70.0, 1: 90.0}, 2, 2)
    assert row.runs.duplicates == [trials[0].id]
    assert any(trials[0].id in text for text in texts_of(found.caption, FactKind.NOTE))


def test_where_weights_are_averaged_their_accuracy_counts(tmp_path: Path) -> None:
    trials = [make_trial(step, seed) for step in ("separate-downsampling", "ema") for seed in range(2)]

    def values(trial: Trial) -> dict[str, object]:
        return {"top1": 90.0, "ema_top1": 92.0 if trial.step == "ema" else None}

    found = analysed(write_runs(tmp_path, trials, values))
    averaged, before = row_of(found, "ema"), row_of(found, "separate-downsampling")
    assert (averaged.score.mean, averaged.effect.value, before.score.mean) == (92.0, 2.0, 90.0)
    assert "top-1 of the EMA" in markdown(found)


def test_steps_without_runs_stay_in_the_table_up_to_the_last_planned_one(tmp_path: Path) -> None:
    trials = [make_trial(step, seed) for step in ("baseline", "gelu") for seed in range(3)]

    def values(trial: Trial) -> dict[str, object] | None:
        return None if trial.seed else {"top1": 91.0}

    found = analysed(write_runs(tmp_path, trials, values))
    path = [step.name for step in LADDER.path(LADDER.find_step("gelu"))]
    assert [result.step for result in found.results] == path
    text = markdown(found)
    assert re.search(r"\| 7 gelu \|.*\| 91\.00 \| 1 of 3 \| – \|.*\| 0 \| 2 \|", text)
    assert re.search(r"\| 6 kernel-7 \|.*\| – \| not run \|", text)


def test_trials_of_another_regime_or_without_a_step_are_not_lost(tmp_path: Path) -> None:
    trials = [make_trial("gelu", 0), make_trial("gelu", 0, regime="cifar")]
    folder = write_runs(tmp_path, trials, lambda t: {})
    (told,) = texts_of(analysed(folder).caption, FactKind.NOT_SHOWN)
    assert told.startswith("1 ") and "cifar" in told
    assert row_of(analysed(folder, "cifar"), "gelu").n == 1


def test_measured_and_paper_have_columns_of_their_own(study_folder: Path) -> None:
    found = analysed(study_folder)
    lines = read_csv(found)
    assert len(lines) == len(found.results)
    for line, result in zip(lines, found.results, strict=True):
        score = result.score
        assert float(line["measured_top1"]) == pytest.approx(score.mean, abs=1e-6)
        by_seed = [float(value) for value in line["measured_top1_by_seed"].split()]
        assert by_seed == pytest.approx(list(score.by_seed.values()), abs=1e-6)
        assert (line["n"], line["seeds"]) == (str(result.n), " ".join(map(str, score.by_seed)))
        assert line["paper_top1"] == ("" if result.paper.score is None else f"{result.paper.score:g}")
    assert {line["paper_regime"] for line in lines} == {"resnet50"}


def test_the_caption_says_what_a_reader_must_know(study_folder: Path) -> None:
    found = analysed(study_folder)
    facts = {fact.kind: fact.text for fact in found.caption.facts}
    assert facts[FactKind.QUESTION] == "Which steps help?"
    assert facts[FactKind.REGIME] == "micro: laptop ladder, 16 px"
    assert facts[FactKind.DATA] == "handwritten digits, 16 px"
    assert facts[FactKind.RECIPE] == "digits-adamw (20 epochs)"
    assert facts[FactKind.SEEDS] == "0; 1; 2"
    assert "a CPU" in facts[FactKind.HARDWARE] and facts[FactKind.CODE] == "0123456789"
    assert str(found.analysis.findings.family) in facts[FactKind.VERDICT]
    assert facts[FactKind.TEST_SPLIT].startswith("1797 images; binomial")
    text = markdown(found)
    assert "loss is nan \\| epoch 3 see the log" in text and "## Not averaged: 3" in text


# Another metric ---------------------------------------------------------------------------------


@pytest.fixture
def by_loss(tmp_path: Path) -> Sample:
    """Two steps of which the later has the smaller loss, and the smaller top-1."""

    def values(trial: Trial) -> dict[str, object]:
        later = trial.step == "gelu"
        return {"top1": 80.0 - 5 * later, "loss": (0.1 if later else 0.9) + 0.001 * trial.seed}

    trials = [make_trial(step, seed) for step in ("kernel-7", "gelu") for seed in range(3)]
    return analysed(write_runs(tmp_path, trials, values), metric=LOSS)


def test_less_of_a_loss_is_a_gain(by_loss: Sample) -> None:
    effect = row_of(by_loss, "gelu").effect
    assert effect.value == pytest.approx(-0.8) and effect.verdict == "gain"


def test_every_heading_and_fact_names_the_metric_and_its_unit(by_loss: Sample) -> None:
    frame = results_frame(by_loss.results)
    headings = [column.heading for column in tables.columns(frame, LOSS)]
    assert "measured test loss (nats)" in headings and not any("paper" in heading for heading in headings)
    whole = markdown(by_loss) + latex.latex(frame, LOSS, by_loss.caption)
    assert not re.search(r"top-?1|points|\(%\)", whole, re.IGNORECASE)
    facts = {fact.kind: fact for fact in by_loss.caption.facts}
    assert facts[FactKind.METRIC].label == "Test loss" and "less is better" in facts[FactKind.METRIC].text
    assert "nats" in facts[FactKind.CHANGE].text and "binomial" not in facts[FactKind.TEST_SPLIT].text


def test_numbers_have_the_metrics_decimals(by_loss: Sample) -> None:
    columns = {c.heading: c.texts for c in tables.columns(results_frame(by_loss.results), LOSS)}
    assert columns["measured test loss (nats)"][-1] == "0.1010 ± 0.0010"
    assert columns["change [95 %]"][-1].startswith("−0.8000 [")
    last = read_csv(by_loss)[-1]
    assert last["measured_loss"] == "0.101" and last["measured_loss_by_seed"] == "0.1 0.101 0.102"


# A paper's own table ----------------------------------------------------------------------------


@pytest.mark.parametrize("regime", ["resnet50", "resnet200"])
def test_the_papers_table_is_its_reference_file(regime: str, reference: Path) -> None:
    with open(reference / f"ladder-{regime}.csv") as f:
        lines = {line["name"]: line for line in csv_module.DictReader(f)}
    report = paper_report(regime, reference)
    assert sorted(lines) == sorted(result.step for result in report.analysis.results)
    text = report.files["table.md"].decode()
    for result in report.analysis.results:
        line, paper = lines[result.step], result.paper
        assert (result.params, result.macs, paper.score) == (
            int(line["params"]),
            int(line["macs"]),
            float(line["paper_top1"]),
        )
        if line["parent"]:
            before = float(lines[line["parent"]]["paper_top1"])
            assert paper.effect == pytest.approx(float(line["paper_top1"]) - before, abs=1e-9)
        assert f"{float(line['paper_top1']):.2f}" in text
        assert paper.score == LADDER.find_regime(regime).paper[result.step].top1


def test_a_papers_caption_cites_where_its_ladder_is_printed(reference: Path) -> None:
    analysis = paper_report("resnet50", reference).analysis
    (source,) = texts_of(paper_caption(analysis), FactKind.SOURCE)
    assert LADDER.printed is not None and source.startswith(LADDER.printed.cited)


def test_the_papers_columns_cite_the_ladder_and_what_its_steps_are_from_besides(study_folder: Path) -> None:
    (told,) = texts_of(analysed(study_folder).caption, FactKind.PAPER)
    beside = [step.source for step in STEPS if not step.of_ladder]
    assert beside and all(source in told for source in [LADDER.source, *beside])
    assert not any(step.source in told for step in STEPS if step.of_ladder)


@pytest.mark.parametrize(
    ("regime", "field", "legal"),
    [("micro", "report.regime", "resnet200, resnet50"), ("resnet51", "regime", "resnet50")],
)
def test_a_regime_without_paper_numbers_is_refused(regime: str, field: str, legal: str, reference: Path) -> None:
    with pytest.raises(RoadmapError) as refused:
        paper_report(regime, reference)
    what, allowed, advice = str(refused.value).split("; ", 2)
    assert what.startswith(field) and repr(regime) in what and legal in allowed and advice


def test_a_reference_file_with_a_foreign_step_is_refused(tmp_path: Path, reference: Path) -> None:
    content = (reference / "ladder-resnet50.csv").read_text()
    (tmp_path / "ladder-resnet50.csv").write_text(content.replace("gelu", "gelo"))
    with pytest.raises(RoadmapError, match=r"report\.reference .*'gelo'.*; legal: baseline"):
        paper_report("resnet50", tmp_path)


# Escaping ---------------------------------------------------------------------------------------


def body_of(found: Sample) -> str:
    text = latex.latex(results_frame(found.results), found.analysis.metric, found.caption)
    return "\n".join(line for line in text.splitlines() if not line.startswith("%"))


def check_latex(body: str) -> None:
    """No character that LaTeX takes for something else, and as many cells in each line."""
    assert not re.search(r"(?<!\\)[#%~]|[±−–]", body)
    assert not re.search(r"(?<!\\)_", body) and not re.search(r"(?<!\\)\^", body)
    assert len(re.findall(r"(?<!\\)\{", body)) == len(re.findall(r"(?<!\\)\}", body))
    table = body.split(r"\toprule")[1].split(r"\bottomrule")[0].replace("\\midrule", "").strip()
    assert {len(re.findall(r"(?<!\\)&", line)) for line in table.split("\\\\\n")} == {11}


def test_latex_has_no_character_that_breaks_it(tmp_path: Path, study_folder: Path) -> None:
    trials = [make_trial("gelu", 0, change="kernel_size=7")]
    values = {"data": r"50% of $x_1^2$ & {a}#~\b"}
    nasty = body_of(analysed(write_runs(tmp_path / "nasty", trials, lambda t: values, name="a_b & 100%")))
    check_latex(body_of(analysed(study_folder)))
    check_latex(nasty)
    assert r"a\_b \& 100\%" in nasty
    assert r"50\% of \$x\_1\textasciicircum{}2\$ \& \{a\}\#\textasciitilde{}\textbackslash{}b" in nasty


def test_the_terminal_shows_the_same_cells(study_folder: Path) -> None:
    from rich.console import Console

    found = analysed(study_folder)
    frame = results_frame(found.results)
    console = Console(width=250, file=io.StringIO(), record=True)
    console.print(tables.terminal(frame, TOP1, found.caption.title))
    shown = console.export_text()
    for column in tables.columns(frame, TOP1):
        assert column.wide or all(text in shown for text in column.texts), column.heading


def test_a_table_without_rows_is_still_one() -> None:
    empty = results_frame([])
    assert isinstance(empty, pd.DataFrame) and tables.csv(empty, TOP1).startswith("source,kind,id,step")
