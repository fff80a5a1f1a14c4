"""Kernel maps: which input row meets which output row through which kernel offset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.profiler import record_function

from core.sparse import device_maps
from core.sparse.checks import InvalidInput, Proofs, check_range, check_tensor
from core.sparse.device_maps import PackedPairs, RowTiles
from core.sparse.library import has_cuda_kernels, library, loaded, pointer
from core.sparse.tensor import MARGIN, Level, MapCache, Stride, pack_offsets

__all__ = [
    "PROVEN",
    "KernelMap",
    "Pairs",
    "coarser",
    "kernel_map",
    "kernel_offsets",
    "rows_per_tile",
    "triple",
]

T = TypeVar("T")
# Pairs and tables that come from a map, each under a tensor of rows: the registered operators take them as they are.
PROVEN = Proofs()


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
        table: int32 [K, n_out], input row or -1; an offset reads each row at most once.
        n_in: input rows.
        symmetric: odd kernel at stride 1, so offset k and its mirror K-1-k are each other's transpose.

    Raises:
        InvalidInput: the table is none of ``n_in`` rows, or not symmetric as said.
    """

    def __init__(self, table: Tensor, n_in: int, symmetric: bool) -> None:
        _check_table(table, n_in, symmetric)
        self._set(table.contiguous(), n_in, symmetric)

    def _set(self, table: Tensor, n_in: int, symmetric: bool) -> None:
        self.symmetric = symmetric
        self.volume, self.n_out = table.shape
        self.n_in = n_in
        self.device = table.device
        self._flipped = False
        self._shared: dict[tuple[str, bool], Any] = {("table", False): table}

    @classmethod
    def of_neighbours(
        cls, source: Level, target: Level, delta: Tensor, symmetric: bool, turn: int = 0
    ) -> KernelMap:
        """Find the row of ``source`` at each of ``target``'s voxels + each of ``delta`` (key differences int64 [K]).

        Args:
            turn: key difference of once around, where an axis closes on itself; see :meth:`MapCache.turn`.
        """
        made = object.__new__(
            cls
        )  # such a table is right by construction; on a GPU a proof would wait for it
        table = _neighbours(source, target, delta, symmetric)
        if turn:  # a voxel is met on one way alone: the others of its places are empty
            for around in (turn, -turn):
                beyond = _neighbours(source, target, delta + around, symmetric=False)
                table = torch.maximum(table, beyond)
        made._set(table, len(source.keys), symmetric)
        return made

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
        other.device = self.device
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
        return self._get("tiles", self._make_tiles)

    def _make_tiles(self) -> Pairs:
        pairs = _tile_pairs(self.table)
        PROVEN.add(pairs.rows_in, "tiles", pairs.ptr, pairs.rows_out, *self.shape)
        return pairs

    @property
    def shape(self) -> tuple[int, int, int]:
        """Offsets, input rows and output rows."""
        return self.volume, self.n_in, self.n_out

    @property
    def row_tiles(self) -> RowTiles:
        """The table in the order of the compiled kernels (GPU)."""
        return self._get("row_tiles", self._make_row_tiles)

    def _make_row_tiles(self) -> RowTiles:
        made = device_maps.row_tiles(self.table)
        PROVEN.add(made.table, "row tiles", made.rows, made.present, *self.shape)
        return made

    @property
    def packed_pairs(self) -> PackedPairs:
        """Pairs grouped by offset, for the compiled kernels (GPU); the other direction's with both sides swapped."""
        return self._get("packed_pairs", self._make_packed_pairs)

    def _make_packed_pairs(self) -> PackedPairs:
        made = self._shared.get(("packed_pairs", not self._flipped))
        if made is None:
            made = device_maps.packed_pairs(self.table)
        else:
            made = PackedPairs(made.rows_out, made.rows_in, made.count)
        PROVEN.add(made.rows_in, "packed pairs", made.rows_out, made.count, *self.shape)
        return made

    @property
    def offsets(self) -> Pairs:
        """Pairs grouped by offset; those of the other direction with input and output swapped."""
        return self._get("offsets", self._make_offsets)

    def _make_offsets(self) -> Pairs:
        made = self._shared.get(("offsets", not self._flipped))
        if made is None:
            made = _offset_pairs(self.table)
        else:
            made = Pairs(made.ptr, made.rows_out, made.rows_in)
        PROVEN.add(made.rows_in, "offsets", made.ptr, made.rows_out, *self.shape)
        return made


def _check_table(table: Tensor, n_in: int, symmetric: bool) -> None:
    """Refuse what is no table int32 [K, n_out] of ``n_in`` input rows."""
    where = "kernel map"
    check_tensor("the table", table, torch.int32, (None, None), where)
    volume, n_out = table.shape
    if volume < 1 or n_in < 0:
        raise InvalidInput(f"a map of {volume} offsets and {n_in} input rows", where=where)
    check_range("the table", table, -1, n_in, where)
    if symmetric and (n_in != n_out or volume % 2 == 0):
        raise InvalidInput(
            f"a symmetric map has an odd number of offsets and as many input as output rows; this one has {volume}, "
            f"{n_in} and {n_out}",
            where=where,
        )
    turned = _transpose(table.contiguous(), n_in)
    if symmetric and not torch.equal(turned, table.flip(0)):
        raise InvalidInput(f"the table of {volume} offsets is not its own mirror", where=where)
    pairs, kept = int((table >= 0).sum()), int((turned >= 0).sum())
    if kept != pairs:
        raise InvalidInput(
            f"only {kept} of {pairs} pairs have an input row of their own at their offset",
            where=where,
        )


def rows_per_tile() -> int:
    """Output rows in a tile of the compiled kernels."""
    return loaded().lidistill_tile()


def _tile_pairs(table: Tensor) -> Pairs:
    handle, threads = loaded(), torch.get_num_threads()
    volume, n_out = table.shape
    tiles = -(-n_out // rows_per_tile())
    bounds = tiles * volume + 1
    ptr = torch.empty(bounds, dtype=torch.int64)
    source = (pointer(table, torch.int32, volume, n_out), volume, n_out)
    groups = pointer(ptr, torch.int64, bounds)
    count = handle.lidistill_count_tiles(*source, groups, threads)
    rows_in, rows_out = _room_for_pairs(count)
    rows = [pointer(rows, torch.int32, count) for rows in (rows_in, rows_out)]
    handle.lidistill_fill_tiles(*source, groups, *rows, threads)
    return Pairs(ptr, rows_in, rows_out)


def _room_for_pairs(count: int) -> tuple[Tensor, Tensor]:
    return torch.empty(count, dtype=torch.int32), torch.empty(count, dtype=torch.int32)


def _offset_pairs(table: Tensor) -> Pairs:
    if table.device.type == "cpu" and (handle := library()) is not None:
        volume, n_out = table.shape
        ptr = torch.empty(volume + 1, dtype=torch.int64)
        count = int((table >= 0).sum())
        rows_in, rows_out = _room_for_pairs(count)
        handle.lidistill_fill_offsets(
            pointer(table, torch.int32, volume, n_out),
            volume,
            n_out,
            pointer(ptr, torch.int64, volume + 1),
            pointer(rows_in, torch.int32, count),
            pointer(rows_out, torch.int32, count),
            torch.get_num_threads(),
        )
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
    """Spread a number over the three axes; three stay as they are.

    Raises:
        InvalidInput: neither one nor three numbers, or one below 1.
    """
    axes = tuple(value) if isinstance(value, Sequence) else (value,) * 3
    if len(axes) != 3 or not all(isinstance(axis, int) and axis >= 1 for axis in axes):
        raise InvalidInput(
            f"{value} is no size in voxels; expected an integer of at least 1, or one for each of 3 axes",
            where="sparse convolution",
        )
    x, y, z = axes
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
        InvalidInput: a size below 1, or the kernel reaches further than the keys allow.
    """
    key = (fine, kernel, step, dilation)
    if key not in cache.maps:
        for sizes in key:
            triple(sizes)
        reach = max(k * s * d for k, s, d in zip(kernel, fine, dilation))
        if reach > MARGIN:
            raise InvalidInput(
                f"a kernel of {kernel} at stride {fine} and dilation {dilation} reaches {reach} voxels; "
                f"at most {MARGIN} are possible",
                where="sparse convolution",
            )
        source, target = cache.level(fine), cache.level(coarser(fine, step))
        scale = torch.tensor([s * d for s, d in zip(fine, dilation)])
        symmetric = step == (1, 1, 1) and all(k % 2 for k in kernel)
        delta = pack_offsets(kernel_offsets(kernel) * scale)
        with record_function("lidistill::kernel_map"):
            cache.maps[key] = KernelMap.of_neighbours(
                source, target, delta, symmetric, cache.turn(fine)
            )
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
    volume, n_in, n_out = len(delta), len(source.keys), len(target.keys)
    table = torch.empty(volume, n_out, dtype=torch.int32)
    if not n_out:
        return table  # nothing has no address
    handle.lidistill_neighbours(
        pointer(source.keys, torch.int64, n_in),
        pointer(source.order, torch.int32, n_in),
        n_in,
        pointer(target.keys, torch.int64, n_out),
        pointer(target.order, torch.int32, n_out),
        n_out,
        pointer(delta, torch.int64, volume),
        volume,
        int(symmetric),
        pointer(table, torch.int32, volume, n_out),
        torch.get_num_threads(),
    )
    return table


def _transpose(table: Tensor, n_in: int) -> Tensor:
    volume, n_out = table.shape
    if table.device.type == "cpu" and (handle := library()) is not None:
        out = torch.empty(volume, n_in, dtype=torch.int32)
        if not n_in:
            return out
        source = pointer(table, torch.int32, volume, n_out)
        target = pointer(out, torch.int32, volume, n_in)
        handle.lidistill_transpose(source, volume, n_out, n_in, target, torch.get_num_threads())
        return out
    if has_cuda_kernels(table.device):
        return device_maps.transpose(table, n_in)
    out = torch.full((volume, n_in), -1, dtype=torch.int32, device=table.device)
    k, o = (table >= 0).nonzero(as_tuple=True)
    out[k, table[k, o].long()] = o.int()
    return out
