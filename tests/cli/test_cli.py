"""The command line: what it loads, prints, refuses, and trains."""

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.errors import RoadmapError
from roadmap.ladder.convnext import REGIMES, find_regime, find_step, ladder, resolve

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
HEAVY = ("torch", "timm", "torchvision", "pandas", "matplotlib", "scipy", "sklearn", "analysis")
Command = Callable[..., Any]
MakeFolder = Callable[..., Path]
EVERY_STEP = [s.name for s in ladder(side_steps=True)]


def python(code: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


# What is loaded ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["plan"],
        ["run", "--dry-run"],
        ["run", "--list"],
        ["plan", "--json", "--step", "9"],
        ["run", "--step", "99"],
    ],
    ids=" ".join,
)
def test_answers_that_need_no_network_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    code = f"import sys, roadmap.cli.main\ntry: roadmap.cli.main.main({words!r})\nexcept SystemExit: pass\nprint('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    assert python(code, cwd=tmp_path).stdout.splitlines()[-1] == "LOADED []"


def test_help_starts_about_as_fast_as_argparse(tmp_path: Path) -> None:
    def seconds(words: list[str]) -> float:
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        )
        return time.perf_counter() - started

    seconds(["-m", "roadmap", "--help"])  # compiled files are written
    pairs = [
        (seconds(["-m", "roadmap", "--help"]), seconds(["-c", "import argparse, json, dataclasses, pathlib"]))
        for _ in range(9)
    ]
    ours, bare = (statistics.median(side) for side in zip(*pairs, strict=True))
    assert ours <= 2.5 * bare, f"--help took {ours:.3f} s, argparse alone {bare:.3f} s"


def test_the_module_and_the_run_module_are_the_command(tmp_path: Path) -> None:
    for words in (["-m", "roadmap", "run", "--list"], ["-m", "roadmap.run", "--list"]):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "separate-downsampling" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "roadmap.run", "--step", "99"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "step '99' is unknown" in done.stderr


# What is printed ---------------------------------------------------------------------------------------------------------


def test_list_names_every_step_regime_recipe_and_data_set(command: Command) -> None:
    from roadmap.config.recipes import RECIPES
    from roadmap.data.registry import NAMED

    out = command("run", "--list").out
    for name in (*EVERY_STEP, *REGIMES, *RECIPES, *NAMED):
        assert name in out


def reference_rows(regime: str) -> dict[str, dict[str, str]]:
    """The reference table of a regime; empty for the regimes that are not the paper's."""
    table = REFERENCE / f"ladder-{regime}.csv"
    return {row["name"]: row for row in csv.DictReader(table.open())} if table.exists() else {}


# Building ResNet-200's seventeen networks takes five seconds; the fast tests of the model count them too.
BY_REGIME = pytest.mark.parametrize(
    "regime", [pytest.param(r, marks=[pytest.mark.slow] if r == "resnet200" else []) for r in REGIMES]
)


@BY_REGIME
def test_steps_counts_every_network_as_the_reference_does(command: Command, regime: str) -> None:
    rows = {r["name"]: r for r in command("steps", "--regime", regime, "--json").json()}
    assert list(rows) == EVERY_STEP
    assert all(row["params"] < row["params_layer_scale"] and row["macs"] > 0 for row in rows.values())
    for name, want in reference_rows(regime).items():
        row = rows[name]
        assert (row["params"], row["params_layer_scale"], row["macs"]) == (
            int(want["params"]),
            int(want["params_layer_scale"]),
            int(want["macs"]),
        ), name
        assert (row["id"] or "", row["parent"] or "", row["on_path"]) == (
            want["id"],
            want["parent"],
            want["on_path"] == "1",
        )
        paper = (row["paper_top1"], row["paper_top1_std"], row["paper_gflops"])
        assert paper == (
            float(want["paper_top1"]),
            float(want["paper_top1_std"]) if want["paper_top1_std"] else None,
            float(want["paper_gflops"]),
        )
        assert set(row["change"]) == set(find_step(name).change) | set(find_regime(regime).changes.get(name, {}))


@pytest.mark.parametrize(
    ("setting", "column"), [("layer_scale=none", "params"), ("layer_scale=1e-6", "params_layer_scale")]
)
def test_steps_counts_layer_scale_where_it_is_asked_for(command: Command, setting: str, column: str) -> None:
    rows = {r["name"]: r for r in command("steps", "--json", "--set", setting).json()}
    assert {n: rows[n]["params"] for n in reference_rows("resnet50")} == {
        n: int(want[column]) for n, want in reference_rows("resnet50").items()
    }


def test_steps_shows_the_reason_where_a_step_cannot_take_a_setting(command: Command) -> None:
    answer = command("steps", "--regime", "micro", "--set", "move_up_depthwise=true")
    assert answer.status == 0
    assert answer.out.count(
        "not defined: ModelSpec.move_up_depthwise is true, which needs inverted_bottleneck true"
    ) == EVERY_STEP.index("inverted-bottleneck")
    rows = {
        r["name"]: r for r in command("steps", "--regime", "micro", "--set", "move_up_depthwise=true", "--json").json()
    }
    assert rows["baseline"]["params"] is None and "needs inverted_bottleneck" in rows["baseline"]["not_defined"]


@BY_REGIME
def test_the_table_of_steps_has_a_line_for_each(command: Command, regime: str) -> None:
    out = command("steps", "--regime", regime).out
    for step in ladder(side_steps=True):
        assert any(step.name in line and step.title in line for line in out.splitlines())


def test_diff_tells_what_changes_between_two_steps(command: Command) -> None:
    values = command("diff", "7c", "layernorm", "--json").json()
    assert (values["a"], values["b"]) == ("fewer-norms", "layernorm")
    assert values["spec"] == {"norm": ["batch", "layer"], "conv_bias": [False, True]}
    assert values["recipe"] == {}
    reference = reference_rows("resnet50")
    assert values["params"] == [int(reference[n]["params_layer_scale"]) for n in ("fewer-norms", "layernorm")]
    assert values["macs"] == [int(reference[n]["macs"]) for n in ("fewer-norms", "layernorm")]
    assert "~block.norm" in values["structure"]["roles"]


def test_diff_in_words_names_toggles_recipe_and_modules(command: Command) -> None:
    out = command("diff", "baseline", "recipe", "--regime", "micro").out
    for word in ("optimizer", "sgd", "adamw", "layer_scale", "params", "block.gamma"):
        assert word in out


def test_diff_applies_a_setting_to_the_second(command: Command) -> None:
    assert command("diff", "9", "9", "--set", "kernel_size=9", "--regime", "micro", "--json").json()["spec"] == {
        "kernel_size": [7, 9]
    }


def test_plan_as_json_holds_the_trials_in_full(command: Command) -> None:
    from roadmap.config.trial import Trial

    values = command("plan", "--step", "0", "--step", "4b", "--seeds", "3", "4", "--epochs", "2", "--json").json()
    assert [(t["step"], t["seed"], t["state"], t["predicted_seconds"]) for t in values["trials"]] == [
        (s, n, "new", None) for s in ("baseline", "width") for n in (3, 4)
    ]
    assert all(Trial.from_json(t).recipe.epochs == 2 for t in values["trials"])
    assert values["study"] == "micro-2ep" and values["undefined"] == {}


def test_plan_shows_what_is_not_defined(command: Command) -> None:
    answer = command("plan", "--set", "move_up_depthwise=true")
    assert answer.status == 0
    assert (
        "baseline: not defined: ModelSpec.move_up_depthwise is true, which needs inverted_bottleneck true, not false; reason: "
        in answer.out
    )


def test_a_dry_run_is_the_plan_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    assert command("run", "--step", "9", "--dry-run").out == command("plan", "--step", "9").out
    assert set(tmp_path.iterdir()) == before


def test_hyphens_and_underscores_are_the_same_in_long_options(command: Command, image_folder: MakeFolder) -> None:
    folder = image_folder()
    answers = [
        command(
            "plan",
            "--json",
            "--data",
            "imagefolder",
            f"--data{x}dir",
            folder,
            f"--image{x}size=16",
            "--set",
            f"kernel{x}size=3",
        ).json()
        for x in "-_"
    ]
    assert answers[0] == answers[1]
    assert answers[0]["trials"][0]["data"]["image_size"] == 16


# What is refused ---------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[list[str], list[str]]] = [
    (["stpes"], ["VERB 'stpes' is unknown; legal: run, plan, steps, ", "did you mean 'steps'"]),
    ([], ["VERB is missing; legal: run, plan, steps, "]),
    (["run", "--jbos", "3"], ["option '--jbos' is unknown; legal: --", "did you mean '--jobs'"]),
    (["run", "--ste=9"], ["option '--ste=9' is unknown", "did you mean '--step' or "]),
    (["run", "9"], ["argument '9' is unknown"]),
    (["run", "--precision", "fp16"], ["--precision 'fp16' is unknown; legal: auto, fp32, bf16", "'bf16'"]),
    (["run", "--jobs", "0"], ["--jobs: is '0'; legal: integers from 1"]),
    (["run", "--workers", "-1"], ["--workers: is '-1'; legal: integers from 0"]),
    (["run", "--checkpoint-every", "0"], ["--checkpoint-every: is '0'; legal: integers from 1"]),
    (["run", "--seeds", "one"], ["--seeds: is 'one'; legal: integers from 0"]),
    (["run", "--seeds", "1", "1"], ["seeds is [1, 1]; legal: each seed once"]),
    (["run", "--step", "9b"], ["step '9b' is unknown; legal: 0, 1, 2", "did you mean '9'"]),
    (["run", "--step", "patchify"], ["step 'patchify' is unknown", "'patchify-stem'"]),
    (
        ["run", "--regime", "resnet5O"],
        ["regime 'resnet5O' is unknown; legal: resnet50, resnet200, cifar, micro", "did you mean 'resnet50'"],
    ),
    (
        ["run", "--recipe", "digits-adam"],
        ["recipe 'digits-adam' is unknown; legal: pytorch-90ep", "did you mean 'digits-adamw'"],
    ),
    (["run", "--data", "cifar-10"], ["data 'cifar-10' is unknown; legal: digits, cifar10", "did you mean 'cifar10'"]),
    (
        ["run", "--set", "kernel=9"],
        ["ModelSpec toggle 'kernel' is unknown; legal: depths, ", "did you mean 'kernel_size'?"],
    ),
    (["run", "--set", "norm=layr"], ["ModelSpec.norm is 'layr'; legal: batch, layer", "did you mean 'layer'?"]),
    (
        ["run", "--step", "0", "--set", "downsampling=separate"],
        ["ModelSpec.downsampling is separate, which needs inverted_bottleneck true, not false; reason: "],
    ),
    (["run", "--set", "downsampling=none"], ["ModelSpec.downsampling is none, which needs stages 1"]),
    (["run", "--name", "../x"], ["study.name is '../x'; legal: up to 100 letters"]),
    (["run", "--name", "-rf"], ["expected one argument"]),
    (["run", "--num-classes", "11"], ["data 'digits' has 10 classes, not 11; legal: 10; leave --num-classes out"]),
    (["run", "--study", "nowhere.yaml"], ["study file nowhere.yaml does not exist; legal: "]),
    (
        ["run", "--data", "imagefolder"],
        ["data 'imagefolder' has no folder; legal: one with train/CLASS/IMAGE below it; say --data-dir DIR"],
    ),
    (
        ["run", "--data", "imagefolder", "--data-dir", "nowhere"],
        ["data folder nowhere does not exist; legal: a folder with train/ and test/; check --data-dir"],
    ),
    (
        ["run", "--data", "imagefolder", "--data-dir", "empty"],
        ["data folder empty has no train/ or training/; legal: CLASS/IMAGE below such a folder; check --data-dir"],
    ),
    (
        ["run", "--data", "cifar10", "--data-dir", "empty"],
        ["data 'cifar10' is not in empty", "--download to fetch them"],
    ),
    (
        ["run", "--step", "9", "--out", "file/x"],
        [
            "output folder file/x/digits cannot be made: Not a directory; legal: a writable folder; choose another with --out"
        ],
    ),
    (["plan", "--step", "9", "--out", "file/x"], ["legal: "]),
    (
        ["run", "--variant", "convnext_tin"],
        ["variant 'convnext_tin' is unknown; legal: ", "did you mean 'convnext_tiny'"],
    ),
    (
        ["run", "--step", "9", "--variant", "convnext_tiny"],
        ["--step 9 and --variant convnext_tiny are both given; legal: one of them; leave one out"],
    ),
    (["run", "--step", "9", "--init", "nowhere.safetensors"], ["nowhere.safetensors"]),
    (
        ["run", "--step", "9", "--batch-size", "100"],
        ["Recipe.batch_size is 100, not a multiple of group_size 64; legal: whole groups; change one of the two"],
    ),
    (["steps", "--regime", "micrO0"], ["regime 'micrO0' is unknown"]),
    (["steps", "--set", "kernel_size=4"], ["ModelSpec.kernel_size is 4; legal: odd integers from 1 to 63; try 3 or 5"]),
    (["diff", "1", "twelve"], ["step 'twelve' is unknown"]),
    (["report", "nothing"], ["study 'nothing' has no records in runs/nothing or results/nothing; legal: "]),
]


@pytest.mark.parametrize(("words", "parts"), REFUSED, ids=lambda x: " ".join(x)[:60])
def test_what_cannot_be_is_refused_in_words_before_anything_is_trained(
    command: Command, tmp_path: Path, words: list[str], parts: list[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    answer = command(*words)
    if "expected one argument" in parts:  # argparse's own words
        assert answer.status == 2 and parts[0] in answer.err
    else:
        answer.refused(*parts)
    assert not list(tmp_path.rglob("record.json")) and not list(tmp_path.rglob("attempts.jsonl"))


def test_a_batch_that_the_ranks_do_not_divide_is_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    answer = command("run", "--step", "9", "--recipe", "cifar-sgd")
    answer.refused(
        "Recipe.batch_size is 256, 2 groups of 128, which 3 ranks do not divide; legal: 1, 2 ranks; change the number of GPUs, or batch_size"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (
            lambda f: (f / "train" / "dog" / "000.png").write_bytes(
                (f / "train" / "dog" / "001.png").read_bytes()[:200]
            ),
            ["train/dog/000.png cannot be decoded", "legal: whole images; replace or remove it"],
        ),
        (
            lambda f: (f / "test" / "cat" / "001.png").write_bytes(b"not an image"),
            ["test/cat/001.png cannot be decoded"],
        ),
        (
            lambda f: (f / "train" / "dog" / "000.png").write_bytes(b""),
            ["train/dog/000.png is empty (0 bytes); legal: readable images; replace or remove it"],
        ),
        (
            lambda f: [p.unlink() for p in (f / "train" / "dog").iterdir()],
            ["train/dog has no images; legal: files ending in "],
        ),
        (
            lambda f: (f / "test" / "dog").rename(f / "test" / "dgo"),
            ["train has 2 classes and test 2, differing in dgo, dog; legal: the same class folders in both"],
        ),
    ],
    ids=["truncated", "not an image", "zero bytes", "empty class", "other classes"],
)
def test_a_damaged_folder_is_refused_with_the_path(
    command: Command, image_folder: MakeFolder, tmp_path: Path, damage: Callable[[Path], object], parts: list[str]
) -> None:
    folder = image_folder()
    damage(folder)
    command("run", "--step", "9", "--data", "imagefolder", "--data-dir", folder).refused(*parts)
    assert not (tmp_path / "runs").exists()


def test_a_count_of_classes_that_is_not_the_folders_is_refused(command: Command, image_folder: MakeFolder) -> None:
    folder = image_folder()
    command("run", "--data", "imagefolder", "--data-dir", folder, "--num-classes", "3").refused(
        "data 'imagefolder' has 2 classes, not 3; legal: 2; leave --num-classes out"
    )
    command("run", "--data", "imagefolder", "--data-dir", folder, "--set", "num_classes=3").refused(
        "Trial.model.num_classes is 3, but the data set 'imagefolder' has 2 classes"
    )


def test_a_run_folder_of_another_trial_is_refused(command: Command, tmp_path: Path) -> None:
    mine, other = (command("plan", "--step", "9", "--seeds", seed, "--json").json()["trials"][0] for seed in (0, 1))
    folder = tmp_path / "runs" / "digits" / mine["id"]
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps(other))
    command("run", "--step", "9").refused(
        f"{mine['id']} holds trial {other['fingerprint'][:10]}, not {mine['fingerprint'][:10]}; legal: one trial in one folder; choose another folder"
    )


def test_an_output_that_the_system_refuses_is_no_traceback(command: Command, tmp_path: Path) -> None:
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "study.json").mkdir()
    command("run", "--step", "9").refused(
        "runs/digits/study.json cannot be used: Is a directory; legal: readable files and writable folders; check the path"
    )


# What is trained ---------------------------------------------------------------------------------------------------------

RECORD_KEYS = {
    "status",
    "top1",
    "top5",
    "ema_top1",
    "ema_top5",
    "loss",
    "params",
    "macs",
    "images_per_second",
    "wall_seconds",
    "peak_memory_bytes",
    "epochs",
    "world_size",
    "device_batch",
    "git_commit",
    "git_dirty",
    "packages",
    "hardware",
    "seed",
    "attempts",
    "step",
    "regime",
    "change",
    "recipe",
    "data",
    "fingerprint",
    "error",
}


def test_a_step_trains_leaves_its_record_and_is_not_trained_again_unless_forced(
    command: Command, tmp_path: Path
) -> None:
    words = ("run", "--step", "ema", "--epochs", "1", "--out", tmp_path / "out", "--seeds", "5")
    first = command(*words)
    assert first.status == 0, first.err
    assert "top1" in first.out and "record.json" in first.out
    [folder] = (p.parent for p in (tmp_path / "out").rglob("trial.json"))
    record = json.loads((folder / "record.json").read_text())
    assert set(record) >= RECORD_KEYS
    assert (
        record["status"],
        record["epochs"],
        record["world_size"],
        record["device_batch"],
        record["seed"],
        record["attempts"],
    ) == ("finished", 1, 1, 64, 5, 1)
    assert (
        record["params"] > 0
        and record["macs"] > 0
        and record["images_per_second"] > 0
        and record["wall_seconds"] > 0
        and record["peak_memory_bytes"] > 1e8
    )
    assert 10 < record["top1"] <= record["top5"] <= 100 and 0 < record["ema_top5"] <= 100
    assert record["test_images"] == 500
    assert set(record["packages"]) >= {"python", "torch", "timm", "torchvision"}
    assert record["hardware"]["device"] and record["hardware"]["cores"] > 0
    [line] = (json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines())
    assert (line["epoch"], line["split"], line["iteration"]) == (1, "validation", record["iterations"])

    second = command(*words)
    assert second.status == 0
    assert "1 of 1 runs are finished already and are not trained again (--force does)" in second.err
    assert json.loads((folder / "record.json").read_text()) == record

    third = command(*words, "--force", "--json")
    [again] = third.json()
    assert again["finished_at"] >= record["finished_at"] and again["wall_seconds"] != record["wall_seconds"]
    assert {k: again[k] for k in ("top1", "loss", "ema_top1", "fingerprint")} == {
        k: record[k] for k in ("top1", "loss", "ema_top1", "fingerprint")
    }
    assert json.loads((folder / "previous" / "1" / "record.json").read_text()) == record
    assert list((folder / "previous" / "1" / "checkpoints").glob("*.pt"))

    [planned] = command("plan", *words[1:], "--json").json()["trials"]
    assert planned["state"] == "finished" and 0 < planned["predicted_seconds"] < 600


def test_a_batch_larger_than_the_data_set_is_refused_before_anything_is_written(
    command: Command, tmp_path: Path
) -> None:
    answer = command("run", "--step", "0", "--recipe", "convnext-300ep", "--epochs", "1")
    answer.refused(
        "training images, fewer than one global batch of 4096; legal: at least one batch; choose a recipe with a smaller batch, or --batch-size"
    )
    assert not list(tmp_path.rglob("trial.json"))


def test_an_image_smaller_than_the_networks_stride_is_refused(command: Command) -> None:
    command("run", "--step", "9", "--image-size", "8").refused(
        "Trial.data.image_size is 8, but the network strides over 16 pixels; legal: at least as many pixels"
    )


def test_a_study_file_may_name_initial_weights(command: Command, tmp_path: Path) -> None:
    import roadmap

    roadmap.save(roadmap.build_model(9, "micro"), tmp_path / "w.safetensors")
    (tmp_path / "s.yaml").write_text("question: q\nregime: micro\nsteps: [9]\nepochs: 1\ninit: w.safetensors\n")
    answer = command("run", "--study", "s.yaml", "--json")
    assert answer.json()[0]["status"] == "finished"


def test_the_network_of_a_step_trains_with_a_change(command: Command, tmp_path: Path) -> None:
    [record] = command("run", "--step", "9", "--set", "kernel_size=3", "--epochs", "1", "--json").json()
    assert record["change"] == "kernel_size=3"
    from roadmap.model.complexity import complexity

    assert record["params"] == complexity(resolve("9", "micro", kernel_size=3), 16).params


def test_an_error_for_the_user_is_one_line_a_problem(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> int:
        raise RoadmapError("one\ntwo")

    monkeypatch.setattr("roadmap.cli.train.show_steps", broken)
    assert command("steps").err.splitlines() == ["roadmap steps: error: one", "roadmap steps: error: two"]
