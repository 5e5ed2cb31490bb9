"""Files that are written whole or not at all, and read back."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from roadmap.config.errors import RoadmapError

CHUNK = 1 << 16  # bytes read at once: a record or a heartbeat is less


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


def read_whole(path: str) -> bytes:
    """A small file's content, without what a file object costs beside it. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        first, parts = os.read(handle, CHUNK), []
        while part := os.read(handle, CHUNK):
            parts.append(part)
        return b"".join([first, *parts]) if parts else first
    except OSError as e:
        e.filename = path  # which a read, unlike an open, does not name
        raise
    finally:
        os.close(handle)


def parse_json(content: bytes, otherwise: Callable[[bytes], Any] = json.loads) -> Any:
    """The value of a JSON document. Raises ValueError.

    Pydantic's parser takes half the time of the standard library's. What it refuses (NaN, Infinity,
    lone surrogates, damage) is left to `otherwise`, whose answer or error counts.
    """
    from pydantic_core import from_json  # --help must not wait for it

    try:
        return from_json(content, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        return otherwise(content)


def read_json(path: Path | str) -> Any:
    """The file's content, None if there is none. Raises RunError on a file that is not JSON."""
    try:
        return parse_json(read_whole(os.fspath(path)))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as e:
        raise RunError(f"{path} is not JSON ({e}); legal: what this program wrote; move it away") from e


def _line(line: bytes) -> dict[str, Any] | None:
    """A JSONL line's object, None where it is torn or no object."""
    try:
        value = parse_json(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_last_lines(path: str) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSONL file from the last one back; none where there is no file.

    Only as much of the file is read as is asked for.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        end, rest = os.fstat(handle).st_size, b""
        while end:
            start = max(0, end - CHUNK)
            first, *lines = (os.pread(handle, end - start, start) + rest).split(b"\n")
            yield from filter(None, map(_line, filter(None, reversed(lines))))
            end, rest = start, first
        if rest and (value := _line(rest)):
            yield value
    finally:
        os.close(handle)


def read_lines(path: Path | str) -> tuple[list[dict[str, Any]], int]:
    """All whole lines of a JSONL file, and how many were torn or damaged."""
    try:
        lines = read_whole(os.fspath(path)).splitlines()
    except FileNotFoundError:
        return [], 0
    whole, torn = [], 0
    for line in lines:
        value = _line(line)
        if value is None:
            torn += 1
        else:
            whole.append(value)
    return whole, torn


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits. Raises RunError."""
    import hashlib

    try:
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise RunError(f"file {path} cannot be read: {e.strerror}; legal: a readable file; check the path") from e
