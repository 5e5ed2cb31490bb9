"""The data sets that can be opened here, and the cut of a validation split."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from timm.data import ImageDataset
from torchvision.datasets import ImageFolder

from roadmap.config.errors import DataError
from roadmap.data.held import ArrayImages
from roadmap.data.readers import _from_map, cut_validation, open_data
from roadmap.data.registry import NAMED, resolve_data

MakeFolder = Callable[..., Path]


def counted(images: ArrayImages) -> Counter[tuple[bytes, int]]:
    """How often each image comes with each label."""
    return Counter(zip(map(bytes, images.pixels), images.labels, strict=True))


def test_digits_are_scikit_learns_images_with_500_of_them_for_the_test() -> None:
    from sklearn.datasets import load_digits

    train, test = open_data(NAMED["digits"], data_dir=None)
    assert isinstance(train, ArrayImages) and isinstance(test, ArrayImages)
    assert (len(train), len(test)) == (1297, 500)
    original = load_digits()
    pixels = np.round(original.images * 255 / 16).astype(np.uint8)
    want = Counter(zip(map(bytes, pixels), original.target.tolist(), strict=True))
    assert counted(train) + counted(test) == want
    assert set(test.labels) == set(range(10))
    assert max(image.getextrema()[1] for image in map(train.image, range(20))) == 255


def test_the_test_split_of_the_digits_never_changes() -> None:
    _, test = open_data(NAMED["digits"], data_dir=None)
    assert list(test.labels[:12]) == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5, 2, 8]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25])
def test_the_validation_cut_takes_the_same_part_of_every_class_and_leaves_the_rest(fraction: float) -> None:
    labels = np.repeat([0, 1, 2], [40, 100, 200])[np.random.RandomState(1).permutation(340)].tolist()
    train, validation = cut_validation(labels, fraction, 0)
    assert sorted([*train, *validation]) == list(range(340))
    counts = Counter(np.asarray(labels)[validation.astype(int)].tolist())
    assert counts == Counter({k: round(fraction * n) for k, n in enumerate((40, 100, 200)) if fraction})


def test_the_validation_cut_is_drawn_from_its_seed() -> None:
    labels = [0, 1] * 100
    same, again, other = (cut_validation(labels, 0.1, seed)[1].tolist() for seed in (0, 0, 1))
    assert same == again != other


@pytest.mark.parametrize("in_chans", [1, 3])
def test_torchvisions_folder_is_read_through_timm(image_folder: MakeFolder, in_chans: int) -> None:
    data = replace(resolve_data("torch/image_folder", num_classes=2, image_size=32), in_chans=in_chans)
    train, test = open_data(data, data_dir=image_folder())
    assert (list(train.labels), list(test.labels)) == ([0] * 4 + [1] * 4, [0, 0, 1, 1])
    assert train.image(0).mode == ("L" if in_chans == 1 else "RGB")


def test_labels_beyond_the_stated_number_of_classes_are_refused(image_folder: MakeFolder) -> None:
    data = resolve_data("torch/image_folder", num_classes=2, image_size=32)
    with pytest.raises(DataError) as e:
        open_data(data, data_dir=image_folder(classes=("a", "b", "c")))
    assert (
        str(e.value) == "data 'torch/image_folder' has labels up to 2 in 12 images; legal: 0 to 1; check --num-classes"
    )


def test_a_name_that_timm_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"data 'torch/nothing', split 'train', cannot be opened in .*; legal: what timm.* reads; check the name",
    ):
        open_data(resolve_data("torch/nothing", num_classes=2), data_dir=tmp_path)


def test_a_damaged_image_is_an_error_and_not_its_neighbour(image_folder: MakeFolder) -> None:
    folder = image_folder() / "train"
    (folder / "cat" / "001.png").write_bytes(b"not an image")
    for dataset in (ImageDataset(str(folder)), ImageFolder(str(folder))):
        split = _from_map(dataset, "mine", "RGB")
        assert split.image(0).size == (32, 32)
        with pytest.raises(
            DataError, match=r"image 1 of 'mine' cannot be decoded: .*; legal: whole images; repair the data set"
        ):
            split.image(1)
