"""Facts of a caption: what a reader must know, as values with a text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FactKind(StrEnum):
    """What a fact is about; the value is its label, which METRIC replaces by the metric's title."""

    QUESTION = "Question"
    REGIME = "Regime"
    DATA = "Data"
    RECIPE = "Recipe"
    SEEDS = "Seeds"
    RUNS = "Runs"
    DRAWN_AGAIN = "Drawn again"
    HARDWARE = "Hardware"
    CODE = "Code"
    TEST_SPLIT = "Test split"
    METRIC = "Metric"
    CHANGE = "Change"
    VERDICT = "Verdict"
    CONTROLS = "Controls"
    PAPER = "Paper"
    CONFOUNDED = "Confounded"
    PROOF = "Proof"
    NOTE = "Note"
    ON_ALL = "On all"
    LATENCY = "Latency"
    TIME = "Time"
    DESIGN = "Design"
    NOT_SHOWN = "Not shown"
    SOURCE = "Source"
    COUNTS = "Counts"
    REFERENCE = "Reference"


@dataclass(frozen=True)
class Fact:
    """One fact in words; `title` stands where its label is not the kind's own."""

    kind: FactKind
    text: str
    title: str = ""

    @property
    def label(self) -> str:
        return self.title or self.kind.value
