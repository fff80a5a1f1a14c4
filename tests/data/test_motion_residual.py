"""LMNet's residual images: the formula in float64, what is left out, files and streams, a network that reads them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.config import Config
from core.contracts import Scan
from core.data import DataConfig, collate, make_sample
from core.data.motion import MotionStream
from core.data.motion_columns import MotionColumns
from core.data.motion_job import prepare_motion
from core.data.motion_kinds import motion_stream
from core.data.motion_residual import ResidualStream
from core.datasets import build_dataset
from core.datasets.columns import Column
from core.datasets.motion_config import MotionConfig, ResidualConfig
from core.datasets.motion_maps import scanner_pose
from core.errors import UserError
from core.models import build_model
from tests import motion_world as world

SMALL = {"kind": "residual", "scans": 3, "height": 8, "width": 24, "elevation": [-30.0, 20.0]}
COUNT = 6
REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata")) / "pandaset_mos"


def scene(number: int, points: int = 300) -> np.ndarray:
    """Points all about the scanner, some nearer and some farther than the image reaches."""
    rng = np.random.default_rng(number)
    return rng.uniform((-55, -55, -12), (55, 55, 12), (points, 3)).astype(np.float32)


def pixels(xyz: np.ndarray, config: ResidualConfig) -> tuple[np.ndarray, np.ndarray]:
    """Pixel of each point, -1 = none, and its range; plain float64."""
    x, y, z = xyz.astype(np.float64).T
    r = np.sqrt(x**2 + y**2 + z**2)
    down, up = np.radians(config.elevation)
    v = np.floor((1 - (np.arcsin(z / r) - down) / (up - down)) * config.height)
    u = np.floor(0.5 * (1 - np.arctan2(y, x) / np.pi) * config.width)
    v, u = v.clip(0, config.height - 1), u.clip(0, config.width - 1)
    inside = (r > config.range[0]) & (r < config.range[1])
    return np.where(inside, v * config.width + u, -1).astype(int), r


def image(xyz: np.ndarray, config: ResidualConfig) -> np.ndarray:
    found = np.full(config.height * config.width, np.nan)
    for pixel, r in zip(*pixels(xyz, config)):
        if pixel >= 0 and not found[pixel] <= r:
            found[pixel] = r
    return found


def published(scans: list, poses: list, config: ResidualConfig) -> list[np.ndarray]:
    """F64 [N, scans] of each scan: |r_t - r_warped| / r_t at the pixel of each point, 0 where a range is lacking."""
    features = []
    for t, xyz in enumerate(scans):
        read = np.zeros((len(xyz), config.scans))
        own, _ = pixels(xyz, config)
        now = image(xyz, config)
        for k in range(min(t, config.scans)):
            other = scans[t - 1 - k].astype(np.float64)
            move = np.linalg.inv(poses[t]) @ poses[t - 1 - k]
            warped = image(other @ move[:3, :3].T + move[:3, 3], config)
            residual = np.nan_to_num(np.abs(now - warped) / now)
            read[:, k] = np.where(own >= 0, residual[own], 0)
        features.append(read)
    return features


def test_the_published_formula():
    config = ResidualConfig.model_validate(SMALL)
    scans, poses = [scene(k) for k in range(COUNT)], [world.pose(k) for k in range(COUNT)]
    stream = ResidualStream(config)
    for k, expected in enumerate(published(scans, poses, config)):
        found = stream.push(scans[k], poses[k]).features()
        np.testing.assert_allclose(found, expected, rtol=2**-11, atol=1e-6)  # maps are f16
        assert found.any(0).tolist() == [channel < k for channel in range(3)]
        near = np.linalg.norm(scans[k], axis=1)
        assert not found[(near < 2) | (near > 50)].any()
    assert not list(stream.finish())


def test_what_stands_still_has_none():
    config = ResidualConfig.model_validate(SMALL | {"height": 64, "width": 2048})
    stream = ResidualStream(config)
    wall = (0.9 * world.wall()).astype(np.float32)  # 45 m
    for _ in range(4):
        still = stream.push(wall, world.pose(0)).features()
        assert not still.any()
    nearer = stream.push(0.8 * wall, world.pose(0)).features()
    np.testing.assert_allclose(nearer[nearer > 0], 0.25, rtol=1e-3)  # |36 - 45| / 36
    assert (nearer > 0).mean() > 0.9


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("residual")
    world.write_drive(root / "sequences/00", [scene(k) for k in range(COUNT)])
    prepare_motion(tree(root), ["train"], "motion")
    return root


def tree(root: Path, **motion: Any) -> Config:
    column = {"file": "motion/{token}.npz", "channels": 3, "motion": SMALL | motion}
    section = {
        "name": "semantickitti",
        "root": str(root),
        "use_labels": False,
        "cameras": [],
        "split": {"train": ["00"]},
        "columns": {"motion": column},
    }
    return Config({"dataset": section})


def test_files_hold_what_a_stream_gives(drive, tmp_path):
    root = shutil.copytree(drive, tmp_path / "d")
    dataset = build_dataset(tree(root), "train")
    columns = MotionColumns({"motion": ResidualConfig.model_validate(SMALL)})
    assert columns.delay == 0
    for index in range(COUNT):
        scan = dataset.read(index)
        (live,) = columns.push(scan)
        stored = dataset.load(index).points["motion"]
        np.testing.assert_array_equal(stored, live.points["motion"])
        assert stored.any() == (index > 0)
    path = root / "motion/00/000004.npz"
    whole = path.read_bytes()
    path.unlink()
    assert prepare_motion(tree(root), ["train"]).written == 1
    assert path.read_bytes() == whole


def test_columns_of_both_kinds_come_together(drive):
    dataset = build_dataset(tree(drive), "train")
    polar = MotionConfig(last=2, previous=1, delay=2)
    both = MotionColumns({"a": ResidualConfig.model_validate(SMALL), "b": polar})
    alone = MotionStream(polar)
    given: list[Scan] = []
    expected = []
    for index in range(COUNT):
        scan = dataset.read(index)
        given += both.push(scan)
        assert len(given) == max(0, index - 1)
        finished = alone.push(scan.xyz, scanner_pose(scan, ()))
        expected += [] if finished is None else [finished]
    given += both.finish()
    expected += alone.finish()
    assert [scan.token for scan in given] == [dataset.token(k) for k in range(COUNT)]
    for scan, finished in zip(given, expected):
        np.testing.assert_array_equal(scan.points["b"], finished.features())
        np.testing.assert_array_equal(
            scan.points["a"], dataset.load(finished.number).points["motion"]
        )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"width": 32}, "width 24; width 32"),
        ({"range": [2.0, 40.0]}, r"range \[2.0, 50.0\]; range \[2.0, 40.0\]"),
    ],
)
def test_files_of_another_image(drive, other, message):
    with pytest.raises(UserError, match=message):
        build_dataset(tree(drive, **other), "train").load(3)


def test_files_of_the_other_kind(drive, tmp_path):
    root = shutil.copytree(drive, tmp_path / "d")
    polar = tree(root)
    polar.tree["dataset"]["columns"]["motion"] |= {"channels": 8, "motion": {}}
    with pytest.raises(UserError, match="motion maps are made with delay none; delay 7 is asked"):
        build_dataset(polar, "train").load(3)
    shutil.rmtree(root / "motion")
    prepare_motion(polar, ["train"])
    with pytest.raises(UserError, match="kind none; kind residual is asked"):
        build_dataset(tree(root), "train").load(3)


def test_settings_are_checked():
    column = {"file": "{token}.npz", "channels": 8}
    assert isinstance(Column.model_validate(column | {"motion": {}}).motion, MotionConfig)
    residual = Column.model_validate(column | {"motion": {"kind": "residual"}}).motion
    assert isinstance(residual, ResidualConfig) and residual.bins == (64, 2048)
    assert isinstance(motion_stream(residual), ResidualStream)
    for wrong, message in (
        ({"kind": "other"}, "known kinds are polar, residual"),
        ({"kind": "residual", "elevation": [3, -25]}, "elevation is"),
        ({"kind": "residual", "range": [0, 50]}, "both positive"),
        ({"kind": "residual", "last": 4}, "last"),
        ({"kind": "residual", "scans": 5}, "motion gives 5 values"),
    ):
        with pytest.raises(ValueError, match=message):
            Column.model_validate(column | {"motion": wrong})


def test_a_range_image_network_reads_them(drive):
    config = tree(drive)
    config.tree |= {
        "data": {
            "features": ["xyz", "intensity", "motion"],
            "partition": {"name": "range_image", "height": 16, "width": 64},
        },
        "model": {"name": "cenet", "width": 8, "mean": [0.0] * 8, "std": [1.0] * 8},
    }
    torch.manual_seed(0)
    network = build_model(config, 3).eval()
    scan = build_dataset(config, "train").load(4)
    data = config.parse(DataConfig, "data")
    still = scan.having(motion=np.zeros_like(scan.points["motion"]))
    logits = [network(collate([make_sample(s, 0, data)])).logits for s in (scan, still)]
    assert logits[0].shape[1] == 3 and not torch.equal(*logits)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no real scans; set LIDISTILL_REALDATA")
def test_moving_points_of_real_scans_have_larger_ones():
    section = {
        "name": "semantickitti",
        "root": str(REAL),
        "labels": "semantickitti_mos",
        "cameras": [],
        "partial": True,
    }
    scans = build_dataset(Config({"dataset": section}), "val")
    stream = ResidualStream(ResidualConfig(kind="residual", elevation=(-25.0, 15.0)))
    for index in range(6):
        scan = scans.read(index)
        finished = stream.push(scan.xyz, scanner_pose(scan, ()))
    values, moves = finished.features()[:, 4], scan.labels == 2
    assert np.median(values[moves]) > 4 * np.median(values[scan.labels == 1])
