"""The Waymo reader on tiny segments of v1: frames, points, sweeps, cameras, splits, and what it refuses."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from waymo_segments import (
    FRAMES,
    HEADINGS,
    NAMES,
    SHAPE,
    FakeSegment,
    cameras,
    frame,
    frames,
    image_pose,
    images,
    laser,
    write_v1,
)
from waymo_segments import context as context_of

from core.config import Config
from core.datasets import build_dataset
from core.datasets.waymo import splits
from core.datasets.waymo.cameras import undistorted
from core.datasets.waymo.frame import TOP
from core.datasets.waymo.lens import distort, undistort
from core.datasets.waymo.range_image import Motion, points_of
from core.datasets.waymo.v1.writer import segment_file, write_segment
from core.errors import UserError

FIRST, SECOND = NAMES["training"]
START = 1_500_000_000_000_000


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_v1(tmp_path_factory.mktemp("waymo"))


@pytest.fixture
def spoilt(root, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(root, tmp_path / "waymo")


def build(root, split="train", **keys):
    section = {"name": "waymo", "root": str(root), "index_workers": 0, **keys}
    return build_dataset(Config({"dataset": section}), split)


def time_of(number: int) -> int:
    return START + 100_000 * number


def moved(source: np.ndarray, target: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """Points of the vehicle at ``source`` in the system of the vehicle at ``target``."""
    world = xyz.astype(np.float64) @ source[:3, :3].T + source[:3, 3]
    return (world - target[:3, 3]) @ np.linalg.inv(target[:3, :3]).T


def test_scans_are_the_labelled_frames(root):
    scans = build(root)
    assert [scans.token(i) for i in range(len(scans))] == [
        f"{name}/{time_of(number)}" for name in NAMES["training"] for number in (2, 7)
    ]
    assert scans.scene(3) == scans.drive(3) == SECOND
    assert [scans.index_of(scans.token(i)) for i in range(4)] == [0, 1, 2, 3]
    assert scans.describe() == f"Waymo Open Dataset v1 train: 4 frames of 2 segments in {root}"
    assert len(build(root, "val")) == 2
    assert not scans.is_official and scans.expected == 23_691


@pytest.mark.parametrize(
    "token", [f"{FIRST}/{START}", f"{FIRST}/x", "other/1", FIRST, f"{FIRST}/" + "9" * 40]
)
def test_tokens_of_no_scan(root, token):
    with pytest.raises(UserError, match="the train split has no scan"):
        build(root).index_of(token)


def test_a_scan_has_the_points_of_its_frame(root):
    scan = build(root).load(1, cameras=False)
    made = frame(7, FIRST, labelled=True)
    expected = points_of(made.returns[TOP], laser(), Motion(made.pixel_pose, made.pose))
    points = scan.points
    np.testing.assert_array_equal(points["xyz"], expected.xyz)
    np.testing.assert_array_equal(points["intensity"], np.tanh(expected.values[:, 1]))
    np.testing.assert_array_equal(points["elongation"], expected.values[:, 2])
    np.testing.assert_array_equal(points["range"], expected.values[:, 0])
    np.testing.assert_array_equal(points["no_label_zone"], expected.values[:, 3] == 1)
    np.testing.assert_array_equal(points["label"], expected.labels[:, 1])
    np.testing.assert_array_equal(points["instance"], expected.labels[:, 0])
    np.testing.assert_array_equal(points["beam"], expected.row + 1)
    assert points["label"].dtype == np.uint8 and points["return"].dtype == np.uint8
    cells = build(root).cells(1)
    for name, values in (("return", cells.number), ("row", cells.row), ("column", cells.column)):
        np.testing.assert_array_equal(points[name], values)
    classes = cells.images(points["label"])
    assert classes.shape == (2, *SHAPE)
    for image, found in zip(made.returns[TOP], classes):
        there = image.values[:, :, 0] > 0
        np.testing.assert_array_equal(found, np.where(there, image.labels[:, :, 1], 0))
    np.testing.assert_array_equal(scan.pose, made.pose)
    assert not scan.images_optional


def test_the_scanner_is_that_of_the_segment(root):
    sensor = build(root).load(0, cameras=False).sensor
    assert sensor.origin == pytest.approx((1.43, 0, 2.184))
    assert (sensor.beams, sensor.elevation) == (4, pytest.approx((-0.3, 0.04)))
    assert sensor.intensity_scale == 1
    given = build(root, sensor={"beams": 32}).load(0, cameras=False).sensor
    assert given.beams == 32 and given.origin == sensor.origin


def test_first_returns_and_recorded_intensities(root):
    both = build(root).load(0, cameras=False).points
    scans = build(root, returns="first", intensity="raw")
    first = scans.load(0, cameras=False).points
    np.testing.assert_array_equal(first["xyz"], both["xyz"][both["return"] == 1])
    np.testing.assert_allclose(np.tanh(first["intensity"]), both["intensity"][both["return"] == 1])
    assert first["intensity"].max() > 1
    with pytest.raises(UserError, match="both returns of TOP"):
        scans.cells(0)


def test_labels_are_not_read_where_they_are_not_wanted(root):
    scans = build(root, use_labels=False)
    assert len(scans) == 4
    assert scans.load(0, cameras=False).labels is None and scans.files(0).labels is None
    assert build(root).files(0).labels == build(root).files(0).points


def test_all_frames(root):
    scans = build(root, frames="all")
    assert len(scans) == 2 * FRAMES and scans.expected is None
    labelled = [scans.load(i, cameras=False).labels is not None for i in range(FRAMES)]
    assert np.flatnonzero(labelled).tolist() == [2, 7]
    assert scans.load(0, cameras=False).images_optional


def test_sweeps_go_through_the_vehicle_s_poses(root):
    sweeps = {"num_sweeps": 2, "only_past": False}
    scan = build(root, multisweeps=sweeps).load(0, cameras=False)
    points = scan.points
    assert set(points["sweep"]) == {0, 1, 2, 3, 4}
    here = frame(2, FIRST, labelled=True)
    for number, other in enumerate((1, 0, 3, 4), 1):
        made = frame(other, FIRST, labelled=False)
        own = points_of(made.returns[TOP], laser(), Motion(made.pixel_pose, made.pose)).xyz
        near = (np.abs(own[:, :2] - laser().extrinsic[:2, 3]) < 1).all(1)
        part = points.take(points["sweep"] == number)
        expected = moved(made.pose, here.pose, own[~near])
        np.testing.assert_allclose(part["xyz"], expected, atol=2e-5)
        np.testing.assert_allclose(part["lag"], 0.1 * (2 - other), atol=1e-6)
        assert (part["label"] == 0).all()
    np.testing.assert_array_equal(
        points.take(points["sweep"] == 0)["xyz"], build(root).load(0, cameras=False).xyz
    )


def test_sweeps_end_with_the_segment(root):
    scans = build(root, multisweeps={"num_sweeps": 2}, sweep_stride=2)
    scan = scans.load(2, cameras=False)  # the second segment's frame 2: frame 0 alone is before it
    assert set(scan.points["sweep"]) == {0, 1}
    assert scan.points["lag"].max() == pytest.approx(0.2)


def test_frames_between(root):
    others = build(root).between()
    assert len(others) == 2 * FRAMES - 4
    assert others.token(0) == f"{FIRST}/{START}" and others.token(2).endswith(str(time_of(3)))
    scan = others.load(2)
    assert scan.labels is None and scan.images_optional and len(scan.cameras) == 5
    np.testing.assert_array_equal(scan.pose, frame(3, FIRST, labelled=False).pose)
    with pytest.raises(UserError, match="has no sweeps between"):
        build(root, frames="all").between()


def test_training_with_unlabelled_sweeps(root):
    scans = build(root, unlabelled="sweeps")
    assert len(scans) == 20 and scans.budget.sum() == 4
    assert scans.load(int(np.flatnonzero(~scans.budget)[0]), cameras=True).labels is None
    with pytest.raises(UserError, match="unlabelled: sweeps"):
        build(root, unlabelled="rest", frames="all")


def test_cameras_see_points_where_the_lens_and_the_poses_put_them(root):
    """A point is led to its pixel step by step; the camera's one matrix does the same on the undistorted image."""
    scan = build(root).load(1)
    made = frame(7, FIRST, labelled=True)
    assert [camera.name for camera in scan.cameras] == list(HEADINGS)
    for camera in scan.cameras:
        calibration = cameras()[camera.name]
        vehicle = moved(made.pose, image_pose(made, camera.name), scan.xyz)
        seen = (vehicle - calibration.extrinsic[:3, 3]) @ calibration.extrinsic[:3, :3]
        depth = seen[:, 0]
        ahead = depth > 1
        flat = np.stack([-seen[:, 1], -seen[:, 2]], 1)[ahead] / depth[ahead, None]
        pixels = flat @ calibration.matrix[:2, :2].T + calibration.matrix[:2, 2]
        uv, found, visible = camera.project(scan.xyz)
        np.testing.assert_allclose(uv[ahead], pixels, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found, depth, atol=1e-4)
        width, height = calibration.size
        inside = (pixels > 0).all(1) & (pixels < (width - 1, height - 1)).all(1)
        np.testing.assert_array_equal(visible[ahead], inside)
        assert not visible[~ahead].any()
        image = camera.load()
        assert image.shape == (height, width, 3)
        colour = (40 * list(HEADINGS).index(camera.name), 20, 200)
        np.testing.assert_allclose(image[height // 2, width // 2], colour, atol=3)


def test_cameras_are_chosen_and_left_out(root):
    scan = build(root, cameras=["SIDE_LEFT", "FRONT"]).load(0)
    assert [camera.name for camera in scan.cameras] == ["SIDE_LEFT", "FRONT"]
    assert build(root).load(0, cameras=False).cameras == ()
    files = build(root).files(0)
    assert list(files.images) == list(HEADINGS) and set(files.images.values()) == {files.points}
    with pytest.raises(UserError, match="Waymo has no camera CAM_FRONT"):
        build(root, cameras=["CAM_FRONT"])


def without_front(name):
    for made, taken in frames(name):
        yield made, {camera: image for camera, image in taken.items() if camera != "FRONT"}


def test_images_that_are_missing(spoilt):
    path = spoilt / "training" / segment_file(SECOND)
    write_segment(path, context_of(SECOND), without_front(SECOND))
    scans = build(spoilt)
    assert set(scans.absent_images(3)) == {"FRONT"} and not scans.absent_images(0)
    with pytest.raises(
        UserError, match=rf"{SECOND}.*frame {time_of(7)}: the frame has no image of FRONT"
    ):
        scans.load(3)
    with pytest.raises(UserError, match="the image of FRONT does not exist"):
        scans.check_images()
    assert scans.between().load(8).cameras == ()  # an unlabelled frame may do without
    build(spoilt, cameras=["SIDE_LEFT"]).check_images()


def test_digests_of_images_are_those_of_their_bytes(root):
    """And not of the file, which holds all frames of the segment."""
    taken = images(frame(2, FIRST, labelled=True))
    expected = [hashlib.sha256(image.content).hexdigest() for image in taken.values()]
    assert list(build(root).image_digests(0)) == expected
    assert list(build(root, cameras=["FRONT"]).image_digests(0)) == expected[:1]


def test_it_pickles_small(root):
    scans = build(root)
    data = pickle.dumps(scans)
    assert len(data) < 6000
    again = pickle.loads(data)
    np.testing.assert_array_equal(
        again.load(0, cameras=False).xyz, scans.load(0, cameras=False).xyz
    )


# --- splits and formats ---------------------------------------------------------------------------------------------
def test_gaps_and_official_counts(root):
    scans = build(root)
    assert any("796 of 798 segments of training are not there" in text for text in scans.missing())
    assert build(root, segments={"train": [SECOND]}).missing() == []
    assert len(build(root, segments={"train": [SECOND]})) == 2
    with pytest.raises(
        UserError, match=r"dataset\.segments\.train names other, which is not there"
    ):
        build(root, segments={"train": ["other"]})


def test_the_test_split_is_a_list(root, tmp_path):
    with pytest.raises(UserError, match=r"dataset\.test_frames.*told by a list"):
        build(root, "test")
    name = NAMES["testing"][0]
    path = tmp_path / "list.txt"
    path.write_text(f"{name},{time_of(4)}\n{name},{time_of(1)}\nother,123\n")
    scans = build(root, "test", test_frames=str(path))
    assert [scans.token(i) for i in range(2)] == [f"{name}/{time_of(1)}", f"{name}/{time_of(4)}"]
    assert scans.expected == 2_982 and scans.files(0).labels is None
    assert any(
        "1 of 3 frames of list.txt are not there, the first: other,123" in t
        for t in scans.missing()
    )
    assert len(build(root, "test", frames="all")) == FRAMES


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "names no frame"),
        ("a,b", "line 1"),
        ("a,1\na,1", "line 2"),
        ("a 1", "line 1"),
        ("other,1", "none of"),
    ],
)
def test_lists_that_are_none(root, tmp_path, text, match):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=match):
        build(root, "test", test_frames=str(path))


def test_roots(root, tmp_path):
    assert build(root, format="v1").describe() == build(root).describe()
    with pytest.raises(UserError, match=rf"Did you mean {root}\?"):
        build(root / "training")
    with pytest.raises(UserError, match="this folder does not exist"):
        build(tmp_path / "nowhere")
    (tmp_path / "validation").mkdir()
    with pytest.raises(UserError, match="the train split is empty: no segment lies in training"):
        build(tmp_path)
    with pytest.raises(UserError, match=r"dataset\.format is v2 .*but training holds v1"):
        build(root, format="v2")
    nested = tmp_path / "individual_files"
    shutil.copytree(root, nested)
    (tmp_path / "validation").rmdir()
    assert build(tmp_path).root == nested


def test_two_formats_in_one_folder(spoilt):
    (spoilt / "training" / "lidar").mkdir()
    (spoilt / "training" / "lidar" / "a.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="training holds the formats v1 and v2"):
        build(spoilt)
    assert len(build(spoilt, format="v1")) == 4


def test_damage_is_named(spoilt):
    path = spoilt / "training" / segment_file(SECOND)
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(UserError, match=SECOND):
        build(spoilt)
    path.write_bytes(content)
    scans = build(spoilt)
    changed = bytearray(content)
    row = scans._source.frames.rows[scans._rows[2]]
    changed[int(row["start"] + row["size"] // 2)] ^= 1
    path.write_bytes(changed)
    with pytest.raises(UserError, match=SECOND):
        scans.load(2, cameras=False)
    scans.load(3, cameras=False)


def test_a_split_without_labels(spoilt):
    for name in NAMES["training"]:
        write_segment(
            spoilt / "training" / segment_file(name), context_of(name), frames(name, labelled=False)
        )
    with pytest.raises(UserError, match="no frame of the train split has labels"):
        build(spoilt)
    assert len(build(spoilt, frames="all")) == 2 * FRAMES


# --- frames that are not as they were indexed -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: replace(f, timestamp=5), "this is frame 5 of"),
        (lambda f: replace(f, context="b"), "of b, not"),
        (lambda f: replace(f, pose=np.eye(4)), "another pose"),
        (lambda f: replace(f, returns={}), "no range image of TOP"),
        (lambda f: replace(f, pixel_pose=None), "no poses of its pixels"),
    ],
)
def test_frames_are_compared_with_the_index(tmp_path, monkeypatch, change, match):
    monkeypatch.setitem(splits.FORMATS, "v1", "waymo_segments:FakeSegment")
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "a.fake").write_bytes(b"")
    (folder / "a.tfrecord").write_bytes(b"")
    scans = build(tmp_path)
    original = FakeSegment.read
    monkeypatch.setattr(FakeSegment, "read", lambda *args: change(original(*args)))
    with pytest.raises(UserError, match=match):
        scans.load(0, cameras=False)


def test_the_lens_is_taken_out_of_an_image():
    """A smooth picture drawn through the lens comes back as the pinhole camera would have drawn it."""
    calibration = cameras()["FRONT"]
    big = replace(calibration, matrix=np.diag([10, 10, 1]) @ calibration.matrix, size=(480, 320))

    def picture(flat):
        return np.stack(
            [
                127 + 100 * np.sin(9 * flat[..., 0]),
                127 + 100 * np.cos(7 * flat[..., 1]),
                50 + 0 * flat[..., 0],
            ],
            -1,
        )

    v, u = np.mgrid[:320, :480].astype(np.float64)
    flat = np.stack(
        [(u - big.matrix[0, 2]) / big.matrix[0, 0], (v - big.matrix[1, 2]) / big.matrix[1, 1]], -1
    )
    drawn = np.rint(picture(undistort(flat, big.distortion))).astype(np.uint8)
    found = undistorted(drawn, big)
    places = (
        distort(flat, big.distortion) * (big.matrix[0, 0], big.matrix[1, 1]) + big.matrix[:2, 2]
    )
    inside = (places >= 0).all(-1) & (places <= (479, 319)).all(-1)
    assert inside.mean() > 0.95
    np.testing.assert_allclose(found[inside], picture(flat)[inside], atol=1.6)
    assert (found[~inside] == 0).all()
    plain = replace(big, distortion=np.zeros(5))
    assert undistorted(drawn, plain) is drawn
