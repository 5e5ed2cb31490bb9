"""Ways of fooling the proof end 'confounded', with the reason in words; what decides no outcome stays 'controlled'."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.load import gather
from analysis.results.analyse import analyse
from analysis.results.confounds import Cause, Proof, prove
from analysis.study import Run
from roadmap.runs.hits import Hits
from roadmap.runs.record import Record
from tests.helpers.small_runs import make_run, make_trial, train
from tests.helpers.study_files import make_record, runs_of, write_runs
from tests.helpers.study_files import make_trial as plan_trial

DECLARED = ["model.kernel_size"]
FORMATS = {
    "autocast": "none",
    "residual": "float32",
    "matmul": "ieee",
    "convolution": "ieee",
    "cudnn_benchmark": False,
    "cudnn_deterministic": False,
    "deterministic": False,
    "cpu_capability": "AVX2",
    "matmul_precision": "highest",
    "reduced_reduction": None,
    "onednn": True,
    "denormals": True,
    "build": "bbbb",
    "cuda": "12.8",
    "cudnn": "91002",
    "driver": "570.86.15",
    "environment": {},
}
LIBRARIES = {
    "digests": {"torch": "aaaa", "torchvision": "bbbb", "timm": "cccc", "numpy": "dddd", "pillow": "eeee"},
    "edited": {},
    "patched": {},
    "startup": {},
}
HITS = Hits.of(np.arange(500) < 450)
WHOLE: dict[str, Any] = {
    "code_digest": "2:aaaa",
    "workers": 0,
    "packages": {"torch": "2.11.0+cu128", "timm": "1.0.31", "scikit-learn": "1.9.1"},
    "libraries": LIBRARIES,
    "formats": FORMATS,
    "data_contents": {"train": "pixels-all:aa", "validation": "pixels-all:bb", "test": "pixels-all:cc"},
    "hits": {"test": HITS.to_json()},
    "test_images": 500,
}


def content(step: str, seed: int, change: dict[str, Any]) -> dict[str, Any]:
    """A record that holds all circumstances, with some of them changed: {'formats': {'cudnn': ...}} goes in depth."""
    whole = make_record(plan_trial(step, seed), **copy.deepcopy(WHOLE))
    for name, value in change.items():
        deep = isinstance(value, dict) and isinstance(whole.get(name), dict)
        whole[name] = {**whole[name], **value} if deep else value
    return whole


def cell(step: str, **change: Any) -> list[Run]:
    return runs_of([content(step, seed, change) for seed in (0, 1)])


def against_parent(**change: Any) -> Proof:
    return prove(cell("kernel-7", **change), cell("move-up-depthwise"), DECLARED)


CPU2 = {"device": "cpu", "cpu": "a CPU", "cores": 2, "threads": 2}
OTHER_TRAIN = {"train": "pixels-all:zz", "validation": "pixels-all:bb", "test": "pixels-all:cc"}
FOOLED: dict[str, tuple[dict[str, Any], str, str]] = {
    "other threads": (
        {"hardware": CPU2},
        "hardware.threads",
        "1 and 2: sums over another number of CPU threads are rounded otherwise",
    ),
    "labels of the training images permuted": (
        {"data_contents": OTHER_TRAIN},
        "data_contents.train.pixels-all",
        "aa and zz: images or labels are not the same, whatever the data set is called",
    ),
    "labels of the validation cut permuted": (
        {"data_contents": {"validation": "pixels-all:zz"}},
        "data_contents.validation.pixels-all",
        "images or labels are not the same",
    ),
    "easier test images": (
        {"data_contents": {"test": "pixels-all:zz"}},
        "data_contents.test.pixels-all",
        "images or labels are not the same",
    ),
    "a library edited in place": (
        {"libraries": {"edited": {"torch/nn/functional.py": "ffff"}}},
        "libraries.edited",
        "files of a library were changed after it was installed",
    ),
    "a loss replaced in memory": (
        {"libraries": {"patched": {"torch.nn.functional.cross_entropy": "sitecustomize.py ffff"}}},
        "libraries.patched",
        "functions of a library were replaced by others",
    ),
    "a start-up module": (
        {"libraries": {"startup": {"sitecustomize": "ffff"}}},
        "libraries.startup",
        "a module that Python starts with may replace anything",
    ),
    "another build under the same version": (
        {"libraries": {"digests": {**LIBRARIES["digests"], "torch": "ffff"}}},
        "libraries.torch",
        "aaaa and ffff: other files under the same version",
    ),
    "another local version": (
        {"packages": {"torch": "2.11.0+cpu"}},
        "packages.torch",
        "2.11.0+cu128 and 2.11.0+cpu",
    ),
    "another source of the data": ({"packages": {"scikit-learn": "1.0"}}, "packages.scikit-learn", "1.9.1 and 1.0"),
    "fewer instructions": (
        {"formats": {"cpu_capability": "DEFAULT"}},
        "formats.cpu_capability",
        "torch computes with other instructions",
    ),
    "coarser products": (
        {"formats": {"matmul_precision": "medium"}},
        "formats.matmul_precision",
        "matrix products are rounded otherwise",
    ),
    "another CUDA": ({"formats": {"cuda": "12.6"}}, "formats.cuda", "12.8 and 12.6"),
    "another cuDNN": ({"formats": {"cudnn": "90100"}}, "formats.cudnn", "91002 and 90100"),
    "another driver": ({"formats": {"driver": "535.1"}}, "formats.driver", "570.86.15 and 535.1"),
    "deterministic algorithms": ({"formats": {"deterministic": True}}, "formats.deterministic", "false and true"),
    "a variable of the environment": (
        {"formats": {"environment": {"MKL_CBWR": "COMPATIBLE"}}},
        "formats.environment",
        "variables that decide arithmetic",
    ),
    "an accuracy written by hand": (
        {"metrics": {"top1": 99.9}, "version": 2},
        "top1 of kernel-7",
        "is recorded as 99.9, and the images that were right make it 90",
    ),
    "a run resumed with other threads": (
        {"earlier": [{"hardware": CPU2}]},
        "hardware.threads",
        "1, 2 within one cell: sums over another number of CPU threads are rounded otherwise",
    ),
    "a run resumed on other data": (
        {"earlier": [{"data_contents": OTHER_TRAIN}]},
        "data_contents.train.pixels-all",
        "aa, zz within one cell: images or labels are not the same",
    ),
}


@pytest.mark.parametrize(("change", "name", "why"), FOOLED.values(), ids=FOOLED)
def test_a_way_of_fooling_the_proof_ends_confounded_with_its_reason(
    change: dict[str, Any], name: str, why: str
) -> None:
    proof = against_parent(**change)
    told = [(confound.name.partition("-seed")[0], confound.text) for confound in proof.confounds]
    assert proof.status == "confounded" and {found for found, _ in told} == {name}
    assert all(why in text for _, text in told), told


def test_another_version_of_a_library_is_told_once() -> None:
    change = {"packages": {"torch": "2.14.0"}, "libraries": {"digests": {**LIBRARIES["digests"], "torch": "ffff"}}}
    assert [confound.name for confound in against_parent(**change).confounds] == ["packages.torch"]


HARMLESS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a commit of the README": {"git_commit": "f" * 40},
    "uncommitted changes elsewhere": {"git_dirty": True},
    "other workers": {"workers": 8},
    "more cores of the same processor": {"hardware": {"device": "cpu", "cpu": "a CPU", "cores": 64, "threads": 1}},
    "slower": {"wall_seconds": 900.0, "images_per_second": 3.0, "waiting_share": 0.5},
    "several attempts": {"attempts": 5, "finished_at": "2026-01-01T00:00:00+00:00"},
    "more memory": {"peak_memory_bytes": 10**12},
    "another study and folder": {"study": "elsewhere", "id": "kernel-7-of-another-folder"},
    "drawn again, which the report says": {"previous": [{"status": "finished", "metrics": {"top1": 80.0}}]},
    "a warm cache": {"extra": {"cache": "warm"}},
    "an older record": dict.fromkeys(("libraries", "formats", "data_contents", "hits")),
    "an older record's hardware": {"hardware": {"threads": None}},
    "digests of unlike kinds": {"data_contents": {"train": "contents-4096:zz"}},
    "resumed as it began": {"earlier": [{"hardware": {"device": "cpu", "cpu": "a CPU", "cores": 8, "threads": 1}}]},
    "one more package that is not used": {"packages": {"datasets": "4.0"}},
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_decides_no_outcome_stays_controlled(change: dict[str, Any]) -> None:
    proof = against_parent(**change)
    assert proof.controlled, proof.reasons


def test_beside_a_gpu_the_threads_of_its_host_are_harmless() -> None:
    gpu = {"device": "NVIDIA H200", "cpu": "a CPU", "cores": 64}
    child = cell("kernel-7", hardware={**gpu, "threads": 4})
    assert prove(child, cell("move-up-depthwise", hardware={**gpu, "threads": 8}), DECLARED).controlled


@pytest.mark.parametrize("declared", ["data.split_seed", "data.validation", "data.digest"])
def test_other_data_that_were_declared_are_no_confounder(declared: str) -> None:
    child, parent = cell("move-up-depthwise", data_contents=OTHER_TRAIN), cell("move-up-depthwise")
    assert not prove(child, parent, [declared]).confounds
    assert prove(child, parent, ["recipe.lr"]).confounds


# In a study ---------------------------------------------------------------------------------------


def test_a_no_op_that_differs_says_what_else_differs(tmp_path: Path) -> None:
    trials = [plan_trial("gelu", 0), plan_trial("gelu", 0, change="no-op")]
    control = {"child": ["gelu", "no-op"], "parent": ["gelu", ""], "declared": [], "kind": "no-op"}

    def values(trial: Any) -> dict[str, Any]:
        return {"top1": 96.8, "hardware": CPU2} if trial.change else {"top1": 98.6}

    folder = write_runs(tmp_path, trials, values, header={"comparisons": [control]})
    (effect,) = [r.effect for r in analyse(gather(folder)).results if r.effect.proof]
    assert effect.proof and [c.cause for c in effect.proof.confounds] == [Cause.DIFFERS, Cause.OUTCOME]
    told = effect.proof.reasons[-1]
    assert told == "top1 98.6 and 96.8 at seed 0: nothing was declared to change, but hardware.threads differs"


def test_a_cell_that_was_drawn_again_is_told_and_no_other(tmp_path: Path) -> None:
    from analysis.report.report import report_study

    before = [{"status": "finished", "metrics": {"top1": 95.25}}, {"status": "failed", "metrics": {}}]
    trials = [plan_trial(step, seed) for step in ("baseline", "recipe") for seed in (0, 1)]

    def texts(previous: list[dict[str, Any]]) -> str:
        out = tmp_path / str(len(previous))
        folder = write_runs(out, trials, lambda t: {"previous": previous} if t.step == "recipe" and t.seed else {})
        report_study(folder, out / "report")
        return (out / "report" / "table.md").read_text()

    assert "Drawn again" not in texts([])
    told = texts(before)
    assert "Drawn again" in told and "recipe 1 time (seed 1 had given 95.25 %)" in told


# With real runs -----------------------------------------------------------------------------------


def permuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give 30 % of the digits the labels of others."""
    import sklearn.datasets

    plain = sklearn.datasets.load_digits

    def load_digits(*args: Any, **kwargs: Any) -> Any:
        bunch = plain(*args, **kwargs)
        chosen = np.random.default_rng(0).permutation(len(bunch.target))[: round(0.3 * len(bunch.target))]
        bunch.target[chosen] = bunch.target[np.random.default_rng(1).permutation(chosen)]
        return bunch

    monkeypatch.setattr(sklearn.datasets, "load_digits", load_digits)


def half_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.nn.functional

    plain = torch.nn.functional.cross_entropy
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *a, **k: 0.5 * plain(*a, **k))


def by_hand(record: Record) -> Record:
    return record.replace(metrics={**record.metrics, "top1": 99.9, "ema_top1": 99.9})


def real_run(path: Path, **runtime: Any) -> Record:
    record: Record = train(make_run(path, make_trial(epochs=1)), **{"threads": 1, **runtime})  # type: ignore[assignment]
    assert record.status == "finished", record.error
    return record


def as_run(record: Record) -> Run:
    (run,) = runs_of([{**record.to_json(), "version": 1, **record.metrics}])
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fool", "runtime", "name"),
    [
        (None, {"threads": 2}, "hardware.threads"),
        (permuted, {}, "data_contents.train.pixels-all"),
        (half_the_loss, {}, "libraries.patched"),
        (None, {"workers": 1}, ""),
    ],
    ids=["threads", "labels", "loss", "workers"],
)
def test_real_runs_are_told_apart(
    fool: Callable[[pytest.MonkeyPatch], None] | None,
    runtime: dict[str, Any],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent = real_run(tmp_path / "parent")
    if fool:
        fool(monkeypatch)
    child = real_run(tmp_path / "another" / "folder", **runtime)
    found = [confound.name for confound in prove([as_run(child)], [as_run(parent)], []).confounds]
    assert found[:1] == ([name] if name else []), found
    assert prove([as_run(by_hand(child))], [as_run(parent)], []).confounds[-1].cause is Cause.CONTRADICTS
