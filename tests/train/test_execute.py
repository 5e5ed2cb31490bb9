"""Every run leaves a record, is trained by one process, and is never trained twice by accident."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import roadmap
from roadmap.cli.main import main
from roadmap.config.errors import ConfigError, DataError
from roadmap.config.runtime import Runtime
from roadmap.data.opened import OpenedImages
from roadmap.data.pipeline import Pipeline, Samples
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import RunError, read_lines
from roadmap.runs.provenance import git_state
from roadmap.train.circumstances import earlier_circumstances, note_attempt, previous_results
from roadmap.train.distributed import Ranks
from roadmap.train.evaluate import evaluate
from roadmap.train.execute import execute, set_aside
from roadmap.train.loop import Trainer
from tests.helpers.small_runs import child, exit_codes, hash_of, in_child, make_run, make_trial, train

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


@pytest.mark.slow
def test_a_finished_trial_is_not_trained_again_unless_forced_and_then_nothing_is_lost(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(**SHORT))
    first = train(folder)
    before = hash_of(folder)
    assert train(folder) == first
    again = execute(folder, Runtime(), force=True)
    assert again.finished_at >= first.finished_at
    assert hash_of(folder) == before, "the same trial trained again gives the same bits"
    assert json.loads((folder.path / "previous" / "1" / "record.json").read_text()) == first.to_json()
    (before,) = again.previous
    assert (before["status"], before["metrics"]) == ("finished", dict(first.metrics))


def test_results_that_were_set_aside_are_told_in_their_order(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial())
    for k in range(11):
        folder.write_record({"status": "finished", "top1": float(k)})
        set_aside(folder)
    (folder.path / "previous" / "4" / "record.json").unlink()  # one that was killed left none
    assert [one["metrics"]["top1"] for one in previous_results(folder)] == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_threads_or_other_data_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(epochs=1))
    start = {"time": "", "from_iteration": 0, "hardware": {"device": "cpu", "cpu": "another", "cores": 2, "threads": 7}}
    folder.append("attempts.jsonl", start)
    folder.append("data.jsonl", {"train": "pixels-all:other"})
    record = train(folder)
    hardware, data = record.earlier  # type: ignore[attr-defined]
    assert hardware["hardware"]["threads"] == 7 and data == {"data_contents": {"train": "pixels-all:other"}}


def test_an_attempt_that_compiled_its_network_is_told_of_a_run_that_goes_on_without(tmp_path: Path) -> None:
    trial, ranks = make_trial(**SHORT), Ranks.start("cpu")
    folder = make_run(tmp_path, trial)
    note_attempt(folder, trial, Runtime(), ranks)
    assert earlier_circumstances(folder, ranks, trial, Runtime()) == ()
    note_attempt(folder, trial, Runtime(compile=True, compile_mode="max-autotune"), ranks)
    (compiled,) = earlier_circumstances(folder, ranks, trial, Runtime())
    assert (compiled["compile"], compiled["compile_mode"]) == (True, "max-autotune")


@pytest.mark.parametrize(("machine", "told"), [({"compile": True}, [True]), ({"compile": False}, []), ({}, [])])
def test_attempts_of_before_say_what_was_compiled_among_the_machines_settings(
    machine: dict[str, bool], told: list[bool], tmp_path: Path
) -> None:
    trial, ranks = make_trial(**SHORT), Ranks.start("cpu")
    folder = make_run(tmp_path, trial)
    note_attempt(folder, trial, Runtime(), ranks)
    (line,) = read_lines(folder.path / "attempts.jsonl")[0]
    older = {name: value for name, value in line.items() if name not in ("compile", "compile_mode", "channels_last")}
    (folder.path / "attempts.jsonl").write_text(json.dumps({**older, "machine": machine}) + "\n")
    assert [then["compile"] for then in earlier_circumstances(folder, ranks, trial, Runtime())] == told


def test_a_failing_run_leaves_a_record_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadmap.data.pipeline.Samples.__getitem__", lambda self, key: 1 / 0)
    folder = make_run(tmp_path, make_trial(**SHORT))
    record = train(folder)
    assert record.status == "failed"
    assert "ZeroDivisionError: division by zero" in record.error
    assert record.params > 0
    assert folder.record() == record


@pytest.mark.slow
def test_a_runs_bits_are_the_same_whether_it_is_first_or_third_in_its_process(tmp_path: Path) -> None:
    images, trial = OpenedImages(), make_trial(**SHORT)
    before = (make_trial("baseline", seed=3, **SHORT), make_trial(seed=1, **{**SHORT, "crop": "none"}))
    for k, other in enumerate((before[0], trial, before[1], trial)):
        folder = make_run(tmp_path / str(k), other)
        assert execute(folder, Runtime(), images=images).status == "finished"
    alone = make_run(tmp_path / "alone", trial)
    record = execute(alone, Runtime())
    for k in (1, 3):
        later = RunFolder(tmp_path / str(k) / "study" / trial.id)
        assert hash_of(later) == hash_of(alone)
        assert later.record().metrics == record.metrics  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out-of-memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out-of-memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), None),
        (DataError("image 3 cannot be decoded"), None),
    ],
)
def test_a_run_that_lacked_its_devices_memory_says_so_to_its_launcher(
    error: Exception, kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("roadmap.train.execute.open_pipeline", lack)
    record = train(make_run(tmp_path, make_trial(**SHORT)))
    assert (record.status, record.error_kind) == ("failed", kind)


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


@pytest.mark.slow
def test_a_dead_owners_lease_is_free(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(**SHORT))

    def die_holding() -> None:
        with folder.lease():
            os.kill(os.getpid(), 9)

    assert in_child(die_holding) == -9
    assert train(folder).status == "finished"


@pytest.mark.slow
def test_the_best_epoch_is_chosen_on_the_validation_split(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(epochs=3, accuracy="best", ema_decay=None))
    record = train(folder)
    top1 = [m["top1"] for m in folder.metrics()]
    assert record.accuracy_epoch == top1.index(max(top1)) + 1
    assert record.test_images == 500


def spoil_the_last_epoch(monkeypatch: pytest.MonkeyPatch, *, then: BaseException | None = None) -> None:
    """Make the weights useless before the last epoch's end, so that the best epoch is another one."""
    plain = Trainer.step

    def step(self: Trainer, *args: object) -> None:
        plain(self, *args)  # type: ignore[arg-type]
        if self.iteration == self.total - 1 and then:
            raise then
        if self.iteration == self.total:
            for p in [*self.preferred.parameters(), *self.model.parameters()]:
                p.data.zero_()

    monkeypatch.setattr(Trainer, "step", step)


def accuracy_of_file(folder: RunFolder, part: str) -> float:
    """Top-1 of the weights that a run has left, on its own split."""
    trial = folder.trial()
    pipeline = Pipeline.open(trial)
    model = roadmap.load(folder.path / "weights.safetensors").to(memory_format=torch.channels_last)
    autocast = torch.autocast("cpu", enabled=False)
    return evaluate(model, pipeline.views(part), Ranks(), autocast=autocast, memory_format=torch.channels_last).top1


@pytest.mark.slow
@pytest.mark.parametrize(("ema_decay", "name"), [(None, "top1"), pytest.param(0.5, "ema_top1", marks=pytest.mark.slow)])
def test_the_best_epochs_weights_are_saved_and_give_the_accuracies_that_are_reported(
    ema_decay: float | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path, make_trial(epochs=3, accuracy="best", ema_decay=ema_decay))
    if ema_decay is None:
        with monkeypatch.context() as patch:
            spoil_the_last_epoch(patch, then=RuntimeError("in the last epoch"))
            assert train(folder).status == "failed"  # the best epoch's weights come out of a checkpoint
    spoil_the_last_epoch(monkeypatch)
    record = train(folder)
    assert (record.status, record.accuracy_epoch) == ("finished", 2)
    assert record.metrics[name] > 15
    assert accuracy_of_file(folder, "test") == record.metrics[name]
    noted = folder.metrics()[record.accuracy_epoch - 1]
    assert record.metrics["validation_top1"] == noted["top1"]
    assert accuracy_of_file(folder, "validation") == noted[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("validation", "expected"),
    [(0.0, ["test"] * 2), pytest.param(0.1, ["validation"] * 2 + ["test"], marks=pytest.mark.slow)],
)
def test_no_split_is_evaluated_twice_at_the_end(
    validation: float, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, plain = [], Trainer.evaluate
    monkeypatch.setattr(Trainer, "evaluate", lambda self, part: seen.append(part) or plain(self, part))
    trial = make_trial()
    folder = make_run(tmp_path, replace(trial, data=replace(trial.data, validation=validation)))
    record = train(folder)
    assert seen == expected
    if not validation:
        assert record.metrics["top1"] == folder.metrics()[-1]["top1"]


@pytest.mark.slow
def test_epochs_between_evaluations_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadmap.config.runtime.EVALUATED_AT_END", 1)
    trial = make_trial(epochs=2, ema_decay=None)
    each, rarely = make_run(tmp_path / "each", trial), make_run(tmp_path / "rarely", trial)
    first, second = train(each), train(rarely, eval_every=2)
    assert [(m["epoch"], "top1" in m) for m in rarely.metrics()] == [(1, False), (2, True)]
    assert hash_of(rarely) == hash_of(each)
    assert second.metrics == first.metrics


def test_the_last_five_epochs_are_evaluated_each() -> None:
    sparse = Runtime(eval_every=4)
    assert [e for e in range(1, 13) if sparse.evaluates(e, 12)] == [4, 8, 9, 10, 11, 12]


def test_a_recipe_that_reports_its_best_epoch_needs_each_evaluated(tmp_path: Path) -> None:
    record = train(make_run(tmp_path, make_trial(accuracy="best")), eval_every=2)
    assert record.status == "failed"
    assert "--eval-every is 2, but recipe 'digits-adamw' reports the best epoch" in record.error
    assert "legal: 1; leave --eval-every out" in record.error


def fail_on_rank_one() -> None:
    """Let rank 1 come upon an image that cannot be decoded. For a process of its own."""
    plain = Samples.__getitem__

    def corrupt(self: Samples, key: tuple[int, int]) -> object:
        if os.environ["RANK"] == "1":
            raise DataError("image /data/1.jpg cannot be decoded; legal: whole images; replace or remove it")
        return plain(self, key)

    Samples.__getitem__ = corrupt  # type: ignore[method-assign,assignment]


def names_the_image(folder: RunFolder) -> None:
    record = folder.record()
    assert record is not None
    assert (record.status, record.error_kind) == ("failed", None)
    assert record.error == "rank 1: image /data/1.jpg cannot be decoded; legal: whole images; replace or remove it"


@pytest.mark.slow
def test_the_cause_of_a_rank_that_fails_is_in_the_record_and_of_an_earlier_attempt_nothing_is_left(
    tmp_path: Path,
) -> None:
    folder = make_run(tmp_path, make_trial(**SHORT))
    exit_codes(2, lambda: (fail_on_rank_one(), train(folder)))
    names_the_image(folder)
    assert exit_codes(2, lambda: train(folder) and None) == [0, 0]
    assert folder.record().status == "finished"  # type: ignore[union-attr]
    assert not list((folder.path / "ranks").glob("*"))


@pytest.mark.slow
def test_each_rank_of_a_failed_run_exits_with_an_error(tmp_path: Path) -> None:
    arguments = ("--step", "9", "--regime", "micro", "--recipe", "cifar-adamw", "--epochs", "1", "--name", "ranks")

    def work() -> None:
        fail_on_rank_one()
        sys.exit(main(["run", *arguments, "--runs", str(tmp_path)]))

    assert exit_codes(2, work) == [1, 1]
    [record] = tmp_path.glob("ranks/*/record.json")
    names_the_image(RunFolder(record.parent))


@pytest.mark.slow
def test_a_rank_that_is_killed_leaves_the_others_with_a_lost_peer_and_no_cause_of_their_own(tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(**SHORT))

    def work() -> None:
        plain = Trainer.group_loss

        def die(self: Trainer, *args: object) -> object:
            if self.ranks.rank == 1 and self.iteration == 3:
                os.kill(os.getpid(), 9)
            return plain(self, *args)  # type: ignore[arg-type]

        Trainer.group_loss = die  # type: ignore[method-assign,assignment]
        sys.exit(0 if train(folder).status == "finished" else 1)

    assert exit_codes(2, work) == [1, -9]
    record = folder.record()
    assert record is not None
    assert (record.status, record.error_kind) == ("failed", "lost-peer")
    assert not list((folder.path / "ranks").glob("*"))


@pytest.mark.slow
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
