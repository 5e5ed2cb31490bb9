"""--stop-hopeless: a run that guesses after half of its epochs ends early, as a state of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from roadmap.config.errors import ConfigError
from roadmap.config.runtime import Runtime
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import FINISHED, HOPELESS, Record
from roadmap.train.execute import execute
from roadmap.train.hopeless import Hopeless, guessing_limit, refuse_guessing
from roadmap.train.metrics import EpochMetrics, Evaluation, Scores
from tests.helpers.small_runs import hash_of, make_run, make_trial, on_ranks

NOTHING_LEARNT = {"warmup_epochs": 0, "lr": 1e-12, "min_lr": 0.0, "weight_decay": 0.0}
STUCK: dict[str, Any] = {"epochs": 4, "ema_decay": None, **NOTHING_LEARNT}


def stuck_run(root: Path) -> RunFolder:
    return make_run(root, make_trial(**STUCK))


def train(folder: RunFolder, **runtime: Any) -> Record:
    return execute(folder, Runtime(**runtime))


def metrics(epoch: int, top1: float, ema: float | None = None) -> EpochMetrics:
    def scores(value: float) -> Scores:
        return Scores(top1=value, top5=50.0, loss=2.3, images=500)

    return EpochMetrics(
        epoch=epoch,
        iteration=epoch,
        train_loss=2.3,
        split="test",
        evaluation=Evaluation(weights=scores(top1), ema=None if ema is None else scores(ema)),
        lr=0.1,
        images_per_second=1.0,
        waiting_share=0.0,
    )


def ends(epoch: int, top1: float, ema: float | None = None, *, epochs: int = 5) -> bool:
    saved = []
    try:
        of = metrics(epoch, top1, ema)
        assert of.evaluation is not None
        refuse_guessing(of, of.evaluation, make_trial(epochs=epochs), save=lambda: saved.append(1))
    except Hopeless:
        assert saved, "it saves itself before it leaves"
        return True
    assert not saved
    return False


def test_guessing_is_within_its_binomial_interval() -> None:
    assert guessing_limit(500, 10) == pytest.approx(100 * (50 + 1.96 * 45**0.5) / 500, abs=0.2)
    assert 0.1 < guessing_limit(50_000, 1000) < 0.14


def test_a_run_is_ended_from_the_half_on_but_not_after_its_last_epoch() -> None:
    assert [ends(epoch, 10.0) for epoch in range(1, 6)] == [False, False, True, True, False]
    assert [ends(epoch, 10.0, epochs=4) for epoch in range(1, 5)] == [False, True, True, False]


def test_what_is_better_than_guessing_is_not_ended() -> None:
    limit = guessing_limit(500, 10)
    assert ends(3, limit) and not ends(3, limit + 0.2)


def test_an_average_that_lags_behind_does_not_end_a_run() -> None:
    assert not ends(3, 60.0, ema=10.0) and not ends(3, 10.0, ema=60.0) and ends(3, 10.0, ema=10.0)


def test_what_ended_a_run_is_in_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def guess(*_: object) -> dict[str, object]:
        raise Hopeless("ended after epoch 2 of 4")

    monkeypatch.setattr("roadmap.train.execute._train", guess)
    folder = stuck_run(tmp_path)
    record = train(folder, stop_hopeless=True)
    assert (record.status, record.error) == (HOPELESS, "ended after epoch 2 of 4") and folder.record() == record


@pytest.mark.slow
def test_a_hopeless_run_is_a_state_of_its_own_and_goes_on_only_where_it_is_asked_for(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder, whole = stuck_run(tmp_path / "a"), stuck_run(tmp_path / "b")
    record = train(folder, stop_hopeless=True)
    assert (record.status, record.metrics, len(folder.metrics())) == (HOPELESS, {}, 2)
    assert record.error is not None and record.error.startswith("ended after epoch 2 of 4: top-1 is ")
    assert train(folder, stop_hopeless=True) == record, "it is not trained on by the rule that ended it"
    assert train(folder).status == FINISHED
    assert train(whole).status == FINISHED
    assert hash_of(folder) == hash_of(whole), "as if it had never been ended"


def test_without_the_option_no_run_is_ended(tmp_path: Path) -> None:
    assert not Runtime().stop_hopeless
    with pytest.raises(ConfigError):
        Runtime(stop_hopeless="perhaps")  # type: ignore[arg-type]


@pytest.mark.slow
def test_all_ranks_agree_that_a_run_is_hopeless(tmp_path: Path) -> None:
    folder = stuck_run(tmp_path)

    def work() -> None:
        assert execute(folder, Runtime(stop_hopeless=True)).status == HOPELESS

    on_ranks(2, work)
    record = folder.record()
    assert record is not None and (record.status, record.world_size) == (HOPELESS, 2)
