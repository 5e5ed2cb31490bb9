"""The ConvNeXt modernization roadmap as controlled, single-change experiments. Importing this imports no torch."""

from typing import Any

__all__ = ["build_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "build_model":
        from roadmap.model import build_model

        return build_model
    raise AttributeError(f"module 'roadmap' has no attribute {name!r}")
