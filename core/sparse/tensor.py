"""Sparse tensors, and the cache of coordinates and kernel maps that all tensors of one input share.

Coordinates stay in units of the finest voxel at every stride (torchsparse's convention). They are packed into 64-bit
keys, 9 bits of batch index and 18 bits per axis, whose order is (b, x, y, z); shifting by a kernel offset is adding a
constant to the key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from core.contracts import Cells
from core.errors import UserError
from core.sparse.library import library, pointer

__all__ = ["Level", "MapCache", "SparseTensor", "Stride"]

Stride = tuple[int, int, int]
AXIS_BITS, BATCH_BITS = 18, 9
MARGIN = (
    4096  # voxels kept free on each side of an axis, so that no kernel offset overflows its field
)


@dataclass
class Grid:
    """Where the packed axes start: the smallest coordinate minus the margin."""

    origin: Tensor  # int64 [3]

    @classmethod
    def around(cls, coords: Tensor) -> Grid:
        """Grid that holds ``coords`` int32 [N, 4] (b, x, y, z).

        Raises:
            UserError: the scan spans too many voxels, or the batch too many scans, for a 64-bit key.
        """
        if len(coords) == 0:
            return cls(torch.zeros(3, dtype=torch.int64, device=coords.device))
        low, high = (
            bound.long() for bound in coords.T.contiguous().aminmax(dim=1)
        )  # 20 times amin(0) and amax(0)
        span, first, last = torch.stack(
            [(high - low)[1:].max(), low[0], high[0]]
        ).tolist()  # the host waits once
        if span >= (1 << AXIS_BITS) - 2 * MARGIN or last >= 1 << BATCH_BITS or first < 0:
            raise UserError(
                f"coordinates span {span} voxels and {last + 1} scans; at most "
                f"{(1 << AXIS_BITS) - 2 * MARGIN} voxels per axis and {1 << BATCH_BITS} scans can be indexed",
                where="sparse tensor",
                cure="Look for stray points far away (data.point_range), use larger voxels, or a smaller batch",
            )
        return cls(low[1:] - MARGIN)

    def pack(self, coords: Tensor) -> Tensor:
        """Keys int64 [N] of coords [N, 4]."""
        c = coords.long()
        xyz = c[:, 1:] - self.origin
        return ((c[:, 0] << AXIS_BITS | xyz[:, 0]) << AXIS_BITS | xyz[:, 1]) << AXIS_BITS | xyz[
            :, 2
        ]

    def unpack(self, keys: Tensor) -> Tensor:
        """Coordinates int32 [N, 4] of keys."""
        mask = (1 << AXIS_BITS) - 1
        axes = [(keys >> (AXIS_BITS * i)) & mask for i in (2, 1, 0)]
        xyz = torch.stack(axes, 1) + self.origin
        return torch.cat([(keys >> (3 * AXIS_BITS))[:, None], xyz], 1).int()


def pack_offsets(offsets: Tensor) -> Tensor:
    """Key differences int64 [K] of integer offsets [K, 3]."""
    o = offsets.long()
    return (o[:, 0] << (2 * AXIS_BITS)) + (o[:, 1] << AXIS_BITS) + o[:, 2]


@dataclass
class Level:
    """The voxels of one stride, with their keys in sorted order.

    Attributes:
        coords: int32 [V, 4]. keys: int64 [V], sorted. order: int32 [V], sorted position -> row.
    """

    coords: Tensor
    keys: Tensor
    order: Tensor

    @classmethod
    def of(cls, coords: Tensor, grid: Grid) -> Level:
        """Level of arbitrary (unique) coordinates."""
        keys = grid.pack(coords)
        order = argsort(keys)
        return cls(coords, keys.index_select(0, order), order)

    def find(self, keys: Tensor) -> Tensor:
        """Rows int64 of ``keys`` (any shape), -1 where there is no such voxel."""
        if len(self.keys) == 0:
            return torch.full_like(keys, -1)
        at = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        hit = self.keys.take(at) == keys
        return torch.where(hit, self.order.take(at).long(), -1)


def argsort(keys: Tensor) -> Tensor:
    """Stable sorting permutation int32 [N]."""
    handle = library() if keys.device.type == "cpu" else None
    if handle is None:
        return torch.argsort(keys, stable=True).int()
    order = torch.empty(len(keys), dtype=torch.int32)
    handle.lidistill_argsort(pointer(keys.contiguous()), len(keys), pointer(order))
    return order


@dataclass
class MapCache:
    """Everything derived from one set of input coordinates; layers, and networks on the same voxels, share it."""

    coords: Tensor
    maps: dict[Any, Any] = field(default_factory=dict)
    levels: dict[Stride, Level] = field(default_factory=dict)

    @cached_property
    def grid(self) -> Grid:
        """Key layout of this input."""
        return Grid.around(self.coords)

    def level(self, stride: Stride) -> Level:
        """Voxels at ``stride``: cells of the input, ``floor(c / stride) * stride``, unique, ordered by (b, x, y, z)."""
        if stride not in self.levels:
            with record_function("lidistill::kernel_map"):
                finest = stride == (1, 1, 1)
                self.levels[stride] = (
                    Level.of(self.coords, self.grid)
                    if finest
                    else self._coarse(self.coords, stride)
                )
        return self.levels[stride]

    def _coarse(self, coords: Tensor, stride: Stride) -> Level:
        keys = self.grid.pack(floor_to(coords, stride))
        keys = torch.unique_consecutive(keys.index_select(0, argsort(keys)))
        order = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
        return Level(self.grid.unpack(keys), keys, order)


@lru_cache(maxsize=64)
def _steps(stride: Stride, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, *stride) on the device; kept, because sending it there makes the host wait."""
    return torch.tensor([1, *stride], dtype=dtype, device=device)


def floor_to(coords: Tensor, stride: Stride) -> Tensor:
    """``floor(c / stride) * stride`` on the spatial columns of [N, 4] coordinates."""
    steps = _steps(stride, coords.dtype, coords.device)
    if not coords.is_floating_point() and all(s & (s - 1) == 0 for s in stride):
        return (
            coords & -steps
        )  # clears the low bits, of negative numbers too; a division takes 20 times as long
    return torch.div(coords, steps, rounding_mode="floor") * steps


@dataclass(frozen=True)
class SparseTensor:
    """Features on occupied voxels.

    Attributes:
        feats: [V, C]. coords: int32 [V, 4] (b, x, y, z), multiples of ``stride`` in units of the finest voxel.
        stride: per axis. cache: shared by all tensors derived from one input.
    """

    feats: Tensor
    coords: Tensor
    stride: Stride
    cache: MapCache

    @classmethod
    def from_batch(
        cls, feats: Tensor, coords: Tensor, cache: MapCache | None = None
    ) -> SparseTensor:
        """Tensor at stride 1 on unique coordinates int32 [V, 4]; pass a cache to reuse another network's maps."""
        if len(feats) != len(coords):
            raise ValueError(f"{len(feats)} feature rows for {len(coords)} voxels")
        return cls(feats, coords, (1, 1, 1), cache or MapCache(coords))

    @classmethod
    def of(cls, cells: Cells, feats: Tensor) -> SparseTensor:
        """Tensor on the cells of a batch; every network that sees the batch shares their kernel maps.

        Args:
            cells: of three axes, or of two, which lie in the plane z = 0. feats: [SV, C].
        """
        if "maps" not in cells.tables:
            coords = cells.coords
            if coords.shape[1] == 3:
                coords = torch.cat([coords, torch.zeros_like(coords[:, :1])], 1)
            cells.tables["maps"] = MapCache(coords)
        cache = cells.tables["maps"]
        return cls.from_batch(feats, cache.coords, cache)

    def replace(self, feats: Tensor) -> SparseTensor:
        """Same voxels, new features."""
        return SparseTensor(feats, self.coords, self.stride, self.cache)

    @property
    def num_voxels(self) -> int:
        """Rows."""
        return self.feats.shape[0]

    @property
    def channels(self) -> int:
        """Columns."""
        return self.feats.shape[1]

    @property
    def device(self) -> torch.device:
        """Of the features."""
        return self.feats.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the features."""
        return self.feats.dtype
