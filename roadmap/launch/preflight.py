"""What can be known to fail before anything is trained or submitted."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from roadmap.config.data import Data
from roadmap.config.errors import RoadmapError, listing
from roadmap.config.model import TimmSpec
from roadmap.config.runtime import Runtime, cores, refuse_sparse_evaluation
from roadmap.launch.slots import gpu_of
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError
from roadmap.runs.record import FINISHED, INTERRUPTED, Record
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


def threads_here(runtime: Runtime, *, jobs: int = 1) -> int | None:
    """CPU threads of each of `jobs` runs side by side on this machine; None where a GPU computes."""
    if runtime.device == "cuda" or (runtime.device == "auto" and gpu_of(0)):
        return None
    if runtime.threads or jobs > 1:
        return runtime.threads or max(1, cores() // jobs)
    torch = sys.modules.get("torch")  # once it is in memory the environment decides nothing more
    return torch.get_num_threads() if torch else int(os.environ.get("OMP_NUM_THREADS") or cores())


def recorded_runs(study: Path) -> list[RunFolder]:
    """The runs below a study's folder that have left a record, those of other calls too."""
    return [RunFolder(path.parent) for path in sorted(study.glob("*/record.json"))]


def refuse_other_threads(
    name: str, runs: Iterable[RunFolder], todo: Sequence[RunFolder], threads: int | None, *, force: bool = False
) -> None:
    """Refuse to add runs with another number of CPU threads to those that a study has, finished or begun.

    On a CPU it decides the order of sums: the same trial gives other bits. Of `todo`, which is
    trained now, only what goes on from where it stopped counts, with `force` nothing does. Raises
    RoadmapError.
    """
    left = {run.path for run in todo}
    known = [(run.path in left, record) for run in runs if (record := _whole_record(run))]
    staying = [r for again, r in known if r.status in (FINISHED, INTERRUPTED) and not again]
    going_on = [r for again, r in known if r.status == INTERRUPTED and again and not force]
    others = _threads_of([*staying, *going_on])
    if threads is None or not others or threads in others:
        return
    usual = others[0]
    jobs = max(1, cores() // usual)
    side_by_side = f" or --jobs {jobs}" if cores() // jobs == usual else ""
    raise RoadmapError(
        f"study {name} has runs of {listing(map(str, others))} CPU threads, and this call would "
        f"train with {threads}; legal: one number for all of a study, for sums are rounded otherwise with another; "
        f"give --threads {usual}{side_by_side}, or train all of them anew with --force"
    )


def with_usual_threads(name: str, runtime: Runtime, runs: Iterable[RunFolder], *, jobs: int) -> Runtime:
    """The settings with the CPU threads of the study's other runs, where nobody asked for another number.

    One run at a time then goes on with what was trained side by side. Says so.
    """
    asked = runtime.threads or jobs > 1 or "OMP_NUM_THREADS" in os.environ
    usual = 0 if asked else usual_threads(runs)
    if usual in (0, threads_here(runtime)) or usual > cores() or threads_here(runtime) is None:
        return runtime
    print(f"study {name}: each run has {usual} CPU threads, as those before it", file=sys.stderr)
    return replace(runtime, threads=usual)


def usual_threads(runs: Iterable[RunFolder]) -> int:
    """The CPU threads of a study's runs, finished or begun; 0 where they have none, or several numbers."""
    records = [record for run in runs if (record := _whole_record(run))]
    known = _threads_of([record for record in records if record.status in (FINISHED, INTERRUPTED)])
    return known[0] if len(known) == 1 else 0


def _whole_record(run: RunFolder) -> Record | None:
    """None where there is none, or a damaged one, which says nothing of threads."""
    with contextlib.suppress(RunError):
        return run.record()
    return None


def _threads_of(records: Iterable[Record]) -> list[int]:
    """The numbers of threads of those that were trained on a CPU, sorted."""
    machines = [record.hardware for record in records if record.hardware.device == "cpu"]
    return sorted({machine.threads for machine in machines if machine.threads})


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
