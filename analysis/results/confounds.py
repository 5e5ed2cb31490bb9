"""What differs between the runs of two cells, from their records alone: exactly what was declared, or something else too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """CONTROLLED: only what was declared differs. CONFOUNDED: something else too. UNPROVEN: the records do not say enough. UNCHANGED: the declared change did not happen."""

    CONTROLLED = "controlled"
    CONFOUNDED = "confounded"
    UNPROVEN = "unproven"
    UNCHANGED = "unchanged"


class Cause(StrEnum):
    """Why a difference confounds. DIFFERS: the cells differ in it, undeclared. WITHIN: the runs of one cell do. OFF_PLAN: changed to another value than planned. STAYED: did not
    change, though planned. DIRTY: uncommitted code that cannot be told apart. OUTCOME: other results although nothing was changed."""

    DIFFERS = "differs"
    WITHIN = "within"
    OFF_PLAN = "off plan"
    STAYED = "stayed"
    DIRTY = "dirty"
    OUTCOME = "outcome"


@dataclass(frozen=True)
class Confound:
    """A difference that was not declared: `name` of the setting or circumstance, the parent's values (`before`) and the child's (`after`), as JSON holds them."""

    cause: Cause
    name: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    seed: int | None = None

    @property
    def text(self) -> str:
        """The difference in a sentence's words, without a full stop."""
        raise NotImplementedError


class Remark(StrEnum):
    """What a reader of 'controlled' must still know."""

    NETWORKS = "networks"
    BUNDLE = "bundle"
    COUPLED = "coupled"
    IDLE = "idle"
    SEEDS = "seeds"


@dataclass(frozen=True)
class Note:
    """A remark on a proof: `names` are the settings, or the parent's and the child's seeds as text."""

    remark: Remark
    names: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class Proof:
    """`changed`: {setting: (parent's, child's value as JSON)} among the declared ones. `confounds`: every other difference.

    unsaid: what the records do not hold. same: names found equal. notes: bundles, couplings, seeds.
    """

    status: Status
    declared: tuple[str, ...]
    changed: Mapping[str, tuple[Any, Any]]
    confounds: tuple[Confound, ...]
    unsaid: tuple[str, ...]
    same: tuple[str, ...]
    notes: tuple[Note, ...]

    @property
    def text(self) -> str:
        """In a table's cell."""
        raise NotImplementedError

    @property
    def note(self) -> str:
        """All notes in one line."""
        raise NotImplementedError


class ProtocolKind(StrEnum):
    """In what a study's runs may differ from the paper's protocol. NETWORK and DATA make the numbers incomparable."""

    NETWORK = "network"
    DATA = "data"
    IMAGES = "images"
    RECIPE = "recipe"
    EPOCHS = "epochs"
    BATCH = "batch"


@dataclass(frozen=True)
class ProtocolDifference:
    """One difference from the paper's protocol: `measured` and `paper` are texts of both values."""

    kind: ProtocolKind
    measured: str
    paper: str

    @property
    def text(self) -> str:
        raise NotImplementedError
