"""Looks at a study that read only what has changed, and miss nothing of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import roadmap.runs.changes
from analysis.load import LiveStudy, gather
from roadmap.bench.gather import study_of
from roadmap.launch.status import study_states
from roadmap.runs.changes import ChangedFiles
from roadmap.runs.folder import RunFolder, read_record
from roadmap.runs.io import read_json, read_last_lines, read_lines, write_json
from roadmap.train.execute import set_aside

RUNS = 200
_opened: list[str] = []
_listening: list[bool] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _listening:
        _opened.append(str(arguments[0]))


@pytest.fixture(scope="module", autouse=True)
def _hook() -> None:
    sys.addaudithook(_note)  # for the rest of the process: it cannot be taken away


@contextmanager
def opened(below: Path) -> Iterator[list[str]]:
    """The files below a folder that are opened meanwhile."""
    found: list[str] = []
    _opened.clear()
    _listening.append(True)
    try:
        yield found
    finally:
        _listening.clear()
        found += [str(Path(path).relative_to(below)) for path in _opened if path.startswith(f"{below}/")]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_of(RUNS, tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_of(2, tmp_path_factory.mktemp("two"))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose clock has no ticks to speak of."""
    monkeypatch.setattr(roadmap.runs.changes, "TICK", 0.0)


def test_a_second_look_opens_the_files_of_the_run_that_moved(many: Path, settled: None) -> None:
    live, files = LiveStudy(many, curves=True), ChangedFiles()

    def look() -> tuple[Any, Any]:
        return live.now(), study_states(many, every=0, files=files)

    with opened(many) as at_first:
        look()
    assert len(at_first) >= 4 * RUNS
    look()  # what was written in the clock's last tick is read once more
    with opened(many) as unmoved:
        study, _ = look()
    assert unmoved == []
    assert live.now() is study
    moved = RunFolder(many / study.runs[17].id)
    moved.append_epoch({"epoch": 4, "top1": 12.5}, [1.0])
    record = moved.record()
    assert record is not None
    moved.write_record(record.replace(metrics={"top1": 12.5}))
    moved.beat({"state": "finished", "epoch": 4})
    with opened(many) as again:
        study, states = look()
    name = moved.path.name
    assert sorted(set(again)) == [f"{name}/{file}" for file in ("heartbeat.json", "metrics.jsonl", "record.json")]
    assert len(again) <= 5
    assert states == study_states(many, every=0) and study == gather(many, curves=True)
    assert (states[17].top1, states[17].epoch, study.runs[17].record.metrics["top1"]) == (12.5, 4, 12.5)


def rewritten_in_place(path: Path) -> None:
    """Another value of the same length, with the same times as far as a program can set them."""
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"75", b"57"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    """Another file of the same size and time."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes().replace(b"75", b"57"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def set_aside_by_force(path: Path) -> None:
    set_aside(RunFolder(path.parent))


CHANGES = [rewritten_in_place, replaced, truncated, set_aside_by_force, Path.unlink]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_no_change_of_a_record_is_missed(change: Callable[[Path], None], two: Path, tmp_path: Path) -> None:
    study = shutil.copytree(two, tmp_path / "study")
    live, files = LiveStudy(study, curves=True), ChangedFiles()
    for _ in range(2):
        live.now(), study_states(study, files=files)
    change(study / live.now().runs[0].id / "record.json")
    assert live.now() == gather(study, curves=True)
    assert study_states(study, files=files) == study_states(study)
    assert live.now().runs[0].record != live.now().runs[1].record
    assert study_states(study, files=files)[1].state == "done"


class Clock:
    """A file system that says of its files what a test wants, and this machine's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.path, self.changed, self.others, self.monotonic = path, 0.0, 0.0, 0.0
        self.content = b"0"
        monkeypatch.setattr(roadmap.runs.changes, "TICK", 1.0)
        monkeypatch.setattr(roadmap.runs.changes, "os", SimpleNamespace(stat=self.stat))
        monkeypatch.setattr(roadmap.runs.changes, "time", SimpleNamespace(monotonic=lambda: self.monotonic))

    def stat(self, path: str) -> os.stat_result:
        """One inode, one size; times in whole seconds."""
        of = int(self.changed if path == str(self.path) else self.others)
        times = {"st_mtime_ns": of * 10**9, "st_ctime_ns": of * 10**9}
        return os.stat_result((0, 7, 1, 1, 0, 0, 1, of, of, of), times)

    def read(self, path: str) -> bytes:
        return self.content


def test_a_rewrite_within_one_tick_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same inode, size and times: only the second reading tells."""
    clock, files = Clock(monkeypatch, tmp_path / "file"), ChangedFiles()
    path = str(clock.path)
    clock.changed = 100.2
    assert files.read(path, clock.read) == b"0"
    clock.changed, clock.content = 100.7, b"1"
    clock.monotonic = 5.0
    assert files.read(path, clock.read) == b"1"
    clock.content = b"unread"  # no write after this reading would have left the time as it is
    assert files.read(path, clock.read) == b"1"
    clock.changed = 105.0
    assert files.read(path, clock.read) == b"unread"


def test_a_file_that_is_older_than_another_by_a_tick_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the file system's own clock, whatever this machine's says."""
    clock, files = Clock(monkeypatch, tmp_path / "file"), ChangedFiles()
    clock.changed, clock.others = 100.0, 102.0
    files.read(str(tmp_path / "newer"), clock.read)
    assert files.read(str(clock.path), clock.read) == b"0"
    clock.content = b"unread"
    assert files.read(str(clock.path), clock.read) == b"0"


def test_a_file_that_cannot_be_read_is_asked_again_and_one_that_appears_is_read(tmp_path: Path) -> None:
    files, path = ChangedFiles(), tmp_path / "record.json"
    assert files.read(str(path), read_record) is None
    path.write_bytes(b"{")
    for _ in range(2):
        with pytest.raises(Exception, match="is not JSON"):
            files.read(str(path), read_record)
    write_json(path, {"status": "finished"})
    record = files.read(str(path), read_record)
    assert record is not None and record.status == "finished"


LINES = [
    b"",
    b"\n",
    b'{"a": 1}\n',
    b'{"a": 1}\n{"a": 2}\n',
    b'{"a": 1}\n{"a": 2}',
    b'{"a": 1}\n{"a"',
    b'{"a": 1}\n[2]\n{"a": NaN}\n',
    b"".join(json.dumps({"a": i, "text": "x" * (i % 97)}).encode() + b"\n" for i in range(4000)),
    json.dumps({"long": "x" * 200_000}).encode() + b'\n{"a": 1}\n',
]


@pytest.mark.parametrize("content", LINES, ids=range(len(LINES)))
def test_lines_from_the_last_one_back_are_the_lines(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(content)
    assert str([*read_last_lines(str(path))][::-1]) == str(read_lines(path)[0])


def test_there_is_no_last_line_of_no_file(tmp_path: Path) -> None:
    assert [*read_last_lines(str(tmp_path / "lines.jsonl"))] == []


@pytest.mark.parametrize(
    "text", ['{"a": 1.5}', '{"a": NaN}', '{"a": [-Infinity, 1e400]}', '"\\ud800"', '{"a": 1, "a": 2}']
)
def test_json_is_read_as_the_standard_library_reads_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    assert repr(read_json(path)) == repr(json.loads(text))
