"""What a calibration measures is what a run does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from roadmap.config.runtime import Runtime
from roadmap.data import tensor_stream
from roadmap.data.held import ArrayImages
from roadmap.data.pipeline import Pipeline
from roadmap.study.cost import work_of
from roadmap.train.calibrate import measure, whole_chunks
from roadmap.train.distributed import Ranks
from roadmap.train.execute import execute
from roadmap.train.loop import Trainer
from tests.helpers.small_runs import make_run, make_trial

IMAGES = {"train": 1166, "validation": 131, "test": 500}  # of the digits


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"epochs": 7}, {"epochs": 3, "ema_decay": None}])
def test_a_run_does_the_work_that_is_counted_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    done: Counter[str] = Counter()
    evaluate, save, step = Trainer.evaluate, Trainer.save, Trainer.step

    def counting(name: str, method: Any) -> Any:
        def call(self: Trainer, *args: Any, **options: Any) -> Any:
            done[args[0] if name == "evaluate" else name] += 1
            return method(self, *args, **options)

        return call

    monkeypatch.setattr(Trainer, "evaluate", counting("evaluate", evaluate))
    monkeypatch.setattr(Trainer, "save", counting("save", save))
    monkeypatch.setattr(Trainer, "step", counting("step", step))
    trial, runtime = make_trial(**settings), Runtime(checkpoint_every=2, eval_every=3)
    record = execute(make_run(tmp_path, trial), runtime)
    assert record.status == "finished", record.error
    work = work_of(trial, IMAGES, runtime)
    assert record.train_images == IMAGES["train"] and record.test_images == IMAGES["test"]
    assert done["step"] * trial.recipe.batch_size == work.trained
    assert {split: done[split] for split in work.evaluations} == work.evaluations
    assert done["save"] == work.checkpoints


@pytest.mark.parametrize(("batch_size", "ranks"), [(48, 1), (48, 2), (64, 1), (16, 1)])
def test_what_is_timed_of_the_tensor_pipeline_ends_with_a_chunk(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, ranks: int
) -> None:
    monkeypatch.setattr(tensor_stream, "CHUNK_PIXELS", 100 * 8 * 8)
    augmented: list[int] = []

    def augment(batch: Tensor, _: object) -> Tensor:
        augmented.append(len(batch))
        return batch

    monkeypatch.setattr(tensor_stream, "batched_augmentation", lambda *_: augment)
    trial = make_trial(pipeline="tensor", batch_size=batch_size, group_size=8, epochs=100)
    images = ArrayImages(np.zeros((200, 8, 8), dtype=np.uint8), [0] * 200)
    nothing = np.array([], dtype=int)
    pipeline = Pipeline(trial, images, images, np.arange(200), nothing, decoded=images)
    trainer: Any = SimpleNamespace(trial=trial, pipeline=pipeline, ranks=SimpleNamespace(world_size=ranks))
    iterations = whole_chunks(trainer, 3)
    assert iterations >= 3
    stream = iter(pipeline.stream(pipeline.sampler(world_size=ranks)))
    for _ in range(iterations * trial.recipe.loads_per_rank(ranks)):
        next(stream)
    assert sum(augmented) == iterations * batch_size // ranks


@pytest.mark.slow
def test_each_part_of_a_run_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    trial, scratch = make_trial(epochs=1, warmup_epochs=0), tmp_path / "scratch"
    calls: list[int] = []
    cost = measure(
        trial, Runtime(), Ranks(), iterations=12, scratch=scratch, together=lambda: calls.append(len(calls))
    )  # more iterations than its one epoch has
    assert cost.images == IMAGES
    assert all(value > 0 for value in (cost.image, cost.checkpoint, cost.end, cost.peak_memory))
    assert 0 < cost.waiting_share < 1 and cost.start >= 0
    assert set(cost.first_evaluation) == set(cost.evaluation) == {"validation", "test"}
    assert len(calls) == 5 and not scratch.exists()
