"""Real photographs from JPEG files, from the folder to the record."""

import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ARCHIVE = Path(os.environ.get("ROADMAP_SHARED", ROOT.parent / "shared")) / "data" / "cifar10-jpeg.tar.xz"
PER_CLASS = {"train": 60, "test": 10}


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 60 training and 10 test images of each class."""
    if not ARCHIVE.exists():
        pytest.skip(f"{ARCHIVE} is not here; set ROADMAP_SHARED to the folder that holds data/cifar10-jpeg.tar.xz")
    root, taken = tmp_path_factory.mktemp("cifar"), Counter[Path]()
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            place = Path(member.name).parent
            if member.isfile() and taken[place] < PER_CLASS[place.parts[0]]:
                taken[place] += 1
                archive.extract(member, root, filter="data")
    return root


@pytest.mark.soak
@pytest.mark.slow
def test_the_last_step_learns_from_photographs_and_leaves_its_record(cifar: Path, command: Callable[..., Any]) -> None:
    words = (
        "run",
        "--data",
        "imagefolder",
        "--data-dir",
        cifar,
        "--data-title",
        "CIFAR-10 (JPEG)",
        "--regime",
        "cifar",
        "--step",
        "9",
        "--json",
    )
    [record] = command(*words, "--recipe", "cifar-adamw", "--epochs", "2").json()
    assert (record["status"], record["data"], record["train_images"], record["test_images"], record["iterations"]) == (
        "finished",
        "CIFAR-10 (JPEG)",
        540,
        100,
        4,
    )
    assert record["device_batch"] == 128 and record["global_batch"] == 256 and len(record["data_digest"]) == 64

    [record] = command(*words, "--recipe", "digits-adamw", "--epochs", "8").json()
    [metrics] = Path("runs").glob(f"*/{record['id']}/metrics.jsonl")
    losses = [json.loads(line)["train_loss"] for line in metrics.read_text().splitlines()]
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.2
    assert record["metrics"]["top1"] > 15
