"""bench, predict and schema: the harness's cost, a network's answers, the form of study files."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadmap.cli.console import print_json
from roadmap.config.errors import RoadmapError
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import read_json, write_json
from roadmap.study.find import STUDY_JSON, find_study

if TYPE_CHECKING:
    from roadmap.train.distributed import Ranks

MOST_CLASSES = 5  # named for each image unless another number is asked for


# bench --------------------------------------------------------------------------------------------


def run_bench(device: str, *, pairs: int, out: Path, as_json: bool) -> int:
    """Time the harness beside its peers, and write the ratios to `out`/<cpu or gpu>.json."""
    from roadmap.bench.benchmarks import all_pairs
    from roadmap.train.distributed import Ranks

    ranks = Ranks.start(device)
    ratios = []
    for r in all_pairs(ranks.device.type, pairs):
        ratios.append(asdict(r))
        interval = f"{r.ratio:.3f} ({r.low:.3f} to {r.high:.3f}, n = {r.pairs})"
        line = f"{r.a} / {r.b}: {interval}; {r.name}; {r.a_seconds:.4f} s and {r.b_seconds:.4f} s"
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)
    path = out / ("gpu.json" if ranks.device.type == "cuda" else "cpu.json")
    out.mkdir(parents=True, exist_ok=True)
    content = {**_machine(ranks), "ratios": ratios}
    write_json(path, content)
    _answer(content, path, as_json)
    return 0


def measure_latency(name: str, device: str, *, rounds: int, runs: Path, as_json: bool) -> int:
    """Time one image through each network of a study, in turn, and write latency.json.

    The study's report shows it.
    """
    from roadmap.bench.latency import latencies
    from roadmap.train.distributed import Ranks

    folder = find_study(name, runs).run_folder()
    planned = read_json(folder / STUDY_JSON) or {"trials": []}
    trials = {(t["step"], t["change"]): RunFolder(folder / t["id"]).trial() for t in planned["trials"]}
    ranks = Ranks.start(device)
    # Keys are sent as text: the bench knows no cells.
    by_cell = {json.dumps(cell): trial for cell, trial in trials.items()}
    found = latencies(by_cell, ranks.device, rounds=rounds)
    measured = [{"cell": json.loads(key), **asdict(values)} for key, values in found.items()]
    content = {**_machine(ranks), "batch": 1, "precision": "fp32", "cells": measured}
    path = folder / "latency.json"
    write_json(path, content)
    if not as_json:
        for line in measured:
            label = " with ".join(filter(None, line["cell"]))
            print(f"{label}: {line['ms']:.3f} ms ({line['low']:.3f} to {line['high']:.3f}, n = {line['rounds']})")
    _answer(content, path, as_json)
    return 0


def _machine(ranks: Ranks) -> dict[str, Any]:
    """Where a measurement was made, and with which code."""
    from roadmap.runs.provenance import git_state, package_versions
    from roadmap.train.execute import hardware

    return {"hardware": hardware(ranks).to_json(), "packages": package_versions(), **git_state()}


def _answer(content: Mapping[str, Any], path: Path, as_json: bool) -> None:
    """Print what was measured, or where it was written."""
    if as_json:
        print_json(content)
    else:
        print(path)


# predict ------------------------------------------------------------------------------------------


def write_predictions(
    network: Path, images: Path, *, top_k: int | None, image_size: int | None, device: str, out: Path | None
) -> int:
    """Write one line of CSV for each image, the best classes first; returns the exit status."""
    from roadmap.train.predict import images_below, predict, predictor, write_csv

    found = predictor(network, image_size=image_size)
    count = len(found.classes)
    top_k = top_k or min(MOST_CLASSES, count)
    if top_k > count:
        raise RoadmapError(f"--top-k is {top_k}; legal: 1 to {count}, the network's classes; ask for fewer")
    rows = predict(found, images_below(images), top_k=top_k, device=device)
    if out is None:
        write_csv(rows, top_k, sys.stdout)
        return 0
    with open(out, "w", newline="") as f:
        written = write_csv(rows, top_k, f)
    print(f"{written} images, {out}")
    return 0


# schema -------------------------------------------------------------------------------------------


def show_schema() -> int:
    """Print the JSON Schema of study files: by it, editors complete and check them."""
    from roadmap.study import file

    print_json(file.json_schema())
    return 0
