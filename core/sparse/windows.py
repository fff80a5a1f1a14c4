"""Voxels of coarser strides as spconv's strided convolutions make them.

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
        kernels: lengths of the convolutions along each axis, 1 or 3; empty = 3 each.
        pads: cells of padding, 0 or 1, and 0 under a kernel of length 1; empty = 1 each.

    A voxel's coordinates are those of its window's middle, in units of the finest voxel: without padding they begin
    one finer voxel late (:meth:`starts`), and the kernel maps are right as they are.
    """

    sizes: Stride
    steps: tuple[Stride, ...]
    wrap: bool = False
    kernels: tuple[Stride, ...] = ()
    pads: tuple[Stride, ...] = ()

    def convolutions(self) -> list[Convolution]:
        """The convolutions, from fine to coarse."""
        count = len(self.steps)
        kernels = self.kernels or ((3, 3, 3),) * count
        pads = self.pads or ((1, 1, 1),) * count
        return [Convolution(*each) for each in zip(self.steps, kernels, pads, strict=True)]

    def levels(self) -> dict[Stride, Stride]:
        """Cells along each axis, by stride: ``floor((n + 2 p - k) / s) + 1`` after each convolution."""
        stride = (1, 1, 1)
        sizes = {stride: self.sizes}
        for layer in self.convolutions():
            axes = zip(sizes[stride], layer.step, layer.kernel, layer.pad, strict=True)
            x, y, z = ((n + 2 * pad - kernel) // step + 1 for n, step, kernel, pad in axes)
            stride = coarser(stride, layer.step)
            sizes[stride] = (x, y, z)
        return sizes

    def starts(self) -> dict[Stride, Stride]:
        """Coordinates of the first cell along each axis, by stride."""
        stride = (1, 1, 1)
        starts = {stride: (0, 0, 0)}
        for layer in self.convolutions():
            axes = zip(starts[stride], stride, layer.middle, strict=True)
            x, y, z = (start + fine * middle for start, fine, middle in axes)
            stride = coarser(stride, layer.step)
            starts[stride] = (x, y, z)
        return starts


@dataclass(frozen=True)
class Convolution:
    """Stride, kernel and padding of a strided convolution along each axis."""

    step: Stride
    kernel: Stride
    pad: Stride

    @property
    def middle(self) -> Stride:
        """Finer cell in the middle of the first cell's window."""
        x, y, z = (kernel // 2 - pad for kernel, pad in zip(self.kernel, self.pad, strict=True))
        return x, y, z


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
        self._starts = self._window.starts()
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
        for layer in self._window.convolutions():
            coarse = coarser(fine, layer.step)
            if coarse == stride:
                return self._touched(fine, layer, coarse)
            fine = coarse
        raise InvalidInput(
            f"no convolution leads to stride {stride}; the strides are {', '.join(map(str, self._sizes))}",
            where="sparse tensor",
        )

    def _touched(self, fine: Stride, layer: Convolution, coarse: Stride) -> Level:
        """Every voxel of the coarser level whose window holds one of the finer level, ordered by (b, x, y, z)."""
        places = self._numbers(fine)
        for axis in range(3):  # windows are boxes: one axis after the other
            around = self._sizes[fine][axis] if self._window.wrap and axis == _WRAPPED else 0
            places = _touched_along(places, axis, layer, self._sizes[coarse][axis], around)
        start = places.new_tensor(self._starts[coarse])
        places = torch.cat([places[:, :1], places[:, 1:] * places.new_tensor(coarse) + start], 1)
        keys = self.grid.pack(places)
        keys = torch.unique_consecutive(keys.index_select(0, argsort(keys)))
        order = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
        return Level(self.grid.unpack(keys), keys, order)

    def _numbers(self, stride: Stride) -> Tensor:
        """The voxels of a level as i64 [M, 4]: batch index, and the number of the cell along each axis."""
        coords = self.level(stride).coords.long()
        start, edge = (coords.new_tensor(each) for each in (self._starts[stride], stride))
        return torch.cat([coords[:, :1], (coords[:, 1:] - start) // edge], 1)


def _touched_along(places: Tensor, axis: int, layer: Convolution, size: int, around: int) -> Tensor:
    """Cells i64 [M, 4] whose windows along one axis hold one of the given; repeated.

    Args:
        size: cells along the coarser axis. around: along the finer one, where it closes on itself; else 0.
    """
    step, reach, middle = layer.step[axis], layer.kernel[axis] // 2, layer.middle[axis]
    column = axis + 1
    found = []
    for turn in {-around, 0, around}:
        for offset in range(-reach, reach + 1):
            start = places[:, column] + turn - middle - offset
            target = torch.div(start, step, rounding_mode="floor")
            met = (start == target * step) & (target >= 0) & (target < size)
            moved = places[met]
            moved[:, column] = target[met]
            found.append(moved)
    return torch.cat(found)
