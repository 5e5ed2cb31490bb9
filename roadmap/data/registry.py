"""Which data sets there are. No torch, no image is opened here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from roadmap.config.data import Data
from roadmap.config.errors import listing, nearest
from roadmap.data.file_index import (
    IMAGENET_CLASSES,
    TEST_FOLDERS,
    TRAIN_FOLDERS,
    DataError,
    check_synsets,
    digest_of,
    list_split,
)

TIMM_PREFIXES = ("hfds/", "hfids/", "tfds/", "wds/", "torch/")
IMAGE_FOLDERS = ("imagefolder", "imagenet")


NAMED: Mapping[str, Data] = MappingProxyType(
    {
        d.name: d
        for d in (
            Data(
                name="digits",
                title="digits (scikit-learn)",
                image_size=16,
                num_classes=10,
                in_chans=1,
                mean=(0.305,),
                std=(0.376,),
                validation=0.1,
            ),
            Data(
                name="cifar10",
                title="CIFAR-10",
                image_size=32,
                num_classes=10,
                mean=(0.4914, 0.4822, 0.4465),
                std=(0.2470, 0.2435, 0.2616),
                validation=0.1,
            ),
            Data(
                name="cifar100",
                title="CIFAR-100",
                image_size=32,
                num_classes=100,
                mean=(0.5071, 0.4865, 0.4409),
                std=(0.2673, 0.2564, 0.2762),
                validation=0.1,
            ),
            Data(
                name="fashion-mnist",
                title="Fashion-MNIST",
                image_size=32,
                num_classes=10,
                in_chans=1,
                mean=(0.2860,),
                std=(0.3530,),
                validation=0.1,
            ),
            Data(name="imagenet", title="ImageNet-1k", image_size=224, num_classes=IMAGENET_CLASSES),
            Data(name="imagefolder", title="image folder", image_size=224, num_classes=2, validation=0.1),
        )
    }
)


def resolve_data(
    name: str,
    *,
    data_dir: Path | None = None,
    image_size: int | None = None,
    num_classes: int | None = None,
    validation: float | None = None,
    title: str | None = None,
) -> Data:
    """The Data value of a name; for folders, its classes and the digest of its file list. Raises DataError."""
    if name.startswith(TIMM_PREFIXES):
        if num_classes is None:
            raise DataError(f"data {name!r} does not tell its number of classes; legal: any count; say --num-classes N")
        base = Data(
            name=name, title=title or name, image_size=image_size or 224, num_classes=num_classes, validation=0.1
        )
    elif name not in NAMED:
        raise DataError(
            f"data {name!r} is unknown; legal: {listing(NAMED)}, or {listing(p + '...' for p in TIMM_PREFIXES)}; {nearest(name, NAMED)}"
        )
    else:
        base = _from_folder(NAMED[name], data_dir) if name in IMAGE_FOLDERS else NAMED[name]
    if num_classes is not None and num_classes != base.num_classes:
        raise DataError(
            f"data {name!r} has {base.num_classes} classes, not {num_classes}; legal: {base.num_classes}; leave --num-classes out"
        )
    given = {"image_size": image_size, "validation": validation, "title": title}
    return replace(base, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


SIZES: Mapping[str, int] = MappingProxyType(
    {"digits": 1297, "cifar10": 50_000, "cifar100": 50_000, "fashion-mnist": 60_000, "imagenet": 1_281_167}
)


def training_images(data: Data, *, data_dir: Path | None = None) -> int | None:
    """Training images left by the validation cut (to a few: it is made class by class), or None where only opening the data would tell."""
    size = SIZES.get(data.name)
    if data.name == "imagefolder" and data_dir is not None:
        size = len(list_split(data.name, data_dir, TRAIN_FOLDERS).files)
    return None if size is None else round(size * (1 - data.validation))


def _from_folder(base: Data, data_dir: Path | None) -> Data:
    train, test = list_split(base.name, data_dir, TRAIN_FOLDERS), list_split(base.name, data_dir, TEST_FOLDERS)
    if train.classes != test.classes:
        only = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"data folder {data_dir}: train has {len(train.classes)} classes and test {len(test.classes)}, differing in {listing(only[:5])}; legal: the same class folders in both; check the folder names"
        )
    if base.name == "imagenet":
        check_synsets(train.classes, train.root)
    return replace(base, num_classes=len(train.classes), digest=digest_of(train, test))
