"""The occupied columns of a cylinder's cells: from points to them, from them to an image and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.contracts import Batch
from core.fast.cell_max import Largest, cell_max

__all__ = ["PolarColumns"]

_AT_ONCE = 4096  # points, whose features stay in a processor's cache


class PolarColumns:
    """The occupied columns of a batch's cells.

    Args:
        bins: cells along range, azimuth and height.

    Attributes:
        key: i64 [P], place in the joined images. of_cell: i64 [SV], the column of each cell.
    """

    def __init__(self, batch: Batch, bins: tuple[int, int, int]) -> None:
        self.shape = (len(batch), bins[0], bins[1])
        scan, distance, azimuth, _ = batch.coords.long().unbind(1)
        place = (scan * bins[0] + distance) * bins[1] + azimuth
        self.key, self.of_cell = torch.unique(place, return_inverse=True)

    def points(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """I64 [R] and i64 [R]: the points that have a cell, and the column of each."""
        of_point = batch.cells.of_point
        rows = (of_point >= 0).nonzero()[:, 0]
        return rows, self.of_cell.index_select(0, of_point.index_select(0, rows))

    def largest(self, values: Tensor, of_column: Tensor) -> Tensor:
        """[R, C] of points -> [P, C]; of_column: i64 [R]."""
        return cell_max(values, of_column, len(self.key))

    def largest_of(
        self, layers: Callable[[Tensor], Tensor], inputs: Tensor, of_column: Tensor
    ) -> Tensor:
        """The largest of what layers make of points [R, cin], without a gradient: [P, C].

        What they make is never there as a whole.
        """
        if inputs.device.type != "cpu":
            return self.largest(layers(inputs), of_column)
        largest = Largest(len(self.key))
        for rows, of_row in zip(inputs.split(_AT_ONCE), of_column.split(_AT_ONCE)):
            largest.add(layers(rows), of_row)
        return largest.found()

    def image(self, values: Tensor, empty: Tensor | None = None) -> Tensor:
        """[P, C] -> [B, C, range, azimuth], channels last in memory; where there is nothing, ``empty`` [C] or 0."""
        scans, height, width = self.shape
        places = scans * height * width
        if empty is None:
            image = values.new_zeros(places, values.shape[1])
        else:
            image = empty.to(values.dtype).repeat(places, 1)
        image = image.index_copy(0, self.key, values)
        return image.view(scans, height, width, -1).permute(0, 3, 1, 2)

    def of_image(self, image: Tensor) -> Tensor:
        """[B, C, range, azimuth] -> [P, C]."""
        return image.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, self.key)
