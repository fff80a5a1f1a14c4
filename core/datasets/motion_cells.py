"""In which cell of range and azimuth a moved point lies, compiled: what makes motion maps and what reads them."""

from __future__ import annotations

import math

import numba
import numpy as np

from core.datasets.motion_config import MotionConfig

__all__ = ["ANGLE_ERROR", "about_atan2", "add_extents", "grid_of", "read_cells"]

# Abramowitz and Stegun, Handbook of Mathematical Functions, 4.4.47: |error| <= 1e-5 rad for 0 <= t <= 1.
_A1, _A3, _A5, _A7, _A9 = 0.9998660, -0.3302995, 0.1801410, -0.0851330, 0.0208351
ANGLE_ERROR = 2e-5  # rad, of the approximation and of the sums it passes through


def grid_of(config: MotionConfig) -> np.ndarray:
    """The numbers of a grid as the loops take them: f64 [8], bins, azimuth rad, range m, height m."""
    low, high = np.radians(config.azimuth)
    return np.array([*config.bins, low, high, *config.range, *config.height], np.float64)


@numba.njit("f8(f8, f8)", cache=True, nogil=True, inline="always")
def about_atan2(y: float, x: float) -> float:
    """The angle to within ``ANGLE_ERROR``, in a fifth of the time."""
    across, along = abs(y), abs(x)
    larger = max(across, along)
    if larger == 0.0:
        return 0.0
    t = min(across, along) / larger
    s = t * t
    angle = t * (_A1 + s * (_A3 + s * (_A5 + s * (_A7 + s * _A9))))
    if across > along:
        angle = 0.5 * math.pi - angle
    if x < 0:
        angle = math.pi - angle
    if y < 0:
        angle = -angle
    return angle


@numba.njit("i8(f8, f8, f8, f8[::1])", cache=True, nogil=True, inline="always")
def _cell(x: float, y: float, z: float, grid: np.ndarray) -> int:
    """The cell of a point, -1 = none; the same as by ``arctan2``, which is asked near the border of a row alone."""
    if not grid[6] < z < grid[7]:
        return -1
    distance = math.sqrt(x * x + y * y + z * z)
    if not grid[4] < distance < grid[5]:
        return -1
    rows, columns = int(grid[0]), int(grid[1])
    low, width = grid[2], grid[3] - grid[2]
    place = rows * ((about_atan2(y, x) - low) / width)
    row = math.floor(place)
    near = rows * ANGLE_ERROR / width
    if place - row < near or row + 1 - place < near:
        yaw = math.atan2(y, x)
        if yaw < low or yaw > grid[3]:
            return -1
        row = math.floor(rows * ((yaw - low) / width))
    elif row < 0 or row >= rows:
        return -1
    column = math.floor(columns * (1 - distance / grid[5]))
    row = min(max(row, 0), rows - 1)
    column = min(max(column, 0), columns - 1)
    return row * columns + column


@numba.njit(
    "void(f4[:,::1], f8[:,::1], f8[::1], f4[::1], f4[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def add_extents(
    xyz: np.ndarray, move: np.ndarray, grid: np.ndarray, lowest: np.ndarray, highest: np.ndarray
) -> None:
    """Take the points of a scan into the lowest and highest point of each cell.

    Args:
        xyz: f32 [N, 3] m. move: f64 [3, 4] into the frame of the grid. grid: see :func:`grid_of`.
        lowest, highest: f32 [cells] m, changed in place.
    """
    for i in range(xyz.shape[0]):
        x, y, z = np.float64(xyz[i, 0]), np.float64(xyz[i, 1]), np.float64(xyz[i, 2])
        up = move[2, 0] * x + move[2, 1] * y + move[2, 2] * z + move[2, 3]
        cell = _cell(
            move[0, 0] * x + move[0, 1] * y + move[0, 2] * z + move[0, 3],
            move[1, 0] * x + move[1, 1] * y + move[1, 2] * z + move[1, 3],
            up,
            grid,
        )
        if cell >= 0:
            height = np.float32(up)
            lowest[cell] = min(lowest[cell], height)
            highest[cell] = max(highest[cell], height)


@numba.njit(
    "void(f4[:,::1], f8[:,::1], f8[::1], f4[::1], f4[:])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def read_cells(
    xyz: np.ndarray, move: np.ndarray, grid: np.ndarray, values: np.ndarray, read: np.ndarray
) -> None:
    """Give each point the value of its cell; a point without one is left as it is.

    Args:
        xyz, move, grid: as in :func:`add_extents`. values: f32 [cells]. read: f32 [N], changed in place.
    """
    for i in range(xyz.shape[0]):
        x, y, z = np.float64(xyz[i, 0]), np.float64(xyz[i, 1]), np.float64(xyz[i, 2])
        cell = _cell(
            move[0, 0] * x + move[0, 1] * y + move[0, 2] * z + move[0, 3],
            move[1, 0] * x + move[1, 1] * y + move[1, 2] * z + move[1, 3],
            move[2, 0] * x + move[2, 1] * y + move[2, 2] * z + move[2, 3],
            grid,
        )
        if cell >= 0:
            read[i] = values[cell]
