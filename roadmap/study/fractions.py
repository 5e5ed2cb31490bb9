"""Fractional factorials: the runs that their generators make, and what these cannot tell apart. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from roadmap.config.errors import ConfigError
from roadmap.study.overrides import Arm, words
from roadmap.study.plan import Plan


def fraction(plan: Plan, factors: int) -> list[tuple[bool, ...]]:
    """Return the runs that pyDOE3 makes from the generators, the base first where it is among them."""
    from pyDOE3 import fracfact

    assert plan.fraction is not None
    where = f"study {plan.name}.fraction is {plan.fraction!r}"
    try:
        runs = fracfact(plan.fraction)
    except (ValueError, IndexError, KeyError, TypeError) as e:  # whichever it is, it is about the generators
        text = f"{where}, which pyDOE3 refuses ({e}); legal: generators such as 'a b c abc'; correct it"
        raise ConfigError(text) from e
    if runs.shape[1] != factors:
        text = f"{where}, {runs.shape[1]} factors for {factors} changes; legal: one generator a change; correct it"
        raise ConfigError(text)
    patterns: list[tuple[bool, ...]] = [tuple(map(bool, run > 0)) for run in runs]
    return sorted(patterns, key=any)


def aliases(plan: Plan, arms: Iterable[Arm]) -> list[str]:
    """Say which effects a fractional factorial cannot tell apart; empty where it can tell all.

    One that is the same in all runs is aliased with the mean. Effects with the same column, up to its sign, cannot be
    told apart; pyDOE3's own list does not see the sign.
    """
    if plan.fraction is None:
        return []
    from pyDOE3 import fracfact

    names = [words(arm) for arm in arms]
    runs = fracfact(plan.fraction)
    groups: dict[tuple[float, ...], list[str]] = {(1.0,) * len(runs): ["the mean"]}
    for size in range(1, len(names) + 1):
        for effect in itertools.combinations(range(len(names)), size):
            column = tuple(runs[:, effect].prod(axis=1))
            opposite = tuple(-x for x in column)
            told = " x ".join(names[i] for i in effect)
            if opposite in groups and column not in groups:
                groups[opposite].append(f"−({told})")
            else:
                groups.setdefault(column, []).append(told)
    mean, *others = groups.values()
    return [" = ".join(effects) for effects in (*others, [*mean[1:], mean[0]]) if len(effects) > 1]
