"""What an iteration computes in: formats, loss scaling, what is not finite, recomputed and compiled passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from roadmap.config.errors import RoadmapError
from roadmap.config.model import TimmSpec
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.pipeline import Pipeline
from roadmap.ladder import Step
from roadmap.train.cadence import Cadence, StopSignal
from roadmap.train.checkpoints import CheckpointStore, CheckpointWriter
from roadmap.train.distributed import Ranks
from roadmap.train.formats import driver_version, formats_of, set_float32_arithmetic
from roadmap.train.loop import Diverged, Trainer
from tests.helpers.convnext import ladder
from tests.helpers.small_runs import make_run, make_trial, train

BATCHNORM_STEP, LAYERNORM_STEP = "inverted-bottleneck", "separate-downsampling"
SMALL: dict[str, Any] = {"batch_size": 32, "group_size": 16, "epochs": 1, "warmup_epochs": 0.0}
Stream = Iterator[tuple[Tensor, Tensor]]


def started(trial: Trial, **runtime: Any) -> tuple[Trainer, Stream]:
    """A trainer and the images of its iterations."""
    trainer = Trainer(trial, Pipeline.open(trial), Ranks(), Runtime(**runtime))
    trainer.model.train()
    return trainer, iter(trainer.pipeline.stream(trainer.pipeline.sampler()))


def after(trainer: Trainer, stream: Stream, iterations: int) -> dict[str, Tensor]:
    """Weights and statistics after some more iterations."""
    for _ in range(iterations):
        trainer.step(stream)
    return {name: t.clone() for name, t in trainer.model.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# What is not finite ---------------------------------------------------------------------------------------------------


@pytest.mark.sampled(2)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("recipe", [{}, {"clip_grad": 1.0}, {"optimizer": "sgd", "lr": 0.1}], ids=str)
def test_a_gradient_that_is_not_finite_is_never_applied_though_the_loss_is(value: float, recipe: Any) -> None:
    trainer, stream = started(make_trial(LAYERNORM_STEP, **SMALL, **recipe))
    before = after(trainer, stream, 1)
    hook = next(iter(trainer.model.parameters())).register_hook(lambda g: g * value)
    now = after(trainer, stream, 1)
    assert equal(before, now) and torch.isfinite(trainer.losses).all()
    hook.remove()
    with pytest.raises(Diverged, match="gradient is not finite in iteration 1 or before; the weights before it"):
        trainer.refuse_divergence()
    assert equal(before, after(trainer, stream, 1)), "what follows before the next look is not applied either"


@pytest.mark.parametrize("what", ["stages.0.blocks.0.norm.running_var", "stem.0.weight"])
def test_no_checkpoint_is_written_of_weights_or_statistics_that_are_not_finite(what: str, tmp_path: Path) -> None:
    trainer, _ = started(make_trial(BATCHNORM_STEP, **SMALL))
    trainer.model.state_dict()[what].view(-1)[0] = float("inf")
    store = CheckpointStore(tmp_path / "checkpoints")
    with pytest.raises(Diverged, match=rf"^model\.{what} \(1 tensors in all\) not finite after iteration 0; no check"):
        trainer.save(Cadence(Ranks(), Runtime(), StopSignal(), CheckpointWriter(store)), None)  # type: ignore[arg-type]
    assert not store.folder.exists()


def test_a_run_whose_last_update_breaks_its_weights_diverges_and_leaves_none_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Trainer.step

    def step(self: Trainer, stream: Stream) -> None:
        plain(self, stream)
        if self.iteration == self.total:
            next(self.model.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(Trainer, "step", step)
    folder = make_run(tmp_path, make_trial(epochs=1, warmup_epochs=0.0, ema_decay=None))
    record = train(folder)
    assert (record.status, dict(record.metrics)) == ("diverged", {})
    assert folder.newest_checkpoint() == 0 and not (folder.path / "weights.safetensors").exists()


def test_a_run_of_finite_losses_with_infinite_statistics_diverges_and_leaves_nothing(tmp_path: Path) -> None:
    trial = make_trial("baseline", optimizer="sgd", lr=210.0, epochs=1, warmup_epochs=0.0, ema_decay=None)
    folder = make_run(tmp_path, trial)
    record = train(folder)
    assert (record.status, dict(record.metrics)) == ("diverged", {})
    assert record.error.startswith("model.stages.0.blocks.0.norm.running_var")
    assert "not finite after iteration 9; no checkpoint is written" in record.error
    assert folder.newest_checkpoint() == 0 and not (folder.path / "weights.safetensors").exists()


# float16 --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("step", [BATCHNORM_STEP, LAYERNORM_STEP])
def test_fp16_trains_with_loss_scaling_and_goes_on_from_a_checkpoint_to_the_bit(step: str) -> None:
    trial = make_trial(step, precision="fp16", **SMALL)
    whole, stream = started(trial)
    whole.scaler.load_state_dict({**whole.scaler.state_dict(), "growth_interval": 2})
    after(whole, stream, 3)
    state = copy.deepcopy(whole.state())
    again, rest = started(trial)
    again.restore(state)
    for _ in range(3 * trial.recipe.loads):
        next(rest)
    first, second = after(whole, stream, 2), after(again, rest, 2)
    assert equal(first, second) and whole.scaler.state_dict() == again.scaler.state_dict()
    assert whole.scaler.get_scale() > 65536 or whole.skipped, "the scale has moved"
    assert not whole.bad and torch.isfinite(whole.losses).all()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_update_that_overflows_by_its_loss_scale_is_left_out_and_counted(optimizer: str) -> None:
    trainer, stream = started(make_trial(LAYERNORM_STEP, precision="fp16", optimizer=optimizer, **SMALL))
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 2.0**60})
    before = {name: t.clone() for name, t in trainer.model.state_dict().items()}
    assert equal(before, after(trainer, stream, 2))
    trainer.refuse_divergence()
    state = trainer.state()
    assert state["scaler"] is not None
    assert (trainer.skipped, state["scaler"]["skipped"], state["scaler"]["scale"]) == (2, 2, 2.0**58)
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 2.0**10})
    assert not equal(before, now := after(trainer, stream, 1))
    largest = max((now[name] - before[name]).abs().max().item() for name in before if now[name].is_floating_point())
    assert largest < 1, "a first momentum that a skipped update left unset"


def test_gradients_that_overflow_without_scale_too_are_a_divergence() -> None:
    trainer, stream = started(make_trial(LAYERNORM_STEP, precision="fp16", **SMALL))
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 1.0})
    next(iter(trainer.model.parameters())).register_hook(lambda g: g * float("inf"))
    after(trainer, stream, 1)
    with pytest.raises(Diverged, match="overflow even at a loss scale of 2"):
        trainer.refuse_divergence()


# Formats in the record ------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_records_its_formats_and_the_updates_left_out(precision: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path, make_trial(precision=precision, residual="compute", epochs=1, warmup_epochs=0.0))
    record = train(folder)
    assert record == folder.record() and record.formats is not None
    name = {"bf16": "bfloat16", "fp16": "float16"}[precision]
    assert record.formats[:4] == (name, name, "ieee", "ieee") and None not in record.formats[:8]
    assert record.skipped_updates == (0 if precision == "fp16" else None)


@pytest.fixture
def other_flags() -> Iterator[None]:
    """Flags for TF32 that say different things; all that a run sets is put back at the end."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark, convolutions.deterministic
    products.allow_tf32, convolutions.allow_tf32 = False, True
    yield
    products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark, convolutions.deterministic = before


@pytest.mark.parametrize("tf32", [False, True])
def test_convolutions_and_products_of_float32_have_one_arithmetic_on_a_gpu(tf32: bool, other_flags: None) -> None:
    trial, gpu = make_trial(precision="fp32", tf32=tf32), torch.device("cuda")
    set_float32_arithmetic(trial.recipe, gpu)
    formats = formats_of(trial.model, trial.recipe, trial.data.image_size, gpu)
    expected = "tf32" if tf32 else "ieee"
    assert (formats.matmul, formats.convolution, formats.residual) == (expected, expected, "float32")
    on_cpu = formats_of(trial.model, trial.recipe, trial.data.image_size, torch.device("cpu"))
    assert (on_cpu.matmul, on_cpu.convolution) == ("ieee", "ieee")


def test_the_drivers_release_is_read_where_the_kernel_tells_it(tmp_path: Path) -> None:
    told = tmp_path / "version"
    told.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 22:50:36 UTC 2025\nGCC version:\n"
    )
    assert driver_version(told) == "570.86.15"
    assert driver_version(tmp_path / "none") is None


def test_arithmetic_that_was_set_otherwise_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    trial, cpu = make_trial(), torch.device("cpu")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    torch.set_flush_denormal(True)
    try:
        found = formats_of(trial.model, trial.recipe, trial.data.image_size, cpu)
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_flush_denormal(False)
    plain = formats_of(trial.model, trial.recipe, trial.data.image_size, cpu)
    assert (found.matmul_precision, found.denormals, found.environment) == ("medium", False, {"MKL_CBWR": "COMPATIBLE"})
    assert (plain.matmul_precision, plain.denormals) == ("highest", True) and plain.build == found.build
    assert (plain.cuda, plain.cudnn, plain.driver) == (None, None, None)


@pytest.mark.parametrize("deterministic", [False, True])
def test_on_a_gpu_cudnn_keeps_its_fastest_algorithms_unless_it_must_be_deterministic(
    deterministic: bool, other_flags: None
) -> None:
    trial, gpu = make_trial(), torch.device("cuda")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = deterministic, deterministic
    set_float32_arithmetic(trial.recipe, torch.device("cpu"))
    assert torch.backends.cudnn.benchmark is deterministic, "a run on a CPU sets nothing"
    set_float32_arithmetic(trial.recipe, gpu)
    formats = formats_of(trial.model, trial.recipe, trial.data.image_size, gpu)
    assert (formats.cudnn_benchmark, formats.cudnn_deterministic) == (not deterministic, deterministic)


# Recomputed and compiled passes ---------------------------------------------------------------------------------------


@pytest.mark.sampled(2, ci=5)
@pytest.mark.parametrize("step", ladder(), ids=lambda s: s.name)
def test_gradient_checkpointing_changes_no_bit(step: Step) -> None:
    trial = make_trial(step.name, **SMALL)
    plain, recomputed = (after(*started(trial, gradient_checkpointing=on), 2) for on in (False, True))
    assert equal(plain, recomputed)


def timm_trial(name: str) -> Trial:
    from dataclasses import replace

    trial = make_trial(**SMALL)
    return replace(trial, model=TimmSpec(timm=name, num_classes=10, in_chans=trial.data.in_chans, drop_path_rate=0.5))


def test_gradient_checkpointing_changes_no_bit_of_a_timm_network_and_is_refused_where_it_would() -> None:
    trial = timm_trial("test_vit")
    plain, recomputed = (after(*started(trial, gradient_checkpointing=on), 2) for on in (False, True))
    assert equal(plain, recomputed)
    with pytest.raises(RoadmapError, match=r"a timm network with BatchNorm, whose .*; legal: without BatchNorm; leave"):
        started(timm_trial("test_resnet"), gradient_checkpointing=True)
    with pytest.raises(RoadmapError, match="a compiled network with BatchNorm"):
        started(make_trial(BATCHNORM_STEP, **{**SMALL, "group_size": 32}), gradient_checkpointing=True, compile=True)


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("trial", [make_trial(LAYERNORM_STEP, **SMALL), timm_trial("test_vit")], ids=["ours", "timm's"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_run_drops_the_same_branches_and_draws_nothing_in_its_graph(
    trial: Trial, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[fx.GraphModule] = []

    def backend(graph: fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    eager = after(*started(trial), 2)
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    compiled = after(*started(trial, compile=True, gradient_checkpointing=checkpointing), 2)
    assert equal(eager, compiled)
    assert len(graphs) == 1 and "bernoulli" not in graphs[0].code


@pytest.mark.soak
@pytest.mark.slow
def test_a_run_compiled_for_speed_stays_near_the_eager_one() -> None:
    trial = make_trial(LAYERNORM_STEP, **SMALL, settings={"drop_path_rate": 0.5})
    torch.compiler.reset()
    losses = []
    for compiled in (False, True):
        trainer, stream = started(trial, compile=compiled)
        after(trainer, stream, 3)
        losses.append(trainer.losses[:3].clone())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)


def test_set_residual_reaches_every_block_of_the_network_and_its_moving_average() -> None:
    trainer, _ = started(make_trial(residual="compute"))
    assert trainer.ema is not None
    models: tuple[nn.Module, ...] = (trainer.model, trainer.ema.module)
    assert {m.residual for model in models for m in model.modules() if hasattr(m, "residual")} == {"compute"}
