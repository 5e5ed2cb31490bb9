"""What tests of several parts share.

The command line in this process, small image folders, and what a refusal looks like.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from roadmap.cli.main import main
from roadmap.data.file_index import imagenet_synsets

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch is imported: with active waiting, processes that share cores run many times slower

MakeFolder = Callable[..., Path]


@dataclass(frozen=True)
class Refusal:
    """The three parts of an error line: what is wrong with which value, what is legal (or why not), what to do."""

    what: str
    legal: str
    advice: str


@dataclass(frozen=True)
class Answer:
    """What a call of the command line left: exit status and both outputs."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)

    def refused(self, *parts: str) -> None:
        """It exited with 2, and an error line says what is wrong, what is legal (or why) and what
        to do, with these parts in it.
        """
        assert self.status == 2, (self.status, self.err)
        assert re.search(r"^roadmap.*: error: .+; (legal|reason): .+; .+$", self.err, re.MULTILINE), self.err
        for part in parts:
            assert part in self.err, self.err
        assert "Traceback" not in self.err

    def refusals(self) -> list[Refusal]:
        """The error lines of a call that exited with 2, each in its three parts."""
        assert self.status == 2, (self.status, self.err)
        assert "Traceback" not in self.err
        line = re.compile(r"^roadmap.*?: error: (.+?); (?:legal|reason): (.+); (.+)$", re.MULTILINE)
        found = [Refusal(*parts) for parts in line.findall(self.err)]
        assert found, self.err
        return found

    def refusal(self) -> Refusal:
        """The first of them."""
        return self.refusals()[0]


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all but n cases of a test that is `sampled(n, ci=m)` as slow, and all but m as soak.

    What iterates over the ladder grows with it.
    """
    cases: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("slow"):
            cases.setdefault((item.path, getattr(item, "originalname", item.name)), []).append(item)
    for group in cases.values():
        sampled = cast(pytest.Mark, group[0].get_closest_marker("sampled"))
        fast = _spread(sampled.args[0], len(group))
        in_ci = _spread(sampled.kwargs.get("ci", len(group)), len(group)) | fast
        for k, item in enumerate(group):
            if k not in fast:
                item.add_marker(pytest.mark.slow)
            if k not in in_ci:
                item.add_marker(pytest.mark.soak)


def _spread(n: int, cases: int) -> set[int]:
    """Return n indices of the cases, evenly spread from the first to the last."""
    return {round(k * (cases - 1) / max(n - 1, 1)) for k in range(n)}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of checked folders goes to the test's own place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: None
) -> Callable[..., Answer]:
    """`roadmap WORDS` in this process, in an empty folder, as one rank."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Answer:
        capsys.readouterr()
        try:
            status = main([str(w) for w in words])
        except SystemExit as e:
            status = int(e.code or 0)
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the names of ImageNet's 1,000 classes; the images are bytes nobody decodes here."""
    root = tmp_path_factory.mktemp("imagenet")
    for split in ("train", "val"):
        for synset in imagenet_synsets():
            (root / split / synset).mkdir(parents=True)
            (root / split / synset / "0.JPEG").write_bytes(b"x")
    return root


@pytest.fixture
def image_folder(tmp_path: Path) -> MakeFolder:
    """Makes train/CLASS/*.png and test/CLASS/*.png of random pixels; returns the folder."""

    def make(
        name: str = "images",
        *,
        classes: tuple[str, ...] = ("cat", "dog"),
        counts: Mapping[str, int] | None = None,
        size: int = 32,
        seed: int = 0,
    ) -> Path:
        rng = np.random.default_rng(seed)
        for split, count in (counts or {"train": 4, "test": 2}).items():
            for label in classes:
                folder = tmp_path / name / split / label
                folder.mkdir(parents=True)
                for k in range(count):
                    Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{k:03d}.png")
        return tmp_path / name

    return make
