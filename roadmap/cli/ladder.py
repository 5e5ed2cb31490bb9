"""steps and diff: a ladder as a table, and what changes between two of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from roadmap.cli.console import print_json, print_table
from roadmap.config.errors import ConfigError, lookup
from roadmap.config.fields import diff, parse_setting, show
from roadmap.config.model import ModelSpec
from roadmap.ladder.convnext import Step, change_of, find_regime, find_step, ladder, resolve
from roadmap.study.designs import step_recipe

if TYPE_CHECKING:
    from roadmap.model.module_diff import StructureDiff

DEFAULT_LADDER, DEFAULT_REGIME = "convnext", "resnet50"
COUNTS = ("params", "macs", "norms", "activations")


def check_ladder(name: str | None) -> None:
    """Refuse a ladder that is not there. Raises ConfigError."""
    lookup("ladder", name or DEFAULT_LADDER, {DEFAULT_LADDER: "ConvNeXt"})


def _overrides(texts: Sequence[str]) -> dict[str, Any]:
    """{toggle: typed value} of what --set says."""
    return dict(parse_setting("ModelSpec", ModelSpec, text) for text in texts)


# steps --------------------------------------------------------------------------------------------


def show_steps(regime: str | None, settings: Sequence[str], *, ladder_name: str | None, as_json: bool) -> int:
    """Print the ladder, every network counted as it is built."""
    check_ladder(ladder_name)
    where = find_regime(regime or DEFAULT_REGIME)
    overrides = _overrides(settings)
    rows = [_step_json(step, where.name, overrides) for step in ladder(side_steps=True)]
    if as_json:
        print_json(rows)
        return 0
    columns = ["id", "step", "changes", "params", "GMACs", "paper top-1", "paper std", "paper GFLOPs"]
    title = f"{where.name}: {where.title}, {where.image_size} px"
    print_table(title, columns, [_step_row(row) for row in rows], left=3)
    if "layer_scale" not in overrides:
        print(
            "params: without LayerScale, as the paper's networks are usually counted; "
            "--set layer_scale=1e-6 counts it in"
        )
    for row in rows:
        if "not_defined" in row:
            print(f"{row['name']}: not defined: {row['not_defined']}")
    return 0


def _step_row(row: Mapping[str, Any]) -> list[str]:
    """The line of a step in the table."""
    counts = ["not defined", ""]
    if row["params"] is not None:
        counts = [f"{row['params']:,}", f"{row['macs'] / 1e9:.3f}"]
    paper = [_two_decimals(row[key]) for key in ("paper_top1", "paper_top1_std", "paper_gflops")]
    return [row["id"] or "", row["name"], row["title"], *counts, *paper]


def _two_decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _step_json(step: Step, regime: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """One step as data. `params` leaves LayerScale out unless an override asks for it;

    `params_layer_scale` counts it in.
    """
    from roadmap.model.complexity import complexity

    where = find_regime(regime)
    paper = where.paper.get(step.name)
    row: dict[str, Any] = {
        "id": step.id,
        "name": step.name,
        "parent": step.parent,
        "on_path": step.on_path,
        "title": step.title,
        "group": step.group,
        "change": {name: _as_json(value) for name, value in change_of(step, where).items()},
        "params": None,
        "params_layer_scale": None,
        "macs": None,
        "paper_top1": paper.top1 if paper else None,
        "paper_top1_std": paper.std if paper else None,
        "paper_gflops": paper.gflops if paper else None,
        "source": step.source,
        "evidence": step.evidence,
    }
    try:
        bare = resolve(step.name, regime, **{"layer_scale": None, **overrides})
        scaled = resolve(step.name, regime, **{**overrides, "layer_scale": 1e-6})
        counted = complexity(bare, where.image_size)
        with_scale = complexity(scaled, where.image_size)
    except ConfigError as e:
        return {**row, "not_defined": str(e)}
    return {**row, "params": counted.params, "params_layer_scale": with_scale.params, "macs": counted.macs}


# diff ---------------------------------------------------------------------------------------------


def show_diff(
    a: str, b: str, regime: str | None, settings: Sequence[str], *, ladder_name: str | None, as_json: bool
) -> int:
    """Print everything in which two steps differ; the overrides apply to the second."""
    from roadmap.model.module_diff import structure_diff

    check_ladder(ladder_name)
    first, second, where = find_step(a), find_step(b), find_regime(regime or DEFAULT_REGIME)
    overrides = _overrides(settings)
    before, after = resolve(first.name, where.name), resolve(second.name, where.name, **overrides)
    structure = structure_diff(before, after, where.image_size)
    differences = {
        "spec": diff(before, after),
        "recipe": diff(step_recipe(first, where.name), step_recipe(second, where.name)),
    }
    if as_json:
        names = {"a": first.name, "b": second.name, "regime": where.name}
        overridden = {name: show(value) for name, value in overrides.items()}
        print_json({**names, "set": overridden, **_differences_json(differences), **_structure_json(structure)})
        return 0
    rows = [row for kind, found in differences.items() for row in _difference_rows(kind, found)]
    for name in COUNTS:
        x, y = _pair(structure, name)
        rows.append(["counts", name, f"{x:,}", f"{y:,}"])
    changed = " with " + " ".join(settings) if settings else ""
    title = f"{first.name} -> {second.name}{changed} ({where.name}, {where.image_size} px)"
    print_table(title, ["of", "what", first.name, second.name], rows)
    _print_structure(structure)
    return 0


Differences = Mapping[str, tuple[Any, Any]]


def _difference_rows(kind: str, differences: Differences) -> list[list[str]]:
    return [[kind, name, show(x), show(y)] for name, (x, y) in differences.items()]


def _differences_json(differences: Mapping[str, Differences]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for kind, found in differences.items():
        values[kind] = {name: [_as_json(x), _as_json(y)] for name, (x, y) in found.items()}
    return values


def _structure_json(structure: StructureDiff) -> dict[str, Any]:
    modules = {
        "roles": sorted(structure.roles),
        "added": structure.added,
        "removed": structure.removed,
        "changed": {name: list(texts) for name, texts in structure.changed.items()},
    }
    return {"structure": modules, **{name: _pair(structure, name) for name in COUNTS}}


def _pair(structure: StructureDiff, count: str) -> list[int]:
    """[before, after] of a count."""
    return [getattr(structure.before, count), getattr(structure.after, count)]


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _print_structure(structure: StructureDiff) -> None:
    """Print the modules that differ by role: how many of each, with one example."""
    from roadmap.model.module_diff import role

    texts = [("added", name, text) for name, text in structure.added.items()]
    texts += [("removed", name, text) for name, text in structure.removed.items()]
    texts += [("changed", name, " -> ".join(text)) for name, text in structure.changed.items()]
    examples: dict[tuple[str, str], list[str]] = {}
    for verb, name, text in texts:
        examples.setdefault((verb, role(name)), []).append(f"{name}: {text}")
    if examples:
        rows = [[verb, of_role, lines[0], str(len(lines))] for (verb, of_role), lines in examples.items()]
        print_table("modules", ["", "role", "example", "count"], rows, left=3)
