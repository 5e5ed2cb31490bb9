"""Runs that share a GPU: memory is kept for each, and one that lacks it goes on alone."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from roadmap.config.runtime import Runtime
from roadmap.launch import local, room
from roadmap.launch.local import PUT_BACK, SLOTS_OF_A_GPU, SlotPool, run_side_by_side, slots_for
from roadmap.launch.room import MARGIN, MOST_OF_FREE, fits, free_memory, wait_for_room
from roadmap.launch.run_queue import RunQueue
from roadmap.launch.slots import Ready, Slot, Start
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import FAILED, FINISHED, OUT_OF_MEMORY, Hardware, Record
from tests.helpers.launches import make_study

GIB = 2**30


@dataclass
class Gpu:
    """Stands for a GPU: what it has free at each look, the last for ever."""

    free: list[int]
    total: int = 8 * GIB
    looks: int = 0

    def mem_get_info(self) -> tuple[int, int]:
        self.looks += 1
        return self.free[min(self.looks, len(self.free)) - 1], self.total


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu([GIB])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", made.mem_get_info)
    monkeypatch.setattr(room, "POLL_SECONDS", 0.0)
    return made


def test_a_run_waits_until_its_memory_is_free_and_says_so_once(gpu: Gpu, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.free = [GIB, 2 * GIB, 3 * GIB, 5 * GIB]
    assert wait_for_room(4 * GIB, "auto")
    assert gpu.looks == 4
    assert capsys.readouterr().err == "waiting for memory: the run needs 4.0 GiB, the device has 1.0 GiB free\n"


def test_a_run_that_has_room_does_not_wait(gpu: Gpu, capsys: pytest.CaptureFixture[str]) -> None:
    assert wait_for_room(GIB, "auto")
    assert gpu.looks == 1 and not capsys.readouterr().err


def test_a_run_that_has_waited_for_an_hour_is_tried(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "PATIENCE_SECONDS", 0.0)
    assert not wait_for_room(4 * GIB, "cuda")
    assert "starting all the same" in capsys.readouterr().err


def test_a_cpu_has_no_memory_of_its_own(gpu: Gpu) -> None:
    assert free_memory("cpu") is None
    assert wait_for_room(1 << 60, "cpu")


def test_runs_share_a_device_as_far_as_what_they_need_is_known_and_fits() -> None:
    assert fits(9, [], 8, trusting=False), "alone it is tried"
    assert fits(4, [4], 8, trusting=False)
    assert not fits(4, [5], 8, trusting=True)
    assert not fits(None, [1], 8, trusting=False) and not fits(1, [None], 8, trusting=False)
    assert fits(None, [1], 8, trusting=True)
    assert fits(9, [9], None, trusting=False), "a CPU"


def test_auto_is_one_run_a_core_or_four_a_gpu_whatever_is_left_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cores", lambda: 16)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots_for("auto", Runtime()) == 16
    assert slots_for(3, Runtime()) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert slots_for("auto", Runtime()) == 2 * SLOTS_OF_A_GPU
    assert slots_for("auto", Runtime(device="cpu")) == 16
    monkeypatch.setattr(local, "cores", lambda: 1)
    assert slots_for("auto", Runtime()) == 2


# Slots that share a device --------------------------------------------------------------------------------------------


@dataclass
class Process:
    """Stands for a slot's process; its end of the line."""

    alive: bool = True
    exitcode: int | None = None
    told: list[Start] = field(default_factory=list)

    def is_alive(self) -> bool:
        return self.alive

    def join(self, timeout: float | None = None) -> None: ...

    def send(self, start: Start) -> None:
        self.told.append(start)


@pytest.fixture
def folders(tmp_path: Path) -> list[RunFolder]:
    """Four prepared runs of one cell."""
    return [RunFolder(p.parent) for p in sorted(make_study(tmp_path, seeds=4).glob("*/trial.json"))]


@dataclass
class Scene:
    """A pool with slots that are fakes, and the records that it has called finished."""

    pool: SlotPool
    processes: list[Process]
    ended: dict[str, str]

    def say(self, number: int, answer: Ready | Record) -> None:
        """Let a slot say something, then hand out."""
        slot = self.pool.slots[number]
        if isinstance(answer, Ready):
            self.pool.note_ready(slot, answer)
        else:
            self.pool.end_run(slot, answer)
        self.pool.hand_out()

    def at_work(self) -> list[int]:
        return [number for number, slot in enumerate(self.pool.slots) if slot.run]


def scene(folders: list[RunFolder], devices: list[str], *, trusting: bool) -> Scene:
    processes, ended = [Process() for _ in devices], dict[str, str]()

    def finished(folder: RunFolder, record: Record) -> None:
        ended[folder.path.name] = record.status

    queue = RunQueue.of(folders, Runtime(), len(devices))
    pool = SlotPool(queue, lambda number: pytest.fail("no slot has died"), finished, trusting=trusting)
    for process, device in zip(processes, devices, strict=True):
        pool.slots.append(Slot(process, process, device=device))  # type: ignore[arg-type]
    return Scene(pool, processes, ended)


def ready(made: Scene, free: int | None) -> None:
    for slot in made.pool.slots:
        made.pool.note_ready(slot, Ready(free, {}))
    made.pool.hand_out()


def ended(folder: RunFolder, *, peak: int = GIB, **more: Any) -> Record:
    trial = folder.trial()
    told = {"status": FINISHED, "configuration": trial.configuration, "wall_seconds": 1.0, "peak_memory_bytes": peak}
    at = {"device_batch": trial.recipe.group_size, "hardware": Hardware(device="A GPU")}
    return Record(**{**told, **at, **more})


def test_with_auto_the_first_run_is_alone_until_its_peak_is_known(
    folders: list[RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    made = scene(folders, ["0"] * 4, trusting=False)
    ready(made, 3 * GIB)
    assert made.at_work() == [0]
    made.pool.hand_out()
    assert capsys.readouterr().err.count("waits until its GPU has room beside 1 runs") == 1
    made.say(0, ended(folders[0]))
    assert made.at_work() == [0, 1], "2 x 1.25 GiB of 3"
    (start,) = made.processes[1].told
    assert start.need == int(GIB * MARGIN)
    made.say(0, ended(folders[1]))
    made.say(1, ended(folders[2]))
    made.say(0, ended(folders[3]))
    assert not made.at_work() and len(made.ended) == 4


def test_with_a_number_of_jobs_so_many_start_at_once_unless_they_are_known_not_to_fit(folders: list[RunFolder]) -> None:
    made = scene(folders, ["0"] * 3, trusting=True)
    ready(made, 3 * GIB)
    assert made.at_work() == [0, 1, 2]
    made.say(0, ended(folders[0], peak=2 * GIB))
    assert made.at_work() == [1, 2]
    made.say(1, ended(folders[1], peak=2 * GIB))
    made.say(2, ended(folders[2], peak=2 * GIB))
    assert len(made.at_work()) == 1, "alone it is tried"


def test_each_gpu_has_its_own_memory_and_a_cpu_none(folders: list[RunFolder]) -> None:
    made = scene(folders, ["0", "1", "0", "1"], trusting=False)
    ready(made, GIB)
    assert made.at_work() == [0, 1]
    on_cpu = scene(folders, [""] * 4, trusting=False)
    ready(on_cpu, None)
    assert on_cpu.at_work() == [0, 1, 2, 3]


def test_a_slot_never_waits_for_more_than_a_device_with_idle_slots_can_give(folders: list[RunFolder]) -> None:
    made = scene(folders, ["0", "0"], trusting=False)
    made.pool.queue.known.learn(ended(folders[0], peak=100 * GIB))
    ready(made, 8 * GIB)
    (start,) = made.processes[0].told
    assert start.need == int(8 * GIB * MOST_OF_FREE)


def test_a_run_that_lacked_memory_beside_others_goes_on_alone_and_that_is_noted(
    folders: list[RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    made = scene(folders, ["0", "0"], trusting=True)
    ready(made, 8 * GIB)
    lost = made.pool.slots[1].run
    assert lost is not None
    failure = Record(status=FAILED, error_kind=OUT_OF_MEMORY, error="CUDA out of memory")
    made.say(1, failure)
    assert lost.folder.path.name not in made.ended, "it is no failure of the study's yet"
    (line,) = map(json.loads, (lost.folder.path / PUT_BACK).read_text().splitlines())
    assert line["beside"] == [made.pool.slots[0].run.folder.path.name]  # type: ignore[union-attr]
    assert "lacked memory beside other runs" in capsys.readouterr().err
    while made.pool.slots[0].run or made.pool.slots[1].run:
        number = made.at_work()[0]
        slot = made.pool.slots[number]
        if slot.run and slot.run.alone:
            assert len(made.at_work()) == 1 and len(made.ended) == 3
        made.say(number, ended(folders[0]))
    assert made.ended[lost.folder.path.name] == FINISHED and len(made.ended) == 4


def test_a_run_that_lacks_memory_alone_has_failed(folders: list[RunFolder]) -> None:
    made = scene(folders[:1], ["0", "0"], trusting=True)
    ready(made, 8 * GIB)
    made.say(0, Record(status=FAILED, error_kind=OUT_OF_MEMORY, error="CUDA out of memory"))
    assert list(made.ended.values()) == [FAILED] and not made.at_work()
    assert not (folders[0].path / PUT_BACK).exists()


def test_a_slot_that_dies_before_it_can_train_costs_one_run_and_another_takes_its_place(
    folders: list[RunFolder],
) -> None:
    made = scene(folders, ["", ""], trusting=True)
    opened: list[int] = []

    def reopen(number: int) -> Slot:
        opened.append(number)
        return Slot(Process(), Process(), ready=True)  # type: ignore[arg-type]

    made.pool.open = reopen
    made.processes[0].alive, made.processes[0].exitcode = False, 1
    made.pool.take_death(made.pool.slots[0])
    assert list(made.ended.values()) == [FAILED]
    (name,) = made.ended
    record = next(folder for folder in folders if folder.path.name == name).record()
    assert record is not None and record.error is not None and "its process ended with exit code 1" in record.error
    made.say(1, Ready(None, {}))
    assert opened == [0] and made.at_work() == [1]
    made.pool.hand_out()
    assert made.at_work() == [0, 1]


def test_what_a_slot_has_counted_decides_the_order(folders: list[RunFolder]) -> None:
    made = scene(folders, [""], trusting=True)
    network = made.pool.queue.waiting[0].network
    made.say(0, Ready(None, {network: 7}))
    assert made.pool.queue.known.macs == {network: 7}
    assert made.pool.queue.waiting and made.at_work() == [0]


# A real GPU -----------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def hold(size: int, held: Any, enough: Any) -> None:
    """Keep so much of the GPU until told that it is enough. For a process of its own."""
    kept = torch.empty(size, dtype=torch.uint8, device="cuda")
    held.set()
    enough.wait(60)
    del kept


@pytest.mark.gpu
@needs_gpu
def test_a_run_waits_while_another_program_holds_the_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = free_memory("cuda")
    assert free is not None
    context = multiprocessing.get_context("spawn")
    held, enough = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(free // 2, held, enough))
    holder.start()
    assert held.wait(60)

    def give_back(_seconds: float) -> None:
        enough.set()
        holder.join(60)

    monkeypatch.setattr(room.time, "sleep", give_back)
    assert wait_for_room(free * 3 // 4, "cuda")
    assert enough.is_set() and "waiting for memory" in capsys.readouterr().err


@pytest.mark.gpu
@needs_gpu
def test_runs_share_a_gpu_and_leave_the_peaks_that_the_next_are_admitted_by(tmp_path: Path) -> None:
    study = make_study(tmp_path, seeds=3)
    runs = [RunFolder(p.parent) for p in sorted(study.glob("*/trial.json"))]
    ended: list[str] = []
    run_side_by_side(runs, Runtime(), jobs="auto", force=False, finished=lambda _, record: ended.append(record.status))
    assert ended == [FINISHED] * 3
    queue = RunQueue.of(runs, Runtime(), 2)
    assert all(queue.need(run) for run in queue.waiting)
