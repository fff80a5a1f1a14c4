"""Range images to points and back, against the formulas of the specification written out cell by cell."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from waymo_segments import SHAPE, frame, laser, turned

from core.datasets.waymo.frame import TOP, LaserCalibration, RangeImage
from core.datasets.waymo.range_image import (
    Motion,
    azimuths,
    cells_of,
    inclinations,
    points_of,
    to_cells,
)
from core.errors import UserError


def literal(made, calibration: LaserCalibration) -> list[tuple]:
    """(return, row, column, x, y, z) of every cell with a return, one by one in float64."""
    found = []
    height, width = SHAPE
    extrinsic = calibration.extrinsic
    correction = math.atan2(extrinsic[1, 0], extrinsic[0, 0])
    for number, image in enumerate(made.returns[TOP], 1):
        for row in range(height):
            for column in range(width):
                reach = float(image.values[row, column, 0])
                if not reach > 0:
                    continue
                elevation = calibration.inclinations[height - 1 - row]
                ratio = (width - column - 0.5) / width
                azimuth = (2 * ratio - 1) * math.pi - correction
                seen = np.array(
                    [
                        reach * math.cos(azimuth) * math.cos(elevation),
                        reach * math.sin(azimuth) * math.cos(elevation),
                        reach * math.sin(elevation),
                    ]
                )
                vehicle = extrinsic[:3, :3] @ seen + extrinsic[:3, 3]
                pose = made.pixel_pose[row, column].astype(np.float64)
                world = turned(*pose[:3]) @ vehicle + pose[3:]
                xyz = (np.linalg.inv(made.pose) @ [*world, 1])[:3]
                found.append((number, row, column, *xyz))
    return found


@pytest.fixture
def made():
    return frame(3, "a", labelled=True)


def motion(made) -> Motion:
    return Motion(made.pixel_pose, made.pose)


def test_points_are_those_of_the_formulas(made):
    points = points_of(made.returns[TOP], laser(), motion(made))
    expected = np.array(literal(made, laser()))
    assert len(points) == len(expected) > 40
    cells = np.stack([points.number, points.row, points.column], 1)
    np.testing.assert_array_equal(cells, expected[:, :3])
    # float32 results below 100 m are good to 4e-6 m; the world's coordinates of 25 km must cost nothing.
    np.testing.assert_allclose(points.xyz, expected[:, 3:], rtol=0, atol=1e-5)


def test_features_and_labels_are_those_of_the_cell(made):
    points = points_of(made.returns[TOP], laser(), motion(made))
    for values, labels, number, row, column in zip(
        points.values, points.labels, points.number, points.row, points.column
    ):
        image = made.returns[TOP][number - 1]
        np.testing.assert_array_equal(values, image.values[row, column])
        np.testing.assert_array_equal(labels, image.labels[row, column])


def test_without_motion_cells_are_found_again(made):
    points = points_of(made.returns[TOP], laser())
    row, column = cells_of(points.xyz, laser(), SHAPE)
    np.testing.assert_array_equal(row, points.row)
    np.testing.assert_allclose(column, points.column, atol=1e-4)
    assert not np.allclose(points.xyz, points_of(made.returns[TOP], laser(), motion(made)).xyz)


def test_values_go_back_to_their_cells(made):
    points = points_of(made.returns[TOP], laser(), motion(made))
    classes = points.labels[:, 1]
    images = to_cells(classes, points.number, points.row, points.column, SHAPE)
    assert images.dtype == np.int32
    for image, found in zip(made.returns[TOP], images):
        there = image.values[:, :, 0] > 0
        np.testing.assert_array_equal(found, np.where(there, image.labels[:, :, 1], 0))


def test_one_return_alone(made):
    first = made.returns[TOP][:1]
    points = points_of(first, laser(), motion(made))
    assert set(points.number) == {1}
    assert to_cells(points.row, points.number, points.row, points.column, SHAPE, 1).shape[0] == 1


def test_beams_without_a_list_are_evenly_between_the_limits():
    calibration = LaserCalibration(np.eye(4), None, (-math.pi / 2, math.pi / 6))
    found = inclinations(calibration, 200)
    step = (math.pi / 2 + math.pi / 6) / 200
    assert found[0] == pytest.approx(math.pi / 6 - step / 2)
    assert found[-1] == pytest.approx(-math.pi / 2 + step / 2)
    np.testing.assert_allclose(np.diff(found), -step)


def test_the_middle_of_the_image_looks_ahead():
    """Columns W/2 - 1 and W/2 lie on both sides of the vehicle's x axis, whatever the lidar's own direction."""
    image = RangeImage(np.full((*SHAPE, 4), 10, np.float32), None)
    points = points_of([image], replace(laser(), extrinsic=rotated(np.radians(148.474))))
    azimuth = np.degrees(np.arctan2(points.xyz[:, 1], points.xyz[:, 0])).reshape(SHAPE)
    np.testing.assert_allclose(azimuth[0, 5:7], (15, -15), atol=1e-4)
    np.testing.assert_allclose(azimuth[0, 0], 165, atol=1e-4)


def rotated(yaw: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = turned(0, 0, yaw)
    return matrix


def test_azimuths_fall_by_a_turn():
    found = azimuths(laser(), 2650)
    np.testing.assert_allclose(np.diff(found), -2 * np.pi / 2650)


def test_no_point_at_all(made):
    empty = RangeImage(np.full((*SHAPE, 4), -1, np.float32), None)
    assert points_of([empty], laser(), motion(made)).xyz.shape == (0, 3)


def spoilt(image: RangeImage, value: float, channel: int) -> RangeImage:
    values = image.values.copy()
    cell = tuple(np.argwhere(values[:, :, 0] > 0)[0])
    values[(*cell, channel)] = value
    return replace(image, values=values)


@pytest.mark.parametrize(
    ("value", "channel"), [(np.nan, 0), (np.inf, 0), (1e20, 0), (np.nan, 1), (np.inf, 2)]
)
def test_values_that_no_scanner_writes(made, value, channel):
    first, second = made.returns[TOP]
    with pytest.raises(UserError, match="1 cells of the range image hold NaN"):
        points_of((spoilt(first, value, channel), second), laser(), motion(made))


def test_poses_that_do_not_belong_to_the_frame(made):
    poses = made.pixel_pose.copy()
    poses[:, :, 3] += 5000
    with pytest.raises(UserError, match="poses of pixels lie"):
        points_of(made.returns[TOP], laser(), Motion(poses, made.pose))
    poses[:] = np.nan
    with pytest.raises(UserError, match="poses of pixels lie nan m"):
        points_of(made.returns[TOP], laser(), Motion(poses, made.pose))


def test_shapes_that_do_not_fit(made):
    first, second = made.returns[TOP]
    with pytest.raises(UserError, match="the calibration lists 3 beams"):
        points_of((first,), replace(laser(), inclinations=np.zeros(3)))
    with pytest.raises(UserError, match=r"range image has the shape \(4, 11, 4\)"):
        points_of((first, replace(second, values=second.values[:, :-1])), laser())
    with pytest.raises(UserError, match=r"image of labels has the shape \(4, 12, 1\)"):
        points_of((replace(first, labels=first.labels[:, :, :1]),), laser())
    with pytest.raises(UserError, match="image of poses"):
        points_of((first,), laser(), Motion(made.pixel_pose[:-1], made.pose))
    with pytest.raises(UserError, match="one return of the frame has labels"):
        points_of((first, replace(second, labels=None)), laser())
