"""Voxels, cylinders and range images: indices by hand, who represents a cell, centres, what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from data_fakes import make_scan

from core.config import Config
from core.contracts import Sensor
from core.data import DataConfig, collate, make_sample
from core.data.partitions import Voxels, group
from core.data.partitions.cylinder import Cylinder
from core.data.partitions.range_image import RangeImage
from core.errors import UserError

HERE = Sensor()
ROOF = Sensor(origin=(1.2, -0.5, 1.85))


def cloud(count: int = 2000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform((-40, -40, -3), (40, 40, 1.5), (count, 3)).astype(np.float32)


def cylinder(**options: object) -> Cylinder:
    return Cylinder(name="cylinder", **options)


# --- grouping -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axes", [2, 3])
def test_cells_are_numbered_by_first_appearance(axes: int) -> None:
    rows = np.random.default_rng(1).integers(0, 4, (200, axes)).astype(np.int32)
    inside = np.random.default_rng(2).random(200) < 0.8
    found = group(rows, inside)
    seen: dict[tuple[int, ...], int] = {}
    for i, row in enumerate(map(tuple, rows.tolist())):
        if not inside[i]:
            assert found.of_point[i] == -1
            continue
        cell = seen.setdefault(row, len(seen))
        assert found.of_point[i] == cell and tuple(found.coords[cell]) == row
        if cell == len(seen) - 1 and (found.of_point[:i] != cell).all():
            assert found.point[cell] == i
    assert len(found) == len(seen)


# --- cylinder -------------------------------------------------------------------------------------------------------
def test_cylinder_by_hand() -> None:
    points = np.array([[3, 4, 0.5], [-1, 0.001, -5], [0, -60, 3]], np.float32)
    index, inside = cylinder(bins=(50, 36, 6)).index(points, HERE)
    assert inside is None
    # 1 m, 10 degrees, 1 m: range 5, azimuth 53.13 + 180; below and beyond the grid clipped into its border cells.
    assert index.tolist() == [[5, 23, 4], [1, 35, 0], [49, 9, 5]]
    dropped = cylinder(bins=(50, 36, 6), outside="drop").index(points, HERE)[1]
    assert dropped.tolist() == [True, False, False]


def test_published_interval() -> None:
    """(max - min) / (bins - 1), floor((clip(p) - min) / interval): 0.10084 m, 1.00279 degrees, 0.19355 m."""
    published = cylinder(
        bins=(480, 360, 32), low=(1.85, -180, -4), high=(50.15, 180, 2), interval="bins - 1"
    )
    points = cloud()
    index, _ = published.index(points, HERE)
    low, high = np.array([1.85, -180, -4]), np.array([50.15, 180, 2])
    x, y, z = points.T.astype(np.float64)
    polar = np.stack([np.hypot(x, y), np.degrees(np.arctan2(y, x)), z], 1)
    interval = (high - low) / np.array([479, 359, 31])
    assert interval == pytest.approx([0.10084, 1.00279, 0.19355], abs=1e-5)
    exact = (np.clip(polar, low, high) - low) / interval
    clear = (np.abs(exact - np.round(exact)) > 1e-3).all(
        1
    )  # away from borders, where float32 may differ
    assert clear.sum() > 1900
    assert np.array_equal(index[clear], np.floor(exact[clear]).astype(int))
    assert index[:, 1].max() <= 358, "the last bin holds the border alone"


def test_unbounded_cells_of_slidr() -> None:
    """10 cm, 1 degree, 10 cm, floored; counted from the lowest of the scan along z."""
    unbounded = cylinder(cell=(0.1, 1.0, 0.1))
    points = cloud(500)
    index, inside = unbounded.index(points, HERE)
    x, y, z = points.T.astype(np.float64)
    exact = np.stack([np.hypot(x, y) / 0.1, np.degrees(np.arctan2(y, x)) + 180, z / 0.1], 1)
    clear = (np.abs(exact - np.round(exact)) > 1e-3).all(1)
    expected = np.floor(exact)
    expected[:, 2] -= expected[:, 2].min()
    assert inside is None and np.array_equal(index[clear], expected[clear])
    with pytest.raises(UserError, match="too far for cells"):
        unbounded.index(np.array([[3e5, 0, 0]], np.float32), HERE)


def test_cells_that_begin_at_the_scanner() -> None:
    """Cells of strides up to 64 are those of floor(x / size), in every scan."""
    steady = cylinder(cell=(0.1, 1.0, 0.1), start="scanner")
    for points in (cloud(500), cloud(500) + np.array([0, 0, 3.33], np.float32)):
        index, _ = steady.index(points, HERE)
        x, y, z = points.T.astype(np.float64)
        exact = np.stack([np.hypot(x, y) / 0.1, np.degrees(np.arctan2(y, x)), z / 0.1], 1)
        clear = (np.abs(exact - np.round(exact)) > 1e-3).all(1)
        shift = index[clear] - np.floor(exact[clear])
        assert (shift == shift[0]).all() and (shift % 64 == 0).all()
        assert index.min() >= 0 and shift[0, 1] == 192
    with pytest.raises(ValueError, match="start is that of a grid without bounds"):
        cylinder(start="scanner")


# --- range image ----------------------------------------------------------------------------------------------------
def test_range_image_between_the_beams_of_the_scanner() -> None:
    beams = (-10.0, 20.0)
    sensor = Sensor(elevation=(float(np.radians(-10)), float(np.radians(20))))
    given = RangeImage(name="range_image", height=30, width=360, elevation=beams)
    own = RangeImage(name="range_image", height=30, width=360, elevation=None)
    angles = np.radians([-9.5, 0.5, 19.5])
    xyz = np.stack([np.cos(angles), np.zeros(3), np.sin(angles)], 1).astype(np.float32)
    assert own.index(xyz, sensor)[0][:, 0].tolist() == [29, 19, 0]
    coords = own.index(xyz, sensor)[0]
    assert np.allclose(own.centres(coords, sensor), given.centres(coords, Sensor()))


def test_range_image_by_hand() -> None:
    image = RangeImage(name="range_image", height=28, width=360)  # 1 degree per pixel, 3 to -25
    down, left = np.radians(-10.5), np.radians(90.5)
    points = 7 * np.array(
        [
            [np.cos(down), 0.0001, np.sin(down)],
            [np.cos(left), np.sin(left), 0],
            [0, 0.001, 1],
        ],
        np.float32,
    )
    index, _ = image.index(points, HERE)
    assert index.tolist() == [[13, 179], [3, 89], [0, 90]]


def test_the_nearest_point_represents_a_pixel() -> None:
    image = RangeImage(name="range_image", height=4, width=8)
    points = np.array([[9, 1, 0], [5, 0.5, 0], [7, 0.7, 0], [5, 0.5, 0]], np.float32)
    grouping = image.group(points, HERE)
    assert grouping.of_point.tolist() == [0, 0, 0, 0] and grouping.point.tolist() == [1]


# --- all ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "partition",
    [
        cylinder(bins=(500, 720, 60), outside="drop"),
        cylinder(cell=(0.1, 0.5, 0.1)),
        cylinder(cell=(0.1, 0.5, 0.1), start="scanner"),
        RangeImage(name="range_image", height=200, width=4000, elevation=(-60, 60)),
    ],
    ids=["cylinder", "cells", "steady", "image"],
)
@pytest.mark.parametrize("sensor", [HERE, ROOF], ids=["here", "roof"])
def test_a_cells_centre_lies_in_the_cell(partition, sensor: Sensor) -> None:
    coords, inside = partition.index(cloud(), sensor)
    coords = coords if inside is None else coords[inside]
    again, _ = partition.index(partition.centres(coords, sensor), sensor)
    if getattr(partition, "cell", None) is not None:
        again[:, 2] += coords[:, 2].min() - again[:, 2].min()
    assert np.array_equal(again, coords)


@pytest.mark.parametrize(
    "partition", [cylinder(), RangeImage(name="range_image")], ids=["cylinder", "image"]
)
def test_cells_are_about_the_scanner(partition) -> None:
    points = cloud()
    moved = (points + ROOF.place).astype(np.float32)
    back = (moved - ROOF.place).astype(np.float32)  # what float32 leaves of them
    assert np.array_equal(partition.index(moved, ROOF)[0], partition.index(back, HERE)[0])
    assert not np.array_equal(partition.index(moved, HERE)[0], partition.index(back, HERE)[0])


def test_no_points() -> None:
    for partition in (
        Voxels(),
        cylinder(),
        cylinder(cell=(0.1, 1, 0.1)),
        RangeImage(name="range_image"),
    ):
        grouping = partition.group(np.zeros((0, 3), np.float32), HERE)
        assert grouping.coords.shape == (0, partition.axes) and len(grouping.of_point) == 0


def test_batches_of_two_axes() -> None:
    data = DataConfig(partition={"name": "range_image", "height": 8, "width": 16}, augment=None)
    scans = [make_scan(cloud(50, seed), labels=np.ones(50)) for seed in (0, 1)]
    batch = collate([make_sample(scan, i, data) for i, scan in enumerate(scans)])
    assert batch.coords.shape[1] == 3 and batch.coords[:, 0].unique().tolist() == [0, 1]
    assert (batch.cells.of_point >= 0).all()
    second = batch.take([1])
    alone = collate([make_sample(scans[1], 1, data)])
    assert second.coords.equal(alone.coords) and second.feats.equal(alone.feats)
    assert second.cells.of_point.equal(alone.cells.of_point)


def test_voxel_size_is_the_short_form() -> None:
    data = Config({"data": {"voxel_size": 0.2}}).parse(DataConfig, "data")
    assert data.cells == Voxels(size=0.2)
    long = Config({"data": {"partition": {"name": "voxels", "size": 0.2}}}).parse(
        DataConfig, "data"
    )
    assert long.cells == data.cells
    both = {"voxel_size": 0.1, "partition": {"name": "voxels", "size": 0.2}}
    with pytest.raises(UserError, match=r"voxel_size is 0\.1 m and partition\.size 0\.2 m"):
        Config({"data": both}).parse(DataConfig, "data")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "cilinder"}, "(?i)did you mean 'cylinder'"),
        ({"name": "cylinder", "bin": [4, 4, 4]}, "(?i)did you mean 'bins'"),
        ({"name": "cylinder", "cell": [1, 1, 1], "bins": [4, 4, 4]}, "do not go with it"),
        ({"name": "cylinder", "low": [0, 0, 0], "high": [1, 1, 0]}, "low is smaller"),
        ({"name": "range_image", "elevation": [3, -25]}, r"\[lowest, highest\]"),
    ],
)
def test_mistakes_in_the_configuration(section: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config({"data": {"partition": section}}).parse(DataConfig, "data")
