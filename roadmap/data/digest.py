"""Digests of what a run trains and is tested on: pixels and labels, wherever and under whatever name they lie.

    KIND:DIGEST    KIND is what was looked at, and of how many images: two digests of unlike kinds say
                   nothing of each other.
    pixels-all     images in memory as they were loaded, every label
    contents-all   the bytes of every file, every label
    contents-4096  as above, of so many files drawn once and for all, beside names and sizes of all:
                   a set that is read within a minute is read whole, a larger one is not
    pixels-256     decoded images of a set that tells no files

Bytes of files are read once a machine: their digests are kept in the user's cache while each file has its
inode, size and times.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from roadmap.config.errors import DataError
from roadmap.data.encoded import EncodedImages, Source
from roadmap.data.held import ArrayImages, HeldImages, Split
from roadmap.data.listing import Listing, OfListing, stamp
from roadmap.data.listing_cache import SETTLED_NS, alone, cache_folder
from roadmap.data.parquet import ParquetTable
from roadmap.data.readers import LibraryImages

if TYPE_CHECKING:
    from roadmap.data.pipeline import Pipeline

READ_WHOLE_BYTES = 8 << 30  # ImageNet's 50,000 test images are 6.7 GB
READ_WHOLE_IMAGES = 200_000  # each is looked at, were it only at its time, when a run starts
SAMPLE_FILES = 4096  # of which one is other in 98 of 100 sets of which a thousandth is
SAMPLE_PIXELS = 256
SAMPLE_SEED = 20260101
TOLD_BYTES = 256 << 20  # reading more is announced
READERS = 16  # threads: a file system answers many requests at once, and hashing lets others run
HASH_BYTES = 32  # of SHA-256


def data_digests(pipeline: Pipeline) -> dict[str, str]:
    """{train, validation, test: digest}; no validation where nothing is held out. Raises DataError.

    Made once of a process's images, however many of its runs see them.
    """
    if not pipeline.digests:
        pipeline.digests.update(_digests(pipeline))
    return dict(pipeline.digests)


def _digests(pipeline: Pipeline) -> dict[str, str]:
    train, test = pipeline.loaded or (pipeline.train, pipeline.test)
    parts = {
        "train": (train, pipeline.train_indices),
        "validation": (train, pipeline.validation_indices),
        "test": (test, np.arange(len(test))),
    }
    try:
        return {name: digest_of_images(split, indices) for name, (split, indices) in parts.items() if len(indices)}
    except OSError as e:
        raise DataError(
            f"data {pipeline.trial.data.name!r} cannot be read for the digest of its contents: {e}; "
            "legal: whole images; repair the data set"
        ) from e


def digest_of_images(split: Split, indices: np.ndarray) -> str:
    """KIND:DIGEST of these images of a split, in this order, with their labels."""
    form = _form_of(split)
    seen = indices[form.seen(indices)]
    digest = hashlib.sha256(np.asarray(split.labels, np.int64)[indices].tobytes())
    count = "all"
    if len(seen) < len(indices):
        count = str(len(seen))
        digest.update(form.outline(indices))
    digest.update(form.hashes(seen).tobytes())
    return f"{form.name}-{count}:{digest.hexdigest()[:16]}"


def sample(images: int, count: int) -> np.ndarray:
    """`count` positions of `images`, sorted: the same for every run and every machine."""
    if images <= count:
        return np.arange(images)
    return np.sort(np.random.RandomState(SAMPLE_SEED).permutation(images)[:count])  # its stream is frozen by NumPy


def _form_of(split: Split) -> Pixels | Decoded | Contents:
    """How a split's images are looked at."""
    if isinstance(split, EncodedImages):
        return Contents.of_source(split.source)
    if isinstance(split, LibraryImages):
        files = files_of(split.dataset)
        return Contents.of_files(files) if files and len(files) == len(split) else Decoded(split)
    return Pixels(split) if isinstance(split, ArrayImages | HeldImages) else Decoded(split)


# In memory --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pixels:
    """Images in memory: all are seen."""

    split: ArrayImages | HeldImages
    name: str = "pixels"

    def seen(self, indices: np.ndarray) -> np.ndarray:
        return np.arange(len(indices))

    def outline(self, indices: np.ndarray) -> bytes:
        return b""

    def hashes(self, indices: np.ndarray) -> np.ndarray:
        return _table(_hash_of_pixels(np.asarray(self.split.image(int(i)))) for i in indices)


@dataclass(frozen=True)
class Decoded:
    """Images that only decoding shows: some are seen."""

    split: Split
    name: str = "pixels"

    def seen(self, indices: np.ndarray) -> np.ndarray:
        return sample(len(indices), SAMPLE_PIXELS)

    def outline(self, indices: np.ndarray) -> bytes:
        return indices.astype(np.int64).tobytes()

    def hashes(self, indices: np.ndarray) -> np.ndarray:
        return _table(_hash_of_pixels(np.asarray(self.split.image(int(i)))) for i in indices)


def _hash_of_pixels(pixels: np.ndarray) -> bytes:
    return hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).digest()


def _table(hashes: Iterable[bytes]) -> np.ndarray:
    """(N, 32) uint8."""
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)


# In files ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contents:
    """Encoded images: all are seen where they are few and small.

    sizes: (N,) bytes. content: of one image. places: the files that hold these images. names: of
    what there is, for images that are not seen.
    """

    sizes: np.ndarray
    content: Callable[[int], bytes]
    places: Callable[[np.ndarray], Iterable[str]]
    names: Callable[[], bytes]
    readers: int = READERS
    name: str = "contents"

    @classmethod
    def of_source(cls, source: Source) -> Contents:
        if isinstance(source, ParquetTable):
            return cls._of_parquet(source)
        assert isinstance(source, OfListing)
        listing, content = source.files, source.content
        return cls(listing.sizes, content, lambda indices: _places(listing, indices), lambda: _outline(listing))

    @classmethod
    def _of_parquet(cls, source: ParquetTable) -> Contents:
        files = source.split.files
        sizes = [file.stat().st_size for file in files]
        share = np.full(len(source.labels), sum(sizes) // max(1, len(source.labels)), np.int64)
        named = "\n".join(f"{file.name}\t{size}" for file, size in zip(files, sizes, strict=True)).encode()
        return cls(share, source.content, lambda _: map(str, files), lambda: named, readers=1)

    @classmethod
    def of_files(cls, files: Sequence[str]) -> Contents:
        """From the paths that a library's data set has, in its order."""
        sizes = np.array([os.stat(file).st_size for file in files], np.int64)
        names = "\n".join(f"{Path(file).name}\t{size}" for file, size in zip(files, sizes.tolist(), strict=True))
        return cls(
            sizes,
            lambda i: Path(files[i]).read_bytes(),
            lambda indices: (files[i] for i in indices.tolist()),
            names.encode,
        )

    def seen(self, indices: np.ndarray) -> np.ndarray:
        whole = len(indices) <= READ_WHOLE_IMAGES and int(self.sizes[indices].sum()) <= READ_WHOLE_BYTES
        return np.arange(len(indices)) if whole else sample(len(indices), SAMPLE_FILES)

    def outline(self, indices: np.ndarray) -> bytes:
        return hashlib.sha256(self.names()).digest() + indices.astype(np.int64).tobytes()

    def hashes(self, indices: np.ndarray) -> np.ndarray:
        """(N, 32), from the user's cache where the files are as they were. One process makes them, others wait."""
        began = time.time_ns()
        stamps = _stamps(self.places(indices))
        path = cache_folder() / f"{_key(stamps, indices)}.contents"
        with alone(cache_folder() / "contents.lock"):
            kept = _read(path, len(indices))
            if kept is not None:
                return kept
            made = self._made(indices)
            if _settled(stamps, began):
                _write(path, made)
            return made

    def _made(self, indices: np.ndarray) -> np.ndarray:
        total = int(self.sizes[indices].sum())
        if total > TOLD_BYTES:
            text = f"data: reading {len(indices):,} images, {total / 1e9:.1f} GB, for the digest of their contents"
            print(f"{text}; once on this machine", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(self.readers) as pool:
            return _table(pool.map(lambda i: hashlib.sha256(self.content(i)).digest(), indices.tolist()))


def _places(listing: Listing, indices: np.ndarray) -> Iterable[str]:
    """The files that hold these images: their own, or the tar files."""
    if not listing.shards:
        return (f"{listing.root}/{listing.files[i]}" for i in indices.tolist())
    return (str(listing.root / listing.shards[k]) for k in np.unique(listing.shard[indices]).tolist())


def _outline(listing: Listing) -> bytes:
    return listing.files.buffer.tobytes() + listing.files.ends.tobytes() + listing.sizes.tobytes()


def _stamps(places: Iterable[str]) -> list[tuple[str, tuple[int, int, int, int]]]:
    return [(os.path.realpath(place), stamp(place)) for place in places]


def _key(stamps: Sequence[tuple[str, tuple[int, int, int, int]]], indices: np.ndarray) -> str:
    digest = hashlib.sha256(indices.astype(np.int64).tobytes())
    for place, stamped in stamps:
        digest.update(f"{place}\0{stamped}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _settled(stamps: Sequence[tuple[str, tuple[int, int, int, int]]], began: int) -> bool:
    """Whether every later change will be seen in the stamps, see `roadmap.data.listing_cache`."""
    return all(changed < began - SETTLED_NS for _, (_, _, _, changed) in stamps)


def _read(path: Path, images: int) -> np.ndarray | None:
    """What is kept, if it is whole: the hashes, and the hash of them all."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    hashes, check = content[:-HASH_BYTES], content[-HASH_BYTES:]
    whole = len(hashes) == images * HASH_BYTES and hashlib.sha256(hashes).digest() == check
    return np.frombuffer(hashes, np.uint8).reshape(images, HASH_BYTES) if whole else None


def _write(path: Path, made: np.ndarray) -> None:
    """Keep it, whole or not at all. Without it the files are read again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(made.tobytes() + hashlib.sha256(made.tobytes()).digest())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


# Of libraries -----------------------------------------------------------------------------------------------------


def files_of(dataset: Any) -> list[str] | None:
    """The image files of a data set of torchvision's or timm's, in its order; None where it tells none."""
    if hasattr(dataset, "datasets"):  # ConcatDataset
        parts = [files_of(part) for part in dataset.datasets]
        return None if None in parts else [file for part in parts for file in part or ()]
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # Subset
        whole = files_of(dataset.dataset)
        return None if whole is None else [whole[i] for i in dataset.indices]
    reader = getattr(dataset, "reader", dataset)
    for name in ("_image_files", "_images", "samples", "_samples"):
        if listed := getattr(reader, name, None):
            return _existing(listed)
    return None


def _existing(listed: Iterable[Any]) -> list[str] | None:
    """The paths of a list of paths, or of (path, label); None where it holds anything else."""
    files = [entry[0] if isinstance(entry, tuple | list) else entry for entry in listed]
    paths = [os.fspath(file) for file in files if isinstance(file, str | os.PathLike)]
    return paths if len(paths) == len(files) and all(map(os.path.isfile, paths)) else None
