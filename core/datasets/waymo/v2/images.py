"""What belongs to one frame of a Waymo segment, from its Parquet tables (v2): range images, labels, poses, images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.datasets.poses import check_poses
from core.datasets.waymo.frame import NUM_CLASSES, CameraImage, RangeImage
from core.datasets.waymo.v2 import components as columns
from core.datasets.waymo.v2.casts import CURE, Place
from core.datasets.waymo.v2.tables import Table

__all__ = ["read_camera_images", "read_labels", "read_pixel_pose", "read_returns"]

_JPEG = b"\xff\xd8"


def read_returns(table: Table, row: int | None) -> tuple[RangeImage, ...]:
    """Read a row of the table ``lidar``: one return or two, none where the row or its first return is not there.

    Raises:
        UserError: a column is missing or damaged, a value is not finite, or the two differ in size.
    """
    if row is None:
        return ()
    returns: list[RangeImage] = []
    for name in columns.LIDAR:
        values = table.image(name, row, 4)
        if values is None:
            break
        place = Place(table.path, f"{name}.values")
        if returns:
            _check_size(values, returns[0].values, place)
        returns.append(RangeImage(_floats(values, place), None))
    return tuple(returns)


def read_pixel_pose(table: Table, row: int, like: np.ndarray) -> np.ndarray:
    """Read a row of the table ``lidar_pose``, f32 [H, W, 6].

    Args:
        like: the range image [H, W, 4] whose pixels they are.

    Raises:
        UserError: a column is missing or damaged, there is none, a value is not finite, or the sizes differ.
    """
    place = Place(table.path, f"{columns.PIXEL_POSE}.values")
    values = _there(table.image(columns.PIXEL_POSE, row, 6), row, place)
    _check_size(values, like, place)
    return _floats(values, place)


def read_labels(table: Table, row: int, images: tuple[RangeImage, ...]) -> tuple[RangeImage, ...]:
    """Read a row of the table ``lidar_segmentation`` into the range images that it labels.

    Raises:
        UserError: a column is missing or damaged, a return has no labels, an id is no class, or the sizes differ.
    """
    labelled = []
    for name, image in zip(columns.SEGMENTATION, images):
        place = Place(table.path, f"{name}.values")
        labels = _there(table.image(name, row, 2), row, place)
        _check_size(labels, image.values, place)
        labelled.append(RangeImage(image.values, _labels(labels, place)))
    return tuple(labelled)


def read_camera_images(table: Table, rows: Mapping[str, int]) -> dict[str, CameraImage]:
    """Read rows of the table ``camera_image``, by camera.

    Raises:
        UserError: a column is missing or damaged, there is no JPEG, or a pose is no rigid transform.
    """
    place = Place(table.path, f"{columns.IMAGE}.image")
    images = {}
    contents = table.contents(place.column, list(rows.values()))
    for (name, row), content in zip(rows.items(), contents):
        if content is None or not content.startswith(_JPEG):
            raise place.error(f"row {row} holds no JPEG")
        pose = table.transform(f"{columns.IMAGE}.pose.transform", row)
        check_poses(pose[None], table.path, f"row {row}", CURE)
        images[name] = CameraImage(content, pose)
    return images


def _there(values: np.ndarray | None, row: int, place: Place) -> np.ndarray:
    if values is None:
        raise place.error(f"row {row} is null")
    return values


def _check_size(values: np.ndarray, like: np.ndarray, place: Place) -> None:
    if values.shape[:2] != like.shape[:2]:
        found, expected = (f"{image.shape[0]} x {image.shape[1]}" for image in (values, like))
        raise place.error(f"has {found} pixels; the first range image of the frame has {expected}")


def _floats(values: np.ndarray, place: Place) -> np.ndarray:
    if values.dtype.kind != "f":
        raise place.error(f"holds {values.dtype}; floating-point numbers are expected")
    with np.errstate(over="ignore"):
        numbers = np.asarray(values, np.float32)
    if not np.isfinite(numbers).all():
        raise place.error("holds NaN or infinite values")
    return numbers


def _labels(values: np.ndarray, place: Place) -> np.ndarray:
    """i32 [H, W, 2]; instances are any number, classes those of the benchmark."""
    if values.dtype.kind not in "iu":
        raise place.error(f"holds {values.dtype}; integers are expected")
    labels = values.astype(np.int32)
    if (labels != values).any():
        raise place.error("holds instances of more than 32 bits")
    classes = labels[..., 1]
    if classes.size and not 0 <= classes.min() <= classes.max() < NUM_CLASSES:
        raise place.error(f"holds other classes than 0 to {NUM_CLASSES - 1}")
    return labels
