"""The scanner's place, where it is not the origin of the scan's frame.

A scan is compared with the same scan about a scanner in the origin: whatever depends on ranges and angles must agree.
Coordinates are multiples of 1/256 m, so that moving them by the place loses no bit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corruption_scenes import street
from data_fakes import make_scan
from instance_fakes import CAR, box_of_points, road_scan, toy_database

from core.contracts import Batch, Scan, Sensor
from core.data import DataConfig
from core.data.collate import collate
from core.data.corruptions import PROFILES, CorruptedScans, Scanner
from core.data.corruptions.apply import corrupt
from core.data.instances.paste import Paster, U2MKDPaste
from core.data.partitions.cylinder import Cylinder
from core.data.partitions.range_image import RangeImage
from core.data.sample import make_sample
from core.datasets.base import DatasetConfig, SensorConfig
from core.datasets.pandaset import PandaSet
from core.labels import NUSCENES, SEMANTICKITTI
from core.models.lidar.sphereformer import from_scanner

PLACE = (1.25, -0.5, 1.875)  # m
HERE = Sensor(beams=64, intensity_scale=1.0)
THERE = replace(HERE, origin=PLACE)


def on_grid(scan: Scan) -> Scan:
    xyz = np.round(scan.xyz * 256) / 256
    return scan.having(
        xyz=xyz.astype(np.float32) + np.float32(0)
    )  # + 0: no -0, whose azimuth is another


def moved(scan: Scan) -> Scan:
    """The same scan, recorded from a scanner at ``PLACE``."""
    return replace(scan.having(xyz=scan.xyz + np.array(PLACE, np.float32)), sensor=THERE)


@pytest.fixture
def scans() -> tuple[Scan, Scan]:
    """About the origin, and about ``PLACE``."""
    rng = np.random.default_rng(0)
    scan = make_scan(rng.uniform(-20, 20, (500, 3)) * [1, 1, 0.1], labels=rng.integers(1, 5, 500))
    scan = replace(on_grid(scan), sensor=HERE)
    return scan, moved(scan)


def batch_of(scan: Scan, **data: object) -> Batch:
    config = DataConfig(**({"voxel_size": 0.0625} | data))
    rng = np.random.default_rng(7)
    return collate([make_sample(scan, 0, config, training=True, rng=rng)])


def test_range_bins_measure_from_the_scanner(scans):
    here, there = (batch_of(scan, augment=None) for scan in scans)
    assert torch.equal(here.distance, there.distance)
    expected = torch.from_numpy(np.linalg.norm(scans[0].xyz, axis=1))
    torch.testing.assert_close(there.distance, expected)
    forgotten = batch_of(replace(scans[1], sensor=HERE), augment=None)
    assert (here.distance - forgotten.distance).abs().max() > 1


@pytest.mark.parametrize("augment", [None, {"flip": True, "scale": (0.9, 1.1)}])
def test_radial_windows_lie_about_the_scanner(scans, augment):
    """Also where the points were turned, mirrored and scaled."""
    here, there = (batch_of(scan, augment=augment, voxel_size=0.01) for scan in scans)
    rows = [np.argsort(batch.cells.point.numpy()) for batch in (here, there)]
    first, second = (from_scanner(batch)[order] for batch, order in zip((here, there), rows))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    assert (here.at_cells("xyz")[rows[0]] - there.at_cells("xyz")[rows[1]]).abs().max() > 1


@pytest.mark.parametrize(
    "partition", [Cylinder(name="cylinder"), RangeImage(name="range_image")], ids=lambda p: p.name
)
def test_partitions_are_those_of_the_scanner(scans, partition):
    here, there = (partition.index(scan.xyz, scan.sensor)[0] for scan in scans)
    np.testing.assert_array_equal(here, there)
    forgotten = partition.index(scans[1].xyz, HERE)[0]
    assert (here != forgotten).any(1).mean() > 0.5


def test_objects_are_pasted_about_the_scanner(tmp_path):
    """An object keeps its range from the scanner and turns about it."""
    cloud = box_of_points(np.array([3.0, 12.0, 0.5]))
    cloud = np.round(cloud * 256) / 256
    pasted = []
    for name, sensor in (("here", HERE), ("there", THERE)):
        place = np.array([*sensor.origin, 0], np.float32)
        toy_database(tmp_path / name, [(CAR, cloud + place)])
        config = U2MKDPaste(database=tmp_path / name, count=1, jitter=(0, 0), occlude=True)
        scan = on_grid(road_scan(points=40))
        if sensor is THERE:
            scan = moved(scan)
        pasted.append(Paster(config, NUSCENES)(scan, np.random.default_rng(0)))
    here, there = pasted
    assert here.pasted is not None and here.pasted.any()
    assert here.pasted.tolist() == there.pasted.tolist()
    np.testing.assert_allclose(there.xyz - np.array(PLACE, np.float32), here.xyz, atol=1e-5)


class OneScan:
    """A data set of one scan, as far as corruptions look at it."""

    config = DatasetConfig(name="one", root=Path("."))
    labels = SEMANTICKITTI
    title, root, split, point_fields, label_dtype = "one", Path("."), "val", 4, np.dtype("u1")

    def __init__(self, scan: Scan) -> None:
        self.scan, self.sensor = scan, scan.sensor

    def load(self, index: int, *, cameras: bool = True) -> Scan:
        return self.scan


@pytest.mark.parametrize(
    ("profile", "name"),
    [
        ("semantickitti-c", "fog_heavy"),
        ("semantickitti-c", "sparse_16beam"),
        ("robo3d", "beam_missing_heavy"),
        ("robo3d", "snow_light"),
    ],
)
def test_corruptions_happen_about_the_scanner(profile, name):
    corruption = next(c for c in PROFILES[profile] if c.name == name)
    scan = replace(on_grid(street()), sensor=HERE)
    datasets = [OneScan(scan), OneScan(moved(scan))]
    here, there = (corrupt(data.scan, corruption, Scanner.of(data), seed=1) for data in datasets)
    assert len(here.points) == len(there.points)
    assert len(here.points) < len(scan.points) or not np.array_equal(here.xyz, scan.xyz)
    np.testing.assert_allclose(there.xyz - np.array(PLACE, np.float32), here.xyz, atol=1e-4)
    np.testing.assert_array_equal(here.labels, there.labels)
    corrupted = CorruptedScans(datasets[1], corruption, Scanner.of(datasets[1]))
    assert corrupted.load(0).sensor == THERE and corrupted.sensor == THERE


def test_pandaset_s_scanner_stands_above_the_road():
    """PandaSet's frame begins on the road; a point where the scanner is lies at range 0."""
    sensor = PandaSet.sensor
    assert sensor.origin == (1.2, 0.0, 1.85)
    scan = replace(make_scan(np.array([sensor.origin, (1.2, 3.0, 1.85)])), sensor=sensor)
    assert batch_of(scan, augment=None).distance.tolist() == [0.0, 3.0]


@pytest.mark.parametrize("elevation", [(20.0, -20.0), (-900.0, 20.0), (5.0, 5.0)])
def test_beams_have_an_order_and_lie_between_nadir_and_zenith(elevation) -> None:
    with pytest.raises(ValueError, match="lowest, highest"):
        SensorConfig(elevation=elevation)
