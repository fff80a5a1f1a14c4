"""``calibration.yaml`` of a folder of scans: where each camera sees the LiDAR's points.

::

    cameras:
      front:                                # images/front/<token>.png or .jpg (the scan's path without suffix)
        size: [1600, 900]                   # px, width and height of the images
        projection:                         # 3 x 4: LiDAR point (x, y, z, 1) in m -> px (u * depth, v * depth, depth)
          - [1266.4, 816.3, 0.0, -408.15]   # here a camera that looks along y, 0.5 m in front of the LiDAR
          - [0.0, 491.5, -1266.4, -625.67]
          - [0.0, 1.0, 0.0, -0.5]
        min_depth: 1.0                      # m; nearer points are never visible (default 1.0)

``projection`` is intrinsics [3, 3] times the upper three rows of the rigid transform LiDAR -> camera. Images are
undistorted and taken at the time of the scan.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field, field_validator, model_validator

from core.config import Config, Section, read_yaml
from core.contracts import Camera
from core.datasets.images import find_image, image_size, open_image
from core.errors import UserError
from core.geometry import camera_fault
from core.paths import check_name

__all__ = [
    "CALIBRATION",
    "CameraCalibration",
    "image_of",
    "open_camera",
    "read_calibration",
]

CALIBRATION = "calibration.yaml"
_FARTHEST = 100.0  # m, of a camera from the scanner
Row = tuple[float, float, float, float]


class CameraCalibration(Section):
    """One camera of the file."""

    size: tuple[int, int] = Field(description="px, [width, height] of the images")
    projection: tuple[Row, Row, Row] = Field(
        description="3 x 4, from homogeneous LiDAR coordinates (m) to pixels times depth"
    )
    min_depth: float = Field(1.0, ge=0, description="m, points nearer than this are not seen")

    @field_validator("size")
    @classmethod
    def _positive(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 2:
            raise ValueError("width and height are at least 2 px")
        return value

    @model_validator(mode="after")
    def _is_camera(self) -> CameraCalibration:
        fault = projection_fault(np.array(self.projection, np.float64), self.size)
        if fault is not None:
            raise ValueError(f"projection {fault}")
        return self


class _Calibration(Section):
    cameras: dict[str, CameraCalibration] = Field(min_length=1)


def read_calibration(path: Path) -> dict[str, CameraCalibration]:
    """Read the cameras by name, in the file's order.

    Raises:
        UserError: the file is no YAML, a key is missing, unknown or of another shape, or a camera's name is none of a
            folder.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise UserError("expected the key 'cameras' with one entry per camera", where=str(path))
    cameras = Config(tree=tree, source=str(path)).parse(_Calibration).cameras
    for name in cameras:
        check_name(name, str(path), folders=False)
    return cameras


def projection_fault(projection: np.ndarray, size: tuple[int, int]) -> str | None:
    """Why a matrix is no pinhole camera beside the scanner, None = it is one.

    Args:
        projection: f64 [3, 4], intrinsics times the upper three rows of a rigid transform LiDAR -> camera.
        size: (width, height) px of the images.
    """
    fault = camera_fault(projection)
    if fault is not None:
        return fault
    left = projection[:, :3]
    u, v = left[:2] @ left[2]
    if not (0 < u < size[0] and 0 < v < size[1]):
        return f"has its principal point at ({u:.0f}, {v:.0f}) px, outside an image of {size[0]} x {size[1]} px"
    away = float(np.linalg.norm(np.linalg.solve(left, projection[:, 3])))
    if away > _FARTHEST:
        return f"puts the camera {away:.0f} m from the scanner"
    return None


def image_of(root: Path, camera: str, token: str) -> Path:
    """Find the image of a scan: ``images/<camera>/<token>.png``, or with another suffix where that one exists."""
    return find_image(root / "images" / camera, token)


def open_camera(name: str, calibration: CameraCalibration, image: Path) -> Camera:
    """Open the camera of one scan; of its image only the header is read.

    Raises:
        UserError: the image is missing, damaged, or of another size than calibrated.
    """
    cure = f"Give every scan an image of every camera of {CALIBRATION}, or run without images (--data.images false)"
    found = image_size(image, cure)
    if found != calibration.size:
        width, height = calibration.size
        raise UserError(
            f"this image has {found[0]} x {found[1]} px, but {CALIBRATION} says {width} x {height}",
            where=str(image),
            cure="The projection holds for one size: calibrate for the images' own, or do not resize them",
        )
    return Camera(
        name,
        calibration.size,
        np.array(calibration.projection, np.float64),
        open_image(image, calibration.size),
        calibration.min_depth,
    )
