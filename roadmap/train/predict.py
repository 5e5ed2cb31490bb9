"""A trained network's answer for a folder of images."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from timm.data import create_transform
from torch import Tensor, nn

from roadmap.data.file_index import IMAGE_SUFFIXES, DataError, Listing
from roadmap.data.pipeline import Views, eval_transform
from roadmap.data.readers import FolderImages
from roadmap.data.registry import NAMED
from roadmap.model.files import load
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import read_json
from roadmap.train.distributed import Ranks


@dataclass(frozen=True)
class Predictor:
    """A network with the way its images are prepared, and its classes' names."""

    model: nn.Module
    transform: Any
    classes: list[str]
    mode: str


def predictor(source: Path, *, image_size: int | None) -> Predictor:
    """From a run's folder (its own preparation of images) or a file that roadmap.save wrote (ImageNet's, at 224 px unless given)."""
    if source.is_dir():
        run = RunFolder(source)
        trial = run.trial()
        if not (source / "weights.safetensors").exists():
            raise DataError(
                f"run {source} has no weights.safetensors; legal: a finished run; train it to its end first"
            )
        model = load(source / "weights.safetensors")
        return Predictor(
            model,
            eval_transform(trial.recipe, trial.data),
            read_json(source / "classes.json"),
            "L" if trial.data.in_chans == 1 else "RGB",
        )
    model = load(source)
    imagenet = NAMED["imagenet"]
    grey = model.in_chans == 1
    mean, std = (values[:1] if grey else values for values in (imagenet.mean, imagenet.std))
    transform = create_transform(
        image_size or imagenet.image_size,
        is_training=False,
        interpolation="bicubic",
        crop_pct=0.875,
        mean=mean,
        std=std,
    )
    return Predictor(model, transform, [str(i) for i in range(model.num_classes)], "L" if grey else "RGB")


def images_below(folder: Path) -> Listing:
    """All images of a folder and its subfolders, by name. Raises DataError if there are none."""
    if not folder.is_dir():
        raise DataError(f"image folder {folder} does not exist; legal: a folder; check the path")
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(
            f"image folder {folder} has no images; legal: files ending in {', '.join(sorted(IMAGE_SUFFIXES))}; check the path"
        )
    return Listing(folder, (), tuple(files), (0,) * len(files), ())


@torch.no_grad()
def predict(
    found: Predictor, images: Listing, *, top_k: int, device: str = "auto", batch_size: int = 64
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """(file, [(class, probability), ...] best first) for each image, in the listing's order."""
    import numpy as np
    from torch.utils.data import DataLoader

    where = Ranks.start(device).device
    model = found.model.to(where).eval()
    views = Views(FolderImages(images, found.mode), np.arange(len(images.files)), found.transform)
    at = 0
    for batch, _ in DataLoader(views, batch_size=batch_size):
        best = _softmax(model, batch.to(where)).topk(min(top_k, len(found.classes)), dim=1)
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            yield images.files[at], [(found.classes[i], v) for i, v in zip(indices, values, strict=True)]
            at += 1


def _softmax(model: nn.Module, images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, classes) probabilities."""
    return model(images).float().softmax(dim=1)


def write_csv(rows: Iterator[tuple[str, list[tuple[str, float]]]], top_k: int, out: IO[str]) -> int:
    """One line an image: file, class_1, probability_1, class_2, ... Returns how many."""
    writer, count = csv.writer(out, lineterminator="\n"), 0
    writer.writerow(["file", *(f"{what}_{k}" for k in range(1, top_k + 1) for what in ("class", "probability"))])
    for file, best in rows:
        writer.writerow([file, *(cell for name, p in best for cell in (name, f"{p:.6f}"))])
        count += 1
    return count
