"""Waymo's Frame message (v1) -> our frame, context and images. Sensors go by name, whatever their order.

Of a frame, only what is asked for is decoded; everything else, images above all, is stepped over by its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.datasets.waymo.frame import (
    CAMERAS,
    LASERS,
    NUM_CLASSES,
    TOP,
    CameraCalibration,
    CameraImage,
    Context,
    Frame,
    LaserCalibration,
    RangeImage,
)
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
from core.datasets.waymo.wire.matrices import decode_matrix
from core.datasets.waymo.wire.message import Malformed, Message
from core.geometry import first_fault

__all__ = ["Head", "decode_context", "decode_frame", "decode_head", "decode_images"]

_CONTEXT_NAME = re.compile(r"[\w.-]{1,120}", re.ASCII)
_INTRINSICS = 9  # f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3
_MOST_ROWS = 4096  # of a range image
_LARGEST = 1 << 15  # px, of an image's side
_STATS = {
    "time_of_day": StatsField.TIME_OF_DAY,
    "location": StatsField.LOCATION,
    "weather": StatsField.WEATHER,
}


@dataclass(frozen=True)
class Head:
    """What an index keeps of a frame.

    Attributes:
        context: name of its segment. timestamp: microseconds. pose: f64 [4, 4], vehicle -> world. labelled: TOP has
            segmentation labels.
    """

    context: str
    timestamp: int
    pose: np.ndarray
    labelled: bool


def decode_head(frame: Message) -> Head:
    """Decode what an index keeps of a Frame message.

    Raises:
        Malformed: it is damaged or no Frame.
    """
    name = frame.part(FrameField.CONTEXT, "Context").text(ContextField.NAME)
    timestamp = frame.integer(FrameField.TIMESTAMP)
    if not _CONTEXT_NAME.fullmatch(name) or timestamp <= 0:
        raise Malformed(f"no frame of a segment: context {name[:60]!a}, timestamp {timestamp}")
    top = _named(frame.parts(FrameField.LASERS, "Laser"), LASERS, (TOP,)).get(TOP)
    labelled = top is not None and _is_labelled(top)
    return Head(name, timestamp, _transform(frame.part(FrameField.POSE, "the pose")), labelled)


def _is_labelled(top: Message) -> bool:
    first = top.part(LaserField.RETURN_1, "the first return of TOP")
    return first.size(RangeImageField.LABELS) > 0


# --- calibrations -----------------------------------------------------------------------------------------------------
def decode_context(frame: Message) -> Context:
    """Decode the context of a Frame message.

    Raises:
        Malformed: it is damaged; an extrinsic is no rigid transform; a calibration has too few numbers.
    """
    context = frame.part(FrameField.CONTEXT, "Context")
    lasers = _named(context.parts(ContextField.LASERS, "LaserCalibration"), LASERS)
    cameras = _named(context.parts(ContextField.CAMERAS, "CameraCalibration"), CAMERAS)
    stats = context.part(ContextField.STATS, "Stats")
    told = {key: stats.text(number) for key, number in _STATS.items()}
    return Context(
        name=context.text(ContextField.NAME),
        lasers={name: _laser_calibration(message) for name, message in lasers.items()},
        cameras={name: _camera_calibration(message) for name, message in cameras.items()},
        stats={key: text for key, text in told.items() if text},
    )


def _laser_calibration(message: Message) -> LaserCalibration:
    field = LaserCalibrationField
    inclinations = message.doubles(field.INCLINATIONS, most=_MOST_ROWS)
    limits = message.double(field.LOWEST), message.double(field.HIGHEST)
    lowest, highest = limits
    if lowest is None or highest is None or not -np.pi <= lowest < highest <= np.pi:
        raise Malformed(f"{message.name} has a field of view from {lowest} to {highest} rad")
    if not (np.diff(inclinations) > 0).all() or not np.isfinite(inclinations).all():
        raise Malformed(f"the beam inclinations of {message.name} do not ascend")
    return LaserCalibration(
        extrinsic=_transform(message.part(field.EXTRINSIC, f"the extrinsic of {message.name}")),
        inclinations=inclinations if len(inclinations) else None,
        limits=(lowest, highest),
    )


def _camera_calibration(message: Message) -> CameraCalibration:
    field = CameraCalibrationField
    intrinsics = message.doubles(field.INTRINSIC, most=_INTRINSICS)
    if len(intrinsics) != _INTRINSICS or not np.isfinite(intrinsics).all():
        raise Malformed(
            f"{message.name} has intrinsics {intrinsics.tolist()}; expected {_INTRINSICS} numbers"
        )
    size = message.integer(field.WIDTH), message.integer(field.HEIGHT)
    if min(size) <= 0 or max(size) > _LARGEST or not (intrinsics[:2] > 0).all():
        raise Malformed(
            f"{message.name} has size {size} and focal lengths {intrinsics[:2].tolist()}"
        )
    f_u, f_v, c_u, c_v = intrinsics[:4]
    return CameraCalibration(
        matrix=np.array([[f_u, 0, c_u], [0, f_v, c_v], [0, 0, 1]]),
        distortion=intrinsics[4:].copy(),
        extrinsic=_transform(message.part(field.EXTRINSIC, f"the extrinsic of {message.name}")),
        size=size,
        shutter=message.integer(field.SHUTTER),
    )


def _transform(message: Message) -> np.ndarray:
    """A Transform, f64 [4, 4]."""
    values = message.doubles(TransformField.MATRIX, most=16)
    if len(values) != 16:
        raise Malformed(f"{message.name} has {len(values)} numbers; expected 16")
    matrix = values.reshape(4, 4)
    fault = first_fault(matrix[None])
    if fault is not None:
        raise Malformed(f"{message.name} {fault[1]}")
    return matrix


def _named(
    messages: Iterable[Message], names: Mapping[int, str], wanted: Sequence[str] | None = None
) -> dict[str, Message]:
    """Messages by the name of their sensor, which is field 1 of each kind; those without one are left out.

    Raises:
        Malformed: a sensor appears twice.
    """
    found: dict[str, Message] = {}
    for message in messages:
        name = names.get(message.integer(1))
        if name is None or (wanted is not None and name not in wanted):
            continue
        if name in found:
            raise Malformed(f"{name} has two messages of type {message.name}")
        message.name = f"{message.name} {name}"
        found[name] = message
    return found


# --- range images -----------------------------------------------------------------------------------------------------
def decode_frame(frame: Message, lasers: Sequence[str], labels: bool) -> Frame:
    """Decode the range images of some lidars of a Frame message.

    Args:
        lasers: names; TOP has to be there when it is asked for. labels: decode them where there are some.

    Raises:
        Malformed: the frame is damaged; TOP has no range image; a point has values that are not finite, or a class that
            does not exist.
    """
    head = decode_head(frame)
    messages = _named(frame.parts(FrameField.LASERS, "Laser"), LASERS, lasers)
    returns = {}
    for name in lasers:
        if name in messages:
            found = _returns(messages[name], name, labels)
            if found:
                returns[name] = found
    if TOP in lasers and TOP not in returns:
        raise Malformed("the frame has no range image of TOP")
    pixel_pose = None
    if TOP in returns:
        pixel_pose = _pixel_pose(messages[TOP], returns[TOP][0].values.shape)
    return Frame(head.context, head.timestamp, head.pose, returns, pixel_pose)


def _returns(laser: Message, name: str, labels: bool) -> tuple[RangeImage, ...]:
    """The range images of a lidar; none where its message is empty."""
    returns: list[RangeImage] = []
    for place, number in (("first", LaserField.RETURN_1), ("second", LaserField.RETURN_2)):
        title = f"the {place} return of {name}"
        message = laser.part(number, title)
        blob = message.content(RangeImageField.VALUES)
        if len(blob) == 0:
            continue
        if len(returns) == 0 and number != LaserField.RETURN_1:
            raise Malformed(f"{name} has a second return without a first")
        shape: tuple[int | None, ...] = returns[0].values.shape if returns else (None, None, 4)
        values = decode_matrix(blob, np.float32, shape, title)
        _check_points(values, title)
        returns.append(RangeImage(values, _labels(message, values.shape) if labels else None))
    return tuple(returns)


def _check_points(values: np.ndarray, title: str) -> None:
    if np.isfinite(values).all():
        return
    unsound = (values[..., 0] > 0) & ~np.isfinite(values).all(-1)
    if unsound.any():
        raise Malformed(f"{unsound.sum()} points of {title} have NaN or infinite values")


def _labels(message: Message, shape: tuple[int, ...]) -> np.ndarray | None:
    blob = message.content(RangeImageField.LABELS)
    if len(blob) == 0:
        return None
    title = f"the labels of {message.name}"
    labels = decode_matrix(blob, np.int32, (*shape[:2], 2), title)
    classes = labels[..., 1]
    if classes.min() < 0 or classes.max() >= NUM_CLASSES:
        what = f"classes from {classes.min()} to {classes.max()}; expected 0 to {NUM_CLASSES - 1}"
        raise Malformed(f"{title} have {what}")
    return labels


def _pixel_pose(top: Message, shape: tuple[int, ...]) -> np.ndarray | None:
    message = top.part(LaserField.RETURN_1, "the first return of TOP")
    blob = message.content(RangeImageField.PIXEL_POSE)
    if len(blob) == 0:
        return None
    pose = decode_matrix(blob, np.float32, (*shape[:2], 6), "the pixel poses of TOP")
    if not np.isfinite(pose).all():
        raise Malformed("the pixel poses of TOP have NaN or infinite values")
    return pose


# --- images -----------------------------------------------------------------------------------------------------------
def decode_images(frame: Message, cameras: Sequence[str]) -> dict[str, CameraImage]:
    """Take the images of some cameras out of a Frame message; those that it lacks are not in the result.

    Raises:
        Malformed: the frame is damaged, or the pose of an image is no rigid transform.
    """
    messages = _named(frame.parts(FrameField.IMAGES, "CameraImage"), CAMERAS, cameras)
    found = {}
    for name in cameras:
        if name in messages and messages[name].size(CameraImageField.IMAGE):
            message = messages[name]
            pose = _transform(message.part(CameraImageField.POSE, f"the pose of image {name}"))
            found[name] = CameraImage(bytes(message.content(CameraImageField.IMAGE)), pose)
    return found
