"""The scanner's own picture: rows of elevation, columns of azimuth (Cheng et al., "CENet", ICME 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from core.contracts import Sensor
from core.data.partitions.base import PartitionSection
from core.sparse import MAX_SPAN

__all__ = ["RangeImage"]


class RangeImage(PartitionSection):
    """``(row, column)`` of elevation (highest first) and azimuth (clockwise); the nearest point represents a pixel."""

    axes: ClassVar[int] = 2

    name: Literal["range_image"] = Field(description="rows of elevation, columns of azimuth")
    height: int = Field(64, ge=1, le=MAX_SPAN, description="px, rows")
    width: int = Field(2048, ge=1, le=MAX_SPAN, description="px, columns")
    elevation: tuple[float, float] | None = Field(
        (-25.0, 3.0),
        description="degrees, of the lower edge and the upper; points beyond go into the border rows; null = as the "
        "scanner's beams",
    )

    @model_validator(mode="after")
    def _ordered(self) -> RangeImage:
        if self.elevation is not None and self.elevation[0] >= self.elevation[1]:
            raise ValueError("elevation is [lowest, highest]")
        return self

    def _edges(self, sensor: Sensor) -> np.ndarray:
        """F64 [2] rad, the lower edge and the upper."""
        if self.elevation is None:
            return np.array(sensor.elevation, np.float64)
        return np.radians(self.elevation)

    def index(self, xyz: np.ndarray, sensor: Sensor) -> tuple[np.ndarray, None]:
        """See :meth:`PartitionSection.index`; every point has a pixel."""
        seen = sensor.seen(xyz)
        x, y, z = seen.T
        low, high = self._edges(sensor)
        pitch = np.arcsin(np.clip(z / np.maximum(_distance(seen), np.float32(1e-6)), -1, 1))
        row = np.floor((1 - (pitch - low) / (high - low)) * self.height)
        column = np.floor(0.5 * (1 - np.arctan2(y, x) / np.pi) * self.width)
        pixels = np.stack([row.clip(0, self.height - 1), column.clip(0, self.width - 1)], 1)
        return pixels.astype(np.int32), None

    def rank(self, xyz: np.ndarray, sensor: Sensor) -> np.ndarray:
        """F32 [N] m from the scanner."""
        return _distance(sensor.seen(xyz))

    def centres(self, coords: np.ndarray, sensor: Sensor) -> np.ndarray:
        """F32 [M, 3]: the pixels' centres one metre from the scanner, in the scan's frame."""
        low, high = self._edges(sensor)
        pitch = low + (1 - (coords[:, 0] + 0.5) / self.height) * (high - low)
        azimuth = (1 - 2 * (coords[:, 1] + 0.5) / self.width) * np.pi
        flat = np.cos(pitch)
        ray = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(pitch)], 1)
        return (ray + sensor.place).astype(np.float32)


def _distance(points: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", points, points))
