from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from roadmap.runs.record import METRIC_KEYS, VERSION, Hardware, Record

OLD: dict[str, Any] = {
    "version": 1,
    "id": "gelu-seed0-0123456789",
    "fingerprint": "0123456789" * 6,
    "regime": "micro",
    "step": "gelu",
    "change": "",
    "seed": 0,
    "status": "finished",
    "top1": 91.5,
    "top5": 99.0,
    "loss": 0.3,
    "ema_top1": None,
    "validation_top1": 90.0,
    "hardware": {"device": "cpu", "cpu": "a CPU", "cores": 2, "threads": 1},
    "resolved": {"model": {"kernel_size": 7}, "recipe": {"lr": 0.1}, "data": {"name": "digits"}, "seed": 0, "init": ""},
    "error": None,
}
RESULTS = Path(__file__).parents[2] / "results"


def test_a_record_of_version_1_has_its_metrics_in_their_place() -> None:
    record = Record.from_json(dict(OLD))
    assert record.version == VERSION
    assert record.metrics == {"top1": 91.5, "top5": 99.0, "loss": 0.3, "validation_top1": 90.0}
    assert record.hardware == Hardware(device="cpu", cpu="a CPU", cores=2, threads=1)
    assert (record.code_digest, record.epochs, record.ladder) == (None, None, "convnext")


def test_what_is_written_is_read_back_the_same() -> None:
    record = Record.from_json(dict(OLD))
    content = record.to_json()
    assert Record.from_json(json.loads(json.dumps(content))) == record
    assert content["version"] == VERSION and not set(METRIC_KEYS) & content.keys()


def test_what_a_newer_version_adds_is_kept() -> None:
    record = Record.from_json({**Record.from_json(dict(OLD)).to_json(), "version": 99, "watts": 7.5})
    assert record.extra == {"watts": 7.5}
    assert record.to_json()["watts"] == 7.5


def test_a_record_of_version_1_has_its_metrics_together() -> None:
    record = Record.from_json(dict(OLD))
    assert (record.status, record.metrics["top1"], record.metrics.get("ema_top1")) == ("finished", 91.5, None)


def test_every_committed_record_survives_a_round_trip() -> None:
    for path in sorted(RESULTS.glob("*/records.jsonl")):
        for line in path.read_bytes().splitlines()[1:]:
            record = Record.from_json(json.loads(line))
            assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record, path


def test_reading_a_record_takes_little_more_than_its_json() -> None:
    line = (RESULTS / "digits" / "records.jsonl").read_bytes().splitlines()[1]
    content = json.dumps(Record.from_json(json.loads(line)).to_json())

    def seconds(read: Any) -> float:
        start = time.process_time()
        for _ in range(2000):
            read(json.loads(content))
        return time.process_time() - start

    ratios = [seconds(Record.from_json) / seconds(lambda parsed: parsed) for _ in range(5)]
    assert min(ratios) < 1.25, ratios
