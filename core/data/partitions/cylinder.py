"""Cells of range, azimuth and height about the scanner (Zhu et al., "Cylinder3D", CVPR 2021)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from core.contracts import Sensor
from core.data.partitions.base import EXACT, PartitionSection
from core.errors import UserError
from core.sparse import MAX_SPAN

__all__ = ["Cylinder"]

Vector = tuple[float, float, float]
_COARSEST = 64  # cells; strides of networks divide it


class Cylinder(PartitionSection):
    """Horizontal range (m), azimuth (degrees, counter-clockwise from x) and height (m), seen from the scanner.

    Either a grid of ``bins`` between ``low`` and ``high`` (Cylinder3D, MotionBEV), or ``cell`` without bounds (SLidR).
    """

    name: Literal["cylinder"] = Field(description="range, azimuth and height about the scanner")
    bins: tuple[int, int, int] = Field(
        (480, 360, 32), description="cells along range, azimuth, height"
    )
    low: Vector = Field((0.0, -180.0, -4.0), description="m, degrees, m: lower corner of the grid")
    high: Vector = Field((50.0, 180.0, 2.0), description="m, degrees, m: upper corner of the grid")
    interval: Literal["bins", "bins - 1"] = Field(
        "bins",
        description="a cell is (high - low) / this; 'bins - 1' as published, whose last cell holds what is clipped",
    )
    outside: Literal["clip", "drop"] = Field(
        "clip",
        description="points beyond the grid go into its border cells (published), or into none",
    )
    cell: Vector | None = Field(
        None,
        description="m, degrees, m: size of a cell in a grid without bounds; null = bins, low and high",
    )
    start: Literal["lowest", "scanner"] = Field(
        "lowest",
        description="where a grid without bounds begins: at a scan's lowest cell, or at a multiple of 64 cells from "
        "the scanner, so that strides meet the same places in each scan, as SLidR's released weights know it",
    )

    @model_validator(mode="after")
    def _sensible(self) -> Cylinder:
        if min(self.bins) < 2 or max(self.bins) > MAX_SPAN:
            raise ValueError(f"bins are 2 to {MAX_SPAN} per axis")
        if any(low >= high for low, high in zip(self.low, self.high)):
            raise ValueError("each coordinate of low is smaller than that of high")
        if self.cell is not None and min(self.cell) <= 0:
            raise ValueError("sizes of a cell are positive")
        if self.cell is None and self.start != "lowest":
            raise ValueError("start is that of a grid without bounds, which cell makes")
        if self.cell is not None and {"bins", "low", "high"} & self.model_fields_set:
            raise ValueError(
                "cell makes a grid without bounds; bins, low and high do not go with it"
            )
        return self

    @property
    def closes(self) -> bool:
        """The last cell of azimuth touches the first: together they are a full circle."""
        return self.cell is None and self.interval == "bins" and self.high[1] - self.low[1] == 360

    def coordinates(self, xyz: np.ndarray, sensor: Sensor) -> np.ndarray:
        """F32 [N, 3]: range m, azimuth degrees, height m of points f32 [N, 3] m."""
        x, y, z = sensor.seen(xyz).T
        return np.stack([np.hypot(x, y), np.degrees(np.arctan2(y, x)), z], 1)

    def index(self, xyz: np.ndarray, sensor: Sensor) -> tuple[np.ndarray, np.ndarray | None]:
        """See :meth:`PartitionSection.index`.

        Raises:
            UserError: a grid without bounds would need more than ``MAX_SPAN`` cells on an axis.
        """
        polar = self.coordinates(xyz, sensor)
        if self.cell is not None:
            return self._unbounded(polar, np.array(self.cell)), None
        low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
        index = np.floor((np.clip(polar, low, high) - low) / self.cell_size()).astype(np.int32)
        last = np.array(self.bins, np.int32) - 1
        index = np.minimum(index, last)  # what lies on the upper border
        if self.outside == "clip":
            return index, None
        return index, ((polar >= low) & (polar <= high)).all(1)

    def cell_size(self) -> np.ndarray:
        """F32 [3]: m, degrees, m, of the cells of a grid with bounds."""
        less = 1 if self.interval == "bins - 1" else 0
        steps = np.array(self.bins) - less
        return ((np.array(self.high) - np.array(self.low)) / steps).astype(np.float32)

    def centres(self, coords: np.ndarray, sensor: Sensor) -> np.ndarray:
        """F32 [M, 3] m, in the scan's frame; the height of a grid without bounds counts from where it begins."""
        if self.cell is None:
            middle = (coords + np.float32(0.5)) * self.cell_size() + np.array(self.low, np.float32)
        else:
            cell = np.array(self.cell)
            first = self._begin(np.array([0, np.floor(-180 / cell[1]), 0]))
            middle = ((coords + first + 0.5) * cell).astype(np.float32)
        angle = np.radians(middle[:, 1])
        points = np.stack(
            [middle[:, 0] * np.cos(angle), middle[:, 0] * np.sin(angle), middle[:, 2]], 1
        )
        return (points + sensor.place).astype(np.float32)

    def _begin(self, lowest: np.ndarray) -> np.ndarray:
        """The cell f64 [3] that is counted as 0, no higher than the lowest."""
        if self.start == "lowest":
            return lowest
        return np.floor(lowest / _COARSEST) * _COARSEST

    def _unbounded(self, polar: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """I32 [N, 3]: azimuth counted from -180 degrees, height from the lowest point, or from below them.

        Args:
            polar: f32 [N, 3] m, degrees, m. cell: [3], of one cell.
        """
        index = np.floor(polar / cell.astype(np.float32))
        near = np.abs(index) < EXACT  # False for NaN
        if len(index):
            lowest = np.array([0, np.floor(-180 / cell[1]), index[:, 2].min()])
            index -= self._begin(lowest).astype(np.float32)
        if not (near & (index < MAX_SPAN)).all():
            raise UserError(
                f"the points reach too far for cells of this size (at most {MAX_SPAN} cells per axis)",
                where="data.partition.cell",
                cure="The scan holds stray points or is damaged; set data.point_range, or larger cells",
            )
        return index.astype(np.int32)
