"""The part of the time that training waits for images: measured, kept, shown, and warned of once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from roadmap.config.runtime import Runtime
from roadmap.data.pipeline import Pipeline, SampleKey, Samples
from roadmap.train.distributed import Ranks
from roadmap.train.loop import Trainer
from roadmap.train.metrics import EpochMetrics, Evaluation, Scores
from roadmap.train.progress import Reporter
from tests.helpers.small_runs import make_run, make_trial, train

SHORT = {"epochs": 1, "warmup_epochs": 0}


@pytest.mark.slow
def test_slow_images_are_in_the_record_in_the_epochs_line_and_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Samples.__getitem__

    def slow(self: Samples, key: SampleKey) -> tuple[Tensor, int]:
        time.sleep(0.005)
        return plain(self, key)

    monkeypatch.setattr(Samples, "__getitem__", slow)
    trial = make_trial(**SHORT)
    folder = make_run(tmp_path, replace(trial, data=replace(trial.data, validation=0.8)))
    record = train(folder)
    (line,) = folder.metrics()
    assert 0.3 < line["waiting_share"] < 1
    assert record.waiting_share == pytest.approx(line["waiting_share"])
    assert record.workers == 0
    assert f"  waiting {100 * line['waiting_share']:.0f} %  " in capsys.readouterr().err


def test_the_share_is_that_of_the_whole_run_also_after_a_resume_and_of_checkpoints_without_it() -> None:
    trial = make_trial(**SHORT)
    trainer = Trainer(trial, Pipeline.open(trial), Ranks(), Runtime())
    trainer.train_seconds, trainer.waited_seconds = 20.0, 6.0
    assert trainer.waiting_share == 0.3
    state = trainer.state()
    trainer.train_seconds, trainer.waited_seconds = 30.0, 16.0
    trainer.restore(state)
    assert trainer.waiting_share == 0.3
    state.pop("waited_seconds")
    trainer.restore(state)
    assert trainer.waiting_share == 0.0


def after_epochs(shares: list[float], *, workers: int | None, started: float) -> Mapping[str, Any]:
    """Show epochs of these shares, `started` seconds after the start; returns the last heartbeat."""
    beats: list[Mapping[str, Any]] = [{}]
    reporter = Reporter("run", 10 * len(shares), 64, workers=workers, beat=beats.append)
    reporter.started -= started
    for k, share in enumerate(shares):
        scores = Evaluation(weights=Scores(top1=10.0, top5=50.0, loss=2.0, images=100))
        epoch = EpochMetrics(
            epoch=k + 1,
            iteration=10 * (k + 1),
            train_loss=2.0,
            split="test",
            evaluation=scores,
            lr=0.1,
            images_per_second=100.0,
            waiting_share=share,
        )
        reporter.epoch(epoch, len(shares))
        reporter.saving(epoch.iteration, epoch.epoch)
    return beats[-1]


def test_much_waiting_is_warned_of_once_with_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert after_epochs([0.05, 0.4, 0.5], workers=3, started=100)["waiting_share"] == 0.5
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if "--workers" in line)
    assert warning.startswith("run: 40 % of epoch 2 went by waiting for images, with 3 loader workers a rank; ")


@pytest.mark.parametrize(("share", "workers", "started"), [(0.1, 3, 100), (0.9, 3, 1), (0.9, None, 100)])
def test_little_waiting_a_short_run_and_turns_taken_on_purpose_are_no_matter(
    share: float, workers: int | None, started: float, capsys: pytest.CaptureFixture[str]
) -> None:
    after_epochs([share], workers=workers, started=started)
    assert "--workers" not in capsys.readouterr().err
