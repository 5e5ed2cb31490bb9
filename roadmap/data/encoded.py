"""Images in files of any form: encoded bytes by index from a source, decoded as the trial declares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from roadmap.config.errors import DataError
from roadmap.data.decode import REFERENCE, decode
from roadmap.data.listing import Listing, OfListing

COMPARED_IMAGES = 16
UNDECODABLE = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)


class Source(Protocol):
    """Encoded images by index, their labels, and when the files were last changed, in ns."""

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def times(self) -> np.ndarray: ...

    def content(self, index: int) -> bytes: ...

    def where(self, index: int) -> str:
        """How a message names the image."""


@dataclass(frozen=True)
class Files(OfListing):
    """Files of their own, below a folder."""

    files: Listing

    def content(self, index: int) -> bytes:
        return (self.files.root / self.files.files[index]).read_bytes()

    def where(self, index: int) -> str:
        return str(self.files.root / self.files.files[index])


@dataclass(frozen=True)
class EncodedImages:
    """Images of a source, decoded when asked for."""

    source: Source
    mode: str
    decoder: str = REFERENCE

    @property
    def labels(self) -> np.ndarray:
        return self.source.labels

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        try:
            return decode(self.source.content(index), self.mode, self.decoder)
        except UNDECODABLE as e:
            problem = "of no known format" if isinstance(e, UnidentifiedImageError) else e
            raise DataError(
                f"image {self.source.where(index)} cannot be decoded: {problem}; legal: whole images; "
                "replace or remove it"
            ) from e


def decoder_difference(split: object) -> int | None:
    """The largest difference of a pixel from the reference's, of 0 to 255, over a few images of the split.

    None where the reference itself decodes.
    """
    if not isinstance(split, EncodedImages) or split.decoder == REFERENCE:
        return None
    chosen = np.linspace(0, len(split) - 1, min(COMPARED_IMAGES, len(split))).astype(int).tolist()
    reference = replace(split, decoder=REFERENCE)
    return max(_difference(split.image(i), reference.image(i)) for i in chosen)


def _difference(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max())
