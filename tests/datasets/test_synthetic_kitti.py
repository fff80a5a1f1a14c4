"""The SemanticKITTI world, read with nothing but the published format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.datasets.synthetic import WorldSpec
from core.datasets.synthetic.kitti_format import KittiWorld, image_camera
from core.datasets.synthetic.render import render
from core.datasets.synthetic.sensors import KITTI_LIDAR

RAW = {
    0,
    1,
    10,
    11,
    13,
    15,
    16,
    18,
    20,
    30,
    31,
    32,
    40,
    44,
    48,
    49,
    50,
    51,
    52,
    60,
    70,
    71,
    72,
    80,
    81,
    99,
}
RAW |= set(range(252, 260))


def scan(folder: Path, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points with remission, raw labels, instances."""
    points = np.fromfile(folder / "velodyne" / f"{frame:06d}.bin", np.float32).reshape(-1, 4)
    labels = np.fromfile(folder / "labels" / f"{frame:06d}.label", np.uint32)
    assert len(points) == len(labels)
    return points, labels & 0xFFFF, labels >> 16


def calibration(folder: Path) -> dict[str, np.ndarray]:
    lines = (folder / "calib.txt").read_text().splitlines()
    entries = (line.split(":") for line in lines)
    return {
        key: np.vstack([np.array(text.split(), float).reshape(3, 4), [0, 0, 0, 1]])
        for key, text in entries
    }


def poses(folder: Path) -> np.ndarray:
    """LiDAR i -> LiDAR 0, f64 [n, 4, 4]."""
    rows = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)
    matrices = np.concatenate([rows, np.broadcast_to([[[0, 0, 0, 1.0]]], (len(rows), 1, 4))], 1)
    to_camera = calibration(folder)["Tr"]
    return np.linalg.inv(to_camera) @ matrices @ to_camera


@pytest.fixture(params=["00", "08"])
def sequence(request, tiny_kitti) -> Path:
    return tiny_kitti / "sequences" / request.param


def test_files_and_ranges(sequence):
    assert sorted(path.name for path in sequence.parent.iterdir()) == ["00", "08"]
    for frame in range(2):
        points, raw, _ = scan(sequence, frame)
        assert len(points) > 10_000 and np.isfinite(points).all()
        assert points[:, 3].min() >= 0 and points[:, 3].max() <= 0.99 + 1e-6
        assert set(np.unique(raw)) <= RAW and len(np.unique(raw)) >= 15
    with Image.open(sequence / "image_2" / "000000.png") as image:
        assert image.size == (74, 23)  # 1241 x 376 times 0.06
    np.testing.assert_allclose(np.loadtxt(sequence / "times.txt"), [0.0, 0.1])


def test_points_run_ring_by_ring_and_turn_left(sequence):
    points, _, _ = scan(sequence, 0)
    azimuth = np.arctan2(points[:, 1], points[:, 0]) % (2 * np.pi)
    wraps = np.diff(azimuth) < -np.pi
    assert wraps.sum() == 63
    assert (np.diff(azimuth)[~wraps] > -1e-3).all()


def test_poses_register_static_voxels(sequence):
    (first, raw_first, _), (second, raw_second, _) = scan(sequence, 0), scan(sequence, 1)
    move = poses(sequence)
    np.testing.assert_allclose(move[0], np.eye(4), atol=1e-9)
    assert 0.4 < np.linalg.norm(move[1][:3, 3]) < 0.8

    def agreement(moved: np.ndarray) -> float:
        def voxels(points, raw):
            keep = (raw < 252) & (np.linalg.norm(points, axis=1) < 30)
            keys = np.floor(points[keep] / 0.2).astype(np.int64) @ np.array([1_000_000, 1_000, 1])
            return dict(zip(keys.tolist(), raw[keep].tolist()))

        ours, theirs = voxels(first[:, :3], raw_first), voxels(moved, raw_second)
        common = ours.keys() & theirs.keys()
        assert len(common) > 500
        return float(np.mean([ours[key] == theirs[key] for key in common]))

    registered = agreement(second[:, :3] @ move[1][:3, :3].T + move[1][:3, 3])
    assert registered > 0.95
    assert registered > agreement(second[:, :3]) + 0.01


def test_moving_ids_only_on_what_moves(tiny_kitti, tiny_spec):
    spec = WorldSpec(format="semantickitti", scenes=2, **tiny_spec)
    seen = set()
    for index, name in enumerate(spec.names):
        scene = KittiWorld().scene(spec, index)
        way = {
            t.number: np.hypot(*np.subtract(t.motion.at(0.1)[:2], t.motion.at(0.0)[:2]))
            for t in scene.things
        }
        for frame in range(2):
            _, raw, instance = scan(tiny_kitti / "sequences" / name, frame)
            moving = raw >= 252
            assert (instance[moving] > 0).all()
            assert all(way[number] > 0.05 for number in np.unique(instance[moving]))
            still = np.unique(instance[~moving & (instance > 0)])
            assert all(way[number] == 0.0 for number in still) and len(still) > 5
            seen |= set(np.unique(raw[moving]))
    assert {252, 253, 254, 255} <= seen


def test_points_fall_on_their_object_in_image_2(tiny_kitti, tiny_spec):
    spec, scale = WorldSpec(format="semantickitti", scenes=2, **tiny_spec), 0.6
    agreed = total = 0
    for index, name in enumerate(spec.names):
        folder = tiny_kitti / "sequences" / name
        points, _, instance = scan(folder, 1)
        calib = calibration(folder)
        local = np.c_[points[:, :3], np.ones(len(points))] @ (calib["P2"] @ calib["Tr"]).T
        local, instance, points = (
            local[local[:, 2] > 1],
            instance[local[:, 2] > 1],
            points[local[:, 2] > 1],
        )
        column, row = np.round(local[:, :2] / local[:, 2:3] * scale / 0.06).astype(int).T
        mount, matrix, (width, height) = image_camera(scale)
        now = KittiWorld().scene(spec, index).snapshot(0.1, body=False)
        _, things, distance = render(now, now.ego @ KITTI_LIDAR @ mount, matrix, (width, height))
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        range_ = np.linalg.norm(points[inside, :3], axis=1)
        plain = np.abs(distance[row[inside], column[inside]] - range_) < 0.3 + 0.03 * range_
        assert plain.mean() > 0.7
        own = instance[inside]
        both = plain & (own > 0)
        agreed, total = (
            agreed + (things[row[inside], column[inside]][both] == own[both]).sum(),
            total + both.sum(),
        )
    assert total > 150 and agreed / total > 0.9
