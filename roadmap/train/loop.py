"""The training loop, one for a CPU, a GPU and many ranks: epochs, their evaluation, and when a run is saved.

One update is roadmap.train.updates; when to evaluate, save and leave is roadmap.train.cadence.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from roadmap.config.errors import RoadmapError, listing
from roadmap.data.loader import Stream
from roadmap.train.batchnorm import average_statistics, batch_norms, gather_statistics, restore_statistics
from roadmap.train.cadence import Cadence, StopSignal, Wish
from roadmap.train.checkpoints import CheckpointStore, CheckpointWriter, TrainingState
from roadmap.train.evaluate import evaluate
from roadmap.train.finite import names_not_finite
from roadmap.train.hopeless import refuse_guessing
from roadmap.train.metrics import EpochMetrics, EpochScores, Evaluation, Scores
from roadmap.train.progress import Reporter
from roadmap.train.updates import Diverged, Updates

CHECK_EVERY_ON_GPU = 50  # iterations between two looks at the device's flag: each look waits for the device
NoteEpoch = Callable[[dict[str, Any], list[float]], None]  # receives each epoch's metrics, as JSON, and its losses


class Trainer(Updates):
    """One run of a trial. `train` goes from where the checkpoint left off to the end."""

    train_seconds = waited_seconds = 0.0
    told_to_stop = ""  # the signal that came too late to interrupt the run
    last: Mapping[str, Evaluation] = MappingProxyType({})  # of the last epoch, by split, as far as it was evaluated
    best: EpochScores | None = None  # where the recipe reports the best epoch on validation
    best_weights: dict[str, Tensor] | None = None  # those that were compared: the moving average's where on

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
            "waited_seconds": self.waited_seconds,
            "best": self.best.to_json() if self.best else None,
            "best_weights": self.best_weights,
            "scaler": self._scaler_state(),
        }

    def _scaler_state(self) -> dict[str, float] | None:
        """What loss scaling depends on, and how many updates it left out; None without it."""
        return {**self.scaler.state_dict(), "skipped": self.skipped.item()} if self.scaler.is_enabled() else None

    def average_statistics(self) -> None:
        """Give all ranks the same BatchNorm statistics, as before an evaluation. Collective."""
        average_statistics(self._all_norms(), self.ranks)

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
        self.waited_seconds = state.get("waited_seconds", 0.0)
        if scaler := state.get("scaler"):
            self.scaler.load_state_dict(scaler)
            self.skipped.fill_(scaler["skipped"])
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

    # The run ----------------------------------------------------------------------------------------------------------

    def train(self, store: CheckpointStore, note: NoteEpoch, reporter: Reporter) -> None:
        """Train to the end. Raises Interrupted after saving, and Diverged."""
        sampler = self.pipeline.sampler(start=self.iteration, rank=self.ranks.rank, world_size=self.ranks.world_size)
        stream = self.pipeline.stream(sampler)
        self.model.train()
        reporter.start(self.iteration, self.iteration // self.per_epoch)
        writer = CheckpointWriter(store if self.ranks.is_main else None)
        with StopSignal() as stop, writer, contextlib.closing(reporter), stream:
            cadence = Cadence(self.ranks, self.runtime, stop, writer, iteration=self.iteration)
            while self.iteration < self.total:
                waiting_share = self._to_boundary(stream, cadence, reporter)
                self._end_of_epoch(cadence, note, reporter, waiting_share)
                self._save_or_leave(cadence, reporter, end_of_epoch=True)
            cadence.finish()
        self.told_to_stop = stop.received

    def _to_boundary(self, stream: Stream, cadence: Cadence, reporter: Reporter) -> float:
        """Train to the end of this epoch; returns the part of the time that was spent waiting for images."""
        started, trained, waited = time.monotonic(), self.train_seconds, self.waited_seconds
        epoch = self.iteration // self.per_epoch + 1
        while self.iteration < epoch * self.per_epoch:
            self.step(stream)
            seconds = time.monotonic() - started
            self.train_seconds, self.waited_seconds = trained + seconds, waited + stream.waited
            reporter.iteration(self.iteration, epoch, stream.waited / seconds)
            cadence.reserve_once(self.state)
            if self.iteration < epoch * self.per_epoch:
                self._save_or_leave(cadence, reporter)
        self.refuse_divergence()
        longest = torch.tensor(stream.take_waited(), dtype=torch.float64, device=self.ranks.device)
        self.waited_seconds = waited + self.ranks.max(longest).item()
        return (self.waited_seconds - waited) / (self.train_seconds - trained)

    def _end_of_epoch(self, cadence: Cadence, note: NoteEpoch, reporter: Reporter, waiting_share: float) -> None:
        epoch, epochs = self.iteration // self.per_epoch, self.recipe.epochs
        losses = self._all_losses().tolist()
        self.average_statistics()
        split = "validation" if len(self.pipeline.validation_indices) else "test"
        self.last = {split: self.evaluate(split)} if self.runtime.evaluates(epoch, epochs) else {}
        metrics = EpochMetrics(
            epoch=epoch,
            iteration=self.iteration,
            train_loss=sum(losses) / len(losses),
            split=split,
            evaluation=self.last.get(split),
            lr=self.optimizer.param_groups[-1]["lr"],
            images_per_second=self.images_per_second,
            waiting_share=waiting_share,
        )
        if epoch == epochs:
            self.refuse_scores(self.last[split])
        if self.recipe.accuracy == "best":
            self._keep_if_best(epoch, self.last["validation"])
        if self.ranks.is_main:
            note(metrics.to_json(), losses)
        self.losses.zero_()
        reporter.epoch(metrics, epochs)
        if self.runtime.saves(epoch, epochs):
            self.save(cadence, reporter)
        if self.runtime.stop_hopeless and metrics.evaluation:
            refuse_guessing(metrics, metrics.evaluation, self.trial, save=lambda: self._save_whole(cadence, reporter))

    def _keep_if_best(self, epoch: int, validation: Evaluation) -> None:
        """Keep the epoch's weights, and evaluate it on test, if none before it was better on validation."""
        best = self.best.validation if self.best else None
        if best is None or validation.preferred.top1 > best.preferred.top1:
            self.best = EpochScores(epoch=epoch, test=self.evaluate("test"), validation=validation)
            self.best_weights = {name: t.detach().clone() for name, t in self.preferred.state_dict().items()}

    def _save_or_leave(self, cadence: Cadence, reporter: Reporter, *, end_of_epoch: bool = False) -> None:
        """Save where it is time, and leave where a rank was told to, agreed by all ranks.

        Raises Interrupted and Diverged; on a GPU it looks for that only now and then, and always
        before a save.
        """
        wish = cadence.agree(self.iteration, end_of_epoch=end_of_epoch)
        if wish or self.ranks.device.type == "cpu" or self.iteration % CHECK_EVERY_ON_GPU == 0:
            self.refuse_divergence()
        if wish and self.iteration < self.total:
            self.save(cadence, reporter)
        if wish == Wish.LEAVE and self.iteration < self.total:
            cadence.leave(self.total)

    def save(self, cadence: Cadence, reporter: Reporter) -> None:
        """Have a checkpoint written, if this iteration has none; all ranks call it, the first writes.

        Raises Diverged: what is not finite is never gone on from.
        """
        if cadence.saved_iteration != self.iteration:
            state = self.state()
            self._refuse_weights(state)
            reporter.saving(self.iteration, self.iteration // self.per_epoch)
            cadence.save(state)

    def _save_whole(self, cadence: Cadence, reporter: Reporter) -> None:
        """Save, and wait until the checkpoint is on disk."""
        self.save(cadence, reporter)
        cadence.finish()

    def _refuse_weights(self, state: TrainingState) -> None:
        """Raise Diverged if weights, any rank's statistics or moving averages are not finite."""
        statistics = state["statistics"]
        of_ranks = {} if statistics is None else {"of all ranks": statistics}
        if odd := names_not_finite({"model": state["model"], "ema": state["ema"] or {}, "statistics": of_ranks}):
            raise Diverged(
                f"{listing(odd[:3])} ({len(odd)} tensors in all) not finite after iteration {self.iteration}; "
                "no checkpoint is written of them; lower the learning rate, or warm up for longer"
            )

    def refuse_scores(self, evaluation: Evaluation) -> None:
        """Raise Diverged if a loss on a split is not finite, though all weights may be."""
        scores = (evaluation.weights, evaluation.ema)
        if not all(math.isfinite(s.loss) for s in scores if s):
            raise Diverged(
                f"evaluation after iteration {self.iteration} gives a loss that is not finite; legal: finite scores; "
                "lower the learning rate, or warm up for longer"
            )

    @property
    def images_per_second(self) -> float:
        """Training images a second over the whole run so far, without what is between epochs."""
        return self.iteration * self.recipe.batch_size / self.train_seconds if self.train_seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """The part of training's time so far, 0 to 1, that the slowest rank waited for images."""
        return self.waited_seconds / self.train_seconds if self.train_seconds else 0.0

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
