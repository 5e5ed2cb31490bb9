"""A network in a file, in other runtimes and in other number formats computes what it computed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import roadmap
from roadmap.config.errors import ConfigError
from roadmap.config.model import ModelSpec
from roadmap.ladder.published import VARIANTS, variant_spec
from roadmap.model import ModernizableResNet, build_model, export_onnx, export_program, load, load_weights, save
from roadmap.model.weights import WeightsError
from tests.helpers.convnext import ladder, resolve

OnMemory = Callable[[Callable[[], nn.Module]], nn.Module]
STEPS = [s.name for s in ladder(side_steps=True)]
MILESTONES = [
    "baseline",
    "patchify-stem",
    "inverted-bottleneck",
    "move-up-depthwise",
    "layernorm",
    "separate-downsampling",
    "grn",
]


def micro(step: str) -> Callable[[], nn.Module]:
    return lambda: build_model(step, "micro")


def images(size: int = 16, count: int = 3) -> Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(3))


def same_tensors(a: nn.Module, b: nn.Module) -> None:
    """To the bit. Outputs are compared with a tolerance: kernels round by how memory happens to be aligned."""
    assert list(a.state_dict()) == list(b.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("step", STEPS)
def test_a_saved_network_is_rebuilt_without_arguments(step: str, tmp_path: Path, on_memory: OnMemory) -> None:
    model = on_memory(micro(step))
    again = roadmap.load(roadmap.save(model, tmp_path / "m.safetensors"))
    assert again.spec == model.spec and not again.training
    assert all(p.requires_grad and not p.is_meta for p in again.parameters())
    with torch.no_grad():
        torch.testing.assert_close(again(images()), model(images()), rtol=0, atol=1e-6)
    same_tensors(model, again)


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_isotropic_small", "convnextv2_atto"])
def test_saved_variants_are_rebuilt_with_their_head(name: str, tmp_path: Path, on_memory: OnMemory) -> None:
    model = on_memory(lambda: ModernizableResNet(variant_spec(name, num_classes=3), global_pool="max", drop_rate=0.3))
    model.reset_classifier(5, global_pool="avg")
    again = load(save(model, tmp_path / "m.safetensors"))
    assert again.num_classes == 5 and again.head.drop.p == 0.3
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=1e-6)
    same_tensors(model, again)


def test_number_formats_and_memory_formats_survive_saving(tmp_path: Path, on_memory: OnMemory) -> None:
    model = on_memory(micro("grn")).to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    again = load(save(model, tmp_path / "m.safetensors"))
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    same_tensors(model, again)


def test_a_saved_network_is_also_a_source_of_weights(tmp_path: Path, on_memory: OnMemory) -> None:
    model, other = on_memory(micro("grn")), build_model("grn", "micro").eval()
    load_weights(other, save(model, tmp_path / "m.safetensors"))
    same_tensors(model, other)


def test_a_network_that_its_spec_does_not_describe_is_not_saved(tmp_path: Path, on_memory: OnMemory) -> None:
    model = on_memory(micro("grn"))
    model.prune_intermediate_layers([1])
    with pytest.raises(
        WeightsError, match="model.spec does not describe the network's tensors; legal: a network as built"
    ):
        save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_files_of_others_and_damaged_ones_are_refused(tmp_path: Path, on_memory: OnMemory) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(WeightsError, match="weights.file .* cannot be read .*; legal: files that roadmap.save wrote"):
        load(path)
    path.write_bytes(b"no")
    with pytest.raises(WeightsError, match="weights.file .* cannot be read"):
        load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(
        WeightsError,
        match="weights.file .* has no spec inside; .*; build the network and use load_weights",
    ):
        load(path)


def test_a_spec_that_is_not_its_weights_or_not_ours_is_refused(tmp_path: Path, on_memory: OnMemory) -> None:
    path = tmp_path / "m.safetensors"
    state = on_memory(micro("grn")).state_dict()
    save_file(state, path, {"roadmap.spec": json.dumps({"depths": [1, 1, 1, 1]})})
    with pytest.raises(WeightsError, match="does not hold the network of its spec"):
        load(path)
    for damaged in ("{", "3"):
        save_file(state, path, {"roadmap.spec": damaged})
        with pytest.raises(WeightsError, match="has a damaged roadmap.spec"):
            load(path)
    save_file(state, path, {"roadmap.spec": json.dumps({"wings": 2})})
    with pytest.raises(ConfigError, match="spec field 'wings' is unknown"):
        load(path)


def test_a_file_from_before_a_toggle_gets_the_toggles_default(tmp_path: Path, on_memory: OnMemory) -> None:
    model = on_memory(lambda: ModernizableResNet(ModelSpec(depths=(1, 1), width=8)))
    path = tmp_path / "m.safetensors"
    save_file(model.state_dict(), path, {"roadmap.spec": json.dumps({"depths": [1, 1], "width": 8})})
    assert load(path).spec == model.spec


@pytest.mark.sampled(1, ci=3)
@pytest.mark.parametrize("step", MILESTONES)
def test_the_exported_program_computes_the_same_for_any_batch(step: str, on_memory: OnMemory) -> None:
    model = on_memory(micro(step)).train()
    program = export_program(model, 16).module()
    assert model.training
    model.eval()
    with torch.no_grad():
        for count in (1, 5):
            torch.testing.assert_close(program(images(count=count)), model(images(count=count)), rtol=0, atol=1e-5)


def check_onnx(model: nn.Module, path: Path, x: Tensor, size: int) -> None:
    session = onnxruntime.InferenceSession(str(export_onnx(model, path, size)), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    (found,) = session.run(["logits"], {"images": x.numpy()})
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.sampled(0, ci=3)
@pytest.mark.parametrize(
    "step",
    MILESTONES,
)
def test_onnxruntime_computes_the_same_for_any_batch(step: str, tmp_path: Path, on_memory: OnMemory) -> None:
    check_onnx(on_memory(micro(step)), tmp_path / "m.onnx", images(), 16)


@pytest.mark.sampled(0, ci=1)
@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_isotropic_small", "convnextv2_atto"])
def test_onnxruntime_computes_the_variants(name: str, tmp_path: Path, on_memory: OnMemory) -> None:
    check_onnx(
        on_memory(lambda: ModernizableResNet(VARIANTS[name].spec)), tmp_path / "m.onnx", torch.randn(3, 3, 64, 64), 64
    )


@pytest.mark.parametrize("step", STEPS)
def test_channels_last_computes_the_same(step: str, on_memory: OnMemory) -> None:
    model, x = on_memory(micro(step)), images()
    with torch.no_grad():
        expected = model(x)
        found = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# Relative to the outputs' spread. bf16 keeps 8 bits and float16 11 of a number; eleven layers add up some roundings.
TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.01}


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).abs().max() / expected.std())


@pytest.mark.parametrize("step", STEPS)
def test_autocast_to_bf16_stays_near_fp32(step: str, on_memory: OnMemory) -> None:
    model, x = on_memory(micro(step)), images()
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(x)
    assert found.dtype == torch.bfloat16 and relative(found, expected) <= TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("step", STEPS)
def test_float16_stays_near_fp32(step: str, on_memory: OnMemory) -> None:
    model, x = on_memory(micro(step)), images()
    with torch.no_grad():
        expected = model(x)
        found = model.half()(x.half())
    assert found.dtype == torch.float16 and relative(found, expected) <= TOLERANCE[torch.float16]


def test_autocast_trains_grn_in_float32_weights(on_memory: OnMemory) -> None:
    model = on_memory(micro("grn")).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(images()).square().mean()
    loss.backward()
    grads = [p.grad for n, p in model.named_parameters() if ".grn." in n]
    assert all(
        g is not None and g.dtype == torch.float32 and torch.isfinite(g).all() and g.abs().max() > 0 for g in grads
    )


@pytest.mark.sampled(0, ci=1)
@pytest.mark.parametrize("step", ["layernorm", "baseline", "grn"])
def test_a_compiled_network_computes_the_same(step: str, on_memory: OnMemory) -> None:
    torch.compiler.reset()
    model, x = on_memory(micro(step)), images()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.soak
@pytest.mark.slow
def test_a_compiled_network_trains_with_checkpointing(on_memory: OnMemory) -> None:
    torch.compiler.reset()
    grads = []
    for compiled in (False, True):
        model = on_memory(lambda: ModernizableResNet(replace(resolve("grn", "micro"), drop_path_rate=0.0))).train()
        model.set_grad_checkpointing()
        (torch.compile(model) if compiled else model)(images()).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
