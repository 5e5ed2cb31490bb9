"""Networks with random weights, made quickly: built on the meta device, then filled, so that no initializer runs."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn


def fill(model: nn.Module) -> nn.Module:
    """Fill in random weights that leave no part of the network without effect.

    Every gain, scale, bias and statistic is away from its initial value.
    """
    with torch.no_grad():
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            last = name.rpartition(".")[2]
            if not t.is_floating_point():
                t.zero_()
            elif last == "running_var":
                t.uniform_(0.5, 1.5)
            elif last in ("gamma", "layer_scale") or "grn" in name:
                t.normal_(0, 0.3)
            elif t.ndim <= 1:
                t.normal_(float(last == "weight"), 0.1)
            else:
                t.normal_(0, 0.02)
    return model


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread for these small networks.

    On a shared machine more threads only wait for each other: 2.5 s for a forward pass of 0.06 s.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def on_memory() -> Callable[[Callable[[], nn.Module]], nn.Module]:
    """on_memory(build): what `build` makes, filled from seed 0, in evaluation mode."""

    def make(build: Callable[[], nn.Module]) -> nn.Module:
        with torch.device("meta"):
            model = build()
        torch.manual_seed(0)
        return fill(model.to_empty(device="cpu")).eval()

    return make


@pytest.fixture(scope="session")
def difference() -> Callable[[Tensor, Tensor], float]:
    return lambda a, b: float((a.float() - b.float()).abs().max())
