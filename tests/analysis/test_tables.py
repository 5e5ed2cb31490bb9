from __future__ import annotations

import csv as csv_module
import io
import re
from pathlib import Path

import numpy as np
import pytest
from analysis.results.rows import Row

from analysis.load import gather
from analysis.report import tables
from analysis.report.report import paper_table, study_table
from roadmap.config.errors import RoadmapError
from tests.helpers.convnext import find_regime, find_step, ladder, path
from tests.helpers.study_files import make_trial, write_runs

TITLES = {s.name: s.title for s in ladder(side_steps=True)}


def row_of(found: list[Row], step: str, kind: tuple[str, ...] = ("step", "side")) -> Row:
    return next(r for r in found if r["step"] == step and r["kind"] in kind)


def test_tables_go_through_the_whole_ladder_in_its_order(study_folder: Path) -> None:
    found, _ = study_table(gather(study_folder))
    assert [r["step"] for r in found if r["kind"] != "variant"] == [s.name for s in ladder(side_steps=True)]
    assert [r["what"] for r in found if r["kind"] != "variant"] == list(TITLES.values())


def test_a_diverged_run_is_counted_and_never_averaged(study_folder: Path) -> None:
    found, caption = study_table(gather(study_folder))
    width = row_of(found, "width")
    assert (width["n"], width["planned"], width["failed"], width["missing"]) == (2, 3, 1, 0)
    assert 10.0 not in width["by_seed"].values() and list(width["by_seed"]) == [0, 2]
    assert width["top1"] == pytest.approx(np.mean(list(width["by_seed"].values())))
    assert width["std"] == pytest.approx(np.std(list(width["by_seed"].values()), ddof=1))
    assert any(
        run.startswith("width-seed1") and "loss is nan | epoch 3 see the log" in why for run, why in caption.problems
    )


def test_counts_add_up(study_folder: Path) -> None:
    study = gather(study_folder)
    found, caption = study_table(study)
    assert all(r["n"] + r["failed"] + r["missing"] == r["planned"] for r in found)
    assert sum(r["planned"] for r in found) == len(study.trials)
    total = len(study.trials)
    assert (
        f"{total - 3} of {total} runs finished, 2 failed (1 of them diverged), 1 missing" in dict(caption.facts)["Runs"]
    )
    assert sorted(run.rsplit("-", 1)[0] for run, _ in caption.problems) == [
        "gelu-seed2",
        "kernel-11-seed0",
        "width-seed1",
    ]


def test_the_change_is_measured_against_the_parent(study_folder: Path) -> None:
    found, _ = study_table(gather(study_folder))
    for step in ladder(side_steps=True):
        row = row_of(found, step.name)
        if step.parent is None:
            assert row["change"] is None
            continue
        assert row["parent"] == step.parent
        assert row["change"] == pytest.approx(row["top1"] - row_of(found, step.parent)["top1"])
        assert row["proof"]["status"] == "controlled" and row["verdict"] in ("gain", "loss", "unresolved")
    assert {r["change_method"] for r in found if r["change"] is not None} == {"pooled"}


def test_a_single_change_stands_under_its_step_and_is_compared_with_it(study_folder: Path) -> None:
    found, _ = study_table(gather(study_folder))
    at = next(i for i, r in enumerate(found) if r["kind"] == "variant")
    assert (found[at]["step"], found[at]["what"], found[at - 1]["step"]) == (
        "separate-downsampling",
        "kernel_size=3",
        "separate-downsampling",
    )
    assert found[at]["change"] == pytest.approx(1.0)
    assert found[at]["paper_top1"] is None


def test_runs_trained_otherwise_share_neither_a_mean_nor_a_change(tmp_path: Path) -> None:
    trials = (
        [make_trial("recipe", s) for s in range(2)]
        + [make_trial("stage-ratio", s) for s in range(2)]
        + [make_trial("stage-ratio", 0, epochs=1)]
    )
    found, _ = study_table(
        gather(write_runs(tmp_path, trials, lambda t: {"top1": 30.0 if t.recipe.epochs == 1 else 90.0 + t.seed}))
    )
    main, other = row_of(found, "stage-ratio"), row_of(found, "stage-ratio", ("variant",))
    assert (main["top1"], main["n"], main["change"]) == (90.5, 2, 0.0)
    assert (other["what"], other["top1"], other["n"], other["change"]) == ("epochs 1", 30.0, 1, None)

    trials = [make_trial("recipe", 0), make_trial("stage-ratio", 0, epochs=1)]
    found, caption = study_table(gather(write_runs(tmp_path / "b", trials, lambda t: {})))
    row = row_of(found, "stage-ratio")
    assert (row["verdict"], row["proof"]["status"], row["proof"]["text"]) == (
        None,
        "confounded",
        "confounded by recipe.epochs, epochs",
    )
    assert ("Confounded", "stage-ratio: recipe.epochs 20 and 1; epochs 20 and 1") in caption.facts
    assert "| confounded |" in tables.markdown(found, caption)


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
    trials = [make_trial("gelu", s) for s in range(3)]
    found, _ = study_table(
        gather(write_runs(tmp_path, trials, lambda t: {"top1": 50.0, **other} if t.seed == 2 else {"top1": 90.0}))
    )
    assert [(r["n"], r["top1"]) for r in found if r["step"] == "gelu"] == [(2, 90.0), (1, 50.0)]


def test_two_finished_trials_with_one_seed_count_once(tmp_path: Path) -> None:
    trials = [make_trial("gelu", 0), make_trial("gelu", 0, layer_scale=0.1), make_trial("gelu", 1)]
    found, caption = study_table(
        gather(
            write_runs(
                tmp_path,
                trials,
                lambda t: {"top1": 70.0 if t.model.layer_scale == 0.1 else 90.0, "configuration": "one"},
            )
        )
    )
    row = row_of(found, "gelu")
    assert (row["by_seed"], row["n"], row["planned"], row["duplicates"]) == ({0: 70.0, 1: 90.0}, 2, 2, [trials[0].id])
    assert any(trials[0].id in text for label, text in caption.facts if label == "Note")


def test_where_weights_are_averaged_their_accuracy_counts(tmp_path: Path) -> None:
    trials = [make_trial("separate-downsampling", s) for s in range(2)] + [make_trial("ema", s) for s in range(2)]
    found, _ = study_table(
        gather(write_runs(tmp_path, trials, lambda t: {"top1": 90.0, "ema_top1": 92.0 if t.step == "ema" else None}))
    )
    assert (
        row_of(found, "ema")["top1"],
        row_of(found, "ema")["change"],
        row_of(found, "separate-downsampling")["top1"],
    ) == (92.0, 2.0, 90.0)
    assert "top-1 of the EMA" in tables.markdown(*study_table(gather(tmp_path / "ladder")))


def test_steps_without_runs_stay_in_the_table_up_to_the_last_planned_one(tmp_path: Path) -> None:
    found, caption = study_table(
        gather(
            write_runs(
                tmp_path,
                [make_trial(step, s) for step in ("baseline", "gelu") for s in range(3)],
                lambda t: None if t.seed else {"top1": 91.0},
            )
        )
    )
    assert [r["step"] for r in found] == [s.name for s in path(find_step("gelu"))]
    text = tables.markdown(found, caption)
    assert re.search(r"\| 7 gelu \|.*\| 91\.00 \| 1 of 3 \| – \|.*\| 0 \| 2 \|", text)
    assert re.search(r"\| 6 kernel-7 \|.*\| – \| not run \|", text)


def test_trials_of_another_regime_or_without_a_step_are_not_lost(tmp_path: Path) -> None:
    trials = [make_trial("gelu", 0), make_trial("gelu", 0, regime="cifar")]
    found, caption = study_table(gather(write_runs(tmp_path, trials, lambda t: {})))
    assert ("Not shown", "1 trials of regime cifar") in caption.facts
    assert row_of(study_table(gather(tmp_path / "ladder"), "cifar")[0], "gelu")["n"] == 1


def test_measured_and_paper_have_columns_of_their_own(study_folder: Path) -> None:
    found, _ = study_table(gather(study_folder))
    lines = list(csv_module.DictReader(io.StringIO(tables.csv(found))))
    assert len(lines) == len(found)
    for line, row in zip(lines, found, strict=True):
        assert not {k for k in line if k.startswith("measured_")} & {k for k in line if k.startswith("paper_")}
        assert float(line["measured_top1"]) == pytest.approx(row["top1"], abs=1e-6)
        assert [float(v) for v in line["measured_top1_by_seed"].split()] == pytest.approx(
            list(row["by_seed"].values()), abs=1e-6
        )
        assert (line["n"], line["seeds"]) == (str(row["n"]), " ".join(map(str, row["by_seed"])))
        assert line["paper_top1"] == ("" if row["paper_top1"] is None else f"{row['paper_top1']:g}")
    assert {line["paper_regime"] for line in lines} == {"resnet50"}


def test_the_caption_says_what_a_reader_must_know(study_folder: Path) -> None:
    text = tables.markdown(*study_table(gather(study_folder)))
    facts = [
        "Which steps help?",
        "micro: laptop ladder",
        "handwritten digits, 16 px",
        "digits-adamw (20 epochs)",
        "Seeds: 0; 1; 2",
        "a CPU",
    ]
    for needed in (*facts, "Code: 0123456789", "p &lt; 0.05 after Holm over", "1797 images; binomial standard error"):
        assert needed in text, needed
    assert "loss is nan \\| epoch 3 see the log" in text and "## Not averaged: 3" in text


@pytest.mark.parametrize("regime", ["resnet50", "resnet200"])
def test_the_papers_table_is_its_reference_file(regime: str, reference: Path) -> None:
    with open(reference / f"ladder-{regime}.csv") as f:
        lines = {line["name"]: line for line in csv_module.DictReader(f)}
    found, caption = paper_table(regime, reference)
    assert sorted(lines) == sorted(r["step"] for r in found)
    for row in found:
        line = lines[row["step"]]
        assert (row["params"], row["macs"], row["paper_top1"]) == (
            int(line["params"]),
            int(line["macs"]),
            float(line["paper_top1"]),
        )
        if line["parent"]:
            assert row["paper_change"] == pytest.approx(
                float(line["paper_top1"]) - float(lines[line["parent"]]["paper_top1"]), abs=1e-9
            )
        assert f"{float(line['paper_top1']):.2f}" in tables.markdown([row], caption)
        assert row["paper_top1"] == find_regime(regime).paper[row["step"]].top1


@pytest.mark.parametrize(
    ("regime", "text"),
    [
        (
            "micro",
            r"report\.regime is 'micro', for which there are no paper's numbers in .*; legal: resnet200, resnet50; choose",
        ),
        ("resnet51", r"regime 'resnet51' is unknown; legal: .*; did you mean 'resnet50'"),
    ],
)
def test_a_regime_without_paper_numbers_is_refused(regime: str, text: str, reference: Path) -> None:
    with pytest.raises(RoadmapError, match=text):
        paper_table(regime, reference)


def test_a_reference_file_with_a_foreign_step_is_refused(tmp_path: Path, reference: Path) -> None:
    content = (reference / "ladder-resnet50.csv").read_text()
    (tmp_path / "ladder-resnet50.csv").write_text(content.replace("gelu", "gelo"))
    with pytest.raises(RoadmapError, match=r"names step 'gelo', which is not on the ladder; legal: baseline"):
        paper_table("resnet50", tmp_path)


def test_latex_has_no_character_that_breaks_it(tmp_path: Path, study_folder: Path) -> None:
    nasty = write_runs(
        tmp_path / "nasty",
        [make_trial("gelu", 0, change="kernel_size=7")],
        lambda t: {"data": r"50% of $x_1^2$ & {a}#~\b"},
        name="a_b & 100%",
    )
    for folder in (study_folder, nasty):
        text = tables.latex(*study_table(gather(folder)))
        body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        assert not re.search(r"(?<!\\)[#%~]|[±−–]", body)
        assert not re.search(r"(?<!\\)_", body) and not re.search(r"(?<!\\)\^", body)
        assert len(re.findall(r"(?<!\\)\{", body)) == len(re.findall(r"(?<!\\)\}", body))
        rows_of_table = (
            body.split(r"\toprule")[1].split(r"\bottomrule")[0].replace("\\midrule", "").strip().split("\\\\\n")
        )
        assert {len(re.findall(r"(?<!\\)&", r)) for r in rows_of_table} == {11}
    assert (
        r"a\_b \& 100\%" in text
        and r"50\% of \$x\_1\textasciicircum{}2\$ \& \{a\}\#\textasciitilde{}\textbackslash{}b" in text
    )


def test_the_terminal_shows_the_same_cells(study_folder: Path) -> None:
    from rich.console import Console

    found, caption = study_table(gather(study_folder))
    console = Console(width=250, file=io.StringIO(), record=True)
    console.print(tables.terminal(found, caption.title))
    shown = console.export_text()
    for row in found:
        for heading, text in tables.columns([row]):
            assert heading == "proof" or text(row) in shown
