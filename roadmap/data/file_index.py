"""Classes and files of an image folder. No image is opened here."""

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
    """The files of one split.

    files: paths below `root`, with '/' between parts. labels: indices into `classes`. sizes: bytes.
    times: of the last change, in ns.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    sizes: tuple[int, ...]
    times: tuple[int, ...] = ()


_ImageFile = tuple[str, int, int]  # path below the split, bytes, time of change in ns


def find_split(name: str, data_dir: Path | None, folders: tuple[str, ...]) -> Path:
    """The split's folder below data_dir. Raises DataError if there is none."""
    if data_dir is None:
        raise DataError(
            f"data {name!r} has no folder; legal: one with {folders[0]}/CLASS/IMAGE below it; say --data-dir DIR"
        )
    if not data_dir.is_dir():
        raise DataError(
            f"data folder {data_dir} does not exist; legal: a folder with {TRAIN_FOLDERS[0]}/ and {TEST_FOLDERS[0]}/; "
            "check --data-dir"
        )
    for folder in folders:
        if (data_dir / folder).is_dir():
            return data_dir / folder
    names = " or ".join(f"{folder}/" for folder in folders)
    raise DataError(f"data folder {data_dir} has no {names}; legal: CLASS/IMAGE below such a folder; check --data-dir")


def list_split(name: str, data_dir: Path | None, folders: tuple[str, ...]) -> Listing:
    """Classes and files of a split, sorted by name so that every machine numbers them alike.

    Raises DataError.
    """
    root = find_split(name, data_dir, folders)
    classes = sorted(_folders(root))
    images = [_images_of_class(root, label) for label in classes]
    if len(classes) < 2:
        raise DataError(
            f"data folder {root} has {len(classes)} class folders; legal: two or more, each with images; "
            "check --data-dir"
        )
    flat = [image for members in images for image in members]
    labels = tuple(k for k, members in enumerate(images) for _ in members)
    files, sizes, times = zip(*flat, strict=True)
    return Listing(root, tuple(classes), files, labels, sizes, times)


def _folders(root: Path) -> list[str]:
    with _readable(root), os.scandir(root) as entries:
        return [e.name for e in entries if e.is_dir()]


def _images_of_class(root: Path, label: str) -> list[_ImageFile]:
    """The images of one class by name.

    Raises DataError where there are none, and for an empty file.
    """
    images = sorted(_images(root / label, label))
    if not images:
        raise DataError(
            f"data folder {root / label} has no images; legal: files ending in {listing(sorted(IMAGE_SUFFIXES))}; "
            "remove the folder or fill it"
        )
    for file, size, _ in images:
        if size == 0:
            raise DataError(f"image {root / file} is empty (0 bytes); legal: readable images; replace or remove it")
    return images


def _images(folder: Path, prefix: str) -> Iterator[_ImageFile]:
    """Each image below the folder."""
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
            f"data folder {folder} cannot be read: {e.filename or folder}: {e.strerror}; "
            "legal: readable folders and files; check permissions and links"
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
    """Refuse a folder that is not ImageNet-1k's 1,000 synsets.

    Labels shall fit every published checkpoint. Raises DataError.
    """
    known = imagenet_synsets()
    strange = [c for c in classes if c not in known]
    missing = sorted(known - set(classes))
    problem = ""
    if strange:
        problem = f"{len(strange)} unknown folders ({listing(strange[:3])})"
    elif missing:
        problem = f"{len(missing)} of {IMAGENET_CLASSES} synsets missing ({listing(missing[:3])})"
    if problem:
        raise DataError(
            f"data folder {root} is not ImageNet-1k: {problem}; legal: the 1,000 folders n01440764 to n15075141; "
            "use --data imagefolder for other images"
        )


def imagenet_synsets() -> set[str]:
    """The 1,000 synset ids, from the list that timm ships; timm itself is not imported."""
    package = importlib.util.find_spec("timm")
    if package is None or package.origin is None:
        raise DataError(
            "ImageNet's synset list needs the package timm, which is not installed; legal: timm in this environment; "
            "run `make setup`"
        )
    text = (Path(package.origin).parent / "data" / "_info" / "imagenet_synsets.txt").read_text()
    return set(re.findall(r"n\d{8}", text))
