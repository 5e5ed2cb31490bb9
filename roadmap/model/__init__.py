"""Networks: the one parametric ModernizableResNet, its variants, weights, complexity and structure.

Names load on first use, so that importing the package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from roadmap.model.complexity import Complexity, complexity

if TYPE_CHECKING:
    from roadmap.model.build import build_model
    from roadmap.model.export import export_onnx, export_program
    from roadmap.model.files import load, save
    from roadmap.model.network import ModernizableResNet
    from roadmap.model.published import VARIANTS, build_variant
    from roadmap.model.weights import LoadReport, export_weights, load_weights

_HOMES = {
    "export_onnx": "export",
    "export_program": "export",
    "load": "files",
    "save": "files",
    "ModernizableResNet": "network",
    "build_model": "build",
    "VARIANTS": "published",
    "build_variant": "published",
    "LoadReport": "weights",
    "export_weights": "weights",
    "load_weights": "weights",
}

__all__ = [
    "VARIANTS",
    "Complexity",
    "LoadReport",
    "ModernizableResNet",
    "build_model",
    "build_variant",
    "complexity",
    "export_onnx",
    "export_program",
    "export_weights",
    "load",
    "load_weights",
    "save",
]


def __getattr__(name: str) -> Any:
    """The names above, and each variant's builder under the variant's name."""
    if name.startswith(("convnext_", "convnextv2_")):
        return getattr(importlib.import_module("roadmap.model.published"), name)
    if name in _HOMES:
        return getattr(importlib.import_module(f"roadmap.model.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'roadmap.model' has no attribute {name!r}")
