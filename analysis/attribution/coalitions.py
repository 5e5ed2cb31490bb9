"""Study -> the lattice of its toggles: who the players are, which settings each subset of them means, whether it can be built, which runs have exactly these settings.

A cell is a set of players that are on, held as a bit mask: bit i is player i, 0 the base, all bits the top. An order in which the players are switched on is a path
from the base to the top; a legal order passes only cells that can be built. `analysis.attribution.assignment` lays the runs on the cells, `analysis.attribution.shapley` puts the numbers on.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any

from analysis.load import Study, outcome
from analysis.results.comparisons import CONTROLS
from roadmap.config.data import Data
from roadmap.config.errors import ConfigError, RoadmapError, listing
from roadmap.config.fields import from_plain, show
from roadmap.config.model import DEPENDENCIES, ModelSpec
from roadmap.config.recipe import Recipe
from roadmap.config.trial import Trial
from roadmap.ladder.convnext import STEPS, change_of, find_regime, ladder
from roadmap.runs.record import FINISHED

Settings = dict[str, Any]  # 'model.kernel_size' -> its setting, as JSON holds it
Cell = tuple[str, str]  # (step, change), the labels of a study's cell

# Up to so many players every subset is looked at (2^16 cells, about a second); beyond, only those that were trained.
LIMIT = 16
# Rules read these together with other settings. `stages`, which a dependency needs, is no toggle: it is made of `depths`.
_CHECKED_WITH_DATA = ("stem_stride", "depths", "num_classes", "in_chans")
_MADE_OF = {"stages": ("depths",)}


@dataclass(frozen=True)
class Player:
    """A toggle, or a bundle that is only ever switched as one. `settings` maps 'model.kernel_size' to (off, on); `reaches` names the ladder's step that it ends in."""

    name: str
    settings: Mapping[str, tuple[Any, Any]]
    reaches: str = ""

    @property
    def words(self) -> str:
        """What it switches: 'kernel_size 3 to 7'; of a large bundle the number of settings and the first few."""
        said = [f"{short(key)} {text(off)} to {text(on)}" for key, (off, on) in self.settings.items()]
        return ", ".join(said) if len(said) <= 4 else f"{len(said)} settings: {', '.join(said[:3])}, ..."


@dataclass(frozen=True)
class Game:
    """`players` on top of `base`, whose cell is called `bottom`; `top` names the cell with all of them on.

    A cell's settings are the base's with those of its players in their order, the later winning as on the ladder: there LayerScale comes with
    `recipe` and goes with `grn`. `notes` are sentences on how the players were found.
    """

    base: Mapping[str, Any]
    players: tuple[Player, ...]
    bottom: str
    top: str
    notes: tuple[str, ...] = ()


def short(key: str) -> str:
    return key.removeprefix("model.")


def text(value: Any) -> str:
    return show(tuple(value) if isinstance(value, list) else value)


def flat(resolved: Mapping[str, Any]) -> Settings:
    """Every resolved setting but the seed under its dotted name."""
    found: Settings = {}
    for key, value in resolved.items():
        found |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, Mapping) else {key: value}
    found.pop("seed", None)
    return found


@dataclass(frozen=True)
class Lattice:
    """The cells of a game."""

    game: Game

    @property
    def size(self) -> int:
        return len(self.game.players)

    @property
    def top(self) -> int:
        return (1 << self.size) - 1

    def members(self, cell: int) -> tuple[Player, ...]:
        return tuple(p for i, p in enumerate(self.game.players) if cell >> i & 1)

    def settings(self, cell: int) -> Settings:
        """All settings of a cell."""
        return {**self.game.base, **{key: on for p in self.members(cell) for key, (_, on) in p.settings.items()}}

    def changed(self, cell: int) -> Settings:
        """The settings of a cell that differ from the base's."""
        return {
            key: value
            for key, value in self.settings(cell).items()
            if key not in self.game.base or value != self.game.base[key]
        }

    def words(self, cell: int) -> str:
        """A cell's name by its players: what is on, or what is off (of a ladder: up to the last step that is on), whichever is shorter."""
        steps = all(p.reaches for p in self.game.players)
        whole = (1 << cell.bit_length()) - 1 if steps else self.top
        on, off = ([p.name for p in self.members(c)] for c in (cell, whole ^ cell))
        top = self.game.top if whole == self.top else self.game.players[cell.bit_length() - 1].reaches
        if not on or not off:
            return top if on else self.game.bottom
        return (
            f"{self.game.bottom} with {listing(on)}"
            if len(on) <= len(off)
            else f"{top} {'without' if steps else 'but'} {listing(off)}"
        )

    @cached_property
    def _telling(self) -> list[str | None]:
        """For each player a setting that no other player touches, which tells whether it is on; None where it has none."""
        owners = Counter(key for p in self.game.players for key in p.settings)
        return [next((key for key in p.settings if owners[key] == 1), None) for p in self.game.players]

    def find(self, settings: Settings) -> int | None:
        """The cell with exactly these settings; None where there is none, as for half a bundle. Raises RoadmapError where two cells have them."""
        known = sum(
            1 << i
            for i, key in enumerate(self._telling)
            if key is not None and settings.get(key) == self.game.players[i].settings[key][1]
        )
        unclear = [1 << i for i, key in enumerate(self._telling) if key is None]
        subsets = (sum(some) for k in range(len(unclear) + 1) for some in combinations(unclear, k))
        cells = [known | some for some in subsets if self.settings(known | some) == settings]
        if len(cells) > 1:
            both = " and ".join(self.words(c) for c in cells[:2])
            raise RoadmapError(
                f"attribute.players {both} have the same settings; legal: players of which none undoes another wholly; make them one player"
            )
        return cells[0] if cells else None

    @cached_property
    def _checked(self) -> int:
        """The players that a rule of ModelSpec, Recipe or Trial may refuse together with others; each alone was trained, or it would be no player."""
        toggles = [f.name for f in fields(ModelSpec)]
        names = {
            n
            for d in DEPENDENCIES
            for name in (d.toggle, d.needs)
            for n in ((name,) if name in toggles else _MADE_OF.get(name, toggles))
        }
        free = {f"model.{name}" for name in toggles if name not in names and name not in _CHECKED_WITH_DATA}
        return sum(1 << i for i, p in enumerate(self.game.players) if not free.issuperset(p.settings))

    @cached_property
    def _refusals(self) -> dict[int, str]:
        return {}

    def refusal(self, cell: int) -> str:
        """Why the cell cannot be built; empty where it can. Specs are built once for each combination that a rule can tell apart."""
        asked = cell & self._checked
        if asked not in self._refusals:
            self._refusals[asked] = _refusal(self.settings(asked))
        return self._refusals[asked]

    def legal(self) -> list[int] | None:
        """All cells that can be built; None for more than LIMIT players."""
        return None if self.size > LIMIT else [cell for cell in range(1 << self.size) if not self.refusal(cell)]


def _refusal(settings: Settings) -> str:
    """The message of the spec that these settings do not make."""
    parts: dict[str, Settings] = {
        "model": {},
        "recipe": {"name": "cell", "source": "cell", "expected": ""},
        "data": {"title": "cell"},
    }
    for key, value in settings.items():
        part, dot, name = key.partition(".")
        if dot:
            parts[part][name] = value
    try:
        model = from_plain(ModelSpec, parts["model"], "resolved.model")
        recipe, data = (
            from_plain(Recipe, parts["recipe"], "resolved.recipe"),
            from_plain(Data, parts["data"], "resolved.data"),
        )
        Trial(model=model, recipe=recipe, data=data, seed=0, init=settings.get("init", ""))
    except ConfigError as e:
        return str(e)
    return ""


def paths(cells: Collection[int], size: int) -> tuple[dict[int, int], dict[int, int]]:
    """Through these cells alone: {cell: ways to it from the base}, {cell: ways from it to the top}. Exact integers, one player switched on at a time."""
    bits = [1 << i for i in range(size)]
    top = (1 << size) - 1
    by_size = sorted(cells, key=int.bit_count)
    up: dict[int, int] = {}
    down: dict[int, int] = {}
    for c in by_size:
        up[c] = sum([up.get(c ^ b, 0) for b in bits if c & b]) if c else 1
    for c in reversed(by_size):
        down[c] = sum([down.get(c | b, 0) for b in bits if not c & b]) if c != top else 1
    return up, down


def players_of(study: Study) -> tuple[Player, ...]:
    """The toggles that the study's question is about; see `game_of`."""
    return game_of(study).players


def game_of(study: Study) -> Game:
    """The game that a study's finished runs define: of a ladder the steps (several where a step between has no finished run), else each toggle with two settings.

    Raises RoadmapError where no record tells its settings, where nothing differs, and where a toggle has more than two settings.
    """
    cells = _configurations(study)
    if not cells:
        raise RoadmapError(
            f"attribute.study {study.name} has no finished run that says its resolved settings; legal: records with `resolved`; run the study again with this version"
        )
    on_path = Counter(change for step, change in cells if step in STEPS and STEPS[step].on_path)
    change, steps = on_path.most_common(1)[0] if on_path else ("", 0)
    game = _ladder_game(study, cells, change) if steps > 1 else _toggles_game(study, cells)
    if not game.players:
        raise RoadmapError(
            f"attribute.study {study.name} has finished runs of one setting only; legal: a ladder, or changes that are on in some runs and off in others; run more of it"
        )
    return game


def _configurations(study: Study) -> dict[Cell, Settings]:
    """The settings of each cell with a finished run, in planned order: those of most of its runs. Controls, and cells on other data than most, are no part of the game."""
    runs: dict[Cell, list[str]] = defaultdict(list)
    controls = control_cells(study)
    for t in study.trials:
        control = (t["step"], t["change"]) in controls or (t.get("resolved") or {}).get("control")
        if t["regime"] == study.regime and outcome(t) == FINISHED and t.get("resolved") and not control:
            runs[t["step"], t["change"]].append(json.dumps(flat(t["resolved"])))
    found: dict[Cell, Settings] = {cell: json.loads(Counter(all_).most_common(1)[0][0]) for cell, all_ in runs.items()}
    data = {
        cell: json.dumps([v for k, v in settings.items() if k.startswith("data.")]) for cell, settings in found.items()
    }
    most = Counter(data.values()).most_common(1)
    return {cell: settings for cell, settings in found.items() if data[cell] == most[0][0]}


def control_cells(study: Study) -> set[Cell]:
    """The cells that are negative controls: the runs of another cell once more, to be compared with it."""
    return {(c["child"][0], c["child"][1]) for c in study.comparisons if c.get("kind") in CONTROLS}


def _differences(a: Settings, b: Settings) -> dict[str, tuple[Any, Any]]:
    return {key: (a.get(key), b.get(key)) for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)}


def _ladder_game(study: Study, cells: Mapping[Cell, Settings], change: str) -> Game:
    """Players are the differences of consecutive steps that have finished runs."""
    every = [s.name for s in ladder()]
    order = [name for name in every if (name, change) in cells]
    players: list[Player] = []
    notes: list[str] = []
    for before, after in pairwise(order):
        between = every[every.index(before) + 1 : every.index(after) + 1]
        name = after if len(between) == 1 else f"{between[0]} to {after}"
        if len(between) > 1:
            notes.append(
                f"{name}: {listing(between[:-1])} without a finished run, so these {len(between)} steps can only be told together."
            )
        differs = _differences(cells[before, change], cells[after, change])
        if differs:
            players.append(Player(name, differs, f"{after} with {change}" if change else after))
            notes += _undeclared(study, players[-1], [after, change], [before, change])
        else:
            notes.append(f"{name} changes no setting here and is no player.")
    bottom, top = (f"{name} with {change}" if change else name for name in (order[0], order[-1]))
    return Game(cells[order[0], change], tuple(players), bottom, top, tuple(notes))


def _undeclared(study: Study, player: Player, child: list[str], parent: list[str]) -> list[str]:
    """A sentence where the records differ by more than the comparison declares."""
    declared = [c["declared"] for c in _comparisons(study) if list(c["child"]) == child and list(c["parent"]) == parent]
    beyond = [
        key for key in player.settings if declared and not any(fnmatchcase(key, p) for names in declared for p in names)
    ]
    return (
        [f"{player.name} also changes {listing(beyond)}, which the study does not declare: its share is that of both."]
        if beyond
        else []
    )


def _comparisons(study: Study) -> list[dict[str, Any]]:
    """The comparisons that change a setting on purpose."""
    return [c for c in study.comparisons if c.get("kind") in ("step", "change")]


def _toggles_game(study: Study, cells: Mapping[Cell, Settings]) -> Game:
    """Players are the toggles with two settings; those that are never switched apart are one player. Off is what the compared cells' common base has."""
    compared = _comparisons(study)
    pairs = [(tuple(c["child"]), tuple(c["parent"])) for c in compared]
    root = next((parent for _, parent in pairs if parent not in dict(pairs)), None)
    about = {cell: settings for cell, settings in cells.items() if root is None or cell in _reached(root, pairs)}
    bottom = next(
        (cell for cell in (root, *(c for c in about if not c[1]), *about) if cell in about), next(iter(cells))
    )
    base = cells[bottom]
    declared = [c["declared"] for c in compared]

    def named_in(key: str) -> tuple[bool, ...]:
        return tuple(any(fnmatchcase(key, pattern) for pattern in names) for names in declared)

    kept = [c for c in about.values() if not declared or all(any(named_in(key)) for key in _differences(base, c))]
    bundles: dict[Any, dict[str, tuple[Any, Any]]] = defaultdict(dict)
    for key in dict.fromkeys(key for c in kept for key in _differences(base, c)):
        others = [c.get(key) for c in kept if c.get(key) != base.get(key)]
        if any(value != others[0] for value in others):
            seen = ", ".join(dict.fromkeys(map(text, (base.get(key), *others))))
            raise RoadmapError(
                f"attribute.players {key} has the settings {seen}; legal: two, one off and one on; ask about a study that compares two of them"
            )
        bundles[tuple(c.get(key) != base.get(key) for c in kept), named_in(key)][key] = (base.get(key), others[0])
    players = tuple(Player(_bundle_name(settings), settings) for settings in bundles.values())
    name = " with ".join(word for word in bottom if word)
    return Game(
        base,
        players,
        name,
        f"{name} with {players[0].name if len(players) == 1 else f'all {len(players)} changes'}" if players else name,
    )


def _reached(root: tuple[str, ...], pairs: Sequence[tuple[tuple[str, ...], tuple[str, ...]]]) -> set[tuple[str, ...]]:
    """The cells that (child, parent) comparisons tie to the root: of a design that is crossed with others, one copy."""
    found = {root}
    while more := {child for child, parent in pairs if parent in found} - found:
        found |= more
    return found


def _bundle_name(settings: Mapping[str, Any]) -> str:
    names = [short(key) for key in settings]
    return " + ".join(names) if len(names) <= 3 else f"{names[0]} + {len(names) - 1} more"


def is_training(key: str, regime: str) -> bool:
    """Whether a setting says how to train: every one of the recipe, initial weights, and the toggles of the network that the step `recipe` sets."""
    toggles = {
        f"model.{name}" for name in change_of(STEPS["recipe"], find_regime(regime)) if not name.startswith("recipe")
    }
    return key.startswith("recipe.") or key == "init" or key in toggles


def halves(lattice: Lattice, regime: str) -> Game:
    """The game of two: all that differs in training between base and top, and all that differs in the network. One player where the other would be empty."""
    whole = _differences(dict(lattice.game.base), lattice.settings(lattice.top))
    parts = {
        "recipe": {k: v for k, v in whole.items() if is_training(k, regime)},
        "architecture": {k: v for k, v in whole.items() if not is_training(k, regime)},
    }
    return Game(
        lattice.game.base,
        tuple(Player(name, settings) for name, settings in parts.items() if settings),
        lattice.game.bottom,
        lattice.game.top,
    )
