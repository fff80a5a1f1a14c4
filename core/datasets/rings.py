"""Which laser of the scanner a point comes from."""

from __future__ import annotations

import math

import numba
import numpy as np

__all__ = ["rings", "turns"]

_FEWEST_TURNS = 4  # fewer: the points are not stored ring by ring


def rings(points: np.ndarray, beams: int) -> np.ndarray:
    """Number each point's laser, 0 .. beams - 1.

    KITTI stores a scan ring by ring, each a full turn: a ring begins where the azimuth wraps around. Where points are
    stored otherwise, elevation tells rings apart: equal steps between the lowest and the highest, 0 the highest.

    Args:
        points: f32 [N, 3] m, the scanner at the origin.

    Returns:
        i64 [N].
    """
    found = turns(points)
    if found is not None:
        return np.clip(found, 0, beams - 1)
    elevation = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    low, high = np.quantile(elevation, (0.001, 0.999))
    step = max(high - low, 1e-6) / max(beams - 1, 1)
    ring = np.rint((high - elevation) / step)
    return np.clip(ring, 0, beams - 1).astype(np.int64)


def turns(points: np.ndarray) -> np.ndarray | None:
    """Count the whole turns, counter-clockwise from the x axis, that the scanner has made before each point.

    Args:
        points: f32 [N, 3] m, the scanner at the origin.

    Returns:
        i64 [N], None where points are not stored ring by ring.
    """
    found, leaps = _turns(np.ascontiguousarray(points, np.float32))
    if len(found) == 0 or (found[-1] >= _FEWEST_TURNS and leaps < 0.2 * len(found)):
        return found
    return None


@numba.njit("Tuple((i8[::1], i8))(f4[:,::1])", cache=True, nogil=True)
def _turns(points: np.ndarray) -> tuple[np.ndarray, int]:
    """Whole turns completed before each point, and the steps of more than 18 degrees from one point to the next.

    Noise across the wrap goes forth and back and cancels.
    """
    n = points.shape[0]
    ring = np.zeros(n, np.int64)
    turn = 0
    leaps = 0
    before = 0.0
    for i in range(n):
        share = math.atan2(points[i, 1], points[i, 0]) / (2 * math.pi)
        if share < 0:
            share += 1.0
        if i > 0 and before > 0.8 and share < 0.2:
            turn += 1
        elif i > 0 and before < 0.2 and share > 0.8:
            turn -= 1
        step = abs(share - before)
        if min(step, 1.0 - step) > 0.05:
            leaps += 1
        ring[i] = turn
        before = share
    return ring, leaps
