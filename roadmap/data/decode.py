"""Decoders of JPEG by name: a file's bytes to an image. Every other format is Pillow's, whatever decodes JPEG.

Decoders round differently, so which one it is belongs to a trial (`Data.decoder`). Pillow is the reference.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from roadmap.config.errors import DataError

EXIF = b"Exif\0\0"
JPEG = b"\xff\xd8\xff"
REFERENCE = "pillow"
TORCH_MODES = {"L": "GRAY", "RGB": "RGB"}
Decoder = Callable[[bytes, str], Image.Image]  # bytes and Pillow's mode, L or RGB


def decode(content: bytes, mode: str, decoder: str = REFERENCE) -> Image.Image:
    """Raises OSError, SyntaxError, ValueError or RuntimeError for what is no whole image."""
    return DECODERS[decoder if content.startswith(JPEG) else REFERENCE](content, mode)


def _pillow(content: bytes, mode: str) -> Image.Image:
    with Image.open(io.BytesIO(content)) as opened:
        if opened.format == "JPEG" and opened.mode == mode:
            opened.load()
            return opened  # what `convert` would copy
        return opened.convert(mode)


def _torchvision(content: bytes, mode: str) -> Image.Image:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return _image(decode_jpeg(encoded, mode=ImageReadMode[TORCH_MODES[mode]]).numpy())


def _torchcodec(content: bytes, mode: str) -> Image.Image:
    from torchcodec.decoders import decode_jpeg

    if EXIF in content and _is_turned(content):
        return _pillow(content, mode)  # TorchCodec would turn the image as its tag says; the reference does not
    return _image(decode_jpeg(content, mode=TORCH_MODES[mode]).numpy())


def _is_turned(content: bytes) -> bool:
    """Whether a tag says that the image is to be shown turned or mirrored."""
    with Image.open(io.BytesIO(content)) as opened:
        return opened.getexif().get(Base.Orientation, 1) != 1


def _image(pixels: np.ndarray) -> Image.Image:
    """(C, H, W) uint8, one channel or three."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


DECODERS: Mapping[str, Decoder] = MappingProxyType(
    {REFERENCE: _pillow, "torchvision": _torchvision, "torchcodec": _torchcodec}
)
MODULES = {REFERENCE: "PIL", "torchvision": "torchvision.io", "torchcodec": "torchcodec.decoders"}


def check_decoder(name: str) -> None:
    """Raise DataError where the decoder's package cannot be loaded here."""
    try:
        importlib.import_module(MODULES[name])
    except (ImportError, OSError, RuntimeError) as e:
        problem = str(e).strip().partition("\n")[0]
        raise DataError(
            f"decoder {name!r} cannot be loaded ({problem}); legal: a decoder that is installed; "
            f"run `pip install {name}`, or leave the decoder at {REFERENCE}"
        ) from e
