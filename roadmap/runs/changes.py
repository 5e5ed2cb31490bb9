"""Files that are read again only when they have changed: what a look at a study costs while little
of it moves. No torch.

A file has changed where its place on the disk, its size or one of its times is another one. A
rewrite within one tick of the file system's clock may leave all of them as they were; so what was
read of a file that had just been written is not relied upon: it is read again until the clock has
gone on since. The file system's clock, not this machine's: on a cluster they differ.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

TICK = 2.0  # seconds: the coarsest clock of a file system (FAT); ext4 and NFS tick at least each second

Signature = tuple[int, ...]  # device, inode, size, time of the content's change, time of any change (ns)


@dataclass(slots=True)
class _Kept:
    """A file's value, and the file as it was before it was read; without a signature it was not there.

    since: when this signature was first seen, by time.monotonic. settled: whether the clock had gone
    on between the file's last change and its reading, so that a later change must show.
    """

    signature: Signature | None
    value: Any
    since: float
    settled: bool


class Files:
    """Files that are read each time."""

    def read(self, path: str, reader: Callable[[str], T]) -> T:
        """`reader(path)`; what it raises is raised."""
        return reader(path)


EACH_TIME = Files()


class ChangedFiles(Files):
    """What readers make of files, made anew only where a file has changed."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Callable[[str], Any], str], _Kept] = {}
        self._newest: dict[int, int] = {}  # of each device the latest time at which a file changed

    def read(self, path: str, reader: Callable[[str], T]) -> T:
        """`reader(path)` of now or of an earlier call; what it raises is raised each time.

        reader: the same function each time; it is asked, too, where there is no file. Its value is
        not to be changed: while the file says the same, it is the same object.
        """
        signature = self._signature(path)
        key = (reader, path)
        kept = self._kept.get(key)
        if kept is not None and kept.signature == signature and kept.settled:
            value: T = kept.value
            return value
        settled, since = self._settled(signature, kept)
        value = reader(path)
        if kept is not None and value == kept.value:
            value = kept.value
        self._kept[key] = _Kept(signature, value, since, settled)
        return value

    def _signature(self, path: str) -> Signature | None:
        try:
            s = os.stat(path)
        except OSError:  # not there, or not to be looked at: its reader says which
            return None
        self._newest[s.st_dev] = max(s.st_ctime_ns, self._newest.get(s.st_dev, 0))
        return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns

    def _settled(self, signature: Signature | None, kept: _Kept | None) -> tuple[bool, float]:
        """Whether a change after now will show in the signature, and since when it is as it is."""
        now = time.monotonic()
        if signature is None:  # a file that appears has one
            return True, now
        since = kept.since if kept is not None and kept.signature == signature else now
        device, *_, changed = signature
        return self._newest[device] - changed > TICK * 1e9 or now - since > TICK, since
