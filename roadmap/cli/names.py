"""run --list: the names of steps, regimes, recipes, data sets and ladders.

names.json: {ladder: what is printed of it}, of the shipped ladders, so that no config is imported
to answer. `python -m roadmap.cli.names` writes it anew; a test holds it against the configs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from roadmap.config.errors import listing

KEPT = Path(__file__).with_name("names.json")
DEFAULT, OTHER_LADDERS = "convnext", "roadmap.ladders"  # as in roadmap.ladder, which imports pydantic


def list_names(ladder: str | None) -> int:
    """Print all names, of a ladder that is not shipped as it is now. Raises ConfigError."""
    kept = kept_names()
    print(kept.get(ladder or DEFAULT) or names_of(ladder or DEFAULT))
    print(f"ladders\n  {listing(dict.fromkeys([*other_ladders(sys.path), *kept]))}")
    return 0


def other_ladders(places: Iterable[str]) -> list[str]:
    """The ladders that packages installed in these folders name.

    importlib.metadata takes as long as the rest of the answer: it is asked where a file says that
    there are any.
    """
    files = (path for place in places for path in Path(place).glob("*.*-info/entry_points.txt"))
    if not any(f"[{OTHER_LADDERS}]".encode() in path.read_bytes() for path in files):
        return []
    from importlib.metadata import entry_points

    return [entry.name for entry in entry_points(group=OTHER_LADDERS)]


def kept_names() -> Mapping[str, str]:
    """What is kept, by ladder."""
    return {ladder: "\n".join(lines) for ladder, lines in json.loads(KEPT.read_text()).items()}


def names_of(ladder: str) -> str:
    """What is printed of a ladder, from its configs. Raises ConfigError where there is no such ladder."""
    from roadmap.config.recipes import RECIPES
    from roadmap.data.registry import NAMED
    from roadmap.ladder import find_ladder

    found = find_ladder(ladder)
    steps = [f"  {step.id or '':<3} {step.name:<24} {step.title}" for step in found.order(side_steps=True)]
    lines = [f"steps of {found.name}", *steps]
    for title, table in {"regimes": found.regimes, "recipes": RECIPES, "data sets": NAMED}.items():
        lines += [title, f"  {listing(table)}"]
    return "\n".join(lines)


def main() -> None:
    """Keep the names of the shipped ladders."""
    from roadmap.ladder import SHIPPED

    kept = {ladder: names_of(ladder).splitlines() for ladder in SHIPPED}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
