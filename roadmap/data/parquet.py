"""Parquet files as `datasets` writes them: a column `image` of encoded images, a column `label` of integers.

The package `datasets` turns them into memory-mapped tables once, in its own cache; any image is then read by its index.
No torch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roadmap.config.errors import DataError, listing

IMAGE, LABEL = "image", "label"


@dataclass(frozen=True)
class ParquetFiles:
    """The files of one split, by name. classes: as the files name them, empty where they do not."""

    files: tuple[Path, ...]
    classes: tuple[str, ...]

    def rows(self) -> int:
        from pyarrow.parquet import read_metadata

        return sum(read_metadata(file).num_rows for file in self.files)


def find_parquet(data_dir: Path, splits: Sequence[str]) -> ParquetFiles | None:
    """`DIR/train*.parquet` or `DIR/data/train*.parquet`, for the first split of these names that there is.

    Raises DataError for files without the two columns.
    """
    for split, place in itertools.product(splits, (data_dir, data_dir / "data")):
        if files := tuple(sorted(place.glob(f"{split}*.parquet"))):
            return ParquetFiles(files, _classes(files[0]))
    return None


def _classes(file: Path) -> tuple[str, ...]:
    """The label column's names, which `datasets` writes beside the schema."""
    try:
        from pyarrow.lib import ArrowInvalid
        from pyarrow.parquet import read_schema
    except ImportError as e:
        raise _missing(file) from e
    try:
        schema = read_schema(file)
    except (OSError, ArrowInvalid) as e:
        raise DataError(f"data file {file} cannot be read: {e}; legal: whole Parquet files; fetch it again") from e
    if not {IMAGE, LABEL} <= set(schema.names):
        raise DataError(
            f"data file {file} has the columns {listing(schema.names)}; legal: {IMAGE} and {LABEL}; rename them"
        )
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return tuple(written.get("info", {}).get("features", {}).get(LABEL, {}).get("names", ()))


def _missing(file: Path) -> DataError:
    return DataError(
        f"data file {file} needs the package datasets, which is not installed; legal: datasets in this environment; "
        "run `pip install datasets`"
    )


def digest_of_parquet(*splits: ParquetFiles) -> str:
    """SHA-256 over names and sizes of the Parquet files.

    Not that of a folder of the same images: they have no file names of their own, and another order.
    """
    h = hashlib.sha256(b"parquet\n")
    for split in splits:
        h.update(f"{len(split.files)}\n".encode())
        for file in split.files:
            h.update(f"{file.name}\t{file.stat().st_size}\n".encode())
    return h.hexdigest()


class ParquetTable:
    """Encoded images and labels by index, memory-mapped: forked loader workers may share it."""

    def __init__(self, split: ParquetFiles) -> None:
        """Raises DataError without the package `datasets`, or where it cannot read the files."""
        try:
            import datasets
        except ImportError as e:
            raise _missing(split.files[0]) from e
        try:
            table: Any = datasets.Dataset.from_parquet([str(file) for file in split.files])
            if isinstance(table.features[IMAGE], datasets.Image):
                table = table.cast_column(IMAGE, datasets.Image(decode=False))
        except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as e:
            raise DataError(
                f"data file {split.files[0]} and those beside it cannot be read: {e}; "
                "legal: Parquet files as `datasets` writes them; fetch them again"
            ) from e
        self.split, self.table = split, table
        self.labels = np.asarray(table.with_format("numpy")[LABEL][:], np.int64)
        self.times = np.array([file.stat().st_mtime_ns for file in split.files], np.int64)

    def where(self, index: int) -> str:
        return f"{index} of {self.split.files[0].parent}/{self.split.files[0].name.partition('-')[0]}*"

    def content(self, index: int) -> bytes:
        """Raises OSError where the table holds the path of an image in its place."""
        cell = self.table[index][IMAGE]
        content = cell["bytes"] if isinstance(cell, dict) else cell
        if content is None:
            raise OSError("the table holds no bytes")
        return content
