"""Run folders -> Study, and Study <-> results/<study>/records.jsonl. A run is never dropped: it is finished, failed or missing.

records.jsonl, so that tables and figures can be made again without runs/:
    line 1     {"format": 1, "study": name, "question": text, "regime": name, and what `roadmap.study.Study.header` says: design, notes, comparisons, undefined}
    then one line per planned trial, in planned order: its labels and all that its record says; `status` is "missing" where there is none.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadmap.config.errors import RoadmapError
from roadmap.runs.io import read_lines
from roadmap.runs.record import DIVERGED, FAILED, FINISHED, INTERRUPTED

FORMAT = 1
MISSING = "missing"
DEVICE_HOURS = "device-hours"
LABELS = ("id", "fingerprint", "regime", "step", "change", "seed")
RECORDS = "records.jsonl"

Entry = dict[str, Any]

# Infinity and NaN, which a diverged run may leave, are not JSON: they become null here, once, so that what is read back later is the same.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


@dataclass(frozen=True)
class Study:
    """A question and its planned trials; each trial's entry holds its labels (`LABELS`), `status`, and its record's values where there is one.

    comparisons: {"child": [step, change], "parent": [step, change], "declared": [settings], "kind": "step"|"change"|"subject"|"a-a"|"no-op"}.
    crossings: as comparisons, each cell of a crossed design against the same one at the first of the `points`.
    points: labels of the values that the design is crossed with, which end its cells' labels.
    undefined: why a planned cell cannot be built. latency: what `roadmap bench --study` measured, {"hardware": {...}, "cells": [{"cell": [step, change], "ms", "low", "high", "rounds"}]}.
    """

    name: str
    question: str
    regime: str
    trials: list[Entry]
    design: str = "ladder"
    notes: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    crossings: list[dict[str, Any]] = field(default_factory=list)
    undefined: dict[str, str] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)

    @property
    def records(self) -> list[Entry]:
        """The entries that have a record, whatever its status."""
        return [t for t in self.trials if t["status"] != MISSING]

    @property
    def regimes(self) -> list[str]:
        """Every regime that trials are planned in, the study's own first."""
        return list(dict.fromkeys([self.regime, *(t["regime"] for t in self.trials)]))


def outcome(entry: Entry) -> str:
    """How a planned trial counts: 'finished', 'failed' (also diverged, damaged, or without a top-1) or 'missing' (also interrupted)."""
    if entry["status"] == FINISHED:
        return FINISHED if _is_number(accuracy(entry)) else FAILED
    return MISSING if entry["status"] in (MISSING, INTERRUPTED) else FAILED


def common_words(study: Study) -> str:
    """What is set on every network of a study that compares networks: it need not stand in each row."""
    texts = {t["change"] for t in study.trials}
    return texts.pop() if study.design == "models" and len(texts) == 1 else ""


def averaged(entry: Entry) -> bool:
    """Whether the trial keeps a moving average of its weights (EMA)."""
    return entry.get("ema_top1") is not None


def accuracy(entry: Entry) -> Any:
    """The trial's top-1, percent: of the averaged weights where there are any, for the step `ema` changes nothing else; otherwise of the last weights."""
    return entry["ema_top1"] if averaged(entry) else entry.get("top1")


def seed_order(entry: Entry) -> tuple[str, Any]:
    """Sorts runs by their seeds, which a damaged record may hold as something else than numbers."""
    return str(type(entry["seed"])), entry["seed"]


def machine(entry: Entry) -> tuple[Any, ...]:
    """What decides a run's speed beside its settings: the type of GPU and how many, or the processor, the threads at work on it and the processes."""
    h = entry.get("hardware") or {}
    of_cpu = (h.get("cpu"), h.get("threads")) if h.get("device") == "cpu" else ()
    return (h.get("device"), *of_cpu, entry.get("world_size"))


def device_hours(entry: Entry) -> tuple[float, str]:
    """(time x devices in hours, its unit): GPU-hours, on CPUs core-hours of the threads at work; device-hours where the record does not say on what."""
    h = entry.get("hardware") or {}
    on_cpu = h.get("device") == "cpu"
    devices = (entry.get("world_size") or 1) * ((h.get("threads") or 1) if on_cpu else 1)
    return devices * (entry.get("wall_seconds") or 0) / 3600, "core-hours" if on_cpu else "GPU-hours" if h.get(
        "device"
    ) else DEVICE_HOURS


def reason(entry: Entry) -> str:
    """Why an entry is not averaged, in a few words."""
    status = entry["status"]
    if error := entry.get("error"):
        return f"{status}: {' '.join(str(error).split())}"
    words = {
        FINISHED: "finished without a top-1",
        DIVERGED: "diverged",
        INTERRUPTED: "interrupted, not finished",
        MISSING: "no record",
    }
    return words.get(status, f"{status}, no error noted")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def gather(folder: Path, *, curves: bool = False) -> Study:
    """Read runs/<study>: study.json and every record.json below it, with `curves` also the runs' metrics.jsonl. Raises RoadmapError where there is no usable study.json."""
    header = _header(folder)
    if latency := _latency(folder):
        header["more"]["latency"] = latency
    root = os.fspath(folder)
    found: dict[str, Entry] = {}
    with os.scandir(root) as entries:
        names = [e.name for e in entries if e.is_dir()]
    for name in names:
        record = _read_record(f"{root}/{name}/record.json")
        if record is not None:
            found[name] = {**record, "curves": _curves(folder / name)} if curves else record
    trials = [_entry(planned, found.pop(planned["id"], None)) for planned in header["trials"]]
    trials += [_entry(_labels_of_unplanned(folder / name, found[name]), found[name]) for name in sorted(found)]
    return Study(header["name"], header["question"], header["regime"], trials, **header["more"])


def _latency(folder: Path) -> dict[str, Any]:
    """latency.json without what the runs' records say too."""
    try:
        content = json.loads((folder / "latency.json").read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise RoadmapError(
            f"report.latency {folder / 'latency.json'} is damaged ({e}); legal: what `roadmap bench --study` wrote; measure it again"
        ) from e
    return {key: content[key] for key in ("hardware", "batch", "precision", "git_commit", "cells")}


CURVES = ("epoch", "train_loss", "top1", "ema_top1")


def _curves(folder: Path) -> dict[str, list[Any]]:
    """What a run noted at each epoch's end, on the split that it watched: {name: values}, four decimals."""
    lines, _ = read_lines(folder / "metrics.jsonl")
    shown = {name: [_rounded(line.get(name)) for line in lines] for name in CURVES}
    return {name: values for name, values in shown.items() if any(v is not None for v in values)}


def _rounded(value: Any) -> Any:
    return (round(value, 4) if math.isfinite(value) else None) if isinstance(value, float) else value


MORE = ("design", "notes", "points", "comparisons", "crossings", "undefined", "latency")


def _header(folder: Path) -> dict[str, Any]:
    path = folder / "study.json"
    advice = "legal: a study folder that `roadmap run` made, or results/<study> with its records.jsonl; check the study's name and --out"
    try:
        header = json.loads(path.read_bytes())
        planned = [{label: t[label] for label in LABELS} for t in header["trials"]]
        return {
            "name": str(header["name"]),
            "question": str(header["question"]),
            "regime": str(header["regime"]),
            "trials": planned,
            "more": {k: header[k] for k in MORE if k in header},
        }
    except OSError as e:
        raise RoadmapError(f"report.study {path} cannot be read: {e.strerror}; {advice}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise RoadmapError(f"report.study {path} is damaged ({type(e).__name__}: {e}); {advice}") from e


def _read_record(path: str) -> Entry | None:
    """The record, None where there is none, or a failed one that says what is wrong with the file."""
    try:
        with open(path, "rb") as f:
            content = f.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        return _damaged(f"record.json cannot be read: {e.strerror}")
    try:
        record = _DECODER.decode(content.decode())
    except (ValueError, RecursionError) as e:
        return _damaged(f"record.json is damaged: {e}")
    if not isinstance(record, dict) or not isinstance(record.get("status"), str):
        return _damaged("record.json is damaged: it has no status")
    return record


def _damaged(error: str) -> Entry:
    return {"status": FAILED, "damaged": True, "error": error}


def _entry(planned: Entry, record: Entry | None) -> Entry:
    """Labels as planned, values as recorded. A record of another trial in the folder is not this trial's."""
    if record is None:
        return {**planned, "status": MISSING}
    theirs = record.get("fingerprint", planned["fingerprint"])
    if theirs != planned["fingerprint"]:
        record = _damaged(f"record.json is of trial {str(theirs)[:10]}, not {str(planned['fingerprint'])[:10]}")
    return {**record, **planned}


def _labels_of_unplanned(folder: Path, record: Entry) -> Entry:
    """Labels of a run that study.json does not list: from its record, then from its trial.json, else empty."""
    try:
        trial = json.loads((folder / "trial.json").read_bytes())
    except (OSError, ValueError):
        trial = {}
    known = {**(trial if isinstance(trial, dict) else {}), **record}
    return {**{label: known.get(label, "") for label in LABELS}, "id": folder.name}


def to_lines(study: Study) -> bytes:
    """The content of records.jsonl."""
    header = {
        "format": FORMAT,
        "study": study.name,
        "question": study.question,
        "regime": study.regime,
        **{k: getattr(study, k) for k in MORE},
    }
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in (header, *study.trials)).encode()


def load_results(folder: Path) -> Study:
    """Read back results/<study>/records.jsonl. Raises RoadmapError: a committed file is whole, or it is no evidence."""
    path = folder / RECORDS
    advice = "legal: what `roadmap report` wrote; restore it from git or report the study again"
    try:
        return _from_lines(path.read_bytes().splitlines())
    except OSError as e:
        raise RoadmapError(f"report.study {path} cannot be read: {e.strerror}; {advice}") from e
    except (ValueError, KeyError, TypeError, IndexError) as e:
        raise RoadmapError(f"report.study {path} is damaged ({type(e).__name__}: {e}); {advice}") from e


def _from_lines(lines: Iterable[bytes]) -> Study:
    header, *trials = [json.loads(line) for line in lines]
    if header["format"] != FORMAT:
        raise ValueError(f"format {header['format']}, this program reads {FORMAT}")
    for t in trials:
        _ = [t[key] for key in (*LABELS, "status")]
    return Study(
        header["study"], header["question"], header["regime"], trials, **{k: header[k] for k in MORE if k in header}
    )


def open_study(folder: Path, *, curves: bool = False) -> Study:
    """A study from its run folders where they are, else from its committed results."""
    return (
        gather(folder, curves=curves)
        if (folder / "study.json").exists() or not (folder / RECORDS).exists()
        else load_results(folder)
    )
