"""Which point lies where in which image, as sparse matrices between points and pixels.

Everything that needs a data-dependent size is found once per batch, in :meth:`PixelLinks.of`; stages do arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from core.contracts import Batch
from core.sparse.points import GatherTable, gather_sum

__all__ = ["Overlap", "PixelLinks", "map_size", "sample_image"]

Overlap = Literal["last", "mean"]


@dataclass
class PixelLinks:
    """The (point, image) pairs of a batch, sorted by point, then camera. Image ``b * K + k`` is camera k of scan b.

    Attributes:
        point, image: i64 [P]. uv: f32 [P, 2] in [-1, 1], outermost pixel centres. weight: f32 [P], share of the pair in
            what its point reads; 1 per point in total. ptr: i64 [SV + 1], pairs of each point.
        images: B * K. in_sight: bool [SV]. rows: i64 [R], the points in sight. used: i64 [U], the pairs that weigh
            something.
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
    tables: dict[Any, GatherTable] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, overlap: Overlap) -> PixelLinks:
        """Of a batch with images; a point that several cameras see reads the last one, or the mean of all."""
        scans, cameras = batch.images.shape[:2]
        visible = batch.visible.T
        point, camera = visible.nonzero(as_tuple=True)
        counts = visible.sum(1)
        in_sight = counts > 0
        ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        rows = in_sight.nonzero()[:, 0]
        if overlap == "last":
            used = ptr.index_select(0, rows + 1) - 1
            rank = torch.arange(len(point), device=point.device)
            weight = (rank == ptr.index_select(0, point + 1) - 1).float()
        else:
            used = torch.arange(len(point), device=point.device)
            weight = 1.0 / counts.index_select(0, point)
        image = batch.coords[:, 0].long().index_select(0, point) * cameras + camera
        uv = batch.pixels.flatten(0, 1).index_select(0, camera * len(counts) + point).float()
        return cls(point, image, uv, weight, ptr, scans * cameras, in_sight, rows, used)

    def cells(self, sizes: Sequence[tuple[int, int]]) -> GatherTable:
        """Points -> mean in each cell ``floor((uv + 1) / 2 * (size - 1))`` of the grids (rows, columns) of ``sizes``.

        Rows are ordered by grid, image, row, column.
        """
        key = ("cells", *sizes)
        if key not in self.tables:
            keys, start = [], 0
            for height, width in sizes:
                column, row = (c.floor().long() for c in _pixel(self.uv, height, width))
                keys.append(start + (self.image * height + row) * width + column)
                start += self.images * height * width
            cell, point = torch.cat(keys), self.point.repeat(len(sizes))
            counts = torch.zeros(start, dtype=torch.int64, device=cell.device)
            counts.scatter_add_(0, cell, torch.ones_like(cell))
            weight = 1.0 / counts.index_select(0, cell)
            self.tables[key] = GatherTable.from_entries(
                cell, point, weight, start, len(self.in_sight)
            )
        return self.tables[key]

    def corners(self, size: tuple[int, int]) -> GatherTable:
        """Pixels of [B * K, H, W] -> bilinear value at each point, 0 for a point out of sight."""
        key = ("corners", size)
        if key not in self.tables:
            height, width = size
            x, y = _pixel(self.uv, height, width)
            x0, y0 = x.floor().long(), y.floor().long()
            fx, fy = x - x0, y - y0
            x1, y1 = (x0 + 1).clamp_max(width - 1), (y0 + 1).clamp_max(height - 1)
            start = self.image * height
            rows = [(start + y) * width + x for y, x in ((y0, x0), (y0, x1), (y1, x0), (y1, x1))]
            weights = [(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx]
            weight = torch.stack(weights, 1) * self.weight[:, None]
            index = torch.stack(rows, 1).flatten().int()
            self.tables[key] = GatherTable(
                4 * self.ptr, index, weight.flatten(), self.images * height * width
            )
        return self.tables[key]

    def taps(self, size: tuple[int, int], kernel: int) -> GatherTable:
        """Pixels of [B * K, H, W] -> bilinear value around each point in sight, shifted by each tap of a kernel.

        Rows are ordered by point in sight, tap row, tap column; beyond the image lie zeros.
        """
        key = ("taps", size, kernel)
        if key not in self.tables:
            height, width = size
            uv, image, share, point = (
                t.index_select(0, self.used) for t in (self.uv, self.image, self.weight, self.point)
            )
            (c, w_c), (r, w_r) = (
                _tap_axis(x, n, kernel) for x, n in zip(_pixel(uv, height, width), (width, height))
            )
            row = (image * height)[:, None, None] + r
            index = row[:, :, None, :, None] * width + c[:, None, :, None, :]  # [P, k, k, 2, 2]
            weight = (
                w_r[:, :, None, :, None]
                * w_c[:, None, :, None, :]
                * share[:, None, None, None, None]
            )
            rank = self.in_sight.cumsum(0).index_select(0, point) - 1
            self.tables[key] = self._tap_table(
                rank, index.flatten(1, 2), weight.flatten(1, 2), size
            )
        return self.tables[key]

    def _tap_table(
        self, rank: Tensor, index: Tensor, weight: Tensor, size: tuple[int, int]
    ) -> GatherTable:
        """Rank of each pair's point [P], pixels and weights [P, taps, 2, 2] -> rows (point, tap)."""
        taps, count, columns = index.shape[1], len(self.rows), self.images * size[0] * size[1]
        if len(rank) == count:  # one pair for each point, already in order
            ptr = torch.arange(0, 4 * taps * count + 1, 4, device=rank.device)
            return GatherTable(ptr, index.flatten().int(), weight.flatten(), columns)
        rows = rank[:, None] * taps + torch.arange(taps, device=rank.device)
        rows = rows[:, :, None].expand(-1, -1, 4).flatten()
        return GatherTable.from_entries(
            rows, index.flatten(), weight.flatten(), count * taps, columns
        )


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


def _pixel(uv: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Column and row of the pixel coordinates, as floats inside the image."""
    u, v = ((uv + 1) / 2).unbind(1)
    return u * (width - 1), v * (height - 1)


def map_size(features: Tensor) -> tuple[int, int]:
    """Rows and columns of a map [N, C, H, W]."""
    height, width = features.shape[2:]
    return height, width


def sample_image(features: Tensor, links: PixelLinks) -> Tensor:
    """Bilinear features at the points: [B * K, C, H, W] -> [SV, C], 0 where no camera looks."""
    pixels = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    return gather_sum(pixels, links.corners(map_size(features)))
