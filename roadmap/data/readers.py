"""Opening a data set: a Split gives image i as PIL and its label.

Arrays stay in memory, files are read as asked.

Torchvision downloads only when asked; whatever timm's `create_dataset` reads is taken as it comes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from roadmap.config.data import Data
from roadmap.config.errors import DataError
from roadmap.data.decode import check_decoder
from roadmap.data.encoded import EncodedImages, Files, Source
from roadmap.data.file_index import TEST_FOLDERS, TRAIN_FOLDERS, list_split, parquet_splits
from roadmap.data.held import HELD_BYTES, ArrayImages, HeldImages, Labels, Split, in_a_row
from roadmap.data.listing_cache import cache_folder
from roadmap.data.parquet import ParquetTable
from roadmap.data.registry import DATA_SETS, IMAGE_FOLDERS, TIMM_PREFIXES, DataSet, is_timms_imagenet
from roadmap.data.tar_index import Shards

DIGITS_TEST_IMAGES = 500
TEST_SPLIT_SEED = 0  # of test splits that we cut ourselves: one for all trials, whatever their seeds
CHECK_ALL_UP_TO = 100_000


@dataclass(frozen=True)
class LibraryImages:
    """A map-style data set of timm's or torchvision's, whose items are (PIL image, label)."""

    name: str
    dataset: Any
    labels: Labels
    mode: str

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        try:
            return self.dataset[index][0].convert(self.mode)
        except (OSError, SyntaxError, RuntimeError) as e:
            raise DataError(
                f"image {index} of {self.name!r} cannot be decoded: {e}; legal: whole images; repair the data set"
            ) from e


def open_data(data: Data, *, data_dir: Path | None, download: bool = False) -> tuple[Split, Split]:
    """(train, test) of a data set. Raises DataError.

    Refused are a set that is missing, not downloaded or unreadable, and labels outside num_classes.
    """
    mode = "L" if data.in_chans == 1 else "RGB"
    if data.name == "digits":
        train, test = _digits()
    elif data.name in IMAGE_FOLDERS:
        train, test = _encoded_splits(data, data_dir, mode)
    elif data.name.startswith(TIMM_PREFIXES):
        train, test = _timm(data, "train", data_dir, download, mode), _timm_test(data, data_dir, download, mode)
    else:
        train, test = _torchvision(DATA_SETS[data.name], data_dir, download, mode)
    for split in (train, test):
        _check_labels(data, split.labels)
    return train, test


def _check_labels(data: Data, labels: Labels) -> None:
    known = np.asarray(labels)
    if len(known) == 0 or not 0 <= known.min() <= known.max() < data.num_classes:
        raise DataError(
            f"data {data.name!r} has labels up to {max(known.tolist(), default=None)} in {len(known)} images; "
            f"legal: 0 to {data.num_classes - 1}; check --num-classes"
        )


def _encoded_splits(data: Data, data_dir: Path | None, mode: str) -> tuple[EncodedImages, EncodedImages]:
    """(train, test) from folders, tar files or Parquet files, whichever there are."""
    check_decoder(data.decoder)
    sources: Sequence[Source]
    if splits := parquet_splits(data.name, data_dir):
        sources = [ParquetTable(split) for split in splits]
    else:
        listings = [list_split(data.name, data_dir, folders) for folders in (TRAIN_FOLDERS, TEST_FOLDERS)]
        sources = [Shards(files) if files.shards else Files(files) for files in listings]
    train, test = (EncodedImages(source, mode, data.decoder) for source in sources)
    return train, test


def _digits() -> tuple[Split, Split]:
    """scikit-learn's 1,797 digits, 8x8; 500 of them, drawn once and for all, are the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(pixels))  # RandomState: its stream is frozen by NumPy's policy
    test, train = order[:DIGITS_TEST_IMAGES], order[DIGITS_TEST_IMAGES:]
    labels = bunch.target
    return ArrayImages(pixels[train], labels[train].tolist()), ArrayImages(pixels[test], labels[test].tolist())


def _torchvision(entry: DataSet, data_dir: Path | None, download: bool, mode: str) -> tuple[Split, Split]:
    """(train, test) as torchvision's class gives them, or cut here where it has no splits.

    Raises DataError.
    """
    import torchvision

    name, root, splits = entry.data.name, data_dir or Path("data"), entry.splits
    maker = getattr(torchvision.datasets, entry.torchvision)

    def parts(arguments: Sequence[Mapping[str, str | bool]]) -> list[Any]:
        return [maker(str(root), download=download, **part) for part in arguments]

    try:
        train, test = parts(splits.train), parts(splits.test)
    except (RuntimeError, OSError) as e:
        problem = str(e).partition("\n")[0]
        raise DataError(
            f"data {name!r} is not in {root} ({problem}); legal: torchvision's files there; "
            "say --data-dir DIR, or --download to fetch them"
        ) from e
    if splits.test:
        return _from_torchvision(name, train, mode), _from_torchvision(name, test, mode)
    return _cut_test(name, train[0], splits.test_fraction, mode)


def _from_torchvision(name: str, parts: Sequence[Any], mode: str) -> Split:
    """The parts of a split in a row: in memory where torchvision holds them, else from files."""
    if len(parts) == 1 and hasattr(parts[0], "data"):
        return ArrayImages(_channels_last(np.asarray(parts[0].data)), _labels(parts[0]))
    from torch.utils.data import ConcatDataset

    labels = [label for part in parts for label in _labels(part)]
    return LibraryImages(name, ConcatDataset(parts), labels, mode)


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W[, C]) from what torchvision holds: SVHN and STL10 are (N, 3, H, W)."""
    return pixels.transpose(0, 2, 3, 1) if pixels.ndim == 4 and pixels.shape[1] == 3 else pixels


def _cut_test(name: str, whole: Any, fraction: float, mode: str) -> tuple[Split, Split]:
    """(train, test) of a set without splits: the same part of each class, for every trial."""
    from torch.utils.data import Subset

    labels = np.asarray(_labels(whole))

    def subset(indices: np.ndarray) -> Split:
        return LibraryImages(name, Subset(whole, indices.tolist()), labels[indices].tolist(), mode)

    train, test = cut_validation(labels.tolist(), fraction, TEST_SPLIT_SEED)
    return subset(train), subset(test)


def _timm(data: Data, split: str, data_dir: Path | None, download: bool, mode: str) -> Split:
    """A data set of timm's.

    A stream has no order of its own: read into memory once, its samples have indices.
    """
    from timm.data import create_dataset
    from torch.utils.data import IterableDataset

    try:
        dataset = create_dataset(
            data.name, root=str(data_dir) if data_dir else None, split=split, download=download, input_img_mode=mode
        )
    except Exception as e:  # the readers raise whatever their library does
        raise DataError(
            f"data {data.name!r}, split {split!r}, cannot be opened in {data_dir}: {type(e).__name__}: {e}; "
            "legal: what timm.data.create_dataset reads; check the name, --data-dir and its package"
        ) from e
    if isinstance(dataset, IterableDataset):
        return _from_stream(dataset, data.name, mode)
    return _from_map(dataset, data.name, mode)


def _from_map(dataset: Any, name: str, mode: str) -> Split:
    if hasattr(dataset, "_max_retries"):
        dataset._max_retries = 1  # timm would show a damaged image's neighbour in its place, under the wrong label
    return LibraryImages(name, dataset, _labels(dataset), mode)


def _timm_test(data: Data, data_dir: Path | None, download: bool, mode: str) -> Split:
    """The split `test`, or `validation` where there is no test or its labels are kept back (-1), which is said."""
    reason = "the labels of test are kept back"
    if not is_timms_imagenet(data.name):
        try:
            test = _timm(data, "test", data_dir, download, mode)
        except DataError as e:
            reason = str(e).partition("; ")[0]
        else:
            if min(test.labels, default=-1) >= 0:
                return test
    validation = _timm(data, "validation", data_dir, download, mode)
    if os.environ.get("RANK", "0") == "0":
        print(f"data {data.name!r}: its split validation is the test split ({reason})", file=sys.stderr)
    return validation


def _labels(dataset: Any) -> list[int]:
    """Labels, without decoding images where torchvision's class or timm's reader tells them."""
    for name in ("targets", "labels", "_labels"):
        if hasattr(dataset, name):
            return [int(label) for label in getattr(dataset, name)]
    reader = getattr(dataset, "reader", dataset)
    for name in ("samples", "_samples"):
        if hasattr(reader, name):
            return [int(label) for _, label in getattr(reader, name)]
    if hasattr(reader, "label_key"):
        return np.asarray(reader.dataset.with_format("numpy")[reader.label_key][:]).tolist()
    return [int(reader[i][1]) for i in range(len(dataset))]


def _from_stream(dataset: Any, name: str, mode: str) -> Split:
    labels: list[int] = []

    def pixels() -> Iterator[np.ndarray]:
        for image, label in dataset:
            labels.append(int(label))
            yield np.asarray(image.convert(mode))

    held = in_a_row(pixels(), limit=HELD_BYTES)
    if held is None:
        raise DataError(
            f"data {name!r} is a stream of more than {HELD_BYTES >> 30} GiB; legal: streams that fit in "
            "memory (every sample needs an index to be drawn alike on every machine); "
            "unpack it and use --data imagefolder"
        )
    return HeldImages(*held, labels)


def cut_validation(labels: Labels, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices (train, validation): the same part of every class, drawn from `seed`."""
    array = np.asarray(labels)
    rng = np.random.RandomState(seed)
    chosen = []
    for label in np.unique(array):
        members = np.flatnonzero(array == label)
        chosen.append(rng.permutation(members)[: round(fraction * len(members))])
    validation = np.sort(np.concatenate(chosen)) if chosen else np.array([], dtype=int)
    return np.setdiff1d(np.arange(len(array)), validation), validation


def class_names(data: Data, *, data_dir: Path | None) -> list[str]:
    """The classes' names in the order of their labels: the folders', else the labels."""
    if data.name in IMAGE_FOLDERS:
        parquet = parquet_splits(data.name, data_dir)
        names = parquet[0].classes if parquet else list_split(data.name, data_dir, TRAIN_FOLDERS).classes
        return list(names) or [str(i) for i in range(data.num_classes)]
    return [str(i) for i in range(data.num_classes)]


def check_images(data: Data, *, data_dir: Path | None) -> int:
    """Decode every image of a small folder once, to refuse a damaged one before any training.

    Returns how many were decoded. The result is remembered in the user's cache, by the folder's
    digest and the files' times. Above 100,000 images only names and sizes are checked.
    """
    check_decoder(data.decoder)
    if data.name != "imagefolder":
        return 0
    splits = _encoded_splits(data, data_dir, "RGB")
    times = b"".join(split.source.times.tobytes() for split in splits)
    seen = hashlib.sha256(f"{data.digest} {data.decoder} ".encode() + times).hexdigest()
    marker = cache_folder() / f"{seen}.checked"
    if marker.exists() or sum(map(len, splits)) > CHECK_ALL_UP_TO:
        return 0
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        count = sum(_decode_all(split, pool) for split in splits)
    with contextlib.suppress(OSError):  # only a memory of the check; without it the check is made again
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    return count


def _decode_all(split: Split, pool: ThreadPoolExecutor) -> int:
    """How many images there are. Raises DataError at the first that cannot be decoded."""
    return sum(1 for _ in pool.map(split.image, range(len(split)), chunksize=256))
