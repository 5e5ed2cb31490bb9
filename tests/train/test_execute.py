"""Every run leaves a record, is trained by one process, and is never trained twice by accident."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from roadmap.config.errors import ConfigError
from roadmap.config.runtime import Runtime
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError
from roadmap.runs.provenance import git_state
from roadmap.train.execute import execute
from tests.helpers.small_runs import child, hash_of, in_child, make_run, make_trial, train

SHORT = {"epochs": 1, "warmup_epochs": 0}
KEYS = (
    "status",
    "top1",
    "top5",
    "loss",
    "ema_top1",
    "ema_top5",
    "ema_loss",
    "params",
    "macs",
    "images_per_second",
    "waiting_share",
    "workers",
    "wall_seconds",
    "peak_memory_bytes",
    "epochs",
    "world_size",
    "device_batch",
    "git_commit",
    "git_dirty",
    "packages",
    "hardware",
    "seed",
    "attempts",
    "validation_top1",
    "test_images",
    "fingerprint",
    "precision",
    "resolved",
)


def test_a_finished_run_leaves_a_full_record_and_metrics(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(**SHORT))
    record = train(folder)
    written = record.to_json()
    assert [key for key in KEYS if {**written, **written["metrics"]}.get(key) is None] == []
    assert record == folder.record()
    assert (record.status, record.test_images, record.device_batch, record.epochs, record.attempts) == (
        "finished",
        500,
        64,
        1,
        1,
    )
    assert 0 <= record.metrics["top1"] <= record.metrics["top5"] <= 100
    assert record.git_commit == git_state()["git_commit"]
    assert {"torch", "timm", "torchvision", "python"} <= set(record.packages)
    assert folder.trial() == make_trial(**SHORT)
    assert hashlib.sha256(json.dumps(record.resolved, sort_keys=True).encode()).hexdigest() == record.fingerprint
    (line,) = folder.metrics()
    assert (line["epoch"], line["iteration"], line["split"]) == (1, 9, "validation")


def test_a_finished_trial_is_not_trained_again_unless_forced_and_then_nothing_is_lost(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(**SHORT))
    first = train(folder)
    before = hash_of(folder)
    assert train(folder) == first
    again = execute(folder, Runtime(), force=True)
    assert again.finished_at >= first.finished_at
    assert hash_of(folder) == before, "the same trial trained again gives the same bits"
    assert json.loads((folder.path / "previous" / "1" / "record.json").read_text()) == first.to_json()


def test_a_failing_run_leaves_a_record_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadmap.data.pipeline.Samples.__getitem__", lambda self, key: 1 / 0)
    folder = make_run(tmp_path, make_trial(**SHORT))
    record = train(folder)
    assert record.status == "failed"
    assert "ZeroDivisionError: division by zero" in record.error
    assert record.params > 0
    assert folder.record() == record


def test_a_folder_of_another_trial_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(**SHORT))
    with pytest.raises(RunError, match=r"holds trial [0-9a-f]{10}, not [0-9a-f]{10}; legal: one trial in one folder"):
        folder.prepare(make_trial(seed=1, **SHORT))


def test_an_edited_trial_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(**SHORT))
    text = (folder.path / "trial.json").read_text()
    (folder.path / "trial.json").write_text(text.replace('"kernel_size": 7', '"kernel_size": 5'))
    with pytest.raises(ConfigError, match="its content hashes to"):
        train(folder)


@pytest.mark.slow
def test_two_processes_started_together_train_a_run_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(**SHORT))
    start_at = time.time() + 1.0

    def race() -> None:
        time.sleep(max(0.0, start_at - time.time()))
        try:
            answer = train(folder).status
        except RunError as e:
            answer = str(e)
        (tmp_path / f"{os.getpid()}.answer").write_text(answer)

    processes = [child(race) for _ in range(4)]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    found = [p.read_text() for p in tmp_path.glob("*.answer")]
    assert len(found) == 4
    assert found.count("finished") >= 1
    assert all(a == "finished" or "is being trained by" in a and "legal: one process a run" in a for a in found)
    assert len((folder.path / "attempts.jsonl").read_text().splitlines()) == 1


def test_a_dead_owners_lease_is_free(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(**SHORT))

    def die_holding() -> None:
        with folder.lease():
            os.kill(os.getpid(), 9)

    assert in_child(die_holding) == -9
    assert train(folder).status == "finished"


def test_the_best_epoch_is_chosen_on_the_validation_split(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(epochs=3, accuracy="best", ema_decay=None))
    record = train(folder)
    top1 = [m["top1"] for m in folder.metrics()]
    assert record.accuracy_epoch == top1.index(max(top1)) + 1
    assert record.test_images == 500


def test_ten_thousand_lines_written_by_many_processes_are_all_whole(tmp_path: Path) -> None:
    """Appends of one line are single writes: nothing is torn."""
    folder = RunFolder(tmp_path)

    def write() -> None:
        for i in range(500):
            folder.append("many.jsonl", {"writer": os.getpid(), "i": i, "text": "x" * 100})

    processes = [child(write) for _ in range(20)]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    lines = [json.loads(line) for line in (tmp_path / "many.jsonl").read_text().splitlines()]
    assert len({(x["writer"], x["i"]) for x in lines}) == 10_000
