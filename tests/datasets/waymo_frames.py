"""A small Waymo segment as dataclasses, and the same frame as the official protobuf library builds it."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
from PIL import Image
from waymo_protos import message

from core.datasets.waymo.frame import (
    CAMERAS,
    LASERS,
    CameraCalibration,
    CameraImage,
    Context,
    Frame,
    LaserCalibration,
    RangeImage,
)

NAME = "10023947602400723454_1120_000_1140_000"
ROWS, COLUMNS = 6, 10  # of TOP
LASER_NUMBERS = {name: number for number, name in LASERS.items()}
CAMERA_NUMBERS = {name: number for number, name in CAMERAS.items()}


def pose(yaw: float, *place: float) -> np.ndarray:
    found = np.eye(4)
    found[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    found[:3, 3] = place
    return found


def context(name: str = NAME) -> Context:
    lasers = {
        "TOP": LaserCalibration(
            pose(2.6, 1.43, 0, 2.184), np.linspace(-0.3, 0.04, ROWS), (-0.31, 0.045)
        ),
        "REAR": LaserCalibration(pose(3.1, -1, 0, 0.5), None, (-1.5, 0.5)),
    }
    matrix = np.array([[2044.5, 0, 949.6], [0, 2044.25, 633.2], [0, 0, 1]])
    distortion = np.array([0.04, -0.33, 0.001, -0.0015, 0.0])
    cameras = {
        "FRONT": CameraCalibration(
            matrix, distortion, pose(0, 1.539, -0.024, 2.115), (1920, 1280), 2
        ),
        "SIDE_LEFT": CameraCalibration(
            matrix, distortion, pose(1.57, 1.4, 0.1, 2.1), (1920, 886), 4
        ),
    }
    return Context(
        name, lasers, cameras, {"time_of_day": "Day", "location": "location_sf", "weather": "sunny"}
    )


def frame(number: int = 0, *, labelled: bool = True, name: str = NAME) -> Frame:
    rng = np.random.default_rng(number)

    def returned(rows: int, columns: int, top: bool) -> RangeImage:
        values = rng.uniform(1, 75, (rows, columns, 4)).astype(np.float32)
        values[rng.random((rows, columns)) < 0.3, 0] = -1
        labels = rng.integers(0, 23, (rows, columns, 2)).astype(np.int32)
        labels[..., 0] += rng.integers(0, 2) * 1000
        return RangeImage(values, labels if top and labelled else None)

    returns = {
        "TOP": (returned(ROWS, COLUMNS, True), returned(ROWS, COLUMNS, True)),
        "REAR": (returned(3, 5, False),),
    }
    pixel_pose = rng.normal(size=(ROWS, COLUMNS, 6)).astype(np.float32)
    vehicle = pose(0.1 * number, -25211.258 + number, 42391.08, -160.6)
    return Frame(name, 1553735853462203 + 100_000 * number, vehicle, returns, pixel_pose)


def images(number: int = 0) -> dict[str, CameraImage]:
    found = {}
    for shift, name in enumerate(("FRONT", "SIDE_LEFT")):
        stream = io.BytesIO()
        Image.new("RGB", (32, 24), (40 * number % 256, 90 * shift, 30)).save(stream, "jpeg")
        found[name] = CameraImage(stream.getvalue(), pose(0.1 * number, number, shift, 0.5))
    return found


# --- the same, by the official library --------------------------------------------------------------------------------
def matrix_blob(values: np.ndarray) -> bytes:
    matrix = message("MatrixFloat" if values.dtype == np.float32 else "MatrixInt32")()
    matrix.data.extend(values.ravel().tolist())
    matrix.shape.dims.extend(values.shape)
    return zlib.compress(matrix.SerializeToString())


def official(context: Context, frame: Frame, images: dict[str, CameraImage]) -> Any:
    """A Frame message of the official library."""
    found = message("Frame")(timestamp_micros=frame.timestamp)
    found.pose.transform.extend(frame.pose.ravel())
    _add_context(found.context, context)
    for name, image in images.items():
        added = found.images.add(name=CAMERA_NUMBERS[name], image=image.content)
        added.pose.transform.extend(image.pose.ravel())
    for name, returns in frame.returns.items():
        laser = found.lasers.add(name=LASER_NUMBERS[name])
        for image, part in zip(returns, (laser.ri_return1, laser.ri_return2)):
            part.range_image_compressed = matrix_blob(image.values)
            if image.labels is not None:
                part.segmentation_label_compressed = matrix_blob(image.labels)
        if name == "TOP":
            laser.ri_return1.range_image_pose_compressed = matrix_blob(frame.pixel_pose)
    return found


def _add_context(found: Any, context: Context) -> None:
    found.name = context.name
    for name, camera in context.cameras.items():
        (f_u, _, c_u), (_, f_v, c_v) = camera.matrix[:2]
        added = found.camera_calibrations.add(
            name=CAMERA_NUMBERS[name], width=camera.size[0], height=camera.size[1]
        )
        added.intrinsic.extend([f_u, f_v, c_u, c_v, *camera.distortion])
        added.extrinsic.transform.extend(camera.extrinsic.ravel())
        added.rolling_shutter_direction = camera.shutter
    for name, laser in context.lasers.items():
        added = found.laser_calibrations.add(name=LASER_NUMBERS[name])
        added.beam_inclinations.extend([] if laser.inclinations is None else laser.inclinations)
        added.beam_inclination_min, added.beam_inclination_max = laser.limits
        added.extrinsic.transform.extend(laser.extrinsic.ravel())
    for key, text in context.stats.items():
        setattr(found.stats, key, text)


def add_what_is_not_read(found: Any) -> None:
    """Fields of real frames that a segmentation reader passes over."""
    for number in range(75):
        label = found.laser_labels.add(type=1 + number % 4, id=f"label {number}")
        label.box.center_x = number / 7
        found.camera_labels.append(bytes(number))
    for laser in found.lasers:
        laser.ri_return1.camera_projection_compressed = b"no zlib at all"
        laser.ri_return1.range_image_flow_compressed = bytes(1000)
    for image in found.images:
        image.velocity.v_x, image.velocity.w_z = 3.5, 0.25
        image.pose_timestamp = image.camera_trigger_time = 1553735853.46
    found.context.stats.laser_object_counts.add(type=1, count=37)
    found.lasers.add()


def in_other_order(found: Any) -> None:
    """Sensors in another order than their numbers, as in real files."""
    for sensors in (
        found.lasers,
        found.images,
        found.context.laser_calibrations,
        found.context.camera_calibrations,
    ):
        sensors.reverse()
