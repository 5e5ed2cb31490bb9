"""What files say of a study -> its cells, runs and comparisons.

Files name a cell by its step and the text of what is set on top of it; from here on a cell is what
its configuration says.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.study import Cell, CellId, Comparison, Kind, Latency, LatencyTable, Prediction, Run, Study, Undefined
from roadmap.ladder import DEFAULT
from roadmap.runs.record import Hardware, Record

Content = Mapping[str, Any]  # an object of JSON
Label = tuple[str, str]  # a cell as files name it: step and change


def study_of(header: Content, records: Sequence[Record]) -> Study:
    """A study from the content of study.json (or of the first line of records.jsonl) and its runs'
    records.
    """
    regimes = dict.fromkeys([str(header["regime"]), *(record.regime for record in records)])
    compared = list(header.get("comparisons", []))
    crossed = list(header.get("crossings", []))
    points = list(header.get("points", []))
    described = {_label((c["step"], c["change"])): c for c in _described(header)}
    found: dict[str, dict[Label, Cell]] = {}
    taken: set[CellId] = set()
    for regime in regimes:
        own = [record for record in records if record.regime == regime]
        found[regime] = _cells(regime, own, [*compared, *crossed], described, taken)
    runs = [_run(record, found[record.regime]) for record in records]
    in_regimes = list(found.values())
    return Study(
        name=str(header["name"]),
        question=str(header["question"]),
        ladder=str(header.get("ladder", DEFAULT)),
        regime=str(header["regime"]),
        runs=runs,
        design=header.get("design", "ladder"),
        notes=list(header.get("notes", [])),
        points=points,
        comparisons=_comparisons(compared, in_regimes),
        crossings=_comparisons(crossed, in_regimes),
        undefined=[Undefined(*named) for named in header.get("undefined", {}).items()],
        latency=_latency_table(header.get("latency"), in_regimes),
        prediction=_prediction(header.get("prediction")),
        cells=_by_id(in_regimes),
    )


def _by_id(in_regimes: Iterable[Mapping[Label, Cell]]) -> dict[CellId, Cell]:
    return {cell.id: cell for cells in in_regimes for cell in cells.values()}


def _run(record: Record, cells: Mapping[Label, Cell]) -> Run:
    cell = cells[record.step, record.change]
    return Run(record.id, record.fingerprint, record.regime, cell, record.seed, record)  # type: ignore[arg-type]


def _cells(
    regime: str,
    records: Sequence[Record],
    compared: Sequence[Content],
    described: Mapping[Label, Content],
    taken: set[CellId],
) -> dict[Label, Cell]:
    """Every cell of a regime that has runs or is compared.

    Each identity is given once (`taken`).
    """
    configurations: dict[Label, Counter[str]] = defaultdict(Counter)
    for record in records:
        counted = configurations[record.step, record.change]
        if record.configuration:
            counted[record.configuration] += 1
    roles: dict[Label, str] = {}
    for c in compared:
        for label in (_label(c["child"]), _label(c["parent"])):
            _ = configurations[label]
        if Kind(c["kind"]) is Kind.A_A:
            roles[_label(c["child"])] = c["kind"]
    cells: dict[Label, Cell] = {}
    for (step, change), counted in configurations.items():
        most = counted.most_common(1)
        configuration = most[0][0] if most else f"{regime}: {change}"
        id_ = CellId(step, configuration, roles.get((step, change), ""))
        cells[step, change] = _cell(_untaken(id_, taken), step, change, described.get((step, change)))
    return cells


def _untaken(id_: CellId, taken: set[CellId]) -> CellId:
    """The identity, or one with a number in its role where a step has the same configuration twice."""
    number, unique = 2, id_
    while unique in taken:
        unique = CellId(id_.step, id_.configuration, f"{id_.role or 'again'}-{number}")
        number += 1
    taken.add(unique)
    return unique


def _cell(id_: CellId, step: str, change: str, described: Content | None) -> Cell:
    """A cell as its study describes it; one that the study does not plan is what its run says."""
    if described is None:
        return Cell(id_, step, change, change)
    return Cell(id_, step, change, described["arm"], described["point"], described["undone"])


def _described(header: Content) -> Sequence[Content]:
    """What the file says of its cells.

    Files of before say it by the words of a change alone: this brings them up to date.
    """
    if header.get("cells"):
        return list(header["cells"])
    ends = [*header.get("comparisons", ()), *header.get("crossings", ())]
    labels = dict.fromkeys(_label(c[side]) for c in ends for side in ("parent", "child"))
    return [_from_words(step, change, list(header.get("points", ()))) for step, change in labels]


def _from_words(step: str, change: str, points: Sequence[str]) -> Content:
    ends_with = (i for i, text in enumerate(points) if f" {change}".endswith(f" {text}"))
    point = next(ends_with, None)
    arm = change if point is None else change.removesuffix(points[point]).strip()
    undone = arm.removeprefix("without ") if arm.startswith("without ") else ""
    return {"step": step, "change": change, "arm": arm, "point": point, "undone": undone}


def _label(names: Sequence[Any]) -> Label:
    step, change = names
    return str(step), str(change)


def _comparisons(contents: Iterable[Content], in_regimes: Iterable[Mapping[Label, Cell]]) -> list[Comparison]:
    """The comparisons of a file, which hold in every regime."""
    listed = list(contents)
    return [_comparison(content, cells) for cells in in_regimes for content in listed]


def _comparison(content: Content, cells: Mapping[Label, Cell]) -> Comparison:
    planned = content.get("planned")
    if planned is not None:
        planned = {name: (before, after) for name, (before, after) in planned.items()}
    return Comparison(
        child=cells[_label(content["child"])].id,
        parent=cells[_label(content["parent"])].id,
        declared=tuple(content["declared"]),
        kind=Kind(content["kind"]),
        planned=planned,
    )


def _latency_table(content: Content | None, in_regimes: Iterable[Mapping[Label, Cell]]) -> LatencyTable | None:
    if not content:
        return None
    timed: dict[CellId, Latency] = {}
    for cells in in_regimes:
        for line in content["cells"]:
            if cell := cells.get(_label(line["cell"])):
                timed[cell.id] = Latency(line["ms"], line["low"], line["high"], line["rounds"])
    hardware = Hardware.from_json(content["hardware"])
    return LatencyTable(hardware, content["batch"], content["precision"], content["git_commit"], timed)


def _prediction(content: Content | None) -> Prediction | None:
    if not content:
        return None
    return Prediction(seconds=content["seconds"], measured=tuple(content["measured"]))
