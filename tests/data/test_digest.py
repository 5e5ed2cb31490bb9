"""What a run trains on is told by its images and labels, not by its name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roadmap.config.errors import DataError
from roadmap.data import digest
from roadmap.data.digest import data_digests, digest_of_images, files_of
from roadmap.data.encoded import EncodedImages, Files
from roadmap.data.file_index import list_split
from roadmap.data.pipeline import Pipeline
from roadmap.data.readers import ArrayImages, LibraryImages
from roadmap.data.registry import resolve_data
from tests.helpers.small_runs import make_trial

MakeFolder = Callable[..., Path]
ALL = np.arange(40)


@pytest.fixture(autouse=True)
def _cache(own_cache: None) -> None:
    """Digests are kept in the test's own place."""


def in_memory() -> ArrayImages:
    rng = np.random.default_rng(0)
    return ArrayImages(rng.integers(0, 256, (40, 8, 8), np.uint8), rng.integers(0, 10, 40).tolist())


# In memory ----------------------------------------------------------------------------------------


def test_one_pixel_and_one_label_count() -> None:
    images = in_memory()
    known = digest_of_images(images, ALL)
    assert known.startswith("pixels-all:") and digest_of_images(in_memory(), ALL) == known
    pixels = images.pixels.copy()
    pixels[39, 7, 7] ^= 1
    labels = [*images.labels[:39], (images.labels[39] + 1) % 10]
    others = [ArrayImages(pixels, images.labels), ArrayImages(images.pixels, labels)]
    assert known not in [digest_of_images(other, ALL) for other in others]


def test_only_the_images_of_the_part_count() -> None:
    images = in_memory()
    pixels = images.pixels.copy()
    pixels[0] += 1
    changed = ArrayImages(pixels, images.labels)
    assert digest_of_images(images, ALL[1:]) == digest_of_images(changed, ALL[1:])
    assert digest_of_images(images, ALL[:1]) != digest_of_images(changed, ALL[:1])


def test_the_recipes_resize_does_not_count() -> None:
    trials = [make_trial(crop=crop) for crop in ("resized", "padded")]
    digests = [data_digests(Pipeline.open(trial)) for trial in trials]
    assert digests[0] == digests[1] and set(digests[0]) == {"train", "validation", "test"}


def test_another_cut_is_other_data_for_training_and_the_same_for_the_test() -> None:
    trial = make_trial()
    one, other = (data_digests(Pipeline.open(replace(trial, data=replace(trial.data, split_seed=k)))) for k in (0, 1))
    assert [one[name] == other[name] for name in ("train", "validation", "test")] == [False, False, True]
    whole = replace(trial, data=replace(trial.data, validation=0.0))
    assert set(data_digests(Pipeline.open(whole))) == {"train", "test"}


# In files -----------------------------------------------------------------------------------------


def settle(folder: Path) -> None:
    """Wait until a later change of the files would show in their times."""
    while time.time_ns() - max(os.stat(p).st_ctime_ns for p in folder.rglob("*")) < digest.SETTLED_NS:
        time.sleep(0.05)


def of_folder(folder: Path) -> str:
    listing = list_split("imagefolder", folder, ("train",))
    return digest_of_images(EncodedImages(Files(listing), "RGB"), np.arange(len(listing)))


def exchange(file: Path) -> None:
    """Another image of the same name and size."""
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def test_files_exchanged_for_others_of_the_same_size_are_other_data(image_folder: MakeFolder) -> None:
    folder = image_folder()
    named, known = resolve_data("imagefolder", data_dir=folder).digest, of_folder(folder)
    assert known.startswith("contents-all:")
    exchange(folder / "train" / "cat" / "001.png")
    assert resolve_data("imagefolder", data_dir=folder).digest == named
    assert of_folder(folder) != known


def test_another_place_and_another_time_are_the_same_data(image_folder: MakeFolder) -> None:
    folder, other = image_folder("a"), image_folder("b")
    for file in other.rglob("*.png"):
        os.utime(file, (1, 1))
    assert of_folder(folder) == of_folder(other)


@pytest.mark.slow  # the clock must leave the files' times behind
def test_contents_are_read_once_a_machine_until_a_file_changes(
    image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, reads = image_folder(), list[int]()
    plain = Files.content

    def content(self: Files, index: int) -> bytes:
        reads.append(index)
        return plain(self, index)

    monkeypatch.setattr(Files, "content", content)
    settle(folder)
    known = of_folder(folder)
    assert (len(reads), of_folder(folder), len(reads)) == (8, known, 8)
    stamped = os.stat(folder / "train" / "cat" / "001.png")
    exchange(folder / "train" / "cat" / "001.png")
    os.utime(folder / "train" / "cat" / "001.png", ns=(stamped.st_atime_ns, stamped.st_mtime_ns))
    assert of_folder(folder) != known and len(reads) == 16


def test_a_damaged_cache_is_read_anew(image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "SETTLED_NS", -(10**18))
    folder = image_folder()
    known = of_folder(folder)
    (kept,) = digest.cache_folder().glob("*.contents")
    kept.write_bytes(b"\0" * kept.stat().st_size)
    assert of_folder(folder) == known


def test_a_large_set_is_told_by_names_sizes_labels_and_a_sample(
    image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "READ_WHOLE_BYTES", 1)
    monkeypatch.setattr(digest, "SAMPLE_FILES", 3)
    folder = image_folder(counts={"train": 20, "test": 2})
    known = of_folder(folder)
    assert known.startswith("contents-3:") and of_folder(folder) == known
    for file in sorted((folder / "train").rglob("*.png"))[::2]:
        exchange(file)
    assert of_folder(folder) != known


def test_a_library_that_tells_its_files_is_read_by_them_and_another_by_its_images(tmp_path: Path) -> None:
    files = []
    for k in range(3):
        files.append(tmp_path / f"{k}.png")
        Image.fromarray(np.full((4, 4, 3), k, np.uint8)).save(files[-1])

    class Known:
        _image_files = files

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.open(files[index]), index

    class Unknown:
        __getitem__ = Known.__getitem__

    assert files_of(Known()) == [str(file) for file in files] and files_of(Unknown()) is None
    splits = [LibraryImages("set", dataset, [0, 1, 2], "RGB") for dataset in (Known(), Unknown())]
    kinds = [digest_of_images(split, np.arange(3)).partition(":")[0] for split in splits]
    assert kinds == ["contents-all", "pixels-all"]


def test_files_that_cannot_be_read_are_refused(image_folder: MakeFolder) -> None:
    folder = image_folder(counts={"train": 80, "test": 2}, size=8)
    trial = make_trial()
    data = resolve_data("imagefolder", data_dir=folder, image_size=16)
    model = replace(trial.model, num_classes=2, in_chans=3)
    pipeline = Pipeline.open(replace(trial, model=model, data=data), data_dir=folder)
    (folder / "train" / "cat" / "000.png").unlink()
    with pytest.raises(DataError, match="cannot be read for the digest"):
        data_digests(pipeline)
