"""Which code and which packages a run was made with."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "convnext-roadmap")


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the code that runs, None where it is not a checkout; and the digest of its source."""

    def git(*words: str) -> str | None:
        try:
            return subprocess.run(
                ["git", *words], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    commit = git("rev-parse", "HEAD")
    status = (
        git("status", "--porcelain", "--", ":/roadmap", ":/pyproject.toml", ":/constraints.txt") if commit else None
    )
    return {"git_commit": commit, "git_dirty": None if status is None else bool(status), "code_digest": code_digest()}


def code_digest() -> str:
    """SHA-256 over the package's source files and their names, 16 digits.

    Which code runs, also where there is no commit, or uncommitted changes.
    """
    import hashlib

    package = Path(__file__).parents[1]
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


@functools.cache
def package_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
