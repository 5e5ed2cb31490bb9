"""The pairs that are timed.

Our network against its public twin, our iteration against a bare one and against the loops people
write. Images are random, (N, 3, 224, 224); nothing is loaded, so only the engine is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadmap.bench.pairs import Ratio, interleaved
from roadmap.config.recipes import find_recipe
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.registry import NAMED
from roadmap.ladder.convnext import CONVNEXT, convnext_spec
from roadmap.model.build import build_model
from roadmap.train.distributed import Ranks
from roadmap.train.loop import Trainer

IMAGE_SIZE, CLASSES = 224, 1000


@dataclass(frozen=True)
class _Sampler:
    iterations_per_epoch: int = 1_000_000


@dataclass(frozen=True)
class _NoImages:
    """Stands where a Pipeline would: the trainer under test is fed by hand."""

    validation_indices: tuple[int, ...] = ()

    def sampler(self, **_: Any) -> _Sampler:
        return _Sampler()


def trainer(step: str, device: str, batch: int, **recipe: Any) -> Trainer:
    """A trainer of a step in the ResNet-50 regime: one group a batch, all else the recipe's."""
    chosen = replace(
        find_recipe(CONVNEXT.recipe_name(step, "resnet50")), **{"batch_size": batch, "group_size": batch, **recipe}
    )
    trial = Trial(
        model=convnext_spec(step), recipe=chosen, data=NAMED["imagenet"], seed=0, regime="resnet50", step=step
    )
    ranks = Ranks.start(device)
    made = Trainer(trial, _NoImages(), ranks, Runtime(device=device))  # type: ignore[arg-type]
    made.model.train()
    return made


def batches(device: torch.device, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same random batch for ever; a copy each time, as mixup works in place."""
    images = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=device)
    while True:
        yield images.clone(), labels


def forward_backward(model: nn.Module, images: Tensor) -> Callable[[], None]:
    def act() -> None:
        model(images).sum().backward()

    return act


def networks(device: str, pairs: int) -> Iterator[Ratio]:
    """Step 0 against torchvision's resnet50, step 9 against timm's convnext_tiny."""
    import timm
    import torchvision

    batch = 64 if device == "cuda" else 4
    for name, ours, theirs, public in (
        ("step 0", build_model(0), torchvision.models.resnet50(), "torchvision resnet50"),
        ("step 9", build_model(9, drop_path_rate=0.0), timm.create_model("convnext_tiny"), "timm convnext_tiny"),
    ):
        for memory_format, label in ((torch.contiguous_format, "NCHW"), (torch.channels_last, "channels_last")):
            images = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, device=device).contiguous(
                memory_format=memory_format
            )
            a, b = (m.to(device).to(memory_format=memory_format).train() for m in (ours, theirs))
            yield interleaved(
                f"forward + backward, {label}, batch {batch}",
                (name, forward_backward(a, images)),
                (public, forward_backward(b, images)),
                pairs=pairs,
            )


def iteration(device: str, pairs: int) -> Iterator[Ratio]:
    """A training iteration with EMA over the bare forward and backward of the same network."""
    batch = 128 if device == "cuda" else 8
    ours = trainer("separate-downsampling", device, batch, ema_decay=0.9999)
    stream = batches(ours.ranks.device, batch)
    images, _ = next(stream)

    def bare() -> None:
        with ours.autocast:
            loss = ours.model(images).float().logsumexp(1).mean()
        loss.backward()
        ours.optimizer.zero_grad(set_to_none=True)

    yield interleaved(
        f"ConvNeXt-T, batch {batch}",
        ("iteration with AdamW and EMA", partial(ours.step, stream)),
        ("forward + backward", bare),
        pairs=pairs,
    )


def loops(device: str, pairs: int) -> Iterator[Ratio]:
    """Our iteration against loops of public reference scripts: ours is 1 / ratio times as fast."""
    for step, label, theirs in (
        ("baseline", "a plain AMP loop (NCHW, loss read each iteration)", _plain_loop),
        ("separate-downsampling", "an AMP loop with channels_last, EMA V2 and unfused AdamW", _timm_loop),
    ):
        batch = 256
        ours = trainer(step, device, batch, **({"ema_decay": 0.9999} if step != "baseline" else {}))
        stream = batches(ours.ranks.device, batch)
        yield interleaved(
            f"{step}, batch {batch}", ("ours", partial(ours.step, stream)), (label, theirs(device, batch)), pairs=pairs
        )


def _plain_loop(device: str, batch: int) -> Callable[[], None]:
    import torchvision

    model = torchvision.models.resnet50().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, foreach=False)
    scaler = torch.amp.GradScaler(device)
    images, labels = (
        torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, device=device),
        torch.randint(CLASSES, (batch,), device=device),
    )

    def act() -> None:
        with torch.autocast(device, dtype=torch.float16):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()

    return act


def _timm_loop(device: str, batch: int) -> Callable[[], None]:
    import timm
    from timm.data import Mixup
    from timm.utils import ModelEmaV2

    model = (
        timm.create_model("convnext_tiny", drop_path_rate=0.1).to(device).to(memory_format=torch.channels_last).train()
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, foreach=False)
    ema, mix = ModelEmaV2(model, decay=0.9999), Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=CLASSES)
    stream = batches(torch.device(device), batch)

    def act() -> None:
        images, targets = mix(*next(stream))
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = F.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
        loss.item()

    return act


def all_pairs(device: str, pairs: int) -> Iterator[Ratio]:
    yield from networks(device, pairs)
    yield from iteration(device, pairs)
    if device == "cuda":
        yield from loops(device, pairs)
