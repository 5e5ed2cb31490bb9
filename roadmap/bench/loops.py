"""Our iteration on a GPU beside loops of public reference scripts, a part of `iteration` there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from roadmap.bench.iteration import EMA, LAST, batches, trainer
from roadmap.bench.model import IMAGE_SIZE
from roadmap.bench.pairs import Finding, interleaved
from roadmap.config.data import IMAGENET_CLASSES

BATCH = 256


def loops(device: str, pairs: int) -> Iterator[Finding]:
    """How many times as fast as each loop our iteration is."""
    for key, step, average, label, theirs in (
        ("plain-loop", "baseline", None, "a plain AMP loop (NCHW, loss read each iteration)", _plain_loop),
        ("timm-loop", LAST, EMA, "an AMP loop with channels_last, EMA V2 and unfused AdamW", _timm_loop),
    ):
        ours = trainer(step, device, BATCH, ema_decay=average)
        stream = batches(ours.ranks.device, BATCH)
        sides = (label, theirs(device, BATCH)), ("ours", partial(ours.step, stream))
        yield interleaved(key, f"{step}, batch {BATCH}", *sides, pairs=pairs)


def _plain_loop(device: str, batch: int) -> Callable[[], None]:
    import torchvision

    model = torchvision.models.resnet50().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, foreach=False)
    scaler = torch.amp.GradScaler(device)
    images = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
    labels = torch.randint(IMAGENET_CLASSES, (batch,), device=device)

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

    model = timm.create_model("convnext_tiny", drop_path_rate=0.1)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, foreach=False)
    ema, mix = ModelEmaV2(model, decay=EMA), Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=IMAGENET_CLASSES)
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
