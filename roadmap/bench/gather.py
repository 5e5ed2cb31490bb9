"""Part `gather`: from the records of many runs to the mean and standard deviation of each cell.

Beside it: reading and parsing the same files by hand. No torch.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from roadmap.bench.pairs import Check, Finding, interleaved
from roadmap.config.trial import Trial
from roadmap.runs.folder import RunFolder
from roadmap.runs.hits import TEST, Hits
from roadmap.runs.libraries import LIBRARIES, Libraries
from roadmap.runs.provenance import git_state, package_versions
from roadmap.runs.record import FINISHED, Formats, Hardware, Record
from roadmap.runs.study_folder import write_study
from roadmap.study.expand import Study, expand
from roadmap.study.plan import Plan

METHOD = (
    "Wall time from 10,000 run folders with whole records to mean and standard deviation of each step, as the report "
    "makes them, beside `json.loads` of study.json and every record.json with the same two numbers from `statistics`."
)
RUNS = 10_000
ROUNDING = 1e-9  # percent of accuracy
NAME = "gathering"
SEEDS, EPOCHS = 8, 3  # of each cell; of each run
TEST_IMAGES = 500
AS_INSTALLED = Libraries(dict.fromkeys(LIBRARIES, "0123456789abcdef"), edited={}, patched={}, startup={})
FORMATS = Formats(
    autocast="none",
    residual="float32",
    matmul="ieee",
    convolution="ieee",
    cudnn_benchmark=False,
    cudnn_deterministic=False,
    deterministic=False,
    cpu_capability="AVX2",
    matmul_precision="highest",
    onednn=True,
    denormals=True,
    build="0123456789abcdef",
    environment={},
)
WRITERS = 16  # threads
LOWEST_LR, LR_STEP = 1e-3, 1e-5

Label = tuple[str, str]  # a cell's step and change
Cells = dict[Label, tuple[float, float, int]]  # mean, standard deviation (n - 1) and n of each
Gather = Callable[[Path], Cells]


def gather(ours: Gather, pairs: int, scratch: Path, runs: int = RUNS) -> Iterator[Finding]:
    """Compare `ours`, which makes Cells of a study's folder, with plain reading of the same files."""
    folder = study_of(runs, scratch)
    found, expected = ours(folder), plain(folder)
    yield Check(name="cells that only one side has", apart=len(found.keys() ^ expected.keys()), allowed=0)
    yield Check(
        name="means and standard deviations, largest difference", apart=_apart(found, expected), allowed=ROUNDING
    )
    yield interleaved(
        "gather",
        f"{runs:,} runs",
        ("gathered into mean and std", lambda: ours(folder)),
        ("read, parsed, averaged", lambda: plain(folder)),
        pairs=pairs,
        warmup=1,
    )


def _apart(found: Cells, expected: Cells) -> float:
    shared = found.keys() & expected.keys()
    return max(abs(a - b) for cell in shared for a, b in zip(found[cell], expected[cell], strict=True))


def study_of(runs: int, folder: Path) -> Path:
    """Write a study of this many finished runs below `folder`, in files that the writers of real
    runs write; returns its folder.

    The ladder with its side steps at as many learning rates as it takes, 8 seeds a cell; the last
    cells may have fewer.
    """
    study = _planned(runs)
    written = write_study(folder, NAME, study.question, study.regime, study.trials, header=study.header())
    with ThreadPoolExecutor(WRITERS) as pool:  # a disk makes many files safe in one go
        list(pool.map(partial(_finish, written), study.trials, range(len(study.trials))))
    return written


def _planned(runs: int) -> Study:
    """The first `runs` trials, and what is compared among their cells."""
    plan = Plan(name=NAME, question="How fast is it read?", regime="micro", side_steps=True, seeds=tuple(range(SEEDS)))
    a_point = len(expand(plan).trials)
    rates = [round(LOWEST_LR + LR_STEP * k, 6) for k in range(max(2, math.ceil(runs / a_point)))]
    study = expand(replace(plan, cross={"recipe.lr": rates}))
    trials = study.trials[:runs]
    cells = {(trial.step, trial.change) for trial in trials}
    compared = tuple(c for c in study.comparisons if c.child in cells and c.parent in cells)
    crossed = tuple(c for c in study.crossings if c.child in cells and c.parent in cells)
    return replace(study, trials=trials, comparisons=compared, crossings=crossed)


def _finish(study: Path, trial: Trial, number: int) -> None:
    """Leave what a run has left once it has finished."""
    run = RunFolder(study / trial.id)
    run.prepare(trial)
    draw = random.Random(number)
    machine = Hardware(device="cpu", cpu="a processor", cores=8, threads=8)
    run.append("attempts.jsonl", {"from_iteration": 0, "hardware": machine.to_json(), **_code()})
    for epoch in range(1, EPOCHS + 1):
        top1 = 25.0 * epoch + draw.gauss(0, 0.2)
        run.append_epoch({"epoch": epoch, "top1": top1, "loss": 1 / epoch, "train_loss": 2 / epoch}, [2 / epoch] * 9)
    run.write_record(_record(trial, draw, machine))
    run.beat({"state": FINISHED, "epoch": EPOCHS})


def _record(trial: Trial, draw: random.Random, machine: Hardware) -> Record:
    """A record with every value that a finished run knows."""
    hits = _hits(draw)
    measured = {"top1": hits.top1, "top5": 96.0 + draw.random(), "loss": 0.6 + draw.random() / 10}
    return Record(
        status=FINISHED,
        id=trial.id,
        fingerprint=trial.fingerprint,
        study=NAME,
        ladder=trial.ladder,
        regime=trial.regime,
        step=trial.step,
        change=trial.change,
        seed=trial.seed,
        data=trial.data.title,
        data_name=trial.data.name,
        data_digest=trial.data.digest,
        data_contents={"train": "pixels-all:0123456789abcdef", "test": "pixels-all:fedcba9876543210"},
        image_size=trial.data.image_size,
        train_images=1166,
        test_images=TEST_IMAGES,
        recipe=trial.recipe.name,
        epochs=trial.recipe.epochs,
        params=509_306,
        macs=1_734_656,
        world_size=1,
        device_batch=trial.recipe.group_size,
        group_size=trial.recipe.group_size,
        global_batch=trial.recipe.batch_size,
        precision="fp32",
        formats=FORMATS,
        workers=0,
        compile=False,
        channels_last=True,
        **_code(),
        hardware=machine,
        configuration=trial.configuration,
        resolved=trial.identity(),
        attempts=1,
        metrics=measured,
        hits={TEST: hits.to_json()},
        accuracy_epoch=EPOCHS,
        iterations=27,
        images_per_second=2000 + draw.random(),
        wall_seconds=10 + draw.random(),
        peak_memory_bytes=926_957_568,
        finished_at="2026-01-01T00:00:00+00:00",
    )


def _hits(draw: random.Random) -> Hits:
    """Each test image right with three quarters."""
    size = -(-TEST_IMAGES // 8)
    right = draw.getrandbits(TEST_IMAGES) | draw.getrandbits(TEST_IMAGES)
    return Hits(TEST_IMAGES, (right << 8 * size - TEST_IMAGES).to_bytes(size))


def _code() -> dict[str, Any]:
    """Which code and packages ran."""
    return {**git_state(), "packages": package_versions(), "libraries": AS_INSTALLED.to_json()}


def plain(folder: Path) -> Cells:
    """Mean, deviation and n of each cell by reading and parsing each file, with no more than that."""
    root = os.fspath(folder)
    with open(f"{root}/study.json", "rb") as file:
        planned = json.loads(file.read())["trials"]
    values: dict[Label, list[float]] = defaultdict(list)
    for trial in planned:
        with open(f"{root}/{trial['id']}/record.json", "rb") as file:
            record = json.loads(file.read())
        if record["status"] == FINISHED:
            values[record["step"], record["change"]].append(record["metrics"]["top1"])
    return _summarized(values)


def _summarized(values: Mapping[Label, Sequence[float]]) -> Cells:
    return {label: _summary(cell) for label, cell in values.items()}


def _summary(values: Sequence[float]) -> tuple[float, float, int]:
    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1) if n > 1 else math.nan
    return mean, math.sqrt(variance), n
