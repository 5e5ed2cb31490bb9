"""What a folder of images holds, and every way in which it can be refused."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roadmap.config.errors import DataError
from roadmap.data.file_index import TEST_FOLDERS, TRAIN_FOLDERS, check_synsets, imagenet_synsets, list_split
from roadmap.data.readers import check_images, open_data
from roadmap.data.registry import NAMED, resolve_data

MakeFolder = Callable[..., Path]


def digest(folder: Path) -> str:
    return resolve_data("imagefolder", data_dir=folder).digest


def test_a_folder_tells_its_classes_and_its_content(image_folder: MakeFolder) -> None:
    data = resolve_data(
        "imagefolder", data_dir=image_folder(classes=("ant", "bee", "cow")), image_size=32, title="farm"
    )
    assert (data.num_classes, data.image_size, data.title) == (3, 32, "farm")
    assert len(data.digest) == 64


def test_the_digest_follows_the_files_and_not_their_place(image_folder: MakeFolder, tmp_path: Path) -> None:
    folder = image_folder()
    before = digest(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert digest(tmp_path / "elsewhere") == before
    shutil.copy(folder / "train" / "cat" / "000.png", folder / "train" / "cat" / "new.png")
    assert digest(folder) != before
    (folder / "train" / "cat" / "new.png").unlink()
    assert digest(folder) == before
    (folder / "train" / "cat" / "000.png").rename(folder / "train" / "dog" / "x000.png")
    assert digest(folder) != before


def test_what_is_no_image_is_not_listed_and_folders_below_a_class_are(image_folder: MakeFolder) -> None:
    folder = image_folder()
    (folder / "train" / "cat" / "notes.txt").write_text("x")
    (folder / "train" / "stray.png").write_bytes(b"x")
    (folder / "train" / "cat" / "more").mkdir()
    shutil.copy(folder / "train" / "cat" / "000.png", folder / "train" / "cat" / "more" / "A.JPEG")
    split = list_split("imagefolder", folder, TRAIN_FOLDERS)
    numbers = ("000", "001", "002", "003")
    cats = [f"cat/{number}.png" for number in numbers]
    dogs = [f"dog/{number}.png" for number in numbers]
    assert tuple(split.files) == (*cats, "cat/more/A.JPEG", *dogs)
    assert split.labels.tolist() == [0] * 5 + [1] * 4
    assert split.classes == ("cat", "dog")


@pytest.mark.parametrize("names", [("train", "val"), ("training", "validation"), ("train", "test")])
def test_the_usual_names_of_the_splits_are_found(image_folder: MakeFolder, names: tuple[str, str]) -> None:
    folder = image_folder(counts={names[0]: 3, names[1]: 2})
    train, test = (list_split("imagefolder", folder, f) for f in (TRAIN_FOLDERS, TEST_FOLDERS))
    assert (len(train.files), len(test.files)) == (6, 4)


def empty_class(folder: Path) -> None:
    (folder / "test" / "eel").mkdir()


def zero_bytes(folder: Path) -> None:
    (folder / "train" / "cat" / "000.png").write_bytes(b"")


def other_classes(folder: Path) -> None:
    shutil.rmtree(folder / "test" / "dog")
    (folder / "test" / "cow").mkdir()
    shutil.copy(folder / "test" / "cat" / "000.png", folder / "test" / "cow")


def one_class(folder: Path) -> None:
    shutil.rmtree(folder / "train" / "dog")


def no_class(folder: Path) -> None:
    one_class(folder)
    (folder / "train" / "cat").rename(folder / "cat")


def no_test(folder: Path) -> None:
    shutil.rmtree(folder / "test")


def dangling_link(folder: Path) -> None:
    (folder / "train" / "cat" / "lost.png").symlink_to(folder / "nowhere.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (empty_class, "data folder {}/test/eel has no images; legal: files ending in .bmp, .gif, .jpeg, "),
        (zero_bytes, "image {}/train/cat/000.png is empty (0 bytes); legal: readable images; replace or remove it"),
        (
            other_classes,
            "data folder {}: train has 2 classes and test 2, differing in cow, dog; "
            "legal: the same class folders in both; check the folder names",
        ),
        (one_class, "data folder {}/train has 1 class folders; legal: two or more, each with images; check --data-dir"),
        (no_class, "data folder {}/train has 0 class folders; legal: two or more, each with images; check --data-dir"),
        (
            no_test,
            "data folder {} has no test/ or val/ or validation/; "
            "legal: CLASS/IMAGE below such a folder, or in such a .tar file; check --data-dir",
        ),
        (
            dangling_link,
            "data folder {0}/train/cat cannot be read: {0}/train/cat/lost.png: No such file or directory; "
            "legal: readable folders and files; check permissions and links",
        ),
    ],
    ids=lambda x: x.__name__ if callable(x) else "",
)
def test_a_damaged_folder_is_refused_with_the_path_and_what_to_do(
    image_folder: MakeFolder, damage: Callable[[Path], None], message: str
) -> None:
    folder = image_folder()
    damage(folder)
    with pytest.raises(DataError) as e:
        resolve_data("imagefolder", data_dir=folder)
    assert message.format(folder) in str(e.value)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("unreadable", ["train", "train/dog"])
def test_an_unreadable_folder_is_refused_with_its_path(image_folder: MakeFolder, unreadable: str) -> None:
    place = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others as a whole
    try:
        folder = place / "images"
        shutil.copytree(image_folder(), folder)
        place.chmod(0o755)
        (folder / unreadable).chmod(0o000)
        with as_nobody(), pytest.raises(DataError) as e:
            resolve_data("imagefolder", data_dir=folder)
        assert f"data folder {folder / unreadable} cannot be read" in str(e.value)
        assert "Permission denied; legal: readable folders and files; check permissions and links" in str(e.value)
    finally:
        (folder / unreadable).chmod(0o755)
        shutil.rmtree(place)


def test_a_corrupt_image_is_found_before_training_and_named(image_folder: MakeFolder, own_cache: None) -> None:
    folder = image_folder()
    path = folder / "train" / "dog" / "002.png"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError) as e:
        check_images(resolve_data("imagefolder", data_dir=folder), data_dir=folder)
    assert str(e.value).startswith(f"image {path} cannot be decoded: ")
    assert str(e.value).endswith("; legal: whole images; replace or remove it")


def test_a_checked_folder_is_remembered_until_a_file_changes(image_folder: MakeFolder, own_cache: None) -> None:
    folder = image_folder()
    data = resolve_data("imagefolder", data_dir=folder)
    assert [check_images(data, data_dir=folder) for _ in range(2)] == [12, 0]
    path = folder / "test" / "cat" / "001.png"
    path.write_bytes(bytes(path.stat().st_size))  # of the same size: the digest does not see it
    assert resolve_data("imagefolder", data_dir=folder).digest == data.digest
    with pytest.raises(DataError, match="test/cat/001.png cannot be decoded"):
        check_images(data, data_dir=folder)


def test_a_checked_folder_is_fine_where_nothing_can_be_remembered(
    image_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = image_folder()
    data = resolve_data("imagefolder", data_dir=folder)
    assert [check_images(data, data_dir=folder) for _ in range(2)] == [12, 12]


# ImageNet ------------------------------------------------------------------------------------------------------------


def test_the_synsets_are_imagenets_thousand() -> None:
    synsets = imagenet_synsets()
    assert len(synsets) == NAMED["imagenet"].num_classes == 1000
    assert min(synsets) == "n01440764" and max(synsets) == "n15075141"
    check_synsets(tuple(sorted(synsets)), Path("x"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda s: s - {"n01440764", "n01443537"}, "2 of 1000 synsets missing (n01440764, n01443537)"),
        (lambda s: s | {"n00000001"}, "1 unknown folders (n00000001)"),
        (lambda s: {"cat", "dog"}, "2 unknown folders ("),
    ],
)
def test_a_folder_that_is_not_imagenet_is_refused(change: Callable[[set[str]], set[str]], what: str) -> None:
    with pytest.raises(DataError) as e:
        check_synsets(tuple(sorted(change(imagenet_synsets()))), Path("/x/train"))
    assert str(e.value).startswith(f"data folder /x/train is not ImageNet-1k: {what}")
    assert str(e.value).endswith(
        "; legal: the 1,000 folders n01440764 to n15075141; use --data imagefolder for other images"
    )


def test_imagenet_in_a_folder_of_its_synsets_is_accepted_and_numbered_by_name(image_folder: MakeFolder) -> None:
    folder = image_folder(classes=tuple(imagenet_synsets()), counts={"train": 1, "val": 1}, size=2)
    data = resolve_data("imagenet", data_dir=folder)
    assert (data.num_classes, data.image_size, data.validation) == (1000, 224, 0)
    train, test = open_data(data, data_dir=folder)
    assert list(train.labels) == list(test.labels) == list(range(1000))
    assert train.image(999).size == (2, 2)


def test_a_folder_with_other_names_is_refused_as_imagenet(image_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="is not ImageNet-1k: 2 unknown folders"):
        resolve_data("imagenet", data_dir=image_folder(counts={"train": 1, "val": 1}))
