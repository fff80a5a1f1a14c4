"""Averaged weights: exponential (EMA) at every step, or stochastic weight averaging (SWA) at late epochs' ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TypeGuard

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core.contracts import Batch, Pair
from core.engine.run.experiment import TrainConfig

__all__ = ["averaged_model", "renew_batch_norm"]


def averaged_model(config: TrainConfig, model: nn.Module) -> AveragedModel | None:
    """What ``train.ema`` or ``train.swa_start`` asks for; until its first update it holds no average."""
    if config.ema is not None:
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    if config.swa_start is not None:
        return AveragedModel(model)
    return None


@torch.no_grad()
def renew_batch_norm(
    network: nn.Module,
    batches: Iterable[Batch | Pair],
    device: torch.device,
    autocast: Callable[[], contextlib.AbstractContextManager],
) -> None:
    """Give a network with averaged weights the batch statistics that belong to them: the mean over ``batches``.

    Collective with several processes. Everything but the normalisations runs as in evaluation, so nothing is drawn.
    Normalisations without a weight that learns keep their statistics.

    Args:
        network: student or teacher; left in evaluation mode. autocast: makes the mixed-precision context.
    """
    norms = [module for module in network.eval().modules() if _learning_norm(module)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    for i, batch in enumerate(batches if norms else ()):
        for norm in norms:
            norm.momentum = 1 / (i + 1)  # running mean = mean of all so far
        if isinstance(batch, Pair):
            batch = batch.student
        with autocast():
            network(batch.to(device))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()


def _learning_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    if not isinstance(module, _BatchNorm):
        return False
    return any(parameter.requires_grad for parameter in module.parameters())
