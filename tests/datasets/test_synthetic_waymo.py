"""The Waymo worlds: geometry against the specification's formulas and the ray caster, labels, returns, images."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_worlds import waymo_spec

from core.datasets.synthetic import WorldSpec, generate
from core.datasets.synthetic.raycast import cast
from core.datasets.synthetic.render import render_rays
from core.datasets.synthetic.scene import Scene
from core.datasets.synthetic.waymo_camera import pixel_rays
from core.datasets.synthetic.waymo_format import ORIGIN, RecordWorld, gap
from core.datasets.synthetic.waymo_rig import DELAYS, calibrations
from core.datasets.waymo.frame import CAMERAS, TOP, CameraCalibration, CameraImage, Context, Frame
from core.datasets.waymo.lens import distort
from core.datasets.waymo.range_image import CellPoints, Motion, points_of
from core.datasets.waymo.segment import Segment
from core.datasets.waymo.v1.segment import RecordSegment
from core.datasets.waymo.v2.segment import TableSegment
from core.errors import UserError

SPEC = waymo_spec("waymo-v1")
COLUMNS = 132
TIMES = (0.0, 0.25, 0.5)  # s, of the frames' first firings
OBJECTS = [1, 2, 3, 4, 5, 6, 7, 11, 12, 13]


def scene(index: int) -> Scene:
    return RecordWorld().scene(SPEC, index)


def segments(root: Path, kind: type[Segment] = RecordSegment) -> list[Segment]:
    """Those of the world's two scenes."""
    train, val = kind.find(root / "training"), kind.find(root / "validation")
    assert [list(train), list(val)] == [[SPEC.names[0]], [SPEC.names[1]]]
    return [*train.values(), *val.values()]


def frames(root: Path) -> Iterator[tuple[int, float, Context, Frame]]:
    """All frames: number of the scene, time, what the segment says, and the frame."""
    for index, segment in enumerate(segments(root)):
        for time, row in zip(TIMES, segment.frames()):
            yield index, time, segment.context(), segment.read(row)


def cells(context: Context, frame: Frame) -> CellPoints:
    assert frame.pixel_pose is not None
    motion = Motion(frame.pixel_pose, frame.pose)
    return points_of(frame.returns[TOP], context.lasers[TOP], motion)


def firing(time: float, column: np.ndarray | int) -> np.ndarray | float:
    """The turn takes 0.1 s, and column 0 fires first."""
    return time + 0.1 * np.asarray(column) / COLUMNS


def beam(context: Context, row: int, column: int) -> np.ndarray:
    """Direction of a pixel in the vehicle at its firing, by section 3 of Waymo's paper: f64 [3]."""
    laser = context.lasers[TOP]
    assert laser.inclinations is not None
    up = laser.inclinations[len(laser.inclinations) - 1 - row]
    ratio = (COLUMNS - column - 0.5) / COLUMNS
    around = (2 * ratio - 1) * np.pi - np.radians(148.474)
    local = [np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)]
    return laser.extrinsic[:3, :3] @ local


def test_layout_and_what_each_frame_has(tiny_waymo_v1: Path) -> None:
    names = [f"segment-{name}_with_camera_labels.tfrecord" for name in SPEC.names]
    found = sorted(str(path.relative_to(tiny_waymo_v1)) for path in tiny_waymo_v1.rglob("*.tf*"))
    assert found == [f"training/{names[0]}", f"validation/{names[1]}"]
    assert all(re.fullmatch(r"\d{19,20}_\d{4}_000_\d{4}_000", name) for name in SPEC.names)
    for segment in segments(tiny_waymo_v1):
        rows = segment.frames()
        assert rows["labelled"].tolist() == [True, False, True]
        assert np.diff(rows["timestamp"]).tolist() == [250_000, 250_000]
        for row in rows:
            frame = segment.read(row)
            first, second = frame.returns[TOP]
            assert first.values.shape == second.values.shape == (64, COLUMNS, 4)
            assert (first.labels is not None) == row["labelled"] == (second.labels is not None)
            assert sorted(segment.images(row, list(CAMERAS.values()))) == sorted(CAMERAS.values())


def test_poses_of_pixels_lead_to_the_millimetre_where_the_laser_looked(tiny_waymo_v1: Path) -> None:
    """Firing by firing from the exact poses in float64, kilometres from the world's origin."""
    assert np.abs(ORIGIN[:2]).min() > 2000
    rng = np.random.default_rng(0)
    for index, time, context, frame in frames(tiny_waymo_v1):
        points = cells(context, frame)
        world = points.xyz @ frame.pose[:3, :3].T + frame.pose[:3, 3]
        for k in rng.choice(len(points), 60, replace=False):
            row, column = int(points.row[k]), int(points.column[k])
            ego = scene(index).ego_pose(firing(time, column))
            lidar = ego[:3, :3] @ (1.43, 0, 2.184) + ego[:3, 3]
            distance = float(frame.returns[TOP][points.number[k] - 1].values[row, column, 0])
            seen = lidar + distance * (ego[:3, :3] @ beam(context, row, column)) + ORIGIN
            np.testing.assert_allclose(world[k], seen, atol=1e-3)
        middle = scene(index).ego_pose(time + 0.05)
        np.testing.assert_allclose(frame.pose[:3, 3], middle[:3, 3] + ORIGIN, atol=1e-9)


def test_ranges_are_those_of_the_ray_caster_from_the_pose_of_the_firing(
    tiny_waymo_v1: Path,
) -> None:
    """On houses, which are smooth, they differ by the noise alone (2 sigma of 18 mm at most).

    A few beams met traffic where it stands in the middle of the turn, or lost the echo of what hid the house.
    """
    close, without_motion = [], []
    for index, time, context, frame in frames(tiny_waymo_v1):
        first = frame.returns[TOP][0]
        if first.labels is None:
            continue
        now = scene(index).snapshot(time + 0.05, body=False)
        cells_of_houses = np.argwhere(first.labels[:, :, 1] == 14)
        for row, column in np.random.default_rng(1).choice(cells_of_houses, 200, replace=False):
            found = float(first.values[row, column, 0])
            ego = scene(index).ego_pose(float(firing(time, column)))
            ray = beam(context, row, column)
            close.append(abs(once(now, ego, ray) - found) < 0.037)
            without_motion.append(abs(once(now, now.ego, ray) - found) < 0.037)
    assert np.mean(close) > 0.97
    assert np.mean(without_motion) < 0.6


def once(now, ego: np.ndarray, ray: np.ndarray) -> float:
    """Distance to the first surface of a static world."""
    origin = ego[:3, :3] @ (1.43, 0, 2.184) + ego[:3, 3]
    direction = np.ascontiguousarray((ego[:3, :3] @ ray)[None])
    distance, *_ = cast(now.geometry, origin, direction, 75.0, len(now.solids.kind))
    return float(distance[0])


def test_second_returns_lie_behind_the_first_and_are_weaker_and_longer(tiny_waymo_v1: Path) -> None:
    firsts, seconds = [], []
    for _, _, _, frame in frames(tiny_waymo_v1):
        first, second = (image.values for image in frame.returns[TOP])
        both = second[:, :, 0] > 0
        assert (first[both, 0] > 0).all()
        assert (second[both, 0] - first[both, 0]).min() > 0.3
        for values, found in ((first, firsts), (second, seconds)):
            missing = values[:, :, 0] <= 0
            assert (values[missing] == -1).all() and (values[~missing, 3] == 0).all()
            assert (values[~missing, 0] <= 75).all() and (values[~missing, 1] > 0).all()
            found.append(values[~missing])
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    assert 0.01 < len(second) / len(first) < 0.15
    assert first[:, 1].max() > 5 and second[:, 1].mean() < first[:, 1].mean()  # reflectors
    assert first[:, 2].min() >= 0 and second[:, 2].max() <= 1.5
    assert second[:, 2].mean() > 2 * first[:, 2].mean()


def test_labels_are_classes_of_the_surface_and_numbers_of_objects(tiny_waymo_v1: Path) -> None:
    """Points with an instance lie in that object's box where it stood when they were measured."""
    seen: set[int] = set()
    moving = 0
    for index, time, context, frame in frames(tiny_waymo_v1):
        points = cells(context, frame)
        if points.labels is None:
            continue
        instance, kind = points.labels.T
        seen |= set(kind.tolist())
        assert (np.isin(kind, OBJECTS) | (instance == 0)).all()
        world = points.xyz @ frame.pose[:3, :3].T + frame.pose[:3, 3] - ORIGIN
        things = {thing.number: thing for thing in scene(index).things}
        for k in np.flatnonzero((instance > 0) & (points.number == 1)):
            thing = things[int(instance[k])]
            centre, yaw = thing.box_at(float(firing(time, points.column[k])))
            x, y, z = world[k] - centre
            local = (x * np.cos(yaw) + y * np.sin(yaw), y * np.cos(yaw) - x * np.sin(yaw), z)
            assert (np.abs(local) < thing.size / 2 + 0.08).all()
            moving += thing.moving
    assert moving > 200
    assert seen >= {0, 1, 2, 4, 7, 8, 10, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22}
    assert seen <= set(range(23))


def images(root: Path) -> Iterator[tuple[int, float, Context, str, CameraImage, CellPoints]]:
    """Those of the labelled frames."""
    for index, segment in enumerate(segments(root)):
        for time, row in zip(TIMES, segment.frames()):
            if not row["labelled"]:
                continue
            points = cells(segment.context(), segment.read(row))
            world = points.xyz @ row["pose"][:3, :3].T + row["pose"][:3, 3]
            for name, image in segment.images(row, list(CAMERAS.values())).items():
                yield index, time, segment.context(), name, image, replace(points, xyz=world)


def pixels(camera: CameraCalibration, image: CameraImage, world: np.ndarray) -> np.ndarray:
    """Where points are drawn, f64 [N, 2] (column, row), NaN behind the camera or far aside."""
    vehicle = (world - image.pose[:3, 3]) @ image.pose[:3, :3]
    forward, left, up = ((vehicle - camera.extrinsic[:3, 3]) @ camera.extrinsic[:3, :3]).T
    with np.errstate(all="ignore"):
        flat = np.stack([-left, -up], 1) / forward[:, None]
    flat[(forward < 0.5) | (np.abs(flat).max(1) > 0.8)] = np.nan
    drawn = distort(flat, camera.distortion)
    return drawn * camera.matrix[[0, 1], [0, 1]] + camera.matrix[:2, 2]


def test_images_are_taken_through_the_lens_at_their_own_time(tiny_waymo_v1: Path) -> None:
    sizes = {name: (96, 44) if "SIDE" in name else (96, 64) for name in CAMERAS.values()}
    for index, time, context, name, image, _ in images(tiny_waymo_v1):
        camera = context.cameras[name]
        now = scene(index).snapshot(time + DELAYS[name], body=False)
        np.testing.assert_allclose(image.pose[:3, 3], now.ego[:3, 3] + ORIGIN, atol=1e-9)
        with Image.open(io.BytesIO(image.content)) as picture:
            assert picture.size == camera.size == sizes[name] and picture.format == "JPEG"
            stored = np.asarray(picture, np.float64)
        pose = now.ego @ camera.extrinsic
        drawn, _, _ = render_rays(now, pose[:3, 3], pixel_rays(camera) @ pose[:3, :3].T)
        match = np.corrcoef(stored.ravel(), np.clip(drawn, 0, 1).ravel())[0, 1]
        assert match > 0.95, name


def test_points_fall_on_their_object_in_every_camera(tiny_waymo_v1: Path) -> None:
    agreed = dict.fromkeys(CAMERAS.values(), 0)
    total = dict.fromkeys(CAMERAS.values(), 0)
    for index, time, context, name, image, points in images(tiny_waymo_v1):
        assert points.labels is not None
        camera = calibrations(context.name, 0.12).cameras[name]
        now = scene(index).snapshot(time + DELAYS[name], body=False)
        pose = now.ego @ camera.extrinsic
        rays = pixel_rays(camera)
        _, things, distance = render_rays(now, pose[:3, 3], rays @ pose[:3, :3].T)
        place = pixels(camera, image, points.xyz)
        width, height = camera.size
        inside = ((place > -0.5) & (place < np.array([width, height]) - 0.5)).all(1)
        column, row = np.round(place[inside]).astype(int).T
        away = np.linalg.norm(points.xyz[inside] - ORIGIN - pose[:3, 3], axis=1)
        plain = np.abs(distance[row, column] - away) < 0.3 + 0.03 * away  # nothing stands between
        assert plain.mean() > 0.6, name
        own = points.labels[inside, 0]
        both = plain & (own > 0)
        agreed[name] += int((things[row, column][both] == own[both]).sum())
        total[name] += int(both.sum())
    assert sum(total.values()) > 300
    for name in CAMERAS.values():
        assert agreed[name] >= 0.9 * total[name], name


@pytest.mark.parametrize(("version", "workers"), [("v1", 2), ("v2", 1)])
def test_equal_towns_are_equal_bytes_from_any_number_of_workers(
    version: str, workers: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """And the first town of a larger world is that of a smaller one."""
    larger = request.getfixturevalue(f"tiny_waymo_{version}")
    spec = replace(SPEC, format=f"waymo-{version}", scenes=1, workers=workers)
    smaller = generate(tmp_path, spec)
    files = [path.relative_to(smaller) for path in (smaller / "training").rglob("*.*")]
    assert len(files) == {"v1": 1, "v2": 8}[version]
    for path in files:
        assert (smaller / path).read_bytes() == (larger / path).read_bytes(), path


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_without_images_the_scans_are_the_same(
    version: str, tmp_path: Path, tiny_waymo_v1: Path
) -> None:
    spec = replace(SPEC, format=f"waymo-{version}", scenes=1, keyframes=1, image_scale=0)
    kind = {"v1": RecordSegment, "v2": TableSegment}[version]
    (bare,) = kind.find(generate(tmp_path, spec) / "training").values()
    (row,) = bare.frames()
    assert bare.context().cameras == {} and bare.images(row, list(CAMERAS.values())) == {}
    whole = segments(tiny_waymo_v1)[0]
    assert plain(bare.read(row)) == plain(whole.read(whole.frames()[0]))


@pytest.mark.parametrize(("sweeps", "count", "apart"), [(0, 3, 0.5), (4, 11, 0.1), (9, 21, 0.1)])
def test_labels_come_at_two_hertz_and_turns_never_overlap(
    sweeps: int, count: int, apart: float
) -> None:
    spec = replace(SPEC, keyframes=3, sweeps_per_keyframe=sweeps)
    assert RecordWorld().frames(spec) == count and gap(spec) == pytest.approx(apart)


def test_tables_hold_what_the_records_hold_to_the_bit(
    tiny_waymo_v1: Path, tiny_waymo_v2: Path
) -> None:
    cameras = list(CAMERAS.values())
    for one, other in zip(segments(tiny_waymo_v1), segments(tiny_waymo_v2, TableSegment)):
        assert plain(one.context()) == plain(other.context())
        rows, others = one.frames(), other.frames()
        for key in ("timestamp", "labelled", "pose"):
            assert np.array_equal(rows[key], others[key])
        for row, same in zip(rows, others):
            assert plain(one.read(row)) == plain(other.read(same))
            assert plain(one.images(row, cameras)) == plain(other.images(same, cameras))


def plain(value: object) -> object:
    """What can be compared: dataclasses and mappings as dictionaries, arrays as type, shape and bytes."""
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return value


def test_splits_have_as_many_names_as_the_official_ones() -> None:
    spec = WorldSpec(format="waymo-v1", scenes=1000, val_scenes=202)
    assert (
        len(set(spec.names)) == 1000
        and spec.names[:2] == WorldSpec(format="waymo-v1", scenes=2).names
    )
    with pytest.raises(UserError, match="training scenes"):
        WorldSpec(format="waymo-v1", scenes=800, val_scenes=1)
