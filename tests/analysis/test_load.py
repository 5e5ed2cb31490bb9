from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.study_files import Values, make_record, make_trial, write_runs

from analysis.load import gather, load_results, outcome, reason, to_lines
from roadmap.config.errors import RoadmapError
from roadmap.runs.folder import RunFolder


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
    assert [outcome(t) for t in study.trials] == ["finished", "failed", "failed", "missing", "missing"]
    assert len(study.records) == 4
    assert (study.name, study.question, study.regime) == ("ladder", "Which steps help?", "micro")


@pytest.mark.parametrize(
    "content", [b'{"status": "fini', b"", b"[]", b'"x"', b"{}", b'{"status": 3}', b"\xff\xfe{}", b"[" * 200_000]
)
def test_a_damaged_record_is_a_failed_run_that_says_so(tmp_path: Path, content: bytes) -> None:
    trials = [make_trial("gelu", seed) for seed in range(2)]
    folder = write_runs(tmp_path, trials, lambda t: {})
    (folder / trials[0].id / "record.json").write_bytes(content)
    study = gather(folder)
    assert [outcome(t) for t in study.trials] == ["failed", "finished"]
    assert "damaged" in reason(study.trials[0])
    assert study.trials[0]["seed"] == 0


def test_a_record_of_another_trial_is_not_taken_for_this_one(tmp_path: Path) -> None:
    a, b = make_trial("gelu", 0), make_trial("gelu", 1)
    folder = write_runs(tmp_path, [a, b], lambda t: {})
    RunFolder(folder / a.id).write_record(make_record(b, top1=99.0))
    first = gather(folder).trials[0]
    assert outcome(first) == "failed"
    assert reason(first) == f"failed: record.json is of trial {b.fingerprint[:10]}, not {a.fingerprint[:10]}"


@pytest.mark.parametrize("top1", [None, float("nan"), "90", True])
def test_finished_without_a_usable_accuracy_is_failed(tmp_path: Path, top1: object) -> None:
    study = gather(write_runs(tmp_path, [make_trial("gelu", 0)], lambda t: {"top1": top1}))
    assert outcome(study.trials[0]) == "failed"
    assert reason(study.trials[0]) == "finished without a top-1"


def test_a_run_that_the_plan_forgot_is_still_there(tmp_path: Path) -> None:
    planned, forgotten = make_trial("gelu", 0), make_trial("gelu", 1)
    folder = write_runs(tmp_path, [planned], lambda t: {})
    run = RunFolder(folder / forgotten.id)
    run.prepare(forgotten)
    run.write_record(make_record(forgotten))
    assert [t["seed"] for t in gather(folder).trials] == [0, 1]
    (run.path / "record.json").write_bytes(b"{")
    last = gather(folder).trials[1]
    assert (outcome(last), last["step"], last["seed"]) == ("failed", "gelu", 1)


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
        match=r"^report\.study .*study\.json cannot be read: No such file or directory; legal: .*; check the study's name",
    ):
        gather(tmp_path)
    (tmp_path / "study.json").write_text('{"name": "x"}')
    with pytest.raises(RoadmapError, match=r"^report\.study .*study\.json is damaged \(KeyError"):
        gather(tmp_path)
