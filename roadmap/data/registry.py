"""Which data sets there are, one entry each. No torch, no image is opened here.

A data set that torchvision reads is one line of `TORCHVISION`; scikit-learn's digits and folders of
images have readers of their own. Whatever timm's `create_dataset` reads is named by a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from roadmap.config.data import IMAGENET_CLASSES, Data
from roadmap.config.errors import DataError, listing, nearest

TIMM_PREFIXES = ("hfds/", "hfids/", "tfds/", "wds/", "torch/")
TIMMS_IMAGENET = re.compile(r"/imagenet([-_]?1k([-_:].*)?|2012(:.*)?)?$", re.IGNORECASE)
IMAGE_FOLDERS = ("imagefolder", "imagenet")
Channels = tuple[float, ...]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The keyword arguments with which torchvision's class gives each part of train and of test.

    test_fraction: where the class has no splits (`test` is empty), the part of every class that is
    the test split. It is drawn once and for all: never from the trial's seed.
    """

    train: tuple[Mapping[str, str | bool], ...]
    test: tuple[Mapping[str, str | bool], ...]
    test_fraction: float = 0.0


FLAG = Splits(train=({"train": True},), test=({"train": False},))
SPLIT = Splits(train=({"split": "train"},), test=({"split": "test"},))
TRAINVAL = Splits(train=({"split": "trainval"},), test=({"split": "test"},))
# The images that their authors set aside for choices are trained on, as in transfer learning; ours are cut from all.
TRAIN_AND_VAL = Splits(train=({"split": "train"}, {"split": "val"}), test=({"split": "test"},))
UNSPLIT = Splits(train=({},), test=(), test_fraction=0.2)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set: its Data, its training images before any validation cut, and who reads it.

    train_images: None where only the folder tells. torchvision: the class in torchvision.datasets,
    empty for the readers of our own. splits: how that class is asked for train and test.
    """

    data: Data
    train_images: int | None
    torchvision: str = ""
    splits: Splits = FLAG


def _row(
    name: str,
    title: str,
    torchvision: str,
    splits: Splits,
    num_classes: int,
    image_size: int,
    train_images: int,
    mean: Channels = IMAGENET_MEAN,
    std: Channels = IMAGENET_STD,
) -> DataSet:
    """One line of the table.

    Images of another size than `image_size` are resized and cut as those of folders are.
    """
    data = Data(
        name=name,
        title=title,
        image_size=image_size,
        num_classes=num_classes,
        in_chans=len(mean),
        mean=mean,
        std=std,
        validation=0.1,
    )
    return DataSet(data=data, train_images=train_images, torchvision=torchvision, splits=splits)


# name, title, torchvision's class, its splits, classes, pixels, training images; mean and standard deviation of the
# channels as commonly used, ImageNet's where a data set has none of its own. EuroSAT comes without splits.
# fmt: off
TORCHVISION = (
    _row("cifar10", "CIFAR-10", "CIFAR10", FLAG, 10, 32, 50000, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    _row("cifar100", "CIFAR-100", "CIFAR100", FLAG, 100, 32, 50000, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    _row("fashion-mnist", "Fashion-MNIST", "FashionMNIST", FLAG, 10, 32, 60000, (0.2860,), (0.3530,)),
    _row("svhn", "SVHN", "SVHN", SPLIT, 10, 32, 73257, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    _row("stl10", "STL-10", "STL10", SPLIT, 10, 96, 5000, (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
    _row("gtsrb", "GTSRB", "GTSRB", SPLIT, 43, 32, 26640, (0.3403, 0.3121, 0.3214), (0.2724, 0.2608, 0.2669)),
    _row("eurosat", "EuroSAT", "EuroSAT", UNSPLIT, 10, 64, 21600, (0.3444, 0.3803, 0.4078), (0.2037, 0.1366, 0.1148)),
    _row("food101", "Food-101", "Food101", SPLIT, 101, 224, 75750),
    _row("flowers102", "Oxford Flowers-102", "Flowers102", TRAIN_AND_VAL, 102, 224, 2040),
    _row("dtd", "DTD", "DTD", TRAIN_AND_VAL, 47, 224, 3760),
    _row("pets", "Oxford-IIIT Pets", "OxfordIIITPet", TRAINVAL, 37, 224, 3680),
)
# fmt: on

_DIGITS = Data(
    name="digits",
    title="digits (scikit-learn)",
    image_size=16,
    num_classes=10,
    in_chans=1,
    mean=(0.305,),
    std=(0.376,),
    validation=0.1,
)
_IMAGENET = Data(name="imagenet", title="ImageNet-1k", image_size=224, num_classes=IMAGENET_CLASSES)
_IMAGE_FOLDER = Data(name="imagefolder", title="image folder", image_size=224, num_classes=2, validation=0.1)

_ENTRIES = (
    DataSet(data=_DIGITS, train_images=1297),
    *TORCHVISION,
    DataSet(data=_IMAGENET, train_images=1_281_167),
    DataSet(data=_IMAGE_FOLDER, train_images=None),
)

DATA_SETS: Mapping[str, DataSet] = MappingProxyType({entry.data.name: entry for entry in _ENTRIES})
NAMED: Mapping[str, Data] = MappingProxyType({name: entry.data for name, entry in DATA_SETS.items()})


def resolve_data(
    name: str,
    *,
    data_dir: Path | None = None,
    image_size: int | None = None,
    num_classes: int | None = None,
    validation: float | None = None,
    title: str | None = None,
    decoder: str | None = None,
) -> Data:
    """The Data value of a name; for folders, its classes and the digest of its file list.

    Raises DataError.
    """
    base = _base(name, data_dir, num_classes)
    if num_classes is not None and num_classes != base.num_classes:
        raise DataError(
            f"data {name!r} has {base.num_classes} classes, not {num_classes}; "
            f"legal: {base.num_classes}; leave --num-classes out"
        )
    if decoder not in (None, "pillow") and name not in IMAGE_FOLDERS:
        raise DataError(
            f"data {name!r} is not decoded by {decoder!r}; legal: another decoder than pillow for "
            f"{listing(IMAGE_FOLDERS)} alone; leave --decoder out"
        )
    given = {"image_size": image_size, "validation": validation, "title": title, "decoder": decoder}
    return replace(base, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


def is_timms_imagenet(name: str) -> bool:
    """Whether a name of timm's is ImageNet-1k: all of `train` is trained on, and `validation` is the test."""
    return name.startswith(TIMM_PREFIXES) and bool(TIMMS_IMAGENET.search(name))


def held_out(data: Data) -> str:
    """What of the data is not trained on, in a sentence."""
    if data.validation == 0:
        return f"data {data.title}: nothing is held out of the training split"
    return (
        f"data {data.title}: {data.validation:.4g} of the training split, class by class, is held out for choices "
        "and never trained on; --validation 0 trains on all"
    )


def _base(name: str, data_dir: Path | None, num_classes: int | None) -> Data:
    """The Data value before anything is set on top of it."""
    if is_timms_imagenet(name):
        return replace(NAMED["imagenet"], name=name)
    if name.startswith(TIMM_PREFIXES):
        if num_classes is None:
            raise DataError(f"data {name!r} does not tell its number of classes; legal: any count; say --num-classes N")
        return Data(name=name, title=name, image_size=224, num_classes=num_classes, validation=0.1)
    if name not in NAMED:
        prefixes = listing(f"{prefix}..." for prefix in TIMM_PREFIXES)
        raise DataError(f"data {name!r} is unknown; legal: {listing(NAMED)}, or {prefixes}; {nearest(name, NAMED)}")
    if name not in IMAGE_FOLDERS:
        return NAMED[name]
    from roadmap.data.image_files import describe  # numpy, which `status` and `plan` of a named set do not need

    return describe(NAMED[name], data_dir, num_classes)


def training_images(data: Data, *, data_dir: Path | None = None) -> int | None:
    """Training images left by the validation cut, or None where only opening the data would tell.

    The count is right to a few images, as the cut is made class by class.
    """
    known = DATA_SETS.get("imagenet" if is_timms_imagenet(data.name) else data.name)
    size = known.train_images if known else None
    if data.name == "imagefolder" and data_dir is not None:
        from roadmap.data.image_files import count_training_images

        size = count_training_images(data.name, data_dir)
    return None if size is None else round(size * (1 - data.validation))
