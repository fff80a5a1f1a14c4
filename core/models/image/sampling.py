"""Which point lies where in which image, as sparse matrices between points and pixels.

Everything that needs a data-dependent size is found once per batch, in :meth:`PixelLinks.of`; stages do arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from core.contracts import Batch
from core.sparse.points import GatherTable, gather_sum

__all__ = ["MapSize", "Overlap", "PixelLinks", "map_size", "sample_image", "sample_places"]

Overlap = Literal["last", "mean"]
MapSize = tuple[int, int]  # rows and columns


@dataclass(frozen=True)
class Around:
    """The four pixels around each used pair's place in an image, whose values are read from a map of another size.

    Attributes:
        pixels: pixels of the map -> bilinear value at each of these image pixels, U * 4 rows.
        points: image pixels -> bilinear value at each point in sight, R rows.
    """

    pixels: GatherTable
    points: GatherTable


@dataclass
class PixelLinks:
    """The (point, image) pairs of a batch, sorted by point, then camera.

    Image ``i * K + k`` is camera k of row i of the batch's images.

    A point is a cell of the batch, seen where the point that represents it is.

    Attributes:
        point: i64 [P], of each pair.
        image: i64 [P], of each pair.
        uv: f32 [P, 2] in [-1, 1], outermost pixel centres.
        weight: f32 [P], share of the pair in what its point reads; 1 per point in total.
        ptr: i64 [SV + 1], pairs of each point.
        images: I * K, of the I scans that have some.
        in_sight: bool [SV], some camera sees the point.
        rows: i64 [R], the points in sight.
        used: i64 [U], the pairs that weigh something.
        tables: what was derived from the pairs, by kind and map size.
    """

    point: Tensor
    image: Tensor
    uv: Tensor
    weight: Tensor
    ptr: Tensor
    images: int
    in_sight: Tensor
    rows: Tensor
    used: Tensor
    tables: dict[Hashable, GatherTable] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, overlap: Overlap) -> PixelLinks:
        """Of a batch with images; a point that several cameras see reads the last one, or the mean of all."""
        assert batch.images is not None
        assert batch.visible is not None
        assert batch.pixels is not None
        assert batch.image_rows is not None
        scans, cameras = batch.images.shape[:2]
        visible = batch.visible.T
        point, camera = visible.nonzero(as_tuple=True)
        counts = visible.sum(1)
        in_sight = counts > 0
        ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        rows = in_sight.nonzero()[:, 0]
        every = torch.arange(len(point), device=point.device)
        if overlap == "last":
            last = ptr[1:] - 1  # pair of each point
            used = last.index_select(0, rows)
            weight = (every == last.index_select(0, point)).float()
        else:
            used = every
            weight = 1.0 / counts.index_select(0, point)
        row = batch.image_rows.index_select(0, point)
        pixels = batch.pixels.flatten(0, 1)
        uv = pixels.index_select(0, camera * len(counts) + point)
        return cls(
            point=point,
            image=row * cameras + camera,
            uv=uv.float(),
            weight=weight,
            ptr=ptr,
            images=scans * cameras,
            in_sight=in_sight,
            rows=rows,
            used=used,
        )

    def cells(self, sizes: Sequence[MapSize]) -> GatherTable:
        """Points -> mean in each cell ``floor((uv + 1) / 2 * (size - 1))`` of the grids (rows, columns) of ``sizes``.

        Rows are ordered by grid, image, row, column.
        """
        return self._table(("cells", *sizes), lambda: self._cells(sizes))

    def corners(self, size: MapSize) -> GatherTable:
        """Pixels of [I * K, H, W] -> bilinear value at each point, 0 for a point out of sight."""
        return self._table(("corners", size), lambda: self._corners(size))

    def taps(self, size: MapSize, kernel: int) -> GatherTable:
        """Pixels of [I * K, H, W] -> bilinear value around each point in sight, shifted by each tap of a kernel.

        Rows are ordered by point in sight, tap row, tap column; beyond the image lie zeros.
        """
        return self._table(("taps", size, kernel), lambda: self._taps(size, kernel))

    def around(self, image: MapSize, size: MapSize) -> Around:
        """Of images of (rows, columns) ``image`` and a map [I * K, H, W] of ``size`` whose corners are the images'."""
        number = self.image.index_select(0, self.used)
        x, y = _pixel(self.uv.index_select(0, self.used), image)
        columns, column_weight = _tap_axis(x, image[1], 1)
        lines, line_weight = _tap_axis(y, image[0], 1)
        # All of [U, 2, 2]: pair, upper and lower, left and right pixel.
        share = self.weight.index_select(0, self.used)[:, None, None]
        weight = line_weight[:, 0, :, None] * column_weight[:, 0, None, :] * share
        u = columns[:, 0, None, :] * (2 / max(image[1] - 1, 1)) - 1
        v = lines[:, 0, :, None] * (2 / max(image[0] - 1, 1)) - 1
        at = torch.stack(torch.broadcast_tensors(u, v), -1).view(-1, 2)
        fourfold = number.repeat_interleave(4)
        index, shares = _corner_pixels(at, fourfold, size)
        ptr = torch.arange(0, 4 * len(at) + 1, 4, device=at.device)
        pixels = GatherTable(ptr, index.int(), shares, self.images * size[0] * size[1])
        rank = self._rank_of_used().repeat_interleave(4)
        entries = torch.arange(len(at), device=at.device)
        points = GatherTable.from_entries(rank, entries, weight.flatten(), len(self.rows), len(at))
        return Around(pixels, points)

    def _rank_of_used(self) -> Tensor:
        """I64 [U]: the number of each used pair's point among those in sight."""
        number = self.in_sight.cumsum(0) - 1
        return number.index_select(0, self.point.index_select(0, self.used))

    def _table(self, key: Hashable, make: Callable[[], GatherTable]) -> GatherTable:
        if key not in self.tables:
            self.tables[key] = make()
        return self.tables[key]

    def _cells(self, sizes: Sequence[MapSize]) -> GatherTable:
        cells = []
        start = 0
        for height, width in sizes:
            x, y = _pixel(self.uv, (height, width))
            column = x.floor().long()
            line = self.image * height + y.floor().long()
            cells.append(start + line * width + column)
            start += self.images * height * width
        cell = torch.cat(cells)
        counts = torch.zeros(start, dtype=torch.int64, device=cell.device)
        counts.scatter_add_(0, cell, torch.ones_like(cell))
        weight = 1.0 / counts.index_select(0, cell)
        point = self.point.repeat(len(sizes))
        return GatherTable.from_entries(cell, point, weight, start, len(self.in_sight))

    def _corners(self, size: MapSize) -> GatherTable:
        height, width = size
        index, weight = _corner_pixels(self.uv, self.image, size)
        weight = weight.view(-1, 4) * self.weight[:, None]
        columns = self.images * height * width
        return GatherTable(4 * self.ptr, index.int(), weight.flatten(), columns)

    def _taps(self, size: MapSize, kernel: int) -> GatherTable:
        height, width = size
        uv = self.uv.index_select(0, self.used)
        x, y = _pixel(uv, size)
        columns, column_weight = _tap_axis(x, width, kernel)
        lines, line_weight = _tap_axis(y, height, kernel)
        image = self.image.index_select(0, self.used)
        first = image * height
        share = self.weight.index_select(0, self.used)
        # All of [P, k, k, 2, 2]: pair, tap row, tap column, upper and lower, left and right pixel.
        lines = (first[:, None, None] + lines)[:, :, None, :, None]
        index = lines * width + columns[:, None, :, None, :]
        weight = line_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]
        weight = weight * share[:, None, None, None, None]
        return self._tap_table(index.flatten(1, 2), weight.flatten(1, 2), size)

    def _tap_table(self, index: Tensor, weight: Tensor, size: MapSize) -> GatherTable:
        """Pixels and weights [U, taps, 2, 2] of the used pairs -> rows (point, tap)."""
        pairs, taps = index.shape[:2]
        count = len(self.rows)
        height, width = size
        columns = self.images * height * width
        if pairs == count:  # one for each point, already in order
            ptr = torch.arange(0, 4 * taps * count + 1, 4, device=index.device)
            return GatherTable(ptr, index.flatten().int(), weight.flatten(), columns)
        tap = torch.arange(taps, device=index.device)
        rows = self._rank_of_used()[:, None] * taps + tap
        entries = rows[:, :, None].expand(-1, -1, 4).flatten()
        return GatherTable.from_entries(
            entries, index.flatten(), weight.flatten(), count * taps, columns
        )


def _corner_pixels(uv: Tensor, image: Tensor, size: MapSize) -> tuple[Tensor, Tensor]:
    """The four pixels around each place ``uv`` [P, 2] in the maps ``image`` i64 [P]: rows and weights, [P * 4]."""
    height, width = size
    x, y = _pixel(uv, size)
    left = x.floor().long()
    right = (left + 1).clamp_max(width - 1)
    top = y.floor().long()
    bottom = (top + 1).clamp_max(height - 1)
    fx = x - left
    fy = y - top
    first = image * height
    upper = (first + top) * width
    lower = (first + bottom) * width
    corners = [upper + left, upper + right, lower + left, lower + right]
    weights = [(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx]
    return torch.stack(corners, 1).flatten(), torch.stack(weights, 1).flatten()


def _tap_axis(x: Tensor, size: int, kernel: int) -> tuple[Tensor, Tensor]:
    """Pixels and weights [P, kernel, 2] that interpolate at ``x`` [P] along one axis, for each shift of a kernel."""
    low = x.floor().long()
    fraction = (x - low)[:, None, None]
    shift = torch.arange(kernel, device=x.device) - kernel // 2
    corner = torch.stack([low, (low + 1).clamp_max(size - 1)], 1)
    pixel = corner[:, None] + shift[:, None]
    weight = torch.cat([1 - fraction, fraction], 2)
    inside = (pixel >= 0) & (pixel < size)
    return pixel.clamp(0, size - 1), weight * inside


def _pixel(uv: Tensor, size: MapSize) -> tuple[Tensor, Tensor]:
    """Column and row of the pixel coordinates, as floats inside a map of ``size``."""
    height, width = size
    u, v = ((uv + 1) / 2).unbind(1)
    return u * (width - 1), v * (height - 1)


def map_size(features: Tensor) -> MapSize:
    """Rows and columns of a map [N, C, H, W]."""
    height, width = features.shape[2:]
    return height, width


def sample_image(features: Tensor, links: PixelLinks) -> Tensor:
    """Bilinear features at the points: [I * K, C, H, W] -> [SV, C], 0 where no camera looks."""
    pixels = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    return gather_sum(pixels, links.corners(map_size(features)))


def sample_places(features: Tensor, image: Tensor, uv: Tensor) -> Tensor:
    """Bilinear features at single places, [N, C, H, W] -> [P, C].

    Args:
        image: i64 [P], of each place. uv: f32 [P, 2] in [-1, 1], outermost pixel centres.
    """
    index, weight = _corner_pixels(uv, image, map_size(features))
    pixels = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    ptr = torch.arange(0, len(index) + 1, 4, device=index.device)
    return gather_sum(pixels, GatherTable(ptr, index.int(), weight, len(pixels)))
