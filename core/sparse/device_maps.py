"""Kernel maps on a GPU, built by the compiled kernels without waiting for the device.

The host waits for the GPU once per new stride (how many voxels it has; for the finest one, whether the coordinates fit
a key) and nowhere else: every table below has a size that the host knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from core.sparse.library import array, launch, pointer

if TYPE_CHECKING:
    from core.sparse.tensor import Level

__all__ = ["PackedPairs", "RowTiles", "neighbours", "packed_pairs", "row_tiles", "transpose"]

GROUP = 64  # rows that share their presence flags, as in csrc/cuda/conv.cuh


@dataclass(frozen=True)
class RowTiles:
    """A map for output-stationary kernels: rows with the same neighbours stand together, so tiles skip more offsets.

    Attributes:
        rows: int32 [n_out], the output row at each position. table: int32 [K, n_out], input row at each position or -1.
        present: uint8 [K, ceil(n_out / 64)], whether any position of a group has the offset.
    """

    rows: Tensor
    table: Tensor
    present: Tensor


@dataclass(frozen=True)
class PackedPairs:
    """Pairs by offset, in front of rows that are long enough for any offset; ordered by ``rows_out``.

    Attributes:
        rows_in, rows_out: int32 [K, N]. count: int32 [K], pairs of each offset.
    """

    rows_in: Tensor
    rows_out: Tensor
    count: Tensor


def neighbours(source: Level, target: Level, delta: Tensor, symmetric: bool) -> Tensor:
    """Find the rows int32 [K, n_out] of ``source`` at ``target``'s keys + ``delta`` (int64 [K], on the CPU)."""
    volume, n_in, n_out = len(delta), len(source.keys), len(target.keys)
    table = target.keys.new_empty(volume, n_out, dtype=torch.int32)
    launch(
        "lidistill_cuda_neighbours",
        table.device,
        array(source.keys, torch.int64, n_in),
        array(source.order, torch.int32, n_in),
        n_in,
        array(target.keys, torch.int64, n_out),
        array(target.order, torch.int32, n_out),
        n_out,
        pointer(delta, torch.int64, volume),
        volume,
        int(symmetric),
        table,
    )
    return table


def transpose(table: Tensor, n_in: int) -> Tensor:
    """Transpose a table: int32 [K, n_in], the output row that reads each input row through offset k, or -1."""
    volume, n_out = table.shape
    out = table.new_empty(volume, n_in)
    table = array(table, torch.int32, volume, n_out)
    launch("lidistill_cuda_transpose", table.device, table, volume, n_out, n_in, out)
    return out


def row_tiles(table: Tensor) -> RowTiles:
    """Sort the rows of a table int32 [K, n_out] by the set of their neighbours; equal ones keep their order."""
    volume, n_out = table.shape
    table = array(table, torch.int32, volume, n_out)
    masks = table.new_empty(n_out, dtype=torch.int64)
    launch("lidistill_cuda_masks", table.device, table, volume, n_out, masks)
    rows = torch.argsort(masks, stable=True).int()
    table = table.index_select(1, rows)
    groups = F.pad(table, (0, -n_out % GROUP), value=-1).view(volume, -1, GROUP)
    return RowTiles(rows, table, (groups >= 0).any(2).to(torch.uint8))


def packed_pairs(table: Tensor) -> PackedPairs:
    """Pack the pairs of a table int32 [K, n_out] by offset."""
    volume, n_out = table.shape
    table = array(table, torch.int32, volume, n_out)
    rows_in, rows_out = torch.empty_like(table), torch.empty_like(table)
    # One long scan; a scan per offset would leave most of the GPU idle.
    position = (table >= 0).flatten().cumsum(0)
    ends = position.view(volume, n_out)[:, -1] if n_out else position.new_zeros(volume)
    launch("lidistill_cuda_pairs", table.device, table, position, volume, n_out, rows_in, rows_out)
    return PackedPairs(rows_in, rows_out, ends.diff(prepend=ends.new_zeros(1)).int())
