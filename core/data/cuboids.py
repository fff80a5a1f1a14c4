"""A box of points left out of a scan (DropCuboids of SLidR, Sautier et al., CVPR 2022, after PointContrast's)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.contracts import Camera

__all__ = ["draw_box", "enough_in_sight"]


def draw_box(xyz: np.ndarray, rng: np.random.Generator, largest: float) -> np.ndarray:
    """Draw a box about a point of the cloud: bool [N], strictly inside.

    Its sides are those of the cloud's own box, times one factor uniform in [0, largest).

    Args:
        xyz: f32 [N, 3] m, augmented.
    """
    if not len(xyz):
        return np.zeros(0, bool)
    extent = xyz.max(0) - xyz.min(0)
    half = extent * np.float32(rng.uniform(0.0, largest) / 2)
    centre = xyz[int(rng.integers(len(xyz)))]
    inside: np.ndarray = (np.abs(xyz - centre) < half).all(1)
    return inside


def enough_in_sight(
    xyz: np.ndarray, kept: np.ndarray, cameras: Sequence[Camera], least: int
) -> bool:
    """Whether every camera sees so many of the kept points.

    Args:
        xyz: f32 [N, 3] m, as recorded. kept: bool [N].
    """
    for camera in cameras:
        _, _, visible = camera.project(xyz)
        if np.count_nonzero(visible & kept) < least:
            return False
    return True
