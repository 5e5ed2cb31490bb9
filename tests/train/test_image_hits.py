"""Each image's hit is at its place in the split, whatever the batches and the number of ranks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import roadmap
from roadmap.data.pipeline import Pipeline
from roadmap.runs.hits import Hits, contradictions
from roadmap.runs.record import Record
from roadmap.train.distributed import Ranks
from roadmap.train.evaluate import evaluate
from roadmap.train.metrics import EpochScores, Evaluation, Scores
from tests.helpers.small_runs import make_run, make_trial, on_ranks, train

IMAGES, CLASSES = 21, 3
PIXELS = torch.randn(IMAGES, CLASSES, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(IMAGES) % CLASSES
EXPECTED = (PIXELS.argmax(1) == LABELS).numpy()


class Batches:
    """One rank's images in batches of 4."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.images, self.labels = (x[rank::world_size] for x in (PIXELS, LABELS))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(self.images.reshape(-1, CLASSES, 1, 1).split(4), self.labels.split(4), strict=True))


def scores(ranks: Ranks) -> Scores:
    autocast = torch.autocast("cpu", enabled=False)
    batches = Batches(ranks.rank, ranks.world_size)
    return evaluate(nn.Flatten(), batches, ranks, autocast=autocast, memory_format=torch.channels_last)


def test_hits_are_in_the_order_of_the_split_and_count_as_the_accuracy_does() -> None:
    found = scores(Ranks())
    assert found.hits is not None and found.hits.array().tolist() == EXPECTED.tolist()
    assert found.hits.top1 == found.top1 and found.images == found.hits.images == IMAGES


def write_hits(path: Path) -> None:
    ranks = Ranks.start("cpu")
    found = scores(ranks)
    assert found.hits
    (path / f"{ranks.rank}.json").write_text(json.dumps(found.hits.to_json()))


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_ranks_gives_the_same_bits(world_size: int, tmp_path: Path) -> None:
    on_ranks(world_size, lambda: write_hits(tmp_path))
    told = [Hits.from_json(json.loads((tmp_path / f"{k}.json").read_text())) for k in range(world_size)]
    assert [hits.array().tolist() for hits in told] == [EXPECTED.tolist()] * world_size


def test_the_best_epochs_hits_survive_a_checkpoint() -> None:
    plain = Scores(top1=50.0, top5=99.0, loss=1.0, images=2, hits=Hits.of(np.array([1, 0])))
    averaged = Scores(top1=100.0, top5=99.0, loss=1.0, images=2, hits=Hits.of(np.array([1, 1])))
    best = EpochScores(epoch=1, test=Evaluation(weights=plain, ema=averaged), validation=Evaluation(weights=plain))
    again = EpochScores.from_json(json.loads(json.dumps(best.to_json())))
    assert again.hits() == best.hits() and again.test.preferred.hits == averaged.hits
    older = {name: value for name, value in best.to_json().items() if name != "hits"}
    assert EpochScores.from_json(older).hits() == {}


def hits_of_file(path: Path, trial: object) -> list[bool]:
    pipeline = Pipeline.open(trial)  # type: ignore[arg-type]
    model = roadmap.load(path).eval()
    with torch.no_grad():
        return [bool(hit) for x, y in pipeline.views("test") for hit in model(x).argmax(1) == y]


@pytest.mark.slow
def test_a_runs_hits_are_those_of_the_weights_that_it_leaves(tmp_path: Path) -> None:
    trial = make_trial(epochs=1)
    record: Record = train(make_run(tmp_path, trial))  # type: ignore[assignment]
    assert record.hits and set(record.hits) == {"test", "validation"} and not list(contradictions(record))
    hits = Hits.from_json(record.hits["test"])
    assert hits.top1 == pytest.approx(record.metrics["ema_top1"])  # the averaged weights are the preferred ones
    again = hits_of_file(tmp_path / "study" / trial.id / "weights.safetensors", trial)
    assert np.mean(np.array(again) == hits.array()) > 0.99  # another memory format rounds otherwise
