"""Weights from every public format, both ways; what does not fit is refused in words, and no pickle is executed."""

import argparse
import itertools
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from roadmap.config.errors import ConfigError
from roadmap.config.model import ModelSpec
from roadmap.ladder.published import VARIANTS
from roadmap.model import ModernizableResNet, build_model, export_weights, load_weights, weights
from roadmap.model.complexity import params_of
from roadmap.model.state_dict_formats import FORMATS, from_ours, recognize, to_ours
from roadmap.model.weights import WeightsError
from tests.helpers.marks import slow_but

OnMemory = Callable[[Callable[[], nn.Module]], nn.Module]


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


SMALL = {"depths": (1, 2, 1, 1), "num_classes": 5, "drop_path_rate": 0.0}
SPECS: dict[str, ModelSpec] = {
    "v1": replace(VARIANTS["convnext_tiny"].spec, width=16, **SMALL),
    "v2": replace(VARIANTS["convnextv2_atto"].spec, width=16, **SMALL),
    "isotropic": replace(VARIANTS["convnext_isotropic_small"].spec, width=24, **{**SMALL, "depths": (3,)}),
    "isotropic, scaled": replace(VARIANTS["convnext_isotropic_large"].spec, width=24, **{**SMALL, "depths": (3,)}),
    "resnet": ModelSpec(depths=(1, 2, 1, 1), width=16, num_classes=5),
}
HOLDING = {
    "v1": ("torchvision", "official_v1", "timm", "timm_conv"),
    "v2": ("official_v2", "timm", "timm_conv"),
    "isotropic": ("official_isotropic", "timm", "timm_conv"),
    "isotropic, scaled": ("official_isotropic", "timm", "timm_conv"),
    "resnet": ("torchvision_resnet", "timm", "timm_conv"),
}
PAIRS = [(kind, *pair) for kind, formats in HOLDING.items() for pair in itertools.product(formats, repeat=2)]


def network(kind: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: ModernizableResNet(replace(SPECS[kind], **settings))


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


class OfficialBlock(nn.Module):
    """A block under the published names of the authors' repositories, in plain functions."""

    def __init__(self, c: int, *, scale: bool, grn: bool) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.norm = nn.LayerNorm(c, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.ones(c)) if scale else None
        self.grn = nn.ParameterDict() if grn else None
        if self.grn is not None:
            self.grn["gamma"] = nn.Parameter(torch.ones(1, 1, 1, 4 * c))
            self.grn["beta"] = nn.Parameter(torch.ones(1, 1, 1, 4 * c))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.pwconv1(self.norm(self.dwconv(x).movedim(1, 3))))
        if self.grn is not None:
            response = (y * y).sum((1, 2), keepdim=True).sqrt()
            y = self.grn["gamma"] * y * response / (response.mean(3, keepdim=True) + 1e-6) + self.grn["beta"] + y
        y = self.pwconv2(y)
        return x + (y if self.gamma is None else self.gamma * y).movedim(3, 1)


class ChannelsFirstNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, 3)).movedim(3, 1)


class Official(nn.Module):
    """The authors' networks by their published names; isotropic where there is one depth."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        w = spec.stage_channels

        def blocks(i: int) -> nn.Sequential:
            return nn.Sequential(
                *(OfficialBlock(w[i], scale=spec.layer_scale is not None, grn=spec.grn) for _ in range(spec.depths[i]))
            )

        self.isotropic = len(w) == 1
        if self.isotropic:
            self.stem, self.blocks = nn.Conv2d(3, w[0], 16, stride=16), blocks(0)
        else:
            stem = nn.Sequential(nn.Conv2d(3, w[0], 4, stride=4), ChannelsFirstNorm(w[0], eps=1e-6))
            widths = itertools.pairwise(w)
            between = [nn.Sequential(ChannelsFirstNorm(a, eps=1e-6), nn.Conv2d(a, b, 2, stride=2)) for a, b in widths]
            self.downsample_layers, self.stages = nn.ModuleList([stem, *between]), nn.ModuleList(map(blocks, range(4)))
        self.norm = nn.LayerNorm(w[-1], eps=1e-6)
        self.head = nn.Linear(w[-1], spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for down, stage in (
            [(self.stem, self.blocks)] if self.isotropic else zip(self.downsample_layers, self.stages, strict=True)
        ):
            x = stage(down(x))
        return self.head(self.norm(x.mean((2, 3))))


OFFICIAL = {
    "v1": "official_v1",
    "v2": "official_v2",
    "isotropic": "official_isotropic",
    "isotropic, scaled": "official_isotropic",
}


@pytest.mark.parametrize(("kind", "format_name"), OFFICIAL.items())
def test_official_weights_load_strictly_and_give_the_official_outputs(
    kind: str, format_name: str, on_memory: OnMemory
) -> None:
    theirs, ours = on_memory(lambda: Official(SPECS[kind])), on_memory(network(kind))
    nn.init.zeros_(ours.head.fc.weight)
    report = load_weights(ours, theirs.state_dict())
    assert report.format == format_name and len(report.loaded) == len(ours.state_dict())
    assert not report.adapted and not report.left and not report.unused
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
    theirs.load_state_dict(export_weights(ours, format_name), strict=True)


@pytest.mark.parametrize(
    "name",
    [
        "convnext_isotropic_small",
        pytest.param("convnext_isotropic_base", marks=pytest.mark.slow),
        pytest.param("convnext_isotropic_large", marks=[pytest.mark.slow, pytest.mark.soak]),
    ],
)
def test_isotropic_variants_equal_the_official_ones_in_outputs_and_gradients(name: str, on_memory: OnMemory) -> None:
    spec = replace(VARIANTS[name].spec, drop_path_rate=0.0)
    theirs = on_memory(lambda: Official(spec))
    ours = on_memory(lambda: ModernizableResNet(spec))
    load_weights(ours, theirs.state_dict())
    assert params_of(theirs) == params_of(ours)
    x = torch.randn(1, 3, 64, 64)
    outputs = [m(x) for m in (ours, theirs)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
    upstream = torch.randn_like(outputs[0])
    for y in outputs:
        y.backward(upstream)
    expected, _ = to_ours(
        {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}, FORMATS["official_isotropic"]
    )
    for n, p in ours.named_parameters():
        assert p.grad is not None and (p.grad.flatten() - expected[n].flatten()).norm() <= 1e-4 * expected[n].norm(), n


@pytest.mark.sampled(10)
@pytest.mark.parametrize(("kind", "first", "second"), PAIRS)
def test_formats_round_trip(kind: str, first: str, second: str, on_memory: OnMemory) -> None:
    """Ours -> first -> ours -> second -> ours, and first -> second -> first."""
    source = on_memory(network(kind))
    one = export_weights(source, first)
    middle = ModernizableResNet(SPECS[kind])
    load_weights(middle, one)
    two = export_weights(middle, second)
    last = ModernizableResNet(SPECS[kind])
    load_weights(last, two)
    assert same(source.state_dict(), last.state_dict())
    assert same(export_weights(last, first), one)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("kind", SPECS)
def test_a_format_that_cannot_hold_the_network_says_so(kind: str, format_name: str, on_memory: OnMemory) -> None:
    if format_name in HOLDING[kind]:
        export_weights(on_memory(network(kind)), format_name)
        return
    with pytest.raises(ConfigError, match=f"weights.format {format_name} .*; legal: networks that are .*; choose timm"):
        export_weights(on_memory(network(kind)), format_name)


ONE_OF_EACH = ("convnext_tiny", "convnextv2_atto", "convnextv2_tiny")


@pytest.mark.parametrize("name", slow_but(ONE_OF_EACH.__contains__, [n for n, v in VARIANTS.items() if v.timm]))
def test_exported_weights_have_timms_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = ModernizableResNet(VARIANTS[name].spec).state_dict(), timm.create_model(name).state_dict()
    format_name = "timm_conv" if theirs["stages.0.blocks.0.mlp.fc1.weight"].ndim == 4 else "timm"
    assert shapes(from_ours(ours, format_name)) == shapes(theirs)
    assert (format_name == "timm_conv") == (name.rpartition("_")[2] in ("atto", "femto", "pico", "nano"))


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_small", "convnext_base", "convnext_large"])
def test_exported_weights_have_torchvisions_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = (
            ModernizableResNet(VARIANTS[name].spec).state_dict(),
            torchvision.models.get_model(name).state_dict(),
        )
    assert shapes(from_ours(ours, "torchvision")) == shapes(theirs)


def test_torchvisions_resnet50_round_trips_strictly(on_memory: OnMemory) -> None:
    theirs, ours = on_memory(torchvision.models.resnet50), on_memory(lambda: build_model(0))
    assert load_weights(ours, theirs.state_dict()).format == "torchvision_resnet"
    assert same(export_weights(ours, "torchvision_resnet"), theirs.state_dict())


def test_unknown_names_are_no_format() -> None:
    with pytest.raises(
        ConfigError,
        match="weights.format of a state dict that starts with encoder.0 is unknown; legal: torchvision, .*; give ",
    ):
        recognize({"encoder.0": torch.zeros(1)})


@pytest.mark.parametrize("nest", ["model", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_are_read_through_their_nesting(
    nest: str | None, prefix: str, tmp_path: Path, on_memory: OnMemory
) -> None:
    source, target = on_memory(network("v1")), ModernizableResNet(SPECS["v1"])
    state = {prefix + k: v for k, v in export_weights(source, "official_v1").items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({nest: state, "epoch": 3, "args": argparse.Namespace(lr=4e-3)} if nest else state, path)
    load_weights(target, path)
    assert same(source.state_dict(), target.state_dict())


def test_safetensors_files_are_read(tmp_path: Path, on_memory: OnMemory) -> None:
    source, target = on_memory(network("v2")), ModernizableResNet(SPECS["v2"])
    save_file({k: v.contiguous() for k, v in export_weights(source, "official_v2").items()}, tmp_path / "w.safetensors")
    assert load_weights(target, str(tmp_path / "w.safetensors")).format == "official_v2"
    assert same(source.state_dict(), target.state_dict())


class Hostile:
    """Unpickled freely, it writes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_never_executed(suffix: str, zipped: bool, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / f"weights{suffix}"
    torch.save({"model": {"stem.0.weight": Hostile(trace)}}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        WeightsError, match="holds more than tensors, and nothing of it was executed; legal: .*weights_only=True"
    ):
        load_weights(ModernizableResNet(SPECS["v1"]), path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the attack itself works
    assert trace.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps([1, 2], protocol=2)])
def test_a_damaged_or_foreign_file_is_refused(content: bytes, tmp_path: Path) -> None:
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"weights.source .*{name} .*; legal: "):
            load_weights(ModernizableResNet(SPECS["v1"]), tmp_path / name)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(
        WeightsError,
        match="weights.source nowhere.pth is no file; legal: an existing .pth or .safetensors file; check the path",
    ):
        load_weights(ModernizableResNet(SPECS["v1"]), "nowhere.pth")


def test_a_checkpoint_without_tensors_is_refused() -> None:
    for content in ({}, {"model": {}}, {"epoch": 3}):
        with pytest.raises(WeightsError, match="weights.source the state dict holds .*; legal: a state dict"):
            load_weights(ModernizableResNet(SPECS["v1"]), content)


def test_another_head_is_refused_with_both_shapes_and_adapted_on_request(on_memory: OnMemory) -> None:
    source, target = on_memory(network("v1")), ModernizableResNet(replace(SPECS["v1"], num_classes=3))
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(WeightsError) as e:
        load_weights(target, source.state_dict())
    assert (
        "weights.head.fc.weight is (5, 128) in the source and (3, 128) in the network; "
        "legal: equal shapes; pass adapt=True" in str(e.value)
    )
    assert same(before, target.state_dict())
    report = load_weights(target, source.state_dict(), adapt=True)
    assert set(report.left) == {
        "head.fc.weight",
        "head.fc.bias",
    } and "left head.fc.weight: (5, 128) in the source, (3, 128) here" in str(report)
    assert torch.equal(target.head.fc.weight, before["head.fc.weight"])
    assert torch.equal(target.head.norm.weight, source.head.norm.weight) and torch.equal(
        target.stem[0].weight, source.stem[0].weight
    )


def test_a_source_without_head_is_adapted_on_request(on_memory: OnMemory) -> None:
    """As the self-supervised V2 weights come."""
    state = {k: v for k, v in on_memory(network("v2")).state_dict().items() if not k.startswith("head.")}
    target = ModernizableResNet(SPECS["v2"])
    with pytest.raises(
        WeightsError, match="weights.head.norm.weight is .128,. in the network and missing in the source"
    ):
        load_weights(target, state)
    assert set(load_weights(target, state, adapt=True).left) == {
        "head.norm.weight",
        "head.norm.bias",
        "head.fc.weight",
        "head.fc.bias",
    }


def test_a_network_without_head_takes_the_rest_on_request(on_memory: OnMemory) -> None:
    target = ModernizableResNet(replace(SPECS["v1"], num_classes=0))
    report = load_weights(target, on_memory(network("v1")).state_dict(), adapt=True)
    assert report.unused == ("head.fc.bias", "head.fc.weight")


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_input_channels_are_refused_and_adapted_on_request(channels: int, on_memory: OnMemory) -> None:
    source, target = on_memory(network("v1")), ModernizableResNet(replace(SPECS["v1"], in_chans=channels)).eval()
    with pytest.raises(
        WeightsError,
        match=rf"weights.stem.0.weight is \(16, 3, 4, 4\) in the source and \(16, {channels}, 4, 4\) in the network",
    ):
        load_weights(target, source.state_dict())
    report = load_weights(target, source.state_dict(), adapt=True)
    assert set(report.adapted) == {"stem.0.weight"} and "stem.0.weight" not in report.loaded
    assert torch.allclose(
        target.stem[0].weight, timm.models.adapt_input_conv(channels, source.stem[0].weight), atol=1e-6
    )
    grey = torch.randn(1, 1, 64, 64)
    if channels in (1, 6):  # the same picture in all channels gives the same outputs
        torch.testing.assert_close(
            target(grey.expand(1, channels, 64, 64)), source(grey.expand(1, 3, 64, 64)), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize(("kind", "other"), [("v1", "v2"), ("v2", "v1"), ("resnet", "v1")])
def test_another_network_is_never_adapted(kind: str, other: str, on_memory: OnMemory) -> None:
    with pytest.raises(WeightsError, match="does not fit the network:\nweights.*check that it is the same network"):
        load_weights(ModernizableResNet(SPECS[kind]), on_memory(network(other)).state_dict(), adapt=True)


def test_another_kernel_size_is_never_adapted(on_memory: OnMemory) -> None:
    with pytest.raises(
        WeightsError,
        match=r"weights.stages.0.blocks.0.conv_dw.weight is \(16, 1, 7, 7\) in the source and \(16, 1, 5, 5\) in the ",
    ):
        load_weights(
            ModernizableResNet(replace(SPECS["v1"], kernel_size=5)), on_memory(network("v1")).state_dict(), adapt=True
        )


def test_other_image_sizes_just_work(on_memory: OnMemory) -> None:
    model = on_memory(network("v2"))
    assert [model(torch.randn(1, 3, *size)).shape for size in ((32, 32), (97, 64), (224, 160))] == [(1, 5)] * 3


@pytest.mark.parametrize(
    ("source", "library"),
    [("convnext_tiny", "timm"), ("timm:convnext_tiny.fb_in1k", "timm"), ("torchvision:convnext_tiny", "torchvision")],
)
def test_names_are_fetched_from_their_library(
    source: str, library: str, monkeypatch: pytest.MonkeyPatch, on_memory: OnMemory
) -> None:
    asked = []

    def fake(name: str, **arguments: Any) -> nn.Module:
        asked.append((name, arguments))
        return on_memory(real)

    real = torchvision.models.convnext_tiny
    if library == "timm":
        real = partial(build_model, "separate-downsampling")
    monkeypatch.setattr(timm, "create_model", fake)
    monkeypatch.setattr(torchvision.models, "get_model", fake)
    with torch.device("meta"):
        model = build_model("separate-downsampling")
    report = load_weights(model.to_empty(device="cpu"), source)
    assert report.format == library
    assert asked == [
        (source.partition(":")[2] or source, {"pretrained": True} if library == "timm" else {"weights": "DEFAULT"})
    ]


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **_: Any) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        WeightsError,
        match="weights.source 'convnext_tiny' cannot be fetched .OSError: no route to host.; .*; .* or give a file",
    ):
        load_weights(ModernizableResNet(SPECS["v1"]), "convnext_tiny")


@pytest.mark.parametrize("name", ["convnxt_tiny", "torchvision:convnextv2_tiny", "hub:convnext_tiny"])
def test_unknown_names_get_the_nearest(name: str) -> None:
    with pytest.raises(
        WeightsError,
        match="weights.source .* is neither a file nor known to timm or torchvision; .*; did you mean 'convnext",
    ):
        weights.fetch(name)
