"""What a folder of images holds: classes and files. No image is opened here."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roadmap.config.errors import RoadmapError, listing

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"})
TRAIN_FOLDERS, TEST_FOLDERS = ("train", "training"), ("test", "val", "validation")
IMAGENET_CLASSES = 1000


class DataError(RoadmapError):
    """A data set that is missing, empty, damaged, or not what its name says."""


@dataclass(frozen=True)
class Listing:
    """The files of one split: paths below `root` with '/' between parts, labels as indices into `classes`, sizes in bytes, times of change in ns."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    sizes: tuple[int, ...]
    times: tuple[int, ...] = ()


def find_split(name: str, data_dir: Path | None, folders: tuple[str, ...]) -> Path:
    """The split's folder below data_dir. Raises DataError if there is none."""
    if data_dir is None:
        raise DataError(
            f"data {name!r} has no folder; legal: one with {folders[0]}/CLASS/IMAGE below it; say --data-dir DIR"
        )
    if not data_dir.is_dir():
        raise DataError(
            f"data folder {data_dir} does not exist; legal: a folder with {TRAIN_FOLDERS[0]}/ and {TEST_FOLDERS[0]}/; check --data-dir"
        )
    for folder in folders:
        if (data_dir / folder).is_dir():
            return data_dir / folder
    raise DataError(
        f"data folder {data_dir} has no {' or '.join(f + '/' for f in folders)}; legal: CLASS/IMAGE below such a folder; check --data-dir"
    )


def list_split(name: str, data_dir: Path | None, folders: tuple[str, ...]) -> Listing:
    """Classes and files of a split, sorted by name so that every machine numbers them alike. Raises DataError."""
    root = find_split(name, data_dir, folders)
    classes: list[str] = []
    files: list[str] = []
    labels: list[int] = []
    sizes: list[int] = []
    times: list[int] = []
    for label in sorted(_folders(root)):
        found = sorted(_images(root / label, label))
        if not found:
            raise DataError(
                f"data folder {root / label} has no images; legal: files ending in {listing(sorted(IMAGE_SUFFIXES))}; remove the folder or fill it"
            )
        for file, size, changed in found:
            if size == 0:
                raise DataError(f"image {root / file} is empty (0 bytes); legal: readable images; replace or remove it")
            files.append(file)
            sizes.append(size)
            times.append(changed)
        labels += [len(classes)] * len(found)
        classes.append(label)
    if len(classes) < 2:
        raise DataError(
            f"data folder {root} has {len(classes)} class folders; legal: two or more, each with images; check --data-dir"
        )
    return Listing(root, tuple(classes), tuple(files), tuple(labels), tuple(sizes), tuple(times))


def _folders(root: Path) -> list[str]:
    with _readable(root), os.scandir(root) as entries:
        return [e.name for e in entries if e.is_dir()]


def _images(folder: Path, prefix: str) -> Iterator[tuple[str, int, int]]:
    """(path below the split, bytes, time of change) of each image below the folder."""
    with _readable(folder), os.scandir(folder) as entries:
        for e in entries:
            if e.is_dir():
                yield from _images(Path(e.path), f"{prefix}/{e.name}")
            elif os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES:
                status = e.stat()
                yield f"{prefix}/{e.name}", status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise DataError(
            f"data folder {folder} cannot be read: {e.filename or folder}: {e.strerror}; legal: readable folders and files; check permissions and links"
        ) from e


def digest_of(*splits: Listing) -> str:
    """SHA-256 over names and sizes of all files: what the folder holds, wherever it lies."""
    h = hashlib.sha256()
    for split in splits:
        h.update(f"{len(split.files)}\n".encode())
        for file, size in zip(split.files, split.sizes, strict=True):
            h.update(f"{file}\t{size}\n".encode())
    return h.hexdigest()


def check_synsets(classes: tuple[str, ...], root: Path) -> None:
    """Refuse a folder that is not ImageNet-1k's 1,000 synsets, so that labels fit every published checkpoint. Raises DataError."""
    known = imagenet_synsets()
    strange = [c for c in classes if c not in known]
    missing = sorted(known - set(classes))
    if strange or missing:
        what = (
            f"{len(strange)} unknown folders ({listing(strange[:3])})"
            if strange
            else f"{len(missing)} of {IMAGENET_CLASSES} synsets missing ({listing(missing[:3])})"
        )
        raise DataError(
            f"data folder {root} is not ImageNet-1k: {what}; legal: the 1,000 folders n01440764 to n15075141; use --data imagefolder for other images"
        )


def imagenet_synsets() -> set[str]:
    """The 1,000 synset ids, from the list that timm ships; timm itself is not imported."""
    package = importlib.util.find_spec("timm")
    if package is None or package.origin is None:
        raise DataError(
            "ImageNet's synset list needs the package timm, which is not installed; legal: timm installed; run `make setup`"
        )
    text = (Path(package.origin).parent / "data" / "_info" / "imagenet_synsets.txt").read_text()
    return set(re.findall(r"n\d{8}", text))
