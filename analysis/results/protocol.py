"""In what a study's runs differ from the paper's protocol, as values with a text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ProtocolKind(StrEnum):
    """What differs. With another network, other data or a quoted number the two cannot be compared."""

    NETWORK = "network"
    DATA = "data"
    PIXELS = "pixels"
    IMAGES = "images"
    RECIPE = "recipe"
    EPOCHS = "epochs"
    BATCH = "batch"
    QUOTED = "quoted"

    @property
    def incomparable(self) -> bool:
        return self in (ProtocolKind.NETWORK, ProtocolKind.DATA, ProtocolKind.PIXELS, ProtocolKind.QUOTED)


_TEXTS = {
    ProtocolKind.NETWORK: "network: regime {measured}, the paper's is {paper}",
    ProtocolKind.DATA: "data: {measured}, the paper's is {paper}",
    ProtocolKind.PIXELS: "data: {measured} px, the paper's are {paper}",
    ProtocolKind.IMAGES: "images: {measured}, the paper's are {paper}",
    ProtocolKind.RECIPE: "recipe: {measured}, the paper's for this step is {paper}",
    ProtocolKind.EPOCHS: "epochs: {measured}, the paper's are {paper}",
    ProtocolKind.BATCH: "batch: {measured} images, the paper's are {paper}",
    ProtocolKind.QUOTED: "number: measured with {measured}, the paper's is {paper}",
}


@dataclass(frozen=True)
class ProtocolDifference:
    """One difference: the measured runs' value and the paper's, as texts."""

    kind: ProtocolKind
    measured: str
    paper: str

    @property
    def text(self) -> str:
        return _TEXTS[self.kind].format(measured=self.measured, paper=self.paper)
