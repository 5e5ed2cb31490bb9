"""A data set is listed once on a machine: what is kept, when it holds, and when it does not."""

import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadmap.data.file_index import TRAIN_FOLDERS, list_split
from roadmap.data.listing import Listing, Names, digest_of
from roadmap.data.listing_cache import SAMPLE, cache_folder

MakeFolder = Callable[..., Path]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the operating system was asked, apart from what the import system asks."""
    count: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            count[name] += 1
            return original(*args, **kwargs)

        return call

    for name in ("stat", "scandir"):
        monkeypatch.setattr(os, name, counted(name))
    return count


def settle(folder: Path) -> Path:
    """As if nothing had been changed for an hour: what was written a moment ago is not kept."""
    an_hour_ago = time.time() - 3600
    for place, _, _ in os.walk(folder):
        os.utime(place, (an_hour_ago, an_hour_ago))
    return folder


def train(folder: Path) -> Listing:
    return list_split("imagefolder", folder, TRAIN_FOLDERS)


def content(listing: Listing) -> tuple[Any, ...]:
    arrays = (listing.labels, listing.sizes, listing.times)
    return listing.classes, tuple(listing.files), *(array.tolist() for array in arrays)


@pytest.fixture
def settled(image_folder: MakeFolder, own_cache: None) -> Path:
    return settle(image_folder())


def test_names_are_a_sequence_of_text_in_one_buffer() -> None:
    given = ["cat/1.png", "", "dog/ü.png", "dog/\udcff.png"]
    names = Names.of(given)
    assert list(names) == [names[i] for i in range(4)] == given
    assert (names[-1], names[1:3], len(names), list(Names.of(()))) == (given[-1], ("", "dog/ü.png"), 4, [])
    with pytest.raises(IndexError):
        names[4]


def test_a_second_listing_reads_no_folder_and_is_the_same(settled: Path, calls: Counter[str]) -> None:
    first = train(settled)
    assert calls["scandir"] == 3  # the split and its two classes
    calls.clear()
    again = train(settled)
    assert calls["scandir"] == 0
    assert content(again) == content(first)
    assert digest_of(again) == digest_of(first)


def test_a_folder_that_was_changed_a_moment_ago_is_not_kept(image_folder: MakeFolder, own_cache: None) -> None:
    """A change within the clock's tick would leave the folder's time as it was."""
    train(image_folder())
    assert not list(cache_folder().glob("*.npz"))


def add(folder: Path) -> None:
    shutil.copy(folder / "cat" / "000.png", folder / "cat" / "new.png")


def remove(folder: Path) -> None:
    (folder / "cat" / "000.png").unlink()


def rename(folder: Path) -> None:
    (folder / "cat" / "000.png").rename(folder / "cat" / "x.png")


def add_class(folder: Path) -> None:
    shutil.copytree(folder / "cat", folder / "eel")


def add_below(folder: Path) -> None:
    shutil.copy(folder / "cat" / "000.png", folder / "dog" / "empty" / "new.png")


def write_in_place(folder: Path) -> None:
    (folder / "dog" / "002.png").write_bytes(b"other")


def replace_with_old_times(folder: Path) -> None:
    """As an archive is unpacked over it: the folder's time is put back to what it was."""
    before = (folder / "cat").stat().st_mtime_ns
    (folder / "cat" / "new.tmp").write_bytes(b"another image")
    os.utime(folder / "cat" / "new.tmp", ns=(before, before))
    (folder / "cat" / "new.tmp").rename(folder / "cat" / "001.png")
    os.utime(folder / "cat", ns=(before, before))


@pytest.mark.parametrize(
    "change",
    [add, remove, rename, add_class, add_below, write_in_place, replace_with_old_times],
    ids=lambda f: f.__name__,
)
def test_a_changed_folder_is_listed_anew(settled: Path, change: Callable[[Path], None]) -> None:
    (settled / "train" / "dog" / "empty").mkdir()
    settle(settled)
    before = content(train(settled))
    assert content(train(settled)) == before
    time.sleep(0.05)  # more than a tick of the clock that stamps files
    change(settled / "train")
    changed = content(train(settled))
    shutil.rmtree(cache_folder())
    assert changed == content(train(settled)) != before


def test_a_damaged_cache_is_made_again(settled: Path) -> None:
    before = content(train(settled))
    [kept] = cache_folder().glob("*.npz")
    whole = kept.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:300] + bytes(64) + whole[364:]):
        kept.write_bytes(damaged)
        assert content(train(settled)) == before
    assert kept.read_bytes() == whole


def test_a_machine_without_a_cache_lists_each_time(
    image_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = settle(image_folder())
    calls.clear()
    assert content(train(folder)) == content(train(folder))
    assert calls["scandir"] == 6


def _list_and_count(folder: Path, barrier: Any, scans: Any) -> None:
    original = os.scandir

    def scandir(*args: Any) -> Any:
        with scans.get_lock():
            scans.value += 1
        time.sleep(0.1)
        return original(*args)

    os.scandir = scandir  # type: ignore[assignment]
    barrier.wait()
    train(folder)


def test_ranks_that_start_together_list_once(settled: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier, scans = fork.Barrier(4), fork.Value("i", 0)
    ranks = [fork.Process(target=_list_and_count, args=(settled, barrier, scans)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * 4
    assert scans.value == 3


@pytest.mark.slow
@pytest.mark.quiet
def test_sixty_thousand_files_are_listed_once_and_read_back_in_under_a_second(
    tmp_path: Path, own_cache: None, calls: Counter[str]
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for k in range(60):
        folder = tmp_path / "images" / "train" / f"{k:02d}"
        folder.mkdir(parents=True)
        for i in range(1000):
            os.link(tmp_path / "file", folder / f"{i:06d}.jpg")
    settle(tmp_path / "images")
    first = content(train(tmp_path / "images"))
    calls.clear()
    began = time.perf_counter()
    again = train(tmp_path / "images")
    seconds = time.perf_counter() - began
    assert seconds < 1, f"{seconds:.2f} s"
    assert calls["scandir"] == 0 and calls["stat"] < SAMPLE + 60 + 20
    assert content(again) == first
    held = again.files.buffer.nbytes + again.files.ends.nbytes + again.labels.nbytes + again.sizes.nbytes
    assert held < 60_000 * 40 and isinstance(again.labels, np.ndarray)
