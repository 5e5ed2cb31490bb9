"""Every data set that torchvision reads, from small copies in its own formats; only its checksums are switched off."""

import csv
import json
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from roadmap.config.data import Data
from roadmap.config.errors import DataError
from roadmap.config.recipes import find_recipe
from roadmap.data.pipeline import eval_transform, train_transform
from roadmap.data.readers import Split, open_data
from roadmap.data.registry import DATA_SETS, NAMED, TORCHVISION, training_images

NAMES = tuple(entry.data.name for entry in TORCHVISION)
FROM_FILES = ("gtsrb", "eurosat", "food101", "flowers102", "dtd", "pets")


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def write_image(path: Path, number: int) -> None:
    """An image whose size differs from its neighbour's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(30 + number, 50 - number, 3)).save(path)


def write_pickle(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        write_pickle(folder / name, {"data": pixels(2, 3072), "labels": [0, 9]})
    write_pickle(folder / "batches.meta", {"label_names": ["x"] * 10})


def write_cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    for name, count in (("train", 10), ("test", 2)):
        write_pickle(folder / name, {"data": pixels(count, 3072), "fine_labels": [0, 99] * (count // 2)})
    write_pickle(folder / "meta", {"fine_label_names": ["x"] * 100})


def write_fashion_mnist(root: Path) -> None:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, count in (("train", 10), ("t10k", 2)):
        sizes = b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        header = bytes((0, 0, 8, 3)) + sizes
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + pixels(count, 28, 28).tobytes())
        labels = bytes((0, 0, 8, 1)) + count.to_bytes(4, "big") + bytes((0, 9)) * (count // 2)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)


def write_svhn(root: Path) -> None:
    """MATLAB's files: pixels (H, W, C, N), the digit 0 labelled 10."""
    for name, count in (("train", 10), ("test", 2)):
        labels = np.array([[10], [9]] * (count // 2))
        savemat(root / f"{name}_32x32.mat", {"X": pixels(32, 32, 3, count), "y": labels})


def write_stl10(root: Path) -> None:
    """Bytes without a header: pixels (N, C, W, H), labels from 1."""
    folder = root / "stl10_binary"
    folder.mkdir()
    for name, count in (("train", 10), ("test", 2)):
        (folder / f"{name}_X.bin").write_bytes(pixels(count, 3, 96, 96).tobytes())
        (folder / f"{name}_y.bin").write_bytes(bytes((1, 10)) * (count // 2))
    (folder / "unlabeled_X.bin").touch()


def write_gtsrb(root: Path) -> None:
    folder = root / "gtsrb"
    for k in range(10):
        write_image(folder / "GTSRB" / "Training" / f"{k % 2:05d}" / f"{k:05d}.ppm", k)
    rows = [{"Filename": f"{k:05d}.ppm", "ClassId": k} for k in range(2)]
    for k, row in enumerate(rows):
        write_image(folder / "GTSRB" / "Final_Test" / "Images" / str(row["Filename"]), k)
    with open(folder / "GT-final_test.csv", "w") as f:
        writer = csv.DictWriter(f, ["Filename", "ClassId"], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


def write_eurosat(root: Path) -> None:
    """Ten of one class, five of the other: a fifth of each is the test split."""
    for label, count in (("Forest", 10), ("River", 5)):
        for k in range(count):
            write_image(root / "eurosat" / "2750" / label / f"{label}_{k}.png", k)


def write_food101(root: Path) -> None:
    for split, count in (("train", 10), ("test", 2)):
        names = [f"{split}{k}" for k in range(count // 2)]
        pies = [f"apple_pie/{name}" for name in names]
        waffles = [f"waffles/{name}" for name in names]
        listed = json.dumps({"apple_pie": pies, "waffles": waffles})
        write_lines(root / "food-101" / "meta" / f"{split}.json", [listed])
        for k, name in enumerate(pies + waffles):
            write_image(root / "food-101" / "images" / f"{name}.jpg", k)


def write_flowers102(root: Path) -> None:
    """Images are numbered from 1, labels from 1: six to train on, four of their authors' validation, two to test."""
    folder = root / "flowers-102"
    for number in range(1, 13):
        write_image(folder / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": [1, 102] * 6})
    savemat(folder / "setid.mat", {"trnid": [*range(1, 7)], "valid": [*range(7, 11)], "tstid": [11, 12]})


def write_dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    for split, count in (("train", 6), ("val", 4), ("test", 2)):
        names = [f"{('banded', 'zigzagged')[k % 2]}/{split}_{k}.jpg" for k in range(count)]
        write_lines(folder / "labels" / f"{split}1.txt", names)
        for k, name in enumerate(names):
            write_image(folder / "images" / name, k)


def write_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    for split, count in (("trainval", 10), ("test", 2)):
        names = [f"{('Abyssinian', 'yorkshire_terrier')[k % 2]}_{split}{k}" for k in range(count)]
        lines = [f"{name} {(1, 37)[k % 2]} 1 1" for k, name in enumerate(names)]
        write_lines(folder / "annotations" / f"{split}.txt", lines)
        for k, name in enumerate(names):
            write_image(folder / "images" / f"{name}.jpg", k)


WRITERS: dict[str, Callable[[Path], None]] = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "fashion-mnist": write_fashion_mnist,
    "svhn": write_svhn,
    "stl10": write_stl10,
    "gtsrb": write_gtsrb,
    "eurosat": write_eurosat,
    "food101": write_food101,
    "flowers102": write_flowers102,
    "dtd": write_dtd,
    "pets": write_pets,
}
COUNTS = dict.fromkeys(NAMES, (10, 2)) | {"eurosat": (12, 3)}
LABELS = {
    "gtsrb": {0, 1},
    "eurosat": {0, 1},
    "food101": {0, 1},
    "dtd": {0, 1},
    "flowers102": {0, 101},
    "cifar100": {0, 99},
    "pets": {0, 36},
}


@pytest.fixture(autouse=True)
def no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision knows the checksums of the real files alone; whether a file exists is still checked."""
    for module in ("cifar", "svhn", "stl10", "flowers102"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: Path(path).exists()
        )


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[str], tuple[Split, Split]]:
    def make(name: str) -> tuple[Split, Split]:
        WRITERS[name](tmp_path)
        return open_data(NAMED[name], data_dir=tmp_path)

    return make


def same_image(split: Split, index: int, item: tuple[Image.Image, int]) -> bool:
    image, label = item
    return np.array_equal(np.asarray(split.image(index)), np.asarray(image)) and split.labels[index] == label


@pytest.mark.parametrize("name", NAMES)
def test_every_set_of_torchvisions_opens_with_its_images_and_labels(name: str, opened: Any, tmp_path: Path) -> None:
    train, test = opened(name)
    assert (len(train), len(test)) == COUNTS[name]
    assert set(train.labels) == set(test.labels) == LABELS.get(name, {0, 9})
    mode = "L" if NAMED[name].in_chans == 1 else "RGB"
    assert {split.image(i).mode for split in (train, test) for i in range(len(split))} == {mode}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "eurosat"])
def test_both_splits_are_those_of_torchvisions_class(name: str, opened: Any, tmp_path: Path) -> None:
    maker, splits = getattr(torchvision.datasets, DATA_SETS[name].torchvision), DATA_SETS[name].splits
    for split, parts in zip(opened(name), (splits.train, splits.test), strict=True):
        items = [item for part in parts for item in maker(str(tmp_path), **part)]
        assert len(items) == len(split)
        assert all(same_image(split, i, item) for i, item in enumerate(items))


def test_eurosat_is_cut_class_by_class_and_always_alike(opened: Any, tmp_path: Path) -> None:
    train, test = opened("eurosat")
    assert (Counter(train.labels), Counter(test.labels)) == (Counter({0: 8, 1: 4}), Counter({0: 2, 1: 1}))
    shown = [split.image(i).tobytes() for split in (train, test) for i in range(len(split))]
    whole = {image.tobytes() for image, _ in torchvision.datasets.EuroSAT(str(tmp_path))}
    assert set(shown) == whole, "every image is in one of the two"
    again = open_data(replace(NAMED["eurosat"], split_seed=3), data_dir=tmp_path)
    assert [split.image(i).tobytes() for split in again for i in range(len(split))] == shown


@pytest.mark.parametrize("name", FROM_FILES)
def test_images_of_any_size_reach_the_network_at_its_own(name: str, opened: Any) -> None:
    data: Data = NAMED[name]
    for split in opened(name):
        sizes = {split.image(i).size for i in range(len(split))}
        assert len(sizes) > 1, "the files differ in size"
        for recipe in (find_recipe("cifar-adamw"), find_recipe("convnext-300ep")):
            for transform in (train_transform(recipe, data), eval_transform(recipe, data)):
                assert transform(split.image(0)).shape == (3, data.image_size, data.image_size)


@pytest.mark.parametrize("name", NAMES)
def test_a_set_that_is_not_there_is_refused_and_told_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as e:
        open_data(NAMED[name], data_dir=tmp_path)
    assert str(e.value).startswith(f"data {name!r} is not in {tmp_path} (Dataset not found")
    assert str(e.value).endswith("; legal: torchvision's files there; say --data-dir DIR, or --download to fetch them")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "fetcher"), [("svhn", "download_url"), ("dtd", "download_and_extract_archive")])
def test_a_set_that_is_not_there_is_fetched_when_asked_to(
    name: str, fetcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"torchvision.datasets.{name}.{fetcher}", lambda *_, **__: WRITERS[name](tmp_path))
    train, test = open_data(NAMED[name], data_dir=tmp_path, download=True)
    assert (len(train), len(test)) == COUNTS[name]


def test_the_table_knows_how_many_images_are_left_to_train_on_without_opening_them() -> None:
    assert training_images(NAMED["svhn"]) == round(0.9 * 73_257)
    assert all(training_images(NAMED[name]) for name in NAMES)


def test_a_damaged_file_is_an_error_that_names_the_image_and_the_set(opened: Any, tmp_path: Path) -> None:
    train, _ = opened("pets")
    next((tmp_path / "oxford-iiit-pet" / "images").glob("*_trainval3.jpg")).write_bytes(b"not an image")
    with pytest.raises(DataError, match="image 3 of 'pets' cannot be decoded: .*; legal: whole images; repair"):
        train.image(3)
