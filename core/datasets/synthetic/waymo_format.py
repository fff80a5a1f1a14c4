"""The world as segments of the Waymo Open Dataset: its frames, whichever of the formats they are written in."""

from __future__ import annotations

import hashlib
import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from core.datasets.synthetic.scene import Scene
from core.datasets.synthetic.spec import WorldSpec
from core.datasets.synthetic.waymo_camera import take
from core.datasets.synthetic.waymo_laser import turn
from core.datasets.synthetic.waymo_rig import DELAYS, TURN, calibrations
from core.datasets.synthetic.world_format import WorldFormat
from core.datasets.waymo.frame import TOP, CameraImage, Context, Frame, RangeImage
from core.datasets.waymo.v1.writer import segment_file, write_segment

__all__ = ["ORIGIN", "RecordWorld", "TableWorld", "WaymoWorld", "gap"]

Recorded = tuple[Frame, dict[str, CameraImage]]
ORIGIN = np.array([2760.0, 3674.0, 22.0])  # m, of the town in the world, as far off as a real drive
_EPOCH = 1_507_315_488_219_118  # µs
_PERIOD = 0.5  # s between labelled frames


def gap(spec: WorldSpec) -> float:
    """Seconds between two frames: one turn or more.

    Labelled frames come at 2 Hz as long as the turns between them have room, which is up to four of them.
    """
    return max(TURN, _PERIOD / (spec.sweeps_per_keyframe + 1))


class WaymoWorld(WorldFormat):
    """Segments with labels on some frames and images on all; of the lidars only the top one."""

    folders = ("training", "validation")
    period = _PERIOD
    most_train = 798
    most_val = 202

    def names(self, spec: WorldSpec) -> list[str]:
        """Made-up names of the official form, the same for the same seed and number."""
        return [_name(spec.seed, index) for index in range(spec.scenes)]

    def frames(self, spec: WorldSpec) -> int:
        """Frames of a segment: the labelled ones, and the others between them."""
        return (spec.keyframes - 1) * (spec.sweeps_per_keyframe + 1) + 1

    def duration(self, spec: WorldSpec) -> float:
        """See `WorldFormat`."""
        return max((self.frames(spec) - 1) * gap(spec), self.period) + TURN

    def record(self, root: Path, spec: WorldSpec, index: int, frame: int) -> Recorded:
        """Record a frame and its images; nothing is written yet."""
        scene = self.scene(spec, index)
        context = calibrations(spec.names[index], spec.image_scale)
        time = frame * gap(spec)
        labelled = frame % (spec.sweeps_per_keyframe + 1) == 0
        rng = np.random.default_rng([spec.seed, index, frame, 0])
        swept = turn(scene, time, context.lasers[TOP], spec.lidar_scale, rng)
        images = [RangeImage(i.values, i.labels if labelled else None) for i in swept.returns]
        recorded = Frame(
            context=context.name,
            timestamp=_EPOCH + index * 1_000_000_000 + round(time * 1e6),
            pose=_in_world(scene.ego_pose(time + TURN / 2)),
            returns={TOP: tuple(images)},
            pixel_pose=_pixel_pose(_in_world(swept.poses), len(images[0].values)),
        )
        return recorded, _images(scene, time, context, [spec.seed, index, frame])

    def gather(self, root: Path, spec: WorldSpec, results: Iterator[Recorded]) -> None:
        """Write the segments, frame by frame."""
        for index, name in enumerate(spec.names):
            split = "training" if index < spec.train_count else "validation"
            frames = itertools.islice(results, self.frames(spec))
            self.write(root / split, calibrations(name, spec.image_scale), frames)

    @abstractmethod
    def write(self, folder: Path, context: Context, frames: Iterable[Recorded]) -> None:
        """Write one segment into a split's folder."""


class RecordWorld(WaymoWorld):
    """Version 1: a file of records per segment."""

    def write(self, folder: Path, context: Context, frames: Iterable[Recorded]) -> None:
        """See `WaymoWorld`."""
        write_segment(folder / segment_file(context.name), context, frames)


class TableWorld(WaymoWorld):
    """Version 2: a table per component and segment."""

    def write(self, folder: Path, context: Context, frames: Iterable[Recorded]) -> None:
        """See `WaymoWorld`."""
        from core.datasets.waymo.v2.writer import write_tables  # pyarrow, for this format alone

        write_tables(folder, context, frames)


def _name(seed: int, index: int) -> str:
    """A context name: 19 digits, and 20 s of a drive."""
    key = hashlib.md5(f"{seed}/{index}".encode(), usedforsecurity=False).hexdigest()
    drive, start = divmod(int(key, 16), 8900)
    return f"{10**18 + drive % (9 * 10**18)}_{start + 1000}_000_{start + 1020}_000"


def _in_world(poses: np.ndarray) -> np.ndarray:
    """Move poses [..., 4, 4] from the town's system to one far from its origin."""
    moved = poses.copy()
    moved[..., :3, 3] += ORIGIN
    return moved


def _pixel_pose(poses: np.ndarray, height: int) -> np.ndarray:
    """The poses f64 [W, 4, 4] of columns as pixels have them: f32 [H, W, 6], roll, pitch, yaw, x, y, z."""
    roll = np.arctan2(poses[:, 2, 1], poses[:, 2, 2])
    pitch = -np.arcsin(poses[:, 2, 0])
    yaw = np.arctan2(poses[:, 1, 0], poses[:, 0, 0])
    columns = np.column_stack([roll, pitch, yaw, poses[:, :3, 3]]).astype(np.float32)
    return np.repeat(columns[None], height, 0)


def _images(scene: Scene, time: float, context: Context, seed: list[int]) -> dict[str, CameraImage]:
    """Take the images of a turn that begins at ``time`` s, each when the lidar sweeps through it."""
    images = {}
    for number, (name, camera) in enumerate(context.cameras.items()):
        now = scene.snapshot(time + DELAYS[name], body=False)
        content = take(now, camera, np.random.default_rng([*seed, 100 + number]))
        images[name] = CameraImage(content, _in_world(now.ego))
    return images
