"""Part `gather`: from the records of many runs to the mean and standard deviation of each cell.

Beside it: reading and parsing the same files, and the same two numbers by Python's statistics.
"""

from __future__ import annotations

import json
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from roadmap.bench.pairs import Check, Finding, interleaved
from roadmap.config.recipes import find_recipe
from roadmap.config.trial import Trial
from roadmap.data.registry import resolve_data
from roadmap.ladder.convnext import CONVNEXT, convnext_spec
from roadmap.runs.provenance import git_state, package_versions
from roadmap.runs.record import FINISHED, Hardware, Record
from roadmap.runs.study_folder import write_study

METHOD = (
    "Wall time from 10,000 run folders with whole records to mean and standard deviation of each step, as the report "
    "makes them, beside `json.loads` of study.json and every record.json with the same two numbers from `statistics`."
)
RUNS, REGIME = 10_000, "micro"
ROUNDING = 1e-9  # percent of accuracy
Cell = tuple[str, str]
Means = dict[Cell, tuple[float, float]]  # mean and standard deviation of each cell, by step and change
Gather = Callable[[Path], Means]


def gather(ours: Gather, pairs: int, scratch: Path, runs: int = RUNS) -> Iterator[Finding]:
    """Compare `ours`, which makes Means of a study's folder, with plain reading of the same files."""
    folder = write_runs(scratch, runs)
    found, expected = ours(folder), read_plainly(folder)
    yield Check(name="cells that only one side has", apart=len(found.keys() ^ expected.keys()), allowed=0)
    yield Check(
        name="means and standard deviations, largest difference", apart=_apart(found, expected), allowed=ROUNDING
    )
    yield interleaved(
        "gather",
        f"{runs:,} runs",
        ("gathered into mean and std", lambda: ours(folder)),
        ("read, parsed, averaged", lambda: read_plainly(folder)),
        pairs=pairs,
        warmup=1,
    )


def _apart(found: Means, expected: Means) -> float:
    shared = found.keys() & expected.keys()
    return max(abs(a - b) for cell in shared for a, b in zip(found[cell], expected[cell], strict=True))


def read_plainly(folder: Path) -> Means:
    """Mean and standard deviation of each cell, by nothing but the standard library."""
    json.loads((folder / "study.json").read_bytes())
    top1: dict[Cell, list[float]] = defaultdict(list)
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    for name in names:
        with open(f"{folder}/{name}/record.json", "rb") as f:
            record = json.loads(f.read())
        top1[record["step"], record["change"]].append(record["metrics"]["top1"])
    return {cell: (statistics.fmean(values), statistics.stdev(values)) for cell, values in top1.items()}


def write_runs(root: Path, runs: int) -> Path:
    """Run folders with records as whole as the trainer's, the same number of seeds of each step of the path."""
    steps = [step.name for step in CONVNEXT.order()]
    trials = [trial for step in steps for trial in _seeds(step, -(-runs // len(steps)))][:runs]
    folder = write_study(root, "many", "How fast is a study read?", REGIME, trials)
    for trial in trials:
        run = folder / trial.id
        run.mkdir()
        (run / "record.json").write_text(json.dumps(_record(trial).to_json()))
    return folder


def _seeds(step: str, count: int) -> list[Trial]:
    model, recipe = convnext_spec(step, REGIME), find_recipe(CONVNEXT.recipe_name(step, REGIME))
    first = Trial(model=model, recipe=recipe, data=resolve_data("digits"), seed=0, regime=REGIME, step=step)
    return [replace(first, seed=seed) for seed in range(count)]


def _record(trial: Trial) -> Record:
    """A finished run's, whose accuracy depends on its step and its seed."""
    top1 = 90 + len(trial.step) / 10 + (37 * trial.seed % 101) / 100
    return Record(
        status=FINISHED,
        id=trial.id,
        fingerprint=trial.fingerprint,
        regime=trial.regime,
        step=trial.step,
        change=trial.change,
        seed=trial.seed,
        data=trial.data.title,
        data_name=trial.data.name,
        data_digest="",
        image_size=trial.data.image_size,
        train_images=1167,
        test_images=500,
        recipe=trial.recipe.name,
        epochs=trial.recipe.epochs,
        params=100_000,
        macs=1_000_000,
        world_size=1,
        group_size=trial.recipe.group_size,
        global_batch=trial.recipe.batch_size,
        precision="fp32",
        **git_state(),
        packages=package_versions(),
        hardware=Hardware(device="cpu", cpu="a processor", cores=2, threads=1),
        configuration=trial.configuration,
        resolved=trial.identity(),
        metrics={"top1": top1, "top5": 99.0, "loss": 0.3},
        images_per_second=1000.0 + trial.seed,
        wall_seconds=36.0,
    )
