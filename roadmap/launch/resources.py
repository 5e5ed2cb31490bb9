"""What a run asks of a machine, whatever launches it: validated at once, every fault named. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from roadmap.config.errors import ConfigError, listing, nearest
from roadmap.config.trial import Trial


@dataclass(frozen=True)
class Legal:
    """A field's legal values in words, and the advice on an illegal one."""

    text: str
    advice: str | Callable[[object], str] = "give one of them"


def _time_advice(value: object) -> str:
    """The minutes of a time in Slurm's notation."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+)(?::(\d+))?", str(value))
    if not match:
        return "give minutes, such as 1440 for a day"
    days, hours, minutes = (int(match[k] or 0) for k in (1, 2, 3))
    return f"give minutes: {value} is {days * 1440 + hours * 60 + minutes}"


Count = Annotated[int, Field(ge=1), Legal("whole numbers from 1")]
CountOrNone = Annotated[int, Field(ge=0), Legal("whole numbers from 0")]
Minutes = Annotated[int, Field(ge=1), Legal("whole numbers from 1 (minutes)", _time_advice)]
Seconds = Annotated[int, Field(ge=1), Legal("whole numbers from 1 (seconds)")]
Flag = Annotated[bool, Legal("true, false", "write one of them")]
Word = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_./:,&|\[\]()*@=+][A-Za-z0-9_./:,&|\[\]()*@=+-]*$"),
    Legal("one word as sbatch takes it, without spaces, quotes, '%' or line breaks", "correct it"),
]


class Resources(BaseModel):
    """What one run gets. Raises ConfigError naming every value that is not legal.

    time: minutes. gpus_per_node: ranks on each node; 0 for one rank without GPU. cpus_per_task:
    cores of a rank.
    mem: of each node, such as 200G.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", str_max_length=10_000)
    where: ClassVar[str] = "resources"  # what an error names before the field

    time: Minutes = 240
    nodes: Count = 1
    gpus_per_node: CountOrNone = 1
    cpus_per_task: Annotated[Count | None, Legal("whole numbers from 1")] = None
    mem: Annotated[Word | None, Legal("one word as sbatch takes it, such as 200G", "correct it")] = None

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as e:
            raise ConfigError("\n".join(self._problem(x) for x in e.errors())) from None

    @classmethod
    def _problem(cls, error: ErrorDetails) -> str:
        """One of pydantic's findings in our words."""
        name, value = str(error["loc"][0]), error["input"]
        if name not in cls.model_fields:
            legal = list(cls.model_fields)
            return f"{cls.where}.{name} is unknown; legal: {listing(legal)}; {nearest(name, legal)}"
        legal_values = next(x for x in cls.model_fields[name].metadata if isinstance(x, Legal))
        advice = legal_values.advice if isinstance(legal_values.advice, str) else legal_values.advice(value)
        verb = "is" if len(error["loc"]) == 1 else "holds"
        return f"{cls.where}.{name} {verb} {value!r}; legal: {legal_values.text}; {advice}"

    @property
    def ranks_per_node(self) -> int:
        """One for each GPU, or one without."""
        return max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Of all nodes."""
        return self.nodes * self.ranks_per_node

    @property
    def gpus(self) -> int:
        """Of all nodes."""
        return self.nodes * self.gpus_per_node

    def replace(self, **values: Any) -> Self:
        """A copy with other values, checked again."""
        return type(self)(**{**dict(self), **values})

    def to_json(self) -> dict[str, Any]:
        """All fields, those at their defaults too."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`: lists become tuples."""
        lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **lists})


def shape_of(trial: Trial, wanted: Resources) -> Resources:
    """What this trial runs on: as wanted, or fewer whole nodes where it has fewer groups than ranks.

    A rank takes whole groups, so that BatchNorm sees the same images whatever the number of GPUs.
    Raises ConfigError where no number of these nodes divides.
    """
    loads = trial.recipe.loads
    if loads < wanted.ranks and loads % wanted.ranks_per_node == 0:
        return wanted.replace(nodes=loads // wanted.ranks_per_node)
    trial.recipe.loads_per_rank(wanted.ranks)
    return wanted


def shape_text(shape: Resources) -> str:
    """'2 nodes x 8 GPUs, 1440 minutes (24 h) each'."""
    plural = "s" if shape.gpus_per_node != 1 else ""
    each = f"{shape.gpus_per_node} GPU{plural}" if shape.gpus_per_node else "1 rank without GPU"
    nodes = f"{shape.nodes} node{'s' if shape.nodes != 1 else ''}"
    return f"{nodes} x {each}, {minutes_text(shape.time)} each"


def minutes_text(minutes: float) -> str:
    """Minutes with their unit, in hours too where that is easier to read."""
    return f"{minutes:g} minutes" + (f" ({minutes / 60:.3g} h)" if minutes >= 120 else "")
