"""Range images to points of the frame's vehicle system, and values of points back to the cells they came from.

The conversion is that of Waymo's own tools (waymo_open_dataset.utils.range_image_utils), in float64 throughout: poses
hold kilometres, of which float32 would lose millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from core.datasets.waymo.frame import LaserCalibration, RangeImage
from core.errors import UserError
from core.geometry import first_fault, invert

__all__ = ["CellPoints", "Motion", "azimuths", "cells_of", "inclinations", "points_of", "to_cells"]

_FARTHEST = 1000.0  # m; the scanners reach 75
_LONGEST_WAY = 30.0  # m that a vehicle may drive between a pixel and the middle of its frame, 0.1 s
_CURE = "Download the segment again"


@dataclass(frozen=True)
class Motion:
    """Where the vehicle was while a range image was measured.

    Attributes:
        pixel_pose: f32 [H, W, 6], roll, pitch, yaw (rad), x, y, z (m), vehicle -> world, of each pixel.
        pose: f64 [4, 4], vehicle -> world, of the frame.
    """

    pixel_pose: np.ndarray
    pose: np.ndarray


@dataclass(frozen=True)
class CellPoints:
    """The points of one lidar: the cells with a return, row by row, those of the first range image first.

    Attributes:
        xyz: f32 [N, 3] m, vehicle system of the frame.
        values: f32 [N, 4], as :attr:`RangeImage.values`. labels: i32 [N, 2], instance and class, or None.
        number: u8 [N], 1 = first return, 2 = second. row, column: i16 [N].
    """

    xyz: np.ndarray
    values: np.ndarray
    labels: np.ndarray | None
    number: np.ndarray
    row: np.ndarray
    column: np.ndarray

    def __len__(self) -> int:
        return len(self.xyz)


def inclinations(calibration: LaserCalibration, height: int) -> np.ndarray:
    """Elevation of each row of a range image, f64 [H] rad in the lidar's frame; row 0 is the highest beam.

    Raises:
        UserError: the calibration lists another number of beams.
    """
    listed = calibration.inclinations
    if listed is None:
        low, high = calibration.limits
        listed = (np.arange(height) + 0.5) / height * (high - low) + low
    if len(listed) != height:
        raise UserError(
            f"the range image has {height} rows, but the calibration lists {len(listed)} beams",
            cure=_CURE,
        )
    return listed[::-1].astype(np.float64)


def azimuths(calibration: LaserCalibration, width: int) -> np.ndarray:
    """Azimuth of each column of a range image, f64 [W] rad in the lidar's frame, falling by a whole turn.

    The middle of the image looks along the vehicle's x axis, wherever the lidar's own points.
    """
    share = (width - np.arange(width) - 0.5) / width
    return (2 * share - 1) * np.pi - _yaw(calibration)


def points_of(
    images: Sequence[RangeImage], calibration: LaserCalibration, motion: Motion | None = None
) -> CellPoints:
    """The points of a lidar's range images, one image per return.

    Args:
        images: of one shape. motion: while they were measured, None = the vehicle stood.

    Raises:
        UserError: shapes differ, a point has values that are no numbers or that no scanner writes, or the vehicle was
            elsewhere.
    """
    height, width = _shape_of(images, motion)
    beams = np.stack(_sine_cosine(inclinations(calibration, height)), 1)
    columns = np.stack(_sine_cosine(azimuths(calibration, width)), 1)
    parts = []
    for number, image in enumerate(images, 1):
        row, column = np.nonzero(image.values[:, :, 0] > 0)
        values = image.values[row, column]
        _check_values(values, image.values)
        polar = np.column_stack([values[:, 0], beams[row], columns[column]])
        parts.append(
            CellPoints(
                xyz=_placed(polar, calibration.extrinsic, motion, (row, column)),
                values=values,
                labels=None if image.labels is None else image.labels[row, column],
                number=np.full(len(row), number, np.uint8),
                row=row.astype(np.int16),
                column=column.astype(np.int16),
            )
        )
    return _joined(parts)


def to_cells(
    values: np.ndarray,
    number: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    shape: tuple[int, int],
    returns: int = 2,
) -> np.ndarray:
    """Put values of points back into their range images.

    Args:
        values: [N], one per point. number, row, column: [N], as of :class:`CellPoints`.
        shape: (rows, columns) of an image. returns: number of images.

    Returns:
        of the values' type, [returns, H, W]; 0 in cells without a point.
    """
    images = np.zeros((returns, *shape), values.dtype)
    images[number.astype(np.int64) - 1, row, column] = values
    return images


def cells_of(
    xyz: np.ndarray, calibration: LaserCalibration, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The cells that points would fall into if the vehicle had stood: the inverse of the conversion.

    Args:
        xyz: [N, 3] m, vehicle system. shape: (rows, columns) of the range image.

    Returns:
        row i64 [N], that of the nearest beam; column f64 [N] in -0.5 .. W - 0.5, whole numbers in the middle of a
        column.
    """
    height, width = shape
    seen = xyz.astype(np.float64) - calibration.extrinsic[:3, 3]
    x, y, z = (seen @ calibration.extrinsic[:3, :3]).T
    beams = inclinations(calibration, height)[::-1]
    elevation = np.arctan2(z, np.hypot(x, y))
    above = np.searchsorted((beams[1:] + beams[:-1]) / 2, elevation)
    turn = (np.arctan2(y, x) + _yaw(calibration) + np.pi) % (2 * np.pi)
    return height - 1 - above, width - 0.5 - width * turn / (2 * np.pi)


def _yaw(calibration: LaserCalibration) -> float:
    """Rad, of the lidar in the vehicle."""
    rotation = calibration.extrinsic
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def _sine_cosine(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.sin(angles), np.cos(angles)


def _shape_of(images: Sequence[RangeImage], motion: Motion | None) -> tuple[int, int]:
    """(rows, columns) that all images, labels and poses of a lidar share."""
    height, width = images[0].values.shape[:2]
    wanted = {"range image": 4}
    found = [("range image", image.values) for image in images]
    for image in images:
        if image.labels is not None:
            found.append(("image of labels", image.labels))
    if motion is not None:
        found.append(("image of poses", motion.pixel_pose))
    wanted |= {"image of labels": 2, "image of poses": 6}
    for name, array in found:
        expected = (height, width, wanted[name])
        if array.shape != expected:
            what = f"the {name} has the shape {array.shape}; expected {expected}"
            raise UserError(what, cure=_CURE)
    return height, width


def _check_values(values: np.ndarray, image: np.ndarray) -> None:
    """Refuse what no scanner writes; a range that is no number would be taken for a cell without a return."""
    sound = np.isfinite(values).all(1) & (values[:, 0] <= _FARTHEST)
    wrong = int((~sound).sum()) + int(np.isnan(image[:, :, 0]).sum())
    if wrong:
        raise UserError(
            f"{wrong} cells of the range image hold NaN or infinite values, or ranges beyond {_FARTHEST:g} m",
            cure=_CURE,
        )


def _placed(
    polar: np.ndarray,
    extrinsic: np.ndarray,
    motion: Motion | None,
    cells: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """F32 [N, 3] m in the vehicle system.

    Args:
        polar: f64 [N, 5], range, sine and cosine of the elevation, sine and cosine of the azimuth.
        cells: row and column of each point.
    """
    fault = first_fault(extrinsic[None])
    if fault is not None:
        raise UserError(f"the lidar's extrinsic {fault[1]}", cure=_CURE)
    upper = np.ascontiguousarray(extrinsic[:3], np.float64)
    if motion is None:
        return _still(polar, upper)
    poses = motion.pixel_pose[cells].astype(np.float64)
    away = np.abs(poses[:, 3:] - motion.pose[:3, 3]).max(initial=0)
    if not away <= _LONGEST_WAY:
        raise UserError(
            f"poses of pixels lie {away:.0f} m from that of their frame, farther than a vehicle drives in 0.1 s",
            cure=_CURE,
        )
    return _moving(polar, upper, poses, np.ascontiguousarray(invert(motion.pose)[:3]))


def _joined(parts: Sequence[CellPoints]) -> CellPoints:
    labels = [part.labels for part in parts]
    known = [part for part in labels if part is not None]
    if known and len(known) < len(parts):
        raise UserError("one return of the frame has labels, the other has none", cure=_CURE)
    return CellPoints(
        xyz=np.concatenate([part.xyz for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        labels=np.concatenate(known) if known else None,
        number=np.concatenate([part.number for part in parts]),
        row=np.concatenate([part.row for part in parts]),
        column=np.concatenate([part.column for part in parts]),
    )


@numba.njit(cache=True, nogil=True)
def _in_vehicle(polar: np.ndarray, extrinsic: np.ndarray) -> tuple[float, float, float]:
    """One point through the lidar's own frame."""
    flat = polar[0] * polar[2]
    x, y, z = flat * polar[4], flat * polar[3], polar[0] * polar[1]
    a, b, c = extrinsic[0], extrinsic[1], extrinsic[2]
    return (
        a[0] * x + a[1] * y + a[2] * z + a[3],
        b[0] * x + b[1] * y + b[2] * z + b[3],
        c[0] * x + c[1] * y + c[2] * z + c[3],
    )


@numba.njit("f4[:,::1](f8[:,::1], f8[:,::1])", cache=True, nogil=True)
def _still(polar: np.ndarray, extrinsic: np.ndarray) -> np.ndarray:
    points = np.empty((polar.shape[0], 3), np.float32)
    for i in range(polar.shape[0]):
        points[i] = _in_vehicle(polar[i], extrinsic)
    return points


@numba.njit("f4[:,::1](f8[:,::1], f8[:,::1], f8[:,::1], f8[:,::1])", cache=True, nogil=True)
def _moving(
    polar: np.ndarray, extrinsic: np.ndarray, poses: np.ndarray, vehicle_from_world: np.ndarray
) -> np.ndarray:
    """Through the world by the pose of each pixel, R = Rz(yaw) Ry(pitch) Rx(roll)."""
    points = np.empty((polar.shape[0], 3), np.float32)
    for i in range(polar.shape[0]):
        x, y, z = _in_vehicle(polar[i], extrinsic)
        sr, cr = np.sin(poses[i, 0]), np.cos(poses[i, 0])
        sp, cp = np.sin(poses[i, 1]), np.cos(poses[i, 1])
        sy, cy = np.sin(poses[i, 2]), np.cos(poses[i, 2])
        across = sr * y + cr * z  # z after the roll
        y, z = cr * y - sr * z, cp * across - sp * x
        x = cp * x + sp * across
        world_x = cy * x - sy * y + poses[i, 3]
        world_y = sy * x + cy * y + poses[i, 4]
        world_z = z + poses[i, 5]
        for k in range(3):
            row = vehicle_from_world[k]
            points[i, k] = row[0] * world_x + row[1] * world_y + row[2] * world_z + row[3]
    return points
