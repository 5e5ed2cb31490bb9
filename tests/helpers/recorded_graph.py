"""A CUDA graph's behaviour on a CPU: operations are recorded once, with their tensors, and run again as they were.

What Python decided or computed during the recording is a constant afterwards, as in the real thing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS_BACK = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}


class Recording(TorchDispatchMode):
    """Records operations as they run.

    Raises RuntimeError for one that reads a number back, or draws one: neither can be replayed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if READS_BACK & set(func.tags):
            raise RuntimeError(f"{func} reads back or draws")
        result = func(*args, **(kwargs or {}))
        given = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor) and _storage(t) not in given]
        if made or func._schema.is_mutable:
            self.operations.append((func, args, kwargs or {}, made))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Run all operations on the tensors that they had; what they make goes where it went."""
        for func, args, kwargs, made in self.operations:
            result = func(*args, **kwargs)
            if made:
                self._put(made, result, args, kwargs)

    @staticmethod
    def _put(made: list[Tensor], result: Any, args: Any, kwargs: Any) -> None:
        given = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        again = [t for t in tree_leaves(result) if isinstance(t, Tensor) and _storage(t) not in given]
        for place, value in zip(made, again, strict=True):
            place.copy_(value)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def record(iterate: Callable[[], None], _stream: object) -> Callable[[], None]:
    """Stand for roadmap.train.graph.capture. The recording has run once, so the first replay does nothing."""
    with Recording() as recording:
        iterate()
    replays = 0

    def replay() -> None:
        nonlocal replays
        if replays:
            recording.replay()
        replays += 1

    return replay
