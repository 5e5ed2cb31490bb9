"""Image folders, tar files and Parquet files as values of Data: their classes, their number, their digest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from roadmap.config.data import IMAGENET_CLASSES, Data
from roadmap.config.errors import DataError, listing
from roadmap.data.file_index import (
    TEST_FOLDERS,
    TRAIN_FOLDERS,
    check_synsets,
    list_split,
    parquet_splits,
)
from roadmap.data.listing import digest_of
from roadmap.data.parquet import ParquetFiles, digest_of_parquet


def describe(base: Data, data_dir: Path | None, num_classes: int | None) -> Data:
    """The data with the classes and the digest of the files below data_dir. Raises DataError."""
    splits = parquet_splits(base.name, data_dir)
    return _from_parquet(base, *splits, num_classes) if splits else _from_folder(base, data_dir)


def count_training_images(name: str, data_dir: Path) -> int:
    """Files of the training split. Raises DataError."""
    splits = parquet_splits(name, data_dir)
    return splits[0].rows() if splits else len(list_split(name, data_dir, TRAIN_FOLDERS))


def _from_folder(base: Data, data_dir: Path | None) -> Data:
    train, test = list_split(base.name, data_dir, TRAIN_FOLDERS), list_split(base.name, data_dir, TEST_FOLDERS)
    if train.classes != test.classes:
        only = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"data folder {data_dir}: train has {len(train.classes)} classes and test {len(test.classes)}, "
            f"differing in {listing(only[:5])}; legal: the same class folders in both; check the folder names"
        )
    if base.name == "imagenet":
        check_synsets(train.classes, train.root)
    return replace(base, num_classes=len(train.classes), digest=digest_of(train, test))


def _from_parquet(base: Data, train: ParquetFiles, test: ParquetFiles, num_classes: int | None) -> Data:
    """ImageNet's classes have other names here than its folders, in the same order: only their number is checked."""
    count = len(train.classes) or num_classes
    if count is None:
        raise DataError(f"data file {train.files[0]} does not name its classes; legal: any count; say --num-classes N")
    if train.classes != test.classes or (base.name == "imagenet" and count != IMAGENET_CLASSES):
        raise DataError(
            f"data file {train.files[0]} has {count} classes, {test.files[0]} {len(test.classes)}; legal: the same in "
            f"both, and {IMAGENET_CLASSES} for imagenet; use --data imagefolder for other images"
        )
    return replace(base, num_classes=count, digest=digest_of_parquet(train, test))
