"""Kernel maps: which input row meets which output row through which kernel offset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.profiler import record_function

from core.errors import UserError
from core.sparse import device_maps
from core.sparse.device_maps import PackedPairs, RowTiles
from core.sparse.library import has_cuda_kernels, library, loaded, pointer
from core.sparse.tensor import MARGIN, Level, MapCache, Stride, pack_offsets

__all__ = ["KernelMap", "Pairs", "coarser", "kernel_map", "kernel_offsets", "triple"]

T = TypeVar("T")


@dataclass(frozen=True)
class Pairs:
    """Pairs in groups: group g holds entries ``ptr[g]:ptr[g+1]``.

    Attributes:
        ptr: int64 [G + 1]. rows_in, rows_out: int32 [P].
    """

    ptr: Tensor
    rows_in: Tensor
    rows_out: Tensor


class KernelMap:
    """Neighbours of a (strided) convolution, in one direction.

    Both directions of a map share their tables, and none refers to the other: a map is freed with its last user, which
    matters because the maps of a batch are larger than its features.

    Args:
        table: int32 [K, n_out], input row or -1.
        n_in: input rows.
        symmetric: odd kernel at stride 1, so offset k and its mirror K-1-k are each other's transpose.
    """

    def __init__(self, table: Tensor, n_in: int, symmetric: bool) -> None:
        self.symmetric = symmetric
        self.volume, self.n_out = table.shape
        self.n_in = n_in
        self._flipped = False
        self._shared: dict[tuple[str, bool], Any] = {("table", False): table}

    def _get(self, kind: str, make: Callable[[], T]) -> T:
        """What both directions share under ``kind``, made at the first use."""
        key = (kind, self._flipped)
        if key not in self._shared:
            with record_function("lidistill::kernel_map"):
                self._shared[key] = make()
        return self._shared[key]

    @property
    def table(self) -> Tensor:
        """int32 [K, n_out], input row or -1."""
        return self._get("table", self._transpose_table)

    def _transpose_table(self) -> Tensor:
        table = self._shared["table", not self._flipped]
        if self.symmetric:
            return table.flip(0)
        return _transpose(table, self.n_out)

    @property
    def transposed(self) -> KernelMap:
        """The map with input and output swapped (transposed convolution, gradient of the input)."""
        other = object.__new__(KernelMap)
        other.symmetric = self.symmetric
        other.volume = self.volume
        other.n_in, other.n_out = self.n_out, self.n_in
        other._flipped = not self._flipped
        other._shared = self._shared
        return other

    @property
    def num_pairs(self) -> int:
        """Number of all pairs; a layer's multiply-accumulates are ``num_pairs * cin * cout``."""
        return int(self.offsets.ptr[-1])

    @property
    def tiles(self) -> Pairs:
        """Pairs grouped by (tile of output rows, offset), for the compiled kernels (CPU)."""
        return self._get("tiles", lambda: _tile_pairs(self.table))

    @property
    def row_tiles(self) -> RowTiles:
        """The table in the order of the compiled kernels (GPU)."""
        return self._get("row_tiles", lambda: device_maps.row_tiles(self.table))

    @property
    def packed_pairs(self) -> PackedPairs:
        """Pairs grouped by offset, for the compiled kernels (GPU); the other direction's with both sides swapped."""
        if ("packed_pairs", not self._flipped) in self._shared:
            pairs = self._shared["packed_pairs", not self._flipped]
            return PackedPairs(pairs.rows_out, pairs.rows_in, pairs.count)
        return self._get("packed_pairs", lambda: device_maps.packed_pairs(self.table))

    @property
    def offsets(self) -> Pairs:
        """Pairs grouped by offset; those of the other direction with input and output swapped."""
        if ("offsets", not self._flipped) in self._shared:
            pairs = self._shared["offsets", not self._flipped]
            return Pairs(pairs.ptr, pairs.rows_out, pairs.rows_in)
        return self._get("offsets", lambda: _offset_pairs(self.table))


def _tile_pairs(table: Tensor) -> Pairs:
    handle, threads = loaded(), torch.get_num_threads()
    volume, n_out = table.shape
    tiles = -(-n_out // handle.lidistill_tile())
    ptr = torch.empty(tiles * volume + 1, dtype=torch.int64)
    count = handle.lidistill_count_tiles(pointer(table), volume, n_out, pointer(ptr), threads)
    rows_in, rows_out = (torch.empty(count, dtype=torch.int32) for _ in range(2))
    out = (pointer(ptr), pointer(rows_in), pointer(rows_out))
    handle.lidistill_fill_tiles(pointer(table), volume, n_out, *out, threads)
    return Pairs(ptr, rows_in, rows_out)


def _offset_pairs(table: Tensor) -> Pairs:
    if table.device.type == "cpu" and (handle := library()) is not None:
        volume, n_out = table.shape
        ptr = torch.empty(volume + 1, dtype=torch.int64)
        count = int((table >= 0).sum())
        rows_in, rows_out = (torch.empty(count, dtype=torch.int32) for _ in range(2))
        out = (pointer(ptr), pointer(rows_in), pointer(rows_out))
        handle.lidistill_fill_offsets(pointer(table), volume, n_out, *out, torch.get_num_threads())
        return Pairs(ptr, rows_in, rows_out)
    hit = table >= 0
    ptr = torch.cat([hit.new_zeros(1, dtype=torch.int64), hit.sum(1).cumsum(0)])
    return Pairs(ptr, table[hit], hit.nonzero()[:, 1].int())


def kernel_offsets(kernel: Stride) -> Tensor:
    """List the integer offsets int64 [K, 3] of a kernel in torchsparse's order.

    Axes of odd length run -r..r, of even length 0..k-1. With an odd volume x runs fastest, then y, then z; with an
    even volume z runs fastest, then y, then x.
    """
    xs, ys, zs = (_axis_offsets(length) for length in kernel)
    if kernel[0] * kernel[1] * kernel[2] % 2:
        triples = [(x, y, z) for z in zs for y in ys for x in xs]
    else:
        triples = [(x, y, z) for x in xs for y in ys for z in zs]
    return torch.tensor(triples, dtype=torch.int64)


def _axis_offsets(length: int) -> range:
    if length % 2:
        return range(-(length // 2), length // 2 + 1)
    return range(length)


def triple(value: int | Stride) -> Stride:
    """Spread a number over the three axes; three stay as they are."""
    if isinstance(value, int):
        return value, value, value
    x, y, z = value
    return x, y, z


def coarser(stride: Stride, step: Stride) -> Stride:
    """Multiply two strides, axis by axis."""
    x, y, z = (s * t for s, t in zip(stride, step))
    return x, y, z


def kernel_map(
    cache: MapCache, fine: Stride, kernel: Stride, step: Stride, dilation: Stride
) -> KernelMap:
    """Find the map from the voxels at stride ``fine`` to those at ``fine * step``; built once per cache.

    Raises:
        UserError: the kernel reaches further than the keys allow.
    """
    key = (fine, kernel, step, dilation)
    if key not in cache.maps:
        reach = max(k * s * d for k, s, d in zip(kernel, fine, dilation))
        if reach > MARGIN:
            raise UserError(
                f"a kernel of {kernel} at stride {fine} and dilation {dilation} reaches {reach} voxels; "
                f"at most {MARGIN} are possible",
                where="sparse convolution",
            )
        source, target = cache.level(fine), cache.level(coarser(fine, step))
        scale = torch.tensor([s * d for s, d in zip(fine, dilation)])
        symmetric = step == (1, 1, 1) and all(k % 2 for k in kernel)
        delta = pack_offsets(kernel_offsets(kernel) * scale)
        with record_function("lidistill::kernel_map"):
            table = _neighbours(source, target, delta, symmetric)
        cache.maps[key] = KernelMap(table, len(source.keys), symmetric)
    return cache.maps[key]


def _neighbours(source: Level, target: Level, delta: Tensor, symmetric: bool) -> Tensor:
    device = source.keys.device
    if has_cuda_kernels(device):
        return device_maps.neighbours(source, target, delta, symmetric)
    handle = library() if device.type == "cpu" else None
    if handle is None:
        table = torch.empty(len(delta), len(target.keys), dtype=torch.int32, device=device)
        found = source.find(target.keys + delta.to(device)[:, None]).int()
        table[:, target.order.long()] = found
        return table
    table = torch.empty(len(delta), len(target.keys), dtype=torch.int32)
    handle.lidistill_neighbours(
        pointer(source.keys),
        pointer(source.order),
        len(source.keys),
        pointer(target.keys),
        pointer(target.order),
        len(target.keys),
        pointer(delta),
        len(delta),
        int(symmetric),
        pointer(table),
        torch.get_num_threads(),
    )
    return table


def _transpose(table: Tensor, n_in: int) -> Tensor:
    volume, n_out = table.shape
    if table.device.type == "cpu" and (handle := library()) is not None:
        out = torch.empty(volume, n_in, dtype=torch.int32)
        threads = torch.get_num_threads()
        handle.lidistill_transpose(pointer(table), volume, n_out, n_in, pointer(out), threads)
        return out
    if has_cuda_kernels(table.device):
        return device_maps.transpose(table, n_in)
    out = torch.full((volume, n_in), -1, dtype=torch.int32, device=table.device)
    k, o = (table >= 0).nonzero(as_tuple=True)
    out[k, table[k, o].long()] = o.int()
    return out
