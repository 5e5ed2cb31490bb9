"""Run folders -> Study, and Study <-> results/<study>/records.jsonl; both -> a table of runs.

A run is never dropped: it is finished, failed or missing. records.jsonl holds all that analysis
needs, so that tables and figures can be made again without runs/:

    line 1      {"format": 3, "study": name, "question": text, "ladder": name, "regime": name} and
                what else study.json says: design, notes, points, cells, comparisons, crossings, undefined
    each other  a planned run's record, in planned order; its status is "missing" without one
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cells import Content, study_of
from analysis.study import Cell, CellId, Comparison, Latency, LatencyTable, Prediction, Run, Study
from roadmap.config.errors import RoadmapError
from roadmap.runs.io import parse_json, read_lines, read_whole
from roadmap.runs.metric import METRICS
from roadmap.runs.record import FAILED, MISSING, Record, damage_of

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 3
READABLE = (1, 2, FORMAT)  # 1 held records of version 1, which `Record.from_json` brings up to date; 1 and 2 no cells
RECORDS = "records.jsonl"
LABELS = ("id", "fingerprint", "regime", "step", "change", "seed")
CURVES = ("epoch", "train_loss", *(metric.curve for metric in METRICS.values()))
AVERAGED_CURVES = tuple(metric.averaged_curve for metric in METRICS.values())

# Infinity and NaN, which a diverged run may leave, are not JSON: they become null here, once, so
# that what is read back later is the same.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def open_study(folder: Path, *, curves: bool = False) -> Study:
    """Read a study from its run folders where they are, else from its committed results."""
    committed = (folder / RECORDS).exists() and not (folder / "study.json").exists()
    return load_results(folder) if committed else gather(folder, curves=curves)


def load_runs(path: Path | str) -> pd.DataFrame:
    """Read a study's folder as one tidy table: a row a planned run, whatever became of it.

    Columns: the labels, `status`, every metric, then the record's other numbers and words, then
    each resolved setting by its dotted name (`model.kernel_size`).
    """
    import pandas as pd

    return pd.DataFrame([_tidy(run) for run in open_study(Path(path)).runs])


def _tidy(run: Run) -> dict[str, Any]:
    """A run as one flat row."""
    content = run.record.to_json()
    row = {label: content.pop(label, None) for label in (*LABELS, "status")}
    resolved = content.pop("resolved", {})
    for apart in ("metrics", "hardware"):
        row |= content.pop(apart, {})
    row |= {f"formats.{name}": value for name, value in content.pop("formats", {}).items()}
    flat = {
        f"{part}.{name}": value
        for part, values in resolved.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
    skipped = ("version", "packages", "earlier", "curves")
    return row | {name: value for name, value in content.items() if name not in skipped} | flat


# Run folders -------------------------------------------------------------------------------------


def gather(folder: Path, *, curves: bool = False) -> Study:
    """Read runs/<study>: study.json and every record.json below it, with `curves` also
    metrics.jsonl.

    Raises RoadmapError where there is no usable study.json.
    """
    header, planned = _header(folder)
    if latency := _latency(folder):
        header["latency"] = latency
    if prediction := _prediction(folder):
        header["prediction"] = prediction
    root = os.fspath(folder)
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    records: dict[str, dict[str, Any]] = {}
    for name in names:
        content = _read_record(f"{root}/{name}/record.json")
        if content is not None:
            records[name] = {**content, "curves": _curves(folder / name)} if curves else content
    runs = [_planned_record(labels, records.pop(labels["id"], None)) for labels in planned]
    for name in sorted(records):
        runs.append(_planned_record(_labels_of_unplanned(folder / name, records[name]), records[name]))
    return study_of(header, runs)


def _header(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content of study.json, and its planned runs' labels."""
    path = folder / "study.json"
    advice = (
        "legal: a study folder that `roadmap run` made, or results/<study> with its records.jsonl; "
        "check the study's name and --out"
    )
    try:
        header = json.loads(path.read_bytes())
        planned = [_labels(trial) for trial in header.pop("trials")]
        _ = [header[key] for key in ("name", "question", "regime")]
    except OSError as e:
        raise RoadmapError(f"report.study {path} cannot be read: {e.strerror}; {advice}") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise RoadmapError(f"report.study {path} is damaged ({type(e).__name__}: {e}); {advice}") from e
    return header, planned


def _labels(trial: Content) -> dict[str, Any]:
    return {label: trial[label] for label in LABELS}


def _latency(folder: Path) -> dict[str, Any]:
    """latency.json without what the runs' records say too."""
    try:
        content = json.loads((folder / "latency.json").read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise RoadmapError(
            f"report.latency {folder / 'latency.json'} is damaged ({e}); "
            "legal: what `roadmap bench --study` wrote; measure it again"
        ) from e
    return {key: content[key] for key in ("hardware", "batch", "precision", "git_commit", "cells")}


def _prediction(folder: Path) -> dict[str, Any]:
    """prediction.json as one: of a run that was predicted more than once, the last counts."""
    path = folder / "prediction.json"
    try:
        launches = json.loads(path.read_bytes())
        seconds = {run: float(value) for launch in launches for run, value in launch["seconds"].items()}
        measured = dict.fromkeys(f"{launch['where']}, {launch['iterations']} iterations" for launch in launches)
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise RoadmapError(
            f"report.prediction {path} is damaged ({type(e).__name__}: {e}); legal: what `roadmap run` wrote; "
            "move it away"
        ) from e
    return {"seconds": seconds, "measured": list(measured)}


def _curves(folder: Path) -> dict[str, list[Any]]:
    """What a run noted at each epoch's end, on the split that it watched: {name: values}."""
    lines, _ = read_lines(folder / "metrics.jsonl")
    curves: dict[str, list[Any]] = {}
    for name in (*CURVES, *AVERAGED_CURVES):
        values = [_rounded(line.get(name)) for line in lines]
        if values.count(None) < len(values):
            curves[name] = values
    return curves


def _rounded(value: Any) -> Any:
    """A number with four decimals; None for what is not finite."""
    if not isinstance(value, float):
        return value
    return round(value, 4) if math.isfinite(value) else None


def _read_record(path: str) -> dict[str, Any] | None:
    """The record's content, None where there is none, or a failed one that says what is wrong."""
    try:
        content = read_whole(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        return _damaged(f"record.json cannot be read: {e.strerror}")
    try:
        record = parse_json(content, _finite)
    except (ValueError, RecursionError) as e:
        return _damaged(f"record.json is damaged: {e}")
    if damage := damage_of(record):
        return _damaged(f"record.json is damaged: {damage}")
    whole: dict[str, Any] = record
    return whole


def _finite(content: bytes) -> Any:
    """A JSON document's value in which what is not finite is None. Raises ValueError."""
    return _DECODER.decode(content.decode())


def _damaged(error: str) -> dict[str, Any]:
    return {"status": FAILED, "damaged": True, "error": error}


def _planned_record(planned: Content, content: dict[str, Any] | None) -> Record:
    """Labels as planned, values as recorded.

    A record of another trial in the folder is not this run's.
    """
    if content is None:
        return Record(status=MISSING, **planned)
    theirs = content.get("fingerprint", planned["fingerprint"])
    if theirs != planned["fingerprint"]:
        content = _damaged(f"record.json is of trial {str(theirs)[:10]}, not {str(planned['fingerprint'])[:10]}")
    return Record.from_json({**content, **planned})


def _labels_of_unplanned(folder: Path, content: Content) -> dict[str, Any]:
    """Labels of a run that study.json does not list: from its record, then its trial.json, else
    empty."""
    try:
        trial = json.loads((folder / "trial.json").read_bytes())
    except (OSError, ValueError):
        trial = {}
    known = {**(trial if isinstance(trial, dict) else {}), **content}
    return {**{label: known.get(label, "") for label in LABELS}, "id": folder.name}


# records.jsonl -----------------------------------------------------------------------------------


def to_lines(study: Study) -> bytes:
    """The content of records.jsonl."""
    label = {id_: [cell.step, cell.change] for id_, cell in study.cells.items()}
    header = {
        "format": FORMAT,
        "study": study.name,
        "question": study.question,
        "ladder": study.ladder,
        "regime": study.regime,
        "design": study.design,
        "notes": list(study.notes),
        "points": list(study.points),
        "cells": _distinct(_cell_to_json(cell) for cell in study.cells.values()),
        "comparisons": _comparisons_to_json(study.comparisons, label),
        "crossings": _comparisons_to_json(study.crossings, label),
        "undefined": {undefined.label: undefined.reason for undefined in study.undefined},
        "latency": _latency_to_json(study.latency, label),
        **_prediction_to_json(study.prediction),
    }
    contents = [header, *(run.record.to_json() for run in study.runs)]
    return "".join(json.dumps(content, allow_nan=False) + "\n" for content in contents).encode()


def _distinct(contents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each content once: a comparison holds in every regime of a study, and is written once."""
    return list({json.dumps(content): content for content in contents}.values())


def _cell_to_json(cell: Cell) -> dict[str, Any]:
    return {
        "step": cell.step,
        "change": cell.change,
        "arm": cell.arm,
        "point": cell.point,
        "undone": cell.undone,
    }


def _comparisons_to_json(comparisons: Iterable[Comparison], label: Mapping[CellId, list[str]]) -> list[dict[str, Any]]:
    return _distinct(_comparison_to_json(c, label) for c in comparisons)


def _comparison_to_json(c: Comparison, label: Mapping[CellId, list[str]]) -> dict[str, Any]:
    content = {"child": label[c.child], "parent": label[c.parent], "declared": list(c.declared), "kind": c.kind}
    if c.planned is None:
        return content
    return {**content, "planned": {name: list(pair) for name, pair in c.planned.items()}}


def _latency_to_json(table: LatencyTable | None, label: Mapping[CellId, list[str]]) -> dict[str, Any]:
    if table is None:
        return {}

    def one(id_: CellId, timed: Latency) -> dict[str, Any]:
        return {"cell": label[id_], "ms": timed.ms, "low": timed.low, "high": timed.high, "rounds": timed.rounds}

    return {
        "hardware": table.hardware.to_json(),
        "batch": table.batch,
        "precision": table.precision,
        "git_commit": table.git_commit,
        "cells": _distinct(one(id_, timed) for id_, timed in table.cells.items()),
    }


def _prediction_to_json(prediction: Prediction | None) -> dict[str, Any]:
    """Nothing where nothing was predicted: records of before there were predictions stay as they are."""
    if prediction is None:
        return {}
    return {"prediction": {"seconds": dict(prediction.seconds), "measured": list(prediction.measured)}}


def load_results(folder: Path) -> Study:
    """Read back results/<study>/records.jsonl.

    Raises RoadmapError where it is damaged: a committed file is whole, or it is no evidence.
    """
    path = folder / RECORDS
    advice = "legal: what `roadmap report` wrote; restore it from git or report the study again"
    try:
        return _from_lines(path.read_bytes().splitlines())
    except OSError as e:
        raise RoadmapError(f"report.study {path} cannot be read: {e.strerror}; {advice}") from e
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        raise RoadmapError(f"report.study {path} is damaged ({type(e).__name__}: {e}); {advice}") from e


def _from_lines(lines: Sequence[bytes]) -> Study:
    header, *contents = [json.loads(line) for line in lines]
    if header.pop("format") not in READABLE:
        raise ValueError(f"format is unknown, this program reads {' and '.join(map(str, READABLE))}")
    for content in contents:
        _ = [content[key] for key in (*LABELS, "status")]
    return study_of({**header, "name": header["study"]}, [Record.from_json(content) for content in contents])
