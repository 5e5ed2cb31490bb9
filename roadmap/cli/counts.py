"""Parameters and multiply-adds of the shipped ladders' networks, kept so that `steps` builds none.

counts.json: {digest of the settings and the image's size: [params, macs]}. A network that is not in
it is built and counted. `python -m roadmap.cli.counts` counts all again; a test holds what is kept
against the networks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from roadmap.config.fields import identity_of
from roadmap.config.model import AnySpec, ModelSpec
from roadmap.ladder import SHIPPED, Ladder, Regime, find_ladder

KEPT = Path(__file__).with_name("counts.json")
LAYER_SCALE, USUAL_SCALE = "layer_scale", 1e-6  # the toggle that tables leave out, and its usual setting


class Counts(NamedTuple):
    """params: learnable scalars. macs: multiply-adds for one image."""

    params: int
    macs: int


def counts(spec: AnySpec, image_size: int) -> Counts:
    """What is kept of the network, else what is counted on it, which needs torch.

    Raises ConfigError.
    """
    if kept := _kept().get(key_of(spec, image_size)):
        return Counts(*kept)
    return built(spec, image_size)


def built(spec: AnySpec, image_size: int) -> Counts:
    """Count the network as it is built."""
    from roadmap.model.complexity import complexity

    size = complexity(spec, image_size)
    return Counts(size.params, size.macs)


def key_of(spec: AnySpec, image_size: int) -> str:
    """The digest of what the spec sets, which a new toggle at its neutral value leaves as it is."""
    content = json.dumps([type(spec).__name__, identity_of(spec), image_size], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@cache
def _kept() -> dict[str, list[int]]:
    return dict(json.loads(KEPT.read_text())) if KEPT.exists() else {}


def networks(ladder: Ladder, regime: Regime) -> Iterator[AnySpec]:
    """Every network that `steps` shows of a regime; ours without LayerScale and with it."""
    both: list[dict[str, float | None]] = [{LAYER_SCALE: None}, {LAYER_SCALE: USUAL_SCALE}]
    settings = both if isinstance(regime.base, ModelSpec) else [{}]
    for step in ladder.order(side_steps=True):
        for one in settings:
            yield ladder.model(step.name, regime.name, **one)


def main() -> None:
    """Count every network of the shipped ladders, and keep the counts."""
    kept: dict[str, Counts] = {}
    for ladder in map(find_ladder, SHIPPED):
        for regime in ladder.all_regimes:
            for spec in networks(ladder, regime):
                kept[key_of(spec, regime.image_size)] = built(spec, regime.image_size)
    lines = [f'  "{key}": [{size.params}, {size.macs}]' for key, size in sorted(kept.items())]
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
