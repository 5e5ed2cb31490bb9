"""The ends of the ladder are the public networks.

torchvision's ResNet-50 at step 0, timm's ConvNeXt at step 9, its ConvNeXt V2 at step 11.
"""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from roadmap.model import build_model
from roadmap.model.state_dict_formats import from_torchvision_resnet
from tests.helpers.convnext import resolve
from tests.helpers.marks import slow_but

OnMemory = Callable[[Callable[[], nn.Module]], nn.Module]
Difference = Callable[[Tensor, Tensor], float]
LIMIT = 1e-5
ENDS = [
    ("separate-downsampling", "resnet50", "convnext_tiny"),
    ("separate-downsampling", "resnet200", "convnext_base"),
    ("ema", "resnet50", "convnext_tiny"),
    ("grn", "resnet50", "convnextv2_tiny"),
    ("grn", "resnet200", "convnextv2_base"),
]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_step_0_is_torchvisions_resnet50(training: bool, on_memory: OnMemory, difference: Difference) -> None:
    theirs, ours = on_memory(torchvision.models.resnet50), on_memory(lambda: build_model(0))
    ours.load_state_dict(from_torchvision_resnet(theirs.state_dict()), strict=True)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected, found = theirs.train(training)(x), ours.train(training)(x)
    assert expected.std() > 1e-2
    assert difference(expected, found) <= LIMIT
    if training:
        assert difference(theirs.layer4[2].bn3.running_mean, ours.stages[3].blocks[2].mlp.norm2.running_mean) <= LIMIT


@pytest.mark.sampled(2)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("step", "regime", "name"), slow_but(lambda step, regime, _: regime == "resnet50", ENDS))
def test_last_steps_are_timms_networks(
    step: str, regime: str, name: str, training: bool, on_memory: OnMemory, difference: Difference
) -> None:
    theirs = on_memory(lambda: timm.create_model(name))
    ours = on_memory(lambda: build_model(step, regime, drop_path_rate=0.0))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, found = theirs.train(training)(x), ours.train(training)(x)
    assert expected.std() > 1e-2
    assert difference(expected, found) <= LIMIT


def test_last_step_has_timms_stochastic_depth_rates() -> None:
    with torch.device("meta"):
        theirs, ours = timm.create_model("convnext_tiny", drop_path_rate=0.1), build_model("separate-downsampling")

    def rates(model: nn.Module) -> list[float]:
        return [getattr(b.drop_path, "drop_prob", 0.0) for s in model.stages for b in s.blocks]

    assert rates(ours) == rates(theirs)
    assert rates(ours)[0] == 0 and rates(ours)[-1] == pytest.approx(resolve("separate-downsampling").drop_path_rate)


def test_a_changed_toggle_is_not_the_public_network() -> None:
    with torch.device("meta"):
        theirs, ours = timm.create_model("convnext_tiny"), build_model("separate-downsampling", kernel_size=5)
    with pytest.raises(RuntimeError, match="size mismatch"):
        ours.load_state_dict(theirs.state_dict())
