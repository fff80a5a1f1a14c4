"""What a program gives to :class:`core.engine.score.segmenter.Segmenter`: points, images, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core.contracts import Camera, Points
from core.datasets.calibration import projection_fault, read_calibration
from core.datasets.scan_columns import ColumnsConfig, make_points
from core.errors import UserError

__all__ = ["Calibration", "Images", "cameras_of", "table_of", "with_images"]

Calibration = str | Path | Mapping[str, np.ndarray]
Images = Mapping[str, np.ndarray]  # u8 [H, W, 3] RGB by camera


def with_images(
    scans: Iterable[np.ndarray | Points], images: Iterable[Images] | None
) -> Iterator[tuple[np.ndarray | Points, Images | None]]:
    """Each scan with its images.

    Raises:
        UserError: there are more of the one than of the other.
    """
    if images is None:
        for points in scans:
            yield points, None
        return
    fault = UserError(
        "there are images of more or fewer scans than there are scans",
        where="Segmenter, images",
        cure="Give one mapping of images for each scan",
    )
    given = iter(images)
    for points in scans:
        seen = next(given, None)
        if seen is None:
            raise fault
        yield points, seen
    if next(given, None) is not None:
        raise fault


def table_of(points: Any) -> Points:
    """The columns of an array, as those of a scan file: rows without return are marked.

    Args:
        points: numbers [N, 4+]: x, y, z (m), intensity.

    Raises:
        UserError: they are not, or see :func:`core.datasets.scan_columns.make_points`.
    """
    values = np.asarray(points)
    numeric = np.issubdtype(values.dtype, np.number)
    if values.ndim != 2 or values.shape[1] < 4 or not numeric or not len(values):
        raise UserError(
            f"points are {values.dtype} {list(values.shape)}; expected numbers [N, 4 or more], N > 0",
            where="Segmenter.predict",
            cure="One row per point: x, y, z (m), intensity",
        )
    columns = dict(zip(("x", "y", "z", "intensity"), values.T))
    return make_points(columns, ColumnsConfig(), "Segmenter.predict")


def cameras_of(images: Images, calibration: Calibration | None) -> tuple[Camera, ...]:
    """The cameras that have an image, in the calibration's order.

    Raises:
        UserError: images and calibration do not fit together.
    """
    if not images and calibration is not None:
        raise UserError(
            "there is a calibration and no image",
            where="Segmenter.predict, calibration",
            cure="Give images by camera name, or leave the calibration out",
        )
    if not images:
        return ()
    known: dict[str, tuple[np.ndarray, float]] = {}
    sizes: dict[str, tuple[int, int]] = {}  # as calibrated
    if isinstance(calibration, str | Path):
        for name, camera in read_calibration(Path(calibration)).items():
            known[name] = (np.array(camera.projection, np.float64), camera.min_depth)
            sizes[name] = camera.size
    else:
        for name, matrix in (calibration or {}).items():
            known[name] = (np.asarray(matrix, np.float64), 1.0)
    if unknown := [name for name in images if name not in known]:
        raise UserError(
            f"camera {', '.join(unknown)} has an image and no calibration",
            where="Segmenter.predict, calibration",
            cure="Give a calibration.yaml or a [3, 4] matrix for every camera",
        )
    cameras = []
    for name, (matrix, min_depth) in known.items():
        if name not in images:
            continue
        image = np.asarray(images[name])
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UserError(
                f"the image of {name} is {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3]",
                where="Segmenter.predict, images",
                cure="Decode it to RGB",
            )
        if matrix.shape != (3, 4):
            raise UserError(
                f"the calibration of {name} is {list(matrix.shape)}; expected [3, 4]",
                where="Segmenter.predict, calibration",
                cure="Intrinsics [3, 3] times the upper rows of the transform LiDAR -> camera",
            )
        size = (image.shape[1], image.shape[0])
        fault = projection_fault(matrix, size)
        if size != sizes.get(name, size):
            fault = f"is for {sizes[name][0]} x {sizes[name][1]} px, and its image has {size[0]} x {size[1]}"
        if fault is not None:
            raise UserError(
                f"the calibration of {name} {fault}",
                where="Segmenter.predict, calibration",
                cure="Give images in the size that was calibrated, and intrinsics times the transform LiDAR -> camera",
            )
        cameras.append(Camera(name, size, matrix, partial(_given, image), min_depth))
    return tuple(cameras)


def _given(image: np.ndarray) -> np.ndarray:
    return image
