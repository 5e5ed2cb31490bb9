"""run and plan: what is planned, trained, printed, and not trained again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.trial import Trial
from roadmap.ladder import find_ladder
from roadmap.runs.folder import RunFolder

Command = Callable[..., Any]
MakeFolder = Callable[..., Path]


# plan -------------------------------------------------------------------------------------------


def test_list_names_every_step_regime_recipe_and_data_set(command: Command) -> None:
    from roadmap.config.recipes import RECIPES
    from roadmap.data.registry import NAMED

    out = command("run", "--list").out
    ladder = find_ladder()
    for name in (*ladder.steps, *ladder.regimes, *RECIPES, *NAMED):
        assert name in out


def test_plan_as_json_holds_the_trials_in_full(command: Command) -> None:
    values = command("plan", "--step", "0", "--step", "4b", "--seeds", "3", "4", "--epochs", "2", "--json").json()
    planned = [(t["step"], t["seed"], t["state"], t["predicted_seconds"]) for t in values["trials"]]
    assert planned == [(step, seed, "new", None) for step in ("baseline", "width") for seed in (3, 4)]
    assert all(Trial.from_json(t).recipe.epochs == 2 for t in values["trials"])
    assert values["study"] == "micro-2ep" and values["undefined"] == {}


def test_plan_shows_what_is_not_defined(command: Command) -> None:
    words = ("plan", "--set", "move_up_depthwise=true")
    undefined = command(*words, "--json").json()["undefined"]
    assert "inverted_bottleneck" in undefined["baseline"]
    answer = command(*words)
    assert answer.status == 0 and undefined["baseline"] in answer.out


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ((), "digits"),
        (("--regime", "cifar"), "cifar"),
        (("--ladder", "deit"), "deit-micro"),
        (("--ladder", "deit", "--regime", "micro", "--epochs", "1"), "deit-micro-1ep"),
        (("--batch-size", "32"), "micro-b32"),
        (("--variant", "timm/test_vit", "--recipe", "digits-adamw"), "timm-test_vit-digits-adamw"),
        (("--study", "kernel", "--digits"), "kernel-digits"),
        (("--study", "kernel-digits"), "kernel-digits"),
        (("--name", "mine"), "mine"),
    ],
)
def test_another_question_is_another_study(command: Command, words: tuple[str, ...], name: str) -> None:
    assert command("plan", *words, "--json").json()["study"] == name


def test_a_dry_run_is_the_plan_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    assert command("run", "--step", "9", "--dry-run").out == command("plan", "--step", "9").out
    assert set(tmp_path.iterdir()) == before


def test_hyphens_and_underscores_are_the_same_in_long_options(command: Command, image_folder: MakeFolder) -> None:
    folder = image_folder()
    common = ("plan", "--json", "--data", "imagefolder")
    hyphens = ("--data-dir", folder, "--image-size=16", "--set", "kernel-size=3")
    underscores = ("--data_dir", folder, "--image_size=16", "--set", "kernel_size=3")
    answers = [command(*common, *words).json() for words in (hyphens, underscores)]
    assert answers[0] == answers[1]
    assert answers[0]["trials"][0]["data"]["image_size"] == 16


# run --------------------------------------------------------------------------------------------

RECORD_KEYS = {
    *("status", "attempts", "metrics", "params", "macs", "epochs"),
    *("images_per_second", "wall_seconds", "peak_memory_bytes", "world_size", "device_batch", "seed", "step", "regime"),
    *("change", "ladder", "recipe", "data", "fingerprint", "git_commit", "git_dirty", "packages", "hardware"),
}


def test_a_step_trains_leaves_its_record_and_is_not_trained_again_unless_forced(
    command: Command, tmp_path: Path
) -> None:
    words = ("run", "--step", "ema", "--epochs", "1", "--runs", tmp_path / "out", "--seeds", "5")
    first = command(*words)
    assert first.status == 0, first.err
    assert "top1" in first.out and "record.json" in first.out
    [folder] = (p.parent for p in (tmp_path / "out").rglob("trial.json"))
    record = json.loads((folder / "record.json").read_text())
    check_record(record)
    [line] = (json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines())
    assert (line["epoch"], line["split"], line["iteration"]) == (1, "validation", record["iterations"])

    second = command(*words)
    assert second.status == 0 and "1 of 1" in second.err and "--force" in second.err
    assert json.loads((folder / "record.json").read_text()) == record

    [again] = command(*words, "--force", "--json").json()
    assert again["finished_at"] >= record["finished_at"] and again["wall_seconds"] != record["wall_seconds"]
    assert (again["fingerprint"], again["metrics"]) == (record["fingerprint"], record["metrics"])
    assert json.loads((folder / "previous" / "1" / "record.json").read_text()) == record
    assert list((folder / "previous" / "1" / "checkpoints").glob("*.pt"))

    [planned] = command("plan", *words[1:], "--json").json()["trials"]
    assert planned["state"] == "finished" and 0 < planned["predicted_seconds"] < 600


def test_a_run_that_was_ended_early_is_said_and_not_trained_on(command: Command, tmp_path: Path) -> None:
    words = ("run", "--step", "9", "--seeds", "0", "1", "--epochs", "1", "--name", "ended")
    trials = [Trial.from_json(t) for t in command("plan", *words[1:], "--json").json()["trials"]]
    for trial in trials:
        run = RunFolder(tmp_path / "runs" / "ended" / trial.id)
        run.prepare(trial)
        run.write_record({"status": "hopeless", "id": trial.id, "error": "ended after epoch 1 of 2"})
    answer = command(*words)
    assert answer.status == 1 and "2 of 2 runs were ended early as hopeless" in answer.err
    assert "roadmap retry RUN --local" in answer.err and "0 of 2 runs finished" in answer.out
    assert "2 trials: 0 finished, 2 hopeless, 0 to train" in command("plan", *words[1:]).out


def check_record(record: dict[str, Any]) -> None:
    assert set(record) >= RECORD_KEYS
    assert record["status"] == "finished"
    counts = [record[key] for key in ("epochs", "world_size", "device_batch", "seed", "attempts", "test_images")]
    assert counts == [1, 1, 64, 5, 1, 500]
    for key in ("params", "macs", "images_per_second", "wall_seconds"):
        assert record[key] > 0
    assert record["peak_memory_bytes"] > 1e8
    metrics = record["metrics"]
    assert 10 < metrics["top1"] <= metrics["top5"] <= 100 and 0 < metrics["ema_top5"] <= 100
    assert set(record["packages"]) >= {"python", "torch", "timm", "torchvision"}
    assert record["hardware"]["device"] and record["hardware"]["cores"] > 0


@pytest.mark.slow
def test_a_study_file_may_name_initial_weights(command: Command, tmp_path: Path) -> None:
    import roadmap

    roadmap.save(roadmap.build_model(9, "micro"), tmp_path / "w.safetensors")
    (tmp_path / "s.yaml").write_text("question: q\nregime: micro\nsteps: [9]\nepochs: 1\ninit: w.safetensors\n")
    answer = command("run", "--study", "s.yaml", "--json")
    assert answer.json()[0]["status"] == "finished"


@pytest.mark.slow
def test_the_network_of_a_step_trains_with_a_change(command: Command, tmp_path: Path) -> None:
    from roadmap.model.complexity import complexity

    [record] = command("run", "--step", "9", "--set", "kernel_size=3", "--epochs", "1", "--json").json()
    assert record["change"] == "kernel_size=3"
    assert record["params"] == complexity(find_ladder().model("9", "micro", kernel_size=3), 16).params
