"""The lattice of a game's toggles: which settings each subset of them means, and whether it can be
built.

A cell is a set of players that are on, held as a bit mask: bit i is player i, 0 the base, all bits
the top. An order in which the players are switched on is a path from the base to the top; a legal
order passes only cells that can be built. `analysis.attribution.games` tells who the players of a
study are, `analysis.attribution.assignment` lays the runs on the cells,
`analysis.attribution.shapley` puts the numbers on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import combinations
from typing import Any

from roadmap.config.data import Data
from roadmap.config.errors import ConfigError, RoadmapError, listing
from roadmap.config.fields import from_plain, show
from roadmap.config.model import DEPENDENCIES, ModelSpec
from roadmap.config.recipe import Recipe
from roadmap.config.trial import Trial, spec_class

Settings = dict[str, Any]  # 'model.kernel_size' -> its setting, as JSON holds it

# Up to so many players every subset is looked at (2^16 cells, about a second); beyond, only those that were trained.
LIMIT = 16
# Rules read these together with other settings. `stages`, which a dependency needs, is no toggle: it is
# made of `depths`.
_CHECKED_WITH_DATA = ("stem_stride", "depths", "num_classes", "in_chans")
_MADE_OF = {"stages": ("depths",)}


@dataclass(frozen=True)
class Player:
    """A toggle, or a bundle that is only ever switched as one.

    `settings` maps 'model.kernel_size' to (off, on); `reaches` names the ladder's step that it ends
    in.
    """

    name: str
    settings: Mapping[str, tuple[Any, Any]]
    reaches: str = ""

    @property
    def words(self) -> str:
        """What it switches: 'kernel_size 3 to 7'.

        Of a large bundle the number of settings and the first few.
        """
        said = [f"{short(key)} {text(off)} to {text(on)}" for key, (off, on) in self.settings.items()]
        return ", ".join(said) if len(said) <= 4 else f"{len(said)} settings: {', '.join(said[:3])}, ..."


@dataclass(frozen=True)
class Game:
    """`players` on top of `base`, whose cell is called `bottom`.

    `top` names the cell with all of them on.

    A cell's settings are the base's with those of its players in their order, the later winning as
    on the ladder: there LayerScale comes with `recipe` and goes with `grn`. `notes` are sentences
    on how the players were found.
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
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            found[key] = value
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
        """A cell's name by its players: what is on, or what is off (of a ladder: up to the last
        step that is on), whichever is shorter."""
        steps = all(p.reaches for p in self.game.players)
        whole = (1 << cell.bit_length()) - 1 if steps else self.top
        on = [p.name for p in self.members(cell)]
        off = [p.name for p in self.members(whole ^ cell)]
        top = self.game.top if whole == self.top else self.game.players[cell.bit_length() - 1].reaches
        if not on:
            return self.game.bottom
        if not off:
            return top
        if len(on) <= len(off):
            return f"{self.game.bottom} with {listing(on)}"
        return f"{top} {'without' if steps else 'but'} {listing(off)}"

    @cached_property
    def _telling(self) -> list[str | None]:
        """For each player a setting that no other player touches, which tells whether it is on.

        None where it has none.
        """
        owners = Counter(key for p in self.game.players for key in p.settings)
        telling: list[str | None] = []
        for player in self.game.players:
            own = (key for key in player.settings if owners[key] == 1)
            telling.append(next(own, None))
        return telling

    def find(self, settings: Settings) -> int | None:
        """The cell with exactly these settings.

        None where there is none, as for half a bundle. Raises RoadmapError where two cells have
        them.
        """
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
                f"attribute.players {both} have the same settings; "
                "legal: players of which none undoes another wholly; make them one player"
            )
        return cells[0] if cells else None

    @cached_property
    def _checked(self) -> int:
        """The players that a rule of ModelSpec, Recipe or Trial may refuse together with others.

        Each alone was trained, or it would be no player.
        """
        toggles = [f.name for f in fields(ModelSpec)]
        read = {name for d in DEPENDENCIES for name in (d.toggle, d.needs)}
        checked = set(_CHECKED_WITH_DATA)
        for name in read:
            checked.update((name,) if name in toggles else _MADE_OF.get(name, toggles))
        free = {f"model.{name}" for name in toggles if name not in checked}
        return sum(1 << i for i, p in enumerate(self.game.players) if not free.issuperset(p.settings))

    @cached_property
    def _refusals(self) -> dict[int, str]:
        return {}

    def refusal(self, cell: int) -> str:
        """Why the cell cannot be built; empty where it can.

        Specs are built once for each combination that a rule can tell apart.
        """
        asked = cell & self._checked
        if asked not in self._refusals:
            self._refusals[asked] = _refusal(self.settings(asked))
        return self._refusals[asked]

    def legal(self) -> list[int] | None:
        """All cells that can be built; None for more than LIMIT players."""
        if self.size > LIMIT:
            return None
        return [cell for cell in range(1 << self.size) if not self.refusal(cell)]


def _refusal(settings: Settings) -> str:
    """The message of the config that these settings do not make; empty where they make one."""
    parts: dict[str, Settings] = {"model": {}, "recipe": dict(_LABELS), "data": {"title": "cell"}}
    for key, value in settings.items():
        part, dot, name = key.partition(".")
        if dot:
            parts[part][name] = value
    try:
        model = from_plain(spec_class(parts["model"]), parts["model"], "resolved.model")
        recipe = from_plain(Recipe, parts["recipe"], "resolved.recipe")
        data = from_plain(Data, parts["data"], "resolved.data")
        Trial(model=model, recipe=recipe, data=data, seed=0, init=settings.get("init", ""))
    except ConfigError as e:
        return str(e)
    return ""


_LABELS = {"name": "cell", "source": "cell", "expected": ""}  # fields of a recipe that are no settings


def paths(cells: Collection[int], size: int) -> tuple[dict[int, int], dict[int, int]]:
    """Through these cells alone: {cell: ways to it from the base}, {cell: ways from it to the top}.

    Exact integers; one player is switched on at a time.
    """
    by_size = sorted(cells, key=int.bit_count)
    up: dict[int, int] = {}
    down: dict[int, int] = {}
    for cell in by_size:
        up[cell] = ways_to(cell, up)
    for cell in reversed(by_size):
        down[cell] = ways_from(cell, down, size)
    return up, down


def ways_to(cell: int, up: Mapping[int, int]) -> int:
    """Ways from the base to a cell, by those to the cells with one player less."""
    if not cell:
        return 1
    return sum([up.get(cell ^ bit, 0) for bit in _bits(cell)])


def ways_from(cell: int, down: Mapping[int, int], size: int) -> int:
    """Ways from a cell to the top, by those from the cells with one player more."""
    rest = (1 << size) - 1 ^ cell
    if not rest:
        return 1
    return sum([down.get(cell | bit, 0) for bit in _bits(rest)])


def _bits(cell: int) -> list[int]:
    """The players of a cell, each as a mask of its own."""
    return [1 << i for i in range(cell.bit_length()) if cell >> i & 1]
