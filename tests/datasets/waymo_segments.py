"""Waymo segments for tests of what stands above the formats: in memory, and tiny ones on disk."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from core.datasets.waymo.frame import (
    FRAME_ROW,
    TOP,
    CameraCalibration,
    CameraImage,
    Context,
    Frame,
    LaserCalibration,
    RangeImage,
)
from core.datasets.waymo.segment import Segment
from core.datasets.waymo.v1.writer import segment_file, write_segment
from core.errors import UserError
from core.geometry import rigid

SHAPE = (4, 12)
FRAMES = 10  # of a segment; every fifth has labels
NAMES = {  # of the segments of each split's folder
    "training": (
        "10000000000000000001_0000_000_0020_000",
        "10000000000000000002_0000_000_0020_000",
    ),
    "validation": ("10000000000000000003_0000_000_0020_000",),
    "testing": ("10000000000000000004_0000_000_0020_000",),
}
HEADINGS = {"FRONT": 0, "FRONT_LEFT": 45, "FRONT_RIGHT": -45, "SIDE_LEFT": 90, "SIDE_RIGHT": -90}


def turned(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Rz(yaw) Ry(pitch) Rx(roll), written out as three products."""
    sr, cr, sp, cp = np.sin(roll), np.cos(roll), np.sin(pitch), np.cos(pitch)
    sy, cy = np.sin(yaw), np.cos(yaw)
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def laser() -> LaserCalibration:
    """A lidar that is turned by 148 degrees, as the real one, and slightly tilted."""
    extrinsic = rigid(turned(0.01, -0.02, np.radians(148.474)), np.array([1.43, 0, 2.184]))
    beams = np.array([-0.3, -0.2, -0.05, 0.04])
    return LaserCalibration(extrinsic, beams, (-0.35, 0.06))


def frame(number: int, context: str, labelled: bool, shape: tuple[int, int] = SHAPE) -> Frame:
    """A frame of a vehicle that drives and turns, far from the origin; some cells are empty."""
    rng = np.random.default_rng(number)
    pose = rigid(turned(0.02, 0.01, 0.3 + number / 10), np.array([-25211.3 + number, 12.5, 33.0]))
    images = []
    for share in (0.8, 0.2):
        values = rng.uniform(1, 60, (*shape, 4)).astype(np.float32)
        values[:, :, 1:3] = rng.uniform(0, 1.5, (*shape, 2))
        values[:, :, 3] = rng.choice([-1, 1], shape)
        values[rng.random(shape) > share] = -1
        labels = None
        if labelled:
            labels = np.stack([rng.integers(0, 9, shape), rng.integers(0, 23, shape)], 2)
            labels = labels.astype(np.int32)
        images.append(RangeImage(values, labels))
    poses = np.empty((*shape, 6), np.float32)
    poses[:, :, :3] = (0.02, 0.01, 0.3 + number / 10) + rng.normal(0, 0.01, (*shape, 3))
    poses[:, :, 3:] = pose[:3, 3] + rng.normal(0, 0.3, (*shape, 3))
    time = 1_500_000_000_000_000 + 100_000 * number
    return Frame(context, time, pose, {TOP: tuple(images)}, poses)


class FakeSegment(Segment):
    """Frames made on demand; every fifth has labels. A file beside it stands for its bytes."""

    format = "v1"

    def __init__(self, path: Path, frames: int = 10, seen: Path | None = None) -> None:
        self.path, self.name, self.count, self.seen = path, path.stem, frames, seen

    @classmethod
    def find(cls, folder: Path) -> dict[str, Segment]:
        return {path.stem: cls(path) for path in sorted(folder.glob("*.fake"))}

    def _frame(self, number: int) -> Frame:
        return frame(number, self.name, labelled=number % 5 == 2)

    def frames(self) -> np.ndarray:
        if self.seen is not None:
            with open(self.seen, "a") as stream:
                stream.write(f"{self.name}\n")
        if self.path.read_bytes() == b"damaged":
            raise UserError("the record is cut short", where=str(self.path))
        rows = np.zeros(self.count, FRAME_ROW)
        for number in range(self.count):
            made = self._frame(number)
            labelled = made.returns[TOP][0].labels is not None
            rows[number] = (made.timestamp, number, 1, labelled, made.pose)
        return rows

    def context(self) -> Context:
        return Context(self.name, {TOP: laser()}, self._cameras(), {})

    def _cameras(self) -> dict[str, CameraCalibration]:
        return {}

    def read(self, row: np.void, lasers=(TOP,), labels: bool = True) -> Frame:
        return self._frame(int(row["start"]))

    def images(self, row: np.void, cameras) -> dict[str, CameraImage]:
        return {}

    def sources(self) -> tuple[Path, ...]:
        return (self.path,)


def cameras() -> dict[str, CameraCalibration]:
    """The five cameras, small, with the lens of a real one."""
    made = {}
    for name, heading in HEADINGS.items():
        height = 22 if name.startswith("SIDE") else 32
        matrix = np.array([[51.1, 0, 23.7], [0, 51.1, height / 2 - 0.3], [0, 0, 1]])
        lens = np.array([0.0404, -0.33, 0.00104, -0.00157, 0])
        place = np.array([1.54, 0.02 * heading / 45, 2.115])
        extrinsic = rigid(turned(0, 0.01, np.radians(heading)), place)
        made[name] = CameraCalibration(matrix, lens, extrinsic, (48, height), 2)
    return made


def image_pose(made: Frame, camera: str) -> np.ndarray:
    """Vehicle -> world when a camera's image was taken: some time after the frame, farther ahead."""
    later = 0.01 * (1 + list(HEADINGS).index(camera))
    return made.pose @ rigid(turned(0, 0, later / 5), np.array([10 * later, 0, 0]))


def images(made: Frame) -> dict[str, CameraImage]:
    """A plain image of each camera, of a colour of its own."""
    taken = {}
    for number, (name, camera) in enumerate(cameras().items()):
        width, height = camera.size
        stream = io.BytesIO()
        colour = (40 * number, 20, 200)
        Image.fromarray(np.full((height, width, 3), colour, np.uint8)).save(
            stream, "JPEG", quality=95
        )
        taken[name] = CameraImage(stream.getvalue(), image_pose(made, name))
    return taken


def context(name: str) -> Context:
    """A segment's calibration."""
    stats = {"time_of_day": "Day", "location": "location_sf", "weather": "sunny"}
    return Context(name, {TOP: laser()}, cameras(), stats)


def frames(name: str, labelled: bool = True) -> Iterator[tuple[Frame, dict[str, CameraImage]]]:
    """The frames of a segment with their images."""
    for number in range(FRAMES):
        made = frame(number, name, labelled and number % 5 == 2)
        yield made, images(made)


def write_v1(root: Path) -> Path:
    """Training, validation and test folders of v1; the test segments have no labels."""
    for folder, names in NAMES.items():
        for name in names:
            made = frames(name, labelled=folder != "testing")
            write_segment(root / folder / segment_file(name), context(name), made)
    return root
