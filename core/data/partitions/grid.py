"""Boxes of one size in a grid with bounds, as detectors divide the space about the car (SECOND, OpenPCDet)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from core.contracts import Sensor
from core.data.partitions.base import PartitionSection
from core.sparse import MAX_SPAN

__all__ = ["Grid"]

Vector = tuple[float, float, float]
_WHOLE = 1e-3  # of a cell, by which a grid may miss a whole number of them


class Grid(PartitionSection):
    """``floor((x - low) / size)``; points outside have no cell.

    The defaults are those of SLidR's VoxelNet on nuScenes: 1024 x 1024 x 40 boxes.
    """

    name: Literal["grid"] = Field(description="boxes of one size between two corners")
    low: Vector = Field((-51.2, -51.2, -5.0), description="m, lower corner")
    high: Vector = Field((51.2, 51.2, 3.0), description="m, upper corner")
    size: Vector = Field((0.1, 0.1, 0.2), description="m, of a box")
    radius: float | None = Field(
        None,
        gt=0,
        description="m, from the middle of the frame in the plane; points further out have no box either, so that "
        "turning a scan loses none; null = no limit",
    )

    @model_validator(mode="after")
    def _sensible(self) -> Grid:
        if any(low >= high for low, high in zip(self.low, self.high)):
            raise ValueError("each coordinate of low is smaller than that of high")
        if min(self.size) <= 0:
            raise ValueError("sizes of a box are positive")
        exact = (np.array(self.high) - np.array(self.low)) / np.array(self.size)
        if exact.max() > MAX_SPAN:
            raise ValueError(f"the grid has more than {MAX_SPAN} boxes along an axis")
        if (np.abs(exact - np.round(exact)) > _WHOLE).any():
            raise ValueError("low and high are not a whole number of boxes apart")
        return self

    @property
    def boxes(self) -> tuple[int, int, int]:
        """Boxes along x, y, z."""
        exact = (np.array(self.high) - np.array(self.low)) / np.array(self.size)
        x, y, z = np.round(exact).astype(int).tolist()
        return x, y, z

    def index(self, xyz: np.ndarray, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`PartitionSection.index`; a point that is no number has no box."""
        low, size = np.array(self.low, np.float32), np.array(self.size, np.float32)
        place = np.floor((xyz - low) / size)
        inside: np.ndarray = ((place >= 0) & (place < np.array(self.boxes))).all(1)
        if self.radius is not None:
            inside &= xyz[:, 0] ** 2 + xyz[:, 1] ** 2 <= np.float32(self.radius) ** 2
        return np.where(inside[:, None], place, 0).astype(np.int32), inside

    def centres(self, coords: np.ndarray, sensor: Sensor) -> np.ndarray:
        """F32 [M, 3] m, in the scan's frame."""
        middle = (coords + 0.5) * np.array(self.size) + np.array(self.low)
        return middle.astype(np.float32)
