"""Predictions of a trained network for a folder of images."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from timm.data import create_transform
from torch import Tensor, nn

from roadmap.config.errors import DataError, listing
from roadmap.data.decode import REFERENCE, check_decoder
from roadmap.data.encoded import EncodedImages, Files
from roadmap.data.file_index import IMAGE_SUFFIXES, Listing
from roadmap.data.pipeline import eval_transform
from roadmap.data.registry import NAMED
from roadmap.data.views import Views, open_views
from roadmap.model.files import load
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import read_json
from roadmap.train.distributed import Ranks

CENTRE = 0.875  # of ImageNet's usual evaluation: the part of the short side that is seen


@dataclass(frozen=True)
class Predictor:
    """A network with the way its images are prepared, and its classes' names.

    mode: PIL's of its input. decoder: of JPEG, as in training.
    """

    model: nn.Module
    transform: Any
    classes: list[str]
    mode: str
    decoder: str = REFERENCE


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, best first, as (class, probability)."""

    file: str
    best: tuple[tuple[str, float], ...]


def predictor(source: Path, *, image_size: int | None) -> Predictor:
    """From a run's folder, or a file that roadmap.save wrote.

    A run prepares images as its evaluation did; for a file it is as usual for ImageNet, at 224 px
    unless given. Raises DataError for a run that has not finished.
    """
    return _of_run(source) if source.is_dir() else _of_file(source, image_size)


def _of_run(folder: Path) -> Predictor:
    trial, weights = RunFolder(folder).trial(), folder / "weights.safetensors"
    if not weights.exists():
        raise DataError(f"run {folder} has no {weights.name}; legal: a finished run; train it to its end first")
    transform = eval_transform(trial.recipe, trial.data)
    classes, mode, decoder = read_json(folder / "classes.json"), _mode(trial.data.in_chans), trial.data.decoder
    check_decoder(decoder)
    return Predictor(load(weights), transform, classes, mode, decoder)


def _of_file(path: Path, image_size: int | None) -> Predictor:
    model, imagenet = load(path), NAMED["imagenet"]
    channels = 1 if model.in_chans == 1 else 3
    transform = create_transform(
        image_size or imagenet.image_size,
        is_training=False,
        interpolation="bicubic",
        crop_pct=CENTRE,
        mean=imagenet.mean[:channels],
        std=imagenet.std[:channels],
    )
    return Predictor(model, transform, [str(i) for i in range(model.num_classes)], _mode(channels))


def _mode(in_chans: int) -> str:
    return "L" if in_chans == 1 else "RGB"


def images_below(folder: Path) -> Listing:
    """All images of a folder and its subfolders, by name. Raises DataError if there are none."""
    if not folder.is_dir():
        raise DataError(f"image folder {folder} does not exist; legal: a folder; check the path")
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        suffixes = listing(sorted(IMAGE_SUFFIXES))
        raise DataError(f"image folder {folder} has no images; legal: files ending in {suffixes}; check the path")
    return Listing.unlabelled(folder, files)


@torch.no_grad()
def predict(
    trained: Predictor, images: Listing, *, top_k: int, device: str = "auto", batch_size: int = 64
) -> Iterator[Prediction]:
    """A prediction for each image, in the listing's order."""
    own_device = Ranks.start(device).device
    model, classes = trained.model.to(own_device).eval(), trained.classes
    split = EncodedImages(Files(images), trained.mode, trained.decoder)
    views = Views(split, np.arange(len(split)), trained.transform)
    files = iter(images.files)
    for batch, _ in open_views(views, batch=batch_size, held=False, workers=0, device=own_device):
        best = _softmax(model, batch.contiguous()).topk(min(top_k, len(classes)), dim=1)
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            names = [classes[i] for i in indices]
            yield Prediction(next(files), tuple(zip(names, values, strict=True)))


def _softmax(model: nn.Module, images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, classes) probabilities."""
    return model(images).float().softmax(dim=1)


def write_csv(predictions: Iterable[Prediction], top_k: int, out: IO[str]) -> int:
    """Write one line an image: file, class_1, probability_1, class_2, ... Returns how many."""
    writer, count = csv.writer(out, lineterminator="\n"), 0
    head = ["file"]
    for k in range(1, top_k + 1):
        head += [f"class_{k}", f"probability_{k}"]
    writer.writerow(head)
    for prediction in predictions:
        line = [prediction.file]
        for name, probability in prediction.best:
            line += [name, f"{probability:.6f}"]
        writer.writerow(line)
        count += 1
    return count
