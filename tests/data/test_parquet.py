"""Parquet files as `datasets` writes them, and timm's names for its data sets."""

import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roadmap.config.errors import DataError
from roadmap.data.encoded import EncodedImages
from roadmap.data.parquet import ParquetTable
from roadmap.data.readers import check_images, class_names, open_data
from roadmap.data.registry import held_out, is_timms_imagenet, resolve_data, training_images

CLASSES = ("tench, Tinca tinca", "goldfish, Carassius auratus")
Write = Callable[..., Path]


def images(count: int, seed: int) -> list[bytes]:
    rng, encoded = np.random.default_rng(seed), []
    for _ in range(count):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(out, "JPEG")
        encoded.append(out.getvalue())
    return encoded


@pytest.fixture
def write(tmp_path: Path, own_cache: None, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes DIR/data/SPLIT-00000-of-00002.parquet and its neighbour; returns DIR."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def make(name: str, splits: dict[str, Sequence[int]], classes: Sequence[str] = CLASSES) -> Path:
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(classes)))
        (tmp_path / name / "data").mkdir(parents=True)
        for seed, (split, labels) in enumerate(splits.items()):
            cells = [{"bytes": content, "path": None} for content in images(len(labels), seed)]
            table = datasets.Dataset.from_dict({"image": cells, "label": list(labels)}, features=features)
            for part in range(2):
                shard = table.shard(2, part, contiguous=True)
                shard.to_parquet(tmp_path / name / "data" / f"{split}-{part:05d}-of-00002.parquet")
        return tmp_path / name

    return make


def test_parquet_files_in_place_of_folders_are_read_by_index(write: Write) -> None:
    folder = write("small", {"train": [0, 1, 1, 0, 1, 0, 0], "test": [1, 0]})
    data = resolve_data("imagefolder", data_dir=folder, validation=0.0)
    assert (data.num_classes, len(data.digest)) == (2, 64)
    assert training_images(data, data_dir=folder) == 7
    assert class_names(data, data_dir=folder) == list(CLASSES)
    assert check_images(data, data_dir=folder) == 9
    train, test = open_data(data, data_dir=folder)
    assert isinstance(train, EncodedImages) and isinstance(train.source, ParquetTable)
    assert (list(train.labels), list(test.labels)) == ([0, 1, 1, 0, 1, 0, 0], [1, 0])
    want = images(7, 0)
    assert [train.source.content(i) for i in (6, 0, 3)] == [want[i] for i in (6, 0, 3)]
    assert train.image(5).tobytes() == Image.open(io.BytesIO(want[5])).convert("RGB").tobytes()


def test_the_digest_follows_the_parquet_files_and_not_their_place(write: Write, tmp_path: Path) -> None:
    folder = write("small", {"train": [0, 1, 1], "test": [1, 0]})
    shutil.copytree(folder, tmp_path / "elsewhere")
    digest = resolve_data("imagefolder", data_dir=folder).digest
    assert resolve_data("imagefolder", data_dir=tmp_path / "elsewhere").digest == digest
    other = write("other", {"train": [0, 1, 1, 0], "test": [1, 0]})
    assert resolve_data("imagefolder", data_dir=other).digest != digest


def test_imagenet_in_parquet_files_is_tested_on_its_validation_split(write: Write) -> None:
    names = [f"class {k}" for k in range(1000)]
    folder = write("in1k", {"train": [0, 999], "validation": [5, 6], "test": [-1, -1]}, names)
    data = resolve_data("imagenet", data_dir=folder)
    assert (data.num_classes, data.validation) == (1000, 0)
    assert list(open_data(data, data_dir=folder)[1].labels) == [5, 6]
    with pytest.raises(DataError, match="and 1000 for imagenet; use --data imagefolder for other images"):
        resolve_data("imagenet", data_dir=write("small", {"train": [0, 1], "val": [0, 1]}))


def no_test(folder: Path) -> None:
    for path in (folder / "data").glob("test*"):
        path.unlink()


def cut_short(folder: Path) -> None:
    for path in (folder / "data").glob("train*"):
        path.write_bytes(path.read_bytes()[:50])


def no_label(folder: Path) -> None:
    from pyarrow import parquet, table

    parquet.write_table(table({"image": [b"x"], "target": [1]}), folder / "data" / "train-00000-of-00002.parquet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_test, "has train-00000-of-00002.parquet and no test*.parquet, val*.parquet, validation*.parquet; legal: "),
        (cut_short, "train-00000-of-00002.parquet cannot be read: "),
        (no_label, "has the columns image, target; legal: image and label; rename them"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_damaged_parquet_files_are_refused(write: Write, damage: Callable[[Path], None], message: str) -> None:
    folder = write("small", {"train": [0, 1], "test": [1, 0]})
    damage(folder)
    with pytest.raises(DataError) as e:
        resolve_data("imagefolder", data_dir=folder)
    assert message in str(e.value)


def test_parquet_files_without_the_package_are_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.parquet").touch()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.lib", None)
    with pytest.raises(DataError, match="needs the package datasets, which is not .*; run `pip install datasets`"):
        resolve_data("imagefolder", data_dir=tmp_path)


# Names of timm's ------------------------------------------------------------------------------------------------------

IMAGENETS = (
    "hfds/ILSVRC/imagenet-1k",
    "hfds/timm/imagenet-1k-wds",
    "hfds/evanarlian/imagenet_1k_resized_256",
    "tfds/imagenet2012",
    "tfds/imagenet2012:5.1.0",
    "torch/imagenet",
)
OTHERS = (
    "hfds/timm/imagenet-12k-wds",
    "hfds/timm/imagenet-22k-wds",
    "hfds/timm/mini-imagenet",
    "hfds/zh-plus/tiny-imagenet",
    "tfds/imagenet_v2",
    "hfds/frgfm/imagenette",
    "imagenet",
)


@pytest.mark.parametrize("name", IMAGENETS)
def test_imagenet_by_a_name_of_timms_holds_nothing_out(name: str) -> None:
    data = resolve_data(name)
    assert (data.name, data.title, data.num_classes, data.validation) == (name, "ImageNet-1k", 1000, 0)
    assert held_out(data) == "data ImageNet-1k: nothing is held out of the training split"
    assert training_images(data) == 1_281_167
    assert resolve_data(name, validation=0.1).validation == 0.1


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_are_not_taken_for_imagenet(name: str) -> None:
    assert not is_timms_imagenet(name)


def test_what_is_held_out_is_said() -> None:
    data = resolve_data("hfds/timm/mini-imagenet", num_classes=100)
    assert held_out(data) == (
        "data hfds/timm/mini-imagenet: 0.1 of the training split, class by class, is held out for choices and never "
        "trained on; --validation 0 trains on all"
    )


def test_imagenet_by_a_name_of_timms_is_tested_on_its_validation_split(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write("imagenet-1k", {"train": [0, 999], "validation": [5, 6], "test": [-1, -1]}, range_of_names())
    train, test = open_data(resolve_data(f"hfds/{folder}"), data_dir=folder.parent / "cache")
    assert (list(train.labels), list(test.labels)) == ([0, 999], [5, 6])
    assert train.image(1).tobytes() == Image.open(io.BytesIO(images(2, 0)[1])).convert("RGB").tobytes()
    assert "its split validation is the test split (the labels of test are kept back)" in capsys.readouterr().err


def range_of_names() -> list[str]:
    return [f"class {k}" for k in range(1000)]


def test_a_set_without_a_test_split_is_tested_on_validation_which_is_said(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write("pets", {"train": [0, 1], "validation": [1, 1]})
    _, test = open_data(resolve_data(f"hfds/{folder}", num_classes=2), data_dir=folder.parent / "cache")
    assert list(test.labels) == [1, 1]
    said = capsys.readouterr().err
    assert "its split validation is the test split (data 'hfds/" in said and "split 'test', cannot be opened" in said


def test_the_plan_says_what_is_held_out(command: Callable[..., Any]) -> None:
    answer = command("plan", "--step", "0", "--data", "cifar10", "--regime", "cifar")
    assert "data CIFAR-10: 0.1 of the training split, class by class, is held out for choices" in answer.out
    [sentence] = command("plan", "--step", "0", "--regime", "cifar", "--validation", "0", "--json").json()["held_out"]
    assert sentence.endswith(": nothing is held out of the training split")
