"""Small real runs on the embedded digits, and the processes that break them.

Their bits depend on the number of threads: a test sets one, as children do.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from roadmap.config.recipes import find_recipe
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.registry import resolve_data
from roadmap.runs.folder import RunFolder
from roadmap.train.checkpoints import CheckpointStore
from roadmap.train.execute import execute
from tests.helpers.convnext import resolve

# Everything a run can draw is on: mixup, cutmix, stochastic depth, augmentation; and the weights' moving average,
# two groups a batch.
LOADED = {
    "epochs": 2,
    "batch_size": 128,
    "group_size": 64,
    "warmup_epochs": 0.5,
    "mixup": 0.8,
    "cutmix": 1.0,
    "ema_decay": 0.9,
    "random_erasing": 0.25,
}


def make_trial(
    step: str = "separate-downsampling", seed: int = 0, settings: dict[str, Any] | None = None, **recipe: Any
) -> Trial:
    model = resolve(step, "micro", **{"drop_path_rate": 0.2, "depths": (1, 1, 1, 1), **(settings or {})})
    return Trial(
        model=model,
        recipe=replace(find_recipe("digits-adamw"), **{**LOADED, **recipe}),
        data=resolve_data("digits"),
        seed=seed,
        regime="micro",
        step=step,
    )


def make_run(root: Path, trial: Trial) -> RunFolder:
    folder = RunFolder(root / "study" / trial.id)
    folder.prepare(trial)
    return folder


def hash_of(folder: RunFolder) -> str:
    """Of all tensors in the newest checkpoint: weights, BatchNorm statistics, optimizer state, moving average."""
    state = CheckpointStore(folder.checkpoints).load(folder.trial().fingerprint)
    assert state is not None
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(state)):
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}")


# Children are forked from a clean server that has torch loaded and has used none of it: forked from the tests' own
# process they would inherit threads and autograd state that only it has.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["roadmap.train.execute", "sklearn.datasets"])


def child(work: Callable[[], object], **environment: str) -> Any:
    """A process that will run `work`, a function of a test, sent by value."""
    cloudpickle.register_pickle_by_value(sys.modules[work.__module__])
    return CONTEXT.Process(target=_work, args=(cloudpickle.dumps(work), environment))


def _work(pickled: bytes, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    pickle.loads(pickled)()


def in_child(work: Callable[[], object]) -> int:
    """Run in a process of its own; its exit code, negative for the signal that ended it.

    What `work` patches stays there.
    """
    process = child(work)
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the child hangs"
    return process.exitcode


def train(folder: RunFolder, **runtime: Any) -> dict[str, Any]:
    return execute(folder, Runtime(**runtime))


def free_port() -> int:
    with contextlib.closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def on_ranks(world_size: int, work: Callable[[], object]) -> None:
    """Run `work` in `world_size` processes with torchrun's variables."""
    assert exit_codes(world_size, work) == [0] * world_size


def exit_codes(world_size: int, work: Callable[[], object]) -> list[int | None]:
    """Run `work` in `world_size` processes with torchrun's variables; how each ended, None where it hangs."""
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [child(work, RANK=str(r), LOCAL_RANK=str(r), **shared) for r in range(world_size)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(120)
    return [p.exitcode for p in processes]
