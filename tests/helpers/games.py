"""Games of which the right answer is known, written as studies.

And the brute force over permutations.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.attribution import assignment, games, summary
from analysis.attribution.assignment import Placed
from analysis.attribution.coalitions import Game, Lattice, Player, flat
from analysis.attribution.shares import Attribution
from roadmap.config.model import with_settings
from roadmap.config.trial import Trial
from roadmap.ladder import find_ladder
from roadmap.runs.metric import TOP1, Metric
from roadmap.runs.record import with_neutral
from tests.helpers.study_files import Draft, make_record, make_trial

# Independent toggles: every subset can be built.
FREE = {
    "kernel_size": ("model.kernel_size", 3, 7),
    "gelu": ("model.activation", "relu", "gelu"),
    "fewer": ("model.activations", "all", "one"),
    "layernorm": ("model.norm", "batch", "layer"),
    "grn": ("model.grn", False, True),
}
# The last three depend on `inverted`: the stem's patches are free, the others are not.
BOUND = {
    "inverted": ("model.inverted_bottleneck", False, True),
    "move-up": ("model.move_up_depthwise", False, True),
    "separate": ("model.downsampling", "block", "separate"),
    "gelu": ("model.activation", "relu", "gelu"),
}
BASE = make_trial("width", 0)


def trial_of(seed: int, settings: Mapping[str, Any], base: Trial = BASE, **recipe: Any) -> Trial:
    """The base with dotted settings."""
    model = {k.removeprefix("model."): v for k, v in settings.items() if k.startswith("model.")}
    trained = {k.removeprefix("recipe."): v for k, v in settings.items() if k.startswith("recipe.")}
    words = " ".join(f"{k.split('.')[1]}={v}" for k, v in settings.items())
    return replace(
        base,
        model=with_settings(base.model, model),
        recipe=replace(base.recipe, **trained, **recipe),
        seed=seed,
        change=words,
    )


def entry_of(trial: Trial, top1: float | None, **values: Any) -> dict[str, Any]:
    return make_record(
        trial, **{"top1": top1, "resolved": json.loads(json.dumps(trial.identity())), "wall_seconds": 36.0, **values}
    )


def subsets(names: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(some) for k in range(len(names) + 1) for some in itertools.combinations(names, k)]


def settings_of(some: frozenset[str], toggles: Mapping[str, tuple[str, Any, Any]]) -> dict[str, Any]:
    return {key: on for name, (key, _, on) in toggles.items() if name in some}


def game(toggles: Mapping[str, tuple[str, Any, Any]]) -> Game:
    players = tuple(Player(name, {key: (off, on)}) for name, (key, off, on) in toggles.items())
    return Game(flat(with_neutral(json.loads(json.dumps(BASE.identity())))), players, "width", "all on")


def study_of(entries: list[dict[str, Any]], name: str = "factorial") -> Draft:
    return Draft(name, entries, question="Whose is the gain?")


def factorial(
    value: Callable[[frozenset[str]], float],
    toggles: Mapping[str, tuple[str, Any, Any]] = FREE,
    cells: Sequence[frozenset[str]] | None = None,
    noise: Sequence[float] = (0.0,),
) -> Draft:
    """A study with a run for each cell and each number in `noise`, which is added to the cell's
    value. Cells that cannot be built are left out."""
    entries = []
    for some in cells if cells is not None else subsets(list(toggles)):
        if buildable(some) or toggles is not BOUND:
            entries += [
                entry_of(trial_of(seed, settings_of(some, toggles)), value(some) + n) for seed, n in enumerate(noise)
            ]
    return study_of(entries)


def buildable(some: frozenset[str]) -> bool:
    return "inverted" in some or not some & {"move-up", "separate"}


def with_control(study: Draft, seeds: Sequence[int], top1: float, kind: str = "a-a") -> Draft:
    """The study with the base's settings once more, as a control that has seeds of its own."""
    base = study.trials[0]
    again = [{**entry_of(trial_of(seed, {}), top1), "change": kind} for seed in seeds]
    compared = {"child": [base["step"], kind], "parent": [base["step"], base["change"]], "declared": [], "kind": kind}
    return replace(study, trials=[*study.trials, *again], comparisons=[*study.comparisons, compared])


def values_of(found: Attribution) -> dict[str, float]:
    return {v.player: v.value for v in found.values}


def by_permutations(
    value: Callable[[frozenset[str]], float],
    names: Sequence[str],
    legal: Callable[[frozenset[str]], bool] = lambda s: True,
) -> tuple[dict[str, float], int]:
    """The mean contribution of each player, order by order."""
    total, orders = dict.fromkeys(names, 0.0), 0
    for order in itertools.permutations(names):
        prefixes = [frozenset(order[:k]) for k in range(len(order) + 1)]
        if all(map(legal, prefixes)):
            orders += 1
            for player, before, after in zip(order, prefixes, prefixes[1:], strict=False):
                total[player] += value(after) - value(before)
    return {name: sum_ / orders for name, sum_ in total.items()}, orders


def table(seed: int) -> Callable[[frozenset[str]], float]:
    """A game whose cells have nothing to do with each other."""
    known: dict[frozenset[str], float] = {}
    rng = random.Random(seed)
    return lambda some: known.setdefault(some, rng.uniform(50, 99))


def pairwise(single: Mapping[str, float], pairs: Mapping[frozenset[str], float]) -> Callable[[frozenset[str]], float]:
    return lambda some: (
        70 + sum(single[name] for name in some) + sum(gain for pair, gain in pairs.items() if pair <= some)
    )


SINGLE = {name: 0.5 * i - 0.7 for i, name in enumerate(FREE)}
PAIRS = {frozenset(pair): 0.1 * i - 0.3 for i, pair in enumerate(itertools.combinations(FREE, 2))}


def micro_trial(step: str, seed: int, **settings: Any) -> Trial:
    """A step's trial as the study of its regime trains it."""
    return replace(make_trial(step, seed, **settings), recipe=find_ladder().recipe(step, "micro"))


def ladder_study(through: str = "grn", without: Sequence[str] = (), seeds: int = 3) -> Draft:
    """The micro ladder, up 0.5 a step."""
    names = [s.name for s in find_ladder().order()]
    names = names[: names.index(through) + 1]
    return study_of(
        [
            entry_of(micro_trial(n, seed), 80 + 0.5 * i + (0.3, -0.2, 0.05)[seed])
            for i, n in enumerate(names)
            if n not in without
            for seed in range(seeds)
        ],
        "ladder",
    )


def attribute(study: Draft, *, others: Sequence[Draft] = (), **asked: Any) -> Attribution:
    """Attribute as the command does, of drafts."""
    return summary.attribute(study.read(), others=[other.read() for other in others], **asked)


def game_of(study: Draft) -> Game:
    return games.game_of(study.read())


def players_of(study: Draft) -> tuple[Player, ...]:
    return games.players_of(study.read())


def place(lattice: Lattice, studies: Sequence[Draft], metric: Metric = TOP1) -> Placed:
    return assignment.place(lattice, [study.read() for study in studies], metric)
