"""Writes the synthetic world in the SemanticKITTI layout (KITTI odometry's folders and calibration, 10 Hz scans)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from core.datasets.synthetic.classes import KITTI_MOVING, KITTI_STATIC, SPECS
from core.datasets.synthetic.render import expose, render
from core.datasets.synthetic.scene import Scene, rigid
from core.datasets.synthetic.sensors import (
    HDL64,
    KITTI_CAMERA,
    KITTI_IMAGE,
    KITTI_LIDAR,
    KITTI_P,
    scan,
)
from core.datasets.synthetic.spec import WorldSpec
from core.io import write_bytes, write_text

__all__ = ["PERIOD", "image_camera", "labels_of", "write_scan", "write_sequence"]

PERIOD = 0.1  # s between scans


def image_camera(scale: float) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Camera 2 of images resized by ``scale``: mount (camera -> Velodyne, f64 [4, 4]), intrinsics, (width, height)."""
    matrix = _projection(2, scale)
    offset = -np.linalg.solve(matrix[:, :3], matrix[:, 3])
    size = (round(KITTI_IMAGE[0] * scale), round(KITTI_IMAGE[1] * scale))
    return KITTI_CAMERA @ rigid(np.eye(3), offset), matrix[:, :3], size


def _projection(camera: int, scale: float) -> np.ndarray:
    return KITTI_P[camera] * np.array([[scale], [scale], [1.0]])


def labels_of(cls: np.ndarray, thing: np.ndarray, scene: Scene) -> np.ndarray:
    """SemanticKITTI labels u32 [N], instance << 16 | raw id, from internal classes and thing numbers."""
    moving = np.zeros(len(scene.things) + 1, bool)
    instance = np.zeros(len(scene.things) + 1, np.uint32)
    for item in scene.things:
        moving[item.number] = item.moving
        instance[item.number] = item.number if SPECS[item.cls].kitti_instance else 0
    raw = np.where(moving[thing], KITTI_MOVING[cls], KITTI_STATIC[cls]).astype(np.uint32)
    return instance[thing] << np.uint32(16) | raw


def write_scan(
    root: Path, spec: WorldSpec, index: int, name: str, scene: Scene, frame: int
) -> None:
    """Write velodyne, labels and image_2 of scan ``frame`` of sequence ``index``."""
    folder = root / "sequences" / name
    snapshot = scene.snapshot(frame * PERIOD, body=False)
    sweep = scan(
        snapshot,
        KITTI_LIDAR,
        HDL64,
        spec.lidar_scale,
        np.random.default_rng([spec.seed, index, frame, 0]),
    )
    cloud = np.concatenate([sweep.points, sweep.intensity[:, None]], 1).astype(np.float32)
    write_bytes(folder / "velodyne" / f"{frame:06d}.bin", cloud.tobytes())
    write_bytes(
        folder / "labels" / f"{frame:06d}.label", labels_of(sweep.cls, sweep.thing, scene).tobytes()
    )
    mount, matrix, size = image_camera(spec.image_scale)
    image, _, _ = render(snapshot, snapshot.ego @ KITTI_LIDAR @ mount, matrix, size)
    image = expose(image, np.random.default_rng([spec.seed, index, frame, 100]))
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=4)
    write_bytes(folder / "image_2" / f"{frame:06d}.png", stream.getvalue())


def write_sequence(root: Path, spec: WorldSpec, name: str, scene: Scene) -> None:
    """Write calib.txt, poses.txt (left camera, relative to the first scan) and times.txt of a sequence."""
    folder = root / "sequences" / name
    to_camera = np.linalg.inv(KITTI_CAMERA)
    lines = [f"P{k}: {_numbers(_projection(k, spec.image_scale))}" for k in range(4)]
    lines.append(f"Tr: {_numbers(to_camera[:3])}")
    write_text(folder / "calib.txt", "\n".join(lines) + "\n")
    scans = [scene.ego_pose(k * PERIOD) @ KITTI_LIDAR for k in range(spec.keyframes)]
    back = to_camera @ np.linalg.inv(scans[0])
    poses = [_numbers((back @ pose @ KITTI_CAMERA)[:3]) for pose in scans]
    write_text(folder / "poses.txt", "\n".join(poses) + "\n")
    write_text(folder / "times.txt", "".join(f"{k * PERIOD:.6e}\n" for k in range(spec.keyframes)))


def _numbers(matrix: np.ndarray) -> str:
    return " ".join(f"{value:.12e}" for value in matrix.ravel())
