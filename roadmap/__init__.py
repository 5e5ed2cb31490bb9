"""The ConvNeXt modernization roadmap as controlled, single-change experiments.

Importing this imports no torch, no pandas.

>>> import roadmap
>>> roadmap.build_model("5b")  # a step's network
>>> study = roadmap.Study.from_file("kernel", digits=True)  # see roadmap.api
>>> roadmap.load_runs("results/digits")  # a DataFrame
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Name -> the module that has it, imported when the name is first used.
_HOMES = {
    "build_model": "roadmap.model",
    "load": "roadmap.model",
    "load_weights": "roadmap.model",
    "save": "roadmap.model",
    "Runtime": "roadmap.config.runtime",
    "Study": "roadmap.api",
    "compare": "roadmap.api",
    "ladder_figure": "roadmap.api",
    "load_runs": "roadmap.api",
}
__all__ = ["Runtime", "Study", "build_model", "compare", "ladder_figure", "load", "load_runs", "load_weights", "save"]


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        return getattr(import_module(home), name)
    raise AttributeError(f"module 'roadmap' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
