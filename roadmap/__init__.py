"""The ConvNeXt modernization roadmap as controlled, single-change experiments. Importing this imports no torch."""

from typing import Any

__all__ = ["build_model", "load", "load_weights", "save"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        import roadmap.model

        return getattr(roadmap.model, name)
    raise AttributeError(f"module 'roadmap' has no attribute {name!r}")
