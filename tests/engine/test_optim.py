"""Optimisers and schedules."""

from __future__ import annotations

from math import cos, pi

import pytest
import torch
from torch import nn

from core.engine.run.optim import (
    OptimizerConfig,
    SchedulerConfig,
    build_optimizer,
    build_scheduler,
    lr_factor,
)
from core.errors import UserError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(3, 4)
        self.transformer_block = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.transformer_block(self.stem(x)).tanh())


# --- schedules ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "step", "factor"),
    [
        ({"name": "none"}, 0, 1.0),
        ({"name": "none"}, 100, 1.0),
        ({"name": "cosine"}, 0, 1.0),
        ({"name": "cosine"}, 25, 0.5 * (1 + 2**-0.5)),  # cos(pi / 4)
        ({"name": "cosine"}, 50, 0.5),
        ({"name": "cosine"}, 100, 0.0),
        ({"name": "cosine"}, 150, 0.0),  # never rises again
        ({"name": "cosine", "warmup_steps": 10}, 0, 1.0),  # plain cosine has no warm-up
        ({"name": "cosine_warmup"}, 0, 1.0),
        ({"name": "cosine_warmup", "warmup_steps": 10}, 0, 0.1),
        ({"name": "cosine_warmup", "warmup_steps": 10}, 4, 0.5),
        ({"name": "cosine_warmup", "warmup_steps": 10}, 9, 1.0),
        ({"name": "cosine_warmup", "warmup_steps": 10}, 10, 1.0),
        ({"name": "cosine_warmup", "warmup_steps": 10}, 60, 0.5),  # half a period after the warm-up
        (
            {"name": "cosine_warmup", "warmup_steps": 10},
            100,
            0.5 * (1 + cos(pi * 0.9)),
        ),  # the period stays T
        ({"name": "exponential", "floor": 0.99**4, "warmup_steps": 10}, 4, 0.5),
        ({"name": "exponential", "floor": 0.99**4, "warmup_steps": 10}, 10, 1.0),
        ({"name": "exponential", "floor": 0.99**4, "warmup_steps": 10}, 60, 0.99**2),
        ({"name": "poly"}, 0, 1.0),
        ({"name": "poly", "power": 0.9}, 50, (51 / 101) ** 0.9),
        ({"name": "poly", "power": 2.0}, 100, (1 / 101) ** 2),
        ({"name": "poly", "power": 2.0}, 101, (1 / 101) ** 2),  # never below, never complex
    ],
)
def test_lr_factor_of_100_steps(config: dict, step: int, factor: float) -> None:
    assert lr_factor(SchedulerConfig(**config), step, 100) == pytest.approx(factor, abs=1e-12)


def test_scheduler_sets_the_rate_of_each_step_in_every_group() -> None:
    config = OptimizerConfig(lr=2.0, lr_scale={"transformer": 0.1})
    optimizer = build_optimizer(config, Net())
    scheduler = build_scheduler(SchedulerConfig(name="cosine_warmup", warmup_steps=2), optimizer, 4)
    rates = []
    for _ in range(4):
        rates.append(sorted(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        scheduler.step()
    factors = [0.5, 1.0, 1.0, 0.5 * (1 + cos(pi / 4))]
    assert rates == [pytest.approx([0.2 * f, 2.0 * f]) for f in factors]


def test_scheduler_continues_from_its_state() -> None:
    def fresh():
        optimizer = build_optimizer(OptimizerConfig(lr=1.0), Net())
        return optimizer, build_scheduler(SchedulerConfig(name="cosine"), optimizer, 10)

    optimizer, scheduler = fresh()
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    other, continued = fresh()
    other.load_state_dict(optimizer.state_dict())
    continued.load_state_dict(scheduler.state_dict())
    other.step()
    continued.step()
    assert other.param_groups[0]["lr"] == pytest.approx(0.5 * (1 + cos(pi * 0.4)))


@pytest.mark.parametrize("steps", [5, 4])
def test_warmup_must_end_before_the_training(steps: int) -> None:
    optimizer = build_optimizer(OptimizerConfig(), Net())
    with pytest.raises(
        UserError, match=rf"warmup_steps is 5, but the training has {steps} optimiser steps"
    ):
        build_scheduler(SchedulerConfig(warmup_steps=5), optimizer, steps)
    build_scheduler(
        SchedulerConfig(name="poly", warmup_steps=5), optimizer, steps
    )  # has no warm-up


# --- optimisers -----------------------------------------------------------------------------------------------------
def test_lr_scale_groups() -> None:
    net = Net()
    optimizer = build_optimizer(
        OptimizerConfig(lr=0.5, lr_scale={"block": 0.1, "head.bias": 2.0}), net
    )
    groups = {group["lr"]: {id(p) for p in group["params"]} for group in optimizer.param_groups}
    assert groups == {
        0.5: {id(p) for p in (*net.stem.parameters(), net.head.weight)},
        0.05: {id(p) for p in net.transformer_block.parameters()},
        1.0: {id(net.head.bias)},
    }


def test_first_matching_pattern_counts() -> None:
    optimizer = build_optimizer(
        OptimizerConfig(lr=1.0, lr_scale={"head": 0.5, "head.bias": 0.1}), Net()
    )
    assert sorted(group["lr"] for group in optimizer.param_groups) == [0.5, 1.0]


def test_pattern_without_a_parameter() -> None:
    with pytest.raises(
        UserError, match=r"optimizer\.lr_scale: no trainable parameter's name contains 'blokc'"
    ):
        build_optimizer(OptimizerConfig(lr_scale={"blokc": 0.1}), Net())


def test_frozen_parameters_are_left_out() -> None:
    net = Net()
    net.stem.requires_grad_(False)
    optimizer = build_optimizer(OptimizerConfig(), net)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    with pytest.raises(UserError, match="contains 'stem'"):
        build_optimizer(OptimizerConfig(lr_scale={"stem": 0.1}), net)


@pytest.mark.parametrize(
    ("config", "make"),
    [
        (
            {"name": "sgd", "momentum": 0.8, "nesterov": True},
            lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01, momentum=0.8, nesterov=True),
        ),
        ({"name": "sgd", "momentum": 0.0}, lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01)),
        (
            {"name": "adam", "betas": (0.8, 0.95)},
            lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01, betas=(0.8, 0.95)),
        ),
        ({"name": "adamw"}, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01)),
    ],
)
def test_steps_equal_torch(config: dict, make) -> None:
    """Two steps, so that momenta count."""
    ours, theirs = Net(), Net()
    optimizers = (
        build_optimizer(OptimizerConfig(lr=0.1, weight_decay=0.01, **config), ours),
        make(theirs.parameters()),
    )
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    start = ours.stem.weight.detach().clone()
    for net, optimizer in zip((ours, theirs), optimizers):
        for _ in range(2):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    assert not torch.equal(ours.stem.weight, start)
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    "values",
    [
        {"lr": 0},
        {"momentum": 1.0},
        {"weight_decay": -1},
        {"name": "lion"},
        {"betas": (0.9, 7.0)},
        {"lr_scale": {"stem": -1}},
    ],
)
def test_impossible_values_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="validation error"):
        OptimizerConfig(**values)


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.1), (5, 0.55), (10, 1.0), (30, 0.55), (49, 0.1 + 0.9 * 0.5 * (1 + cos(pi * 0.975)))]
    + [(50, 0.1), (60, 1.0), (80, 0.55), (100, 0.1), (150, 0.1)],
)  # fmt: skip
def test_warm_restarts(step: int, factor: float) -> None:
    """Two cycles of 50 steps, 10 of them warm-up from a tenth."""
    config = SchedulerConfig(name="cosine_restarts", warmup_steps=10, cycles=2, floor=0.1)
    assert lr_factor(config, step, 100) == pytest.approx(factor)


def test_warm_restarts_need_room() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    config = SchedulerConfig(name="cosine_restarts", warmup_steps=10, cycles=2)
    with pytest.raises(UserError, match="20 optimiser steps in 2 cycles"):
        build_scheduler(config, optimizer, 20)
