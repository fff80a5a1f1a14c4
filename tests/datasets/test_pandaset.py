"""The PandaSet reader on sequences written here, point by point, and on real frames where there are some."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from pandas_files import write_table
from PIL import Image

from core.check_data.inspection import inspect_split
from core.config import Config
from core.datasets import build_dataset
from core.datasets.pandaset import CAMERAS
from core.datasets.pandaset.cuboids import RAW_NAMES
from core.errors import UserError
from core.labels import PANDASET

YAW = 0.6  # rad, of the vehicle in the world
SPEED = np.array([0.0, 2.0, 0.0])  # m per frame in PandaSet's frame (x right, y forward)
# In PandaSet's frame at frame 0: x right, y forward, z up; the fifth is a return of the vehicle itself.
LOCAL = np.array(
    [[1, 9, 0.5], [-3, 12, 1], [4, -6, 0], [2, 8, 2], [0.5, 0.5, 1], [-1, 7, 0.2]], np.float64
)
SENSOR = np.array([0, 1, 0, 1, 0, 0])
RAW = np.array([13, 7, 11, 30, 1, 13])
CENTRE, FOCAL = (40.0, 30.0), 50.0


def rotation(yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def origin(frame: int) -> np.ndarray:
    """Of the vehicle in the world, m."""
    return np.array([100.0, -50.0, 3.0]) + frame * rotation(YAW) @ SPEED


def world(local: np.ndarray, frame: int = 0) -> np.ndarray:
    return local @ rotation(YAW).T + origin(frame)


def ours(local: np.ndarray) -> np.ndarray:
    """PandaSet's frame -> x forward, y left, z up."""
    return np.stack([local[:, 1], -local[:, 0], local[:, 2]], 1)


def pose(frame: int, heading: tuple[float, ...]) -> dict:
    position = dict(zip("xyz", origin(frame).tolist()))
    return {"position": position, "heading": dict(zip("wxyz", heading))}


def cuboids(**columns) -> dict[str, np.ndarray]:
    """A car around point 0, seen by both LiDARs as two siblings, and a pedestrian around point 2 (sidewalk)."""
    names = {
        "uuid": ["b-1", "a-2", "c-3"],
        "label": ["Car", "Car", "Pedestrian"],
        "sibling": ["a-2", "b-1", "-"],
    }
    objects = {key: np.array(values, object) for key, values in names.items()}
    centre = world(LOCAL[[0, 0, 2]])
    return {
        "uuid": objects["uuid"], "label": objects["label"], "yaw": np.array([YAW + 0.5] * 3),
        "stationary": np.array([True, True, False]), "position.x": centre[:, 0], "position.y": centre[:, 1],
        "position.z": centre[:, 2], "dimensions.x": np.full(3, 2.0), "dimensions.y": np.full(3, 5.0),
        "dimensions.z": np.full(3, 1.5), "cuboids.sibling_id": objects["sibling"],
        "cuboids.sensor_id": np.array([0, 1, -1]),
    } | columns  # fmt: skip


def write_sequence(
    root: Path, name: str, frames: int = 4, *, labels: bool = True, cameras=("front_camera",)
) -> Path:
    folder = root / name
    half = np.sqrt(0.5)
    headings = (np.cos(YAW / 2), 0.0, 0.0, np.sin(YAW / 2))
    c, s = headings[0] * half, headings[3] * half
    for frame in range(frames):
        points = world(LOCAL) + (
            0 if frame == 0 else 1e-3
        )  # the scene stands still; only the vehicle moves
        table = {
            **dict(zip("xyz", points.T)),
            "i": np.arange(6.0) * 50,
            "t": np.zeros(6),
            "d": SENSOR,
        }
        write_table(folder / "lidar" / f"{frame:02d}.pkl.gz", table)
        if labels:
            write_table(folder / "annotations" / "semseg" / f"{frame:02d}.pkl.gz", {"class": RAW})
            write_table(folder / "annotations" / "cuboids" / f"{frame:02d}.pkl.gz", cuboids())
        for camera in cameras:
            (folder / "camera" / camera).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (80, 60), (10 * frame, 20, 30)).save(
                folder / "camera" / camera / f"{frame:02d}.jpg"
            )
    # The camera looks forward: its x is PandaSet's x, its y points down.
    sensors = {"lidar": headings} | {f"camera/{camera}": (c, -c, -s, s) for camera in cameras}
    for sensor, heading in sensors.items():
        (folder / sensor / "poses.json").write_text(
            json.dumps([pose(f, heading) for f in range(frames)])
        )
        (folder / sensor / "timestamps.json").write_text(
            json.dumps([1000.5 + 0.1 * f for f in range(frames)])
        )
        if sensor != "lidar":
            intrinsic = {"fx": FOCAL, "fy": FOCAL, "cx": CENTRE[0], "cy": CENTRE[1]}
            (folder / sensor / "intrinsics.json").write_text(json.dumps(intrinsic))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pandaset")
    write_sequence(root, "001")
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(written, tmp_path / "data")


def config(root: Path, **keys) -> Config:
    return Config(
        {"dataset": {"name": "pandaset", "root": str(root), "cameras": ["front_camera"], **keys}}
    )


def build(root: Path, part: str = "train", /, **keys):
    return build_dataset(config(root, **keys), part)


# --- one frame ------------------------------------------------------------------------------------------------------
def test_points_labels_and_intensity_of_the_chosen_sensors(written: Path) -> None:
    dataset = build(written)
    assert len(dataset) == 4 and dataset.token(2) == "001/02" and dataset.index_of("001/02") == 2
    scan = dataset.load(0)
    rows = np.flatnonzero(SENSOR == 0)
    np.testing.assert_allclose(scan.xyz, ours(LOCAL)[rows], atol=1e-5)
    assert scan.xyz.dtype == scan.intensity.dtype == scan.time_lag.dtype == np.float32
    assert scan.intensity.tolist() == [0, 100, 200, 250]
    assert [PANDASET.classes[c] for c in scan.labels] == ["car", "sidewalk", "ignore", "car"]
    assert scan.labels.dtype == np.uint8 and scan.keyframe.all() and scan.instances is None
    both = build(written, sensors=["pandar64", "pandargt"]).load(0)
    np.testing.assert_allclose(both.xyz, ours(LOCAL), atol=1e-5)
    forward = build(written, sensors=["pandargt"]).load(0)
    assert [PANDASET.classes[c] for c in forward.labels] == ["road", "pedestrian"]


def test_points_of_a_compressed_frame_are_counted_without_sweeps(written: Path) -> None:
    dataset = build(written, multisweeps={"num_sweeps": 1})
    assert dataset.num_points(2) == np.count_nonzero(SENSOR == 0) < len(dataset.load(2).xyz)


def test_pose_leads_back_into_the_world(written: Path) -> None:
    scan = build(written, sensors=["pandar64", "pandargt"]).load(3)
    assert scan.pose.dtype == np.float64
    np.testing.assert_allclose(scan.pose[:3, :3] @ scan.pose[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(
        scan.xyz @ scan.pose[:3, :3].T + scan.pose[:3, 3], world(LOCAL) + 1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        scan.pose[:3, 0], rotation(YAW) @ [0, 1, 0], atol=1e-12
    )  # x is forward


def test_a_point_falls_on_the_pixel_computed_by_hand(written: Path) -> None:
    (camera,) = build(written).load(0).cameras
    assert (camera.name, camera.size) == ("front_camera", (80, 60))
    uv, depth, visible = camera.project(ours(LOCAL).astype(np.float32))
    right, forward, up = LOCAL[0]
    assert depth[0] == pytest.approx(forward, abs=1e-4)
    expected = [CENTRE[0] + FOCAL * right / forward, CENTRE[1] - FOCAL * up / forward]
    np.testing.assert_allclose(uv[0], expected, atol=1e-3)
    assert visible.tolist() == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]  # one behind, one nearer than 1 m
    image = camera.load()
    assert image.shape == (60, 80, 3) and image.dtype == np.uint8


def test_camera_moves_by_its_own_pose(root: Path) -> None:
    """The image is taken 2 m further on than the scan: depths shrink by as much."""
    path = root / "001" / "camera" / "front_camera" / "poses.json"
    poses = json.loads(path.read_text())
    path.write_text(json.dumps(poses[1:] + poses[-1:]))
    (camera,) = build(root).load(0).cameras
    assert camera.project(ours(LOCAL).astype(np.float32))[1][0] == pytest.approx(
        LOCAL[0, 1] - SPEED[1], abs=1e-4
    )


# --- sweeps ---------------------------------------------------------------------------------------------------------
def test_sweeps_of_a_standing_scene_coincide(written: Path) -> None:
    sweeps = {"num_sweeps": 1, "only_past": False}
    scan = build(written, multisweeps=sweeps, sensors=["pandar64", "pandargt"]).load(1)
    assert scan.keyframe.sum() == 6 and len(scan.xyz) == 6 + 5 + 6, (
        "the vehicle's own return leaves the sweeps"
    )
    past, future = scan.xyz[6:11], scan.xyz[11:]
    np.testing.assert_allclose(past, scan.xyz[[0, 1, 2, 3, 5]], atol=2e-3)
    np.testing.assert_allclose(future, scan.xyz[:6], atol=2e-3)
    np.testing.assert_allclose(scan.time_lag[6:], [0.1] * 5 + [-0.1] * 6, atol=1e-6)
    assert not scan.labels[6:].any() and scan.labels[:6].any()


def test_sweeps_end_with_the_sequence(written: Path) -> None:
    dataset = build(written, multisweeps={"num_sweeps": 3, "only_past": True})
    assert np.unique(dataset.load(0).time_lag).tolist() == [0]
    np.testing.assert_allclose(np.unique(dataset.load(3).time_lag), [0, 0.1, 0.2, 0.3], atol=1e-6)


def test_sweeps_come_from_frames_outside_the_split(written: Path) -> None:
    dataset = build(written, "val", frames={"val": {1: [2, 2]}}, multisweeps={"num_sweeps": 2})
    assert len(dataset) == 1 and len(np.unique(dataset.load(0).time_lag)) == 3


# --- instances ------------------------------------------------------------------------------------------------------
def test_instances_are_points_in_a_cuboid_of_their_class(written: Path) -> None:
    dataset = build(written, instances=True, sensors=["pandar64", "pandargt"])
    first, later = (dataset.load(i, cameras=False).instances for i in (0, 1))
    assert first.dtype == np.int32 and (first[0] > 0) and not first[1:5].any(), (
        "the sidewalk is no pedestrian"
    )
    assert first.tolist() == later.tolist()


@pytest.mark.parametrize(
    ("offset", "inside"),
    [((0.9, 2.4, 0.7), True), ((1.1, 0, 0), False), ((0, 2.6, 0), False), ((0, 0, 0.8), False)],
)
def test_cuboids_are_turned_by_their_yaw(root: Path, offset, inside: bool) -> None:
    """The cuboid is moved so that point 0 sits at ``offset`` in its own axes: 2 m wide (x), 5 m long (y)."""
    centre = world(LOCAL[:1])[0] - rotation(YAW + 0.5) @ offset
    moved = {f"position.{axis}": np.full(3, value) for axis, value in zip("xyz", centre)}
    write_table(root / "001" / "annotations" / "cuboids" / "00.pkl.gz", cuboids(**moved))
    assert (build(root, instances=True).load(0).instances[0] > 0) == inside


def test_siblings_are_one_instance_seen_by_two_sensors(root: Path) -> None:
    write_table(root / "001" / "annotations" / "semseg" / "00.pkl.gz", {"class": np.full(6, 13)})
    large = {
        "dimensions.x": np.full(3, 80.0),
        "dimensions.y": np.full(3, 80.0),
        "dimensions.z": np.full(3, 80.0),
    }
    path = root / "001" / "annotations" / "cuboids" / "00.pkl.gz"
    write_table(path, cuboids(**large))
    both = build(root, instances=True, sensors=["pandar64", "pandargt"])
    assert len(np.unique(both.load(0).instances)) == 1 and both.load(0).instances.all()
    apart = np.array(["-", "-", "-"], object)
    write_table(path, cuboids(**large, **{"cuboids.sibling_id": apart}))
    found = both.load(0).instances
    assert (
        len(np.unique(found)) == 2
        and (found[SENSOR == 0] == found[0]).all()
        and (found[SENSOR == 1] != found[0]).all()
    )


# --- splits ---------------------------------------------------------------------------------------------------------
def test_default_split_goes_by_the_number(tmp_path: Path) -> None:
    for name in ("001", "004", "005", "010", "011"):
        write_sequence(tmp_path, name, 1, labels=name != "004", cameras=())
    assert build(tmp_path, cameras=[]).sequences == ("001", "011")
    assert build(tmp_path, "val", cameras=[]).sequences == ("005", "010")
    unlabelled = build(tmp_path, cameras=[], use_labels=False)
    assert unlabelled.sequences == ("001", "004", "011") and unlabelled.load(1).labels is None
    assert not build(tmp_path, cameras=[]).missing(), (
        "a sequence published without labels is no gap"
    )
    with pytest.raises(UserError, match="the test split is empty: no sequence belongs to it"):
        build(tmp_path, "test")
    with pytest.raises(UserError, match="004/annotations/semseg: 1 of 1 label files"):
        build(tmp_path, split={"train": [4]}, cameras=[])


def test_frames_choose_ranges_and_sequences(root: Path) -> None:
    write_sequence(root, "002", 3, cameras=())
    dataset = build(root, frames={"train": {"001": [1, 2], 2: [0, 0]}}, cameras=[])
    assert [dataset.token(i) for i in range(len(dataset))] == ["001/01", "001/02", "002/00"]
    assert build(root, split={"train": [2]}, cameras=[]).sequences == ("002",)
    with pytest.raises(UserError, match="001/lidar: no scans"):
        build(root, frames={"train": {"001": [7, 9]}})
    with pytest.raises(UserError, match="no scan '001/03'"):
        dataset.index_of("001/03")


# --- damage ---------------------------------------------------------------------------------------------------------
def _json(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def _scan(**columns):
    base = {**dict(zip("xyz", world(LOCAL).T)), "i": np.zeros(6), "t": np.zeros(6), "d": SENSOR}
    return lambda folder: write_table(folder / "lidar" / "00.pkl.gz", base | columns)


def _cuboids(**columns):
    return lambda folder: write_table(
        folder / "annotations" / "cuboids" / "00.pkl.gz", cuboids(**columns)
    )


def _poses(change):
    def apply(folder: Path) -> None:
        path = folder / "lidar" / "poses.json"
        poses = json.loads(path.read_text())
        change(poses[1])
        path.write_text(json.dumps(poses))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "lidar" / "00.pkl.gz").write_bytes(b"\x1f\x8b123"),
            "00.pkl.gz: cannot unpack",
        ),
        (_scan(x=np.array([0, 1, np.nan, 3, np.inf, 5])), "2 of 4 points have NaN"),
        (_scan(x=np.array([0, 1, 1e300, 3, 4, 5])), r"1 of 4 points have NaN .* beyond 1e\+08 m"),
        (_scan(i=np.full(6, 1e300)), "4 of 4 points have NaN"),
        (_scan(d=np.ones(6, int)), "no points of pandar64"),
        (_scan(d=np.full(6, 2)), r"other numbers of sensors than 0 \(pandar64\) and 1"),
        (_scan(d=np.full(6, np.nan)), "other numbers of sensors"),
        (_scan(x=np.array(["a"] * 6, object)), "column x holds object, not numbers"),
        (_cuboids(uuid=np.array([1, 2, 3], object)), "column uuid of cuboid 0 holds 1"),
        (_cuboids(yaw=np.array(["a"] * 3, object)), "column yaw holds object, not numbers"),
        (_cuboids(yaw=np.array([0, np.nan, 0])), "column yaw of cuboid 1 holds"),
        (_cuboids(**{"dimensions.x": np.array([1, 1, -1.0])}), "dimensions.x of cuboid 2 holds"),
        (_cuboids(**{"cuboids.sensor_id": np.array([0, 7, 0])}), "sensor_id of cuboid 1 holds"),
        (_json("annotations/semseg/classes.json", '{"1": "Car"}'), "class 1 is 'Car', and 'Smoke'"),
        (
            lambda f: write_table(f / "annotations" / "semseg" / "00.pkl.gz", {"class": RAW / 2}),
            "column class holds float64, not whole numbers",
        ),
        (_poses(lambda p: p["heading"].update(w=3.0)), r"quaternion in row 1 has length 3\."),
        (_poses(lambda p: p["position"].update(x=1e300)), r"entry 1 lies more than 1e\+08 m away"),
        (_poses(lambda p: p["position"].update(x=float("nan"))), "entry 1 holds NaN|valid JSON"),
        (
            _json("camera/front_camera/poses.json", "[]"),
            "the file has 0 poses, and lidar/poses.json has 4",
        ),
        (
            _json("camera/front_camera/intrinsics.json", '{"fx": -1, "fy": 1, "cx": 1, "cy": 1}'),
            "this is no camera: it mirrors",
        ),
        (
            lambda f: Image.new("RGB", (40, 30)).save(f / "camera" / "front_camera" / "00.jpg"),
            r"this image has 40 x 30 px, but .*intrinsics.json is \(40, 30\)",
        ),
        (
            lambda f: write_table(f / "annotations" / "semseg" / "00.pkl.gz", {"class": RAW[:4]}),
            "4 labels, but the scan",
        ),
        (
            lambda f: write_table(f / "annotations" / "semseg" / "00.pkl.gz", {"class": RAW - 2}),
            "label id -1",
        ),
        (
            lambda f: write_table(f / "annotations" / "semseg" / "00.pkl.gz", {"x": RAW}),
            "no column class",
        ),
        (lambda f: (f / "annotations" / "cuboids" / "00.pkl.gz").unlink(), "does not exist"),
        (_json("lidar/poses.json", "[]"), "poses.json"),
        (
            _json("lidar/poses.json", '[{"position": 1}]'),
            r"key '0.position': Input should be an object",
        ),
        (_json("camera/front_camera/intrinsics.json", '{"fx": 1}'), "key 'fy' is missing"),
        (
            lambda f: (f / "camera" / "front_camera" / "00.jpg").unlink(),
            "this image does not exist",
        ),
    ],
)
def test_damage_is_told_with_its_file(root: Path, damage, message: str) -> None:
    damage(root / "001")
    with pytest.raises(UserError, match=message) as caught:
        build(root, instances=True).load(0)
    assert str(root) in str(caught.value)


def test_poses_too_few_for_the_frames(root: Path) -> None:
    for name in ("poses.json", "timestamps.json"):
        path = root / "001" / "lidar" / name
        path.write_text(json.dumps(json.loads(path.read_text())[:2]))
    with pytest.raises(UserError, match="2 entries, too few for frame 3"):
        build(root).load(3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1.0]", "expected 4 numbers, one per pose; it has 1"),
        ("[1, 2, 1.5, 3]", "the time in entry 2 is 1.5"),
        ('["a"]', "timestamps.json: key '0'"),
        ("no list", "not valid JSON"),
    ],
)
def test_times_are_read_by_jobs_with_sweeps_alone(root: Path, text: str, message: str) -> None:
    _json("lidar/timestamps.json", text)(root / "001")
    (root / "001/camera/front_camera/timestamps.json").unlink()
    assert build(root).load(1).keyframe.all()
    with pytest.raises(UserError, match=message):
        build(root, multisweeps={"num_sweeps": 1}).load(1)
    (root / "001/lidar/timestamps.json").unlink()
    assert [gap.needed_for for gap in build(root).gaps() if "timestamps" in gap.text] == ["sweeps"]


def test_files_that_no_name_leads_to_are_counted_and_named(root: Path) -> None:
    folder = root / "001"
    shutil.copy(folder / "lidar/00.pkl.gz", folder / "lidar/004.pkl.gz")
    shutil.copy(folder / "lidar/00.pkl.gz", folder / "annotations/semseg/4.pkl.gz")
    shutil.copy(folder / "lidar/00.pkl.gz", folder / "annotations/semseg/05.pkl.gz")
    (folder / "lidar/02.pkl.gz").unlink()
    (folder / "lidar/notes.txt").touch()
    (root / "1").mkdir()
    found = {gap.text: gap.needed_for for gap in build(root).gaps()}
    assert found == {
        f"{root}: 1 entries are not named like a sequence and are not read (1)": "nothing",
        "001/lidar: 1 files are not named NN.pkl.gz and are not read (004.pkl.gz)": "lidar",
        "001/lidar: 1 other files are not read (notes.txt)": "nothing",
        "001/lidar: 1 frames are lacking between others (02); comes from the PandaSet archive": "sweeps",
        "001/annotations/semseg: 1 files are not named NN.pkl.gz and are not read (4.pkl.gz)": "lidar",
        "001/annotations/semseg: 2 label files are without a scan (02.pkl.gz, 05.pkl.gz)": "lidar",
    }


def test_wrong_configuration(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no camera CAM_FRONT"):
        build(root, cameras=["CAM_FRONT"])
    with pytest.raises(UserError, match="does not exist"):
        build(tmp_path / "nowhere")
    with pytest.raises(UserError, match="sensors"):
        build(root, sensors=["velodyne"])


def test_check_data_reads_and_compares(root: Path) -> None:
    report = inspect_split(config(root), "train", cameras=True)
    assert report.ok and report.scans == 4 and report.points["car"] == 8
    assert inspect_split(config(root), "train", quick=True).ok
    (root / "001" / "annotations" / "semseg" / "02.pkl.gz").write_bytes(b"")
    (root / "001" / "camera" / "front_camera" / "01.jpg").unlink()
    report = inspect_split(config(root), "train")
    assert not report.ok and len(report.faults) == 1 and "02.pkl.gz" in report.texts("damaged")[0]
    assert report.optional == [
        "001/camera/front_camera: 1 of 4 images are not there; comes from the PandaSet archive"
    ]  # fmt: skip
    (root / "001" / "lidar" / "03.pkl.gz").write_bytes(b"")
    assert any(
        "03.pkl.gz" in line
        for line in inspect_split(config(root), "train", quick=True).texts("damaged")
    )


def test_dataset_travels_to_workers(written: Path) -> None:
    assert len(pickle.dumps(build(written))) < 3000


def test_label_space_covers_the_42_names() -> None:
    assert sorted(PANDASET.raw_to_train) == list(range(43)) and len(RAW_NAMES) == 42
    assert PANDASET.num_classes == 17 and len(set(map(tuple, PANDASET.colors))) == 17
    by_name = {
        name: PANDASET.classes[PANDASET.raw_to_train[i + 1]] for i, name in enumerate(RAW_NAMES)
    }
    for raw, train in {
        "Pickup Truck": "truck", "Bus": "bus", "Tram / Subway": "other-vehicle", "Motorized Scooter": "motorcycle",
        "Personal Mobility Device": "bicycle", "Pedestrian with Object": "pedestrian", "Lane Line Marking": "road",
        "Driveway": "other-ground", "Cones": "cone", "Construction Signs": "sign", "Reflection": "ignore",
        "Temporary Construction Barriers": "barrier", "Rolling Containers": "other-static", "Building": "building",
    }.items():  # fmt: skip
        assert by_name[raw] == train, raw
    for train, raw in enumerate(PANDASET.train_to_raw):
        assert PANDASET.raw_to_train[raw] == train


# --- real frames ----------------------------------------------------------------------------------------------------
REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata")) / "pandaset"
real = pytest.mark.skipif(not REAL.is_dir(), reason="no real frames; set LIDISTILL_REALDATA")
BOTH = ["pandar64", "pandargt"]


def real_frames(part: str, **keys):
    frames = {"train": {"001": [0, 1], "002": [0, 1]}, "val": {"002": [2, 2]}}
    return build_dataset(
        Config({"dataset": {"name": "pandaset", "root": str(REAL), "frames": frames, **keys}}), part
    )


def class_rows(scan, name: str) -> np.ndarray:
    return np.flatnonzero(scan.labels == PANDASET.classes.index(name))


@real
def test_real_names_are_those_of_the_table() -> None:
    for path in REAL.glob("*/annotations/semseg/classes.json"):
        assert json.loads(path.read_text()) == {
            str(i + 1): name for i, name in enumerate(RAW_NAMES)
        }


@real
def test_real_frame_stands_on_the_ground_and_looks_forward() -> None:
    dataset = real_frames("val", sensors=BOTH)
    assert len(dataset) == 1
    scan = dataset.load(0)
    assert len(scan.xyz) == 165_537 and len(np.unique(scan.labels)) > 8
    np.testing.assert_allclose(scan.pose[:3, :3].T @ scan.pose[:3, :3], np.eye(3), atol=1e-9)
    near = class_rows(scan, "road")
    near = near[np.hypot(*scan.xyz[near, :2].T) < 20]
    assert -0.7 < np.median(scan.xyz[near, 2]) < 0.3
    forward = real_frames("val", sensors=["pandargt"]).load(0, cameras=False).xyz
    azimuth = np.degrees(np.arctan2(forward[:, 1], forward[:, 0]))
    assert np.percentile(np.abs(azimuth), 99) < 35, "the PandarGT looks along x"


@real
def test_real_points_fall_into_the_cameras_that_look_at_them() -> None:
    scan = real_frames("val", sensors=BOTH).load(0)
    assert [camera.name for camera in scan.cameras] == list(CAMERAS)
    distance = np.linalg.norm(scan.xyz, axis=1)
    bearings = {
        "front_camera": 0,
        "front_left_camera": 58,
        "left_camera": 92,
        "back_camera": 180,
        "right_camera": -88,
    }
    for camera in scan.cameras:
        uv, _, visible = camera.project(scan.xyz)
        assert 15_000 < visible.sum() < 80_000
        assert camera.size == (1920, 1080)
        middle = visible & (np.abs(uv[:, 0] - 960) < 60) & (distance > 8)
        bearing = np.degrees(np.arctan2(scan.xyz[middle, 1], scan.xyz[middle, 0]))
        if camera.name in bearings:
            turned = (
                np.median(np.abs(bearing)) if camera.name == "back_camera" else np.median(bearing)
            )
            assert turned == pytest.approx(bearings[camera.name], abs=8)
        road = visible & (scan.labels == PANDASET.classes.index("road"))
        if road.sum() > 500:
            assert np.median(uv[road, 1]) > 540, "the road lies in the lower half"
    ahead = (np.abs(np.arctan2(scan.xyz[:, 1], scan.xyz[:, 0])) < np.radians(20)) & (distance > 15)
    ahead &= np.abs(scan.xyz[:, 2]) < 3
    assert scan.cameras[1].project(scan.xyz[ahead])[2].mean() > 0.97


@real
def test_real_cars_fill_their_cuboids_and_keep_their_numbers() -> None:
    dataset = real_frames("train", sensors=BOTH, instances=True)
    first, second = (dataset.load(dataset.index_of(t), cameras=False) for t in ("002/00", "002/01"))
    assert (first.instances[class_rows(first, "car")] > 0).mean() > 0.97
    assert not first.instances[class_rows(first, "building")].any()
    numbers = [set(np.unique(s.instances)) for s in (first, second)]
    assert len(numbers[0]) > 60 and len(numbers[0] & numbers[1]) / len(numbers[0]) > 0.9


@real
def test_real_sweeps_agree_with_the_keyframe_through_the_poses() -> None:
    """Sequence 001 drives 0.8 m between its frames: the ground truth of both agrees, if they are brought together."""
    scans = [real_frames("train").load(i, cameras=False) for i in (0, 1)]
    moved = np.linalg.norm(scans[1].pose[:3, 3] - scans[0].pose[:3, 3])
    assert 0.5 < moved < 1.2

    def agreement(points: np.ndarray) -> float:
        cells = [
            np.floor(p / 0.3).astype(np.int64) @ [1 << 40, 1 << 20, 1]
            for p in (scans[0].xyz, points)
        ]
        _, rows = np.unique(cells[0], return_index=True)
        found = np.searchsorted(cells[0][rows], cells[1]).clip(max=len(rows) - 1)
        hit = cells[0][rows][found] == cells[1]
        return float((scans[0].labels[rows][found[hit]] == scans[1].labels[hit]).mean())

    chain = np.linalg.inv(scans[0].pose) @ scans[1].pose
    joined = scans[1].xyz @ chain[:3, :3].T + chain[:3, 3]
    assert agreement(joined) > 0.93 and agreement(joined) > agreement(scans[1].xyz) + 0.02
    sweep = real_frames("train", multisweeps={"num_sweeps": 1}).load(1, cameras=False)
    assert not sweep.keyframe.all() and np.unique(sweep.time_lag)[1] == pytest.approx(0.1, abs=0.01)
