"""Study -> its game: who the players are, found from the settings of its finished runs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from analysis.attribution.coalitions import Game, Lattice, Player, Settings, flat, short, text
from analysis.study import Cell, CellId, Comparison, Kind, Run, Study
from roadmap.config.errors import RoadmapError, listing
from roadmap.ladder import Ladder, find_ladder
from roadmap.ladder.ladder import RECIPE
from roadmap.runs.metric import TOP1, Metric

Pair = tuple[Any, Any]  # a setting's values in two cells
Cells = Mapping[Cell, Settings]


def players_of(study: Study, metric: Metric = TOP1) -> tuple[Player, ...]:
    """The toggles that the study's question is about; see `game_of`."""
    return game_of(study, metric).players


def game_of(study: Study, metric: Metric = TOP1) -> Game:
    """The game that a study's finished runs define.

    Of a ladder the steps (several where a step between has no finished run), else each toggle with
    two settings. Raises RoadmapError where no record tells its settings, where nothing differs, and
    where a toggle has more than two settings.
    """
    cells = _configurations(study, metric)
    if not cells:
        raise RoadmapError(
            f"attribute.study {study.name} has no finished run that says its resolved settings; "
            "legal: records with `resolved`; run the study again with this version"
        )
    ladder = find_ladder(study.ladder)
    names = {step.name for step in ladder.order()}
    on_path = Counter(cell.change for cell in cells if cell.step in names)
    change, steps = on_path.most_common(1)[0] if on_path else ("", 0)
    game = _ladder_game(study, ladder, cells, change) if steps > 1 else _toggles_game(study, cells)
    if not game.players:
        raise RoadmapError(
            f"attribute.study {study.name} has finished runs of one setting only; "
            "legal: a ladder, or changes that are on in some runs and off in others; run more of it"
        )
    return game


def _configurations(study: Study, metric: Metric) -> dict[Cell, Settings]:
    """The settings of each cell with a finished run, in planned order: those of most of its runs.

    Controls, and cells on other data than most, are no part of the game.
    """
    runs: dict[Cell, list[str]] = defaultdict(list)
    controls = control_cells(study)
    for run in study.runs_in():
        if run.cell.id not in controls and run.finished(metric) and _tells(run):
            runs[run.cell].append(json.dumps(flat(run.resolved)))
    found = {cell: json.loads(Counter(texts).most_common(1)[0][0]) for cell, texts in runs.items()}
    data = {cell: json.dumps(_data_of(settings)) for cell, settings in found.items()}
    most = Counter(data.values()).most_common(1)
    return {cell: settings for cell, settings in found.items() if data[cell] == most[0][0]}


def _tells(run: Run) -> bool:
    """Whether a run says its settings, and is no control."""
    return bool(run.resolved) and not run.resolved.get("control")


def _data_of(settings: Settings) -> list[Any]:
    return [value for name, value in settings.items() if name.startswith("data.")]


def control_cells(study: Study) -> set[CellId]:
    """The cells that are negative controls: the runs of another cell once more, to be compared with
    it."""
    return {c.child for c in study.comparisons if c.kind.control}


def differences(a: Settings, b: Settings) -> dict[str, Pair]:
    """The settings in which two cells differ: {name: (a's, b's)}."""
    return {key: (a.get(key), b.get(key)) for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)}


# A ladder's steps --------------------------------------------------------------------------------


def _ladder_game(study: Study, ladder: Ladder, cells: Cells, change: str) -> Game:
    """Players are the differences of consecutive steps that have finished runs."""
    every = [step.name for step in ladder.order()]
    by_step = {cell.step: cell for cell in cells if cell.change == change}
    order = [by_step[name] for name in every if name in by_step]
    players: list[Player] = []
    notes: list[str] = []
    for before, after in pairwise(order):
        between = every[every.index(before.step) + 1 : every.index(after.step) + 1]
        name = after.step if len(between) == 1 else f"{between[0]} to {after.step}"
        if len(between) > 1:
            notes.append(
                f"{name}: {listing(between[:-1])} without a finished run, "
                f"so these {len(between)} steps can only be told together."
            )
        differs = differences(cells[before], cells[after])
        if differs:
            players.append(Player(name, differs, _with_change(after)))
            notes += _undeclared(study, players[-1], after, before)
        else:
            notes.append(f"{name} changes no setting here and is no player.")
    bottom, top = _with_change(order[0]), _with_change(order[-1])
    return Game(cells[order[0]], tuple(players), bottom, top, tuple(notes))


def _with_change(cell: Cell) -> str:
    return f"{cell.step} with {cell.change}" if cell.change else cell.step


def _undeclared(study: Study, player: Player, child: Cell, parent: Cell) -> list[str]:
    """A sentence where the records differ by more than the comparison declares."""
    compared = [c for c in _comparisons(study) if (c.child, c.parent) == (child.id, parent.id)]
    beyond = [key for key in player.settings if not _any_declares(compared, key)]
    if not compared or not beyond:
        return []
    return [
        f"{player.name} also changes {listing(beyond)}, which the study does not declare: its share is that of both."
    ]


def _any_declares(compared: Sequence[Comparison], key: str) -> bool:
    return any(_declares(c, key) for c in compared)


def _declares(comparison: Comparison, key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in comparison.declared)


def _comparisons(study: Study) -> list[Comparison]:
    """The comparisons that change a setting on purpose."""
    return [c for c in study.comparisons if c.kind in (Kind.STEP, Kind.CHANGE)]


# Toggles of any other design ---------------------------------------------------------------------


def _toggles_game(study: Study, cells: Cells) -> Game:
    """Players are the toggles with two settings.

    Those that are never switched apart are one player.

    Off is what the compared cells' common base has.
    """
    compared = _comparisons(study)
    bottom, about = _about(cells, compared)
    base = cells[bottom]
    kept = [c for c in about.values() if not compared or _all_declared(compared, differences(base, c))]
    bundles: dict[Any, dict[str, Pair]] = defaultdict(dict)
    for key in dict.fromkeys(key for c in kept for key in differences(base, c)):
        switched = tuple(c.get(key) != base.get(key) for c in kept)
        named_in = tuple(_declares(c, key) for c in compared)
        bundles[switched, named_in][key] = (base.get(key), _on_setting(key, base, kept))
    players = tuple(Player(_bundle_name(settings), settings) for settings in bundles.values())
    name = " with ".join(word for word in (bottom.step, bottom.change) if word)
    if not players:
        return Game(base, players, name, name)
    switched_on = players[0].name if len(players) == 1 else f"all {len(players)} changes"
    return Game(base, players, name, f"{name} with {switched_on}")


def _about(cells: Cells, compared: Sequence[Comparison]) -> tuple[Cell, dict[Cell, Settings]]:
    """The base of the compared cells, and the cells that comparisons tie to it: of a crossed design
    one copy."""
    parents = {c.child: c.parent for c in compared}
    root = next((c.parent for c in compared if c.parent not in parents), None)
    reached = set() if root is None else _reached(root, compared)
    about = {cell: settings for cell, settings in cells.items() if root is None or cell.id in reached}
    of_root = [cell for cell in about if cell.id == root]
    whole = [cell for cell in about if cell.whole]
    return next(iter([*of_root, *whole, *about, *cells])), about


def _reached(root: CellId, compared: Sequence[Comparison]) -> set[CellId]:
    found = {root}
    while more := {c.child for c in compared if c.parent in found} - found:
        found |= more
    return found


def _all_declared(compared: Sequence[Comparison], differs: Mapping[str, Pair]) -> bool:
    return all(_any_declares(compared, key) for key in differs)


def _on_setting(key: str, base: Settings, kept: Sequence[Settings]) -> Any:
    """What a toggle is switched to. Raises RoadmapError where that is not the same everywhere."""
    others = [c.get(key) for c in kept if c.get(key) != base.get(key)]
    if any(value != others[0] for value in others):
        seen = ", ".join(dict.fromkeys(map(text, (base.get(key), *others))))
        raise RoadmapError(
            f"attribute.players {key} has the settings {seen}; legal: two, one off and one on; "
            "ask about a study that compares two of them"
        )
    return others[0]


def _bundle_name(settings: Mapping[str, Any]) -> str:
    names = [short(key) for key in settings]
    return " + ".join(names) if len(names) <= 3 else f"{names[0]} + {len(names) - 1} more"


# Recipe against architecture ---------------------------------------------------------------------


def training_toggles(study: Study) -> frozenset[str]:
    """The toggles of the network that a step sets together with the recipe: they say how to train."""
    ladder = find_ladder(study.ladder)
    overrides = [ladder.overrides(step, study.regime) for step in ladder.all_steps]
    with_recipe = [names for names in overrides if any(map(_of_recipe, names))]
    toggles = {name for names in with_recipe for name in names if not _of_recipe(name)}
    return frozenset(f"model.{name}" for name in toggles)


def _of_recipe(name: str) -> bool:
    return name.partition(".")[0] == RECIPE


def is_training(key: str, toggles: frozenset[str]) -> bool:
    """Whether a setting says how to train: each of the recipe, initial weights, `training_toggles`."""
    return key.startswith("recipe.") or key == "init" or key in toggles


def halves(lattice: Lattice, toggles: frozenset[str]) -> Game:
    """The game of two: all that differs in training between base and top, and all that differs in
    the network.

    One player where the other would be empty. toggles: `training_toggles`.
    """
    whole = differences(dict(lattice.game.base), lattice.settings(lattice.top))
    recipe = {key: pair for key, pair in whole.items() if is_training(key, toggles)}
    network = {key: pair for key, pair in whole.items() if key not in recipe}
    parts = {"recipe": recipe, "architecture": network}
    players = tuple(Player(name, settings) for name, settings in parts.items() if settings)
    return Game(lattice.game.base, players, lattice.game.bottom, lattice.game.top)
