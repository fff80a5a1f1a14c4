"""The selective scan against its recurrence, step by step in float64, and its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.models.lidar.selective_scan import selective_scan


def operands(length: int, width: int = 3, states: int = 4) -> list[Tensor]:
    """x, dt, A, B, C, D in float64, and where sequences begin."""
    made = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made, dtype=torch.float64)

    first = torch.rand(length, generator=made) < 0.1
    return [
        normal(length, width),
        normal(length, width).exp() * 0.3,
        -normal(width, states).exp(),
        normal(length, states),
        normal(length, states),
        normal(width),
        first,
    ]


def recurrence(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, first: Tensor):
    """The definition, value by value."""
    y = torch.zeros_like(x)
    for e in range(x.shape[1]):
        state = [0.0] * a.shape[1]
        for t in range(len(x)):
            total = float(d[e] * x[t, e])
            for n in range(a.shape[1]):
                before = 0.0 if first[t] else state[n]
                state[n] = math.exp(dt[t, e] * a[e, n]) * before + float(
                    dt[t, e] * x[t, e] * b[t, n]
                )
                total += float(c[t, n]) * state[n]
            y[t, e] = total
    return y


@pytest.mark.parametrize("length", [1, 2, 7, 64, 65, 100])
@pytest.mark.parametrize("segment", [1, 5, 64, None])
def test_it_is_the_recurrence(length: int, segment: int | None) -> None:
    given = operands(length)
    torch.testing.assert_close(
        selective_scan(*given, segment=segment), recurrence(*given), atol=1e-12, rtol=1e-12
    )


def test_no_step_is_no_output() -> None:
    given = operands(0)
    assert selective_scan(*given).shape == (0, 3)


def test_float32_loses_no_more_than_rounding() -> None:
    given = operands(3000, 2, 3)
    single = [value.float() if value.is_floating_point() else value for value in given]
    exact = recurrence(*given)
    found = selective_scan(*single, segment=700)
    assert found.dtype == torch.float32
    assert (found.double() - exact).abs().max() < 1e-5 * exact.abs().max()


def test_a_state_that_is_forgotten_at_once_divides_by_nothing() -> None:
    given = operands(300)
    given[2] = given[2] * 1e4  # every decay is 0 in float32
    single = [value.float() if value.is_floating_point() else value for value in given]
    single = [value.requires_grad_(value.is_floating_point()) for value in single]
    found = selective_scan(*single)
    found.sum().backward()
    assert found.isfinite().all() and all(v.grad.isfinite().all() for v in single[:-1])


@pytest.mark.parametrize("segment", [4, None])
def test_gradients(segment: int | None) -> None:
    *given, first = operands(11)
    first[4] = True
    given = [value.requires_grad_() for value in given]
    assert torch.autograd.gradcheck(lambda *v: selective_scan(*v, first, segment=segment), given)


def test_what_is_kept_does_not_grow_with_the_states() -> None:
    """Between forward and backward lie the operands and a state per segment, not a state per step."""
    *given, first = operands(400, 8, 16)
    given = [value.requires_grad_() for value in given]
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        selective_scan(*given, first, segment=100)
    operand_values = sum(value.numel() for value in given) + len(first)
    assert kept <= operand_values + 4 * 8 * 16 + 400 * 8  # and the product with D
    assert kept < 400 * 8 * 16
