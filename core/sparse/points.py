"""Between points and voxels, and pooling: weighted gathers over a fixed table, deterministic in both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.profiler import record_function

from core.sparse.library import library, pointer
from core.sparse.maps import coarser, kernel_map, kernel_offsets, triple
from core.sparse.tensor import SparseTensor, Stride, argsort, floor_to, pack_offsets

__all__ = [
    "GatherTable",
    "devoxelize",
    "gather_sum",
    "global_pool",
    "local_pool",
    "parents",
    "voxel_mean",
]


@dataclass
class GatherTable:
    """A sparse matrix by rows: ``y[r] = sum_e weight[e] x[index[e]]`` over entries ``ptr[r]:ptr[r+1]``.

    Attributes:
        ptr: int64 [R + 1]. index: int32 [E]. weight: f32 [E]. columns: rows of x.
    """

    ptr: Tensor
    index: Tensor
    weight: Tensor
    columns: int

    @classmethod
    def from_entries(
        cls, rows: Tensor, index: Tensor, weight: Tensor, num_rows: int, columns: int
    ) -> GatherTable:
        """Build from unordered entries (row, index, weight), each [E]."""
        order = argsort(rows)
        counts = torch.zeros(
            num_rows, dtype=torch.int64, device=rows.device
        )  # bincount would make the host wait
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
        """
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
        """The product, without gradient; [columns, C] -> [R, C]."""
        channels = x.shape[1]
        if (
            x.device.type == "cpu"
            and x.dtype != torch.float64
            and (handle := library()) is not None
        ):
            bf16 = x.dtype == torch.bfloat16
            source = (x if bf16 else x.float()).contiguous()
            y = torch.empty(len(self.ptr) - 1, channels, dtype=source.dtype)
            arguments = (source, y, self.ptr, self.index, self.weight)
            handle.lidistill_gather(
                bf16, *map(pointer, arguments), len(y), channels, torch.get_num_threads()
            )
            return y.to(x.dtype)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        terms = x.index_select(0, self.index.long()).to(dtype) * self.weight[:, None].to(dtype)
        return torch.segment_reduce(terms, "sum", offsets=self.ptr, axis=0, initial=0.0).to(x.dtype)


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
    """Row int64 [P] of the voxel of ``x`` that holds each of the points [P, 4], -1 = none."""
    whole = torch.floor(points) if points.is_floating_point() else points
    cells = floor_to(whole, x.stride)
    return x.cache.level(x.stride).find(x.cache.grid.pack(cells))


def voxel_mean(x: SparseTensor, point_feats: Tensor, points: Tensor | None = None) -> SparseTensor:
    """Mean of the points in each voxel of ``x`` (cell = floor(c / s) s); 0 where a voxel has none.

    Args:
        point_feats: [P, C].
        points: [P, 4] (b, x, y, z) at stride 1, integer or float; None = the voxels that ``x`` was made on.
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
    """
    if _own_points(x, points) and x.stride == (1, 1, 1):
        return x.feats
    return gather_sum(x.feats, _table(x, "trilinear", points, _trilinear))


def _trilinear(x: SparseTensor, points: Tensor) -> GatherTable:
    cells = floor_to(torch.floor(points) if points.is_floating_point() else points, x.stride)
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
    keys = x.cache.grid.pack(cells)
    parent = level.find(keys)
    if len(parent) and bool(
        (parent >= 0).all()
    ):  # the usual case: look the eight up once per voxel
        table = kernel_map(x.cache, x.stride, (2, 2, 2), (1, 1, 1), (1, 1, 1)).table
        return table.index_select(1, parent).long()
    scaled = corners * torch.tensor(x.stride, device=corners.device)
    return level.find(keys + pack_offsets(scaled)[:, None])


def local_pool(
    x: SparseTensor, kernel: Stride | int, stride: Stride | int, reduce: Literal["mean", "max"]
) -> SparseTensor:
    """Pool over the occupied voxels under a kernel; output voxels as of a convolution of that stride."""
    step = triple(stride)
    kmap = kernel_map(x.cache, x.stride, triple(kernel), step, (1, 1, 1))
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


def global_pool(
    x: SparseTensor, reduce: Literal["mean", "max", "sum"] = "mean", batch_size: int | None = None
) -> Tensor:
    """Pool each scan of the batch: [B, C]; a scan without voxels gives 0."""
    batch = x.coords[:, 0].long()
    size = batch_size or (int(batch.max()) + 1 if len(batch) else 0)
    if reduce == "max":
        index = batch[:, None].expand(-1, x.channels)
        return x.feats.new_zeros(size, x.channels).scatter_reduce(
            0, index, x.feats, "amax", include_self=False
        )
    counts = torch.bincount(batch, minlength=size)
    weight = (
        1.0 / counts[batch] if reduce == "mean" else torch.ones(len(batch), device=batch.device)
    )
    rows = torch.arange(len(batch), device=batch.device)
    return gather_sum(x.feats, GatherTable.from_entries(batch, rows, weight, size, len(batch)))
