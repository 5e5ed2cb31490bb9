"""steps and diff: a ladder as a table, and what changes between two of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from roadmap.cli.console import print_json, print_table
from roadmap.cli.counts import LAYER_SCALE, USUAL_SCALE, counts
from roadmap.config.errors import ConfigError, listing
from roadmap.config.fields import diff, show
from roadmap.config.model import ModelSpec
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.ladder import Ladder, Regime, Step, find_ladder
from roadmap.ladder.ladder import RECIPE
from roadmap.study.overrides import Override, parse_text, resized

if TYPE_CHECKING:
    from roadmap.model.module_diff import ModuleDiff

COUNTS = ("params", "macs", "norms", "activations")
Differences = Mapping[str, tuple[Any, Any]]


def _overrides(texts: Sequence[str], regime: Regime) -> list[Override]:
    """What --set says, read for the networks of the regime. Raises ConfigError."""
    return [parse_text(text, type(regime.base)) for text in texts]


# steps ----------------------------------------------------------------------------------------


def show_steps(ladder: Ladder, regime: Regime, settings: Sequence[str], *, as_json: bool) -> int:
    """Print the ladder, every network counted as it is built; `settings`: overrides, as texts."""
    toggles = _toggles(_overrides(settings, regime))
    rows = [_step_json(ladder, step, regime, toggles) for step in ladder.order(side_steps=True)]
    if as_json:
        print_json(rows)
        return 0
    columns = ["id", "step", "changes", "params", "GMACs", "paper top-1", "paper std", "paper GFLOPs"]
    title = f"{regime.name}: {regime.title}, {regime.image_size} px"
    print_table(title, columns, [_step_row(row) for row in rows], left=3)
    if isinstance(regime.base, ModelSpec) and LAYER_SCALE not in toggles:
        usual = "params: without LayerScale, as the paper's networks are usually counted"
        print(f"{usual}; --set {LAYER_SCALE}={show(USUAL_SCALE)} counts it in")
    for row in rows:
        if "not_defined" in row:
            print(f"{row['name']}: not defined: {row['not_defined']}")
    return 0


def _toggles(overrides: Sequence[Override]) -> dict[str, Any]:
    """{toggle: value}. Raises ConfigError for what sets no network, which counts nothing."""
    if others := [o.text for o in overrides if not o.is_toggle]:
        raise ConfigError(
            f"--set {listing(others)} is no toggle of a network; legal: toggles; "
            "reason: steps counts networks, which it leaves as they are; leave it out"
        )
    return {o.name: o.value for o in overrides}


def _step_row(row: Mapping[str, Any]) -> list[str]:
    """The line of a step in the table."""
    size = ["not defined", ""]
    if row["params"] is not None:
        size = [f"{row['params']:,}", f"{row['macs'] / 1e9:.3f}"]
    paper = [_two_decimals(row[key]) for key in ("paper_top1", "paper_top1_std", "paper_gflops")]
    return [row["id"] or "", row["name"], row["title"], *size, *paper]


def _two_decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _step_json(ladder: Ladder, step: Step, regime: Regime, toggles: Mapping[str, Any]) -> dict[str, Any]:
    """One step as data, with its network's counts or the reason why it is not defined."""
    paper = regime.paper.get(step.name)
    overrides = ladder.overrides(step, regime.name)
    row: dict[str, Any] = {
        "id": step.id,
        "name": step.name,
        "parent": step.parent,
        "on_path": step.on_path,
        "title": step.title,
        "group": step.group,
        "change": {name: _as_json(value) for name, value in overrides.items()},
        "paper_top1": paper and paper.top1,
        "paper_top1_std": paper and paper.std,
        "paper_gflops": paper and paper.gflops,
        "source": step.source,
        "evidence": step.evidence,
    }
    try:
        return {**row, **_counts(ladder, step, regime, toggles)}
    except ConfigError as e:
        return {**row, **dict.fromkeys(("params", "params_layer_scale", "macs")), "not_defined": str(e)}


def _counts(ladder: Ladder, step: Step, regime: Regime, toggles: Mapping[str, Any]) -> dict[str, int | None]:
    """Parameters and multiply-adds of a step's network.

    `params` leaves LayerScale out unless a toggle asks for it; `params_layer_scale` counts it in,
    and is None of networks that do not have it as a toggle.
    """
    without: dict[str, Any] = {}
    with_scale = None
    if isinstance(regime.base, ModelSpec):
        without = {LAYER_SCALE: None}
        scaled = ladder.model(step.name, regime.name, **{**toggles, LAYER_SCALE: USUAL_SCALE})
        with_scale = counts(scaled, regime.image_size).params
    counted = counts(ladder.model(step.name, regime.name, **{**without, **toggles}), regime.image_size)
    return {"params": counted.params, "params_layer_scale": with_scale, "macs": counted.macs}


# diff -----------------------------------------------------------------------------------------


def show_diff(ladder: Ladder, regime: Regime, a: str, b: str, settings: Sequence[str], *, as_json: bool) -> int:
    """Print everything in which two steps differ; the overrides apply to the second."""
    from roadmap.model.module_diff import module_diff

    first, second = ladder.find_step(a).name, ladder.find_step(b).name
    overrides = _overrides(settings, regime)
    before = ladder.model(first, regime.name)
    after = ladder.model(second, regime.name, **{o.name: o.value for o in overrides if o.is_toggle})
    recipes = ladder.recipe(first, regime.name), _overridden(ladder.recipe(second, regime.name), overrides)
    structure = module_diff(before, after, regime.image_size)
    differences = {"spec": diff(before, after), "recipe": diff(*recipes)}
    if as_json:
        names = {"a": first, "b": second, "regime": regime.name}
        overridden = {o.name: show(o.value) for o in overrides}
        print_json({**names, "set": overridden, **_differences_json(differences), **_structure_json(structure)})
        return 0
    rows = [row for kind, found in differences.items() for row in _difference_rows(kind, found)]
    for name in COUNTS:
        x, y = _pair(structure, name)
        rows.append(["counts", name, f"{x:,}", f"{y:,}"])
    changed = " with " + " ".join(settings) if settings else ""
    title = f"{first} -> {second}{changed} ({regime.name}, {regime.image_size} px)"
    print_table(title, ["of", "what", first, second], rows)
    _print_structure(structure)
    return 0


def _overridden(recipe: Recipe, overrides: Sequence[Override]) -> Recipe:
    """The recipe with the overrides that are its own, a whole one first."""
    for o in overrides:
        if o.name == RECIPE:
            recipe = find_recipe(o.value)
    whole = {o.name: o.value for o in overrides}
    return resized(recipe, overrides, batch_size=whole.get("batch_size"), epochs=whole.get("epochs"))


def _difference_rows(kind: str, differences: Differences) -> list[list[str]]:
    return [[kind, name, show(x), show(y)] for name, (x, y) in differences.items()]


def _differences_json(differences: Mapping[str, Differences]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for kind, found in differences.items():
        values[kind] = {name: [_as_json(x), _as_json(y)] for name, (x, y) in found.items()}
    return values


def _structure_json(structure: ModuleDiff) -> dict[str, Any]:
    modules = {
        "roles": sorted(structure.roles),
        "added": structure.added,
        "removed": structure.removed,
        "changed": {name: list(texts) for name, texts in structure.changed.items()},
    }
    return {"structure": modules, **{name: _pair(structure, name) for name in COUNTS}}


def _pair(structure: ModuleDiff, count: str) -> list[int]:
    """[before, after] of a count."""
    return [getattr(structure.before, count), getattr(structure.after, count)]


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _print_structure(structure: ModuleDiff) -> None:
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


# Names ----------------------------------------------------------------------------------------


def find_ladder_and_regime(ladder: str | None, regime: str | None) -> tuple[Ladder, Regime]:
    """The ladder of that name and a regime of it, the first ones unless given.

    Raises ConfigError.
    """
    found = find_ladder(ladder) if ladder else find_ladder()
    return found, found.find_regime(regime or found.default_regime)
