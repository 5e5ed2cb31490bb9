"""What timm's tools ask of a network: the registry, feature maps, classifiers, checkpointing, parameter groups."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import Tensor, nn

import roadmap.model.registry
from roadmap.config.errors import ConfigError
from roadmap.ladder.published import VARIANTS, variant_spec
from roadmap.model import ModernizableResNet, build_model, export_weights
from roadmap.model.state_dict_formats import FORMATS
from tests.helpers.convnext import REGIMES, ladder, resolve

OnMemory = Callable[[Callable[[], nn.Module]], nn.Module]
STEPS = [s.name for s in ladder(side_steps=True)]
ROOT = Path(__file__).parents[2]


def test_every_network_is_in_timms_registry_under_a_name_of_its_own() -> None:
    ours = {"modernizable_resnet", *(f"roadmap_{name}" for name in VARIANTS)}
    assert set(timm.list_models(module="registry")) == ours
    assert all(timm.models.model_entrypoint(name).__module__ == "roadmap.model.registry" for name in ours)
    assert timm.models.model_entrypoint("convnext_tiny").__module__ == "timm.models.convnext"


def test_registering_again_changes_nothing(recwarn: pytest.WarningsRecorder) -> None:
    before = timm.models.model_entrypoint("roadmap_convnext_tiny")
    roadmap.model.registry.register()
    assert timm.models.model_entrypoint("roadmap_convnext_tiny") is before and not recwarn.list


@pytest.mark.sampled(8)
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("step", STEPS)
def test_every_step_is_made_by_timm(step: str, regime: str) -> None:
    with torch.device("meta"):
        model = timm.create_model("modernizable_resnet", step=step, regime=regime)
    spec, size = resolve(step, regime), REGIMES[regime].image_size
    assert isinstance(model, ModernizableResNet) and model.spec == spec
    assert (
        model.default_cfg["input_size"] == (spec.in_chans, size, size)
        and model.default_cfg["num_classes"] == spec.num_classes
    )
    assert model.pretrained_cfg["classifier"] == "head.fc" and model.get_classifier() is model.head.fc


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_made_by_timm(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(f"roadmap_{name}", num_classes=7, in_chans=1, drop_path_rate=0.2, drop_rate=0.5)
    assert model.spec == variant_spec(name, num_classes=7, in_chans=1, drop_path_rate=0.2)
    assert model.head.drop.p == 0.5


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_knows_where_its_published_weights_are(name: str) -> None:
    cfg = timm.get_pretrained_cfg(f"roadmap_{name}")
    assert cfg is not None and (cfg.hf_hub_id or cfg.url) and cfg.classifier == "head.fc" and cfg.first_conv == "stem.0"
    theirs = VARIANTS[name].timm
    if theirs:
        assert (
            cfg.hf_hub_id.startswith(f"timm/{theirs}.")
            and timm.get_pretrained_cfg(cfg.hf_hub_id.removeprefix("timm/")).mean == cfg.mean
        )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("format_name", [name for name in FORMATS if name in ("timm", "torchvision", "official_v1")])
def test_timms_loader_takes_every_format_for_a_registered_network(
    format_name: str, tmp_path: Path, on_memory: OnMemory
) -> None:
    source = on_memory(lambda: ModernizableResNet(variant_spec("convnext_tiny")))
    torch.save(export_weights(source, format_name), tmp_path / "w.pth")
    model = timm.create_model(
        "roadmap_convnext_tiny",
        pretrained=True,
        num_classes=3,
        in_chans=1,
        pretrained_cfg_overlay={"file": str(tmp_path / "w.pth")},
    )
    assert torch.equal(model.stages[2].blocks[0].mlp.fc1.weight, source.stages[2].blocks[0].mlp.fc1.weight)
    assert model.head.fc.weight.shape == (3, 768) and model.stem[0].weight.shape == (96, 1, 4, 4)


def test_timms_errors_do_not_hide_ours() -> None:
    with pytest.raises(ConfigError, match="step 'kernel-6' is unknown"):
        timm.create_model("modernizable_resnet", step="kernel-6")
    with pytest.raises(ConfigError, match="toggle 'kernel_siz' is unknown"):
        timm.create_model("roadmap_convnext_tiny", kernel_siz=5)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("step", STEPS)
def test_features_only_gives_four_maps_from_every_step(step: str) -> None:
    spec = resolve(step, "resnet50")
    with torch.device("meta"):
        model = timm.create_model("modernizable_resnet", step=step, features_only=True)
        maps = model(torch.zeros(2, 3, 64, 96))
    assert model.feature_info.channels() == list(spec.stage_channels) and model.feature_info.reduction() == [
        4,
        8,
        16,
        32,
    ]
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(spec.stage_channels, (4, 8, 16, 32), strict=True)]
    assert [m.shape for m in maps] == expected


@pytest.mark.parametrize("step", ["baseline", "inverted-bottleneck", "grn"])
@pytest.mark.parametrize("extractor", ["list", "getter"])
def test_features_are_the_stages_outputs_and_can_be_chosen(step: str, extractor: str) -> None:
    model = build_model(step, "micro").eval()
    x = torch.randn(2, 1, 32, 32)
    expected = []
    y = model.stem(x)
    for stage in model.stages:
        y = stage(y)
        expected.append(y)
    features = timm.create_model(
        "modernizable_resnet", step=step, regime="micro", features_only=True, out_indices=(1, 3), feature_cls=extractor
    ).eval()
    inner = features.model if extractor == "getter" else features
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    flat = {re.sub(r"^(stages|stem)\.", r"\1_", name): value for name, value in state.items()}
    inner.load_state_dict(flat if extractor == "list" else state, strict=True)
    for found, wanted in zip(features(x), [expected[1], expected[3]], strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_an_isotropic_network_has_one_map() -> None:
    with torch.device("meta"):
        model = timm.create_model("roadmap_convnext_isotropic_small", features_only=True)
        assert [m.shape for m in model(torch.zeros(1, 3, 64, 64))] == [(1, 384, 4, 4)]


def test_intermediates_are_the_stages_outputs() -> None:
    model = build_model("grn", "micro").eval()
    x = torch.randn(2, 1, 16, 16)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x)) and torch.equal(maps[-1], last) and len(maps) == 4
    assert [m.shape[1] for m in model.forward_intermediates(x, indices=2, intermediates_only=True)] == list(
        model.spec.stage_channels[2:]
    )
    maps = model.forward_intermediates(x, indices=[0, -2], intermediates_only=True)
    channels = model.spec.stage_channels
    assert [m.shape[1] for m in maps] == [channels[0], channels[2]]
    early, maps = model.forward_intermediates(x, indices=[1], stop_early=True)
    assert torch.equal(early, maps[0])
    for wrong in ([4], 5, 0, []):
        with pytest.raises(ValueError, match="indices are .*; legal: stages from 0 to 3"):
            model.forward_intermediates(x, indices=wrong)
    with pytest.raises(ValueError, match="output_fmt is 'NHWC'; legal: NCHW"):
        model.forward_intermediates(x, output_fmt="NHWC")


def test_pruning_leaves_the_stages_up_to_the_last_one_asked_for() -> None:
    model = build_model("grn", "micro").eval()
    x = torch.randn(2, 1, 16, 16)
    expected = model.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([1]) == [1]
    assert len(model.stages) == 2 and model.num_features == 48 and torch.equal(model(x), expected)


@pytest.mark.parametrize("step", ["baseline", "separate-downsampling", "grn"])
def test_the_parts_of_forward_and_the_classifier_can_be_replaced(step: str) -> None:
    model = build_model(step, "micro").eval()
    x = torch.randn(2, 1, 16, 16)
    features = model.forward_features(x)
    assert features.shape[1] == model.num_features == model.head_hidden_size
    assert torch.equal(model(x), model.forward_head(features))
    before = model.forward_head(features, pre_logits=True)
    assert torch.equal(model(x), model.get_classifier()(before))
    model.reset_classifier(4)
    assert model(x).shape == (2, 4) and model.num_classes == model.spec.num_classes == 4
    assert torch.equal(model.forward_head(features, pre_logits=True), before)
    model.reset_classifier(0)
    assert torch.equal(model(x), before)
    model.reset_classifier(0, global_pool="")
    assert model(x).shape == features.shape
    model.reset_classifier(3, global_pool="max")
    assert model(x).shape == (2, 3)


def test_a_reset_classifier_is_initialized_as_the_spec_says() -> None:
    model = build_model("grn", "micro", width=64, head_init_scale=0.01)
    model.reset_classifier(100)
    assert (
        float(model.head.fc.weight.detach().std()) == pytest.approx(0.01 * 0.02, rel=0.05)
        and (model.head.fc.bias == 0).all()
    )


@pytest.mark.parametrize("step", ["baseline", "grn"])
def test_without_pooling_there_is_a_map_of_logits(step: str) -> None:
    model = timm.create_model("modernizable_resnet", step=step, regime="micro", global_pool="").eval()
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10, 2, 2)


@pytest.mark.parametrize("step", ["baseline", "gelu", "grn"])
def test_checkpointing_changes_neither_gradients_nor_statistics(step: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 1, 16, 16)
    results = []
    for enable in (False, True):
        torch.manual_seed(1)
        model = build_model(step, "micro", drop_path_rate=0.0).train()
        model.set_grad_checkpointing(enable)
        assert all(s.grad_checkpointing is enable for s in model.stages)
        model(x).square().sum().backward()
        results.append(({n: p.grad for n, p in model.named_parameters()}, model.state_dict()))
    for plain, recomputed in zip(*results, strict=True):
        assert all(torch.equal(plain[k], recomputed[k]) for k in plain)


def test_checkpointing_keeps_fewer_activations() -> None:
    kept = []
    for enable in (False, True):
        total = 0

        def note(t: Tensor) -> Tensor:
            nonlocal total
            total += t.numel()
            return t

        model = build_model("grn", "micro").train()
        model.set_grad_checkpointing(enable)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            model(torch.randn(2, 1, 64, 64))
        kept.append(total)
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(("step", "theirs"), [("separate-downsampling", "convnext_tiny"), ("grn", "convnextv2_tiny")])
def test_parameter_groups_are_timms(step: str, theirs: str, coarse: bool) -> None:
    with torch.device("meta"):
        a, b = build_model(step), timm.create_model(theirs)
    assert group_parameters(a, a.group_matcher(coarse)) == group_parameters(b, b.group_matcher(coarse))


@pytest.mark.parametrize("step", STEPS)
def test_layer_decay_orders_every_step_from_stem_to_head(step: str) -> None:
    model = build_model(step, "micro")
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    by_id = {id(p): n for n, p in model.named_parameters()}
    scale = {by_id[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}
    blocks = sum(model.spec.depths)
    assert set(scale) == {n for n, _ in model.named_parameters()}
    assert scale["head.fc.weight"] == 1 and scale["stem.0.weight"] == pytest.approx(0.5 ** (blocks + 1))
    assert scale["stages.3.blocks.0.conv_dw.weight"] == 0.5 < scale["head.fc.weight"]


def test_fine_tuning_with_layer_decay_takes_a_step() -> None:
    torch.manual_seed(0)
    model = build_model("grn", "micro", head_init_scale=0.001)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-2, weight_decay=1e-8, layer_decay=0.7)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model(torch.randn(4, 1, 16, 16)).square().sum().backward()
    optimizer.step()
    assert len({g["lr_scale"] for g in optimizer.param_groups}) == sum(model.spec.depths) + 2
    assert not torch.equal(before["head.fc.weight"], model.head.fc.weight)


@pytest.mark.soak
@pytest.mark.slow
def test_timms_scripts_run_through_the_module(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys, timm\nprint(sys.argv[1:], timm.is_model('modernizable_resnet'), __name__)\n")
    done = subprocess.run(
        [sys.executable, "-m", "roadmap.model.registry", str(script), "--model", "x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "['--model', 'x'] True __main__" and "Overwriting" not in done.stderr
    without = subprocess.run([sys.executable, "-m", "roadmap.model.registry"], cwd=ROOT, capture_output=True, text=True)
    assert without.returncode and "registry.script is missing; legal: a Python script" in without.stderr
