"""Which code and which packages a run was made with."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
DECIDING = ("config", "model", "data", "train")  # the folders whose code can decide what a run computes
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "torchcodec",
    "scikit-learn",
    "scipy",
    "datasets",
    "convnext-roadmap",
)


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the code that runs, None where it is not a checkout.

    And the digest of its source.
    """

    def git(*words: str) -> str | None:
        try:
            return subprocess.run(
                ["git", *words], cwd=PACKAGE, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    commit = git("rev-parse", "HEAD")
    status = (
        git("status", "--porcelain", "--", ":/roadmap", ":/pyproject.toml", ":/constraints.txt") if commit else None
    )
    return {"git_commit": commit, "git_dirty": None if status is None else bool(status), "code_digest": code_digest()}


def code_digest(package: Path = PACKAGE) -> str:
    """Return a SHA-256, 16 digits, over the source files that can decide an outcome, and their
    names.

    Two runs with one digest were made by the same code, whatever else was committed or changed
    beside it. `2:` in front tells it from the digests of older versions, which covered the whole
    package.
    """
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(path for part in DECIDING for path in (package / part).rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return f"2:{digest.hexdigest()[:16]}"


@functools.cache
def package_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
