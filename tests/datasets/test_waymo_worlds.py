"""The synthetic world in both formats of Waymo, read by the reader: they are the same scans."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.config import Config
from core.data import DataConfig, collate, make_sample
from core.data.corruptions import PROFILES, Scanner, corrupt
from core.data.instances.build import build_database
from core.data.sampler import SampleKey
from core.data.samples import ScanSamples
from core.datasets import build_dataset
from core.datasets.base import ScanDataset
from core.errors import UserError
from core.models import input_width


def build(root: Path, split: str = "train", **keys: object) -> ScanDataset:
    section = {"name": "waymo", "root": str(root), "index_workers": 0, **keys}
    return build_dataset(Config({"dataset": section}), split)


@pytest.mark.parametrize("split", ["train", "val"])
def test_both_formats_give_the_same_scans(tiny_waymo_v1, tiny_waymo_v2, split):
    keys = {"multisweeps": {"num_sweeps": 1, "only_past": False}}
    first, second = build(tiny_waymo_v1, split, **keys), build(tiny_waymo_v2, split, **keys)
    assert len(first) == len(second) == 2
    for index in range(len(first)):
        assert first.token(index) == second.token(index)
        one, other = first.load(index), second.load(index)
        assert sorted(one.points) == sorted(other.points)
        for name in one.points:
            np.testing.assert_array_equal(one.points[name], other.points[name])
        assert one.sensor == other.sensor
        np.testing.assert_array_equal(one.pose, other.pose)
        assert len(one.cameras) == len(other.cameras) == 5
        for camera, same in zip(one.cameras, other.cameras):
            np.testing.assert_array_equal(camera.projection, same.projection)
            np.testing.assert_array_equal(camera.load(), same.load())
        assert list(first.image_digests(index)) == list(second.image_digests(index))


def test_worlds_are_made_up_and_whole(tiny_waymo_v1, tiny_waymo_v2):
    for root in (tiny_waymo_v1, tiny_waymo_v2):
        scans = build(root)
        assert scans.made_up and scans.expected is None and scans.missing() == []
        scans.check_images()
        labels = scans.load(0).labels
        assert labels is not None and len(np.unique(labels)) > 5


def test_static_things_stay_where_they_are_in_the_next_frame(tiny_waymo_v1):
    """Through the poses, roads of neighbouring frames lie on one another: a wrong pose lifts or tilts them."""
    scans = build(tiny_waymo_v1, multisweeps={"num_sweeps": 1, "only_past": False})
    for index in range(len(scans)):
        points = scans.load(index, cameras=False).points
        near = np.linalg.norm(points["xyz"][:, :2], axis=1) < 15
        own = points.take(near & (points["sweep"] == 0) & (points["label"] == 18))
        swept = points.take(near & (points["sweep"] > 0))
        assert len(own) > 100 and len(swept) > 100
        low = np.percentile(own["xyz"][:, 2], (5, 95))
        share = (swept["xyz"][:, 2] < low[0] - 0.1).mean()
        assert share < 0.01  # nothing lies below the road


def test_files_of_the_tables(tiny_waymo_v2):
    files = build(tiny_waymo_v2).files(0)
    assert files.points.parent.name == "lidar" and files.points.is_file()
    assert files.labels.parent.name == "lidar_segmentation" and files.labels.is_file()
    assert {path.parent.name for path in files.images.values()} == {"camera_image"}


def test_tables_that_are_not_there(tiny_waymo_v2, tmp_path):
    root = shutil.copytree(tiny_waymo_v2, tmp_path / "world")
    shutil.rmtree(root / "training" / "camera_image")
    scans = build(root)
    assert any("1 of 1 segments have no images" in text for text in scans.missing())
    with pytest.raises(UserError, match="the image of FRONT does not exist"):
        scans.check_images()
    scans.load(0, cameras=False)
    shutil.rmtree(root / "training" / "lidar_segmentation")
    with pytest.raises(UserError, match="no frame of the train split has labels"):
        build(root)
    assert len(build(root, frames="all")) == 3


# --- what other floors do with its scans ------------------------------------------------------------------------------
def test_samples_have_five_images_of_one_size_and_columns_of_waymo(tiny_waymo_v1):
    scan = build(tiny_waymo_v1).load(0)
    features = ("xyz", "intensity", "elongation", "range", "return")
    data = DataConfig(voxel_size=0.5, features=features, images=True, image_size=(96, 64))
    sample = make_sample(scan, 0, data)
    assert sample.cameras is not None and sample.cameras.images.shape == (5, 3, 64, 96)
    assert sample.cameras.visible.any(1).all()  # each camera sees points
    batch = collate([sample])
    assert batch.point_feats.shape == (len(scan.points), 7)
    np.testing.assert_array_equal(batch.point_feats[:, 6].numpy(), scan.points["return"])
    assert "row" not in batch.points and "no_label_zone" not in batch.points
    config = Config({"dataset": {"name": "waymo"}, "data": {"features": list(features)}})
    assert input_width(config) == 7


def test_corruptions_are_made_around_the_scanner(tiny_waymo_v1):
    """Fog cuts what is far from the scanner, which stands 1.43 m before and 2.184 m above the frame's origin."""
    scans = build(tiny_waymo_v1)
    scan, scanner = scans.load(0, cameras=False), Scanner.of(scans)
    assert scanner.beams == 64 and scanner.scale == 255
    corruption = next(c for c in PROFILES["semantickitti-c"] if c.kind == "fog")
    corrupted = corrupt(scan, corruption, scanner)
    moved = replace(scan, sensor=replace(scan.sensor, origin=(0.0, 0.0, 0.0)))
    moved = moved.having(xyz=scan.xyz - scan.sensor.place)
    at_home = corrupt(moved, corruption, scanner)
    np.testing.assert_allclose(corrupted.xyz, at_home.xyz + scan.sensor.place, atol=1e-3)


def test_objects_are_cut_out_and_pasted(tiny_waymo_v1, tmp_path):
    section = {"name": "waymo", "root": str(tiny_waymo_v1), "index_workers": 0}
    paste = {"database": str(tmp_path / "objects"), "count": 4}
    config = Config({"dataset": section, "data": {"paste": paste}})
    database = build_database(config)
    assert len(database.index) > 10
    scans = build_dataset(config, "train")
    samples = ScanSamples(scans, config.parse(DataConfig, "data"), training=True)
    whole, made = scans.load(0, cameras=False), samples[SampleKey(0, 0)]
    new = made.points.take(slice(len(whole.points), None))
    assert len(new) and (new["label"] > 0).all() and (new["return"] == 0).all()
