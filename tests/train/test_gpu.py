"""What only a GPU shows: iterations that never wait for the device, bf16, and a diverged run that stops in time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from roadmap.bench.iteration import batches, trainer
from roadmap.config.runtime import Runtime, cores
from roadmap.config.trial import Trial
from roadmap.data.pipeline import Pipeline
from roadmap.ladder import Step
from roadmap.model.block import Block
from roadmap.runs.hits import contradictions
from roadmap.train.checkpoints import CheckpointStore, CheckpointWriter
from roadmap.train.distributed import Ranks
from roadmap.train.graph import WARM_UP
from roadmap.train.loop import CHECK_EVERY_ON_GPU, Trainer
from tests.helpers.convnext import ladder
from tests.helpers.small_runs import make_run, make_trial, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("step", ["baseline", "separate-downsampling"])
def test_an_iteration_never_waits_for_the_device(step: str, precision: str, graph: bool) -> None:
    ours = trainer(step, "cuda", 32, ema_decay=0.999, precision=precision)
    stream = batches(ours.ranks.device, 32)
    if not graph:
        ours.replay = None
    for _ in range(WARM_UP + 1):
        ours.step(stream)
    assert ours.replays is graph
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            ours.step(stream)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("step", ladder(), ids=lambda s: s.name)
def test_every_step_trains_in_bf16(step: object, tmp_path: Path) -> None:
    record = train(make_run(tmp_path, make_trial(step.name, epochs=2)), device="cuda")  # type: ignore[attr-defined]
    assert (record.status, record.precision) == ("finished", "bf16")
    assert record.formats.residual == "float32"
    assert record.hardware.device == torch.cuda.get_device_name()
    assert record.peak_memory_bytes > 0


def test_a_gpu_runs_record_names_its_libraries_and_counts_its_hits(tmp_path: Path) -> None:
    record = train(make_run(tmp_path, make_trial(epochs=1)), device="cuda")
    assert record.formats.cuda == torch.version.cuda  # type: ignore[attr-defined]
    assert record.formats.cudnn == str(torch.backends.cudnn.version())  # type: ignore[attr-defined]
    assert record.formats.driver and record.formats.reduced_reduction  # type: ignore[attr-defined]
    assert set(record.hits) == {"test", "validation"} and not list(contradictions(record))  # type: ignore


def test_a_gpu_run_in_fp32_agrees_with_the_cpu(tmp_path: Path) -> None:
    trial = make_trial(precision="fp32", mixup=0.0, cutmix=0.0, ema_decay=None, settings={"drop_path_rate": 0.0})
    cpu, gpu = (train(make_run(tmp_path / d, trial), device=d) for d in ("cpu", "cuda"))
    assert gpu["loss"] == pytest.approx(cpu["loss"], rel=0.05)


def test_a_loss_that_is_not_finite_stops_the_run_within_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Trainer.group_loss

    def group_loss(self: Trainer, images: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
        return plain(self, images * float("nan") if self.iteration == 3 else images, labels, k)

    monkeypatch.setattr(Trainer, "group_loss", group_loss)
    record = train(make_run(tmp_path, make_trial()), device="cuda", cuda_graph="off")
    assert record.status == "diverged"
    assert CHECK_EVERY_ON_GPU >= 10


@pytest.mark.parametrize("residual", ["fp32", "compute"])
@pytest.mark.parametrize("step", ladder(), ids=lambda s: s.name)
def test_the_residual_stream_has_the_declared_format(step: object, residual: str) -> None:
    name = step.name  # type: ignore[attr-defined]
    ours, seen = trainer(name, "cuda", 8, residual=residual), set()
    for block in (m for m in ours.model.modules() if isinstance(m, Block)):
        block.register_forward_hook(lambda _module, inputs, output: seen.update({inputs[0].dtype, output.dtype}))
    ours.step(batches(ours.ranks.device, 8))
    assert seen == {torch.float32 if residual == "fp32" else torch.bfloat16}


def test_a_compiled_run_drops_the_branches_of_the_eager_one(tmp_path: Path) -> None:
    trial = make_trial(epochs=1, warmup_epochs=0, precision="fp32", settings={"drop_path_rate": 0.5})
    eager, compiled = (train(make_run(tmp_path / str(c), trial), device="cuda", compile=c) for c in (False, True))
    assert compiled.metrics["loss"] == pytest.approx(eager.metrics["loss"], rel=0.02)


def test_a_compiled_run_trains(tmp_path: Path) -> None:
    record = train(
        make_run(tmp_path, make_trial(epochs=1, warmup_epochs=0)), **vars(Runtime(device="cuda", compile=True))
    )
    assert record.status == "finished"


def test_every_core_but_one_loads_and_evaluation_sees_the_cpus_images(tmp_path: Path) -> None:
    record = train(make_run(tmp_path, make_trial(epochs=1, warmup_epochs=0)), device="cuda")
    assert record.workers == max(1, cores() - 1)
    assert record.waiting_share is not None and 0 <= record.waiting_share <= 1
    assert not multiprocessing.active_children()
    trial = make_trial()
    there, here = (Pipeline.open(trial, workers=2, device=torch.device(d)).views("test") for d in ("cuda", "cpu"))
    for (images, labels), (others, same) in zip(there, here, strict=True):
        assert images.is_cuda and torch.equal(images.cpu(), others) and torch.equal(labels.cpu(), same)


def test_a_checkpoint_stops_a_gpu_for_less_than_a_third_of_a_second_and_holds_the_weights_of_its_iteration(
    tmp_path: Path,
) -> None:
    ours = trainer("separate-downsampling", "cuda", 32, ema_decay=0.9999)
    stream = batches(ours.ranks.device, 32)
    ours.step(stream)
    store = CheckpointStore(tmp_path / "checkpoints")
    with CheckpointWriter(store) as writer:
        writer.reserve(ours.state())
        writer.wait()
        expected = [p.detach().clone() for p in ours.model.parameters()]
        torch.cuda.synchronize()
        started = time.monotonic()
        writer.save(ours.state(), 1)
        stop = time.monotonic() - started
        for _ in range(3):
            ours.step(stream)
    saved = store.load(ours.trial.fingerprint)
    assert saved is not None
    for (name, _), weights in zip(ours.model.named_parameters(), expected, strict=True):
        assert torch.equal(saved["model"][name], weights.cpu())
    assert stop < 0.3


# One CUDA graph of an iteration ---------------------------------------------------------------------------------------


@pytest.fixture
def same_algorithms() -> Iterator[None]:
    """Algorithms of cuDNN that give the same bits twice: only then can two ways of an iteration be held together."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def trained(trial: Trial, iterations: int = 2 * WARM_UP + 4, **runtime: Any) -> tuple[dict[str, torch.Tensor], Trainer]:
    """All that so many iterations on the GPU have made."""
    ours = Trainer(trial, Pipeline.open(trial), Ranks.start("cuda"), Runtime(**runtime))
    ours.model.train()
    stream = iter(ours.pipeline.stream(ours.pipeline.sampler()))
    for _ in range(iterations):
        ours.step(stream)
    state = ours.state()
    moments = {f"{i}.{name}": t for i, s in state["optimizer"]["state"].items() for name, t in s.items()}
    made = {**state["model"], **{f"ema.{name}": t for name, t in (state["ema"] or {}).items()}, **moments}
    return {**{name: t.clone() for name, t in made.items()}, "losses": state["losses"]}, ours


def assert_same_bits(trial: Trial, **runtime: Any) -> None:
    """The eager iteration twice, then the graph: its bits must be those that two eager runs share."""
    (eager, _), (again, _) = (trained(trial, cuda_graph="off", **runtime) for _ in range(2))
    replayed, ours = trained(trial, **runtime)
    assert ours.replays and ours.eager_reason is None
    unsteady = [name for name in eager if not torch.equal(eager[name], again[name])]
    assert not unsteady, "the eager iteration itself gives other bits each time"
    assert not [name for name in eager if not torch.equal(eager[name], replayed[name])]


SMALL: dict[str, Any] = {"batch_size": 32, "group_size": 16, "epochs": 1, "warmup_epochs": 0.2}


@pytest.mark.parametrize("step", ladder(side_steps=True), ids=lambda s: s.name)
def test_a_replayed_iteration_has_the_bits_of_the_eager_one(step: Step, same_algorithms: None) -> None:
    assert_same_bits(make_trial(step.name, **SMALL))


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": "sgd", "lr": 0.1, "clip_grad": 1.0},
        {"ema_warmup": True, "ema_decay": 0.999},
        {"mixup": 0.0, "cutmix": 0.0},
        {"group_size": 8, "mix_group_size": 32},
        {"precision": "fp32"},
        {"precision": "fp16"},
    ],
    ids=str,
)
@pytest.mark.parametrize("step", ["inverted-bottleneck", "separate-downsampling"])
def test_a_replayed_iteration_has_the_bits_of_the_eager_one_under_every_recipe(
    step: str, recipe: dict[str, Any], same_algorithms: None
) -> None:
    assert_same_bits(make_trial(step, **{**SMALL, **recipe}))


def test_several_groups_in_a_forward_pass_are_replayed_to_the_same_bits(same_algorithms: None) -> None:
    assert_same_bits(make_trial("inverted-bottleneck", **{**SMALL, "group_size": 8}), micro_batch=16)


def test_a_run_by_graph_evaluates_saves_and_ends_as_the_eager_one(tmp_path: Path, same_algorithms: None) -> None:
    eager, replayed = (
        train(make_run(tmp_path / graph, make_trial()), device="cuda", cuda_graph=graph) for graph in ("off", "auto")
    )
    assert (eager.cuda_graph, eager.eager_because) == (False, "--cuda-graph is off")
    assert (replayed.cuda_graph, replayed.eager_because) == (True, None)
    assert replayed.metrics == eager.metrics


def test_a_network_that_reads_from_the_device_is_trained_eagerly(capsys: pytest.CaptureFixture[str]) -> None:
    trial = make_trial(**SMALL)
    ours = Trainer(trial, Pipeline.open(trial), Ranks.start("cuda"), Runtime())
    ours.model.train().register_forward_hook(lambda _module, _inputs, output: float(output.sum()) and None)
    stream = iter(ours.pipeline.stream(ours.pipeline.sampler()))
    for _ in range(WARM_UP + 3):
        ours.step(stream)
    assert (ours.eager_reason or "").startswith("the capture failed: ")
    assert "no CUDA graph of an iteration" in capsys.readouterr().err
    ours.refuse_divergence()
