"""Decoders of JPEG: each gives Pillow's image but for rounding, and says where it cannot be had."""

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from roadmap.config.data import Data
from roadmap.config.errors import DataError
from roadmap.config.fields import field_types, identity_of
from roadmap.data.decode import DECODERS, MODULES, REFERENCE, check_decoder, decode
from roadmap.data.encoded import decoder_difference
from roadmap.data.readers import open_data
from roadmap.data.registry import NAMED, resolve_data

MakeFolder = Callable[..., Path]
OTHERS = [name for name in DECODERS if name != REFERENCE]


def photograph(height: int, width: int, channels: int = 3) -> Image.Image:
    """Smooth, as photographs are: in noise the rounding of one pixel's chroma is amplified."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin((k + 1) * x / 17 + y / (11 + k)) for k in range(channels)]
    pixels = np.stack(waves, -1).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def encoded(image: Image.Image, form: str = "JPEG", **more: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **more)
    return out.getvalue()


def available(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def turned_tag() -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    return exif


IMAGES = {
    "colour, half chroma": encoded(photograph(67, 93), quality=85),
    "colour, full chroma": encoded(photograph(40, 31), quality=95, subsampling=0),
    "progressive": encoded(photograph(64, 64), progressive=True),
    "grey": encoded(photograph(33, 47, 1)),
    "CMYK": encoded(photograph(32, 48).convert("CMYK")),
    "turned by its tag": encoded(photograph(20, 40), exif=turned_tag()),
}


def test_the_table_holds_what_the_config_allows() -> None:
    assert tuple(DECODERS) == tuple(MODULES) == get_args(field_types(Data)["decoder"])


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", OTHERS)
def test_every_decoder_gives_pillows_image_but_for_rounding(name: str, image: str, mode: str) -> None:
    want = decode(IMAGES[image], mode)
    got = decode(IMAGES[image], mode, available(name))
    assert (got.mode, got.size) == (mode, want.size)
    difference = np.abs(np.asarray(got, np.int16) - np.asarray(want, np.int16))
    assert difference.max() <= 4, difference.max()


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP", "GIF"])
def test_other_formats_are_pillows_whatever_decodes_jpeg(name: str, form: str) -> None:
    content = encoded(photograph(30, 40), form)
    assert decode(content, "RGB", name).tobytes() == decode(content, "RGB").tobytes()


def test_pillows_image_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(IMAGES["progressive"])
    with Image.open(tmp_path / "x.jpg") as opened:
        assert opened.convert("RGB").tobytes() == decode(IMAGES["progressive"], "RGB").tobytes()


def test_a_decoder_is_part_of_what_decides_and_pillow_is_as_it_always_was() -> None:
    data = NAMED["imagenet"]
    assert "decoder" not in identity_of(data)
    assert identity_of(resolve_data("cifar10", decoder="pillow")) == identity_of(NAMED["cifar10"])


@pytest.fixture
def photographs(tmp_path: Path, own_cache: None) -> Path:
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "jpeg" / split / label).mkdir(parents=True)
            for k in range(3):
                (tmp_path / "jpeg" / split / label / f"{k}.jpg").write_bytes(encoded(photograph(50 + k, 60)))
    return tmp_path / "jpeg"


def test_a_split_says_how_far_its_decoder_is_from_the_reference(photographs: Path) -> None:
    of_pillow, of_torchvision = (
        resolve_data("imagefolder", data_dir=photographs, decoder=name) for name in ("pillow", "torchvision")
    )
    assert of_pillow.digest == of_torchvision.digest
    assert identity_of(of_torchvision) == {**identity_of(of_pillow), "decoder": "torchvision"}
    assert decoder_difference(open_data(of_pillow, data_dir=photographs)[0]) is None
    train, _ = open_data(of_torchvision, data_dir=photographs)
    difference = decoder_difference(train)
    assert difference is not None and 0 <= difference <= 4


def test_a_damaged_image_is_refused_by_every_decoder(photographs: Path) -> None:
    path = photographs / "train" / "a" / "1.jpg"
    path.write_bytes(path.read_bytes()[:40])
    for name in DECODERS:
        if importlib.util.find_spec(MODULES[name].partition(".")[0]) is None:
            continue
        train, _ = open_data(resolve_data("imagefolder", data_dir=photographs, decoder=name), data_dir=photographs)
        with pytest.raises(DataError, match=r"image .*train/a/1.jpg cannot be decoded: .*; legal: whole images"):
            train.image(1)


def test_a_decoder_that_is_not_installed_is_refused_with_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchcodec.decoders", None)
    with pytest.raises(DataError) as e:
        check_decoder("torchcodec")
    assert str(e.value).startswith("decoder 'torchcodec' cannot be loaded (")
    assert "; run `pip install torchcodec`, or leave the decoder at pillow" in str(e.value)


def test_a_decoder_of_files_is_refused_for_what_is_no_folder_of_files() -> None:
    with pytest.raises(DataError, match="data 'digits' is not decoded by 'torchvision'; .*; leave --decoder out"):
        resolve_data("digits", decoder="torchvision")


@pytest.mark.slow
def test_a_run_says_and_records_how_far_its_decoder_is_from_the_reference(
    photographs: Path, command: Callable[..., Any]
) -> None:
    words = ("run", "--regime", "micro", "--step", "9", "--data", "imagefolder", "--data-dir", photographs)
    answer = command(*words, "--epochs", "1", "--batch-size", "4", "--decoder", "torchvision", "--json")
    [record] = answer.json()
    assert record["resolved"]["data"]["decoder"] == "torchvision" and record["decoder_difference"] <= 4
    said = f"decoder torchvision: pixels differ from pillow's by up to {record['decoder_difference']} of 255"
    assert said in answer.err
    assert "0.1 of the training split, class by class, is held out for choices" in answer.err
