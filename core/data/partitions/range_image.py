"""The scanner's own picture: rows of elevation, columns of azimuth (Cheng et al., "CENet", ICME 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from core.contracts import Sensor
from core.data.partitions.base import PartitionSection
from core.datasets.rings import turns
from core.errors import UserError
from core.sparse import MAX_SPAN

__all__ = ["RangeImage"]


class RangeImage(PartitionSection):
    """``(row, column)`` of elevation (highest first) and azimuth (clockwise); the nearest point represents a pixel."""

    axes: ClassVar[int] = 2

    name: Literal["range_image"] = Field(description="rows of elevation, columns of azimuth")
    height: int = Field(64, ge=1, le=MAX_SPAN, description="px, rows")
    width: int = Field(2048, ge=1, le=MAX_SPAN, description="px, columns")
    projection: Literal["spherical", "unfolding"] = Field(
        "spherical",
        description="the row of a point: of its elevation, or of its place in the scan, a row per turn of the scanner "
        "(scan unfolding; for scans stored ring by ring from the top, as KITTI's are, without sweeps or pasted points)",
    )
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
        """See :meth:`PartitionSection.index`; every point has a pixel.

        Raises:
            UserError: the scan cannot be unfolded.
        """
        seen = sensor.seen(xyz)
        x, y, z = seen.T
        if self.projection == "unfolding":
            row = _unfolded(seen, self.height)
        else:
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
        """F32 [M, 3]: the pixels' centres one metre from the scanner, in the scan's frame.

        Rows are taken as equal steps of elevation, which those of an unfolded scan are nearly.
        """
        low, high = self._edges(sensor)
        pitch = low + (1 - (coords[:, 0] + 0.5) / self.height) * (high - low)
        azimuth = (1 - 2 * (coords[:, 1] + 0.5) / self.width) * np.pi
        flat = np.cos(pitch)
        ray = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(pitch)], 1)
        return (ray + sensor.place).astype(np.float32)


def _distance(points: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", points, points))


def _unfolded(points: np.ndarray, height: int) -> np.ndarray:
    """I64 [N]: turns of the scanner before each point (Triess et al., "Scan-based Semantic Segmentation", IV 2020).

    The first point tells where a turn begins and the steps from point to point which way it goes, so that a view that
    was turned or mirrored has the rows of the scan.

    Args:
        points: f32 [N, 3] m, the scanner at the origin.

    Raises:
        UserError: the points are not stored ring by ring, or in more rings than there are rows.
    """
    if not len(points):
        return np.zeros(0, np.int64)
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    step = np.median(np.diff(azimuth, append=azimuth[-1]))  # the leaps where a ring ends are few
    angle = azimuth - (azimuth[0] - step / 2)  # rings begin within half a step of each other
    if step < 0:
        angle = -angle
    found = turns(np.stack([np.cos(angle), np.sin(angle), points[:, 2]], 1))
    if found is None:
        raise UserError(
            "the points are not stored ring by ring, so the scan cannot be unfolded",
            where="data.partition.projection",
            cure="Set projection: spherical",
        )
    if found.max() > height:
        raise UserError(
            f"the scan makes {found.max() + 1} turns, and the image has {height} rows",
            where="data.partition.projection",
            cure="Unfold scans without sweeps and points of other scans, set height, or projection: spherical",
        )
    return found
