from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.load import gather, load_results, load_runs, to_lines
from roadmap.config.errors import RoadmapError
from roadmap.runs.folder import RunFolder
from roadmap.runs.metric import LOSS, TOP1
from roadmap.study.expand import expand
from roadmap.study.plan import Plan
from tests.helpers.study_files import Values, make_record, make_trial, write_runs


def test_every_planned_trial_is_counted_whatever_became_of_it(tmp_path: Path) -> None:
    trials = [make_trial("gelu", seed) for seed in range(5)]
    status: dict[int, Values | None] = {
        0: {"top1": 91.0},
        1: {"status": "failed"},
        2: {"status": "diverged"},
        3: {"status": "interrupted"},
        4: None,
    }
    study = gather(write_runs(tmp_path, trials, lambda t: status[t.seed]))
    assert [run.outcome(TOP1) for run in study.runs] == ["finished", "failed", "failed", "missing", "missing"]
    assert sum(run.recorded for run in study.runs) == 4
    assert (study.name, study.question, study.regime) == ("ladder", "Which steps help?", "micro")


WITHOUT_NAMES = b'{"status": "finished", "version": 2, "metrics": [1]}'


@pytest.mark.parametrize(
    "content",
    [b'{"status": "fini', b"", b"[]", b'"x"', b"{}", b'{"status": 3}', b"\xff\xfe{}", b"[" * 200_000, WITHOUT_NAMES],
)
def test_a_damaged_record_is_a_failed_run_that_says_so(tmp_path: Path, content: bytes) -> None:
    trials = [make_trial("gelu", seed) for seed in range(2)]
    folder = write_runs(tmp_path, trials, lambda t: {})
    (folder / trials[0].id / "record.json").write_bytes(content)
    study = gather(folder)
    assert [run.outcome(TOP1) for run in study.runs] == ["failed", "finished"]
    assert "damaged" in study.runs[0].reason(TOP1)
    assert study.runs[0].seed == 0


def test_a_record_of_another_trial_is_not_taken_for_this_one(tmp_path: Path) -> None:
    a, b = make_trial("gelu", 0), make_trial("gelu", 1)
    folder = write_runs(tmp_path, [a, b], lambda t: {})
    RunFolder(folder / a.id).write_record(make_record(b, top1=99.0))
    first = gather(folder).runs[0]
    assert first.outcome(TOP1) == "failed"
    assert first.reason(TOP1) == f"failed: record.json is of trial {b.fingerprint[:10]}, not {a.fingerprint[:10]}"


@pytest.mark.parametrize("top1", [None, float("nan"), "90", True])
def test_finished_without_a_usable_accuracy_is_failed(tmp_path: Path, top1: object) -> None:
    study = gather(write_runs(tmp_path, [make_trial("gelu", 0)], lambda t: {"top1": top1}))
    assert study.runs[0].outcome(TOP1) == "failed"
    assert study.runs[0].reason(TOP1) == "finished without a top-1"


def test_a_run_that_the_plan_forgot_is_still_there(tmp_path: Path) -> None:
    planned, forgotten = make_trial("gelu", 0), make_trial("gelu", 1)
    folder = write_runs(tmp_path, [planned], lambda t: {})
    run = RunFolder(folder / forgotten.id)
    run.prepare(forgotten)
    run.write_record(make_record(forgotten))
    assert [run.seed for run in gather(folder).runs] == [0, 1]
    (run.path / "record.json").write_bytes(b"{")
    last = gather(folder).runs[1]
    assert (last.outcome(TOP1), last.cell.step, last.seed) == ("failed", "gelu", 1)


def test_results_read_back_are_the_study_itself(study_folder: Path, tmp_path: Path) -> None:
    study = gather(study_folder)
    (tmp_path / "records.jsonl").write_bytes(to_lines(study))
    assert load_results(tmp_path) == study
    assert b"NaN" not in to_lines(study)


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-20], lambda b: b"", lambda b: b'{"format": 99}\n', lambda b: b.replace(b'"seed"', b'"sead"')],
)
def test_damaged_results_are_refused(study_folder: Path, tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    (tmp_path / "records.jsonl").write_bytes(damage(to_lines(gather(study_folder))))
    with pytest.raises(
        RoadmapError,
        match=r"report\.study .*records\.jsonl is damaged .*; legal: .*; restore it|report\.study .* is damaged",
    ):
        load_results(tmp_path)


def test_a_folder_without_a_study_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(
        RoadmapError,
        match=r"^report\.study .*study\.json cannot be read: No such file or directory; legal: .*; check the "
        r"study's name",
    ):
        gather(tmp_path)
    (tmp_path / "study.json").write_text('{"name": "x"}')
    with pytest.raises(RoadmapError, match=r"^report\.study .*study\.json is damaged \(KeyError"):
        gather(tmp_path)


def test_a_run_without_the_asked_metric_is_failed_for_that_metric_alone(tmp_path: Path) -> None:
    [run] = gather(write_runs(tmp_path, [make_trial("gelu", 0)], lambda t: {"loss": None})).runs
    assert (run.outcome(TOP1), run.outcome(LOSS)) == ("finished", "failed")


def test_the_averaged_weights_count_where_there_are_any(tmp_path: Path) -> None:
    values = {"top1": 90.0, "ema_top1": 92.0, "loss": 0.3, "ema_loss": 0.2}
    [run] = gather(write_runs(tmp_path, [make_trial("ema", 0)], lambda t: values)).runs
    assert (run.value(TOP1), run.value(LOSS)) == (92.0, 0.2)


def test_all_runs_of_a_study_are_one_tidy_table(study_folder: Path) -> None:
    frame = load_runs(study_folder)
    assert len(frame) == len(gather(study_folder).runs)
    assert frame["status"].value_counts()["missing"] == 1
    means = frame[frame["status"] == "finished"].groupby("step")["top1"].mean()
    assert means["baseline"] == pytest.approx(80.05)
    assert set(frame.loc[frame["step"] == "kernel-7", "model.kernel_size"].dropna()) == {7}


def test_records_of_the_first_format_are_read_as_those_of_today(study_folder: Path, tmp_path: Path) -> None:
    lines = to_lines(gather(study_folder)).splitlines()
    header, *contents = [json.loads(line) for line in lines]
    old = [{**header, "format": 1}, *({**content, "version": 1, **content.pop("metrics")} for content in contents)]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    assert load_results(tmp_path) == gather(study_folder)


def planned_study(out: Path, **fields: object) -> Path:
    """A study's folder as its plan leaves it, with a run of each trial."""
    study = expand(Plan(name="planned", question="?", regime="micro", seeds=(0,), **fields))  # type: ignore[arg-type]
    return write_runs(out, list(study.trials), lambda t: {}, name="planned", header=study.header())


@pytest.mark.parametrize(
    "fields",
    [
        {"design": "leave-one-out", "base": "4"},
        {"design": "single", "base": "9", "changes": ({"activation": "relu"},), "cross": {"recipe.epochs": [2, 3]}},
    ],
    ids=["leave-one-out", "crossed"],
)
def test_cells_of_the_second_format_are_brought_up_to_date(fields: dict[str, object], tmp_path: Path) -> None:
    study = gather(planned_study(tmp_path, **fields))
    header, *lines = to_lines(study).splitlines()
    old = {key: value for key, value in json.loads(header).items() if key != "cells"} | {"format": 2}
    (tmp_path / "records.jsonl").write_bytes(b"\n".join([json.dumps(old).encode(), *lines]))
    assert load_results(tmp_path) == study
    assert any(cell.undone or cell.point for cell in study.cells.values())


def test_what_a_cell_is_comes_from_its_study_and_not_from_its_words(tmp_path: Path) -> None:
    folder = planned_study(tmp_path, design="leave-one-out", base="4")
    path = folder / "study.json"
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        cell["undone"] = ""
    path.write_text(json.dumps(content))
    words = {cell.in_words for cell in gather(folder).cells.values() if not cell.whole}
    assert all(" with without " in text for text in words), words


def test_two_cells_of_one_step_and_configuration_stay_two_cells(tmp_path: Path) -> None:
    trials = [make_trial("gelu", 0), make_trial("gelu", 1, change="activation=gelu", activation="gelu")]
    study = gather(write_runs(tmp_path, trials, lambda t: {}))
    assert len({run.cell.id for run in study.runs}) == 2
    assert len({run.record.configuration for run in study.runs}) == 1
