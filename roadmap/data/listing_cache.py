"""Listings in the user's cache: a machine lists a data set once, whatever number of ranks and jobs reads it.

What is kept holds while every folder (or tar file) that was listed has the inode, size and times that it had, and a
sample of the files has its size and time. A file that is written in place, outside the sample, is not noticed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from roadmap.data.listing import Listing, Names, stamp

VERSION = 1
SETTLED_NS = 2_000_000_000  # a change within the clock tick of a time stamp would leave the stamp as it is
SAMPLE = 256
NAMES = ("files", "classes", "shards", "places")
ARRAYS = ("labels", "sizes", "times", "shard", "offsets", "stamps")


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convnext-roadmap" / "data"


def kept_or_made(root: Path, make: Callable[[], Listing]) -> Listing:
    """The listing of a split that is kept and holds, else a new one, which is kept.

    One process makes it, the others wait for it and read it. Where the cache cannot be used, each makes its own.
    """
    path = _entry(root)
    if known := _read(path, root):
        return known
    with alone(path.with_name(f"{path.name[:2]}.lock")):  # few files, as none may be removed while others wait
        if known := _read(path, root):
            return known
        began = time.time_ns()
        made = make()
        if _settled(made, began):
            _write(path, made)
        return made


def _entry(root: Path) -> Path:
    """The file for this folder or tar file itself: another one at the same path, as on another node, has its own."""
    inode, _, _, changed = stamp(root)
    name = hashlib.sha256(json.dumps([VERSION, os.path.realpath(root), inode, changed]).encode()).hexdigest()
    return cache_folder() / f"{name[:32]}.npz"


def _settled(made: Listing, now: int) -> bool:
    """Whether every later change will be seen in the stamps."""
    return bool((made.stamps[:, 2:].min(axis=1) < now - SETTLED_NS).all())


def _holds(kept: Listing) -> bool:
    """Whether the stamps, and those of a sample of the files, are as they were."""
    try:
        now = np.array([stamp(kept.root / place) for place in kept.places], np.int64)
        return np.array_equal(now, kept.stamps) and all(_unchanged(kept, int(i)) for i in _sample(kept))
    except OSError:
        return False


def _sample(kept: Listing) -> np.ndarray:
    """Indices of files to look at; the stamp of a tar file says all of its members."""
    count = 0 if kept.shards else min(SAMPLE, len(kept))
    return np.linspace(0, len(kept) - 1, count).astype(np.int64)


def _unchanged(kept: Listing, index: int) -> bool:
    _, size, changed, _ = stamp(kept.root / kept.files[index])
    return (size, changed) == (kept.sizes[index], kept.times[index])


# Files ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock; where there can be none, go on without."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(open(path, "w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, made: Listing) -> None:
    """Keep it, whole or not at all. Without it the listing is made again."""
    arrays: dict[str, Any] = {name: getattr(made, name) for name in ARRAYS}
    for name in NAMES:
        names = Names.of(getattr(made, name))
        arrays |= {f"{name}.buffer": names.buffer, f"{name}.ends": names.ends}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            np.savez(f, **arrays)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _read(path: Path, root: Path) -> Listing | None:
    """What is kept for this root, if it is whole (the file has checksums) and holds."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in ARRAYS}
            names = {name: Names(kept[f"{name}.buffer"], kept[f"{name}.ends"]) for name in NAMES}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    found = Listing(
        root,
        tuple(names["classes"]),
        names["files"],
        shards=tuple(names["shards"]),
        places=names["places"],
        **arrays,
    )
    return found if _holds(found) else None
