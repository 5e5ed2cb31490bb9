"""Run one trial in its folder, from wherever it stands, and leave a record, however it ends."""

from __future__ import annotations

import contextlib
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from roadmap.config.errors import RoadmapError
from roadmap.config.model import TimmSpec
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.digest import data_digests
from roadmap.data.encoded import decoder_difference
from roadmap.data.loader import Stream
from roadmap.data.opened import OpenedImages
from roadmap.data.pipeline import Pipeline
from roadmap.data.readers import class_names
from roadmap.model.build import save_timm
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, file_digest, write_json
from roadmap.runs.record import (
    DIVERGED,
    FAILED,
    FINISHED,
    HOPELESS,
    INTERRUPTED,
    LOST_PEER,
    METRIC_KEYS,
    OUT_OF_MEMORY,
    Record,
)
from roadmap.train.cadence import Interrupted
from roadmap.train.checkpoints import CheckpointStore, TrainingState
from roadmap.train.circumstances import DATA, describe, earlier_data, note_attempt, timestamp
from roadmap.train.distributed import Ranks, first_failure, forget_failure, is_lost_peer, leave_failure
from roadmap.train.formats import set_float32_arithmetic
from roadmap.train.hopeless import Hopeless
from roadmap.train.loop import Trainer
from roadmap.train.progress import Reporter
from roadmap.train.updates import Diverged

# cuDNN and cuBLAS say in their own words that they could not allocate, as RuntimeErrors.
NO_MEMORY = re.compile(r"CUDA error: out of memory|CUDA out of memory|(CUDNN|CUBLAS)_STATUS_ALLOC_FAILED")


def execute(folder: RunFolder, runtime: Runtime, *, force: bool = False, images: OpenedImages | None = None) -> Record:
    """Train the folder's trial to its end and return its record; a finished one is returned as it is, unless `force`.

    `images`: those of the process's run before, for a process that trains several.
    Every outcome leaves a record: finished, diverged, interrupted (it goes on when started again), failed, hopeless
    (it goes on when started without `stop_hopeless`).
    Raises RunError only where the folder itself cannot be used; then nothing in it is changed.
    """
    trial = folder.trial()
    ranks = Ranks.start(runtime.device)
    runtime = runtime.on(ranks.device.type)
    if runtime.threads and ranks.device.type == "cpu":
        torch.set_num_threads(runtime.threads)  # the environment may say another number
    record = folder.record()
    if record and not force and _is_settled(record, runtime):
        return record
    if not ranks.is_main:
        return _attempt(folder, trial, runtime, ranks, images)
    with folder.lease():
        record = folder.record()  # another process may have trained it since
        if record and not force and _is_settled(record, runtime):
            return record
        if force:
            set_aside(folder)
        return _attempt(folder, trial, runtime, ranks, images)


def _is_settled(record: Record, runtime: Runtime) -> bool:
    """Whether nothing is left to train."""
    return record.status == FINISHED or (record.status == HOPELESS and runtime.stop_hopeless)


def set_aside(folder: RunFolder) -> None:
    """Move what an earlier run left into previous/<n>/: repeating a trial loses nothing."""
    names = (
        "record.json",
        DATA,
        "metrics.jsonl",
        "losses.jsonl",
        "attempts.jsonl",
        "heartbeat.json",
        "weights.safetensors",
        "classes.json",
        "put_back.jsonl",
        "checkpoints",
        "ranks",
    )
    present = [folder.path / n for n in names if (folder.path / n).exists()]
    if not present:
        return
    target = next(p for n in range(1, 10_000) if not (p := folder.path / "previous" / str(n)).exists())
    target.mkdir(parents=True)
    for path in present:
        path.rename(target / path.name)


def _attempt(folder: RunFolder, trial: Trial, runtime: Runtime, ranks: Ranks, images: OpenedImages | None) -> Record:
    began = time.monotonic() - (_seconds_before(folder) if ranks.is_main else 0.0)  # as if all attempts were one

    def beat(state: Mapping[str, Any]) -> None:
        folder.beat({**state, "wall_seconds": round(time.monotonic() - began, 3)})

    forget_peak_memory(ranks)
    set_float32_arithmetic(trial.recipe, ranks.device)
    forget_failure(folder.path, ranks)
    if ranks.is_main:
        note_attempt(folder, trial, runtime, ranks)
    described = describe(folder, trial, runtime, ranks)
    record = _outcome(described, lambda: _train(folder, trial, runtime, ranks, beat, images)).replace(
        wall_seconds=round(time.monotonic() - began, 3),
        peak_memory_bytes=peak_memory(ranks),
        finished_at=timestamp(),
    )
    record = record.replace(earlier=(*record.earlier, *earlier_data(folder, record)))
    if record.status == FAILED and ranks.world_size > 1:
        with _deaf():
            return _end_of_failed_rank(folder, ranks, record)
    if ranks.is_main:
        folder.write_record(record)
        beat({"state": record.status})
    return record


def _end_of_failed_rank(folder: RunFolder, ranks: Ranks, record: Record) -> Record:
    """Say why the run failed: rank 0 in the record, the others in a file for it and on standard error.

    Where rank 0 has only lost another one, that one's cause is the run's.
    """
    lost = record.error_kind == LOST_PEER
    if not ranks.is_main:
        if not lost:
            leave_failure(folder.path, ranks, record.error or "")
        print(f"rank {ranks.rank}: {record.error}", file=sys.stderr, flush=True)
    else:
        if lost and (cause := first_failure(folder.path, ranks)):
            record = record.replace(error=cause, error_kind=None)
        folder.write_record(record)
        folder.beat({"state": record.status, "wall_seconds": record.wall_seconds})
    return record


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore the signals by which torchrun and Slurm end all ranks once one has failed."""
    previous: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        for s in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            previous[s] = signal.signal(s, signal.SIG_IGN)
    try:
        yield
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)


def _outcome(described: Record, train: Callable[[], Mapping[str, Any]]) -> Record:
    """Train, and return the record with how it ended."""
    try:
        return described.replace(status=FINISHED, **train())
    except Diverged as e:
        return described.replace(status=DIVERGED, error=str(e))
    except Hopeless as e:
        return described.replace(status=HOPELESS, error=str(e))
    except Interrupted as e:
        return described.replace(status=INTERRUPTED, error=str(e), stopped_by=e.signal)
    except Exception as e:
        # Whatever it is, the run leaves a record of it; a user's mistake keeps its own words, anything else its trace.
        text = str(e) if isinstance(e, RoadmapError) else f"{type(e).__name__}: {e}\n{traceback.format_exc(limit=-4)}"
        return described.replace(status=FAILED, error=text, error_kind=_kind_of(e, described.world_size))


def _kind_of(error: Exception, world_size: int | None) -> str | None:
    """What kind of failure it is, where a launcher does something about it."""
    if world_size != 1 and is_lost_peer(error):
        return LOST_PEER
    return OUT_OF_MEMORY if isinstance(error, torch.OutOfMemoryError) or NO_MEMORY.search(str(error)) else None


def _seconds_before(folder: RunFolder) -> float:
    """Wall time of all attempts before this one.

    One that was killed left no record, but its heartbeat said it seconds before; the record stands in for
    a heartbeat that is torn or old.
    """
    try:
        beat = folder.heartbeat() or {}
    except RunError:
        beat = {}
    record = folder.record()
    return max(beat.get("wall_seconds", 0.0), (record.wall_seconds if record else None) or 0.0)


def _train(
    folder: RunFolder,
    trial: Trial,
    runtime: Runtime,
    ranks: Ranks,
    beat: Callable[[Mapping[str, Any]], None],
    images: OpenedImages | None,
) -> dict[str, Any]:
    """Train to the end; returns what the record adds."""
    with contextlib.closing(open_pipeline(trial, runtime, ranks, images)) as pipeline:
        return _train_on(pipeline, folder, runtime, ranks, beat)


def _train_on(
    pipeline: Pipeline, folder: RunFolder, runtime: Runtime, ranks: Ranks, beat: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    trial = pipeline.trial
    decoded = _compare_decoder(pipeline, ranks)
    contents = data_digests(pipeline) if ranks.is_main else None
    if contents:
        folder.append(DATA, contents)
    trainer = Trainer(trial, pipeline, ranks, runtime, init=initial_weights(trial, runtime))
    store = CheckpointStore(folder.checkpoints)
    state = _load(store, trial, ranks)
    if state:
        trainer.restore(state)
    if ranks.is_main:
        folder.keep_epochs(trainer.iteration // trainer.per_epoch)
    title = trial.id.rsplit("-", 1)[0]
    # On a CPU the same cores load and train: without workers there is nothing to be said of waiting.
    loads = pipeline.augmented_at_once is None and (pipeline.workers or ranks.device.type == "cuda")
    workers = pipeline.workers if loads else None
    reporter = Reporter(
        title, trainer.total, trial.recipe.batch_size, workers=workers, beat=beat, silent=not ranks.is_main
    )
    trainer.train(store, folder.append_epoch, reporter)
    results = _results(trainer)
    if ranks.is_main:
        keep_network(folder, trainer)
    return {**results, **decoded, "data_contents": contents}


def _compare_decoder(pipeline: Pipeline, ranks: Ranks) -> dict[str, int]:
    """Say how far the pixels of a decoder that is not the reference are from the reference's."""
    largest = decoder_difference(pipeline.train)
    if largest is None:
        return {}
    if ranks.is_main:
        name = pipeline.trial.data.decoder
        print(f"decoder {name}: pixels differ from pillow's by up to {largest} of 255", file=sys.stderr)
    return {"decoder_difference": largest}


@contextlib.contextmanager
def open_training(
    trial: Trial, runtime: Runtime, ranks: Ranks, *, init: Callable[[nn.Module], object] | None = None
) -> Iterator[tuple[Trainer, Stream]]:
    """A trainer before its first iteration with the stream of its batches, for who tries a run and keeps none."""
    with contextlib.closing(open_pipeline(trial, runtime, ranks)) as pipeline:
        trainer = Trainer(trial, pipeline, ranks, runtime, init=init)
        sampler = pipeline.sampler(rank=ranks.rank, world_size=ranks.world_size)
        with pipeline.stream(sampler) as stream:
            trainer.model.train()
            yield trainer, stream


def open_pipeline(
    trial: Trial, runtime: Runtime, ranks: Ranks, images: OpenedImages | None = None, *, decode: bool = True
) -> Pipeline:
    """The trial's images on this machine; `images`: where they may be open already. Raises DataError.

    decode: see `Pipeline.open`.
    """
    return (images.open if images is not None else Pipeline.open)(
        trial,
        data_dir=runtime.data_dir,
        download=runtime.download,
        workers=runtime.workers or 0,
        device=ranks.device,
        loader=runtime.loader,
        decode=decode,
    )


def _load(store: CheckpointStore, trial: Trial, ranks: Ranks) -> TrainingState | None:
    """The newest whole checkpoint. The first rank looks before the others, so that only it sets broken ones aside."""
    state = store.load(trial.fingerprint) if ranks.is_main else None
    ranks.barrier()
    return state if ranks.is_main else store.load(trial.fingerprint)


def initial_weights(trial: Trial, runtime: Runtime) -> Callable[[nn.Module], object] | None:
    """What puts the trial's initial weights into the network; a head of other classes starts anew.

    Raises RoadmapError for another file than the trial's.
    """
    if not trial.init:
        return None
    digest = file_digest(runtime.init) if runtime.init else "no file"
    if digest != trial.init:
        raise RoadmapError(
            f"--init is {runtime.init} ({digest[:10]}), but the trial starts from weights {trial.init[:10]}; "
            "legal: the same file; give it with --init"
        )

    def load(model: nn.Module) -> None:
        from roadmap.model.weights import load_weights

        print(load_weights(model, runtime.init, adapt=True), file=sys.stderr)  # type: ignore[arg-type]

    return load


def keep_network(folder: RunFolder, trainer: Trainer) -> None:
    """Write the network that the results are of, its moving average where it is on, and its classes' names.

    `roadmap predict` and `roadmap.load` read them.
    """
    from roadmap.model.files import save

    model: Any = trainer.preferred
    spec, path = trainer.trial.model, folder.path / "weights.safetensors"
    if isinstance(spec, TimmSpec):
        save_timm(model, spec, trainer.trial.data.image_size, path)
    else:
        save(model, path)
    names = class_names(trainer.trial.data, data_dir=trainer.runtime.data_dir)
    write_json(folder.path / "classes.json", names)


def _results(trainer: Trainer) -> dict[str, Any]:
    """Test accuracy of the last epoch (or of the best on validation, where the recipe says so), and the run's rates."""
    result = trainer.result()
    trainer.refuse_scores(result.test)
    validation = result.validation.weights.top1 if result.validation else None
    measured = {**result.test.to_json(), "validation_top1": validation}
    return {
        "metrics": {name: measured[name] for name in METRIC_KEYS if measured.get(name) is not None},
        "hits": result.hits() or None,
        "test_images": result.test.weights.images,
        "accuracy_epoch": result.epoch,
        "images_per_second": trainer.images_per_second,
        "waiting_share": trainer.waiting_share,
        "iterations": trainer.iteration,
        "cuda_graph": trainer.replays,
        "eager_because": trainer.eager_reason,
        "stopped_by": trainer.told_to_stop or None,
        "skipped_updates": int(trainer.skipped) if trainer.scaler.is_enabled() else None,
        "train_images": len(trainer.pipeline.train_indices),
    }


def peak_memory(ranks: Ranks) -> int:
    """Bytes since the attempt began: of the GPU where there is one, else of the process."""
    if ranks.device.type == "cuda":
        return torch.cuda.max_memory_allocated(ranks.device)
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak_memory(ranks: Ranks) -> None:
    """A process trains many runs: each record shall have its own peak."""
    if ranks.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(ranks.device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
