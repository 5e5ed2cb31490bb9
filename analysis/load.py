"""Run folders -> Study, and Study <-> results/<study>/records.jsonl; both -> a table of runs.

A run is never dropped: it is finished, failed or missing. records.jsonl holds all that analysis
needs, so that tables and figures can be made again without runs/:

    line 1      {"format": 3, "study": name, "question": text, "ladder": name, "regime": name} and
                what else study.json says: design, notes, points, cells, comparisons, crossings, undefined
    each other  a planned run's record, in planned order; its status is "missing" without one
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cells import Content, study_of
from analysis.study import Cell, CellId, Comparison, Latency, LatencyTable, Prediction, Run, Study
from roadmap.config.errors import RoadmapError
from roadmap.runs.changes import ChangedFiles, Files
from roadmap.runs.io import parse_json, read_lines, read_whole
from roadmap.runs.metric import METRICS
from roadmap.runs.record import FAILED, MISSING, VERSION, Record, damage_of

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 3
READABLE = (1, 2, FORMAT)  # 1 held records of version 1, which `Record.from_json` brings up to date; 1 and 2 no cells
RECORDS = "records.jsonl"
LABELS = ("id", "fingerprint", "regime", "step", "change", "seed")
_labels_in = itemgetter(*LABELS)
CURVES = ("epoch", "train_loss", *(metric.curve for metric in METRICS.values()))
AVERAGED_CURVES = tuple(metric.averaged_curve for metric in METRICS.values())

# Infinity and NaN, which a diverged run may leave, are not JSON: they become null here, once, so
# that what is read back later is the same.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def open_study(folder: Path, *, curves: bool = False) -> Study:
    """Read a study from its run folders where they are, else from its committed results."""
    return load_results(folder) if _committed(folder) else gather(folder, curves=curves)


def _committed(folder: Path) -> bool:
    """Whether a folder holds the results of a study and not its runs."""
    return (folder / RECORDS).exists() and not (folder / "study.json").exists()


class LiveStudy:
    """A study whose runs may go on: each look reads what has changed since the one before."""

    def __init__(self, folder: Path, *, curves: bool = False) -> None:
        self.folder, self.curves = folder, curves
        self._files = ChangedFiles()
        self._gathered: Gathered | None = None
        self._study: Study | None = None

    def now(self) -> Study:
        """The study as its files are now: the same object for as long as they say the same.

        Raises RoadmapError where they cannot be read.
        """
        if _committed(self.folder):
            return self._files.read(f"{self.folder}/{RECORDS}", _load_lines)
        with _collector_paused():
            gathered = _gathered(self.folder, self._files, curves=self.curves)
            if self._study is None or gathered != self._gathered:
                self._study, self._gathered = _study(self.folder, gathered), gathered
            return self._study


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
    skipped = ("version", "packages", "libraries", "data_contents", "earlier", "previous", "hits", "curves")
    return row | {name: value for name, value in content.items() if name not in skipped} | flat


# Run folders -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gathered:
    """What the files below a study's folder say. planned: its runs' labels; records: by run."""

    header: Content
    planned: Sequence[Content]
    records: Mapping[str, dict[str, Any]]


def gather(folder: Path, *, curves: bool = False) -> Study:
    """Read runs/<study>: study.json and every record.json below it, with `curves` also
    metrics.jsonl.

    Raises RoadmapError where there is no usable study.json.
    """
    with _collector_paused():
        return _study(folder, _gathered(folder, Files(), curves=curves))


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from walking again and again over what is read: it has no cycles."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _gathered(folder: Path, files: Files, *, curves: bool) -> Gathered:
    root = os.fspath(folder)
    header, planned = files.read(f"{root}/study.json", _header)
    beside = {
        "latency": files.read(f"{root}/latency.json", _latency),
        "prediction": files.read(f"{root}/prediction.json", _prediction),
    }
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    records: dict[str, dict[str, Any]] = {}
    for name in names:
        content = files.read(f"{root}/{name}/record.json", _read_record)
        if content is not None:
            drawn = {"curves": files.read(f"{root}/{name}/metrics.jsonl", _curves)} if curves else {}
            records[name] = {**content, **drawn} if drawn else content
    return Gathered({**header, **{key: value for key, value in beside.items() if value}}, planned, records)


def _study(folder: Path, gathered: Gathered) -> Study:
    records = dict(gathered.records)
    runs = [_planned_record(labels, records.pop(labels["id"], None)) for labels in gathered.planned]
    for name in sorted(records):
        runs.append(_planned_record(_labels_of_unplanned(folder / name, records[name]), records[name]))
    return study_of(gathered.header, runs)


def _header(path: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content of study.json, and its planned runs' labels."""
    advice = (
        "legal: a study folder that `roadmap run` made, or results/<study> with its records.jsonl; "
        "check the study's name and --out"
    )
    try:
        header = parse_json(read_whole(path))
        planned = [_labels(trial) for trial in header.pop("trials")]
        _ = [header[key] for key in ("name", "question", "regime")]
    except OSError as e:
        raise RoadmapError(f"report.study {path} cannot be read: {e.strerror}; {advice}") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise RoadmapError(f"report.study {path} is damaged ({type(e).__name__}: {e}); {advice}") from e
    return header, planned


def _labels(trial: Content) -> dict[str, Any]:
    return dict(zip(LABELS, _labels_in(trial), strict=True))


def _latency(path: str) -> dict[str, Any]:
    """latency.json without what the runs' records say too."""
    try:
        content = parse_json(read_whole(path))
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise RoadmapError(
            f"report.latency {path} is damaged ({e}); legal: what `roadmap bench --study` wrote; measure it again"
        ) from e
    return {key: content[key] for key in ("hardware", "batch", "precision", "git_commit", "cells")}


def _prediction(path: str) -> dict[str, Any]:
    """prediction.json as one: of a run that was predicted more than once, the last counts."""
    try:
        launches = parse_json(read_whole(path))
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


def _curves(path: str) -> dict[str, list[Any]]:
    """What a run noted in metrics.jsonl at each epoch's end, on the split that it watched: {name:
    values}.
    """
    lines, _ = read_lines(path)
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
    used_up = {**content} if content.get("version") != VERSION else content  # an older one is changed as it is read
    record = Record.from_json(used_up)
    for label, value in planned.items():
        setattr(record, label, value)
    return record


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
    return _load_lines(f"{folder}/{RECORDS}")


def _load_lines(path: str) -> Study:
    advice = "legal: what `roadmap report` wrote; restore it from git or report the study again"
    try:
        return _from_lines(read_whole(path).splitlines())
    except OSError as e:
        raise RoadmapError(f"report.study {path} cannot be read: {e.strerror}; {advice}") from e
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        raise RoadmapError(f"report.study {path} is damaged ({type(e).__name__}: {e}); {advice}") from e


def _from_lines(lines: Sequence[bytes]) -> Study:
    header, *contents = map(parse_json, lines)
    if header.pop("format") not in READABLE:
        raise ValueError(f"format is unknown, this program reads {' and '.join(map(str, READABLE))}")
    for content in contents:
        _ = [content[key] for key in (*LABELS, "status")]
    return study_of({**header, "name": header["study"]}, [Record.from_json(content) for content in contents])
