"""A run killed anywhere and started again ends as if it had never stopped: the same bits on a CPU."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import roadmap.data.pipeline
import roadmap.train.criterion
import roadmap.train.execute
import roadmap.train.updates
from roadmap.config.runtime import Runtime
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError
from roadmap.train import checkpoints
from roadmap.train.execute import execute
from roadmap.train.loop import Trainer
from tests.helpers.marks import slow_but
from tests.helpers.small_runs import hash_of, in_child, make_run, make_trial, on_ranks, train

ITERATIONS = 18  # of make_trial: 2 epochs of 1,166 // 128


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RunFolder]:
    """Hash and folder of the run that nothing happened to."""
    folder = make_run(tmp_path_factory.mktemp("undisturbed"), make_trial())
    assert train(folder).status == "finished"
    return hash_of(folder), folder


def train_until(folder: RunFolder, iteration: int, act: Callable[[], object], **runtime: object) -> None:
    """Train, and let something happen in the middle of an iteration: after a forward pass, before the update.

    For a process of its own.
    """
    plain, acted = Trainer.group_loss, []

    def group_loss(self: Trainer, *args: object) -> object:
        loss = plain(self, *args)
        if self.iteration == iteration and not acted:
            acted.append(True)
            act()
        return loss

    Trainer.group_loss = group_loss  # type: ignore[method-assign,assignment]
    train(folder, **runtime)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def timeless(folder: RunFolder) -> list[dict[str, object]]:
    """The run's metrics without what depends on the clock."""
    metrics = folder.metrics()
    for line in metrics:
        del line["images_per_second"], line["waiting_share"]
    return metrics


def ends_as(folder: RunFolder, undisturbed: tuple[str, RunFolder]) -> None:
    expected, other = undisturbed
    record = train(folder)
    assert record.status == "finished"
    assert hash_of(folder) == expected
    assert [m["epoch"] for m in folder.metrics()] == [1, 2]
    assert timeless(folder) == timeless(other)
    assert (folder.path / "losses.jsonl").read_bytes() == (other.path / "losses.jsonl").read_bytes()


def signalled_at(folder: RunFolder, iteration: int, number: int) -> None:
    train_until(folder, iteration, lambda: os.kill(os.getpid(), number))


def status_of(folder: RunFolder) -> str | None:
    record = folder.record()
    return record.status if record else None


def killed_at(folder: RunFolder, iteration: int) -> int:
    return in_child(lambda: train_until(folder, iteration, kill_self))


@pytest.mark.sampled(0, ci=1)
@pytest.mark.parametrize("iteration", random.Random(0).sample(range(ITERATIONS), 3))
def test_a_run_killed_at_any_iteration_ends_with_the_same_bits(
    iteration: int, tmp_path: Path, undisturbed: tuple[str, RunFolder]
) -> None:
    folder = make_run(tmp_path, make_trial())
    assert killed_at(folder, iteration) == -signal.SIGKILL, folder.record()
    ends_as(folder, undisturbed)


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("case", range(20))
def test_a_run_killed_at_twenty_random_points_and_again_ends_with_the_same_bits(
    case: int, tmp_path: Path, undisturbed: tuple[str, RunFolder]
) -> None:
    folder = make_run(tmp_path, make_trial())
    first, second = sorted(random.Random(100 + case).sample(range(ITERATIONS), 2))
    assert killed_at(folder, first) == -signal.SIGKILL
    assert killed_at(folder, second) == -signal.SIGKILL
    ends_as(folder, undisturbed)


CALLS = list(itertools.product(("fsync", "replace"), range(1, 7)))


@pytest.mark.sampled(0, ci=4)
@pytest.mark.parametrize(("call", "count"), CALLS)
def test_a_run_killed_inside_a_save_ends_with_the_same_bits(
    call: str, count: int, tmp_path: Path, undisturbed: tuple[str, RunFolder]
) -> None:
    """Killed before the count-th fsync or rename.

    Each save makes two files whole (checksum, checkpoint), each with two fsyncs and one rename.
    """
    folder = make_run(tmp_path, make_trial())
    code = in_child(lambda: killed_inside_a_save(folder, call, count))
    assert code == (-signal.SIGKILL if call == "fsync" or count <= 4 else 0)  # two saves: four renames
    ends_as(folder, undisturbed)


def killed_inside_a_save(folder: RunFolder, call: str, count: int, **runtime: object) -> None:
    """Train until the count-th fsync or rename of a checkpoint. For a process of its own."""
    plain, seen = getattr(os, call), 0

    def stop_here(*args: object) -> object:
        nonlocal seen
        seen += "checkpoint-" in str(args[0]) if call == "replace" else _is_checkpoint(args[0])
        if seen == count:
            assert threading.current_thread() is not threading.main_thread(), "training goes on meanwhile"
            kill_self()
        return plain(*args)

    setattr(os, call, stop_here)
    train(folder, **runtime)


def _is_checkpoint(descriptor: object) -> bool:
    return "checkpoint" in os.readlink(f"/proc/self/fd/{descriptor}")


@pytest.mark.sampled(0, ci=1)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_stop_signal_saves_at_the_boundary_and_the_run_goes_on_from_there(
    number: int, tmp_path: Path, undisturbed: tuple[str, RunFolder]
) -> None:
    folder = make_run(tmp_path, make_trial())
    assert in_child(lambda: signalled_at(folder, 4, number)) == 0
    record = folder.record()
    assert record is not None
    assert record.status == "interrupted", record.error
    assert (
        record.error == f"stopped by {signal.Signals(number).name} at iteration 5 of 18; saved; start it again to go on"
    )
    assert [p.name for p in folder.checkpoints.glob("*.pt")] == ["checkpoint-000000005.pt"]
    ends_as(folder, undisturbed)
    assert folder.record().attempts == 2  # type: ignore[index]


@pytest.mark.slow
def test_a_signal_before_the_first_iteration_loses_nothing(tmp_path: Path, undisturbed: tuple[str, RunFolder]) -> None:
    folder = make_run(tmp_path, make_trial())
    assert in_child(lambda: signalled_at(folder, 0, signal.SIGTERM)) == 0
    ends_as(folder, undisturbed)


def ends_early(folder: RunFolder, iteration: int, act: Callable[[], object]) -> float:
    """Let `act` end an attempt by whose clock a second is an hour; the wall time it left behind."""

    def attempt() -> None:
        roadmap.train.execute.time = SimpleNamespace(monotonic=lambda: 3600 * time.monotonic())  # type: ignore[assignment]
        train_until(folder, iteration, act)

    in_child(attempt)
    known = (folder.heartbeat() or {})["wall_seconds"]
    assert known > 120, "more than the next attempt can take"
    return float(known)


def wall_seconds(folder: RunFolder, *, force: bool = False) -> tuple[float, float]:
    """Train to the end: what the record says it took, and what this attempt took."""
    started = time.monotonic()
    record = execute(folder, Runtime(), force=force)
    assert record.status == "finished"
    return record.wall_seconds, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "left"),
    slow_but(
        lambda act, left: left is None,
        [(kill_self, None), (lambda: os.kill(os.getpid(), signal.SIGTERM), "interrupted"), (lambda: 1 / 0, "failed")],
    ),
)
def test_the_time_of_attempts_that_were_killed_stopped_or_failed_is_counted_once(
    act: Callable[[], object], left: str | None, tmp_path: Path
) -> None:
    folder = make_run(tmp_path, make_trial())
    first = ends_early(folder, 12, act)
    assert status_of(folder) == left
    known = ends_early(folder, 15, kill_self)
    assert known > first, "the count goes on, and each heartbeat says it"
    assert status_of(folder) == left
    total, last = wall_seconds(folder)
    assert known <= total <= known + last


@pytest.mark.slow
def test_a_heartbeat_is_not_behind_the_checkpoint_so_that_the_time_of_what_is_in_it_is_known(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial())
    killed_at(folder, 12)
    assert (folder.heartbeat() or {})["iteration"] >= folder.newest_checkpoint() == 9


def killed_with_checkpoints_by_time(folder: RunFolder, iteration: int) -> None:
    """Killed at an iteration, as often saved before as the writer could; each save is on disk soon."""

    def work() -> None:
        Trainer.step = slow(Trainer.step)  # type: ignore[method-assign,assignment]
        train_until(folder, iteration, kill_self, checkpoint_minutes=0.0)

    assert in_child(work) == -signal.SIGKILL


def slow(step: Callable[..., object]) -> Callable[..., object]:
    """Leave the thread that writes the time it needs."""

    def act(*args: object) -> object:
        time.sleep(0.1)
        return step(*args)

    return act


@pytest.mark.slow
def test_checkpoints_by_time_fall_within_epochs_and_change_no_bit(
    tmp_path: Path, undisturbed: tuple[str, RunFolder]
) -> None:
    folder = make_run(tmp_path, make_trial())
    killed_with_checkpoints_by_time(folder, 7)
    assert (folder.heartbeat() or {})["iteration"] >= folder.newest_checkpoint() >= 2
    ends_as(folder, undisturbed)
    assert (folder.path / "attempts.jsonl").read_text().count("from_iteration") == 2


@pytest.mark.sampled(0, ci=1)
@pytest.mark.parametrize("case", range(4))
def test_a_run_killed_while_a_checkpoint_by_time_is_written_ends_with_the_same_bits(
    case: int, tmp_path: Path, undisturbed: tuple[str, RunFolder]
) -> None:
    folder, draw = make_run(tmp_path, make_trial()), random.Random(case)
    call, count = draw.choice(["fsync", "replace"]), draw.randrange(1, 12)
    assert in_child(lambda: killed_inside_a_save(folder, call, count, checkpoint_minutes=0.0)) == -signal.SIGKILL
    ends_as(folder, undisturbed)


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_thread_fails_the_run_which_goes_on_when_there_is_room(
    tmp_path: Path, undisturbed: tuple[str, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path, make_trial())

    def full(*_: object) -> None:
        raise RunError("checkpoint-000000009.pt cannot be written (9 bytes): No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.CheckpointStore, "save", full)
        record = train(folder)
    assert (record.status, record.error) == (
        "failed",
        "checkpoint-000000009.pt cannot be written (9 bytes): No space left on device",
    )
    ends_as(folder, undisturbed)


def hash_on_two_ranks(folder: RunFolder, **runtime: object) -> str:
    on_ranks(2, lambda: train(folder, **runtime) and None)
    assert status_of(folder) == "finished"
    return hash_of(folder)


@pytest.mark.soak
@pytest.mark.slow
def test_when_two_ranks_evaluate_and_save_changes_no_bit_of_their_batchnorm_statistics(tmp_path: Path) -> None:
    trial = make_trial("inverted-bottleneck", epochs=7, warmup_epochs=0)
    often = hash_on_two_ranks(make_run(tmp_path / "often", trial), checkpoint_minutes=0.0)
    assert often == hash_on_two_ranks(make_run(tmp_path / "rarely", trial), eval_every=7, checkpoint_every=7)


@pytest.mark.slow
def test_two_ranks_stopped_within_an_epoch_end_with_the_same_bits(tmp_path: Path) -> None:
    """Each rank has BatchNorm statistics of its own there. Only one is told, after the ranks agreed that they are fast:
    they agree again after ten iterations."""
    trial = make_trial("inverted-bottleneck", batch_size=64, group_size=32)
    whole, stopped = make_run(tmp_path / "whole", trial), make_run(tmp_path / "stopped", trial)

    def tell_one() -> None:
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    on_ranks(2, lambda: train_until(stopped, 4, tell_one))
    assert (status_of(stopped), stopped.newest_checkpoint()) == ("interrupted", 10)
    assert stopped.record().error.startswith("stopped by another rank at iteration 10 of 36")  # type: ignore[union-attr]
    assert hash_on_two_ranks(stopped) == hash_on_two_ranks(whole)


@pytest.mark.sampled(0, ci=1)
@pytest.mark.parametrize("heartbeat", ['{"state": "running"}', "", None])
def test_negative_control_without_its_heartbeat_a_killed_attempt_is_not_counted_but_resumed(
    heartbeat: str | None, tmp_path: Path
) -> None:
    """An old heartbeat, a torn one, none."""
    folder = make_run(tmp_path, make_trial())
    ends_early(folder, 12, kill_self)
    path = folder.path / "heartbeat.json"
    path.unlink() if heartbeat is None else path.write_text(heartbeat)
    total, last = wall_seconds(folder)
    assert total <= last
    assert folder.record().attempts == 2  # type: ignore[index]


@pytest.mark.slow
def test_a_forced_run_counts_its_time_anew(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial())
    ends_early(folder, 12, kill_self)
    total, last = wall_seconds(folder, force=True)
    assert total <= last


def leave_generators_to_their_state() -> None:
    roadmap.train.updates.seed_group = lambda *args: 0
    roadmap.data.pipeline.seed_all = lambda seed: None
    roadmap.train.criterion.np.random.seed = lambda seed: None  # type: ignore[assignment]


@pytest.mark.slow
def test_negative_control_with_draws_from_generator_state_a_resumed_run_differs(tmp_path: Path) -> None:
    """What the equality rests on: derived seeds. With generators left to their state, kill and resume is noticed."""
    whole, broken = make_run(tmp_path / "whole", make_trial()), make_run(tmp_path / "broken", make_trial())
    assert in_child(lambda: (leave_generators_to_their_state(), train(whole))) == 0
    assert in_child(lambda: (leave_generators_to_their_state(), train_until(broken, 12, kill_self))) == -signal.SIGKILL
    assert in_child(lambda: (leave_generators_to_their_state(), train(broken))) == 0
    assert hash_of(broken) != hash_of(whole)


@pytest.mark.slow
def test_other_settings_of_the_machine_continue_the_same_run(
    tmp_path: Path, undisturbed: tuple[str, RunFolder]
) -> None:
    folder = make_run(tmp_path, make_trial())
    killed_at(folder, 11)
    train(folder, workers=1, checkpoint_every=2, checkpoint_minutes=0.0)  # loaders fork while the thread writes
    assert hash_of(folder) == undisturbed[0]


@pytest.mark.slow
def test_checkpoints_are_written_every_n_epochs_and_the_last_two_kept(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(epochs=4))
    train(folder)
    assert [p.name for p in sorted(folder.checkpoints.glob("*.pt"))] == [
        "checkpoint-000000027.pt",
        "checkpoint-000000036.pt",
    ]
    assert len(list(folder.checkpoints.iterdir())) == checkpoints.KEEP * 2
