"""The cameras' lens model: Brown's radial and tangential distortion, as OpenCV defines it.

x_d = x (1 + k1 r^2 + k2 r^4 + k3 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2), and y likewise with p1 and p2 swapped
(OpenCV, "Camera Calibration and 3D Reconstruction"; Waymo's ``CameraCalibration.intrinsic`` lists the same five).
"""

from __future__ import annotations

import numpy as np

__all__ = ["distort", "undistort"]

_STEPS = 60  # of the iteration; those of the real cameras divide the error by five or more
_SOLVED = 1e-10  # in units of the focal length, far below a pixel


def distort(points: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Tell where a lens draws directions.

    Args:
        points: f64 [..., 2], (x / z, y / z) with x right, y down, z forward. coefficients: f64 [5], k1, k2, p1, p2, k3.

    Returns:
        f64 [..., 2], times the focal length and plus the principal point these are pixels.
    """
    radial, tangential = _terms(points, coefficients)
    return points * radial + tangential


def undistort(points: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Tell which directions a lens draws at points of its image; the inverse of :func:`distort`.

    Args:
        points: f64 [..., 2], pixels minus the principal point, by the focal length. coefficients: as there.

    Returns:
        f64 [..., 2], (x / z, y / z).

    Raises:
        ValueError: a point lies where the lens draws nothing, or several directions.
    """
    guess = points.copy()
    with np.errstate(all="ignore"):
        for _ in range(_STEPS):
            radial, tangential = _terms(guess, coefficients)
            lost = ~(np.abs(guess * radial + tangential - points).max(-1) <= _SOLVED)
            if not lost.any():
                return guess
            guess = (points - tangential) / radial
    raise ValueError(f"the lens draws no direction at {int(lost.sum())} of the points")


def _terms(points: np.ndarray, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factor [..., 1] and the shift [..., 2] of each point."""
    k1, k2, p1, p2, k3 = coefficients
    x, y = points[..., 0], points[..., 1]
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    right = 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
    down = p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y
    return radial[..., None], np.stack([right, down], -1)
