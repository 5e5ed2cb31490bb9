"""What a ladder is: steps, each one named change of its parent, and the regimes they run in.

A config is the fold of the overrides along the path from the first step; what two configs differ in is computed, never
typed. Nothing here knows which paper a ladder is from. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from roadmap.config.errors import ConfigError, listing, lookup
from roadmap.config.model import AnySpec, with_settings
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe

RECIPE = "recipe"  # the override that switches to another of a regime's recipes; `recipe.FIELD` sets one field of it
ORIGINAL = "original"  # the recipe that a ladder starts with


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What a paper prints for a step; None where it prints nothing.

    top1 in %, with `decimals` digits behind the point; std: over its seeds; gflops: multiply-adds in G.
    quoted: of a top1 that the paper takes from elsewhere, why the step's recipe does not make it.
    """

    top1: float
    std: float | None = None
    gflops: float | None = None
    decimals: int = 2
    quoted: str = ""


def paper_table(text: str, quoted: Mapping[str, str] = MappingProxyType({})) -> Mapping[str, Paper]:
    """Read rows of `step top1 std gflops`; `-` stands where the paper prints no number.

    quoted: {step: why its top1 is none of the recipe's own}.
    """
    rows = {line.split()[0]: _paper_row(line.split()[1:]) for line in text.strip().splitlines()}
    return MappingProxyType({step: replace(row, quoted=quoted.get(step, "")) for step, row in rows.items()})


def _paper_row(words: list[str]) -> Paper:
    top1, std, gflops = words
    return Paper(top1=float(top1), std=_number(std), gflops=_number(gflops), decimals=len(top1.partition(".")[2]))


def _number(text: str) -> float | None:
    return None if text == "-" else float(text)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change of `parent`, which is None for the first step of a ladder.

    overrides maps toggles to settings; the key `recipe` names one of the regime's recipes, `recipe.FIELD` sets a field.
    structure declares what the change does to the modules: `+role` appears, `-role` disappears, `~role` is another
    module or has another shape (see roadmap.model.module_diff); None where the ladder makes no claim.
    on_path: False for a side step, tried and not adopted. evidence: paper, inferred or open; see docs/decisions.md.
    of_ladder: False where `source` is another work than the ladder's.
    """

    id: str | None = None
    name: str
    parent: str | None
    title: str
    group: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    structure: frozenset[str] | None = frozenset()
    on_path: bool = True
    source: str
    evidence: str = "paper"
    of_ladder: bool = True


class Reference(NamedTuple):
    """A network beside the ladder: a dashed line in its figure. top1 in %, gflops: multiply-adds in G."""

    name: str
    top1: float
    gflops: float


class Printed(NamedTuple):
    """Where the numbers that regimes print are from, as captions cite it.

    cited: work and tables. data: whose validation images they are of. seeds: over how many a printed deviation is.
    """

    cited: str
    data: str
    seeds: str


@dataclass(frozen=True, kw_only=True)
class Regime:
    """The base network and sizes that a ladder runs in, with the recipes and data it uses by default.

    overrides and structure add to the step of that name. recipes: names by role, `original` and those that steps
    switch to. paper: the printed numbers by step.
    """

    name: str
    title: str
    image_size: int
    base: AnySpec
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    structure: Mapping[str, frozenset[str]] = field(default_factory=dict)
    recipes: Mapping[str, str]
    data: str
    paper: Mapping[str, Paper] = field(default_factory=dict)
    reference: Reference | None = None


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Steps in order with the regimes they run in. Raises ConfigError for a ladder that contradicts itself.

    source: where the ladder is from, as captions cite it. printed: where its regimes' numbers are
    from. end: the step that designs start from unless they say another, the end of the source's own
    ladder. beyond: the group of steps after it, if there are any.
    default_regime: the first one unless given.
    """

    name: str
    title: str
    source: str
    all_steps: tuple[Step, ...]
    all_regimes: tuple[Regime, ...]
    end: str
    beyond: str = ""
    default_regime: str = ""
    printed: Printed | None = None

    def __post_init__(self) -> None:
        names = [s.name for s in self.all_steps]
        keys = [*names, *(s.id for s in self.all_steps if s.id is not None)]
        if twice := sorted({k for k in keys if keys.count(k) > 1}):
            raise ConfigError(
                f"ladder {self.name}.steps has {listing(twice)} twice; legal: each id and name once; rename one"
            )
        for i, step in enumerate(self.all_steps):
            if step.parent is not None and step.parent not in names[:i]:
                raise ConfigError(
                    f"ladder {self.name}.{step.name}.parent is {step.parent!r}; legal: an earlier step; list it before"
                )
        if not self.default_regime:
            object.__setattr__(self, "default_regime", self.all_regimes[0].name)

    @cached_property
    def steps(self) -> Mapping[str, Step]:
        """All steps by name, in order."""
        return MappingProxyType({s.name: s for s in self.all_steps})

    @cached_property
    def regimes(self) -> Mapping[str, Regime]:
        """All regimes by name."""
        return MappingProxyType({r.name: r for r in self.all_regimes})

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The parts of the ladder, in order."""
        return tuple(dict.fromkeys(s.group for s in self.all_steps))

    def find_regime(self, name: str) -> Regime:
        """Return the regime of that name. Raises ConfigError naming the legal ones."""
        return lookup("regime", name, self.regimes)

    def find_step(self, key: str | int) -> Step:
        """Return a step by its id or its name. Raises ConfigError naming the legal ones."""
        by_id = {s.id: s for s in self.all_steps if s.id is not None}
        return lookup("step", str(key), {**by_id, **self.steps})

    def order(self, *, side_steps: bool = False) -> list[Step]:
        """Return the steps in order; with `side_steps` also those that were tried and not adopted."""
        return [s for s in self.all_steps if s.on_path or side_steps]

    def path(self, step: Step) -> list[Step]:
        """Return the steps from the first to this one, both included."""
        return [*(self.path(self.steps[step.parent]) if step.parent else []), step]

    def overrides(self, step: Step, regime: str) -> dict[str, Any]:
        """Return all that the step sets in this regime, `recipe` and `recipe.FIELD` among them."""
        return {**step.overrides, **self.find_regime(regime).overrides.get(step.name, {})}

    def structure(self, step: Step, regime: str) -> frozenset[str] | None:
        """Return all that the step declares to change among the modules in this regime."""
        if step.structure is None:
            return None
        return step.structure | self.find_regime(regime).structure.get(step.name, frozenset())

    def _fold(self, step: Step, regime: str) -> dict[str, Any]:
        """Return what the path to the step sets, the later steps winning."""
        folded: dict[str, Any] = {}
        for s in self.path(step):
            folded |= self.overrides(s, regime)
        return folded

    def model(self, step: str | int, regime: str = "", **settings: Any) -> AnySpec:
        """Return the network of a step: the fold of its path, then `settings` on top. Raises ConfigError."""
        where = self.find_regime(regime or self.default_regime)
        folded = self._fold(self.find_step(step), where.name)
        toggles = {name: value for name, value in folded.items() if name.partition(".")[0] != RECIPE}
        return with_settings(where.base, {**toggles, **settings})

    def recipe_name(self, step: str | int, regime: str) -> str:
        """Return the name of the recipe that a step is trained with."""
        role = self._fold(self.find_step(step), regime).get(RECIPE, ORIGINAL)
        return self.find_regime(regime).recipes[role]

    def recipe_fields(self, step: str | int, regime: str) -> dict[str, Any]:
        """Return the fields that the path to the step sets in its recipe, such as {"ema_decay": 0.9999}."""
        folded = self._fold(self.find_step(step), regime)
        prefix = f"{RECIPE}."
        return {name.removeprefix(prefix): value for name, value in folded.items() if name.startswith(prefix)}

    def recipe(self, step: str | int, regime: str) -> Recipe:
        """Return the recipe of a step, with what the ladder sets in it."""
        return replace(find_recipe(self.recipe_name(step, regime)), **self.recipe_fields(step, regime))

    def printed_regime(self, regime: str) -> Regime:
        """Return the regime whose printed numbers stand beside this one's: itself, or the first one with numbers."""
        here = self.find_regime(regime)
        printed = [regime for regime in (here, *self.all_regimes) if regime.paper]
        return printed[0] if printed else here
