"""A bit an image: packed, counted, and held against the accuracy that stands beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from roadmap.runs.hits import Hits, contradictions
from roadmap.runs.record import Record


@pytest.mark.parametrize("images", [1, 7, 8, 9, 500])
def test_what_is_packed_is_unpacked(images: int) -> None:
    hits = np.random.default_rng(0).integers(0, 2, images)
    packed = Hits.of(hits)
    assert Hits.from_json(packed.to_json()) == packed
    assert packed.array().tolist() == hits.astype(bool).tolist()
    assert packed.count == hits.sum() and packed.top1 == pytest.approx(100 * hits.mean())


def test_fifty_thousand_images_take_some_kilobytes() -> None:
    assert len(Hits.of(np.ones(50_000)).to_json()["bits"]) < 9_000


@pytest.mark.parametrize("content", [{"images": 9, "bits": "/w=="}, {"images": 8}, {"images": 8, "bits": "!"}])
def test_damaged_hits_are_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="hits are"):
        Hits.from_json(content)


def record_of(hits: dict[str, Any], **metrics: float) -> Record:
    return Record(status="finished", metrics=metrics, hits=hits)


def test_an_accuracy_that_is_not_its_hits_is_told() -> None:
    three_of_four = Hits.of(np.array([1, 0, 1, 1])).to_json()
    both = {"test": three_of_four, "validation": three_of_four}
    assert not list(contradictions(record_of(both, top1=75.0, validation_top1=75.0)))
    assert list(contradictions(record_of(both, top1=99.9, validation_top1=75.0))) == [("top1", 99.9, 75.0)]
    assert [name for name, *_ in contradictions(record_of(both, top1=75.0, validation_top1=80.0))] == [
        "validation_top1"
    ]
    # Hits are the averaged weights', the validation accuracy is the trained ones'.
    assert not list(contradictions(record_of(both, top1=50.0, ema_top1=75.0, validation_top1=80.0)))
    damaged = list(contradictions(record_of({"test": {"images": 4}}, top1=75.0)))
    assert [name for name, *_ in damaged] == ["top1"] and math.isnan(damaged[0][2])
    assert not list(contradictions(Record(status="finished", metrics={"top1": 99.9})))  # an older record has none
