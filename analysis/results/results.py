"""A study, or a paper's numbers, -> results: one per step of the ladder, side step and single
change, in the ladder's order.

A Result is what a row of a table, a bar of a figure and a section of the page are made of. None
stands where there is nothing to say; measured and paper never share a field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from analysis.results.confounds import Proof
from analysis.results.protocol import ProtocolDifference
from analysis.stats.comparisons import Change, FalsePositives
from analysis.stats.error_term import ErrorTerm
from analysis.study import Cell, CellId, Latency, Machine
from roadmap.ladder import DEFAULT
from roadmap.runs.metric import TOP1, Metric


class Role(StrEnum):
    """How a result is drawn: a step on the ladder's path (or what others are compared with), a side
    step (tried, not adopted), a change or other training, a control, no step of the ladder, or a
    cell that cannot be built."""

    STEP = "step"
    SIDE = "side"
    VARIANT = "variant"
    CONTROL = "control"
    OTHER = "other"
    UNDEFINED = "undefined"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all runs of one result share beside the seed and the network, as far as their records
    say."""

    data: str | None = None
    data_name: str | None = None
    data_digest: str | None = None
    image_size: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    recipe: str | None = None
    epochs: int | None = None
    global_batch: int | None = None
    group_size: int | None = None
    precision: str | None = None
    init: str | None = None
    configuration: str | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """The metric over the finished runs: mean, standard deviation (n - 1) and the mean's 95 %
    interval; `averaged`: of EMA'd weights; `by_seed`: {seed: value}.

    sampling_se: the test set's own error of the mean, which no number of seeds removes; None where
    the metric is no proportion.
    """

    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    sampling_se: float | None = None
    averaged: bool = False
    by_seed: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The runs behind a result: ids of the finished ones, sorted by seed.

    `duplicates` are set aside because a later run has their seed; `hopeless` are those of the runs
    that ended early by their own rule; the others are counted.
    """

    ids: Sequence[str] = ()
    duplicates: Sequence[str] = ()
    planned: int = 0
    failed: int = 0
    missing: int = 0
    hopeless: Sequence[str] = ()

    @property
    def n(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Means over the finished runs, None where these ran on several machines.

    Hours of all devices together (on CPUs: of the cores at work).
    """

    machine: Machine | None = None
    several: bool = False
    images_per_second: float | None = None
    hours: float | None = None


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Of a crossed study: the proof that a change may be compared with the same change at the first
    crossed value, which is `against`."""

    proof: Proof
    against: str


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Child minus parent in the metric's difference unit, as compared in the study.

    value           None where a side has no finished run; `note` says which
    parent          the parent's label; `parent_cell` its identity, `parent_ids` its runs
    se to method    see `analysis.stats.comparisons.Change`
    mark            where the method is not the whole study's: 'p', 'w' or 'o'
    sampling_se     the test images' part, at most
    p_holm, verdict   after Holm over the study's controlled comparisons: 'gain' (better), 'loss' or
                    'unresolved'; None for what is not proven controlled
    proof           what differs between the two cells' runs; None where one has no run
    """

    parent: str | None = None
    parent_cell: CellId | None = None
    parent_ids: Sequence[str] = ()
    value: float | None = None
    se: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    method: str | None = None
    mark: str = ""
    sampling_se: float | None = None
    p_holm: float | None = None
    verdict: str | None = None
    note: str | None = None
    proof: Proof | None = None
    contrast: Contrast | None = None

    @property
    def change(self) -> Change:
        """The effect as the statistics take it. Raises ValueError where there is none."""
        if self.value is None or self.method is None:
            raise ValueError(f"no effect against {self.parent}")
        return Change(self.value, self.se, self.low, self.high, None, self.p, self.method)


@dataclass(frozen=True, kw_only=True)
class PaperNumbers:
    """What the paper prints for the step: in the study's regime, else in the first that the paper
    has, which `regime` names. `cost` in GFLOPs, `decimals` as printed; `quoted`: why the score is
    none of the step's recipe."""

    regime: str = ""
    score: float | None = None
    std: float | None = None
    effect: float | None = None
    cost: float | None = None
    decimals: int = 2
    quoted: str = ""


@dataclass(frozen=True, kw_only=True)
class BesidePaper:
    """Measured minus paper where network and data are the paper's, else only in what the `protocol`
    differs; `note`: which uncertainty is unknown."""

    difference: float | None = None
    z: float | None = None
    p: float | None = None
    protocol: Sequence[ProtocolDifference] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row: a cell (or a paper's step) with its numbers.

    measured      False for the paper's own ladder
    cell          None for a paper's row and for a cell that cannot be built
    id, step      the ladder's; None and '' for what is no step
    what, label   what changed (the step's title or the change's text); the cell in words
    group         the part of the ladder
    undefined     why the cell cannot be built; empty otherwise
    parent_step   of a paper's row: the step it stands on
    params, macs  parameters, multiply-adds of one image: from the records, in the paper's rows
                  counted on the network
    """

    measured: bool = True
    role: Role
    cell: Cell | None = None
    id: str | None = None
    step: str = ""
    what: str = ""
    label: str = ""
    group: str = ""
    undefined: str = ""
    parent_step: str | None = None
    params: int | None = None
    macs: int | None = None
    metric: Metric = TOP1
    setup: Setup = Setup()
    score: Score = Score()
    runs: Runs = Runs()
    speed: Speed = Speed()
    latency: Latency | None = None
    effect: Effect = Effect()
    paper: PaperNumbers = PaperNumbers()
    beside: BesidePaper = BesidePaper()

    @property
    def n(self) -> int:
        """How many finished runs the score is of."""
        return self.runs.n

    @property
    def as_change(self) -> str:
        """What the row has beside its base: 'with kernel_size=3', 'without stage-ratio'."""
        return self.what if self.cell is not None and self.cell.undone else f"with {self.what}"

    @property
    def is_step(self) -> bool:
        """Whether the row is a step as it is: on the path or beside it, with nothing set on top."""
        bare = self.cell is None or self.cell.whole
        return self.role in (Role.STEP, Role.SIDE) and bool(self.step) and bare


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What holds for all results together: the study's error term, how many comparisons Holm's test
    counted, how often the controls were resolved, and the labels of those that repeat their base to
    the bit."""

    metric: Metric
    error: ErrorTerm
    family: int
    controls: FalsePositives | None
    identical: Sequence[str]


@dataclass(frozen=True)
class Analysis:
    """A study analysed once: all rows of one regime and what holds for them together.

    Everything that is shown is made from it.
    """

    results: Sequence[Result]
    findings: Findings
    regime: str
    metric: Metric
    ladder: str = DEFAULT

    @property
    def measured(self) -> bool:
        """Whether the rows are measured; those of a paper's own ladder are not."""
        return all(result.measured for result in self.results)
