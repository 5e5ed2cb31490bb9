"""The files of one split as values: arrays that a million files fit into. No image is opened here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"})


class Names(Sequence[str]):
    """File names in one buffer: bytes (B,) uint8, and the N + 1 places where names begin and end, int64.

    A million names take 40 MB and not 200, and the loader's forked workers share them: to read an
    object of Python's is to write to its page.
    """

    def __init__(self, buffer: np.ndarray, ends: np.ndarray) -> None:
        self.buffer, self.ends = buffer, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        encoded = [os.fsencode(name) for name in names]
        ends = np.concatenate([[0], np.cumsum([len(name) for name in encoded], dtype=np.int64)])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends.astype(np.int64))

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        at = range(len(self))[index]
        return os.fsdecode(self.buffer[self.ends[at] : self.ends[at + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return map(os.fsdecode, self.encoded())

    def encoded(self) -> Iterator[bytes]:
        """The names as the file system has them."""
        content, ends = self.buffer.tobytes(), self.ends.tolist()
        return (content[first:end] for first, end in zip(ends, ends[1:], strict=False))


def _no_numbers() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Listing:
    """The files of one split, by class and name.

    root: the split's folder, or its tar file. files: paths below it, with '/' between parts.
    labels: (N,) indices into `classes`. sizes: (N,) bytes. times: (N,) of the last change, in ns.
    shards: the tar files that hold the images, below `root`; none where each is a file of its own.
    shard, offsets: (N,) which of them holds an image, and at which byte.
    places: the folders, or the tar files, that say what there is. stamps: (P, 4) of these, see `stamp`.
    """

    root: Path
    classes: tuple[str, ...]
    files: Names
    labels: np.ndarray
    sizes: np.ndarray = field(default_factory=_no_numbers)
    times: np.ndarray = field(default_factory=_no_numbers)
    shards: tuple[str, ...] = ()
    shard: np.ndarray = field(default_factory=_no_numbers)
    offsets: np.ndarray = field(default_factory=_no_numbers)
    places: Names = field(default_factory=lambda: Names.of(()))
    stamps: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int64))

    @classmethod
    def unlabelled(cls, root: Path, files: Sequence[str]) -> Listing:
        """Files of no class, as they are predicted."""
        return cls(root, (), Names.of(files), np.zeros(len(files), np.int64))

    def __len__(self) -> int:
        return len(self.files)


class OfListing:
    """What every source of encoded images knows from the listing of its files."""

    files: Listing

    @property
    def labels(self) -> np.ndarray:
        return self.files.labels

    @property
    def times(self) -> np.ndarray:
        return self.files.times


def stamp(path: Path | str) -> tuple[int, int, int, int]:
    """(inode, bytes, time of the content's last change, time of the last change at all), times in ns.

    A folder's changes when a name is added, removed or replaced in it; no tool can set the last time back.
    """
    status = os.stat(path)
    return status.st_ino & (2**63 - 1), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def digest_of(*splits: Listing) -> str:
    """SHA-256 over names and sizes of all images: what there is, wherever and in whatever form it lies."""
    h = hashlib.sha256()
    for split in splits:
        h.update(f"{len(split)}\n".encode())
        for file, size in zip(split.files.encoded(), split.sizes.tolist(), strict=True):
            h.update(b"%b\t%d\n" % (file, size))
    return h.hexdigest()
