"""What the frames of a Waymo segment share, from its Parquet tables (v2): calibrations and statistics."""

from __future__ import annotations

import numpy as np

from core.datasets.poses import check_poses
from core.datasets.waymo.frame import CAMERAS, LASERS, CameraCalibration, LaserCalibration
from core.datasets.waymo.v2 import components as columns
from core.datasets.waymo.v2.casts import CURE, Place
from core.datasets.waymo.v2.tables import Table

__all__ = ["read_cameras", "read_lasers", "read_statistics"]


def read_lasers(table: Table) -> dict[str, LaserCalibration]:
    """Read the table ``lidar_calibration``.

    Raises:
        UserError: a column is missing or damaged, an extrinsic is no rigid transform, or inclinations do not rise.
    """
    prefix = columns.LIDAR_CALIBRATION
    extrinsics = _extrinsics(table, prefix)
    limits = [table.floats(f"{prefix}.beam_inclination.{end}") for end in ("min", "max")]
    inclinations = table.lists(f"{prefix}.beam_inclination.values")
    lasers = {}
    for row, number in enumerate(table.sensors.tolist()):
        angles = inclinations[row]
        if angles is not None and (np.diff(angles) <= 0).any():
            place = Place(table.path, f"{prefix}.beam_inclination.values")
            raise place.error(f"the angles of row {row} do not rise")
        lasers[LASERS[number]] = LaserCalibration(
            extrinsic=extrinsics[row],
            inclinations=None if angles is None or not len(angles) else angles,
            limits=(float(limits[0][row]), float(limits[1][row])),
        )
    return lasers


def read_cameras(table: Table) -> dict[str, CameraCalibration]:
    """Read the table ``camera_calibration``.

    Raises:
        UserError: a column is missing or damaged, or an extrinsic is no rigid transform.
    """
    prefix = columns.CAMERA_CALIBRATION
    extrinsics = _extrinsics(table, prefix)
    lens = np.stack([table.floats(f"{prefix}.intrinsic.{name}") for name in columns.INTRINSICS], 1)
    sizes = np.stack([table.integers(f"{prefix}.{side}") for side in ("width", "height")], 1)
    shutters = table.integers(f"{prefix}.rolling_shutter_direction")
    cameras = {}
    for row, number in enumerate(table.sensors.tolist()):
        focal_u, focal_v, centre_u, centre_v = lens[row, :4]
        matrix = np.array([[focal_u, 0, centre_u], [0, focal_v, centre_v], [0, 0, 1]])
        width, height = sizes[row].tolist()
        cameras[CAMERAS[number]] = CameraCalibration(
            matrix, lens[row, 4:], extrinsics[row], (width, height), int(shutters[row])
        )
    return cameras


def read_statistics(table: Table) -> dict[str, str]:
    """Read time of day, place and weather from the first frame of the table ``stats``; they are the segment's.

    Raises:
        UserError: a column is missing or damaged.
    """
    stats: dict[str, str] = {}
    if not len(table.timestamps):
        return stats
    first = int(np.argmin(table.timestamps))
    for name in columns.STATISTICS:
        value = table.text(f"{columns.STATS}.{name}", first)
        if value is not None:
            stats[name] = value
    return stats


def _extrinsics(table: Table, prefix: str) -> np.ndarray:
    """Sensor -> vehicle, f64 [N, 4, 4]."""
    matrices = table.transforms(f"{prefix}.extrinsic.transform")
    check_poses(matrices, table.path, "row {}", CURE)
    return matrices
