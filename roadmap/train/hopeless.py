"""`--stop-hopeless`: a run that is no better than guessing once half of its epochs are over ends early.

The rule looks at the run alone. One that held it against other seeds would depend on which of them
were trained first, and would drop the worst seeds of a cell, so that its mean is of the lucky ones.
"""

from __future__ import annotations

from collections.abc import Callable

from roadmap.config.errors import RoadmapError
from roadmap.config.trial import Trial
from roadmap.train.metrics import EpochMetrics, Evaluation

CONFIDENCE = 0.95


class Hopeless(RoadmapError):
    """The run is no better than guessing; it has saved itself and ends early."""


def refuse_guessing(metrics: EpochMetrics, scores: Evaluation, trial: Trial, *, save: Callable[[], object]) -> None:
    """Save and raise Hopeless at an epoch's end from the half on, but not the last one's, where top-1 is guessing's.

    With a moving average both must be. All ranks have the same scores, so all of them raise or none.
    """
    epochs = trial.recipe.epochs
    best = max(s.top1 for s in (scores.weights, scores.ema) if s is not None)
    images, classes = scores.weights.images, trial.data.num_classes
    limit = guessing_limit(images, classes)
    if 2 * metrics.epoch < epochs or metrics.epoch == epochs or best > limit:
        return
    save()
    raise Hopeless(
        f"ended after epoch {metrics.epoch} of {epochs}: top-1 is {best:.2f} %, no better than guessing (up to "
        f"{limit:.2f} % of {images:,} {metrics.split} images in {classes:,} classes); saved; to train on: roadmap retry"
    )


def guessing_limit(images: int, classes: int) -> float:
    """The most top-1 (%) that guessing gives: the upper end of its binomial 95 % interval."""
    from scipy.stats import binom  # type: ignore[import-untyped,unused-ignore]  # slow to import

    return 100 * float(binom.ppf(0.5 + CONFIDENCE / 2, images, 1 / classes)) / images
