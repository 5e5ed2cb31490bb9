"""One update after another: network, optimizer, moving average, and whether what they make is finite.

A forward pass takes one group, or several whose statistics and draws stay apart; ranks and
accumulation decide only which groups run where. Every draw comes from a derived seed
(roadmap.config.seeds), so the state of a run is its tensors and the iteration: a resumed run repeats
the rest exactly. Nothing in an iteration waits for the device: losses are summed there, and a loss
or a gradient that is not finite is turned into a flag that makes the fused optimizer skip its update.
What changes from one iteration to the next is in tensors (`Updates.iterate`), so that on a GPU the
same iteration is captured as a CUDA graph and replayed (roadmap.train.graph).
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from roadmap.config.errors import RoadmapError
from roadmap.config.recipe import Recipe
from roadmap.config.runtime import GRAPHED_MODES, Runtime, refuse_sparse_evaluation
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
from roadmap.train.graph import Draws, Load, Replay, eager_because
from roadmap.train.microbatch import draw_masks, drop_paths, set_masks, take_groups
from roadmap.train.optimizer import DeviceRates, begin_momentum, make_optimizer, make_schedule
from roadmap.train.recompute import checkpoint_blocks

SMALLEST_SCALE = 1.0  # of the loss in fp16: below it gradients overflow by themselves


class Diverged(RoadmapError):
    """A loss, a gradient, a weight or a score is not finite; no update from it, no save of it."""


class Group(NamedTuple):
    """Images (N, C, H, W) over which BatchNorm takes statistics, and their targets."""

    images: Tensor
    targets: Tensor


def initial_network(trial: Trial) -> nn.Module:
    """The trial's network with its initial weights, which depend on model and seed alone."""
    torch.default_generator.manual_seed(derive(trial.seed, INIT))
    return build_network(trial.model, trial.data.image_size)


def moving_average(model: nn.Module, recipe: Recipe) -> ModelEmaV3 | None:
    """The weights' moving average, which starts as the network is; None where the recipe has none."""
    if recipe.ema_decay is None:
        return None
    return ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup)


def follow(ema: ModelEmaV3, model: nn.Module, weight: Tensor) -> None:
    """Move the average towards the network by a weight that is a tensor, as timm does by a number."""
    for average, value in zip(ema.module.state_dict().values(), model.state_dict().values(), strict=True):
        if average.is_floating_point():
            average.lerp_(value, weight)
        else:
            average.copy_(value)


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """A CPU's values on the device, which is not waited for."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


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
            self._refuse_overwritten_gradients()
        self.eager_because = eager_because(runtime, ranks, self.model)
        # Of several groups, and in a graph, stochastic depth is drawn before the forward pass.
        self.draws_first = runtime.compile or self.per_forward > 1 or not self.eager_because
        if self.draws_first:
            with_own_drop_path(self.model)
        self.drop_paths = drop_paths(self.model)
        self.forward = self._wrap()
        self.optimizer = make_optimizer(self.model, self.recipe)
        self.per_epoch = pipeline.sampler().iterations_per_epoch
        self.total = self.recipe.epochs * self.per_epoch
        self.schedule = make_schedule(self.optimizer, self.recipe, self.per_epoch)
        # On a GPU with and without a graph, so that both read the same float32; on a CPU a number is as good.
        self.rates = DeviceRates(self.optimizer, ranks.device) if ranks.device.type == "cuda" else None
        self.ema = moving_average(self.model, self.recipe)
        self.precision = precision_of(self.recipe, ranks.device)
        self.criterion = Criterion(self.recipe, trial.data.num_classes)
        self.autocast = autocast(self.precision, ranks.device)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.precision == "fp16")
        if self.scaler.is_enabled():
            begin_momentum(self.optimizer)
        self.iteration = 0
        self.at = torch.zeros(1, dtype=torch.int64, device=ranks.device)  # the iteration's place in `losses`
        self.ema_weight = torch.zeros((), device=ranks.device)  # of the network in its average, where that changes
        self.losses = torch.zeros(self.per_epoch, device=ranks.device)
        self.bad = torch.zeros((), device=ranks.device)  # 1 once a loss or a gradient was not finite, on any rank
        self.skip = torch.zeros((), device=ranks.device)  # 1 where this iteration's update is not applied
        self.skipped = torch.zeros((), device=ranks.device)  # updates left out by loss scaling
        self.optimizer.found_inf = self.skip  # type: ignore[attr-defined]  # fused optimizers skip the update where it is 1
        self.replay = None if self.eager_because else Replay(self.iterate, ranks.device, abandon=self._go_on_eagerly)
        if self.eager_because and ranks.device.type == "cuda" and runtime.cuda_graph == "auto":
            self._say_eager(self.eager_because)

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

    def _refuse_overwritten_gradients(self) -> None:
        """Raise RoadmapError where a compiler that makes CUDA graphs meets several forward passes an iteration."""
        mode, images = self.runtime.compile_mode, self.forwards * self.per_forward * self.recipe.group_size
        if mode in GRAPHED_MODES and self.forwards > 1:
            raise RoadmapError(
                f"--compile-mode is {mode} with {self.forwards} forward passes an iteration, each of which would "
                "overwrite the gradients of the one before; legal: default, max-autotune-no-cudagraphs, or one forward "
                f"pass; give another mode, or --micro-batch {images}"
            )

    def _wrap(self) -> Any:
        model: Any = self.model
        if self.ranks.world_size > 1:
            devices = [self.ranks.device] if self.ranks.device.type == "cuda" else None
            model = DistributedDataParallel(
                model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        return torch.compile(model, mode=self.runtime.compile_mode) if self.runtime.compile else model

    def step(self, stream: Iterator[tuple[Tensor, Tensor]]) -> None:
        """One update from the next global batch; the loss is noted on the device."""
        self.schedule.step_update(self.iteration)
        self._write_numbers()
        if self.runtime.compile:
            torch.compiler.cudagraph_mark_step_begin()
        (self.replay.step if self.replay else self.iterate)(self._loads(stream), self._draws())
        self.iteration += 1

    def _write_numbers(self) -> None:
        """Put what changes from one iteration to the next where `iterate` reads it, on the device."""
        self.at.fill_(self.iteration % self.per_epoch)
        if self.rates:
            self.rates.write()
        if self.ema and self.recipe.ema_warmup:
            self.ema_weight.fill_(1 - self.ema.get_decay(self.iteration + 1))

    def iterate(self, loads: Iterable[Load], draws: Iterable[Draws]) -> None:
        """One update from a rank's loads and what stochastic depth draws for each forward pass.

        Reads nothing back from the device, and no number that changes by iteration from anywhere else.
        """
        groups, draws = self._groups(loads), iter(draws)
        for k in range(self.forwards):
            last = k == self.forwards - 1
            with contextlib.nullcontext() if last or self.ranks.world_size == 1 else self.forward.no_sync():
                loss = self.group_loss(*self._micro_batch(groups, draws), k)
                self.scaler.scale(loss / self.forwards).backward()
            share = loss.detach() / (self.recipe.groups // self.per_forward)
            self.losses.index_add_(0, self.at, share.reshape(1))
        self._note_what_is_not_finite(self.losses.index_select(0, self.at)[0])
        with self.rates.in_use() if self.rates else contextlib.nullcontext():
            self.optimizer.step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema and self.recipe.ema_warmup:
            follow(self.ema, self.model, self.ema_weight)
        elif self.ema:
            self.ema.update(self.model)

    def _loads(self, stream: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Load]:
        """Yield this rank's part of a global batch on its device, with what mixes it."""
        recipe, device = self.recipe, self.ranks.device
        mixes = recipe.load_size // recipe.mix_group
        for load in self._load_numbers():
            images, labels = next(stream)
            images = images.to(device, non_blocking=True, memory_format=self.memory_format)
            labels = labels.to(device, non_blocking=True)
            seeds = [derive(self.trial.seed, GROUP, self.iteration, load * mixes + i) for i in range(mixes)]
            mixing = self.criterion.draw(seeds, images.shape)
            yield Load(images, labels, mixing if mixing is None else _sent(mixing, device))

    def _load_numbers(self) -> range:
        return range(self.ranks.rank, self.recipe.loads, self.ranks.world_size)

    def _groups(self, loads: Iterable[Load]) -> Iterator[Group]:
        """Yield this rank's groups of a global batch, in order: each load is mixed, then cut into groups."""
        size = self.recipe.group_size
        for load in loads:
            images, targets = self.criterion.prepare(*load)
            yield from itertools.starmap(Group, zip(images.split(size), targets.split(size), strict=True))

    def _draws(self) -> Iterator[Draws]:
        """Yield what stochastic depth draws for each forward pass; None where it is seeded to draw by itself."""
        groups = self.recipe.load_size // self.recipe.group_size
        numbers = (load * groups + i for load in self._load_numbers() for i in range(groups))
        for _ in range(self.forwards):
            keys = [(self.trial.seed, self.iteration, n) for n in itertools.islice(numbers, self.per_forward)]
            if self.draws_first:
                yield draw_masks(self.drop_paths, keys, self.recipe.group_size, self.ranks.device)
            else:
                seed_group(*keys[0], self.ranks.device)
                yield None

    def _micro_batch(self, groups: Iterator[Group], draws: Iterator[Draws]) -> tuple[Tensor, Tensor]:
        """The images and targets of one forward pass; then, not before, stochastic depth is drawn for it."""
        taken = list(itertools.islice(groups, self.per_forward))
        if (drawn := next(draws)) is not None:
            set_masks(self.drop_paths, drawn)
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

    @property
    def replays(self) -> bool:
        """Whether an iteration has been captured as a CUDA graph, which a very short run never comes to."""
        return self.replay is not None and self.replay.replay is not None

    @property
    def eager_reason(self) -> str | None:
        """Why iterations are not replayed as a CUDA graph; None where they are, or will be."""
        return self.replay.eager_because if self.replay else self.eager_because

    def _go_on_eagerly(self, reason: str) -> None:
        """Forget what a capture that failed has left half done: gradients, and the state of loss scaling."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled():
            state = self.scaler.state_dict()
            self.scaler = torch.amp.GradScaler(self.ranks.device.type)
            self.scaler.load_state_dict(state)
        self._say_eager(reason)

    def _say_eager(self, reason: str) -> None:
        if self.ranks.is_main:
            print(f"{self.trial.id}: no CUDA graph of an iteration: {reason}", file=sys.stderr, flush=True)

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
