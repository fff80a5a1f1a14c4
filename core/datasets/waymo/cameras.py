"""Waymo's five cameras as pinhole cameras: images are undistorted when they are decoded.

The chain that leads a point into an image is vehicle -> world (pose of the frame) -> vehicle when the image was taken
-> camera, whose x axis looks forward -> z forward. The rolling shutter is left out: an image has one pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from core.contracts import Camera
from core.datasets.images import parse_image
from core.datasets.waymo.frame import CameraCalibration, CameraImage
from core.errors import UserError
from core.geometry import chain, first_fault, invert, projection, rigid

__all__ = ["camera_of", "undistorted"]

# x right, y down, z forward <- x forward, y left, z up
_Z_FORWARD = rigid(np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.zeros(3))


def camera_of(
    name: str, image: CameraImage, calibration: CameraCalibration, pose: np.ndarray, where: str
) -> Camera:
    """The camera of one frame; its image is not decoded.

    Args:
        pose: f64 [4, 4], vehicle -> world, of the frame whose points are projected. where: the frame, for errors.

    Raises:
        UserError: the calibration or the image's pose is no rigid transform.
    """
    for what, matrix in (("extrinsic", calibration.extrinsic), ("pose of the image", image.pose)):
        fault = first_fault(matrix[None])
        if fault is not None:
            raise UserError(f"camera {name}: the {what} {fault[1]}", where=where)
    camera_from_vehicle = chain(_Z_FORWARD, invert(calibration.extrinsic))
    camera_from_frame = chain(camera_from_vehicle, invert(image.pose), pose)
    matrix = projection(calibration.matrix, camera_from_frame)
    load = _Undistorted(image.content, calibration, f"{where}, camera {name}")
    return Camera(name, calibration.size, matrix, load)


@dataclass(frozen=True, eq=False)
class _Undistorted:
    """Decodes an image when it is called, and takes the lens out of it."""

    content: bytes
    calibration: CameraCalibration
    where: str

    def __call__(self) -> np.ndarray:
        image = parse_image(self.content, self.where, self.calibration.size)
        return undistorted(image, self.calibration)


def undistorted(image: np.ndarray, calibration: CameraCalibration) -> np.ndarray:
    """The image that a pinhole camera of the same matrix would have taken, interpolated bilinearly.

    Args:
        image: u8 [H, W, 3].

    Returns:
        u8 [H, W, 3]; black where the lens has drawn nothing.
    """
    if not calibration.distortion.any():
        return image
    matrix = np.ascontiguousarray(calibration.matrix, np.float64)
    distortion = np.ascontiguousarray(calibration.distortion, np.float64)
    return _resampled(np.ascontiguousarray(image), matrix, distortion)


_Image = numba.types.Array(numba.types.uint8, 3, "C", readonly=True)  # decoded ones are; takes any


@numba.njit(
    numba.types.uint8[:, :, ::1](_Image, numba.types.float64[:, ::1], numba.types.float64[::1]),
    cache=True,
    nogil=True,
)
def _resampled(image: np.ndarray, matrix: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """Look up each pixel where the lens has drawn it, see :func:`core.datasets.waymo.lens.distort`.

    A table of these places would take 20 MB for each camera of each vehicle, and hardly be read faster.
    """
    height, width, channels = image.shape
    result = np.zeros((height, width, channels), np.uint8)
    k1, k2, p1, p2, k3 = distortion
    for row in range(height):
        y = (row - matrix[1, 2]) / matrix[1, 1]
        for column in range(width):
            x = (column - matrix[0, 2]) / matrix[0, 0]
            r2 = x * x + y * y
            radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
            u = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
            v = y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y
            u = u * matrix[0, 0] + matrix[0, 2]
            v = v * matrix[1, 1] + matrix[1, 2]
            if not (0 <= u <= width - 1 and 0 <= v <= height - 1):
                continue
            left, top = (
                min(np.int32(u), np.int32(width - 2)),
                min(np.int32(v), np.int32(height - 2)),
            )
            right, below = np.float32(u - left), np.float32(v - top)
            both = right * below
            alone = np.float32(1) - right - below + both
            for k in range(channels):
                value = image[top, left, k] * alone + image[top + 1, left + 1, k] * both
                value += image[top, left + 1, k] * (right - both)
                value += image[top + 1, left, k] * (below - both)
                result[row, column, k] = np.uint8(value + np.float32(0.5))
    return result
