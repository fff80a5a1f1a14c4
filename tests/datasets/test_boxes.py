"""Boxes about objects: which points they hold, PandaSet's cuboids as boxes, and files of boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.config import Config
from core.contracts.boxes import Boxes, in_box
from core.datasets import build_dataset
from core.datasets.boxes import read_boxes
from core.datasets.pandaset.cuboids import boxes_of
from core.errors import UserError
from core.geometry import rigid


def turn(axis: str, angle: float) -> np.ndarray:
    """f64 [3, 3], counter-clockwise about an axis."""
    c, s = np.cos(angle), np.sin(angle)
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    return np.array(rows[axis])


def test_points_of_a_box_are_those_drawn_in_it() -> None:
    rng = np.random.default_rng(0)
    size, heading, centre = np.array([4.0, 2.0, 1.5]), 2.1, np.array([10.0, -3.0, 0.5])
    place = rng.uniform(-0.75, 0.75, (4000, 3))  # of the sides
    place = place[np.abs(np.abs(place) - 0.5).min(1) > 1e-6]
    points = (place * size) @ turn("z", heading).T + centre
    inside = (np.abs(place) < 0.5).all(1)
    assert 500 < inside.sum() < 2000
    np.testing.assert_array_equal(in_box(points - centre, size, heading), inside)
    boxes = Boxes(
        centre[None].repeat(2, 0), np.stack([size, size * 9]), np.array([heading, 0]), ("a", "b")
    )
    assert boxes.counts(points).tolist() == [inside.sum(), len(points)]


# --- PandaSet ---------------------------------------------------------------------------------------------------------
YAW, TILT = 0.7, 0.05  # rad, of the vehicle in the world


def pose() -> np.ndarray:
    """World from scan: turned about z, nose up, leaning."""
    rotation = turn("z", YAW) @ turn("y", -TILT) @ turn("x", 0.02)
    return rigid(rotation, np.array([100.0, -50.0, 3.0]))


def cuboids(**columns: list) -> dict[str, np.ndarray]:
    """A car whose length points 0.2 rad left of the vehicle's course, and a pedestrian of another sensor."""
    centre = np.array([[112.0, -41.0, 4.0], [90.0, -60.0, 3.9]])
    yaw = YAW + 0.2 - np.pi / 2  # of the cuboid's own x; its own y is the length
    table = {
        "uuid": ["a", "b"], "label": ["Car", "Pedestrian"], "yaw": [yaw, 0.0],
        "position.x": centre[:, 0], "position.y": centre[:, 1], "position.z": centre[:, 2],
        "dimensions.x": [1.9, 0.7], "dimensions.y": [4.5, 0.8], "dimensions.z": [1.6, 1.8],
        "cuboids.sibling_id": ["-", "-"], "cuboids.sensor_id": [-1, 1],
    } | columns  # fmt: skip
    objects = ("uuid", "label", "cuboids.sibling_id")
    return {k: np.array(v, object if k in objects else None) for k, v in table.items()}


def test_a_cuboid_is_the_same_body_in_the_frame_of_the_boxes() -> None:
    boxes = boxes_of(cuboids(), [0], pose())
    assert boxes.names == ("Car",) and boxes.size.tolist() == [[4.5, 1.9, 1.6]]
    assert boxes.heading[0] == pytest.approx(0.2, abs=1e-3)  # the course is that of the tilted nose
    course = YAW + 0.2
    front = np.array([112.0, -41.0, 4.0]) + 2.25 * np.array([np.cos(course), np.sin(course), 0])
    top = np.array([112.0, -41.0, 4.8])
    scan_from_world = np.linalg.inv(pose())
    (x, y, z), heading = boxes.centre[0], boxes.heading[0]
    for world, expected in {
        tuple(front): (x + 2.25 * np.cos(heading), y + 2.25 * np.sin(heading), z),
        tuple(top): (x, y, z + 0.8),
    }.items():
        in_scan = scan_from_world @ [*world, 1]
        np.testing.assert_allclose((boxes.upright_from_scan @ in_scan)[:3], expected, atol=1e-9)


def test_the_frame_of_the_boxes_is_the_scans_levelled() -> None:
    upright = boxes_of(cuboids(), [0], pose()).upright_from_scan
    np.testing.assert_allclose(upright[:3, 3], 0, atol=1e-9)
    up = np.linalg.inv(pose())[:3, :3] @ [0, 0, 1]
    np.testing.assert_allclose(upright[:3, :3] @ up, [0, 0, 1], atol=1e-12)
    forward = upright[:3, :3] @ [1, 0, 0]
    np.testing.assert_allclose(forward, [np.cos(TILT), 0, np.sin(TILT)], atol=1e-9)


def test_objects_that_two_sensors_saw_are_there_once() -> None:
    seen = {
        "uuid": ["a", "b"],
        "cuboids.sibling_id": ["b", "a"],
        "cuboids.sensor_id": [0, 1],
    }
    table = cuboids(**seen)
    for sensors, names in (([0], ("Car",)), ([1], ("Pedestrian",)), ([0, 1], ("Car",))):
        assert boxes_of(table, sensors, pose()).names == names
    apart = cuboids(**seen | {"cuboids.sibling_id": ["-", "-"]})
    assert len(boxes_of(apart, [0, 1], pose())) == 2


def test_cuboids_without_an_extent_are_left_out() -> None:
    table = cuboids(**{"dimensions.z": [0.0, 1.8]})
    assert boxes_of(table, [0, 1], pose()).names == ("Pedestrian",)


# --- files of boxes ---------------------------------------------------------------------------------------------------
BOX = {"label": "Car", "center": [1, 2, 3], "lwh": [4, 2, 1.5], "heading": 0.5, "id": 7}


def test_a_file_of_boxes(tmp_path: Path) -> None:
    path = tmp_path / "000000.json"
    path.write_text(json.dumps([BOX, BOX | {"label": "Bus", "points": 12}]))
    boxes = read_boxes(path)
    assert boxes.names == ("Car", "Bus") and boxes.points.tolist() == [-1, 12]
    assert boxes.centre[1].tolist() == [1, 2, 3] and boxes.size[0].tolist() == [4, 2, 1.5]
    assert boxes.heading.tolist() == [0.5, 0.5] and (boxes.upright_from_scan == np.eye(4)).all()
    path.write_text("[]")
    assert len(read_boxes(path)) == 0 and read_boxes(path).centre.shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lwh": [4, 0, 1]}, r"box 0 \('Car'\) has sides that are no lengths"),
        ({"heading": float("inf")}, "numbers that no place has|finite number"),
        ({"center": [1, 2, 1e300]}, "numbers that no place has"),
        ({"points": 10**30}, "points"),
        ({"center": [1, 2]}, "center"),
        ({"label": 3}, "label"),
    ],
)
def test_files_that_are_none(change: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "000000.json"
    path.write_text(json.dumps([BOX | change]))
    with pytest.raises(UserError, match=message):
        read_boxes(path)


def test_a_file_that_is_not_there_is_described(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"000000.json.*lwh: .length, width, height."):
        read_boxes(tmp_path / "000000.json")


def test_data_sets_without_boxes_say_who_has_them(tmp_path: Path) -> None:
    np.ones((5, 4), np.float32).tofile(tmp_path / "a.bin")
    section = {"name": "folder", "root": str(tmp_path), "labels": "semantickitti"}
    section |= {"label_files": None, "split": {"val": [0, 0]}}
    dataset = build_dataset(Config({"dataset": section}), "val")
    with pytest.raises(UserError, match=r"boxes of .* are not read here.*PandaSet has them"):
        dataset.boxes(0)
