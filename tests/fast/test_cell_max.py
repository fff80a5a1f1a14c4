"""The largest of each cell's rows against loops in float64, and who gets its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.fast import plain
from core.fast.cell_max import cell_max
from core.sparse import InvalidInput

CELLS = 9  # the last two have no row


def rows(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Values [40, 3] with equals among them, and cells in no order."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-6, 6, (40, 3), generator=generator).to(dtype) / 4
    return values, torch.randint(0, CELLS - 2, (40,), generator=generator)


def by_hand(values: Tensor, of_row: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The largest, and the gradient of their sum times ``weight``, which the first of equals has."""
    largest = torch.zeros(CELLS, values.shape[1], dtype=torch.float64)
    grad = torch.zeros(values.shape, dtype=torch.float64)
    for cell in range(CELLS):
        for column in range(values.shape[1]):
            mine = [i for i in range(len(values)) if of_row[i] == cell]
            if mine:
                best = max(mine, key=lambda i: values[i, column].item())  # the first of equals
                largest[cell, column] = values[best, column].item()
                grad[best, column] = weight[cell, column].item()
    return largest, grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_largest_and_gradient_by_hand(dtype: torch.dtype) -> None:
    values, of_row = rows(dtype)
    values.requires_grad_()
    weight = torch.arange(CELLS * 3, dtype=dtype).view(CELLS, 3)
    expected, gradient = by_hand(values.detach(), of_row, weight)
    largest = cell_max(values, of_row, CELLS)
    assert largest.dtype == dtype
    assert torch.equal(largest.double(), expected)
    largest.backward(weight)
    assert torch.equal(values.grad.double(), gradient)


def test_like_the_plain_one_where_no_two_are_equal() -> None:
    generator = torch.Generator().manual_seed(1)
    of_row = torch.randint(0, CELLS, (300,), generator=generator)
    grads = []
    for count in (cell_max, plain.cell_max):
        values = torch.randn(300, 16, generator=torch.Generator().manual_seed(2))
        values.requires_grad_()
        largest = count(values, of_row, CELLS)
        (largest * largest).sum().backward()
        grads.append((largest.detach(), values.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


def test_a_nan_is_the_largest_wherever_it_stands() -> None:
    of_row = torch.zeros(3, dtype=torch.int64)
    for place in range(3):
        values = torch.tensor([[1.0], [3.0], [2.0]])
        values[place] = torch.nan
        assert cell_max(values, of_row, 1).isnan().all(), place


def test_values_of_minus_infinity_stay_and_no_row_is_nothing() -> None:
    values = torch.full((1, 2), -torch.inf)
    largest = cell_max(values, torch.tensor([1]), 2)
    assert largest.tolist() == [[0, 0], [-torch.inf, -torch.inf]]
    none = torch.zeros(0, 2, requires_grad=True)
    cell_max(none, torch.zeros(0, dtype=torch.int64), 2).sum().backward()
    assert none.grad.shape == (0, 2)


def test_rows_of_other_layout() -> None:
    values, of_row = rows(torch.float32)
    turned = values.T.contiguous().T  # the same numbers, columns first in memory
    assert torch.equal(cell_max(turned, of_row, CELLS), cell_max(values, of_row, CELLS))


@pytest.mark.parametrize(
    ("of_row", "what"),
    [
        (torch.tensor([0, 1, 2]), "from 0 to 2"),
        (torch.tensor([0, 1, -1]), "from -1 to 1"),
        (torch.tensor([0, 1]), "cells of the rows"),
        (torch.tensor([0, 1, 1], dtype=torch.int32), "cells of the rows"),
    ],
)
def test_rows_of_no_cell_are_refused(of_row: Tensor, what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        cell_max(torch.zeros(3, 2), of_row, 2)
    with pytest.raises(InvalidInput, match="floating"):
        cell_max(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 2)
