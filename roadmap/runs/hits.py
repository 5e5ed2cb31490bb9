"""Hits per image: of each image of a split, in the split's order, whether its top-1 was right. No torch.

A record holds a bit an image, 6 kB for 50,000: by it two runs can be compared image by image, and a
top-1 that was written by hand is told from one that was measured.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from roadmap.runs.record import Record

TEST, VALIDATION = "test", "validation"
TOLERANCE = 1e-6  # percent: far below one image of any split, far above the rounding of a fraction


@dataclass(frozen=True)
class Hits:
    """One bit an image, the first image in the highest bit of the first byte; what is left of the last byte is 0."""

    images: int
    bits: bytes

    @classmethod
    def of(cls, hits: np.ndarray) -> Hits:
        """From an array (N,) of 0 and 1."""
        import numpy as np

        return cls(len(hits), np.packbits(hits.astype(bool)).tobytes())

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Hits:
        """Read what `to_json` wrote. Raises ValueError where the bits are not those of so many images."""
        try:
            images, bits = int(content["images"]), base64.b64decode(content["bits"], validate=True)
        except (KeyError, TypeError, binascii.Error) as e:
            raise ValueError(f"hits are damaged ({type(e).__name__}: {e})") from e
        if len(bits) != (images + 7) // 8:
            raise ValueError(f"hits are {len(bits)} bytes, {images} images have {(images + 7) // 8}")
        return cls(images, bits)

    def to_json(self) -> dict[str, Any]:
        """{'images': N, 'bits': base64}."""
        return {"images": self.images, "bits": base64.b64encode(self.bits).decode()}

    def array(self) -> np.ndarray:
        """(N,) of bool, in the order of the split's images."""
        import numpy as np

        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.images).astype(bool)

    @property
    def count(self) -> int:
        """How many images were right."""
        return int.from_bytes(self.bits).bit_count()

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.count / self.images


def contradictions(record: Record) -> Iterator[tuple[str, float, float]]:
    """(metric, as it is recorded, as the hits have it) where a record's numbers and its hits disagree.

    Hits are of the averaged weights where these are on, so that a validation accuracy, which is the
    trained weights', is only told without them. NaN stands for hits that cannot be read.
    """
    kept, metrics = record.hits or {}, record.metrics
    averaged = metrics.get("ema_top1") is not None
    told = {TEST: "ema_top1" if averaged else "top1", **({} if averaged else {VALIDATION: "validation_top1"})}
    for split, name in told.items():
        value = metrics.get(name)
        if split not in kept or value is None:
            continue
        try:
            counted = Hits.from_json(kept[split]).top1
        except (ValueError, ZeroDivisionError):
            counted = float("nan")
        if not abs(counted - value) < TOLERANCE:
            yield name, value, counted
