"""A Waymo segment in memory, for tests of what stands above the formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
from core.errors import UserError
from core.geometry import rigid

SHAPE = (4, 12)


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
