"""A study as analysis reads it: its cells, the runs behind them, and what is compared with what.

`analysis.load` makes these from files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from roadmap.runs.metric import Metric
from roadmap.runs.record import DIVERGED, FINISHED, HOPELESS, INTERRUPTED, MISSING, Hardware, Record, with_neutral

GPU_HOURS, CORE_HOURS, DEVICE_HOURS = "GPU-hours", "core-hours", "device-hours"


class Kind(StrEnum):
    """What a comparison is for.

    A-A repeats a cell with other seeds, NO_OP sets a toggle that does nothing: both have no effect;
    CROSSING is one cell at two crossed values.
    """

    STEP = "step"
    CHANGE = "change"
    SUBJECT = "subject"
    A_A = "a-a"
    NO_OP = "no-op"
    CROSSING = "crossing"

    @property
    def control(self) -> bool:
        return self in (Kind.A_A, Kind.NO_OP)


class Outcome(StrEnum):
    """How a planned run counts: failed is also diverged, damaged or without the metric.

    Missing is also interrupted. Hopeless: ended early by its own rule.
    """

    FINISHED = "finished"
    FAILED = "failed"
    MISSING = "missing"
    HOPELESS = HOPELESS


@dataclass(frozen=True, slots=True, order=True)
class CellId:
    """What a cell is, whatever it is called: the step it stands on, the digest of its
    configuration, and its role where it repeats another cell ('a-a').

    Where no record says a configuration, `configuration` is made of what the plan says of the cell.
    """

    step: str
    configuration: str
    role: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One configuration over its seeds.

    `step` is its ladder step's name (or the subject's), `change` the text of what is set on top of
    it; both are for readers and files.

    arm: `change` without the value that the design is crossed with. point: which of the crossed
    values, None in a design that is not crossed. undone: the step that the change takes back.
    """

    id: CellId
    step: str
    change: str
    arm: str = ""
    point: int | None = None
    undone: str = ""

    @property
    def as_change(self) -> str:
        """What the cell has beside its base: 'with kernel_size=3', 'without stage-ratio'."""
        return self.change if self.undone else f"with {self.change}"

    @property
    def in_words(self) -> str:
        """'gelu with kernel_size=3', 'gelu without stage-ratio', or what of the two there is."""
        return f"{self.step} {self.as_change}" if self.step and self.change else self.step or self.change

    @property
    def whole(self) -> bool:
        """Whether the cell is a step as it is, with nothing set on top."""
        return not self.change


@dataclass(frozen=True, slots=True)
class Run:
    """A planned run with its record; one that left none has a record of status 'missing'."""

    id: str
    fingerprint: str
    regime: str
    cell: Cell
    seed: int
    record: Record

    @property
    def status(self) -> str:
        return self.record.status

    @property
    def recorded(self) -> bool:
        """Whether there is a record, whatever its status."""
        return self.record.status != MISSING

    def outcome(self, metric: Metric) -> Outcome:
        """How the run counts where `metric` is asked about."""
        if self.status == FINISHED:
            return Outcome.FAILED if metric.value(self.record.metrics) is None else Outcome.FINISHED
        if self.status == HOPELESS:
            return Outcome.HOPELESS
        return Outcome.MISSING if self.status in (MISSING, INTERRUPTED) else Outcome.FAILED

    def finished(self, metric: Metric) -> bool:
        """Whether the run has a value of the metric."""
        return self.outcome(metric) is Outcome.FINISHED

    def value(self, metric: Metric) -> float:
        """The finished run's value, of the averaged weights where there are any.

        Raises ValueError where it has none.
        """
        value = metric.value(self.record.metrics)
        if value is None:
            raise ValueError(f"run {self.id} has no {metric.title}")
        return float(value)

    def averaged(self, metric: Metric) -> bool:
        """Whether the value is one of averaged weights (EMA)."""
        return metric.averaged(self.record.metrics)

    @property
    def resolved(self) -> Mapping[str, Any]:
        """Every setting that decided the outcome, by its part.

        Empty where the record does not say.
        """
        return with_neutral(self.record.resolved) if self.record.resolved else {}

    @property
    def machine(self) -> Machine:
        """What decides the run's speed beside its settings."""
        hardware = self.record.hardware
        on_cpu = hardware.device == "cpu"
        cpu, threads = (hardware.cpu, hardware.threads) if on_cpu else (None, None)
        return Machine(hardware.device, cpu, threads, self.record.world_size)

    @property
    def hours(self) -> DeviceHours:
        """Time x devices."""
        hardware = self.record.hardware
        on_cpu = hardware.device == "cpu"
        devices = (self.record.world_size or 1) * ((hardware.threads or 1) if on_cpu else 1)
        known = CORE_HOURS if on_cpu else GPU_HOURS
        unit = known if hardware.device else DEVICE_HOURS
        return DeviceHours(devices * (self.record.wall_seconds or 0) / 3600, unit)

    def reason(self, metric: Metric) -> str:
        """Why the run is not averaged, in a few words."""
        if self.record.error:
            return f"{self.status}: {' '.join(str(self.record.error).split())}"
        words = {
            FINISHED: f"finished without a {metric.title}",
            DIVERGED: "diverged",
            INTERRUPTED: "interrupted, not finished",
            MISSING: "no record",
        }
        return words.get(self.status, f"{self.status}, no error noted")


@dataclass(frozen=True, slots=True)
class Machine:
    """The type of GPU and how many, or the processor, the threads at work on it and the processes."""

    device: str | None
    cpu: str | None
    threads: int | None
    world_size: int | None


@dataclass(frozen=True, slots=True)
class DeviceHours:
    """Hours of all devices together, in `unit`: 'GPU-hours', 'core-hours' of the threads at work,
    'device-hours' where the record does not say on what."""

    hours: float
    unit: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Child against parent.

    `declared`: names of resolved settings (`model.norm`, `recipe.*`) in which they are meant to
    differ, all others are not.

    planned: {name: (the parent's value, the child's)} of the settings that differ in the plan; None
    where the plan does not say.
    """

    child: CellId
    parent: CellId
    declared: tuple[str, ...]
    kind: Kind
    planned: Mapping[str, tuple[Any, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Undefined:
    """A planned cell that cannot be built, and why."""

    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one image in evaluation: median and quartiles of `rounds`."""

    ms: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """What `roadmap bench --study` measured, by cell."""

    hardware: Hardware
    batch: int
    precision: str
    git_commit: str | None
    cells: Mapping[CellId, Latency]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What runs were predicted to take when they were started.

    seconds: of each run, by its id. measured: on what, and how, as the calibration says.
    """

    seconds: Mapping[str, float]
    measured: Sequence[str]


@dataclass(frozen=True)
class Study:
    """A question and its planned runs, in planned order.

    crossings: each cell of a crossed design against the same one at the first of the `points`,
    which are the texts of the values that the design is crossed with. notes: what a reader must
    know of the design.
    """

    name: str
    question: str
    regime: str
    runs: Sequence[Run]
    ladder: str = "convnext"
    design: str = "ladder"
    notes: Sequence[str] = ()
    points: Sequence[str] = ()
    comparisons: Sequence[Comparison] = ()
    crossings: Sequence[Comparison] = ()
    undefined: Sequence[Undefined] = ()
    latency: LatencyTable | None = None
    prediction: Prediction | None = None
    cells: Mapping[CellId, Cell] = field(default_factory=dict)

    @property
    def regimes(self) -> list[str]:
        """Every regime that runs are planned in, the study's own first."""
        return list(dict.fromkeys([self.regime, *(run.regime for run in self.runs)]))

    def runs_in(self, regime: str = "") -> list[Run]:
        """The planned runs of one regime, the study's own by default."""
        return [run for run in self.runs if run.regime == (regime or self.regime)]
