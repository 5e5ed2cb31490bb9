"""A checkpoint counts only when it is whole, and nothing in it is ever executed."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from roadmap.runs.io import RunError
from roadmap.train.checkpoints import CheckpointStore

FINGERPRINT = "f" * 64


def state(value: float) -> dict[str, Any]:
    return {"fingerprint": FINGERPRINT, "iteration": int(value), "weights": torch.full((1000,), value)}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Two checkpoints, of iterations 1 and 2."""
    made = CheckpointStore(tmp_path / "checkpoints")
    made.save(state(1), 1)
    made.save(state(2), 2)
    return made


def newest(store: CheckpointStore) -> Path:
    return max(store.folder.glob("*.pt"))


def loads_the_one_before(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = store.load(FINGERPRINT)
    assert loaded is not None
    assert loaded["iteration"] == 1
    assert torch.equal(loaded["weights"], torch.full((1000,), 1.0))
    assert "checkpoint-000000002.pt is damaged" in caplog.text
    assert "set aside as checkpoint-000000002.pt.broken-0, the one before is used" in caplog.text
    assert (store.folder / "checkpoint-000000002.pt.broken-0").exists(), "a broken checkpoint is set aside, not deleted"


def test_the_newest_whole_checkpoint_is_loaded(store: CheckpointStore) -> None:
    loaded = store.load(FINGERPRINT)
    assert loaded is not None
    assert loaded["iteration"] == 2


@pytest.mark.parametrize("case", range(20))
def test_a_truncated_newest_checkpoint_is_set_aside_and_the_one_before_used(
    case: int, store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    content = newest(store).read_bytes()
    newest(store).write_bytes(content[: random.Random(case).randrange(len(content))])
    loads_the_one_before(store, caplog)


@pytest.mark.parametrize("case", range(20))
def test_a_flipped_bit_is_noticed(case: int, store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    draw, content = random.Random(case), bytearray(newest(store).read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    newest(store).write_bytes(content)
    loads_the_one_before(store, caplog)


def test_a_checkpoint_without_its_checksum_is_not_believed(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    newest(store).with_name("checkpoint-000000002.pt.sha256").unlink()
    loads_the_one_before(store, caplog)


def test_when_all_are_broken_it_refuses_instead_of_starting_over(store: CheckpointStore) -> None:
    for path in store.folder.glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(
        RunError, match=r"all 2 are broken; legal: at least one whole; restore one, or use --force to train anew"
    ):
        store.load(FINGERPRINT)
    with pytest.raises(RunError, match="all 2 are broken"):
        store.load(FINGERPRINT)


def test_a_checkpoint_of_another_trial_is_refused(store: CheckpointStore) -> None:
    with pytest.raises(
        RunError, match=r"checkpoint-000000002.pt is of trial ffffffffff, not aaaaaaaaaa; legal: the same trial's"
    ):
        store.load("a" * 64)


def test_a_hostile_pickle_with_a_fitting_checksum_is_not_executed(
    store: CheckpointStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    content = pickle.dumps(Hostile())
    newest(store).write_bytes(content)
    newest(store).with_name("checkpoint-000000002.pt.sha256").write_text(hashlib.sha256(content).hexdigest())
    loads_the_one_before(store, caplog)
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_leaves_the_old_checkpoints_and_says_where_and_how_much(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        store = CheckpointStore(disk / "checkpoints")
        store.save(state(1), 1)
        with pytest.raises(
            RunError,
            match=r"checkpoint-000000002.pt cannot be written .*: No space left on device; .*; free space",
        ):
            store.save({**state(2), "weights": torch.zeros(20_000)}, 2)
        assert not list(store.folder.glob(".*.tmp")), "no temporary file is left to fill the disk"
        loaded = store.load(FINGERPRINT)
        assert loaded is not None
        assert loaded["iteration"] == 1
        store.save(state(3), 3)
        assert store.load(FINGERPRINT)["iteration"] == 3  # type: ignore[index]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_checkpoints_are_plain_files_that_sha256sum_can_check(store: CheckpointStore) -> None:
    assert (
        subprocess.run(
            ["sha256sum", "--check", "checkpoint-000000002.pt.sha256"], cwd=store.folder, capture_output=True
        ).returncode
        == 0
    )
