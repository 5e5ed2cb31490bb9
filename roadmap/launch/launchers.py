"""The launchers by name: the one place that knows all of them."""

from __future__ import annotations

import importlib

from roadmap.config.errors import lookup
from roadmap.launch.base import Launcher

LAUNCHERS = {
    "local": "roadmap.launch.local:LocalLauncher",
    "slurm": "roadmap.launch.slurm.launcher:SlurmLauncher",
    "export": "roadmap.launch.export:ExportLauncher",
}


def find_launcher(name: str) -> Launcher:
    """A launcher with its default settings. Raises ConfigError naming the legal ones."""
    module, _, attribute = lookup("launcher", name, LAUNCHERS).partition(":")
    made: Launcher = getattr(importlib.import_module(module), attribute)()
    return made


def every_launcher() -> list[Launcher]:
    """One of each."""
    return [find_launcher(name) for name in LAUNCHERS]
