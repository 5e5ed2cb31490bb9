"""Classes and files of an image folder, or of the tar files in its place. No image is opened here."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from roadmap.config.data import IMAGENET_CLASSES
from roadmap.config.errors import DataError, listing
from roadmap.data.listing import IMAGE_SUFFIXES, Listing, Names, digest_of, stamp
from roadmap.data.listing_cache import kept_or_made
from roadmap.data.parquet import ParquetFiles, find_parquet
from roadmap.data.tar_index import list_tar

__all__ = ["IMAGE_SUFFIXES", "Listing", "digest_of"]  # also read from here
TRAIN_FOLDERS, TEST_FOLDERS = ("train", "training"), ("test", "val", "validation")
_ImageFile = tuple[str, int, int]  # path below the split, bytes, time of change in ns
Stamps = dict[str, tuple[int, int, int, int]]  # of folders below the split


def find_split(name: str, data_dir: Path | None, folders: tuple[str, ...]) -> Path:
    """The split's folder below data_dir, else its tar file. Raises DataError if there is neither."""
    if data_dir is None:
        raise DataError(
            f"data {name!r} has no folder; legal: one with {folders[0]}/CLASS/IMAGE below it; say --data-dir DIR"
        )
    if not data_dir.is_dir():
        raise DataError(
            f"data folder {data_dir} does not exist; legal: a folder with {TRAIN_FOLDERS[0]}/ and {TEST_FOLDERS[0]}/; "
            "check --data-dir"
        )
    if split := _present(data_dir, folders):
        return split
    names = " or ".join(f"{folder}/" for folder in folders)
    raise DataError(
        f"data folder {data_dir} has no {names}; legal: CLASS/IMAGE below such a folder, or in such a .tar file; "
        "check --data-dir"
    )


def _present(data_dir: Path, folders: tuple[str, ...]) -> Path | None:
    """The first split's folder that there is, else the first tar file."""
    places = [data_dir / folder for folder in folders]
    tars = [data_dir / f"{folder}.tar" for folder in folders]
    return next((p for p in (*places, *tars) if (p.is_file() if p.suffix == ".tar" else p.is_dir())), None)


def parquet_splits(name: str, data_dir: Path | None) -> tuple[ParquetFiles, ParquetFiles] | None:
    """(train, test) where the data lie in Parquet files, and in neither folders nor tar files.

    ImageNet's own `test` has no labels: its test split is `validation`. Raises DataError.
    """
    if data_dir is None or _present(data_dir, TRAIN_FOLDERS):
        return None
    train = find_parquet(data_dir, TRAIN_FOLDERS)
    if train is None:
        return None
    tests = TEST_FOLDERS[1:] if name == "imagenet" else TEST_FOLDERS
    test = find_parquet(data_dir, tests)
    if test is None:
        raise DataError(
            f"data folder {data_dir} has {train.files[0].name} and no {listing(f'{split}*.parquet' for split in tests)}"
            "; legal: Parquet files of both splits; check --data-dir"
        )
    return train, test


def list_split(name: str, data_dir: Path | None, folders: tuple[str, ...]) -> Listing:
    """Classes and files of a split, sorted by name so that every machine numbers them alike.

    They come from the user's cache where this machine has listed them before. Raises DataError.
    """
    root = find_split(name, data_dir, folders)
    with _readable(root):
        return kept_or_made(root, lambda: _list(root))


def _list(root: Path) -> Listing:
    """What a folder, a tar file or a folder of tar files holds."""
    if root.is_file():
        made = list_tar(root, (".",))
    else:
        classes, shards = _below(root)
        made = list_tar(root, shards) if shards and not classes else _list_folder(root, classes)
    if len(made.classes) < 2:
        raise DataError(
            f"data folder {root} has {len(made.classes)} class folders; legal: two or more, each with images; "
            "check --data-dir"
        )
    return made


def _below(root: Path) -> tuple[list[str], list[str]]:
    """(class folders, tar files) of a split's folder, sorted."""
    with _readable(root), os.scandir(root) as entries:
        present = sorted((e.name, e.is_dir()) for e in entries)
    classes = [name for name, is_folder in present if is_folder]
    return classes, [name for name, is_folder in present if not is_folder and name.endswith(".tar")]


def _list_folder(root: Path, classes: Sequence[str]) -> Listing:
    stamps = {".": stamp(root)}
    images = [_images_of_class(root, label, stamps) for label in classes]
    flat = [image for members in images for image in members]
    counts = np.array([len(members) for members in images], np.int64)
    return Listing(
        root,
        tuple(classes),
        Names.of(file for file, _, _ in flat),
        np.repeat(np.arange(len(classes)), counts),
        sizes=np.array([size for _, size, _ in flat], np.int64),
        times=np.array([time for _, _, time in flat], np.int64),
        places=Names.of(stamps),
        stamps=np.array(list(stamps.values()), np.int64),
    )


def _images_of_class(root: Path, label: str, stamps: Stamps) -> list[_ImageFile]:
    """The images of one class by name. Notes the folders' stamps.

    Raises DataError where there are none, and for an empty file.
    """
    images = sorted(_images(root, label, stamps))
    if not images:
        raise DataError(
            f"data folder {root / label} has no images; legal: files ending in {listing(sorted(IMAGE_SUFFIXES))}; "
            "remove the folder or fill it"
        )
    for file, size, _ in images:
        if size == 0:
            raise DataError(f"image {root / file} is empty (0 bytes); legal: readable images; replace or remove it")
    return images


def _images(root: Path, below: str, stamps: Stamps) -> Iterator[_ImageFile]:
    """Each image in the folder `below` and under it."""
    folder = root / below
    with _readable(folder):
        stamps[below] = stamp(folder)  # before it is read: what comes in meanwhile is noticed next time
        with os.scandir(folder) as entries:
            for e in entries:
                if e.is_dir():
                    yield from _images(root, f"{below}/{e.name}", stamps)
                elif os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES:
                    status = e.stat()
                    yield f"{below}/{e.name}", status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise DataError(
            f"data folder {folder} cannot be read: {e.filename or folder}: {e.strerror}; "
            "legal: readable folders and files; check permissions and links"
        ) from e


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
