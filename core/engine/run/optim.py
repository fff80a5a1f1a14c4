"""Optimisers, learning-rate schedules (per optimiser step), gradient clipping, EMA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from core.config import Section
from core.errors import UserError

__all__ = ["OptimizerConfig", "SchedulerConfig", "build_optimizer", "build_scheduler", "lr_factor"]


Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """``optimizer:`` section: how weights move."""

    name: Literal["sgd", "adam", "adamw"] = Field("sgd", description="the optimiser")
    lr: float = Field(0.24, gt=0, description="peak learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="decay of the weights (adamw: decoupled)")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd: momentum")
    nesterov: bool = Field(True, description="sgd: Nesterov's form of momentum")
    dampening: float = Field(
        0,
        ge=0,
        lt=1,
        description="sgd: share of the gradient that momentum leaves out; SLidR: 0.1",
    )
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.999), description="adam, adamw: decay of the two running means"
    )
    lr_scale: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="part of a parameter's name -> factor on lr, e.g. {transformer_block: 0.1}",
    )

    @model_validator(mode="after")
    def _one_momentum(self) -> Self:
        if self.dampening > 0 and self.nesterov:
            raise ValueError("dampening needs nesterov: false")
        return self


class SchedulerConfig(Section):
    """``scheduler:`` section: the learning rate over time; every schedule is evaluated per optimiser step."""

    name: Literal["none", "cosine", "cosine_warmup", "cosine_restarts", "poly", "exponential"] = (
        Field("cosine_warmup", description="the schedule")
    )
    warmup_steps: int = Field(
        0,
        ge=0,
        description="optimiser steps, linear warm-up of cosine_warmup and exponential; U2MKD: 1000 / processes, "
        "0 with one process",
    )
    cycles: int = Field(
        1, ge=1, description="cosine_restarts: equal parts of the training, each warmed up anew"
    )
    floor: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="cosine_restarts: factor on lr where a cycle begins and ends; exponential: where it ends",
    )
    power: float = Field(0.9, gt=0, description="poly: exponent of the decay")

    @model_validator(mode="after")
    def _decays(self) -> Self:
        if self.name == "exponential" and self.floor == 0:
            raise ValueError("no exponential decay ends at 0: give floor a value above it")
        return self


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """One parameter group per learning-rate factor; frozen parameters are left out.

    Raises:
        UserError: a ``lr_scale`` pattern matches no parameter.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for pattern in config.lr_scale:
        if not any(pattern in name for name, _ in named):
            raise UserError(
                f"optimizer.lr_scale: no trainable parameter's name contains '{pattern}'"
            )
    by_scale: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        by_scale.setdefault(_scale_of(name, config.lr_scale), []).append(parameter)
    groups = []
    for scale, parameters in by_scale.items():
        groups.append({"params": parameters, "lr": config.lr * scale})
    decay = config.weight_decay
    if config.name == "sgd":
        momentum = config.momentum
        nesterov = config.nesterov and momentum > 0
        return torch.optim.SGD(
            groups, config.lr, momentum, config.dampening, weight_decay=decay, nesterov=nesterov
        )
    if config.name == "adam":
        return torch.optim.Adam(groups, config.lr, config.betas, weight_decay=decay)
    return torch.optim.AdamW(groups, config.lr, config.betas, weight_decay=decay)


def _scale_of(name: str, scales: Mapping[str, float]) -> float:
    """The factor on the learning rate of a parameter: of the first pattern its name contains, else 1."""
    for pattern, scale in scales.items():
        if pattern in name:
            return scale
    return 1.0


def lr_factor(config: SchedulerConfig, step: int, total_steps: int) -> float:
    """Multiplier on the base learning rate at optimiser step ``step`` of ``total_steps``.

    ``cosine_warmup`` is (k+1)/W during warm-up and (1 + cos(pi (k-W)/T)) / 2 after; ``poly`` is (1 - k/(T+1))^power.
    ``exponential`` rises so, too, and is floor^((k-W)/T) after.
    ``cosine_restarts`` rises linearly from ``floor`` to 1 and falls to it as a cosine, in each cycle.
    """
    if config.name == "cosine_restarts":
        return _restarting(config, step, total_steps)
    if config.name == "none":
        return 1.0
    if config.name == "poly":
        return (1 - min(step, total_steps) / (total_steps + 1)) ** config.power
    warmup = 0
    if config.name in ("cosine_warmup", "exponential"):
        warmup = config.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if config.name == "exponential":
        return config.floor ** ((step - warmup) / total_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / total_steps)))


def _restarting(config: SchedulerConfig, step: int, total_steps: int) -> float:
    """Warm restarts (Loshchilov and Hutter, ICLR 2017) with a warm-up; what follows the last cycle stays below."""
    length = max(total_steps / config.cycles, 1)
    begun = min(step // length, config.cycles - 1)
    place = min(step - begun * length, length)
    if place < config.warmup_steps:
        share = place / config.warmup_steps
    else:
        fall = (place - config.warmup_steps) / (length - config.warmup_steps)
        share = 0.5 * (1 + math.cos(math.pi * fall))
    return config.floor + (1 - config.floor) * share


def build_scheduler(config: SchedulerConfig, optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Schedule to be stepped once after each optimiser step.

    Raises:
        UserError: the warm-up is longer than the whole training, or than a cycle.
    """
    warmed = config.name in ("cosine_warmup", "cosine_restarts")
    cycles = config.cycles if config.name == "cosine_restarts" else 1
    if warmed and config.warmup_steps * cycles >= max(1, total_steps):
        of_each = f" in {cycles} cycles" if cycles > 1 else ""
        raise UserError(
            f"scheduler.warmup_steps is {config.warmup_steps}, but the training has {total_steps} optimiser steps"
            f"{of_each}",
            cure="Shorten the warm-up or train longer",
        )
    return LambdaLR(optimizer, lambda step: lr_factor(config, step, total_steps))
