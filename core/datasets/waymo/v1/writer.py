"""Our frames -> segments of v1, as Waymo's own tools read them: one Frame message per record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from core.datasets.waymo.frame import (
    CAMERAS,
    LASERS,
    TOP,
    CameraCalibration,
    CameraImage,
    Context,
    Frame,
    LaserCalibration,
    RangeImage,
)
from core.datasets.waymo.v1.tfrecord import write_record
from core.datasets.waymo.wire.fields import (
    CameraCalibrationField,
    CameraImageField,
    ContextField,
    FrameField,
    LaserCalibrationField,
    LaserField,
    RangeImageField,
    StatsField,
    TransformField,
)
from core.datasets.waymo.wire.matrices import encode_matrix
from core.datasets.waymo.wire.writer import Writer
from core.io import atomic_path

__all__ = ["encode_frame", "segment_file", "write_segment"]

_LASER_NUMBERS = {name: number for number, name in LASERS.items()}
_CAMERA_NUMBERS = {name: number for number, name in CAMERAS.items()}


def segment_file(name: str) -> str:
    """Name a segment's file as Waymo does."""
    return f"segment-{name}_with_camera_labels.tfrecord"


def write_segment(
    path: Path, context: Context, frames: Iterable[tuple[Frame, Mapping[str, CameraImage]]]
) -> None:
    """Write a segment, frame by frame as they come; on failure nothing is left.

    Args:
        path: the file; :func:`segment_file` gives its name. frames: by rising timestamp, each with its images by
            camera.

    Raises:
        UserError: the file cannot be written.
        ValueError: a frame is of another segment, or no later than the one before.
    """
    latest = 0
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        for frame, images in frames:
            if frame.timestamp <= latest:
                raise ValueError(f"timestamp {frame.timestamp} after {latest} in {path.name}")
            latest = frame.timestamp
            write_record(stream, encode_frame(context, frame, images))


def encode_frame(context: Context, frame: Frame, images: Mapping[str, CameraImage]) -> bytes:
    """Serialise a Frame message.

    Raises:
        ValueError: the frame is of another segment.
    """
    if frame.context != context.name:
        raise ValueError(f"a frame of {frame.context} in segment {context.name}")
    message = Writer().part(FrameField.CONTEXT, _context(context))
    message.integer(FrameField.TIMESTAMP, frame.timestamp)
    message.part(FrameField.POSE, _transform(frame.pose))
    for name in sorted(images, key=_CAMERA_NUMBERS.__getitem__):
        message.part(FrameField.IMAGES, _image(name, images[name]))
    for name in sorted(frame.returns, key=_LASER_NUMBERS.__getitem__):
        message.part(FrameField.LASERS, _laser(name, frame))
    return message.tobytes()


def _context(context: Context) -> Writer:
    message = Writer().text(ContextField.NAME, context.name)
    for name in sorted(context.cameras, key=_CAMERA_NUMBERS.__getitem__):
        message.part(ContextField.CAMERAS, _camera(name, context.cameras[name]))
    for name in sorted(context.lasers, key=_LASER_NUMBERS.__getitem__):
        message.part(ContextField.LASERS, _calibration(name, context.lasers[name]))
    stats = Writer()
    for number in StatsField:
        text = context.stats.get(number.name.lower())
        if text:
            stats.text(number, text)
    return message.part(ContextField.STATS, stats)


def _transform(matrix: np.ndarray) -> Writer:
    return Writer().doubles(TransformField.MATRIX, matrix)


def _calibration(name: str, laser: LaserCalibration) -> Writer:
    field = LaserCalibrationField
    message = Writer().integer(field.NAME, _LASER_NUMBERS[name])
    if laser.inclinations is not None:
        message.doubles(field.INCLINATIONS, laser.inclinations)
    lowest, highest = laser.limits
    message.double(field.LOWEST, lowest).double(field.HIGHEST, highest)
    return message.part(field.EXTRINSIC, _transform(laser.extrinsic))


def _camera(name: str, camera: CameraCalibration) -> Writer:
    field = CameraCalibrationField
    (f_u, _, c_u), (_, f_v, c_v) = camera.matrix[:2]
    message = Writer().integer(field.NAME, _CAMERA_NUMBERS[name])
    message.doubles(field.INTRINSIC, np.array([f_u, f_v, c_u, c_v, *camera.distortion]))
    message.part(field.EXTRINSIC, _transform(camera.extrinsic))
    message.integer(field.WIDTH, camera.size[0]).integer(field.HEIGHT, camera.size[1])
    return message.integer(field.SHUTTER, camera.shutter)


def _image(name: str, image: CameraImage) -> Writer:
    message = Writer().integer(CameraImageField.NAME, _CAMERA_NUMBERS[name])
    message.content(CameraImageField.IMAGE, image.content)
    return message.part(CameraImageField.POSE, _transform(image.pose))


def _laser(name: str, frame: Frame) -> Writer:
    message = Writer().integer(LaserField.NAME, _LASER_NUMBERS[name])
    for number, image in zip((LaserField.RETURN_1, LaserField.RETURN_2), frame.returns[name]):
        has_pose = name == TOP and number == LaserField.RETURN_1
        message.part(number, _range_image(image, frame.pixel_pose if has_pose else None))
    return message


def _range_image(image: RangeImage, pixel_pose: np.ndarray | None) -> Writer:
    message = Writer().content(RangeImageField.VALUES, encode_matrix(image.values))
    if pixel_pose is not None:
        message.content(RangeImageField.PIXEL_POSE, encode_matrix(pixel_pose))
    if image.labels is not None:
        message.content(RangeImageField.LABELS, encode_matrix(image.labels))
    return message
