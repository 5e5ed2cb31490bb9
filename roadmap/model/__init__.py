"""Networks: the one parametric ModernizableResNet, its parts, its complexity and its structure."""

from roadmap.model.complexity import Complexity, complexity
from roadmap.model.network import ModernizableResNet, build_model

__all__ = ["Complexity", "ModernizableResNet", "build_model", "complexity"]
