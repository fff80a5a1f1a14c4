"""The training loop on torchpack's Trainer: mixed precision, accumulation, EMA, exact resume, NaN guard.

One step is one optimiser step: ``train.accumulate`` batches per process. An :class:`Objective` turns (network, batch)
into named losses, so that supervised training and every distillation method share this loop.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
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
from core.engine.run.distributed import World
from core.engine.run.experiment import Experiment
from core.engine.run.memory import release_free_memory
from core.engine.run.optim import build_optimizer, build_scheduler
from core.engine.run.run_dir import RunDir
from core.engine.run.torchpack_api import Trainer
from core.engine.train.averaging import averaged_model, renew_batch_norm
from core.errors import UserError
from core.io import write_json
from core.losses import CrossEntropyLovasz
from core.sparse import convert_sync_batchnorm

_TRIM_EVERY = 20  # steps between returns of free heap memory; one takes milliseconds

__all__ = ["DistillTrainer", "Objective", "StepLoader", "Supervised"]

Objective = Callable[[nn.Module, Batch | Pair], dict[str, Tensor]]


class Supervised:
    """Losses of the network's logits against the voxels' labels."""

    def __init__(self, criterion: CrossEntropyLovasz) -> None:
        self.criterion = criterion

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Named losses of one batch."""
        return self.criterion(network(batch).logits, batch.labels)


class StepLoader:
    """Groups a loader's batches into optimiser steps and can start in the middle of an epoch."""

    def __init__(self, loader: Any, accumulate: int) -> None:
        self.loader, self.accumulate = loader, accumulate
        loader.set_epoch(1, 0)
        self.steps = -(-len(loader) // accumulate)

    def __len__(self) -> int:
        """Optimiser steps of a whole epoch."""
        return self.steps

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Begin the next iteration at optimiser step ``start_step`` of ``epoch`` (counted from 1)."""
        self.loader.set_epoch(epoch, start_step * self.accumulate)

    def __iter__(self) -> Iterator[list[Batch]]:
        group: list[Batch] = []
        for batch in self.loader:
            group.append(batch)
            if len(group) == self.accumulate:
                yield group
                group = []
        if group:
            yield group


class DistillTrainer(Trainer):
    """Trains one network with one objective.

    Args:
        experiment: typed configuration.
        model: the network to train, or the :class:`Method` that holds it; on any device, it is moved to this rank's.
        objective: losses of a batch.
        loader: this rank's batches; needs ``set_epoch(epoch, start_batch)`` and ``len``.
        world: this process among the others.
        run_dir: where checkpoints and reports go.
        identity: plain values stored in every checkpoint (label-space fingerprint, classes, configuration).
    """

    def __init__(
        self,
        experiment: Experiment,
        model: nn.Module,
        objective: Objective,
        loader: Any,
        world: World,
        run_dir: RunDir,
        identity: dict[str, Any],
    ) -> None:
        self.experiment, self.objective, self.world, self.run_dir = (
            experiment,
            objective,
            world,
            run_dir,
        )
        self.identity, self.device = identity, world.device
        self.steps = StepLoader(loader, experiment.train.accumulate)
        self.total_steps = len(self.steps) * experiment.num_epochs
        if world.size > 1 and experiment.train.sync_bn:
            model = convert_sync_batchnorm(model)
        self.model = model.to(self.device)
        self.network = DistributedDataParallel(self.model) if world.size > 1 else self.model
        self.optimizer = build_optimizer(experiment.optimizer, self.model)
        self.scheduler = build_scheduler(experiment.scheduler, self.optimizer, self.total_steps)
        scaling = experiment.amp.enabled and experiment.amp.dtype == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaling)
        self.average = averaged_model(experiment.train, self.model)
        self.stop_requested = False
        self.skipped_samples: dict[str, None] = {}  # messages in order of first appearance
        self.nonfinite_steps = 0
        self._start_step = 0
        self._last_end = time.perf_counter()

    @property
    def scored_model(self) -> nn.Module:
        """The network evaluation looks at, without what exists in training only; the averaged weights if there are."""
        return _deployed(self._averaged)

    @property
    def _averaged(self) -> nn.Module:
        return (
            self.model
            if self.average is None or self.average.n_averaged == 0
            else self.average.module
        )

    # --- torchpack's hooks ----------------------------------------------------------------------------------------
    def _before_epoch(self) -> None:
        self.network.train()
        self.local_step, start = self._start_step, self._start_step
        self._start_step = 0
        self.steps.set_epoch(self.epoch_num, start)

    def _after_epoch(self) -> None:
        start = self.experiment.train.swa_start
        if start is None or self.epoch_num < start:
            return
        self.average.update_parameters(self.model)
        if self.epoch_num == self.num_epochs:
            self.steps.set_epoch(self.epoch_num)
            batches = (batch for group in self.steps for batch in group)
            renew_batch_norm(
                self.scored_model,
                batches,
                self.device,
                lambda: autocast(self.experiment, self.device),
            )

    def _run_step(self, feed_dict: list[Batch]) -> dict[str, float]:
        waited = time.perf_counter() - self._last_end
        self.optimizer.zero_grad(set_to_none=True)
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
        if self.device.type == "cpu" and self.global_step % _TRIM_EVERY == 0:
            release_free_memory()
        return sums

    def _backward(self, batch: Batch | Pair, parts: int, last: bool) -> dict[str, float] | None:
        """Forward and backward of one batch; the losses averaged over ranks, or None if one of them is not finite."""
        hold = contextlib.nullcontext() if last or self.world.size == 1 else self.network.no_sync()
        with hold:
            with record_function("lidistill::objective"), autocast(self.experiment, self.device):
                losses = self.objective(self.network, batch.to(self.device))
            total = torch.stack(list(losses.values())).sum()
            values = torch.stack(
                [*(loss.detach().float() for loss in losses.values()), total.detach().float()]
            )
            status = torch.cat([values, values.new_tensor([float(self.stop_requested)])])
            if self.world.size > 1:
                dist.all_reduce(status)
            status = status.tolist()
            self.stop_requested = status[-1] > 0
            averages = [value / self.world.size for value in status[:-1]]
            if not all(map(_finite, averages)):
                self._nonfinite(batch, dict(zip([*losses, "total"], averages)))
                return None
            with record_function("lidistill::backward"):
                self.scaler.scale(total / parts).backward()
        return {f"loss/{name}": value for name, value in zip([*losses, "total"], averages)}

    def _update(self) -> float:
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        limit = self.experiment.train.grad_clip or float("inf")
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        if not _finite(norm) and not self.scaler.is_enabled():
            raise UserError(
                f"the gradient is not finite at step {self.global_step} although the loss is",
                where=str(self.run_dir.path),
                cure="Lower optimizer.lr, set train.grad_clip, or switch amp off; the last checkpoint is intact",
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.experiment.train.ema is not None:
            self.average.update_parameters(self.model)
        return norm if _finite(norm) else 0.0

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

    def _nonfinite(self, batch: Batch | Pair, losses: dict[str, float]) -> None:
        """Write down what broke; stop unless a few such steps are allowed."""
        tokens: list[Any] = [batch.tokens]
        if self.world.size > 1:
            tokens = [None] * self.world.size
            dist.all_gather_object(tokens, batch.tokens)
        self.nonfinite_steps += 1
        record = {
            "epoch": self.epoch_num,
            "step": self.global_step,
            "losses": {name: str(value) for name, value in losses.items()},
            "tokens_by_rank": [list(t) for t in tokens],
        }
        path = self.run_dir.path / "nonfinite.json"
        if self.world.rank == 0:
            write_json(path, record)
        if self.nonfinite_steps > self.experiment.train.max_nonfinite_steps:
            broken = ", ".join(name for name, value in losses.items() if not _finite(value))
            raise UserError(
                f"the loss ({broken}) is not finite at epoch {self.epoch_num}, step {self.global_step}; the batch was "
                f"{'; '.join(', '.join(t) for t in tokens)} (written to {path})",
                where="training",
                cure="Check these scans with `python -m core.check_data`, lower optimizer.lr or set train.grad_clip; "
                "the last checkpoint is intact",
            )

    # --- state ----------------------------------------------------------------------------------------------------
    def _state_dict(self) -> dict[str, Any]:
        """Everything a bit-exact continuation needs. Collective: every rank calls it."""
        states: list[Any] = [random_state()]
        if self.world.size > 1:
            states = [None] * self.world.size
            dist.all_gather_object(states, random_state())
        return {
            "model": self.scored_model.state_dict(),
            "training_only": _training_only(self._averaged),
            "train_model": None if self.average is None else self.model.state_dict(),
            "ema_updates": None if self.average is None else int(self.average.n_averaged),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": states,
            "world_size": self.world.size,
            "nonfinite_steps": self.nonfinite_steps,
            "identity": self.identity,
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        where = str(self.run_dir.path)
        if self.average is not None:
            self.average.n_averaged.fill_(state["ema_updates"])
        load_weights(self._averaged, _joined(self._averaged, state), where)
        if self.average is not None:
            load_weights(self.model, state["train_model"], where)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.nonfinite_steps = state["nonfinite_steps"]
        if state["world_size"] == self.world.size:
            restore_random_state(state["random"][self.world.rank])
        if (
            self.local_step < self.steps_per_epoch
        ):  # in the middle of an epoch: torchpack's loop adds one again
            self._start_step = self.local_step
            self.epoch_num -= 1

    def save(self, best: str | None = None) -> None:
        """Write a checkpoint (rank 0; every rank must call)."""
        state = self.state_dict()
        if self.world.rank == 0:
            self.run_dir.checkpoints.save(state, best)


def _deployed(module: nn.Module) -> nn.Module:
    return module.student if isinstance(module, Method) else module


def _training_only(module: nn.Module) -> dict[str, Tensor]:
    """Weights of a method beside its student's."""
    if not isinstance(module, Method):
        return {}
    return {
        key: value for key, value in module.state_dict().items() if not key.startswith("student.")
    }


def _joined(module: nn.Module, state: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's weights under the names of the trained module."""
    prefix = "student." if isinstance(module, Method) else ""
    return {prefix + key: value for key, value in state["model"].items()} | state["training_only"]


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
