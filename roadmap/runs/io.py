"""Files that are written whole or not at all, and read back."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from roadmap.config.errors import RoadmapError


class RunError(RoadmapError):
    """A run folder that cannot be used as asked: held by another process, of another trial, or not writable."""


class RunHeld(RunError):
    """A run that another process trains now: wait for it, or stop it first."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write whole or not at all: temporary file, fsync, rename, fsync of the folder.

    Raises RunError naming path and size.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(
            f"{path} cannot be written ({len(content):,} bytes): {e.strerror}; what was there before is "
            "untouched; free space or permissions, then start again"
        ) from e


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=True) + "\n").encode())


def read_json(path: Path) -> Any:
    """The file's content, None if there is none. Raises RunError on a file that is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise RunError(f"{path} is not JSON ({e}); legal: what this program wrote; move it away") from e


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All whole lines of a JSONL file, and how many were torn or damaged."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return [], 0
    whole, torn = [], 0
    for line in lines:
        try:
            whole.append(json.loads(line))
        except ValueError:
            torn += 1
    return whole, torn


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits. Raises RunError."""
    import hashlib

    try:
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise RunError(f"file {path} cannot be read: {e.strerror}; legal: a readable file; check the path") from e
