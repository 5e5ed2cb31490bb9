"""bench, predict and schema: the harness's cost, a network's answers, the form of study files."""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from roadmap.bench.targets import PARTS, USUAL
from roadmap.cli.console import print_json
from roadmap.config.errors import RoadmapError, listing, nearest
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import read_json, write_json
from roadmap.study.find import STUDY_JSON, find_study

if TYPE_CHECKING:
    from roadmap.bench.gather import Cells
    from roadmap.bench.pairs import Finding

ALL = "all"  # of the parts of `bench`
MOST_CLASSES = 5  # named for each image unless another number is asked for


# bench --------------------------------------------------------------------------------------------


def run_bench(words: Sequence[str], device: str, *, pairs: int, out: Path, as_json: bool) -> int:
    """Measure parts of the harness beside their peers, one after another, and write each one's file and the page.

    Returns 1 where the two sides' outputs differ.
    """
    parts = asked_parts(words)
    from roadmap.bench.page import write_page
    from roadmap.bench.parts import Bench, measure, write
    from roadmap.train.circumstances import measured_on
    from roadmap.train.distributed import Ranks

    ranks = Ranks.start(device)
    bench = Bench(device=ranks.device.type, pairs=pairs, gather=means_of)
    contents = []
    for part in parts:
        show = functools.partial(_show_finding, part, sys.stderr if as_json else sys.stdout)
        content = {**measure(part, bench, show), **measured_on(ranks)}
        contents.append(content)
        path = write(out, part, ranks.device.type, content)
        if not as_json:
            print(f"{path}, {content['took_seconds']:.0f} s", flush=True)
        write_page(out)
    if as_json:
        print_json(contents)
    agree = all(check["agrees"] for content in contents for check in content["checks"])
    return 0 if agree else 1


def asked_parts(words: Sequence[str]) -> Sequence[str]:
    """The parts to measure, in their order; `all` is every one. Raises RoadmapError for another word."""
    legal = (*PARTS, ALL)
    for word in words:
        if word not in legal:
            raise RoadmapError(f"PART {word!r} is unknown; legal: {listing(legal)}; {nearest(word, legal)}")
    if ALL in words:
        return PARTS
    return [part for part in PARTS if part in (words or USUAL)]


def means_of(folder: Path) -> Cells:
    """Mean, standard deviation and n of each cell of a study's run folders, by what its report is made of."""
    from analysis.load import open_study
    from analysis.stats.comparisons import summarize
    from roadmap.runs.metric import TOP1

    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in open_study(folder).runs:
        if run.finished(TOP1):
            values[run.cell.step, run.cell.change].append(run.value(TOP1))
    summaries = {cell: summarize(scores) for cell, scores in values.items()}
    return {cell: (s.mean, s.std, s.n) for cell, s in summaries.items() if s.mean is not None and s.std is not None}


def _show_finding(part: str, file: TextIO, finding: Finding) -> None:
    """Print a line for a finding as it comes."""
    from roadmap.bench.pairs import Check

    if isinstance(finding, Check):
        agrees = "as it may be" if finding.agrees else "OUTPUTS DIFFER"
        text = f"{finding.name}: {finding.apart:.2g} of {finding.allowed:g} allowed, {agrees}"
    else:
        f = finding
        interval = f"{f.value:.3f}{f' {f.unit}' if f.unit else ''} ({f.low:.3f} to {f.high:.3f}, n = {f.pairs})"
        text = f"{f.a} / {f.b}: {interval}; {f.name}; {f.a_seconds:.4f} s and {f.b_seconds:.4f} s"
    print(f"{part}: {text}", file=file, flush=True)


def measure_latency(name: str, device: str, *, rounds: int, runs: Path, as_json: bool) -> int:
    """Time one image through each network of a study, in turn, and write latency.json.

    The study's report shows it.
    """
    from roadmap.bench.latency import latencies
    from roadmap.train.circumstances import measured_on
    from roadmap.train.distributed import Ranks

    folder = find_study(name, runs).run_folder()
    planned = read_json(folder / STUDY_JSON) or {"trials": []}
    trials = {(t["step"], t["change"]): RunFolder(folder / t["id"]).trial() for t in planned["trials"]}
    ranks = Ranks.start(device)
    found = latencies(trials, ranks.device, rounds=rounds)
    measured = [{"cell": list(cell), **asdict(latency)} for cell, latency in found.items()]
    content = {**measured_on(ranks), "batch": 1, "precision": "fp32", "cells": measured}
    path = folder / "latency.json"
    write_json(path, content)
    if not as_json:
        for line in measured:
            label = " with ".join(filter(None, line["cell"]))
            print(f"{label}: {line['ms']:.3f} ms ({line['low']:.3f} to {line['high']:.3f}, n = {line['rounds']})")
    _answer(content, path, as_json)
    return 0


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
