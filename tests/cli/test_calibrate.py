"""calibrate, the plan that is filled by it, and the report that says how well it predicted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import Hardware, Record
from roadmap.study.cost import PREDICTION, add_calibration, cost_key
from tests.helpers.small_studies import finished, small_study
from tests.study.test_cost import calibration

Command = Callable[..., Any]
MakeFolder = Callable[..., Path]
SMALL = ("--regime", "micro", "--data", "imagefolder", "--recipe", "digits-adamw", "--batch-size", "4")


def folder_words(folder: Path) -> tuple[object, ...]:
    return (*SMALL, "--data-dir", folder, "--image-size", "32", "--name", "small", "--epochs", "3")


def test_the_plan_of_an_image_folder_says_how_to_calibrate_and_is_filled_by_it(
    command: Command, image_folder: MakeFolder
) -> None:
    words = ("plan", "--step", "0", "--step", "9", *folder_words(image_folder()))
    answer = command(*words)
    assert "not calibrated: roadmap calibrate small" in answer.out and "unknown" in answer.out
    before = command(*words, "--json").json()
    assert before["measured_on"] is None

    trials = [Trial.from_json(t) for t in before["trials"]]
    found = calibration(*map(cost_key, trials), jobs=2)
    add_calibration(Path("runs/small"), found)
    after = command(*words, "--json").json()
    assert [t["predicted_seconds"] for t in after["trials"]] == [found.seconds(t, Runtime()) for t in trials]
    answer = command(*words)
    assert "measured on a processor, 2 cores, 2 runs side by side" in answer.out and "with --jobs 2" in answer.out
    assert "not calibrated" not in answer.out

    other = command(*words, "--jobs", "3")
    assert "not calibrated: roadmap calibrate small --jobs 3" in other.out


def test_gpu_hours_of_an_image_folder_come_from_its_calibration_or_the_stated_rate(
    command: Command, image_folder: MakeFolder
) -> None:
    words = ("plan", "--slurm", "--step", "9", *folder_words(image_folder(counts={"train": 40, "test": 2})))
    assert "not calibrated" in command(*words).out
    [stated] = command(*words, "--images-per-second", "2", "--json").json()["runs"]
    assert stated["gpu_hours"] == pytest.approx(80 * 0.9 * 3 / 2 / 3600)
    [planned] = command("plan", *words[2:], "--json").json()["trials"]
    trial = Trial.from_json(planned)
    found = replace(calibration(cost_key(trial)), hardware=Hardware("a GPU", "a processor", 2, 2))
    add_calibration(Path("runs/small"), found)
    add_calibration(Path("runs/small"), replace(found, jobs=2, costs={}))
    add_calibration(Path("runs/small"), calibration(cost_key(trial), process=99.0))  # of a CPU, later
    [measured] = command(*words, "--json").json()["runs"]
    seconds = found.seconds(trial, Runtime(), ranks=1)
    assert seconds is not None and measured["gpu_hours"] == pytest.approx(seconds / 3600)
    assert "measured on a GPU, 2 cores, 2 threads;" in command(*words).out


@pytest.mark.slow
def test_the_report_holds_what_was_predicted_against_what_it_took(command: Command, tmp_path: Path) -> None:
    folder = small_study(tmp_path, values=lambda trial: {**(finished(trial) or {}), "wall_seconds": 500.0})
    assert "predicted" not in report(command)
    runs = [path.parent.name for path in folder.glob("*/record.json")]
    launch = {"where": "a processor", "iterations": 50, "jobs": 1, "seconds": dict.fromkeys(runs[:6], 480.0)}
    (folder / PREDICTION).write_text(json.dumps([launch]))
    line = "predicted 48.0 min, took 50.0 min (+4 %): 6 of 9 runs; measured on a processor, 50 iterations"
    assert line in report(command)
    # The committed results say it too, once the runs are gone.
    folder.rename(tmp_path / "gone")
    assert line in report(command, "results/small")


def report(command: Command, out: str = "results/small") -> str:
    answer = command("report", "small", "--out", out)
    assert answer.status == 0, answer.err
    return (Path(out) / "table.md").read_text()


def test_a_damaged_prediction_is_refused(command: Command, tmp_path: Path) -> None:
    (small_study(tmp_path) / PREDICTION).write_text('[{"seconds": 3}]')
    refusal = command("report", "small").refusal()
    assert "prediction.json is damaged" in refusal.what


def test_a_study_is_named_by_its_argument_or_its_option(command: Command) -> None:
    for words in (("no-such-study",), ("--study", "no-such-study")):
        assert "no-such-study" in command("calibrate", *words).refusal().what


@pytest.mark.slow
def test_networks_are_measured_side_by_side_and_the_run_says_how_well_it_went(
    command: Command, image_folder: MakeFolder
) -> None:
    words = ("--step", "0", "--step", "9", *folder_words(image_folder(counts={"train": 40, "test": 8})))
    answer = command("calibrate", *words, "--iterations", "3", "--jobs", "2")
    assert answer.status == 0, answer.err
    assert "2 runs side by side" in answer.out and "with --jobs 2" in answer.out
    assert "baseline: " in answer.err and sorted(p.name for p in Path("runs/small").iterdir()) == ["calibration.json"]
    planned = command("plan", *words, "--json").json()["trials"]
    assert all(t["predicted_seconds"] > 0 for t in planned)
    ran = command("run", *words, "--jobs", "2")
    assert ran.status == 0 and "predicted " in ran.err and ", took " in ran.err
    assert command("run", *words, "--jobs", "2", "--workers", "1", "--force").err.count("predicted") == 0


@pytest.mark.parametrize(
    ("status", "begun", "said"), [("finished", False, True), ("interrupted", False, False), ("finished", True, False)]
)
def test_a_prediction_is_held_against_whole_finished_runs_alone(
    command: Command, monkeypatch: pytest.MonkeyPatch, status: str, begun: bool, said: bool
) -> None:
    def launch(_: object, folder: Path, runs: Sequence[RunFolder], *__: object, **___: object) -> None:
        for run in runs:
            run.write_record(Record(status=status))

    monkeypatch.setattr("roadmap.api.note_prediction", lambda *_, **__: 60.0)
    monkeypatch.setattr("roadmap.api.LocalLauncher.launch", launch)
    words = ("--step", "9", "--epochs", "1")
    if begun:
        command("run", *words)
        for record in Path("runs").rglob("record.json"):
            record.with_name("attempts.jsonl").write_text("{}\n")
            record.unlink()
    assert ("predicted " in command("run", *words).err) is said


@pytest.mark.slow
def test_a_process_that_cannot_measure_ends_them_all(command: Command, image_folder: MakeFolder) -> None:
    folder = image_folder(counts={"train": 40, "test": 8})
    words = ("calibrate", "--step", "0", "--step", "9", *folder_words(folder), "--iterations", "3", "--jobs", "2")
    planned = command("plan", *words[1:-2][:-2], "--json")
    assert planned.status == 0
    for image in (folder / "test").rglob("*.png"):
        image.write_bytes(image.read_bytes()[:60])  # whole enough to be opened, not to be decoded
    answer = command(*words)
    assert "cannot be decoded" in answer.refusal().what
    assert not list(Path("runs").rglob(".calibration*"))


def jpeg_folder(root: Path, *, classes: int = 4, train: int = 250, test: int = 60, pixels: int = 160) -> Path:
    """Blurred noise as JPEG files, as large as photographs of that size are."""
    rng = np.random.default_rng(0)
    for split, count in {"train": train, "test": test}.items():
        for label in range(classes):
            place = root / split / f"class-{label}"
            place.mkdir(parents=True)
            for k in range(count):
                coarse = rng.integers(0, 256, (pixels // 8, pixels // 8, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize((pixels, pixels), Image.Resampling.BICUBIC)
                image.save(place / f"{k:04d}.jpg", quality=90)
    return root


@pytest.mark.slow
@pytest.mark.quiet
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_study_on_jpeg_images_takes_what_was_predicted_within_ten_percent(
    command: Command, tmp_path: Path, jobs: int
) -> None:
    """What neighbours take of a busy machine differs from minute to minute."""
    folder = jpeg_folder(tmp_path / "images")
    words = ("--step", "0", "--step", "9", "--seeds", "0", "1", "--regime", "micro", "--data", "imagefolder")
    words = (*words, "--data-dir", folder, "--image-size", "32", "--recipe", "digits-adamw", "--epochs", "6")
    for _ in range(2):
        assert command("calibrate", *words, "--name", "jpeg", "--jobs", jobs).status == 0
        ran = command("run", *words, "--name", "jpeg", "--jobs", jobs, "--force")
        assert ran.status == 0, ran.err
        predicted = json.loads(Path("runs/jpeg", PREDICTION).read_text())[-1]["seconds"]
        records = [json.loads(path.read_text()) for path in Path("runs/jpeg").glob("*/record.json")]
        took = {record["id"]: record["wall_seconds"] for record in records}
        assert set(took) == set(predicted)
        assert sum(took.values()) == pytest.approx(sum(predicted.values()), rel=0.1)
