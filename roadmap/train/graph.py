"""An iteration as one CUDA graph: forward and backward passes, optimizer and moving average in one launch.

A small network's iteration is hundreds of kernels, each of which Python starts later than the GPU could
run it. Captured once, they are replayed together. A graph reads its inputs where they were when it was
captured: images, labels, what mixes them, masks of stochastic depth, learning rates, the place of the
loss and the moving average's weight are written there before each replay. The momentum of BatchNorm
differs by forward pass, and each pass has its own place in the graph, so it is a constant there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from roadmap.config.runtime import Runtime
from roadmap.train.distributed import Ranks

WARM_UP = 3  # eager iterations before the capture: states are allocated, libraries choose their algorithms

Draws = Tensor | None  # (layers, images) of one forward pass; None where the layers draw for themselves
Iterate = Callable[[Iterable["Load"], Iterable[Draws]], None]


class Load(NamedTuple):
    """What a rank takes at a time: images (N, C, H, W), labels (N,), and what mixes them (see Criterion.draw)."""

    images: Tensor
    labels: Tensor
    mixing: Tensor | None


def eager_because(runtime: Runtime, ranks: Ranks, model: nn.Module) -> str | None:
    """Why the iterations of a run are not captured; None where they can be."""
    if runtime.cuda_graph == "off":
        return "--cuda-graph is off"
    if ranks.device.type != "cuda":
        return f"the device is a {ranks.device.type}"
    if ranks.world_size > 1:
        return "several ranks exchange their gradients within an iteration"
    if runtime.compile:
        return "the network is compiled (--compile-mode reduce-overhead makes graphs of its own)"
    if runtime.gradient_checkpointing:
        return "gradient checkpointing reads the generator's state"
    dropout = {type(m).__name__ for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0}
    return f"{', '.join(sorted(dropout))} draws within the forward pass" if dropout else None


class StaticInputs:
    """Inputs of an iteration that stay where they are: what comes is copied into them."""

    def __init__(self) -> None:
        self.loads: list[Load] = []
        self.draws: list[Draws] = []

    def write(self, loads: Iterable[Load], draws: Iterable[Draws]) -> None:
        """Take over the inputs of the next iteration, of the shapes of the first. Nothing waits for the device."""
        if not self.loads:
            self.loads = [Load(load.images.clone(), load.labels.clone(), _own(load.mixing)) for load in loads]
            self.draws = [_own(draw) for draw in draws]
            return
        for mine, load in zip(self.loads, loads, strict=True):
            _copy(mine, load)
        for own, draw in zip(self.draws, draws, strict=True):
            _copy([own], [draw])


def _own(value: Draws) -> Draws:
    return None if value is None else value.clone()


def _copy(to: Sequence[Draws], values: Sequence[Draws]) -> None:
    for own, value in zip(to, values, strict=True):
        if own is not None and value is not None:
            own.copy_(value)


def capture(iterate: Callable[[], None], stream: torch.cuda.Stream | None) -> Callable[[], None]:
    """What replays `iterate`, which is recorded here and not run.

    Other threads may meanwhile pin memory or write a checkpoint.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        iterate()
    return graph.replay


class Replay:
    """Runs the first iterations eagerly, from static inputs, and replays all later ones as one graph.

    iterate: one iteration; whatever changes from one to the next it takes from its arguments or from
    tensors. abandon: called with the reason where it turns out that it cannot be captured: from then on
    each iteration is eager, from the same inputs.
    """

    def __init__(
        self,
        iterate: Iterate,
        device: torch.device,
        *,
        abandon: Callable[[str], object],
        capture: Callable[[Callable[[], None], torch.cuda.Stream | None], Callable[[], None]] = capture,
    ) -> None:
        self.iterate, self.device, self.abandon, self.capture = iterate, device, abandon, capture
        self.inputs = StaticInputs()
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.replay: Callable[[], None] | None = None
        self.eager_because: str | None = None
        self.warm = 0

    def step(self, loads: Iterable[Load], draws: Iterable[Draws]) -> None:
        """Run one iteration."""
        self.inputs.write(loads, draws)
        if self.warm == WARM_UP and self.replay is None and self.eager_because is None:
            self._capture()
        if self.replay is not None:
            self.replay()
        else:
            self._run_eagerly()

    def _run(self) -> None:
        self.iterate(self.inputs.loads, self.inputs.draws)

    def _run_eagerly(self) -> None:
        """Run on the stream of the capture, as libraries keep workspaces by stream."""
        before = self._generator().get_state()
        if self.stream is None:
            self._run()
        else:
            current = torch.cuda.current_stream(self.device)
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                self._run()
            current.wait_stream(self.stream)
        self.warm = min(self.warm + 1, WARM_UP)
        if self.eager_because is None and not torch.equal(before, self._generator().get_state()):
            self._give_up("the network draws within the forward pass")

    def _generator(self) -> torch.Generator:
        if self.device.type != "cuda":
            return torch.default_generator
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        return torch.cuda.default_generators[index]

    def _capture(self) -> None:
        try:
            self.replay = self.capture(self._run, self.stream)
        except RuntimeError as e:
            self._give_up(f"the capture failed: {str(e).strip().partition(chr(10))[0]}")

    def _give_up(self, reason: str) -> None:
        self.eager_because = reason
        self.abandon(reason)
