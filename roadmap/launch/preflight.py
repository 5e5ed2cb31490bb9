"""What can be known to fail before anything is trained or submitted."""

from __future__ import annotations

import os
from pathlib import Path

from roadmap.config.data import Data
from roadmap.config.errors import RoadmapError, listing
from roadmap.config.model import TimmSpec
from roadmap.config.runtime import Runtime, refuse_sparse_evaluation
from roadmap.study.expand import Study


def refuse_before_training(study: Study, runtime: Runtime) -> None:
    """Refuse damaged data sets, networks that timm cannot build, ranks that do not divide a batch.

    Raises RoadmapError.
    """
    from roadmap.data.registry import training_images

    if not study.trials:
        raise RoadmapError(
            f"study {study.name} has no trial that can be built; legal: at least one; "
            f"see the reasons with `roadmap plan`: {listing(study.undefined.values())}"
        )
    data = study.trials[0].data
    _check_data(data, runtime)
    if runtime.loader == "spdl":
        from roadmap.data.thread_stream import check_loader

        check_loader(runtime.loader)
    _check_timm(study)
    images = training_images(data, data_dir=runtime.data_dir)
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    for trial in study.trials:
        refuse_sparse_evaluation(runtime, trial.recipe)
        trial.recipe.groups_per_forward(runtime.micro_batch, world_size)
        if images is not None and images < trial.recipe.batch_size:
            raise RoadmapError(
                f"data {data.name!r} has about {images} training images, fewer than one global batch of "
                f"{trial.recipe.batch_size}; legal: at least one batch; "
                "choose a recipe with a smaller batch, or --batch-size"
            )


def _check_data(data: Data, runtime: Runtime) -> None:
    """Open the data set, which refuses one that is not whole; the embedded one always is."""
    from roadmap.data.registry import IMAGE_FOLDERS

    if data.name == "digits":
        return
    from roadmap.data.readers import check_images, open_data

    if data.name in IMAGE_FOLDERS:
        check_images(data, data_dir=runtime.data_dir)
    else:
        open_data(data, data_dir=runtime.data_dir, download=runtime.download)


def _check_timm(study: Study) -> None:
    """Build each of timm's networks once: timm alone knows its names and sizes."""
    from roadmap.model.complexity import complexity

    networks = {(t.model, t.data.image_size): None for t in study.trials if isinstance(t.model, TimmSpec)}
    for model, image_size in networks:
        complexity(model, image_size)


def initial_weights(study: Study, runtime: Runtime) -> Runtime:
    """The runtime with the study's own initial weights, where it names some."""
    from dataclasses import replace

    return replace(runtime, init=Path(study.init)) if study.init else runtime
