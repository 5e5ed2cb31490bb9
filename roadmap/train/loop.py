"""The training loop, one for a CPU, a GPU and many ranks.

A forward pass always takes exactly one group; ranks and accumulation decide only which groups run
where. Every draw comes from a derived seed (roadmap.config.seeds), so the state of a run is its
tensors and the iteration: a resumed run repeats the rest exactly. Nothing in an iteration waits for
the device: losses are summed there, and a non-finite loss is turned into a flag that makes the
fused optimizer skip its update.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from roadmap.config.errors import RoadmapError
from roadmap.config.recipe import Recipe
from roadmap.config.runtime import Runtime
from roadmap.config.seeds import INIT, derive
from roadmap.config.trial import Trial
from roadmap.data.loader import Stream
from roadmap.data.pipeline import Pipeline
from roadmap.model.build import build_network
from roadmap.train.batchnorm import average_statistics, batch_norms, set_momentum
from roadmap.train.checkpoints import CheckpointStore, TrainingState
from roadmap.train.criterion import Criterion, seed_group
from roadmap.train.distributed import Ranks
from roadmap.train.evaluate import evaluate
from roadmap.train.metrics import BestEpoch, EpochMetrics, Evaluation, Scores
from roadmap.train.optimizer import make_optimizer, make_schedule
from roadmap.train.progress import Reporter

CHECK_EVERY_ON_GPU = 50  # iterations between two looks at the device's flag: each look waits for the device
NoteEpoch = Callable[[dict[str, Any], list[float]], None]  # receives each epoch's metrics, as JSON, and its losses


class Diverged(RoadmapError):
    """The loss is not finite; the weights are those before the update."""


class Interrupted(RoadmapError):
    """The run was told to stop and has saved itself.

    signal: what told this rank, empty where another rank was told.
    """

    def __init__(self, message: str, *, signal: str = "") -> None:
        super().__init__(message)
        self.signal = signal


@dataclass
class StopSignal:
    """Notes SIGTERM, SIGUSR2 and Ctrl-C; the loop looks at an iteration's end.

    A second Ctrl-C stops at once.
    """

    received: str = ""
    _previous: dict[signal.Signals, Any] = field(default_factory=dict)

    def __enter__(self) -> StopSignal:
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for s in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
                self._previous[s] = signal.signal(s, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._previous.items():
            signal.signal(s, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name


def initial_network(trial: Trial) -> nn.Module:
    """The trial's network with its initial weights, which depend on model and seed alone."""
    torch.default_generator.manual_seed(derive(trial.seed, INIT))
    return build_network(trial.model, trial.data.image_size)


def precision_of(recipe: Recipe, device: torch.device) -> str:
    """fp32 or bf16: what the recipe says, or what its `auto` means on this device."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16" if device.type == "cuda" else "fp32"


class Trainer:
    """One run of a trial. `train` goes from where the checkpoint left off to the end."""

    def __init__(
        self,
        trial: Trial,
        pipeline: Pipeline,
        ranks: Ranks,
        runtime: Runtime,
        *,
        init: Callable[[nn.Module], object] | None = None,
    ) -> None:
        self.trial, self.recipe, self.pipeline, self.ranks, self.runtime = trial, trial.recipe, pipeline, ranks, runtime
        self.my_groups = self.recipe.groups_per_rank(ranks.world_size)
        self.memory_format = torch.channels_last if runtime.channels_last else torch.contiguous_format
        self.model = initial_network(trial)
        if init:
            init(self.model)
        self.model.to(ranks.device).to(memory_format=self.memory_format)
        self.norms = batch_norms(self.model)
        if runtime.compile:
            self._refuse_compiling_many_groups()
        self.forward = self._wrap()
        self.optimizer = make_optimizer(self.model, self.recipe)
        self.per_epoch = pipeline.sampler().iterations_per_epoch
        self.total = self.recipe.epochs * self.per_epoch
        self.schedule = make_schedule(self.optimizer, self.recipe, self.per_epoch)
        self.ema = ModelEmaV3(self.model, decay=self.recipe.ema_decay) if self.recipe.ema_decay is not None else None
        self.precision = precision_of(self.recipe, ranks.device)
        self.criterion = Criterion(self.recipe, trial.data.num_classes)
        self.autocast = torch.autocast(ranks.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")
        self.iteration = 0
        self.losses = torch.zeros(self.per_epoch, device=ranks.device)
        self.bad = torch.zeros((), device=ranks.device)  # 1 once a loss was not finite, on any rank
        self.optimizer.found_inf = self.bad  # type: ignore[attr-defined]  # fused optimizers skip the update where it is 1
        self.train_seconds = self.waited_seconds = 0.0
        self.best: BestEpoch | None = None  # where the recipe reports the best epoch on validation

    def _refuse_compiling_many_groups(self) -> None:
        """Raise RoadmapError where BatchNorm sees several groups on one device.

        Each group's momentum is a constant of the compiled graph: there would be one compilation a
        group.
        """
        if self.norms and self.my_groups > 1:
            raise RoadmapError(
                f"--compile with BatchNorm and {self.my_groups} groups on one device; legal: one group a device, "
                f"or a network without BatchNorm; leave --compile out, or use {self.recipe.groups} GPUs"
            )

    def _wrap(self) -> Any:
        model: Any = self.model
        if self.ranks.world_size > 1:
            devices = [self.ranks.device] if self.ranks.device.type == "cuda" else None
            model = DistributedDataParallel(
                model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        return torch.compile(model) if self.runtime.compile else model

    # State ------------------------------------------------------------------------------------------------------------

    def state(self) -> TrainingState:
        """All that the rest of the run depends on.

        Collective: BatchNorm statistics are averaged over the ranks.
        """
        self._average_statistics()
        ema = self.ema.module.state_dict() if self.ema else None
        return {
            "fingerprint": self.trial.fingerprint,
            "iteration": self.iteration,
            "world_size": self.ranks.world_size,
            "precision": self.precision,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": ema,
            "losses": self._all_losses(),
            "train_seconds": self.train_seconds,
            "waited_seconds": self.waited_seconds,
            "best": self.best.to_json() if self.best else None,
        }

    def _average_statistics(self) -> None:
        """Give all ranks the same BatchNorm statistics, those of the moving average included.

        Both are linear in what the ranks saw.
        """
        average_statistics(self.norms, self.ranks)
        if self.ema:
            average_statistics(batch_norms(self.ema.module), self.ranks)

    def restore(self, state: TrainingState) -> None:
        """Go on from a checkpoint.

        Raises RoadmapError where it was made in another number format: one run has one.
        """
        if state["precision"] != self.precision:
            made = state["precision"]
            raise RoadmapError(
                f"checkpoint of {self.trial.id} was made in {made}, this device would go on in {self.precision}; "
                "legal: the same; go on where it began, or give --precision from the start"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema and state["ema"]:
            self.ema.module.load_state_dict(state["ema"])
        self.iteration, self.train_seconds = state["iteration"], state["train_seconds"]
        self.waited_seconds = state.get("waited_seconds", 0.0)
        self.best = BestEpoch.from_json(state["best"]) if state["best"] else None
        # Each rank carries its share, so that the sum over ranks is again the loss.
        self.losses.copy_(state["losses"] / self.ranks.world_size)

    def _all_losses(self) -> Tensor:
        """This epoch's loss of each iteration, summed over the ranks' shares."""
        return self.ranks.sum(self.losses.clone()).cpu()

    # One iteration ----------------------------------------------------------------------------------------------------

    def step(self, stream: Iterator[tuple[Tensor, Tensor]]) -> None:
        """One update from the next global batch; the loss is noted on the device."""
        self.schedule.step_update(self.iteration)
        at = self.iteration % self.per_epoch
        for k in range(self.my_groups):
            last = k == self.my_groups - 1
            with contextlib.nullcontext() if last or self.ranks.world_size == 1 else self.forward.no_sync():
                loss = self.group_loss(*next(stream), k)
                (loss / self.my_groups).backward()
            self.losses[at] += loss.detach() / self.recipe.groups
        self.bad.copy_(torch.maximum(self.bad, (~torch.isfinite(self.losses[at])).float()))
        self.ranks.max(self.bad)
        if self.recipe.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(self.model)
        self.iteration += 1

    def group_loss(self, images: Tensor, labels: Tensor, k: int) -> Tensor:
        """Forward this rank's k-th group: (N, C, H, W), (N,) -> scalar mean loss."""
        group = self.ranks.rank + k * self.ranks.world_size
        images = images.to(self.ranks.device, non_blocking=True, memory_format=self.memory_format)
        labels = labels.to(self.ranks.device, non_blocking=True)
        seed = seed_group(self.trial.seed, self.iteration, group, self.ranks.device)
        images, targets = self.criterion.prepare(images, labels, seed)
        set_momentum(self.norms, k, self.my_groups)
        with self.autocast:
            logits = self.forward(images)
        return self.criterion(logits, targets)

    def refuse_divergence(self) -> None:
        """Raise Diverged if a loss was not finite. Waits for the device."""
        if self.bad:
            odd = (~torch.isfinite(self.losses)).nonzero()
            last = max(self.iteration - 1, 0)
            at = last - last % self.per_epoch + int(odd[0]) if len(odd) else last
            raise Diverged(
                f"loss is not finite in iteration {at} or before; the weights before it are kept; "
                "lower the learning rate, or warm up for longer"
            )

    def _must_stop(self, stop: StopSignal) -> bool:
        """Whether to save and leave now, agreed by all ranks.

        Raises Diverged; on a GPU it looks for that only now and then, and always before a save.
        """
        stopping = self.ranks.any(bool(stop.received))
        if stopping or self.ranks.device.type == "cpu" or self.iteration % CHECK_EVERY_ON_GPU == 0:
            self.refuse_divergence()
        return stopping

    # The run ----------------------------------------------------------------------------------------------------------

    def train(self, store: CheckpointStore, note: NoteEpoch, reporter: Reporter) -> None:
        """Train to the end. Raises Interrupted after saving, and Diverged."""
        sampler = self.pipeline.sampler(start=self.iteration, rank=self.ranks.rank, world_size=self.ranks.world_size)
        stream = self.pipeline.stream(sampler)
        self.model.train()
        reporter.start(self.iteration, self.iteration // self.per_epoch)
        with StopSignal() as stop, contextlib.closing(reporter), contextlib.closing(stream):
            while self.iteration < self.total:
                waiting_share = self._to_boundary(stream, stop, store, reporter)
                self._end_of_epoch(store, note, reporter, waiting_share)
                if self._must_stop(stop) and self.iteration < self.total:
                    self._save_and_leave(store, stop)

    def _to_boundary(self, stream: Stream, stop: StopSignal, store: CheckpointStore, reporter: Reporter) -> float:
        """Train to the end of this epoch; returns the part of the time that was spent waiting for images."""
        started, epoch = time.monotonic(), self.iteration // self.per_epoch + 1
        while self.iteration < epoch * self.per_epoch:
            self.step(stream)
            reporter.iteration(self.iteration, epoch, stream.waited / (time.monotonic() - started))
            if self._must_stop(stop) and self.iteration < epoch * self.per_epoch:
                self._note_times(time.monotonic() - started, stream.take_waited())
                self._save_and_leave(store, stop)
        self.refuse_divergence()
        waited = torch.tensor(stream.take_waited(), dtype=torch.float64, device=self.ranks.device)
        return self._note_times(time.monotonic() - started, self.ranks.max(waited).item())

    def _note_times(self, seconds: float, waited: float) -> float:
        """Add to the run's time and to that of its waiting for images; returns the waiting's part."""
        self.train_seconds += seconds
        self.waited_seconds += waited
        return waited / seconds

    def _end_of_epoch(self, store: CheckpointStore, note: NoteEpoch, reporter: Reporter, waiting_share: float) -> None:
        epoch = self.iteration // self.per_epoch
        losses = self._all_losses().tolist()
        split = "validation" if len(self.pipeline.validation_indices) else "test"
        metrics = EpochMetrics(
            epoch=epoch,
            iteration=self.iteration,
            train_loss=sum(losses) / len(losses),
            split=split,
            evaluation=self.evaluate(split),
            lr=self.optimizer.param_groups[-1]["lr"],
            images_per_second=self.images_per_second,
            waiting_share=waiting_share,
        )
        if self.recipe.accuracy == "best":
            self._keep_if_best(epoch, metrics.evaluation.preferred.top1)
        if self.ranks.is_main:
            note(metrics.to_json(), losses)
        self.losses.zero_()
        reporter.epoch(metrics, self.recipe.epochs)
        if epoch % self.runtime.checkpoint_every == 0 or epoch == self.recipe.epochs:
            self.save(store)

    def _keep_if_best(self, epoch: int, top1: float) -> None:
        """Evaluate the epoch on test if none before it was better on validation."""
        if self.best is None or top1 > self.best.chosen_by:
            self.best = BestEpoch(epoch=epoch, chosen_by=top1, evaluation=self.evaluate("test"))

    def _save_and_leave(self, store: CheckpointStore, stop: StopSignal) -> None:
        self.save(store)
        cause = stop.received or "another rank"
        raise Interrupted(
            f"stopped by {cause} at iteration {self.iteration} of {self.total}; saved; start it again to go on",
            signal=stop.received,
        )

    def save(self, store: CheckpointStore) -> None:
        """Write a checkpoint; all ranks call it, the first writes."""
        state = self.state()
        if self.ranks.is_main:
            store.save(state, self.iteration)
        self.ranks.barrier()

    @property
    def images_per_second(self) -> float:
        """Training images a second over the whole run so far, without what is between epochs."""
        return self.iteration * self.recipe.batch_size / self.train_seconds if self.train_seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """The part of training's time so far, 0 to 1, that the slowest rank waited for images."""
        return self.waited_seconds / self.train_seconds if self.train_seconds else 0.0

    def evaluate(self, part: str) -> Evaluation:
        """Scores on `validation` or `test` of the weights and, where on, of their moving average.

        Collective.
        """
        self._average_statistics()
        weights = self._scores(self.model, part)
        return Evaluation(weights=weights, ema=self._scores(self.ema.module, part) if self.ema else None)

    def _scores(self, model: nn.Module, part: str) -> Scores:
        views = self.pipeline.views(part, rank=self.ranks.rank, world_size=self.ranks.world_size)
        return evaluate(model, views, self.ranks, autocast=self.autocast, memory_format=self.memory_format)
