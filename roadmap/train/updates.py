"""One update after another: network, optimizer, moving average, and whether what they make is finite.

A forward pass takes one group, or several whose statistics and draws stay apart; ranks and
accumulation decide only which groups run where. Every draw comes from a derived seed
(roadmap.config.seeds), so the state of a run is its tensors and the iteration: a resumed run repeats
the rest exactly. Nothing in an iteration waits for the device: losses are summed there, and a loss
or a gradient that is not finite is turned into a flag that makes the fused optimizer skip its update.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from roadmap.config.errors import RoadmapError
from roadmap.config.recipe import Recipe
from roadmap.config.runtime import Runtime, refuse_sparse_evaluation
from roadmap.config.seeds import GROUP, INIT, derive
from roadmap.config.trial import Trial
from roadmap.data.pipeline import Pipeline
from roadmap.model.build import build_network
from roadmap.model.layers import with_own_drop_path
from roadmap.train.batchnorm import batch_norms, set_momentum
from roadmap.train.criterion import Criterion, seed_group
from roadmap.train.distributed import Ranks
from roadmap.train.finite import gradient_norm
from roadmap.train.formats import autocast, precision_of, set_float32_arithmetic, set_residual
from roadmap.train.microbatch import draw_masks, take_groups
from roadmap.train.optimizer import begin_momentum, make_optimizer, make_schedule
from roadmap.train.recompute import checkpoint_blocks

SMALLEST_SCALE = 1.0  # of the loss in fp16: below it gradients overflow by themselves


class Diverged(RoadmapError):
    """A loss, a gradient, a weight or a score is not finite; no update from it, no save of it."""


class Group(NamedTuple):
    """Images (N, C, H, W) over which BatchNorm takes statistics, their targets, and their place in the global batch."""

    images: Tensor
    targets: Tensor
    number: int


def initial_network(trial: Trial) -> nn.Module:
    """The trial's network with its initial weights, which depend on model and seed alone."""
    torch.default_generator.manual_seed(derive(trial.seed, INIT))
    return build_network(trial.model, trial.data.image_size)


def moving_average(model: nn.Module, recipe: Recipe) -> ModelEmaV3 | None:
    """The weights' moving average, which starts as the network is; None where the recipe has none."""
    if recipe.ema_decay is None:
        return None
    return ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup)


class Updates:
    """The network of a trial with what trains it: `step` makes one update."""

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
        refuse_sparse_evaluation(runtime, self.recipe)
        self.per_forward = self.recipe.groups_per_forward(runtime.micro_batch, ranks.world_size)
        self.forwards = self.recipe.groups // ranks.world_size // self.per_forward
        self.memory_format = torch.channels_last if runtime.channels_last else torch.contiguous_format
        set_float32_arithmetic(self.recipe, ranks.device)
        self.model = initial_network(trial)
        if init:
            init(self.model)
        self.model.to(ranks.device).to(memory_format=self.memory_format)
        if self.per_forward > 1:
            take_groups(self.model, self.per_forward)
        self.norms = batch_norms(self.model)
        self.parameters = list(self.model.parameters())
        set_residual(self.model, self.recipe.residual)
        if runtime.gradient_checkpointing:
            checkpoint_blocks(self.model, compiled=runtime.compile)
        if runtime.compile:
            self._refuse_compiling_many_groups()
        # Of several groups, and in a compiled graph, stochastic depth is drawn before the forward pass.
        self.draws_first = runtime.compile or self.per_forward > 1
        if self.draws_first:
            with_own_drop_path(self.model)
        self.forward = self._wrap()
        self.optimizer = make_optimizer(self.model, self.recipe)
        self.per_epoch = pipeline.sampler().iterations_per_epoch
        self.total = self.recipe.epochs * self.per_epoch
        self.schedule = make_schedule(self.optimizer, self.recipe, self.per_epoch)
        self.ema = moving_average(self.model, self.recipe)
        self.precision = precision_of(self.recipe, ranks.device)
        self.criterion = Criterion(self.recipe, trial.data.num_classes)
        self.autocast = autocast(self.precision, ranks.device)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.precision == "fp16")
        if self.scaler.is_enabled():
            begin_momentum(self.optimizer)
        self.iteration = 0
        self.losses = torch.zeros(self.per_epoch, device=ranks.device)
        self.bad = torch.zeros((), device=ranks.device)  # 1 once a loss or a gradient was not finite, on any rank
        self.skip = torch.zeros((), device=ranks.device)  # 1 where this iteration's update is not applied
        self.skipped = torch.zeros((), device=ranks.device)  # updates left out by loss scaling
        self.optimizer.found_inf = self.skip  # type: ignore[attr-defined]  # fused optimizers skip the update where it is 1

    def _refuse_compiling_many_groups(self) -> None:
        """Raise RoadmapError where BatchNorm sees several groups on one device.

        Each group's momentum is a constant of the compiled graph: there would be one compilation a
        group. Layers that tell groups apart were never compiled.
        """
        many = self.forwards * self.per_forward
        if self.per_forward > 1 or (self.norms and many > 1):
            raise RoadmapError(
                f"--compile with BatchNorm and {many} groups on one device; legal: one group a device, "
                f"or a network without BatchNorm and no --micro-batch; leave --compile out, or use "
                f"{self.recipe.groups} GPUs"
            )

    def _wrap(self) -> Any:
        model: Any = self.model
        if self.ranks.world_size > 1:
            devices = [self.ranks.device] if self.ranks.device.type == "cuda" else None
            model = DistributedDataParallel(
                model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        return torch.compile(model) if self.runtime.compile else model

    def step(self, stream: Iterator[tuple[Tensor, Tensor]]) -> None:
        """One update from the next global batch; the loss is noted on the device."""
        self.schedule.step_update(self.iteration)
        at = self.iteration % self.per_epoch
        groups = self._groups(stream)
        for k in range(self.forwards):
            last = k == self.forwards - 1
            with contextlib.nullcontext() if last or self.ranks.world_size == 1 else self.forward.no_sync():
                loss = self.group_loss(*self._micro_batch(groups), k)
                self.scaler.scale(loss / self.forwards).backward()
            self.losses[at] += loss.detach() / (self.recipe.groups // self.per_forward)
        self._note_what_is_not_finite(self.losses[at])
        self.optimizer.step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.iteration += 1
        if self.ema:
            # timm counts updates from 0 only to warm the decay up: without a step the decay is the recipe's.
            self.ema.update(self.model, self.iteration if self.recipe.ema_warmup else None)

    def _groups(self, stream: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Group]:
        """Yield this rank's groups of a global batch, in order: each load is mixed, then cut into groups."""
        recipe, device = self.recipe, self.ranks.device
        groups, mixes = recipe.load_size // recipe.group_size, recipe.load_size // recipe.mix_group
        for load in range(self.ranks.rank, recipe.loads, self.ranks.world_size):
            images, labels = next(stream)
            images = images.to(device, non_blocking=True, memory_format=self.memory_format)
            labels = labels.to(device, non_blocking=True)
            seeds = [derive(self.trial.seed, GROUP, self.iteration, load * mixes + i) for i in range(mixes)]
            images, targets = self.criterion.prepare(images, labels, seeds)
            parts = zip(images.split(recipe.group_size), targets.split(recipe.group_size), strict=True)
            yield from (Group(*part, load * groups + i) for i, part in enumerate(parts))

    def _micro_batch(self, groups: Iterator[Group]) -> tuple[Tensor, Tensor]:
        """The images and targets of one forward pass; stochastic depth is seeded, or drawn before the pass."""
        taken = list(itertools.islice(groups, self.per_forward))
        if self.draws_first:
            keys = [(self.trial.seed, self.iteration, group.number) for group in taken]
            draw_masks(self.model, keys, self.recipe.group_size, self.ranks.device)
        else:
            seed_group(self.trial.seed, self.iteration, taken[0].number, self.ranks.device)
        if len(taken) == 1:
            return taken[0].images, taken[0].targets
        return torch.cat([g.images for g in taken]), torch.cat([g.targets for g in taken])

    def _note_what_is_not_finite(self, loss: Tensor) -> None:
        """Clip the gradients, and flag whether this update may be applied; nothing waits for the device.

        A gradient that overflowed under loss scaling is left out and the scale lowered; any other
        that is not finite, and any such loss, ends the run.
        """
        self.scaler.unscale_(self.optimizer)
        overflow = (~torch.isfinite(gradient_norm(self.parameters, self.recipe.clip_grad))).float()
        lost = (~torch.isfinite(loss)).float()
        if self.scaler.is_enabled():
            self.skipped += overflow
        else:
            lost = torch.maximum(lost, overflow)
        self.bad.copy_(torch.maximum(self.bad, lost))
        self.ranks.max(self.bad)
        self.skip.copy_(torch.maximum(self.bad, overflow))

    def group_loss(self, images: Tensor, targets: Tensor, k: int) -> Tensor:
        """Forward this rank's k-th micro-batch: (N, C, H, W), (N,) or (N, classes) -> scalar mean loss."""
        set_momentum(self.norms, k, self.forwards)
        with self.autocast:
            logits = self.forward(images)
        return self.criterion(logits, targets)

    def refuse_divergence(self) -> None:
        """Raise Diverged if a loss or a gradient was not finite. Waits for the device."""
        last = max(self.iteration - 1, 0)
        if self.bad:
            odd = (~torch.isfinite(self.losses)).nonzero()
            what, at = ("loss", last - last % self.per_epoch + int(odd[0])) if len(odd) else ("gradient", last)
            raise Diverged(
                f"{what} is not finite in iteration {at} or before; the weights before it are kept; "
                "lower the learning rate, or warm up for longer"
            )
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            raise Diverged(
                f"gradients of fp16 overflow even at a loss scale of {2 * SMALLEST_SCALE:g}, in iteration {last} or "
                "before; the weights before it are kept; lower the learning rate, or give --precision fp32"
            )
