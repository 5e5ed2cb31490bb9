"""Tar files in place of folders: the same data to the byte, any image by one read, and what is refused."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from roadmap.config.errors import DataError
from roadmap.config.recipes import find_recipe
from roadmap.data.encoded import EncodedImages
from roadmap.data.file_index import TRAIN_FOLDERS, list_split
from roadmap.data.listing import Listing
from roadmap.data.pipeline import Samples, train_transform
from roadmap.data.readers import check_images, class_names, open_data
from roadmap.data.registry import resolve_data, training_images
from roadmap.data.tar_index import Shards

MakeFolder = Callable[..., Path]
Pack = Callable[[Path, Path], None]


def pack(folder: Path, tar: Path, prefix: str = "", pattern: str = "*/*", form: int = tarfile.DEFAULT_FORMAT) -> None:
    """The folder's files in the order in which the disk has them, so that sorting is the listing's."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w", format=form) as archive:
        for path in sorted(folder.glob(pattern), key=lambda p: hash(p.name + "x")):
            archive.add(path, f"{prefix}{path.relative_to(folder)}")


def as_command(folder: Path, tar: Path) -> None:
    """`tar cf train.tar -C train .`: with the folders, and ./ in front."""
    with tarfile.open(tar, "w") as archive:
        archive.add(folder, ".")


def with_split(folder: Path, tar: Path) -> None:
    """`tar cf train.tar train`."""
    with tarfile.open(tar, "w") as archive:
        archive.add(folder, folder.name)


def in_shards(folder: Path, tar: Path) -> None:
    shards = tar.with_suffix("")
    for number in range(3):
        pack(folder, shards / f"{number:03d}.tar", pattern=f"*/*[{number}{number + 3}].png")


def in_gnu_format(folder: Path, tar: Path) -> None:
    pack(folder, tar, form=tarfile.GNU_FORMAT)


@pytest.fixture
def folder(image_folder: MakeFolder, own_cache: None) -> Path:
    return image_folder(classes=("cat", "cat-fish", "dog"), counts={"train": 5, "test": 2})


@pytest.fixture
def tarred(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(pack: Pack = pack, name: str = "tars") -> Path:
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            pack(folder / split, tmp_path / name / f"{split}.tar")
        return tmp_path / name

    return make


def splits(folder: Path) -> tuple[EncodedImages, EncodedImages]:
    train, test = open_data(resolve_data("imagefolder", data_dir=folder), data_dir=folder)
    assert isinstance(train, EncodedImages) and isinstance(test, EncodedImages)
    return train, test


@pytest.mark.parametrize("form", [pack, as_command, with_split, in_shards, in_gnu_format], ids=lambda f: f.__name__)
def test_a_tar_is_the_same_data_as_its_folder_to_the_byte(
    folder: Path, tarred: Callable[..., Path], form: Pack
) -> None:
    tars = tarred(form)
    data = resolve_data("imagefolder", data_dir=tars)
    assert data == resolve_data("imagefolder", data_dir=folder), "the digest too: one trial, whatever the form"
    assert class_names(data, data_dir=tars) == ["cat", "cat-fish", "dog"]
    assert training_images(data, data_dir=tars) == training_images(data, data_dir=folder)
    for a, b in zip(splits(tars), splits(folder), strict=True):
        assert isinstance(a.source, Shards)
        assert a.labels.tolist() == b.labels.tolist()
        assert [a.source.content(i) for i in range(len(a))] == [b.source.content(i) for i in range(len(b))]
        assert all(a.image(i).tobytes() == b.image(i).tobytes() for i in range(len(a)))


def test_the_table_is_made_once_and_again_when_the_tar_changes(
    folder: Path, tarred: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, made = tarred(), []
    for split in ("train", "test"):
        os.utime(tars / f"{split}.tar", (0, 0))
    original = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: made.append(a) or original(*a, **k))
    first = resolve_data("imagefolder", data_dir=tars)
    assert len(made) == 2
    again = resolve_data("imagefolder", data_dir=tars)
    images, _ = splits(tars)
    assert (len(made), again, len(images)) == (2, first, 15)
    with original(tars / "train.tar", "a") as archive:
        archive.add(folder / "train" / "cat" / "000.png", "cat/more.png")
    assert resolve_data("imagefolder", data_dir=tars).digest != first.digest
    assert len(made) == 3


_SPLIT: list[EncodedImages] = []


def _read(indices: list[int]) -> list[bytes]:
    return [_SPLIT[0].source.content(i) for i in indices]


def test_forked_workers_read_the_same_open_file_at_once(tarred: Callable[..., Path]) -> None:
    split, _ = splits(tarred())
    _SPLIT[:] = [split]
    want = [split.source.content(i) for i in range(len(split))]
    orders = [np.random.default_rng(k).integers(0, len(split), 2000).tolist() for k in range(4)]
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        for order, got in zip(orders, pool.map(_read, orders), strict=True):
            assert got == [want[i] for i in order]


def test_a_spawned_worker_opens_the_files_itself(tarred: Callable[..., Path]) -> None:
    split, _ = splits(tarred())
    other = pickle.loads(pickle.dumps(split))
    assert other.source.descriptors != split.source.descriptors
    assert other.source.content(7) == split.source.content(7)


def member(name: str, content: bytes = b"x", **more: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def listed(path: Path) -> Listing:
    return list_split("imagefolder", path.parent, TRAIN_FOLDERS)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("cat/0.png", b""), "image cat/0.png in {} is empty (0 bytes); legal: plain files; "),
        (
            member("cat/0.png", b"", type=tarfile.SYMTYPE, linkname="1.png"),
            "image cat/0.png in {} is a link or no plain file; legal: plain files; ",
        ),
        (
            member("dog/1.png"),
            "image dog/1.png is there twice, in {0}, {0}; legal: each name once in a split; write the tar again",
        ),
    ],
    ids=["empty", "link", "twice"],
)
def test_a_bad_member_is_refused_by_name(
    tmp_path: Path, own_cache: None, bad: tuple[tarfile.TarInfo, bytes], message: str
) -> None:
    path = tar_of(tmp_path / "train.tar", member("dog/1.png"), member("cat/1.png"), bad)
    with pytest.raises(DataError) as e:
        listed(path)
    assert str(e.value).startswith(message.format(path))


def test_what_is_no_image_of_a_class_is_not_listed(tmp_path: Path, own_cache: None) -> None:
    names = ("README", "stray.png", "cat/notes.txt", "cat/1.png", "dog/more/2.JPEG", "cat/._x")
    assert list(listed(tar_of(tmp_path / "train.tar", *map(member, names))).files) == ["cat/1.png", "dog/more/2.JPEG"]


def test_a_class_that_is_named_as_a_split_stays_a_class(tmp_path: Path, own_cache: None) -> None:
    names = ("train/more/1.png", "bus/1.png")
    assert listed(tar_of(tmp_path / "train.tar", *map(member, names))).classes == ("bus", "train")


def cut_in_an_image(whole: bytes) -> bytes:
    return whole[: 3 * 512 + 100]


def cut_between_members(whole: bytes) -> bytes:
    return whole[: 4 * 512]


def spoilt_header(whole: bytes) -> bytes:
    return whole[: 4 * 512] + b"\xff" * 512 + whole[5 * 512 :]


def compressed(whole: bytes) -> bytes:
    import gzip

    return gzip.compress(whole)


@pytest.mark.parametrize(
    "damage", [cut_in_an_image, cut_between_members, spoilt_header, compressed], ids=lambda f: f.__name__
)
def test_a_tar_that_is_not_whole_is_refused(tmp_path: Path, own_cache: None, damage: Callable[[bytes], bytes]) -> None:
    """tarfile itself takes a damaged header for the end of the archive."""
    path = tar_of(tmp_path / "train.tar", *(member(f"{label}/1.png") for label in ("ant", "bee", "cat", "dog")))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="legal: whole, uncompressed tar files; write it again with `tar cf`") as e:
        listed(path)
    assert str(e.value).startswith(f"data file {path} cannot be read as a tar after ")
    assert ("after bee/1.png: " in str(e.value)) == (damage is not compressed)


def test_a_corrupt_image_in_a_tar_is_found_before_training_and_named(folder: Path, tarred: Callable[..., Path]) -> None:
    path = folder / "train" / "dog" / "002.png"
    path.write_bytes(path.read_bytes()[:-300])
    tars = tarred()
    with pytest.raises(DataError) as e:
        check_images(resolve_data("imagefolder", data_dir=tars), data_dir=tars)
    assert str(e.value).startswith(f"image dog/002.png in {tars / 'train.tar'} cannot be decoded: ")


def test_a_tar_that_has_become_shorter_is_an_error_that_names_the_image(tarred: Callable[..., Path]) -> None:
    tars = tarred()
    split, _ = splits(tars)
    os.truncate(tars / "train.tar", 1000)
    with pytest.raises(DataError, match=r"image dog/004.png in .*train.tar cannot be decoded: 0 of \d+ bytes"):
        split.image(14)


def test_folder_and_tar_give_the_same_training_stream(folder: Path, tarred: Callable[..., Path]) -> None:
    data = resolve_data("imagefolder", data_dir=folder, image_size=16)
    transform, indices = train_transform(find_recipe("convnext-300ep"), data), np.arange(15)
    a, b = (Samples(splits(place)[0], indices, transform, 3) for place in (folder, tarred()))
    for key in ((0, 4), (0, 11), (7, 4)):
        assert np.array_equal(a[key].pixels, b[key].pixels) and a[key].label == b[key].label


@pytest.mark.slow
def test_folder_and_tar_train_to_the_same_bits(
    folder: Path, tarred: Callable[..., Path], command: Callable[..., Any]
) -> None:
    words = ("run", "--regime", "micro", "--step", "9", "--data", "imagefolder")
    words += ("--epochs", "2", "--batch-size", "4", "--json")
    of_folder, of_tar = (
        command(*words, "--data-dir", place, "--runs", name).json()[0]
        for name, place in (("a", folder), ("b", tarred()))
    )
    assert of_folder["id"] == of_tar["id"] and of_folder["metrics"] == of_tar["metrics"]
    [a], [b] = (list(Path(name).glob("*/*/weights.safetensors")) for name in ("a", "b"))
    weights, same = load_file(a), load_file(b)
    assert all(weights[name].equal(same[name]) for name in weights.keys() | same.keys())
