"""Voxels of coarser strides as spconv's strided convolutions of kernel 3 and padding 1 make them.

The U-Nets of torchsparse keep the cells that hold a voxel. Here a coarse voxel is every one whose window of three fine
ones holds some, so there are more of them, and which depends on the convolutions on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.contracts import Cells
from core.sparse.checks import InvalidInput
from core.sparse.maps import coarser
from core.sparse.tensor import MARGIN, Level, MapCache, Stride, argsort, pack_offsets

__all__ = ["Window", "WindowCache"]

_WRAPPED = 1  # the axis that closes on itself: azimuth


@dataclass(frozen=True)
class Window:
    """What a pyramid of strided convolutions does to a grid.

    Attributes:
        sizes: cells of the finest grid along each axis; none lies beyond.
        steps: strides of the convolutions, from fine to coarse.
        wrap: the second axis closes on itself, so that the last cell's neighbour is the first.
    """

    sizes: Stride
    steps: tuple[Stride, ...]
    wrap: bool = False

    def levels(self) -> dict[Stride, Stride]:
        """Cells along each axis, by stride: ``floor((n - 1) / s) + 1`` after each convolution."""
        stride = (1, 1, 1)
        sizes = {stride: self.sizes}
        for step in self.steps:
            x, y, z = (
                (size - 1) // pace + 1 for size, pace in zip(sizes[stride], step, strict=True)
            )
            stride = coarser(stride, step)
            sizes[stride] = (x, y, z)
        return sizes


@dataclass
class WindowCache(MapCache):
    """A :class:`MapCache` whose coarser levels are those of a :class:`Window`.

    Raises:
        InvalidInput: no window, or one around an axis of more cells than the keys leave room for.
    """

    window: Window | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is None:
            raise InvalidInput("no window", where="sparse tensor")
        self._window = self.window
        self._sizes = self._window.levels()
        around = max(stride[_WRAPPED] * size[_WRAPPED] for stride, size in self._sizes.items())
        if self._window.wrap and around > MARGIN:
            raise InvalidInput(
                f"an axis of {around} cells cannot close on itself; at most {MARGIN} can",
                where="sparse tensor",
            )

    @classmethod
    def of(cls, cells: Cells, window: Window) -> WindowCache:
        """The cache of a batch's cells; every network with this window shares it.

        Args:
            cells: of three axes.
        """
        if window not in cells.tables:
            cells.tables[window] = cls(cells.coords, window=window)
        cache: WindowCache = cells.tables[window]
        return cache

    def turn(self, stride: Stride) -> int:
        """See :meth:`MapCache.turn`."""
        if not self._window.wrap:
            return 0
        around = self._sizes[stride][_WRAPPED] * stride[_WRAPPED]
        return int(pack_offsets(torch.tensor([[0, around, 0]]))[0])

    def _made(self, stride: Stride) -> Level:
        if stride == (1, 1, 1):
            return super()._made(stride)
        fine = (1, 1, 1)
        for step in self._window.steps:
            coarse = coarser(fine, step)
            if coarse == stride:
                return self._touched(fine, step, coarse)
            fine = coarse
        raise InvalidInput(
            f"no convolution leads to stride {stride}; the strides are {', '.join(map(str, self._sizes))}",
            where="sparse tensor",
        )

    def _touched(self, fine: Stride, step: Stride, coarse: Stride) -> Level:
        """Every voxel of the coarser level whose window holds one of the finer level, ordered by (b, x, y, z)."""
        places = self.level(fine).coords.long()
        places = torch.cat([places[:, :1], places[:, 1:] // places.new_tensor(fine)], 1)
        for axis in range(3):  # windows are boxes: one axis after the other
            around = self._sizes[fine][axis] if self._window.wrap and axis == _WRAPPED else 0
            places = _touched_along(places, axis + 1, step[axis], self._sizes[coarse][axis], around)
        places = torch.cat([places[:, :1], places[:, 1:] * places.new_tensor(coarse)], 1)
        keys = self.grid.pack(places)
        keys = torch.unique_consecutive(keys.index_select(0, argsort(keys)))
        order = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
        return Level(self.grid.unpack(keys), keys, order)


def _touched_along(places: Tensor, column: int, step: int, size: int, around: int) -> Tensor:
    """Places i64 [M, 4] whose windows ``step * o - 1 .. step * o + 1`` along one axis hold one of the given; repeated.

    Args:
        size: places along the coarser axis. around: along the finer one, where it closes on itself; else 0.
    """
    found = []
    for turn in {-around, 0, around}:
        for offset in (-1, 0, 1):
            start = places[:, column] + turn - offset
            target = torch.div(start, step, rounding_mode="floor")
            met = (start == target * step) & (target >= 0) & (target < size)
            moved = places[met]
            moved[:, column] = target[met]
            found.append(moved)
    return torch.cat(found)
