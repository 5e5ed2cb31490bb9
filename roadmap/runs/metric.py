"""What a study is judged by, as data: the metrics that a record holds and that tables, verdicts and
figures can be made of. No torch.

A new metric is one entry of METRICS; `key` names the value that `roadmap.train` leaves in a
record's `metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from roadmap.config.errors import lookup


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of a finished run on the test split.

    name              what `--metric` takes
    title             in a heading and in a sentence: 'top-1'
    unit              of the metric ('%'); empty where there is none to print
    difference_unit   of a difference of two: percentage points for percent
    higher_is_better  whether a positive effect is a gain
    key               of a record's `metrics`, of the last weights
    averaged_key      of the moving average's (EMA), which counts where there is one
    curve, averaged_curve  the names of the same per epoch, in a record's curves
    decimals          how many are printed
    proportion        a percentage of test images: only then is there a floor from counting whole
                      images, and a binomial sampling error
    """

    name: str
    title: str
    unit: str
    difference_unit: str
    higher_is_better: bool
    key: str
    averaged_key: str
    curve: str
    averaged_curve: str
    decimals: int
    proportion: bool

    @property
    def heading(self) -> str:
        """The title with its unit: 'top-1 (%)'."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def capital(self) -> str:
        """The title as it begins a line: 'Top-1'."""
        return self.title[:1].upper() + self.title[1:]

    def gain(self, effect: float) -> bool:
        """Whether an effect (child minus parent) is for the better."""
        return (effect > 0) == self.higher_is_better

    def averaged(self, metrics: Mapping[str, float | None]) -> bool:
        """Whether these metrics of one run hold a value of its averaged weights."""
        return metrics.get(self.averaged_key) is not None

    def value(self, metrics: Mapping[str, float | None]) -> float | None:
        """The run's value: of the averaged weights where there are any, otherwise of the last.

        None where there is no finite one.
        """
        value = metrics.get(self.averaged_key)
        if value is None:
            value = metrics.get(self.key)
        usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return value if usable else None

    def floor(self, images: int | None) -> float | None:
        """The least standard deviation that counting `images` whole images leaves (uniform: 1 /
        sqrt(12) of an image), in the metric's unit; None where nothing is counted."""
        return 100 / images / math.sqrt(12) if self.proportion and images else None

    def sampling_se(self, value: float | None, images: int | None) -> float | None:
        """Binomial standard error of a proportion of `images` independent test images.

        None for other metrics, whose spread over images no total tells.
        """
        if not self.proportion or value is None or not images:
            return None
        p = min(max(value / 100, 0.0), 1.0)
        return 100 * math.sqrt(p * (1 - p) / images)


TOP1 = Metric(
    name="top1",
    title="top-1",
    unit="%",
    difference_unit="points",
    higher_is_better=True,
    key="top1",
    averaged_key="ema_top1",
    curve="top1",
    averaged_curve="ema_top1",
    decimals=2,
    proportion=True,
)
LOSS = Metric(
    name="loss",
    title="test loss",
    unit="nats",
    difference_unit="nats",
    higher_is_better=False,
    key="loss",
    averaged_key="ema_loss",
    curve="loss",
    averaged_curve="ema_loss",
    decimals=4,
    proportion=False,
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in (TOP1, LOSS)}


def find_metric(name: str) -> Metric:
    """The metric of that name. Raises ConfigError with the legal names."""
    return lookup("metric", name, METRICS)
