"""What is measured while training, as values; `to_json` is the one way from them into files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from roadmap.runs.hits import TEST, VALIDATION, Hits


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One network's scores on `images` images: top1 and top5 in %, loss the mean cross-entropy.

    hits: of each image; None where only the numbers were kept.
    """

    top1: float
    top5: float
    loss: float
    images: int
    hits: Hits | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores on one split of the trained weights and, where on, of their moving average."""

    weights: Scores
    ema: Scores | None = None

    @property
    def preferred(self) -> Scores:
        """What an epoch is chosen by: the moving average's scores where it is on."""
        return self.ema or self.weights

    def with_hits(self, hits: Hits | None) -> Evaluation:
        """The same with the hits of what is preferred."""
        preferred = replace(self.preferred, hits=hits)
        return replace(self, ema=preferred) if self.ema else replace(self, weights=preferred)

    def to_json(self) -> dict[str, float]:
        """top1, top5, loss, images and, with a moving average, ema_top1, ema_top5, ema_loss."""
        weights = self.weights
        metrics = {"top1": weights.top1, "top5": weights.top5, "loss": weights.loss, "images": weights.images}
        if self.ema:
            metrics |= {"ema_top1": self.ema.top1, "ema_top5": self.ema.top5, "ema_loss": self.ema.loss}
        return metrics

    @classmethod
    def from_json(cls, metrics: Mapping[str, float]) -> Evaluation:
        images = int(metrics["images"])
        ema = _scores(metrics, images, "ema_") if "ema_top1" in metrics else None
        return cls(weights=_scores(metrics, images, ""), ema=ema)


def _scores(metrics: Mapping[str, float], images: int, prefix: str) -> Scores:
    top1, top5, loss = (metrics[f"{prefix}{name}"] for name in ("top1", "top5", "loss"))
    return Scores(top1=top1, top5=top5, loss=loss, images=images)


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """One line of metrics.jsonl: `epoch` (from 1) has ended after `iteration` updates.

    train_loss: mean over the epoch's iterations. split: which images `evaluation` sees; None where
    the epoch was not evaluated. lr: of the last update. waiting_share: the part of the epoch's time,
    0 to 1, that training waited for images.
    """

    epoch: int
    iteration: int
    train_loss: float
    split: str
    evaluation: Evaluation | None
    lr: float
    images_per_second: float
    waiting_share: float

    def to_json(self) -> dict[str, float | str]:
        return {
            "epoch": self.epoch,
            "iteration": self.iteration,
            "train_loss": self.train_loss,
            "split": self.split,
            **(self.evaluation.to_json() if self.evaluation else {}),
            "lr": self.lr,
            "images_per_second": self.images_per_second,
            "waiting_share": self.waiting_share,
        }


@dataclass(frozen=True, kw_only=True)
class EpochScores:
    """The epoch that a run reports, with its scores on test and, where images are held out, on those."""

    epoch: int
    test: Evaluation
    validation: Evaluation | None

    def hits(self) -> dict[str, dict[str, Any]]:
        """{split: the hits of what is preferred, as JSON}."""
        splits = {TEST: self.test, VALIDATION: self.validation}
        kept = {name: split.preferred.hits for name, split in splits.items() if split}
        return {name: hits.to_json() for name, hits in kept.items() if hits}

    def to_json(self) -> dict[str, Any]:
        validation = self.validation.to_json() if self.validation else None
        return {"epoch": self.epoch, "test": self.test.to_json(), "validation": validation, "hits": self.hits()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EpochScores:
        """Read what `to_json` wrote; an older checkpoint has no hits."""
        kept = {name: Hits.from_json(content) for name, content in values.get("hits", {}).items()}
        test = Evaluation.from_json(values["test"]).with_hits(kept.get(TEST))
        if not values["validation"]:
            return cls(epoch=values["epoch"], test=test, validation=None)
        validation = Evaluation.from_json(values["validation"]).with_hits(kept.get(VALIDATION))
        return cls(epoch=values["epoch"], test=test, validation=validation)
