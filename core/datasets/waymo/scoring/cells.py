"""Points of a frame and the cells of TOP's range images that they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from core.contracts import Scan
from core.datasets.benchmark import Split
from core.datasets.waymo.range_image import to_cells

__all__ = ["CellSplit", "Cells"]


@dataclass(frozen=True)
class Cells:
    """Where the points of a frame lie in its range images; values go there and come back unchanged.

    Attributes:
        number: u8 [N], 1 = first return, 2 = second. row, column: integer [N]. shape: (rows, columns) of an image.
    """

    number: np.ndarray
    row: np.ndarray
    column: np.ndarray
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.number)

    def images(self, values: np.ndarray) -> np.ndarray:
        """Values [N] of the points in their cells, [2, H, W] of their type; 0 where no point is.

        Raises:
            ValueError: there is another number of values.
        """
        if len(values) != len(self):
            raise ValueError(f"{len(values)} values for {len(self)} points")
        return to_cells(values, self.number, self.row, self.column, self.shape)

    @property
    def occupied(self) -> np.ndarray:
        """Bool [2, H, W], cells with a point."""
        return self.images(np.ones(len(self), bool))


class CellSplit(Split, Protocol):
    """A split whose points are cells of range images."""

    def cells(self, index: int) -> Cells:
        """The cells of the points of scan ``index``, in the order of its points.

        Raises:
            UserError: the frame is damaged, or not all of its points are read.
        """

    def load(self, index: int, *, cameras: bool = True) -> Scan:
        """Read scan ``index``."""
