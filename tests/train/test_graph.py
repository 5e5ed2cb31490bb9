"""The iteration as a graph: the bits of the eager one, what it cannot hold, and its mixing beside timm's.

A GPU's graph is tests/train/test_gpu.py; here a recording of operations behaves as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import Mixup
from torch import Tensor, nn

from roadmap.config.errors import ConfigError, RoadmapError
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.pipeline import Pipeline
from roadmap.ladder import Step
from roadmap.train.criterion import Criterion
from roadmap.train.distributed import Ranks
from roadmap.train.graph import WARM_UP, Replay, eager_because
from roadmap.train.loop import Trainer
from roadmap.train.optimizer import DeviceRates
from tests.helpers.convnext import ladder
from tests.helpers.recorded_graph import record
from tests.helpers.small_runs import make_trial

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"batch_size": 32, "group_size": 16, "epochs": 1, "warmup_epochs": 0.2}
Stream = Iterator[tuple[Tensor, Tensor]]
BATCHNORM_STEP, LAYERNORM_STEP = "inverted-bottleneck", "separate-downsampling"


def started(trial: Trial, **runtime: Any) -> tuple[Trainer, Stream]:
    trainer = Trainer(trial, Pipeline.open(trial), Ranks(), Runtime(**runtime))
    trainer.model.train()
    return trainer, iter(trainer.pipeline.stream(trainer.pipeline.sampler()))


def graphed(trial: Trial, capture: Callable[..., Any] = record, **runtime: Any) -> tuple[Trainer, Stream]:
    """A trainer that does on a CPU what one on a GPU does."""
    trainer, stream = started(trial, **runtime)
    trainer.draws_first, trainer.rates = True, DeviceRates(trainer.optimizer, CPU)
    trainer.replay = Replay(trainer.iterate, CPU, abandon=trainer._go_on_eagerly, capture=capture)
    return trainer, stream


def after(trainer: Trainer, stream: Stream, iterations: int = WARM_UP + 2) -> dict[str, Tensor]:
    """All that training has made."""
    for _ in range(iterations):
        trainer.step(stream)
    state = trainer.state()
    moments = {f"{i}.{name}": t for i, s in state["optimizer"]["state"].items() for name, t in s.items()}
    made = {**state["model"], **{f"ema.{n}": t for n, t in (state["ema"] or {}).items()}, **moments}
    return {**{name: t.clone() for name, t in made.items() if t is not None}, "losses": state["losses"]}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.sampled(2, ci=8)
@pytest.mark.parametrize("step", ladder(side_steps=True), ids=lambda s: s.name)
def test_a_replayed_iteration_has_the_bits_of_the_eager_one_at_every_step(step: Step) -> None:
    trial = make_trial(step.name, **SMALL)
    trainer, stream = graphed(trial)
    assert_equal(after(*started(trial)), after(trainer, stream))
    assert trainer.replays and trainer.eager_reason is None


RECIPES: dict[str, dict[str, Any]] = {
    "sgd, clipped": {"optimizer": "sgd", "lr": 0.1, "clip_grad": 1.0},
    "average warmed up": {"ema_warmup": True, "ema_decay": 0.999},
    "no mixing": {"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.1},
    "mixed now and then": {"mix_prob": 0.5},
    "four groups in a mixing group": {"group_size": 8, "mix_group_size": 32},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "rates by layer": {"layer_decay": 0.8},
}


@pytest.mark.sampled(2, ci=6)
@pytest.mark.parametrize("step", [BATCHNORM_STEP, LAYERNORM_STEP])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_replayed_iteration_has_the_bits_of_the_eager_one_under_every_recipe(recipe: Any, step: str) -> None:
    trial = make_trial(step, **{**SMALL, **recipe})
    trainer, stream = graphed(trial)
    assert_equal(after(*started(trial)), after(trainer, stream))
    assert trainer.eager_reason is None


@pytest.mark.slow
def test_several_groups_in_a_forward_pass_are_replayed_to_the_same_bits() -> None:
    trial = make_trial(BATCHNORM_STEP, **{**SMALL, "group_size": 8})
    assert_equal(after(*started(trial, micro_batch=16)), after(*graphed(trial, micro_batch=16)))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("method", ["_write_numbers", "_draws", "_loads"])
def test_negative_control_inputs_that_are_not_written_anew_are_noticed(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial(LAYERNORM_STEP, **SMALL, settings={"drop_path_rate": 0.5})
    trainer, stream = graphed(trial)
    after(trainer, stream, WARM_UP + 1)
    kept = trainer.replay.inputs if trainer.replay else None
    assert kept
    stale = {"_write_numbers": lambda: None, "_draws": lambda: kept.draws, "_loads": lambda _stream: kept.loads}
    monkeypatch.setattr(trainer, method, stale[method])
    now = after(trainer, stream, 2)
    expected = after(*started(trial), WARM_UP + 3)
    assert [name for name in now if not torch.equal(now[name], expected[name])]


def test_what_is_not_finite_in_a_replayed_iteration_is_not_applied() -> None:
    trainer, stream = graphed(make_trial(LAYERNORM_STEP, **SMALL))
    before = after(trainer, stream, WARM_UP + 1)
    infinite = ((images * float("inf"), labels) for images, labels in stream)
    now = after(trainer, infinite, 2)
    assert all(torch.equal(before[name], now[name]) for name in trainer.model.state_dict())
    assert trainer.bad == 1


# Where an iteration is not captured ---------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_capture_that_fails_leaves_the_eager_iteration_and_its_bits(
    precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_run: object, _stream: object) -> Callable[[], None]:
        loss = trainer.group_loss(*trainer.criterion.prepare(*next(iter(trainer.replay.inputs.loads))), 0)  # type: ignore[union-attr]
        trainer.scaler.scale(0 * loss).backward()
        trainer.scaler.unscale_(trainer.optimizer)
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    trial = make_trial(LAYERNORM_STEP, **SMALL, precision=precision)
    trainer, stream = graphed(trial, capture=fails)
    assert_equal(after(*started(trial)), after(trainer, stream))
    assert trainer.eager_reason == "the capture failed: operation not permitted"
    assert capsys.readouterr().err.count("no CUDA graph of an iteration: the capture failed") == 1


def test_a_network_that_draws_in_its_forward_pass_is_not_captured(capsys: pytest.CaptureFixture[str]) -> None:
    trainer, stream = graphed(make_trial(LAYERNORM_STEP, **SMALL), capture=pytest.fail)
    trainer.model.register_forward_hook(lambda *_: torch.rand(1) and None)
    after(trainer, stream)
    assert trainer.eager_reason == "the network draws within the forward pass"
    assert capsys.readouterr().err.count("no CUDA graph") == 1


def test_negative_control_a_recording_refuses_to_read_back() -> None:
    with pytest.raises(RuntimeError, match="_local_scalar_dense.* reads back"):
        record(lambda: torch.ones(1).sum().item() and None, None)


GPU = Ranks(device=torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("runtime", "ranks", "model", "reason"),
    [
        ({}, GPU, nn.Linear(1, 1), None),
        ({}, Ranks(), nn.Linear(1, 1), "the device is a cpu"),
        ({"cuda_graph": "off"}, GPU, nn.Linear(1, 1), "--cuda-graph is off"),
        ({}, replace(GPU, world_size=2), nn.Linear(1, 1), "several ranks exchange their gradients"),
        ({"compile": True}, GPU, nn.Linear(1, 1), "the network is compiled"),
        ({"gradient_checkpointing": True}, GPU, nn.Linear(1, 1), "gradient checkpointing reads"),
        ({}, GPU, nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.0)), "Dropout draws within the forward pass"),
        ({}, GPU, nn.Dropout(0.0), None),
    ],
)
def test_what_cannot_be_captured_says_why(runtime: Any, ranks: Ranks, model: nn.Module, reason: str | None) -> None:
    found = eager_because(Runtime(**runtime), ranks, model)
    assert found == reason if reason is None else (found or "").startswith(reason)


def test_on_a_cpu_nothing_is_said_of_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    trainer, _ = started(make_trial(**SMALL))
    assert trainer.eager_reason == "the device is a cpu" and not trainer.replays and trainer.rates is None
    assert not capsys.readouterr().err


# Modes of the compiler ------------------------------------------------------------------------------------------------


def test_a_mode_of_the_compiler_without_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="--compile-mode is max-autotune without --compile; legal: both, or neither"):
        Runtime(compile_mode="max-autotune")


@pytest.mark.parametrize("mode", [None, "default", "max-autotune-no-cudagraphs", "reduce-overhead"])
def test_the_compiler_gets_its_mode(mode: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def compiled(model: nn.Module, **options: Any) -> nn.Module:
        asked.append(options)
        return model

    monkeypatch.setattr(torch, "compile", compiled)
    started(make_trial(**{**SMALL, "group_size": 32}), compile=True, compile_mode=mode)
    assert asked == [{"mode": mode}]


def test_a_compiler_that_makes_graphs_takes_one_forward_pass_an_iteration() -> None:
    with pytest.raises(RoadmapError, match="reduce-overhead with 2 forward passes .*; legal: .*--micro-batch 32$"):
        started(make_trial(**SMALL), compile=True, compile_mode="reduce-overhead")


# Mixing ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("mixing", [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
def test_mixing_by_drawn_numbers_is_timms_to_the_bit(mixing: tuple[float, float], memory_format: Any) -> None:
    mixup, cutmix = mixing
    recipe = make_trial(mixup=mixup, cutmix=cutmix, mix_prob=0.8, label_smoothing=0.1).recipe
    ours = Criterion(recipe, 10)
    theirs = partial(Mixup, mixup, cutmix, prob=0.8, switch_prob=recipe.mix_switch_prob, label_smoothing=0.1)
    for start in range(0, 40, 2):
        images = torch.randn(12, 3, 10, 9).contiguous(memory_format=memory_format)
        labels, seeds = torch.randint(10, (12,)), [start, start + 1]
        mixed, targets = ours.prepare(images.clone(), labels, ours.draw(seeds, images.shape))
        assert mixed.is_contiguous(memory_format=memory_format)
        for seed, part in zip(seeds, (slice(0, 6), slice(6, 12)), strict=True):
            np.random.seed(seed)
            expected, soft = theirs(num_classes=10)(images[part].clone(), labels[part])
            assert torch.equal(mixed[part], expected) and torch.equal(targets[part], soft)
