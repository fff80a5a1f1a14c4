"""Writes the synthetic world in the SemanticKITTI layout (KITTI odometry's folders and calibration, 10 Hz scans)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from core.datasets.synthetic.classes import KITTI_MOVING, KITTI_STATIC, SPECS
from core.datasets.synthetic.render import expose, render
from core.datasets.synthetic.scene import Scene, Snapshot, rigid
from core.datasets.synthetic.sensors import (
    HDL64,
    KITTI_CAMERA,
    KITTI_IMAGE,
    KITTI_LIDAR,
    KITTI_P,
    scan,
)
from core.datasets.synthetic.spec import WorldSpec
from core.datasets.synthetic.world_format import WorldFormat
from core.io import write_bytes, write_text

__all__ = ["PERIOD", "KittiWorld", "image_camera", "labels_of", "write_scan", "write_sequence"]

PERIOD = 0.1  # s between scans
_TRAIN = ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10")
_VAL = ("08",)


class KittiWorld(WorldFormat):
    """SemanticKITTI: labelled scans at 10 Hz."""

    folders = ("sequences",)
    period = PERIOD
    most_train = len(_TRAIN)
    most_val = len(_VAL)

    def names(self, spec: WorldSpec) -> list[str]:
        """Numbers of the sequences, training first."""
        return [*_TRAIN[: spec.train_count], *_VAL[: spec.val_count]]

    def record(self, root: Path, spec: WorldSpec, index: int, frame: int) -> None:
        """Write a scan's files, with the first one what the sequence has one of."""
        name = spec.names[index]
        scene = self.scene(spec, index)
        if frame == 0:
            write_sequence(root, spec, name, scene)
        write_scan(root, spec, index, name, scene, frame)

    def gather(self, root: Path, spec: WorldSpec, results: Iterator[None]) -> None:
        """Wait for all scans."""
        for _ in results:
            pass


def image_camera(scale: float) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Describe camera 2 of images resized by ``scale``.

    Returns:
        mount (camera -> Velodyne, f64 [4, 4]), intrinsics f64 [3, 3] px, (width, height) px.
    """
    projection = _projection(2, scale)
    matrix = projection[:, :3]
    offset = -np.linalg.solve(matrix, projection[:, 3])
    mount = KITTI_CAMERA @ rigid(np.eye(3), offset)
    width, height = KITTI_IMAGE
    return mount, matrix, (round(width * scale), round(height * scale))


def _projection(camera: int, scale: float) -> np.ndarray:
    """P0..P3 of images resized by ``scale``, f64 [3, 4]."""
    return KITTI_P[camera] * np.array([[scale], [scale], [1.0]])


def labels_of(cls: np.ndarray, thing: np.ndarray, scene: Scene) -> np.ndarray:
    """Encode internal classes ``cls`` [N] and thing numbers ``thing`` [N] as SemanticKITTI does.

    Returns:
        u32 [N], instance << 16 | raw id.
    """
    moving = np.zeros(len(scene.things) + 1, bool)
    instance = np.zeros(len(scene.things) + 1, np.uint32)
    for item in scene.things:
        moving[item.number] = item.moving
        if SPECS[item.cls].kitti_instance:
            instance[item.number] = item.number
    raw = np.where(moving[thing], KITTI_MOVING[cls], KITTI_STATIC[cls]).astype(np.uint32)
    return instance[thing] << np.uint32(16) | raw


def write_scan(
    root: Path, spec: WorldSpec, index: int, name: str, scene: Scene, frame: int
) -> None:
    """Write velodyne, labels and, if there are images, image_2 of scan ``frame`` of sequence ``index``."""
    folder = root / "sequences" / name
    snapshot = scene.snapshot(frame * PERIOD, body=False)
    rng = np.random.default_rng([spec.seed, index, frame, 0])
    sweep = scan(snapshot, KITTI_LIDAR, HDL64, spec.lidar_scale, rng)
    cloud = np.concatenate([sweep.points, sweep.intensity[:, None]], 1).astype(np.float32)
    write_bytes(folder / "velodyne" / f"{frame:06d}.bin", cloud.tobytes())
    labels = labels_of(sweep.cls, sweep.thing, scene)
    write_bytes(folder / "labels" / f"{frame:06d}.label", labels.tobytes())
    if spec.image_scale:
        _write_image(folder / "image_2" / f"{frame:06d}.png", spec, index, snapshot, frame)


def _write_image(path: Path, spec: WorldSpec, index: int, snapshot: Snapshot, frame: int) -> None:
    mount, matrix, size = image_camera(spec.image_scale)
    pose = snapshot.ego @ KITTI_LIDAR @ mount
    radiance, _, _ = render(snapshot, pose, matrix, size)
    rng = np.random.default_rng([spec.seed, index, frame, 100])
    image = expose(radiance, rng)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=4)
    write_bytes(path, stream.getvalue())


def write_sequence(root: Path, spec: WorldSpec, name: str, scene: Scene) -> None:
    """Write calib.txt, poses.txt (left camera, relative to the first scan) and times.txt of a sequence."""
    folder = root / "sequences" / name
    to_camera = np.linalg.inv(KITTI_CAMERA)
    scale = spec.image_scale or 1.0
    lines = [f"P{k}: {_numbers(_projection(k, scale))}" for k in range(4)]
    lines.append(f"Tr: {_numbers(to_camera[:3])}")
    write_text(folder / "calib.txt", "\n".join(lines) + "\n")
    times = [k * PERIOD for k in range(spec.keyframes)]
    scans = [scene.ego_pose(time) @ KITTI_LIDAR for time in times]
    back = to_camera @ np.linalg.inv(scans[0])
    poses = [_numbers((back @ pose @ KITTI_CAMERA)[:3]) for pose in scans]
    write_text(folder / "poses.txt", "\n".join(poses) + "\n")
    write_text(folder / "times.txt", "".join(f"{time:.6e}\n" for time in times))


def _numbers(matrix: np.ndarray) -> str:
    return " ".join(f"{value:.12e}" for value in matrix.ravel())
