"""The training loop, one for a CPU, a GPU and many ranks.

A forward pass always takes exactly one group; ranks and accumulation decide only which groups run
where. Every draw comes from a derived seed (roadmap.config.seeds), so the state of a run is its
tensors and the iteration: a resumed run repeats the rest exactly. Nothing in an iteration waits for
the device: losses are summed there, and a non-finite loss is turned into a flag that makes the
fused optimizer skip its update.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from roadmap.config.errors import RoadmapError
from roadmap.config.recipe import Recipe
from roadmap.config.runtime import Runtime, refuse_sparse_evaluation
from roadmap.config.seeds import INIT, derive
from roadmap.config.trial import Trial
from roadmap.data.pipeline import Pipeline
from roadmap.model.build import build_network
from roadmap.train.batchnorm import (
    average_statistics,
    batch_norms,
    gather_statistics,
    restore_statistics,
    set_momentum,
)
from roadmap.train.cadence import Cadence, StopSignal, Wish
from roadmap.train.checkpoints import CheckpointStore, CheckpointWriter, TrainingState
from roadmap.train.criterion import Criterion, seed_group
from roadmap.train.distributed import Ranks
from roadmap.train.evaluate import evaluate
from roadmap.train.metrics import EpochMetrics, EpochScores, Evaluation, Scores
from roadmap.train.optimizer import make_optimizer, make_schedule
from roadmap.train.progress import Reporter

CHECK_EVERY_ON_GPU = 50  # iterations between two looks at the device's flag: each look waits for the device
NoteEpoch = Callable[[dict[str, Any], list[float]], None]  # receives each epoch's metrics, as JSON, and its losses


class Diverged(RoadmapError):
    """The loss is not finite; the weights are those before the update."""


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
        refuse_sparse_evaluation(runtime, self.recipe)
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
        self.train_seconds = 0.0
        self.last: dict[str, Evaluation] = {}  # of the last epoch, by split, as far as it was evaluated
        self.best: EpochScores | None = None  # where the recipe reports the best epoch on validation
        self.best_weights: dict[str, Tensor] | None = None  # those that were compared: the moving average's where on

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
        """All that the rest of the run depends on; no copy, and nothing of the run is changed.

        Collective.
        """
        return {
            "fingerprint": self.trial.fingerprint,
            "iteration": self.iteration,
            "world_size": self.ranks.world_size,
            "precision": self.precision,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "statistics": gather_statistics(self._all_norms(), self.ranks),
            "losses": self._all_losses(),
            "train_seconds": self.train_seconds,
            "best": self.best.to_json() if self.best else None,
            "best_weights": self.best_weights,
        }

    def _all_norms(self) -> list[_BatchNorm]:
        """The network's BatchNorms, and its moving average's: both are linear in what the ranks saw."""
        return [*self.norms, *(batch_norms(self.ema.module) if self.ema else [])]

    def restore(self, state: TrainingState) -> None:
        """Go on from a checkpoint.

        Raises RoadmapError where it was made in another number format: one run has one; and where it
        lacks the weights of its best epoch.
        """
        if state["precision"] != self.precision:
            made = state["precision"]
            raise RoadmapError(
                f"checkpoint of {self.trial.id} was made in {made}, this device would go on in {self.precision}; "
                "legal: the same; go on where it began, or give --precision from the start"
            )
        if state["best"] and not state.get("best_weights"):
            raise RoadmapError(
                f"checkpoint of {self.trial.id} names its best epoch, but lacks its weights: it is an older "
                "version's; legal: both; --force trains anew"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema and state["ema"]:
            self.ema.module.load_state_dict(state["ema"])
        self.iteration, self.train_seconds = state["iteration"], state["train_seconds"]
        if (statistics := state.get("statistics")) is not None:
            restore_statistics(self._all_norms(), self.ranks, statistics)
        self.best = EpochScores.from_json(state["best"]) if state["best"] else None
        weights = state.get("best_weights") or {}
        self.best_weights = {name: t.to(self.ranks.device) for name, t in weights.items()} or None
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

    # The run ----------------------------------------------------------------------------------------------------------

    def train(self, store: CheckpointStore, note: NoteEpoch, reporter: Reporter) -> None:
        """Train to the end. Raises Interrupted after saving, and Diverged."""
        sampler = self.pipeline.sampler(start=self.iteration, rank=self.ranks.rank, world_size=self.ranks.world_size)
        stream = iter(self.pipeline.stream(sampler))
        self.model.train()
        reporter.start(self.iteration, self.iteration // self.per_epoch)
        writer = CheckpointWriter(store if self.ranks.is_main else None)
        with StopSignal() as stop, writer, contextlib.closing(reporter):
            cadence = Cadence(self.ranks, self.runtime, stop, writer)
            while self.iteration < self.total:
                self._to_boundary(stream, cadence, reporter)
                self._end_of_epoch(cadence, note, reporter)
                self._save_or_leave(cadence, reporter)
            cadence.finish()

    def _to_boundary(self, stream: Iterator[tuple[Tensor, Tensor]], cadence: Cadence, reporter: Reporter) -> None:
        """Train to the end of this epoch."""
        started, before = time.monotonic(), self.train_seconds
        epoch = self.iteration // self.per_epoch + 1
        while self.iteration < epoch * self.per_epoch:
            self.step(stream)
            self.train_seconds = before + time.monotonic() - started
            reporter.iteration(self.iteration, epoch)
            cadence.reserve_once(self.state)
            if self.iteration < epoch * self.per_epoch:
                self._save_or_leave(cadence, reporter)
        self.refuse_divergence()

    def _end_of_epoch(self, cadence: Cadence, note: NoteEpoch, reporter: Reporter) -> None:
        epoch, epochs = self.iteration // self.per_epoch, self.recipe.epochs
        losses = self._all_losses().tolist()
        average_statistics(self._all_norms(), self.ranks)
        split = "validation" if len(self.pipeline.validation_indices) else "test"
        self.last = {split: self.evaluate(split)} if cadence.is_evaluated(epoch, epochs) else {}
        metrics = EpochMetrics(
            epoch=epoch,
            iteration=self.iteration,
            train_loss=sum(losses) / len(losses),
            split=split,
            evaluation=self.last.get(split),
            lr=self.optimizer.param_groups[-1]["lr"],
            images_per_second=self.images_per_second,
        )
        if self.recipe.accuracy == "best":
            self._keep_if_best(epoch, self.last["validation"])
        if self.ranks.is_main:
            note(metrics.to_json(), losses)
        self.losses.zero_()
        reporter.epoch(metrics, epochs)
        if cadence.is_saved(epoch, epochs):
            self.save(cadence, reporter)

    def _keep_if_best(self, epoch: int, validation: Evaluation) -> None:
        """Keep the epoch's weights, and evaluate it on test, if none before it was better on validation."""
        best = self.best.validation if self.best else None
        if best is None or validation.preferred.top1 > best.preferred.top1:
            self.best = EpochScores(epoch=epoch, test=self.evaluate("test"), validation=validation)
            self.best_weights = {name: t.detach().clone() for name, t in self.preferred.state_dict().items()}

    def _save_or_leave(self, cadence: Cadence, reporter: Reporter) -> None:
        """Save where it is time, and leave where a rank was told to, agreed by all ranks.

        Raises Interrupted and Diverged; on a GPU it looks for that only now and then, and always
        before a save.
        """
        wish = cadence.agree()
        if wish or self.ranks.device.type == "cpu" or self.iteration % CHECK_EVERY_ON_GPU == 0:
            self.refuse_divergence()
        if wish and self.iteration < self.total:
            self.save(cadence, reporter)
        if wish == Wish.LEAVE and self.iteration < self.total:
            cadence.leave(self.total)

    def save(self, cadence: Cadence, reporter: Reporter) -> None:
        """Have a checkpoint written, if this iteration has none; all ranks call it, the first writes."""
        if cadence.saved_iteration != self.iteration:
            reporter.saving(self.iteration, self.iteration // self.per_epoch)
            cadence.save(self.state())

    @property
    def images_per_second(self) -> float:
        """Training images a second over the whole run so far, without what is between epochs."""
        return self.iteration * self.recipe.batch_size / self.train_seconds if self.train_seconds else 0.0

    @property
    def preferred(self) -> nn.Module:
        """The network that is judged and kept: the moving average where it is on."""
        return self.ema.module if self.ema else self.model

    def result(self) -> EpochScores:
        """The scores of the last epoch, or of the best where the recipe says so.

        Afterwards `preferred` has that epoch's weights. Collective.
        """
        if self.best and self.best_weights:
            self.preferred.load_state_dict(self.best_weights)
            return self.best
        splits = ["test", "validation"] if len(self.pipeline.validation_indices) else ["test"]
        scores = {split: self.last.get(split) or self.evaluate(split) for split in splits}
        return EpochScores(epoch=self.recipe.epochs, test=scores["test"], validation=scores.get("validation"))

    def evaluate(self, part: str) -> Evaluation:
        """Scores on `validation` or `test` of the weights and, where on, of their moving average.

        Collective; BatchNorm statistics are those of an epoch's end, where all ranks have the same.
        """
        weights = self._scores(self.model, part)
        return Evaluation(weights=weights, ema=self._scores(self.ema.module, part) if self.ema else None)

    def _scores(self, model: nn.Module, part: str) -> Scores:
        views = self.pipeline.views(part, rank=self.ranks.rank, world_size=self.ranks.world_size)
        return evaluate(model, views, self.ranks, autocast=self.autocast, memory_format=self.memory_format)
