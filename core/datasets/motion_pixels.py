"""In which pixel of a range image a moved point lies, compiled: what makes LMNet's residuals and what reads them."""

from __future__ import annotations

import math

import numba
import numpy as np

from core.datasets.motion_cells import ANGLE_ERROR, about_atan2
from core.datasets.motion_config import ResidualConfig

__all__ = ["nearest_ranges", "pixels_of", "range_residual", "view_of"]

_TURN = 2 * math.pi


def view_of(config: ResidualConfig) -> np.ndarray:
    """The numbers of an image as the loops take them: f64 [6], rows, columns, elevation rad, range m."""
    low, high = np.radians(config.elevation)
    return np.array([config.height, config.width, low, high, *config.range], np.float64)


@numba.njit("UniTuple(f8, 2)(f8, f8, f8, f8[::1])", cache=True, nogil=True, inline="always")
def _pixel(x: float, y: float, z: float, view: np.ndarray) -> tuple[float, float]:
    """The pixel of a point, -1 = none, and its range, m; the same as by ``arctan2``, asked near a border alone."""
    distance = math.sqrt(x * x + y * y + z * z)
    if not view[4] < distance < view[5]:
        return -1.0, distance
    rows, columns = view[0], view[1]
    pitch = math.asin(z / distance)
    row = math.floor(rows * (1 - (pitch - view[2]) / (view[3] - view[2])))
    place = columns * (0.5 - about_atan2(y, x) / _TURN)
    column = math.floor(place)
    near = columns * ANGLE_ERROR / _TURN
    if place - column < near or column + 1 - place < near:
        column = math.floor(columns * (0.5 - math.atan2(y, x) / _TURN))
    row = min(max(row, 0), rows - 1)
    column = min(max(column, 0), columns - 1)
    return row * columns + column, distance


@numba.njit(
    "void(f4[:,::1], f8[:,::1], f8[::1], f4[::1])", cache=True, nogil=True, error_model="numpy"
)
def nearest_ranges(
    xyz: np.ndarray, move: np.ndarray, view: np.ndarray, nearest: np.ndarray
) -> None:
    """Take the points of a scan into the smallest range of each pixel.

    Args:
        xyz: f32 [N, 3] m. move: f64 [3, 4] into the frame of the image. view: see :func:`view_of`.
        nearest: f32 [pixels] m, changed in place.
    """
    for i in range(xyz.shape[0]):
        x, y, z = np.float64(xyz[i, 0]), np.float64(xyz[i, 1]), np.float64(xyz[i, 2])
        pixel, distance = _pixel(
            move[0, 0] * x + move[0, 1] * y + move[0, 2] * z + move[0, 3],
            move[1, 0] * x + move[1, 1] * y + move[1, 2] * z + move[1, 3],
            move[2, 0] * x + move[2, 1] * y + move[2, 2] * z + move[2, 3],
            view,
        )
        if pixel >= 0:
            k = int(pixel)
            nearest[k] = min(nearest[k], np.float32(distance))


@numba.njit("i8[::1](f4[:,::1], f8[::1])", cache=True, nogil=True, error_model="numpy")
def pixels_of(xyz: np.ndarray, view: np.ndarray) -> np.ndarray:
    """The pixel of each point: i64 [N], -1 = none; ``xyz``: f32 [N, 3] m in the frame of the image."""
    found = np.empty(len(xyz), np.int64)
    for i in range(len(xyz)):
        x, y, z = np.float64(xyz[i, 0]), np.float64(xyz[i, 1]), np.float64(xyz[i, 2])
        found[i] = int(_pixel(x, y, z, view)[0])
    return found


@numba.njit("f4[::1](f4[::1], f4[::1])", cache=True, nogil=True, error_model="numpy")
def range_residual(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """``|now - before| / now`` (LMNet, eq. 4); 0 where one of the two images has no point.

    Args:
        now, before: f32 [pixels] m, infinite where there is no point.

    Returns:
        f32 [pixels].
    """
    found = np.zeros(len(now), np.float32)
    for k in range(len(now)):
        if now[k] < np.inf and before[k] < np.inf:
            found[k] = abs(now[k] - before[k]) / now[k]
    return found
