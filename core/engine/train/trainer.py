"""The training loop on torchpack's Trainer: mixed precision, accumulation, averaged weights, exact resume.

One step is one optimiser step: ``train.accumulate`` batches per process. The loop knows a :class:`core.distill.Method`,
which turns a batch into named losses, and the source of the teacher's part; supervised training is a method too.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from core.contracts import Batch, Pair
from core.distill import Method
from core.engine.run.checkpoint import load_weights, random_state, restore_random_state
from core.engine.run.context import autocast
from core.engine.run.distributed import World, sum_over_ranks
from core.engine.run.experiment import Experiment
from core.engine.run.optim import build_optimizer, build_scheduler
from core.engine.run.run_dir import RunDir
from core.engine.run.stopping import STOP
from core.engine.run.torchpack_api import Trainer as TorchpackTrainer
from core.engine.train.averaging import averaged_model, renew_batch_norm
from core.engine.train.guard import NonFiniteGuard
from core.engine.train.sources import TeacherSource
from core.sparse import convert_sync_batchnorm

__all__ = ["StepLoader", "Trainer"]


class StepLoader:
    """Groups a loader's batches into optimiser steps and can start in the middle of an epoch.

    Args:
        accumulate: batches per step. total: steps of the whole training, which may end within an epoch; None = every
            epoch is whole.
    """

    def __init__(self, loader: Any, accumulate: int, total: int | None = None) -> None:
        self.loader, self.accumulate, self.total = loader, accumulate, total
        loader.set_epoch(1, 0)
        self.steps = -(-len(loader) // accumulate)
        self._left = self.steps

    def __len__(self) -> int:
        """Optimiser steps of a whole epoch."""
        return self.steps

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Begin the next iteration at optimiser step ``start_step`` of ``epoch`` (counted from 1)."""
        self.loader.set_epoch(epoch, start_step * self.accumulate)
        self._left = self.steps - start_step
        if self.total is not None:
            done = (epoch - 1) * self.steps + start_step
            self._left = min(self._left, self.total - done)

    def __iter__(self) -> Iterator[list[Batch | Pair]]:
        return itertools.islice(self._groups(), self._left)

    def _groups(self) -> Iterator[list[Batch | Pair]]:
        group: list[Batch | Pair] = []
        for batch in self.loader:
            group.append(batch)
            if len(group) == self.accumulate:
                yield group
                group = []
        if group:
            yield group


class Trainer(TorchpackTrainer):
    """Trains one method.

    Args:
        experiment: typed configuration.
        method: what is trained, on any device; it is moved to this rank's. What is frozen is so already.
        source: the teacher's part of each batch.
        loader: this rank's batches, of the source's samples; needs ``set_epoch(epoch, start_batch)`` and ``len``.
        world: this process among the others.
        run_dir: where checkpoints and reports go.
        identity: plain values stored in every checkpoint (label-space fingerprint, classes, configuration).

    Attributes:
        network: the method as it is called, under DistributedDataParallel with several processes.
        total_steps: optimiser steps of the whole training. epochs: that they begin.
        stop_agreed: a signal asked a rank to stop, and all ranks know. What one of them alone knows decides nothing:
            the others would wait for it in the next exchange.
    """

    def __init__(
        self,
        experiment: Experiment,
        method: Method,
        source: TeacherSource,
        loader: Any,
        world: World,
        run_dir: RunDir,
        identity: dict[str, Any],
    ) -> None:
        self.experiment = experiment
        self.source = source
        self.world = world
        self.device = world.device
        self.run_dir = run_dir
        self.identity = identity
        train = experiment.train
        self.steps = StepLoader(loader, train.accumulate, train.steps)
        self.total_steps = train.steps or len(self.steps) * experiment.num_epochs
        self.epochs = -(-self.total_steps // len(self.steps))
        train.check_average(self.epochs)
        if world.size > 1 and experiment.train.sync_bn:
            convert_sync_batchnorm(method)  # in place
        self.method = method.to(self.device)
        self.network: nn.Module = self.method
        if world.size > 1:
            self.network = DistributedDataParallel(self.method)
        self.optimizer = build_optimizer(experiment.optimizer, self.method)
        self.scheduler = build_scheduler(experiment.scheduler, self.optimizer, self.total_steps)
        scaling = experiment.amp.number_type(self.device.type) == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaling)
        self.average = averaged_model(experiment.train, self.method)
        source.average = self.average
        self.guard = NonFiniteGuard(run_dir.path, world, experiment.train.max_nonfinite_steps)
        self.stop_agreed = False
        self.skipped_samples: dict[str, None] = {}  # messages in order of first appearance
        self._start_step = 0
        self._last_end = time.perf_counter()

    @property
    def scored_method(self) -> Method:
        """The method with the weights that are scored: the averaged ones if there are."""
        if self.average is None or self.average.n_averaged == 0:
            return self.method
        averaged = self.average.module
        assert isinstance(averaged, Method)
        return averaged

    @property
    def scored_network(self) -> nn.Module:
        """The network that evaluation looks at, without what exists in training only."""
        return self.scored_method.deployed

    @property
    def last_step(self) -> int:
        """Optimiser steps when the loop ends; a profile makes fewer than a training."""
        return min(self.total_steps, self.num_epochs * self.steps_per_epoch)

    @property
    def at_epoch_end(self) -> bool:
        """The step just made is the last of its epoch, or of all."""
        return self.local_step == self.steps_per_epoch or self.global_step == self.last_step

    # --- torchpack's hooks ----------------------------------------------------------------------------------------
    def _before_epoch(self) -> None:
        self.network.train()
        self.local_step = start = self._start_step
        self._start_step = 0
        self.steps.set_epoch(self.epoch_num, start)

    def _after_epoch(self) -> None:
        start = self.experiment.train.swa_start
        if self.average is None or start is None or self.epoch_num < start:
            return
        self.average.update_parameters(self.method)
        if self.epoch_num == self.num_epochs:
            self.steps.set_epoch(self.epoch_num)
            batches = (batch for group in self.steps for batch in group)
            renew_batch_norm(self.scored_network, batches, self.device, self._autocast)

    def _run_step(self, feed_dict: list[Batch | Pair]) -> dict[str, float]:
        waited = time.perf_counter() - self._last_end
        self.optimizer.zero_grad(set_to_none=True)
        self.method.begin_step((self.global_step - 1) / self.total_steps)
        sums: dict[str, float] = {}
        for i, batch in enumerate(feed_dict):
            for message in batch.skipped:
                self.skipped_samples.setdefault(message)
            losses = self._backward(batch, len(feed_dict), last=i == len(feed_dict) - 1)
            if losses is None:
                break
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value / len(feed_dict)
        else:
            with record_function("lidistill::optimizer"):
                sums["grad_norm"] = self._update()
        self._report(sums, waited)
        return sums

    def losses(self, batch: Batch | Pair) -> dict[str, Tensor]:
        """Named losses of one batch, which may be on any device."""
        student, teacher = self.source(batch.to(self.device))
        named: dict[str, Tensor] = self.network(student, teacher)
        return named

    def _backward(self, batch: Batch | Pair, parts: int, last: bool) -> dict[str, float] | None:
        """Forward and backward of one batch; the losses averaged over ranks, or None if one of them is not finite."""
        with self._without_exchange(last):
            with record_function("lidistill::losses"), self._autocast():
                losses = self.losses(batch)
            total = torch.stack(list(losses.values())).sum()
            averages = self._averages([*losses.values(), total])
            named = dict(zip([*losses, "total"], averages))
            if not all(map(math.isfinite, averages)):
                self.guard.report(named, batch.tokens, self.epoch_num, self.global_step)
                return None
            with record_function("lidistill::backward"):
                self.scaler.scale(total / parts).backward()
        return {f"loss/{name}": value for name, value in named.items()}

    def _without_exchange(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Ranks exchange gradients once per step, in the backward pass of its last batch."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return contextlib.nullcontext()
        held: contextlib.AbstractContextManager[None] = self.network.no_sync()
        return held

    def _averages(self, losses: list[Tensor]) -> list[float]:
        """Mean of each loss over ranks; in the same exchange they agree on whether to stop."""
        values = torch.stack([loss.detach().float() for loss in losses])
        status = torch.cat([values, values.new_tensor([float(bool(STOP.asked))])])
        if self.world.size > 1:
            dist.all_reduce(status)
        *sums, stop = status.tolist()
        self.stop_agreed |= stop > 0
        return [value / self.world.size for value in sums]

    def agree_to_stop(self) -> bool:
        """Whether any rank has been asked to stop. Collective: the ranks' answers are the same."""
        asked = torch.tensor([float(bool(STOP.asked))], device=self.device)
        self.stop_agreed |= sum_over_ranks(asked).item() > 0
        return self.stop_agreed

    def _update(self) -> float:
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        limit = self.experiment.train.grad_clip or float("inf")
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        finite = math.isfinite(norm)
        if not finite and not self.scaler.is_enabled():
            raise self.guard.bad_gradient(self.global_step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.average is not None and self.experiment.train.ema is not None:
            self.average.update_parameters(self.method)
        return norm if finite else 0.0

    def _report(self, sums: dict[str, float], waited: float) -> None:
        now = time.perf_counter()
        scalars = sums | {
            "lr": self.optimizer.param_groups[0]["lr"],
            "time/step": now - self._last_end,
            "time/data": waited,
        }
        self._last_end = now
        for name, value in scalars.items():
            self.summary.add_scalar(name, value, max_to_keep=1)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return autocast(self.experiment, self.device)

    # --- state ----------------------------------------------------------------------------------------------------
    def _state_dict(self) -> dict[str, Any]:
        """Everything a bit-exact continuation needs. Collective: every rank calls it."""
        states: list[Any] = [random_state()]
        if self.world.size > 1:
            states = [None] * self.world.size
            dist.all_gather_object(states, random_state())
        scored = self.scored_method
        averaging = self.average is not None
        return {
            "model": scored.deployed_state(),
            "training_only": scored.training_state(),
            "train_model": self.method.whole_state() if averaging else None,
            "ema_updates": int(self.average.n_averaged) if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": states,
            "world_size": self.world.size,
            "nonfinite_steps": self.guard.count,
            "identity": self.identity,
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self._load_weights(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.guard.count = state["nonfinite_steps"]
        if state["world_size"] == self.world.size:
            restore_random_state(state["random"][self.world.rank])
        if not self.at_epoch_end:
            # in the middle of an epoch: torchpack's loop adds one again
            self._start_step = self.local_step
            self.epoch_num -= 1

    def _load_weights(self, state: dict[str, Any]) -> None:
        where = str(self.run_dir.path)
        if self.average is not None:
            self.average.n_averaged.fill_(state["ema_updates"])
        scored = self.scored_method
        load_weights(scored, scored.joined_state(state["model"], state["training_only"]), where)
        if self.average is not None:
            load_weights(self.method, self.method.named_state(state["train_model"]), where)

    def save(self, best: tuple[str, ...] = ()) -> None:
        """Write a checkpoint (rank 0; every rank must call), also under the names in ``best``."""
        state = self.state_dict()
        if self.world.rank == 0:
            self.run_dir.checkpoints.save(state, best)
