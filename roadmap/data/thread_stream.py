"""The training stream of `pipeline: tensor` for images that are not held in memory: threads decode and crop them.

The draws are those of images in memory, made by counters and not from a generator, so that threads
cannot mix them up. A random resized crop is Pillow's, of the box that is drawn for the sample, which
is to the bit what a batch would get. All that comes after it is done in batches on the device, by
the same code as for images in memory.

Shapes: N images of a batch, S x S pixels, C channels.
"""

from __future__ import annotations

import contextlib
import importlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from roadmap.config.errors import DataError
from roadmap.config.runtime import LoaderName
from roadmap.config.seeds import SAMPLE, derive
from roadmap.config.trial import Trial
from roadmap.data.batched_augmentation import Augmentation, Keys, crop_numbers, drawn_boxes, to_device
from roadmap.data.held import Prepare, Split
from roadmap.data.tensor_stream import CHUNK_PIXELS, SampleKey, batched_augmentation, in_chunks

AHEAD = 8  # batches that are decoded or waited for at most: of 128 images of 224 pixels they take 154 MB

STOP_SECONDS = 60  # for the images that SPDL's threads are reading when they are told to end


@dataclass(frozen=True)
class Chunk:
    """Groups that are augmented at a time, their pixels (N, S, S, C) uint8 and numbers (N, 22) for their crops."""

    sizes: Sequence[int]
    keys: Keys
    numbers: Tensor
    pixels: Tensor


class Job(NamedTuple):
    """An image to decode, and once it was tried, what went wrong."""

    chunk: Chunk
    position: int
    error: Exception | None = None


@dataclass(frozen=True)
class ThreadBatches:
    """One batch on `device` for each group of keys (epoch, position in `indices`).

    prepare: what comes before the draws, of an image that is not cropped at random; None for nothing.
    """

    trial: Trial
    split: Split
    indices: np.ndarray
    groups: Iterable[Sequence[SampleKey]]
    prepare: Prepare | None
    device: torch.device
    workers: int = 1
    loader: LoaderName = "threads"

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Raises DataError for an image that cannot be decoded."""
        rest = replace(self._augment, crop="none") if self._augment.crop == "resized" else self._augment
        labels = torch.as_tensor(np.asarray(self.split.labels))
        ahead = AHEAD * max(self._least, self.trial.recipe.load_size)
        with contextlib.closing(MAPS[self.loader](self._decode, self._jobs(), max(1, self.workers), ahead)) as done:
            for chunk, position, error in done:
                if error:
                    raise error
                if position == len(chunk.pixels) - 1:  # in order: all before it are decoded
                    yield from self._finished(chunk, rest, labels)

    def _finished(self, chunk: Chunk, rest: Augmentation, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of the augmentation, on the device, without waiting for it."""
        pixels = chunk.pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
        images = rest(pixels, chunk.keys).split(chunk.sizes)
        yield from zip(images, to_device(labels[chunk.keys.index], pixels).split(chunk.sizes), strict=True)

    @cached_property
    def _augment(self) -> Augmentation:
        return batched_augmentation(self.trial.recipe, self.trial.data)

    @property
    def _least(self) -> int:
        return max(1, CHUNK_PIXELS // self.trial.data.image_size**2)

    def _jobs(self) -> Iterator[Job]:
        data, seed = self.trial.data, derive(self.trial.seed, SAMPLE)
        for groups in in_chunks(self.groups, self._least):
            epoch, position = torch.tensor([key for group in groups for key in group]).unbind(1)
            keys = Keys(seed, epoch, torch.from_numpy(self.indices)[position])
            shape = (len(epoch), data.image_size, data.image_size, data.in_chans)
            pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
            chunk = Chunk([len(group) for group in groups], keys, crop_numbers(keys), pixels)
            yield from (Job(chunk, k) for k in range(len(epoch)))

    def _decode(self, job: Job) -> Job:
        """Write the image into its place; an error is a value, since a library's map may drop what raises."""
        chunk, k, _ = job
        try:
            image = self._cropped(self.split.image(int(chunk.keys.index[k])), chunk.numbers[k : k + 1])
            place = chunk.pixels[k].numpy()
            place[:] = np.asarray(image).reshape(place.shape)
        except Exception as e:
            return job._replace(error=e)
        return job

    def _cropped(self, image: Image.Image, numbers: Tensor) -> Image.Image:
        augment = self._augment
        if augment.crop != "resized":
            return self.prepare(image) if self.prepare else image
        boxes = drawn_boxes(numbers, (image.height, image.width), augment.scale, augment.ratio)
        top, left, height, width = (int(x) for x in (boxes.top, boxes.left, boxes.height, boxes.width))
        # Cut first: Pillow's resize of a box would also look at the pixels around it.
        part = image.crop((left, top, left + width, top + height))
        return part.resize((augment.size, augment.size), Image.Resampling[augment.kernel.upper()])


# Maps -----------------------------------------------------------------------------------------------------------------
# Each calls a function in `threads` threads and gives the results in the order of the jobs, about `ahead` of which are
# under way or done at most. Closing the generator ends the threads.

Decode = Callable[[Job], Job]


def _by_executor(decode: Decode, jobs: Iterable[Job], threads: int, ahead: int) -> Generator[Job, None, None]:
    pool, pending = ThreadPoolExecutor(threads, thread_name_prefix="loader"), deque[Future[Job]]()
    try:
        for job in jobs:
            pending.append(pool.submit(decode, job))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _by_spdl(decode: Decode, jobs: Iterable[Job], threads: int, ahead: int) -> Generator[Job, None, None]:
    from spdl.pipeline import PipelineBuilder

    builder = PipelineBuilder().add_source(jobs).pipe(decode, concurrency=threads, output_order="input")
    pipeline = builder.add_sink(ahead).build(num_threads=threads)
    with pipeline.auto_stop(timeout=STOP_SECONDS):
        yield from pipeline


MAPS: Mapping[LoaderName, Callable[[Decode, Iterable[Job], int, int], Generator[Job, None, None]]] = MappingProxyType(
    {"threads": _by_executor, "spdl": _by_spdl}
)


def check_loader(name: LoaderName) -> None:
    """Raise DataError where the loader's package is not installed."""
    if name != "spdl":
        return
    try:
        importlib.import_module("spdl.pipeline")
    except ImportError as e:
        raise DataError(
            f"loader {name!r} cannot be loaded ({e}); legal: threads, and spdl where it is installed; "
            "run `pip install spdl-core`, or leave the loader at threads"
        ) from e
