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
from core.sparse.checks import (
    InvalidInput,
    check_device,
    check_features,
    check_range,
    describe,
)
from core.sparse.library import library, pointer

__all__ = ["MAX_SPAN", "Level", "MapCache", "SparseTensor", "Stride"]

Stride = tuple[int, int, int]
AXIS_BITS, BATCH_BITS = 18, 9
# Voxels kept free on each side of an axis, so that no kernel offset overflows its field.
MARGIN = 4096
_NOWHERE = -(1 << 62)  # a key that no voxel has, nor with any offset added
MAX_SPAN = (1 << AXIS_BITS) - 2 * MARGIN  # cells per axis; partitions refuse scans that need more


@dataclass
class Grid:
    """Where the packed axes start: the smallest coordinate minus the margin."""

    origin: Tensor  # int64 [3]

    @classmethod
    def around(cls, coords: Tensor) -> Grid:
        """Grid that holds ``coords`` integer [N, 4] (b, x, y, z).

        Raises:
            InvalidInput: the scan spans too many voxels, or the batch too many scans, for a 64-bit key; or a coordinate
                does not fit 32 bits.
        """
        _check_coords(coords)
        if len(coords) == 0:
            return cls(torch.zeros(3, dtype=torch.int64, device=coords.device))
        low, high = coords.T.contiguous().aminmax(dim=1)  # 20 times amin(0) and amax(0)
        # The host waits once. Python's integers do not wrap around, as a difference of 64 bits would.
        (first, *lows), (last, *highs) = torch.stack([low, high]).tolist()
        span = max(most - least for least, most in zip(lows, highs))
        if span >= MAX_SPAN or last >= 1 << BATCH_BITS or first < 0:
            raise InvalidInput(
                f"coordinates span {span} voxels and {last + 1} scans; at most "
                f"{MAX_SPAN} voxels per axis and {1 << BATCH_BITS} scans can be indexed",
                where="sparse tensor",
                cure="Look for stray points far away (data.point_range), use larger voxels, or a smaller batch",
            )
        if min(lows) < -(1 << 31) or max(highs) >= 1 << 31:
            raise InvalidInput(
                f"coordinates run from {min(lows)} to {max(highs)}; 32 bits are kept of each",
                where="sparse tensor",
            )
        return cls(low[1:].long() - MARGIN)

    def pack(self, coords: Tensor) -> Tensor:
        """Keys int64 [N] of coords [N, 4] of the grid."""
        c = coords.long()
        xyz = c[:, 1:] - self.origin
        plane = (c[:, 0] << AXIS_BITS | xyz[:, 0]) << AXIS_BITS | xyz[:, 1]
        return plane << AXIS_BITS | xyz[:, 2]

    def pack_anywhere(self, coords: Tensor) -> Tensor:
        """Keys int64 [N] of coords [N, 4] that may lie outside of the grid; those have a key that no voxel has."""
        c = coords.long()
        xyz = c[:, 1:] - self.origin
        inside = ((xyz >= 0) & (xyz < 1 << AXIS_BITS)).all(1)
        inside &= (c[:, 0] >= 0) & (c[:, 0] < 1 << BATCH_BITS)
        return torch.where(inside, self.pack(coords), _NOWHERE)

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
        coords: int32 [V, 4]. keys: int64 [V], ascending. order: int32 [V], sorted position -> row.

    Raises:
        InvalidInput: they do not fit together, or (found on the CPU) two voxels have the same coordinates.
    """

    coords: Tensor
    keys: Tensor
    order: Tensor

    def __post_init__(self) -> None:
        count = len(self.coords)
        if self.keys.shape != (count,) or self.order.shape != (count,):
            raise InvalidInput(
                f"{count} voxels, keys {describe(self.keys)}, order {describe(self.order)}",
                where="sparse tensor",
            )
        if self.keys.device.type != "cpu":  # a GPU would have to be waited for
            return
        check_range("order", self.order, 0, count, "sparse tensor")
        if not bool((self.keys[1:] > self.keys[:-1]).all()):
            raise InvalidInput(
                f"some of {count} voxels have the same coordinates",
                where="sparse tensor",
                cure="Give each voxel once; core.data.voxelize does",
            )

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
    """Stable sorting permutation int32 [N] of int64 [N], none negative.

    Raises:
        InvalidInput: another dtype or shape, or (found on the CPU) a negative key.
    """
    if keys.dim() != 1 or keys.dtype != torch.int64 or len(keys) >= 1 << 31:
        raise InvalidInput(
            f"keys are {describe(keys)}; expected int64 [n], n < 2^31", where="sorting keys"
        )
    if keys.device.type != "cpu":
        return torch.argsort(keys, stable=True).int()
    check_range("keys", keys, 0, 1 << 63, "sorting keys")
    handle = library()
    if handle is None:
        return torch.argsort(keys, stable=True).int()
    count = len(keys)
    order = torch.empty(count, dtype=torch.int32)
    handle.lidistill_argsort(
        pointer(keys.contiguous(), torch.int64, count), count, pointer(order, torch.int32, count)
    )
    return order


def _check_coords(coords: Tensor) -> None:
    """Refuse coordinates that are not integers [V, 4]."""
    whole = not coords.is_floating_point() and coords.dtype != torch.bool
    if coords.dim() != 2 or coords.shape[1] != 4 or not whole:
        raise InvalidInput(
            f"coordinates are {describe(coords)}; expected int32 [V, 4] (b, x, y, z)",
            where="sparse tensor",
        )


def same_coords(a: Tensor, b: Tensor) -> bool:
    """Tell whether two lists of coordinates are equal; on a GPU without waiting where they are one tensor."""
    if a is b:
        return True
    return a.shape == b.shape and a.device == b.device and bool((a == b).all())


@dataclass
class MapCache:
    """Everything derived from one set of input coordinates; layers, and networks on the same voxels, share it.

    Raises:
        InvalidInput: ``coords`` are no integers [V, 4].
    """

    coords: Tensor
    maps: dict[Any, Any] = field(default_factory=dict)
    levels: dict[Stride, Level] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_coords(self.coords)

    @cached_property
    def grid(self) -> Grid:
        """Key layout of this input."""
        return Grid.around(self.coords)

    def level(self, stride: Stride) -> Level:
        """Voxels at ``stride``: cells of the input, ``floor(c / stride) * stride``, unique, ordered by (b, x, y, z).

        Raises:
            InvalidInput: a stride below 1, or one that the keys leave no room for.
        """
        if stride not in self.levels:
            if not all(1 <= step <= MARGIN for step in stride):
                raise InvalidInput(
                    f"a stride of {stride}; 1 to {MARGIN} voxels are possible",
                    where="sparse tensor",
                )
            with record_function("lidistill::kernel_map"):
                self.levels[stride] = self._made(stride)
        return self.levels[stride]

    def turn(self, stride: Stride) -> int:
        """Key difference between the two ends of an axis that closes on itself at ``stride``; 0 = none does."""
        return 0

    def _made(self, stride: Stride) -> Level:
        if stride == (1, 1, 1):
            return Level.of(self.coords, self.grid)
        return self._coarse(self.coords, stride)

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

    Raises:
        InvalidInput: features and coordinates do not fit together.
    """

    feats: Tensor
    coords: Tensor
    stride: Stride
    cache: MapCache

    def __post_init__(self) -> None:
        _check_coords(self.coords)
        check_features("feats", self.feats, len(self.coords), "voxels", "sparse tensor")
        devices = {"coords": self.coords, "the cache": self.cache.coords}
        check_device(self.feats.device, "sparse tensor", **devices)

    @classmethod
    def from_batch(
        cls, feats: Tensor, coords: Tensor, cache: MapCache | None = None
    ) -> SparseTensor:
        """Tensor at stride 1 on unique coordinates int32 [V, 4]; pass a cache to reuse another network's maps.

        Raises:
            InvalidInput: features, coordinates and cache do not fit together.
        """
        if cache is None:
            cache = MapCache(coords)
        elif not same_coords(cache.coords, coords):
            raise InvalidInput(
                f"the cache was made for other coordinates ({describe(cache.coords)}) than these "
                f"({describe(coords)})",
                where="sparse tensor",
            )
        return cls(feats, cache.coords, (1, 1, 1), cache)

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
