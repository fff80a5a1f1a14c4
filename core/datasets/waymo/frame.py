"""What a frame of the Waymo Open Dataset holds, whichever of its formats it was read from.

Frames of reference: world; vehicle (x forward, y left, z up); lidar (x along the middle of its range image); camera
(x forward, y left, z up, unlike the usual z forward). Extrinsics lead from sensor to vehicle, poses from vehicle to
world. Sensors go by name: their order in the files is not that of their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = [
    "CAMERAS",
    "FRAME_ROW",
    "LASERS",
    "NUM_CLASSES",
    "TOP",
    "CameraCalibration",
    "CameraImage",
    "Context",
    "Frame",
    "LaserCalibration",
    "RangeImage",
]

LASERS = {1: "TOP", 2: "FRONT", 3: "SIDE_LEFT", 4: "SIDE_RIGHT", 5: "REAR"}  # LaserName.Name
CAMERAS = {  # CameraName.Name
    1: "FRONT",
    2: "FRONT_LEFT",
    3: "FRONT_RIGHT",
    4: "SIDE_LEFT",
    5: "SIDE_RIGHT",
}
TOP = "TOP"  # the only lidar with labels and with a pose per pixel
NUM_CLASSES = 23  # Segmentation.Type, 0 = undefined

# A frame of a segment, as an index keeps it. timestamp: microseconds. start, size: where the frame lies in its file;
# what they count is the format's own matter. labelled: TOP has segmentation labels. pose: vehicle -> world.
FRAME_ROW = np.dtype(
    [
        ("timestamp", "<i8"),
        ("start", "<i8"),
        ("size", "<i8"),
        ("labelled", "?"),
        ("pose", "<f8", (4, 4)),
    ]
)


@dataclass(frozen=True)
class LaserCalibration:
    """One lidar of the vehicle.

    Attributes:
        extrinsic: f64 [4, 4], lidar -> vehicle.
        inclinations: f64 [H] rad, ascending, one per row of the range image; None = evenly between the limits.
        limits: rad, (lowest, highest) edge of the field of view.
    """

    extrinsic: np.ndarray
    inclinations: np.ndarray | None
    limits: tuple[float, float]


@dataclass(frozen=True)
class CameraCalibration:
    """One camera of the vehicle.

    Attributes:
        matrix: f64 [3, 3] px, pinhole intrinsics (f_u, f_v, c_u, c_v) for camera axes x right, y down, z forward.
        distortion: f64 [5], k1, k2, p1, p2, k3 as OpenCV orders them.
        extrinsic: f64 [4, 4], camera (x forward) -> vehicle.
        size: (width, height) px.
        shutter: RollingShutterReadOutDirection: 1 top to bottom, 2 left to right, 3 bottom to top, 4 right to left,
            5 global; 0 = unknown.
    """

    matrix: np.ndarray
    distortion: np.ndarray
    extrinsic: np.ndarray
    size: tuple[int, int]
    shutter: int


@dataclass(frozen=True)
class Context:
    """What all frames of a segment share; lidars and cameras by name.

    Attributes:
        name: of the segment, the benchmark's ``context_name``.
        stats: ``time_of_day``, ``location`` and ``weather``, as far as they are told.
    """

    name: str
    lasers: Mapping[str, LaserCalibration]
    cameras: Mapping[str, CameraCalibration]
    stats: Mapping[str, str]


@dataclass(frozen=True)
class RangeImage:
    """One return of one lidar.

    Attributes:
        values: f32 [H, W, 4], range (m; <= 0: no point), intensity (unbounded), elongation, in a no-label zone (1) or
            not (-1 or 0).
        labels: i32 [H, W, 2], instance and class; None = the frame has none.
    """

    values: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class CameraImage:
    """One camera's image as stored.

    Attributes:
        content: the JPEG's bytes. pose: f64 [4, 4], vehicle -> world when it was taken.
    """

    content: bytes
    pose: np.ndarray


@dataclass(frozen=True)
class Frame:
    """One frame of a segment.

    Attributes:
        context: name of its segment. timestamp: microseconds.
        pose: f64 [4, 4], vehicle -> world; the vehicle frame that points are given in.
        returns: range images of the lidars that were asked for and are there: first return, then, where there is one,
            the second.
        pixel_pose: f32 [H, W, 6] of TOP's pixels, roll, pitch, yaw (rad), x, y, z (m): vehicle -> world when each was
            measured; of both returns.
    """

    context: str
    timestamp: int
    pose: np.ndarray
    returns: Mapping[str, tuple[RangeImage, ...]]
    pixel_pose: np.ndarray | None
