"""Tar files of images: a table of what lies where, made once, and any image by one read. No image is opened here."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from roadmap.config.errors import DataError, listing
from roadmap.data.listing import IMAGE_SUFFIXES, Listing, Names, OfListing, stamp

SPLITS = ("train", "training", "test", "val", "validation")
NO_MEMBER = bytes(tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a tar file: its name from the class on, the file's number, the image's first byte, its bytes."""

    name: str
    shard: int
    offset: int
    size: int

    @property
    def key(self) -> tuple[str, str]:
        """By which a folder of the same names is sorted: class, then path."""
        return self.name.partition("/")[0], self.name


def list_tar(root: Path, shards: Sequence[str]) -> Listing:
    """Classes and images of a split's tar files, in the order in which a folder of the same names has them.

    Raises DataError, naming the member.
    """
    stamps = np.array([stamp(root / shard) for shard in shards], np.int64)
    members = [m for number, shard in enumerate(shards) for m in _members(root / shard, number)]
    members = sorted(_below_split(members), key=lambda m: m.key)
    _refuse_doubles(root, shards, members)
    classes = sorted({m.key[0] for m in members})
    number_of = {name: k for k, name in enumerate(classes)}
    shard = np.array([m.shard for m in members], np.int64)
    return Listing(
        root,
        tuple(classes),
        Names.of(m.name for m in members),
        np.array([number_of[m.key[0]] for m in members], np.int64),
        sizes=np.array([m.size for m in members], np.int64),
        times=stamps[shard, 2],
        shards=tuple(shards),
        shard=shard,
        offsets=np.array([m.offset for m in members], np.int64),
        places=Names.of(shards),
        stamps=stamps,
    )


def _members(path: Path, shard: int) -> Iterator[Member]:
    """The images of one tar file that lie in a class folder."""
    last = "its start"
    try:
        with tarfile.open(path, "r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all: 1 GB for a million
                last = info.name
                name = "/".join(part for part in info.name.split("/") if part not in ("", "."))
                if "/" in name and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not info.isdir():
                    _refuse_member(path, info)
                    yield Member(name, shard, info.offset_data, info.size)
            end = archive.offset
        if _block(path, end) != NO_MEMBER:  # tarfile takes a damaged header for the end
            raise tarfile.ReadError("no header and no end mark")
    except (tarfile.TarError, OSError) as e:
        raise DataError(
            f"data file {path} cannot be read as a tar after {last}: {e}; legal: whole, uncompressed tar files; "
            "write it again with `tar cf`"
        ) from e


def _block(path: Path, offset: int) -> bytes:
    with open(path, "rb") as f:
        f.seek(offset)
        return f.read(tarfile.BLOCKSIZE)


def _refuse_member(path: Path, info: tarfile.TarInfo) -> None:
    """Raise DataError for what one read would not give as an image's bytes."""
    problem = ""
    if not info.isfile() or info.issparse():
        problem = "is a link or no plain file"
    elif info.size == 0:
        problem = "is empty (0 bytes)"
    if problem:
        raise DataError(
            f"image {info.name} in {path} {problem}; legal: plain files; write the tar again without it, "
            "links followed (`tar --dereference --hard-dereference`)"
        )


def _below_split(members: list[Member]) -> list[Member]:
    """The members by names from the class on, where all lie below one folder named as a split."""
    first = {m.key[0] for m in members}
    if len(first) != 1 or not first <= set(SPLITS) or any(m.name.count("/") < 2 for m in members):
        return members
    return [replace(m, name=m.name.partition("/")[2]) for m in members]


def _refuse_doubles(root: Path, shards: Sequence[str], members: Sequence[Member]) -> None:
    for a, b in zip(members, members[1:], strict=False):
        if a.name == b.name:
            raise DataError(
                f"image {a.name} is there twice, in {listing(str(root / shards[m.shard]) for m in (a, b))}; "
                "legal: each name once in a split; write the tar again"
            )


class Shards(OfListing):
    """The images of a listing's tar files, held open.

    A read moves no position, so that forked loader workers and threads may share the files.
    """

    def __init__(self, files: Listing) -> None:
        """Open all of them. Raises DataError."""
        self.files = files
        self.descriptors: list[int] = []
        try:
            for shard in files.shards:
                self.descriptors.append(os.open(files.root / shard, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as e:
            raise DataError(
                f"data file {e.filename} cannot be opened: {e.strerror}; legal: readable tar files, fewer than the "
                "process may hold open; check permissions, raise `ulimit -n`, or join them"
            ) from e

    def content(self, index: int) -> bytes:
        """Raises OSError where the tar file has become shorter."""
        shard, offset, size = (int(a[index]) for a in (self.files.shard, self.files.offsets, self.files.sizes))
        content = os.pread(self.descriptors[shard], size, offset)
        if len(content) != size:
            raise OSError(f"{len(content)} of {size} bytes are there")
        return content

    def where(self, index: int) -> str:
        return f"{self.files.files[index]} in {self.files.root / self.files.shards[self.files.shard[index]]}"

    def __reduce__(self) -> tuple[type[Shards], tuple[Listing]]:
        return Shards, (self.files,)  # a spawned process opens its own

    def __del__(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
