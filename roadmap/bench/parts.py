"""The parts of `roadmap bench`: each is measured by itself and written to a file of its own.

<out>/<cpu or gpu>/<part>.json holds what one part measured, with hardware, packages and the digest of
the code; <out>/README.md is made from these files (`roadmap.bench.page`).
"""

from __future__ import annotations

import datetime
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roadmap.bench.pairs import Check, Finding, Paired
from roadmap.runs.io import write_json

Found = Callable[[Finding], None]
# Mean and standard deviation of each cell of a study's folder, by step and change.
Gather = Callable[[Path], dict[tuple[str, str], tuple[float, float, int]]]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every part is told. device: 'cpu' or 'cuda'. gather: how the report averages a study's runs."""

    device: str
    pairs: int
    gather: Gather


def measure(part: str, bench: Bench, found: Found) -> dict[str, Any]:
    """Measure a part; `found` is told of each finding as it comes. Returns the content of its file.

    Files that a part needs are made below the system's temporary folder, and removed.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="roadmap-bench-") as scratch:
        method, findings = _begin(part, bench, Path(scratch))
        measured = []
        for finding in findings:
            measured.append(finding)
            found(finding)
    return {
        "part": part,
        "method": method,
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "took_seconds": round(time.monotonic() - began, 1),
        "pairs": [asdict(finding) for finding in measured if isinstance(finding, Paired)],
        "checks": [{**asdict(c), "agrees": c.agrees} for c in measured if isinstance(c, Check)],
    }


def _begin(part: str, bench: Bench, scratch: Path) -> tuple[str, Iterator[Finding]]:
    """How the part measures, and its findings. Imported here: its peers take seconds to import."""
    if part == "startup":
        from roadmap.bench import startup

        return startup.METHOD, startup.startup(bench.pairs, scratch)
    if part == "gather":
        from roadmap.bench import gather

        return gather.METHOD, gather.gather(bench.gather, bench.pairs, scratch)
    if part == "loader":
        from roadmap.bench import loader

        return loader.METHOD, loader.loader(bench.device, bench.pairs, scratch)
    if part == "ladder":
        from roadmap.bench import ladder

        return ladder.METHOD, ladder.ladder(bench.pairs, scratch)
    return _begin_on_images(part, bench)


def _begin_on_images(part: str, bench: Bench) -> tuple[str, Iterator[Finding]]:
    """The parts that need no files."""
    if part == "model":
        from roadmap.bench import model

        return model.METHOD, model.networks(bench.device, bench.pairs)
    if part != "iteration":
        raise KeyError(part)
    from roadmap.bench import iteration, loops

    ours = iteration.iteration(bench.device, bench.pairs)
    beside = loops.loops(bench.device, bench.pairs) if bench.device == "cuda" else ()
    return iteration.METHOD, itertools.chain(ours, beside)


def write(out: Path, part: str, device: str, content: dict[str, Any]) -> Path:
    """Write what a part measured; returns the file."""
    path = out / ("gpu" if device == "cuda" else "cpu") / f"{part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return path
