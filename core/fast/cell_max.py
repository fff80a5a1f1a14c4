"""The largest of the points of each cell, at a fifth of the memory that torch's scatter takes for its gradient."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.fast import plain
from core.fast.bits import bfloat16_bits, from_bits
from core.sparse.checks import InvalidInput, check_range, check_tensor

__all__ = ["Largest", "cell_max"]

_WIDE = (
    torch.float32,
    torch.float64,
)  # others go through float32, which holds each of their values
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def cell_max(values: Tensor, of_row: Tensor, cells: int) -> Tensor:
    """Take the maximum of each column over the rows of each cell.

    Of equals the first row has the gradient (torch's scatter shares it out); a NaN is the largest.

    Args:
        values: [N, C], any float dtype. of_row: i64 [N], the cell of each row. cells: their number M.

    Returns:
        [M, C], 0 in a cell without rows.

    Raises:
        InvalidInput: ``values`` is no table, or a row's cell is none of ``cells``.
    """
    check_tensor("values", values, None, (None, None), "cell_max")
    check_tensor("the cells of the rows", of_row, torch.int64, (len(values),), "cell_max")
    if values.device.type != "cpu":
        return plain.cell_max(values, of_row, cells)
    check_range("the cells of the rows", of_row, 0, cells, "cell_max")
    largest: Tensor = _CellMax.apply(values, of_row, cells)
    return largest


class Largest:
    """The same of rows that come in parts, on a processor and without a gradient.

    Args:
        cells: their number M.
    """

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self._dtype = torch.float32
        self._largest: Tensor | None = None

    def add(self, values: Tensor, of_row: Tensor) -> None:
        """Take rows [N, C] of cells i64 [N] into account.

        Raises:
            InvalidInput: ``values`` is no table, or a row's cell is none of ``cells``.
        """
        check_tensor("values", values, None, (None, None), "cell_max")
        check_tensor("the cells of the rows", of_row, torch.int64, (len(values),), "cell_max")
        check_range("the cells of the rows", of_row, 0, self.cells, "cell_max")
        if self._largest is None:
            kept = values.dtype in (*_WIDE, torch.bfloat16)
            kind = values.dtype if kept else torch.float32
            self._largest = torch.full((self.cells, values.shape[1]), -torch.inf, dtype=kind)
            self._seen = torch.zeros(self.cells, dtype=torch.bool)
            self._dtype = values.dtype
        values = values.to(self._largest.dtype).contiguous()
        cells, seen = of_row.contiguous().numpy(), self._seen.numpy()
        if values.dtype == torch.bfloat16:
            _raise_narrow(bfloat16_bits(values), cells, bfloat16_bits(self._largest), seen)
        else:
            _raise(values.numpy(), cells, self._largest.numpy(), seen)

    def found(self) -> Tensor:
        """[M, C], 0 in a cell without rows.

        Raises:
            InvalidInput: no part has come, so that C is not known.
        """
        if self._largest is None:
            raise InvalidInput("no rows have come", where="cell_max")
        self._largest[~self._seen] = 0
        return self._largest.to(self._dtype)


class _CellMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, of_row: Tensor, cells: int) -> Tensor:
        wide = values.detach() if values.dtype in _WIDE else values.detach().float()
        shape = (cells, values.shape[1])
        largest = torch.full(shape, -torch.inf, dtype=wide.dtype)
        rows = torch.full(shape, -1, dtype=torch.int32)
        _take(wide.contiguous().numpy(), of_row.contiguous().numpy(), largest.numpy(), rows.numpy())
        ctx.save_for_backward(rows)
        ctx.length = len(values)
        return largest.to(values.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        spread = grad.new_zeros(ctx.length, grad.shape[1])
        bits = _BITS[grad.element_size()]  # copied as they are, since NumPy has no bfloat16
        source, target = grad.contiguous().view(bits), spread.view(bits)
        _spread(source.numpy(), rows.numpy(), target.numpy())
        return spread, None, None


@numba.njit(
    [
        "void(f4[:,::1], i8[::1], f4[:,::1], i4[:,::1])",
        "void(f8[:,::1], i8[::1], f8[:,::1], i4[:,::1])",
    ],
    cache=True,
    nogil=True,
)
def _take(values: np.ndarray, of_row: np.ndarray, largest: np.ndarray, rows: np.ndarray) -> None:
    """One pass over the rows that keeps each cell's largest so far and its row; -1 and 0 where there is none."""
    for i in range(values.shape[0]):
        cell = of_row[i]
        for k in range(values.shape[1]):
            value, best = values[i, k], largest[cell, k]
            better = (value > best) | (rows[cell, k] < 0) | ((value != value) & (best == best))
            largest[cell, k] = value if better else best
            rows[cell, k] = i if better else rows[cell, k]
    for cell in range(rows.shape[0]):
        for k in range(rows.shape[1]):
            if rows[cell, k] < 0:
                largest[cell, k] = 0


@numba.njit(
    [
        "void(i2[:,::1], i4[:,::1], i2[:,::1])",
        "void(i4[:,::1], i4[:,::1], i4[:,::1])",
        "void(i8[:,::1], i4[:,::1], i8[:,::1])",
    ],
    cache=True,
    nogil=True,
)
def _spread(source: np.ndarray, rows: np.ndarray, target: np.ndarray) -> None:
    """Each cell's value goes to the row that it was taken from."""
    for cell in range(source.shape[0]):
        for k in range(source.shape[1]):
            row = rows[cell, k]
            if row >= 0:
                target[row, k] = source[cell, k]


@numba.njit(
    [
        "void(f4[:,::1], i8[::1], f4[:,::1], b1[::1])",
        "void(f8[:,::1], i8[::1], f8[:,::1], b1[::1])",
    ],
    cache=True,
    nogil=True,
)
def _raise(values: np.ndarray, of_row: np.ndarray, largest: np.ndarray, seen: np.ndarray) -> None:
    """One pass over the rows that raises what their cells have so far."""
    for i in range(values.shape[0]):
        cell = of_row[i]
        seen[cell] = True
        for k in range(values.shape[1]):
            value, best = values[i, k], largest[cell, k]
            largest[cell, k] = value if (value > best) | (value != value) else best


@numba.njit("void(u2[:,::1], i8[::1], u2[:,::1], b1[::1])", cache=True, nogil=True)
def _raise_narrow(
    values: np.ndarray, of_row: np.ndarray, largest: np.ndarray, seen: np.ndarray
) -> None:
    """The same of bfloat16, by its bits."""
    for i in range(values.shape[0]):
        cell = of_row[i]
        seen[cell] = True
        for k in range(values.shape[1]):
            value, best = from_bits(values[i, k]), from_bits(largest[cell, k])
            better = (value > best) | (value != value)
            largest[cell, k] = values[i, k] if better else largest[cell, k]
