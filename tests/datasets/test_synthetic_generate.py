"""Determinism, the manifest, and refusals."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.datasets.synthetic import WorldSpec, generate
from core.datasets.synthetic.nuscenes_names import version
from core.datasets.synthetic.scene import Scene
from core.datasets.synthetic.sensors import HDL64, KITTI_LIDAR, LIDAR32, NUSCENES_LIDAR, scan
from core.datasets.synthetic.things import discs
from core.errors import UserError

SMALL = WorldSpec(
    seed=5,
    scenes=2,
    keyframes=2,
    sweeps_per_keyframe=1,
    image_scale=0.03,
    lidar_scale=0.05,
    workers=1,
)


def digests(root: Path) -> dict[str, str]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }


def test_same_bytes_from_any_number_of_workers_and_other_bytes_from_another_seed(tmp_path):
    one = digests(generate(tmp_path / "one", SMALL))
    two = digests(generate(tmp_path / "two", replace(SMALL, workers=2)))
    assert one == two and len(one) > 40
    other = digests(generate(tmp_path / "other", replace(SMALL, seed=6)))
    clouds = [name for name in one if name.endswith((".pcd.bin", ".jpg"))]
    assert clouds and all(other[name] != one[name] for name in clouds)


def test_a_finished_world_is_kept_and_another_replaces_it(tmp_path):
    spec = replace(SMALL, format="semantickitti")
    root = generate(tmp_path / "world", spec)
    manifest = json.loads((root / "synthetic.json").read_text())
    assert manifest["files"] == {"sequences": 2 * (3 + 3 * 2)} and manifest["spec"]["seed"] == 5
    cloud = root / "sequences" / "00" / "velodyne" / "000001.bin"
    before = cloud.stat().st_mtime_ns
    generate(root, replace(spec, workers=2))
    assert cloud.stat().st_mtime_ns == before
    whole = cloud.read_bytes()
    cloud.unlink()  # the manifest no longer tells the truth: everything is written anew
    generate(root, spec)
    assert cloud.read_bytes() == whole
    generate(root, replace(spec, keyframes=1))
    assert not cloud.exists() and not (root / "synthetic.partial.json").exists()


def test_foreign_data_are_left_alone(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"not empty.*empty folder"):
        generate(tmp_path, SMALL)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.jpg"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": "waymo"}, "waymo"),
        ({"image_scale": -0.1}, "image_scale"),
        ({"lidar_scale": 2.0}, "lidar_scale"),
        ({"scenes": 0}, "scenes"),
        ({"keyframes": 0}, "keyframes"),
        ({"format": "semantickitti", "scenes": 12}, "scenes"),
        ({"format": "semantickitti", "scenes": 11, "val_scenes": 0}, "training scenes"),
    ],
)
def test_bad_values_are_named(change, word):
    with pytest.raises(UserError, match=word):
        WorldSpec(**change)


def test_names_follow_the_official_splits():
    splits = pytest.importorskip("nuscenes.utils.splits")
    assert WorldSpec().names == splits.mini_train[:4] + splits.mini_val
    assert WorldSpec(scenes=10).names == splits.mini_train + splits.mini_val
    large = WorldSpec(scenes=20, val_scenes=5)
    assert version(large) == "v1.0-trainval" and large.names == splits.train[:15] + splits.val[:5]
    assert WorldSpec(format="semantickitti", scenes=3).names == ["00", "01", "08"]


@pytest.mark.parametrize(("model", "mount"), [(LIDAR32, NUSCENES_LIDAR), (HDL64, KITTI_LIDAR)])
def test_returns_per_turn_and_range_noise(model, mount):
    scene = Scene(seed=1, index=0, duration=1.0)
    snapshot = scene.snapshot(0.5, body=model is LIDAR32)
    sweep = scan(snapshot, mount, model, 1.0, np.random.default_rng(0))
    low, high = (24_000, 34_688) if model is LIDAR32 else (100_000, 133_312)
    assert low < len(sweep.points) <= high
    assert np.linalg.norm(sweep.points, axis=1).max() <= model.reach * (1 + 1e-6)
    world = sweep.points @ (snapshot.ego @ mount)[:3, :3].T + (snapshot.ego @ mount)[:3, 3]
    road = (sweep.cls == 1) & (np.linalg.norm(sweep.points, axis=1) < 8)
    assert abs(world[road, 2].mean()) < 0.002
    assert 0.002 < world[road, 2].std() < 0.018


def test_nothing_runs_into_anything():
    for seed in range(3):
        scene, times = Scene(seed, 0, 5.0), np.arange(0.0, 5.0, 0.25)
        movers = [thing for thing in scene.things if thing.moving]
        assert len(movers) > 12
        for thing in movers:
            centres, radius = discs(thing, times)
            ego = np.array([scene.ego_pose(t)[:2, 3] for t in times])
            assert np.linalg.norm(centres - ego[:, None], axis=-1).min() > radius + 0.8
            for other in scene.things:
                if other.moving and other.number >= thing.number:
                    continue
                theirs, width = discs(other, times)
                gap = np.linalg.norm(centres[:, :, None] - theirs[:, None], axis=-1).min()
                assert gap > radius + width
