"""Between points and voxels, and pooling: weighted gathers over a fixed table, deterministic in both directions."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import CDLL
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.profiler import record_function

from core.sparse.checks import (
    InvalidInput,
    check_ascending,
    check_device,
    check_features,
    check_range,
    check_tensor,
    describe,
)
from core.sparse.library import library, pointer
from core.sparse.maps import coarser, kernel_map, kernel_offsets, triple
from core.sparse.tensor import SparseTensor, Stride, argsort, floor_to, pack_offsets

_WHERE = "weighted gather"

__all__ = [
    "GatherTable",
    "devoxelize",
    "gather_sum",
    "local_pool",
    "parents",
    "voxel_mean",
]


@dataclass(frozen=True)
class GatherTable:
    """A sparse matrix by rows: ``y[r] = sum_e weight[e] x[index[e]]`` over entries ``ptr[r]:ptr[r+1]``.

    Attributes:
        ptr: int64 [R + 1]. index: int32 [E]. weight: f32 [E]. columns: rows of x.

    Raises:
        InvalidInput: they do not fit together. Their values are looked at on the CPU; on a GPU, where torch's own
            kernels read them, the host would have to wait.
    """

    ptr: Tensor
    index: Tensor
    weight: Tensor
    columns: int

    def __post_init__(self) -> None:
        check_tensor("ptr", self.ptr, torch.int64, (None,), _WHERE)
        check_tensor("index", self.index, torch.int32, (None,), _WHERE)
        entries = len(self.index)
        check_tensor("weight", self.weight, torch.float32, (entries,), _WHERE)
        check_device(self.ptr.device, _WHERE, index=self.index, weight=self.weight)
        if self.ptr.device.type == "cpu":
            check_ascending("ptr", self.ptr, entries, _WHERE)
            check_range("index", self.index, 0, self.columns, _WHERE)

    @classmethod
    def from_entries(
        cls, rows: Tensor, index: Tensor, weight: Tensor, num_rows: int, columns: int
    ) -> GatherTable:
        """Build from unordered entries (row, index, weight), each [E].

        Raises:
            InvalidInput: lengths differ, or (found on the CPU) a row or an index lies outside of the matrix.
        """
        entries = len(rows)
        if index.shape != (entries,) or weight.shape != (entries,):
            raise InvalidInput(
                f"rows are {describe(rows)}, index {describe(index)}, weight {describe(weight)}; expected one "
                "length",
                where=_WHERE,
            )
        _check_places("rows", rows, num_rows)
        _check_places("index", index, columns)
        rows = rows.long()
        order = argsort(rows)
        # bincount would make the host wait
        counts = torch.zeros(num_rows, dtype=torch.int64, device=rows.device)
        counts.scatter_add_(0, rows, torch.ones_like(rows))
        ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(
            ptr, index.index_select(0, order).int(), weight.index_select(0, order).float(), columns
        )

    @classmethod
    def lookup(cls, rows: Tensor, columns: int) -> GatherTable:
        """Build ``y[i] = x[rows[i]]``; unlike an index, its gradient is a sum in a fixed order.

        Args:
            rows: integer [R], 0..columns-1, in any order and with repeats. columns: rows of x.

        Raises:
            InvalidInput: (found on the CPU) a row lies outside of x.
        """
        _check_places("rows", rows, columns)
        ptr = torch.arange(len(rows) + 1, device=rows.device)
        return cls(ptr, rows.int(), torch.ones(len(rows), device=rows.device), columns)

    @cached_property
    def rows(self) -> Tensor:
        """Row of each entry, int64 [E]."""
        every = torch.arange(len(self.ptr) - 1, device=self.ptr.device)
        return torch.repeat_interleave(every, self.ptr.diff(), output_size=len(self.index))

    @cached_property
    def transposed(self) -> GatherTable:
        """The transposed matrix (the gradient's direction)."""
        return GatherTable.from_entries(
            self.index.long(), self.rows, self.weight, self.columns, len(self.ptr) - 1
        )

    def apply(self, x: Tensor) -> Tensor:
        """The product, without gradient; [columns, C] -> [R, C].

        Raises:
            InvalidInput: ``x`` has another number of rows, or lies on another device.
        """
        check_features("x", x, self.columns, "a table", _WHERE)
        check_device(self.ptr.device, _WHERE, x=x)
        if x.device.type == "cpu" and x.dtype != torch.float64:
            handle = library()
            if handle is not None:
                return self._apply_compiled(handle, x)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        terms = x.index_select(0, self.index.long()).to(dtype) * self.weight[:, None].to(dtype)
        return torch.segment_reduce(terms, "sum", offsets=self.ptr, axis=0, initial=0.0).to(x.dtype)

    def _apply_compiled(self, handle: CDLL, x: Tensor) -> Tensor:
        rows, entries, channels = len(self.ptr) - 1, len(self.index), x.shape[1]
        bf16 = x.dtype == torch.bfloat16
        source = (x if bf16 else x.float()).contiguous()
        y = torch.empty(rows, channels, dtype=source.dtype)
        if not channels:
            return y.to(x.dtype)
        handle.lidistill_gather(
            bf16,
            pointer(source, source.dtype, self.columns, channels),
            pointer(y, source.dtype, rows, channels),
            pointer(self.ptr, torch.int64, rows + 1),
            pointer(self.index, torch.int32, entries),
            pointer(self.weight, torch.float32, entries),
            rows,
            channels,
            torch.get_num_threads(),
        )
        return y.to(x.dtype)


def _check_places(name: str, values: Tensor, size: int) -> None:
    """Refuse what is no list of integers [E], and on the CPU one outside 0..size-1, before 32 bits are kept of it."""
    whole = not values.is_floating_point() and values.dtype != torch.bool
    if values.dim() != 1 or not (whole or len(values) == 0):
        raise InvalidInput(f"{name} are {describe(values)}; expected integers [E]", where=_WHERE)
    if values.device.type == "cpu":
        check_range(name, values, 0, size, _WHERE)


class _GatherSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: GatherTable) -> Tensor:
        ctx.table = table
        return table.apply(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.table.transposed.apply(grad), None


def gather_sum(x: Tensor, table: GatherTable) -> Tensor:
    """Differentiable ``table @ x``: [columns, C] -> [R, C]."""
    return _GatherSum.apply(x, table)


def _own_points(x: SparseTensor, points: Tensor | None) -> bool:
    """Whether the points are the voxels that ``x`` was made on; a table between the two is kept with their maps."""
    return points is None or points is x.cache.coords


def _table(
    x: SparseTensor,
    kind: str,
    points: Tensor | None,
    make: Callable[[SparseTensor, Tensor], GatherTable],
) -> GatherTable:
    """The table between points and voxels; made once for the input's own voxels."""
    with record_function("lidistill::kernel_map"):
        if points is not None and not _own_points(x, points):
            return make(x, points)
        key = (kind, x.stride)
        if key not in x.cache.maps:
            x.cache.maps[key] = make(x, x.cache.coords)
        return x.cache.maps[key]


def parents(x: SparseTensor, points: Tensor) -> Tensor:
    """Row int64 [P] of the voxel of ``x`` that holds each of the points [P, 4], -1 = none.

    Raises:
        InvalidInput: ``points`` are no finite numbers [P, 4] on the device of ``x``.
    """
    cells = floor_to(_whole(x, points), x.stride)
    return x.cache.level(x.stride).find(x.cache.grid.pack_anywhere(cells))


def _whole(x: SparseTensor, points: Tensor) -> Tensor:
    """The voxels at stride 1 that hold the points."""
    if points is x.cache.coords:
        return points
    where = "points in voxels"
    if points.dim() != 2 or points.shape[1] != 4 or points.dtype == torch.bool:
        raise InvalidInput(
            f"points are {describe(points)}; expected [P, 4] (b, x, y, z)", where=where
        )
    check_device(x.device, where, points=points)
    if not points.is_floating_point():
        return points
    finite = int(points.isfinite().all(1).sum())
    if finite != len(points):
        raise InvalidInput(f"only {finite} of {len(points)} points are finite", where=where)
    return torch.floor(points)


def voxel_mean(x: SparseTensor, point_feats: Tensor, points: Tensor | None = None) -> SparseTensor:
    """Mean of the points in each voxel of ``x`` (cell = floor(c / s) s); 0 where a voxel has none.

    Args:
        point_feats: [P, C].
        points: [P, 4] (b, x, y, z) at stride 1, integer or float; None = the voxels that ``x`` was made on.

    Raises:
        InvalidInput: ``points`` are no finite numbers [P, 4], or there are more or fewer features.
    """
    if _own_points(x, points) and x.stride == (1, 1, 1):
        return x.replace(point_feats)
    return x.replace(gather_sum(point_feats, _table(x, "mean", points, _means)))


def _means(x: SparseTensor, points: Tensor) -> GatherTable:
    parent = parents(x, points)
    index = (parent >= 0).nonzero()[:, 0]
    rows = parent[index]
    counts = torch.bincount(rows, minlength=x.num_voxels)
    return GatherTable.from_entries(rows, index, 1.0 / counts[rows], x.num_voxels, len(points))


def devoxelize(x: SparseTensor, points: Tensor | None = None) -> Tensor:
    """Trilinear interpolation of voxel features at points, [P, C].

    The eight cells are floor(c / s) s + {0, s}^3 and weights are measured from cell corners; absent cells weigh 0 and
    the rest is renormalised (+1e-8). At stride 1 and integer points this is the identity.

    Args:
        points: [P, 4] (b, x, y, z) at stride 1, integer or float; None = the voxels that ``x`` was made on.

    Raises:
        InvalidInput: ``points`` are no finite numbers [P, 4].
    """
    if _own_points(x, points) and x.stride == (1, 1, 1):
        return x.feats
    return gather_sum(x.feats, _table(x, "trilinear", points, _trilinear))


def _trilinear(x: SparseTensor, points: Tensor) -> GatherTable:
    cells = floor_to(_whole(x, points), x.stride)
    stride = torch.tensor(x.stride, device=points.device)
    fraction = (points[:, 1:] - cells[:, 1:]).double() / stride
    corners = kernel_offsets((2, 2, 2)).to(points.device)  # [8, 3]
    weight = torch.where(corners[:, None].bool(), fraction, 1 - fraction).prod(2)  # [8, P]
    rows = _corner_rows(x, cells, corners)
    weight = torch.where(rows >= 0, weight, 0.0)
    weight = weight / (weight.sum(0) + 1e-8)
    corner, point = (weight > 0).T.nonzero(as_tuple=True)[::-1]
    counts = torch.bincount(point, minlength=len(points))
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return GatherTable(ptr, rows[corner, point].int(), weight[corner, point].float(), x.num_voxels)


def _corner_rows(x: SparseTensor, cells: Tensor, corners: Tensor) -> Tensor:
    """Rows int64 [8, P] of the cells at the eight corners, -1 where absent."""
    level = x.cache.level(x.stride)
    keys = x.cache.grid.pack_anywhere(cells)
    parent = level.find(keys)
    # The usual case: look the eight up once per voxel.
    if len(parent) and bool((parent >= 0).all()):
        table = kernel_map(x.cache, x.stride, (2, 2, 2), (1, 1, 1), (1, 1, 1)).table
        return table.index_select(1, parent).long()
    scaled = corners * torch.tensor(x.stride, device=corners.device)
    return level.find(keys + pack_offsets(scaled)[:, None])


def local_pool(
    x: SparseTensor, kernel: Stride | int, stride: Stride | int, reduce: Literal["mean", "max"]
) -> SparseTensor:
    """Pool over the occupied voxels under a kernel; output voxels as of a convolution of that stride.

    Raises:
        InvalidInput: a size below 1, an unknown ``reduce``, or ``x`` has other voxels than its cache at its stride.
    """
    if reduce not in ("mean", "max"):
        raise InvalidInput(f"reduce is {reduce!r}; 'mean' and 'max' are known", where="local_pool")
    step = triple(stride)
    kmap = kernel_map(x.cache, x.stride, triple(kernel), step, (1, 1, 1))
    check_features("x", x.feats, kmap.n_in, "a map", "local_pool")
    coarse = coarser(x.stride, step)
    coords = x.coords if coarse == x.stride else x.cache.level(coarse).coords
    rows_in, rows_out = kmap.offsets.rows_in.long(), kmap.offsets.rows_out.long()
    if reduce == "mean":
        counts = torch.bincount(rows_out, minlength=kmap.n_out)
        table = GatherTable.from_entries(
            rows_out, rows_in, 1.0 / counts[rows_out], kmap.n_out, kmap.n_in
        )
        return SparseTensor(gather_sum(x.feats, table), coords, coarse, x.cache)
    index = rows_out[:, None].expand(-1, x.channels)
    empty = x.feats.new_zeros(kmap.n_out, x.channels)
    pooled = empty.scatter_reduce(
        0, index, x.feats.index_select(0, rows_in), "amax", include_self=False
    )
    return SparseTensor(pooled, coords, coarse, x.cache)
