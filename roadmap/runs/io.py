"""Files that are written whole or not at all, and read back."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from roadmap.config.errors import RoadmapError


class RunError(RoadmapError):
    """A run folder that cannot be used as asked: held by another process, of another trial, or not writable."""


class RunHeld(RunError):
    """A run that another process trains now: wait for it, or stop it first."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write whole or not at all. Raises RunError naming path and size."""
    with writing(path, size=len(content)) as file:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]


@contextlib.contextmanager
def writing(path: Path, *, size: int) -> Iterator[IO[bytes]]:
    """A file that is there whole or not at all: temporary file, fsync, rename, fsync of the folder.

    Not buffered: its `write` says how much was written, and a forked process has nothing of it to
    flush. Raises RunError naming path and size.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", buffering=0) as f:
            yield f
            os.fsync(f.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(e, OSError):
            raise
        raise RunError(
            f"{path} cannot be written ({size:,} bytes): {e.strerror}; what was there before is "
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
