"""What can be checked before a long study: known networks through our evaluation, and a run's first epochs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from roadmap.config.data import Data
from roadmap.config.model import ModelSpec, with_settings
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import CONVNEXT_300EP, PYTORCH_90EP
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.loader import Stream
from roadmap.ladder.convnext import convnext_spec
from roadmap.model.weights import fetch, load_weights
from roadmap.train.distributed import Ranks
from roadmap.train.execute import initial_weights, open_pipeline, open_training
from roadmap.train.loop import Trainer
from roadmap.train.metrics import Scores

WATCHED = ("train_loss", "top1")  # of each epoch, by the names that metrics.jsonl gives them


@dataclass(frozen=True, kw_only=True)
class KnownNetwork:
    """A network with public weights and the accuracy that its publisher prints for them.

    recipe: that whose evaluation (resize, crop, interpolation) the accuracy goes with. data, pixels:
    of the test split. top1: percent, as printed. tolerance: half of the last printed digit, and 0.02
    for ten of 50,000 images that decoders and number formats may decide otherwise.
    weights: their name in torchvision or timm.
    """

    name: str
    spec: ModelSpec
    recipe: Recipe
    top1: float
    tolerance: float
    weights: str
    data: str = "imagenet"
    pixels: int = 224

    def passes(self, top1: float) -> bool:
        """Whether an accuracy in percent is the printed one."""
        return abs(top1 - self.top1) <= self.tolerance


KNOWN = (
    KnownNetwork(
        name="resnet50",
        spec=convnext_spec("baseline", "resnet50"),
        recipe=PYTORCH_90EP,
        top1=76.13,
        tolerance=0.025,
        weights="torchvision:ResNet50_Weights.IMAGENET1K_V1",
    ),
    KnownNetwork(
        name="convnext_tiny",
        spec=convnext_spec("separate-downsampling", "resnet50"),
        recipe=CONVNEXT_300EP,
        top1=82.1,
        tolerance=0.07,
        weights="timm:convnext_tiny.fb_in1k",
    ),
)


def known_scores(
    network: KnownNetwork, weights: Path | Mapping[str, Any], data: Data, runtime: Runtime, ranks: Ranks
) -> Scores:
    """The network's scores on the test split, through a run's own evaluation, in fp32. Collective.

    Raises WeightsError where the weights are not the network's, and DataError.
    """
    spec = with_settings(network.spec, {"num_classes": data.num_classes, "in_chans": data.in_chans})
    data = replace(data, image_size=network.pixels, validation=0.0)
    runtime = replace(
        runtime, compile=False, compile_mode=None, micro_batch=None
    )  # for the study's training, not for this recipe
    trial = Trial(model=spec, recipe=replace(network.recipe, precision="fp32"), data=data, seed=0)

    def load(model: nn.Module) -> None:
        load_weights(model, weights)

    with contextlib.closing(open_pipeline(trial, runtime, ranks, decode=False)) as pipeline:
        return Trainer(trial, pipeline, ranks, runtime, init=load).evaluate("test").weights


def cached_weights(network: KnownNetwork) -> Path | None:
    """The file of the network's weights in the caches of torch and timm, None where there is none."""
    library, _, name = network.weights.partition(":")
    if library == "torchvision":
        import torchvision

        return _in_torch_hub(torchvision.models.get_weight(name).url)
    import timm
    from huggingface_hub import try_to_load_from_cache

    published = timm.get_pretrained_cfg(name)
    cached = try_to_load_from_cache(published.hf_hub_id, "model.safetensors") if published.hf_hub_id else None
    return Path(cached) if isinstance(cached, str) else _in_torch_hub(published.url)


def _in_torch_hub(url: str) -> Path | None:
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return file if file.is_file() else None


def downloaded_weights(network: KnownNetwork) -> Mapping[str, Any]:
    """The network's weights from where they are published. Raises WeightsError."""
    library, _, name = network.weights.partition(":")
    if library == "torchvision":
        import torchvision

        return torchvision.models.get_weight(name).get_state_dict(progress=True, check_hash=True)
    return fetch(network.weights)


def first_epochs(trial: Trial, runtime: Runtime, ranks: Ranks, epochs: int) -> Iterator[dict[str, float]]:
    """Train the first epochs of a run as it would, and yield what it notes of each; no file is written. Collective.

    Raises RoadmapError where the runtime's initial weights are not the trial's.
    """
    with open_training(trial, runtime, ranks, init=initial_weights(trial, runtime)) as (trainer, stream):
        watched = "validation" if len(trainer.pipeline.validation_indices) else "test"
        for _ in range(min(epochs, trial.recipe.epochs)):
            loss = _epoch_loss(trainer, stream)
            trainer.average_statistics()
            yield {"train_loss": loss, "top1": trainer.evaluate(watched).weights.top1}


def _epoch_loss(trainer: Trainer, stream: Stream) -> float:
    """Train an epoch; returns the mean loss of its iterations. Raises Diverged."""
    for _ in range(trainer.per_epoch):
        trainer.step(stream)
    trainer.refuse_divergence()
    loss = float(trainer.ranks.sum(trainer.losses.clone()).mean())
    trainer.losses.zero_()
    return loss
