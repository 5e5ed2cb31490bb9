"""The numbers on a lattice:

Shapley values, pair interactions, and the seeds' uncertainty of both.

Means are in the metric's unit, everything else in its difference unit.

The averages are own code: the libraries for Shapley values (shapiq, shap) take a value for every
one of the 2^n subsets, and have neither cells that cannot be built nor cells that nobody trained.
All are weighted sums of cell means, so that intervals need the weights once and not a game a
resample.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import factorial
from typing import TYPE_CHECKING

from analysis.attribution.assignment import Placed
from analysis.attribution.coalitions import Lattice, Player, paths, ways_from, ways_to
from analysis.attribution.games import is_training
from analysis.stats.error_term import CONFIDENCE
from analysis.study import Run
from roadmap.runs.metric import Metric
from roadmap.runs.record import without_neutral

if TYPE_CHECKING:
    import numpy as np

RESAMPLES, BOOTSTRAP_SEED, BLOCK = 4000, 0, 128
SIDES = ("recipe", "architecture")

Weights = Mapping[int, float]  # by cell; an estimate is the sum of weight x mean
Means = dict[int, dict[int, float]]  # cell -> {seed: value}


@dataclass(frozen=True)
class Estimate:
    """A sum of means with the bootstrap's 95 % interval.

    None where no cell was trained twice, for then no error is known.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Value(Estimate):
    """A player's share.

    `settings` says what it switches, `kind` is 'recipe', 'architecture' or 'both'.
    """

    player: str
    settings: str
    kind: str


@dataclass(frozen=True)
class Interaction:
    """By how much two players together give more than the sum of each alone.

    Over `squares` of `legal` ones (None: not counted), no value without one.
    """

    a: str
    b: str
    value: float | None
    low: float | None
    high: float | None
    squares: int
    legal: int | None


@dataclass(frozen=True)
class Solved:
    """The estimates of one lattice.

    `sums` are the values of all recipe and of all architecture players; `missing` holds (cell,
    orders it completes, orders through it), best first.
    """

    gain: Estimate | None
    values: tuple[Value, ...]
    interactions: tuple[Interaction, ...]
    sums: tuple[Estimate, Estimate] | None
    kinds: tuple[str, ...]
    used: int
    legal_orders: int | None
    legal_cells: int | None
    missing: list[tuple[int, int, int]]
    error: str


def solve(lattice: Lattice, placed: Placed, toggles: frozenset[str], scatter: Placed | None = None) -> Solved:
    """scatter: the runs whose error counts, where these are another lattice's, such as the whole
    study's for the game of two."""
    means = _means(placed)
    players, top = lattice.game.players, lattice.top
    legal = lattice.legal()
    through = paths(legal, lattice.size) if legal is not None else None
    shares, used = shapley_weights(means, lattice.size)
    squares = {(i, j): interaction_weights(means, i, j, lattice.size) for i, j in combinations(range(lattice.size), 2)}
    allowed = _legal_squares(legal, lattice.size) if legal is not None else None
    kinds = tuple(_kind(p, toggles) for p in players)
    sums = _sums(shares, kinds)
    gain = [{0: -1.0, top: 1.0}] if {0, top} <= means.keys() else []
    asked = [*gain, *shares, *sums, *(weights for weights, n in squares.values() if n)]
    streams = {cell: _stream(lattice.settings(cell)) for cell in means}
    errors_of = _means(scatter) if scatter else None
    estimated, error = estimates(means, asked, scatter=errors_of, streams=streams)
    estimate = iter(estimated)  # in the order in which they were asked for
    of_gain = next(estimate) if gain else None
    values = _values(players[: len(shares)], kinds[: len(shares)], estimate)
    of_sums = (next(estimate), next(estimate)) if sums else None
    solved = Solved(
        gain=of_gain,
        values=values,
        sums=of_sums,
        interactions=_interactions(players, squares, allowed, estimate),
        kinds=kinds,
        used=used,
        legal_orders=None,
        legal_cells=None,
        missing=[],
        error=error,
    )
    if legal is None or through is None:
        return solved
    missing = _ranked(means, through, lattice.size)
    return replace(solved, legal_orders=through[0].get(top, 0), legal_cells=len(legal), missing=missing)


def _sums(shares: Sequence[Weights], kinds: Sequence[str]) -> list[Weights]:
    """The weights of all recipe and of all architecture players together.

    None where a player is both.
    """
    if not shares or "both" in kinds:
        return []
    of_kind: dict[str, list[Weights]] = {side: [] for side in SIDES}
    for weights, kind in zip(shares, kinds, strict=True):
        of_kind[kind].append(weights)
    return [_add(weights) for weights in of_kind.values()]


def _values(players: Sequence[Player], kinds: Sequence[str], estimate: Iterator[Estimate]) -> tuple[Value, ...]:
    """The next estimates as the players' shares."""
    found = []
    for player, kind in zip(players, kinds, strict=True):
        e = next(estimate)
        found.append(Value(e.value, e.low, e.high, player=player.name, settings=player.words, kind=kind))
    return tuple(found)


def _interactions(
    players: Sequence[Player],
    squares: Mapping[tuple[int, int], tuple[Weights, int]],
    allowed: Mapping[tuple[int, int], int] | None,
    estimate: Iterator[Estimate],
) -> tuple[Interaction, ...]:
    """The next estimates as the interactions of those pairs that have a trained square."""
    found = []
    for (i, j), (_, n) in squares.items():
        e = next(estimate) if n else None
        value, low, high = (e.value, e.low, e.high) if e else (None, None, None)
        legal = allowed[i, j] if allowed else None
        found.append(Interaction(players[i].name, players[j].name, value, low, high, n, legal))
    return tuple(found)


def _means(placed: Placed) -> Means:
    """Sorted, so that the bootstrap draws alike in whatever order the runs are listed."""
    return {cell: _by_seed(runs, placed.metric) for cell, runs in sorted(placed.runs.items())}


def _by_seed(runs: Sequence[Run], metric: Metric) -> dict[int, float]:
    return dict(sorted((int(run.seed), run.value(metric)) for run in runs))


def _stream(settings: Mapping[str, object]) -> int:
    """A number of a cell's settings alone: the cell draws the same errors in every lattice that has
    it, and when toggles have been added, so that one quantity has one interval."""
    known = json.dumps(without_neutral(settings), sort_keys=True)
    return int.from_bytes(hashlib.sha256(known.encode()).digest()[:8])


def shapley_weights(trained: Mapping[int, object], size: int) -> tuple[list[Weights], int]:
    """For each player the weights of its mean contribution over all orders whose every cell is in
    `trained`, and how many orders these are; no weights without one."""
    up, down = paths(trained.keys(), size)
    orders = up.get((1 << size) - 1, 0) if 0 in trained else 0
    if not orders:
        return [], 0
    weights: list[dict[int, float]] = [defaultdict(float) for _ in range(size)]
    for cell in trained:
        for i in range(size):
            after = cell | 1 << i
            if after != cell and after in trained and (passing := up[cell] * down[after]):
                share = passing / orders  # Python divides whole numbers of any size correctly rounded
                weights[i][after] += share
                weights[i][cell] -= share
    return [dict(w) for w in weights], orders


def interaction_weights(trained: Mapping[int, object], i: int, j: int, size: int) -> tuple[Weights, int]:
    """The weights of the mean second difference of two players over the squares in `trained`, and
    how many squares these are.

    A square that stands on s other players weighs s! (n - s - 2)! / (n - 1)! in the index; with all
    squares trained these sum to one.
    """
    a, b = 1 << i, 1 << j
    squares = [c for c in trained if not c & (a | b) and c | a in trained and c | b in trained and c | a | b in trained]
    shares = [factorial(c.bit_count()) * factorial(size - c.bit_count() - 2) for c in squares]
    weights: dict[int, float] = {}
    for c, share in zip(squares, shares, strict=True):
        weights |= {
            c: share / sum(shares),
            c | a: -share / sum(shares),
            c | b: -share / sum(shares),
            c | a | b: share / sum(shares),
        }
    return weights, len(squares)


def _legal_squares(legal: Sequence[int], size: int) -> dict[tuple[int, int], int]:
    """How many squares of each pair of players can be built."""
    import numpy as np

    cells = np.array(legal, dtype=int)
    known = np.zeros(1 << size, bool)
    known[cells] = True

    def count(i: int, j: int) -> int:
        low = cells[cells & (1 << i | 1 << j) == 0]
        return int((known[low | 1 << i] & known[low | 1 << j] & known[low | 1 << i | 1 << j]).sum())

    return {(i, j): count(i, j) for i, j in combinations(range(size), 2)}


def _add(rows: Iterable[Weights]) -> Weights:
    total: dict[int, float] = defaultdict(float)
    for row in rows:
        for cell, weight in row.items():
            total[cell] += weight
    return dict(total)


def _kind(player: Player, toggles: frozenset[str]) -> str:
    """A player that changes the network is architecture, also where LayerScale or stochastic depth
    goes with it; one that changes recipe and network is both."""
    network = any(not is_training(key, toggles) for key in player.settings)
    trained_otherwise = any(key.startswith("recipe.") for key in player.settings)
    if network:
        return "both" if trained_otherwise else "architecture"
    return "recipe"


def _ranked(
    trained: Mapping[int, object], through: tuple[dict[int, int], dict[int, int]], size: int
) -> list[tuple[int, int, int]]:
    """Untrained cells on legal orders: (cell, orders it alone completes, orders that pass it), the
    most useful first."""
    up, down = paths(trained.keys(), size)
    found = []
    for cell, ways in through[0].items():
        if cell not in trained and (orders := ways * through[1][cell]):
            found.append((cell, ways_to(cell, up) * ways_from(cell, down, size), orders))
    return sorted(found, key=lambda x: (-x[1], -x[2], x[0].bit_count(), x[0]))


def estimates(
    cells: Means, rows: Sequence[Weights], *, scatter: Means | None = None, streams: Mapping[int, int] | None = None
) -> tuple[list[Estimate], str]:
    """Each row's weighted sum of cell means with its interval, and a few words on the error behind
    the intervals.

    The bootstrap draws every cell's runs anew from the residuals of all cells: two or three runs of
    one cell are too few to draw from. Residuals are inflated to the variance that n - 1 (or, where
    all cells have the same seeds, the model cell + seed) leaves, for a plain bootstrap of n runs is
    too narrow by sqrt((n - 1) / n); and by the ratio of the t to the normal quantile, for that
    variance is itself an estimate. Assumes one error variance in all cells. scatter: whose
    residuals are drawn, with their degrees of freedom; those of `cells` unless given. streams: each
    cell's own random numbers; its number unless given.
    """
    import numpy as np

    streams = streams or {}
    values = [_weighted(row, cells) for row in rows]
    pool, words = _residuals(cells if scatter is None else scatter, cells)
    if pool is None:
        return [Estimate(value, None, None) for value in values], words
    names = sorted({cell for row in rows for cell in row})
    weights = np.zeros((len(rows), len(names)))
    at = {cell: k for k, cell in enumerate(names)}
    for r, row in enumerate(rows):
        for cell, weight in row.items():
            weights[r, at[cell]] = weight
    drawn = np.zeros((RESAMPLES, len(rows)))
    for block in np.array_split(np.arange(len(names)), -(-len(names) // BLOCK)) if names else []:
        errors = [_drawn(pool, streams.get(names[k], names[k]), len(cells[names[k]])) for k in block]
        drawn += np.column_stack(errors) @ weights[:, block].T
    edges = np.quantile(drawn, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2], axis=0)
    return [
        Estimate(value, value + float(low), value + float(high))
        for value, (low, high) in zip(values, edges.T, strict=True)
    ], words


def _weighted(row: Weights, cells: Means) -> float:
    return sum(weight * _mean(cells[cell]) for cell, weight in row.items())


def _drawn(pool: np.ndarray, stream: int, runs: int) -> np.ndarray:
    """The mean error of a cell's runs in each resample, from the cell's own random numbers."""
    import numpy as np

    rng = np.random.default_rng([BOOTSTRAP_SEED, stream])
    means: np.ndarray = pool[rng.integers(len(pool), size=(RESAMPLES, runs))].mean(axis=1)
    return means


def _residuals(cells: Means, asked: Means) -> tuple[np.ndarray | None, str]:
    """The inflated residuals of all cells, None where no cell has two runs; and what they are.

    Where all cells, and those that are `asked` about, share their seeds, a seed's own effect is
    taken out: it is in all of them alike and cancels from every difference.
    """
    import numpy as np
    from scipy.special import ndtri, stdtrit  # type: ignore[import-untyped,unused-ignore]

    several = [found for found in cells.values() if len(found) > 1]
    if not several:
        return None, "no interval: no cell has two finished runs"
    runs = sum(map(len, several))
    if len(cells) > 1 and len({frozenset(found) for found in (*cells.values(), *asked.values())}) == 1:
        table = np.array([list(dict(sorted(found.items())).values()) for found in cells.values()])
        left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
        freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
        pool = left.ravel() * np.sqrt(runs / freedom)
        words = f"the residuals of {len(several)} cells less the effect of the seeds they share"
    else:
        freedom = runs - len(several)
        pool = np.concatenate(
            [
                (np.array(list(found.values())) - _mean(found)) * np.sqrt(len(found) / (len(found) - 1))
                for found in several
            ]
        )
        words = f"the residuals of the {len(several)} cells with two runs or more"
    wider = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2) / ndtri(0.5 + CONFIDENCE / 2))
    return (
        pool * wider,
        f"95 % intervals: {RESAMPLES:,} bootstrap resamples of {words} ({runs} runs, {freedom} degrees of freedom)",
    )


def _mean(by_seed: Mapping[int, float]) -> float:
    return sum(by_seed.values()) / len(by_seed)
