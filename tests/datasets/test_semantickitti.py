"""The SemanticKITTI reader on a folder written here, byte by byte, and on real scans where there are some."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from loguru import logger
from PIL import Image

from core.config import Config
from core.data import DataConfig, collate, keyframe_voxels, make_sample
from core.datasets import build_dataset
from core.datasets.semantickitti import read_calib
from core.errors import UserError

# Camera z = LiDAR x, camera x = -LiDAR y, camera y = -LiDAR z, and 0.5 m along the camera's x.
TR = np.array([[0, -1, 0, 0.5], [0, 0, -1, 0], [1, 0, 0, 0]], np.float64)
P2 = np.array([[10, 0, 20, 0], [0, 10, 15, 0], [0, 0, 1, 0]], np.float64)
COUNT = 6  # points per scan
RAW = np.array([10, 252, 40, 48, 70, 0], np.uint32)
TRAIN = [1, 1, 9, 11, 15, 0]


def points_of(frame: int) -> np.ndarray:
    """Five points beyond 1 m and, last, one on the vehicle itself."""
    points = np.random.default_rng(frame).uniform(2, 9, (COUNT, 4)).astype(np.float32)
    points[-1, :2] = 0.5
    return points


def line(key: str, matrix: np.ndarray) -> str:
    return f"{key}: " + " ".join(f"{v:.12e}" for v in matrix.ravel())


def write_sequence(root: Path, name: str, frames: int = 5, *, images: bool = True) -> Path:
    folder = root / "sequences" / name
    for part in ("velodyne", "labels", "image_2"):
        (folder / part).mkdir(parents=True)
    for frame in range(frames):
        points_of(frame).tofile(folder / "velodyne" / f"{frame:06d}.bin")
        (RAW | (np.arange(COUNT, dtype=np.uint32) << 16)).tofile(
            folder / "labels" / f"{frame:06d}.label"
        )
        if images:
            Image.new("RGB", (40, 30), (frame, 20, 30)).save(
                folder / "image_2" / f"{frame:06d}.png"
            )
    (folder / "calib.txt").write_text(
        "\n".join([line("P0", P2), "", line("P2", P2), line("Tr", TR), ""])
    )
    # The camera drives 2 m along its z axis per frame.
    poses = [np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2.0 * k]]) for k in range(frames)]
    (folder / "poses.txt").write_text(
        "\n".join(" ".join(map(str, pose.ravel())) for pose in poses) + "\n"
    )
    (folder / "times.txt").write_text("".join(f"{0.1 * k:e}\n" for k in range(frames)))
    return folder


@pytest.fixture
def root(tmp_path):
    write_sequence(tmp_path, "00")
    return tmp_path


def build(root: Path, part: str = "train", /, **keys):
    return build_dataset(
        Config({"dataset": {"name": "semantickitti", "root": str(root), **keys}}), part
    )


def test_reads_points_labels_instances_and_camera(root):
    dataset = build(root)
    assert (
        len(dataset) == 5 and dataset.token(3) == "00/000003" and dataset.index_of("00/000003") == 3
    )
    scan = dataset.load(3)
    np.testing.assert_array_equal(scan.xyz, points_of(3)[:, :3])
    np.testing.assert_array_equal(scan.intensity, points_of(3)[:, 3])
    assert scan.labels.dtype == np.uint8 and scan.labels.tolist() == TRAIN
    assert scan.instances.dtype == np.int32 and scan.instances.tolist() == list(range(COUNT))
    assert scan.keyframe.all() and scan.time_lag.dtype == np.float32
    (camera,) = scan.cameras
    assert (camera.name, camera.size) == ("image_2", (40, 30))
    image = camera.load()
    assert (
        image.shape == (30, 40, 3)
        and image.dtype == np.uint8
        and image[0, 0].tolist() == [3, 20, 30]
    )


def test_projection_is_p2_times_tr(root):
    (camera,) = build(root).load(0).cameras
    uv, depth, visible = camera.project(np.array([[5.0, 1.0, 0.25], [-5, 0, 0]], np.float32))
    # In the camera: (-1 + 0.5, -0.25, 5).
    np.testing.assert_allclose(uv[0], [10 * -0.5 / 5 + 20, 10 * -0.25 / 5 + 15], rtol=1e-6)
    assert depth[0] == 5 and visible.tolist() == [True, False]


def test_pose_is_that_of_the_lidar(root):
    # Camera z is LiDAR x, so each frame moves the LiDAR 2 m forward.
    expected = np.eye(4)
    expected[0, 3] = 6.0
    np.testing.assert_allclose(build(root).load(3).pose, expected, atol=1e-9)


def test_sweeps_follow_the_poses(root):
    dataset = build(root, multisweeps={"num_sweeps": 1, "only_past": False})
    scan = dataset.load(2)
    assert len(scan.xyz) == COUNT + 2 * (
        COUNT - 1
    )  # the vehicle's own return is dropped from sweeps only
    np.testing.assert_array_equal(scan.xyz[:COUNT], points_of(2)[:, :3])
    past, future = scan.xyz[COUNT : COUNT + 5], scan.xyz[COUNT + 5 :]
    np.testing.assert_allclose(past, points_of(1)[:5, :3] - [2, 0, 0], atol=1e-5)
    np.testing.assert_allclose(future, points_of(3)[:5, :3] + [2, 0, 0], atol=1e-5)
    np.testing.assert_allclose(scan.time_lag, [0] * COUNT + [0.1] * 5 + [-0.1] * 5, atol=1e-6)
    assert scan.keyframe.sum() == COUNT
    assert (
        scan.labels[:COUNT].tolist() == TRAIN
        and not scan.labels[COUNT:].any()
        and not scan.instances[COUNT:].any()
    )
    np.testing.assert_array_equal(scan.intensity[COUNT : COUNT + 5], points_of(1)[:5, 3])


def test_sweeps_of_equal_poses_stay_where_they_are(root):
    folder = root / "sequences/00"
    pose = np.array([[0.8, -0.6, 0, 3], [0.6, 0.8, 0, -4], [0, 0, 1, 5]])
    (folder / "poses.txt").write_text(f"{' '.join(map(str, pose.ravel()))}\n" * 5)
    scan = build(root, multisweeps={"num_sweeps": 2}).load(3)
    ends = [COUNT + COUNT - 1, COUNT + 2 * (COUNT - 1)]  # the vehicle's own return is dropped
    for frame, start, end in ((2, COUNT, ends[0]), (1, *ends)):
        np.testing.assert_allclose(scan.xyz[start:end], points_of(frame)[:5, :3], atol=1e-5)


def test_sweeps_of_one_time_are_still_sweeps(root):
    (root / "sequences/00/times.txt").write_text("0\n" * 5)
    scan = build(root, multisweeps={"num_sweeps": 2}).load(3)
    assert not scan.time_lag.any() and scan.keyframe.sum() == COUNT
    assert scan.points["sweep"].tolist() == [0] * COUNT + [1] * 5 + [2] * 5
    sample = make_sample(scan, 0, DataConfig(voxel_size=0.3, augment=None, images=False))
    batch = collate([sample])
    assert batch.keyframe.sum() == COUNT and len(batch.keyframe) == COUNT + 10
    assert len(keyframe_voxels(batch)) == COUNT


def test_sweeps_may_keep_their_labels(root):
    dataset = build(root, multisweeps={"num_sweeps": 1, "labelled": True})
    assert dataset.load(1).labels.tolist() == TRAIN + TRAIN[:5]


@pytest.mark.parametrize("index", range(4))
def test_past_sweeps_are_as_many_as_there_are(root, index):
    scan = build(root, multisweeps={"num_sweeps": 2}).load(index)
    assert set(scan.points["sweep"].tolist()) == set(range(min(index, 2) + 1))


def test_labels_of_past_points_reach_the_loss(root):
    keys = {"num_sweeps": 1, "labelled": True}
    scan = build(root, labels="semantickitti_multiscan", multisweeps=keys).load(1)
    sample = make_sample(scan, 0, DataConfig(voxel_size=0.3, augment=None, images=False))
    batch = collate([sample])
    past = batch.point_labels[~batch.keyframe]
    assert past.tolist() == scan.labels[~scan.keyframe].tolist() and past.any()
    cells = batch.labels[batch.point_to_voxel[~batch.keyframe]]
    assert cells.tolist() == past.tolist()


@pytest.mark.parametrize(("index", "sweeps"), [(0, 2), (1, 3), (2, 4), (3, 3), (4, 2)])
def test_sweeps_are_cut_at_both_ends(root, index, sweeps):
    dataset = build(root, multisweeps={"num_sweeps": 2, "only_past": False})
    assert len(dataset.load(index).xyz) == COUNT + sweeps * (COUNT - 1)


def test_sweeps_stay_inside_the_split(root):
    keys = {
        "frames": {"train": {"00": [0, 2]}, "val": {"00": [3, 4]}},
        "multisweeps": {"num_sweeps": 2},
    }
    assert len(build(root, **keys)) == 3
    val = build(root, "val", **keys)
    assert [val.token(i) for i in range(len(val))] == ["00/000003", "00/000004"]
    assert len(val.load(0).xyz) == COUNT
    assert len(val.load(1).xyz) == COUNT + COUNT - 1


def test_root_may_hold_dataset_sequences(tmp_path):
    write_sequence(tmp_path / "dataset", "00", 1)
    assert len(build(tmp_path)) == 1


def test_split_override_accepts_unquoted_numbers(tmp_path):
    write_sequence(tmp_path, "03", 2)
    dataset = build(tmp_path, "val", split={"val": [3]})
    assert len(dataset) == 2 and dataset.expected is None


def test_official_split_and_what_it_misses(root):
    dataset = build(root)
    assert dataset.expected == 19130
    assert len(dataset.missing()) == 9
    assert all("data_odometry_velodyne.zip" in text for text in dataset.missing())
    with pytest.raises(UserError, match=r"val split \(sequences 08\) is empty.*velodyne"):
        build(root, "val")


def test_test_split_has_no_labels(tmp_path):
    write_sequence(tmp_path, "11", 1)
    scan = build(tmp_path, "test").load(0)
    assert scan.labels is None and scan.instances is None


def test_lidar_jobs_need_nothing_but_scans_and_labels(tmp_path):
    folder = write_sequence(tmp_path, "00", 2, images=False)
    for name in ("calib.txt", "poses.txt", "times.txt"):
        (folder / name).unlink()
    dataset = build(tmp_path)
    scan = dataset.load(0, cameras=False)
    assert scan.cameras == () and np.isnan(scan.pose).all()
    assert {gap.needed_for for gap in dataset.gaps() if "sequences/00" in gap.text} == {
        "cameras",
        "sweeps",
    }
    with pytest.raises(UserError, match=r"data_odometry_calib\.zip"):
        dataset.load(0)


def test_missing_image_names_the_archive(root):
    (root / "sequences/00/image_2/000001.png").unlink()
    dataset = build(root)
    with pytest.raises(UserError, match=r"000001.png.*data_odometry_color.zip"):
        dataset.load(1)
    assert any("1 of 5 images" in text for text in dataset.missing())


def test_the_first_and_last_image_of_a_drive_are_looked_for(root):
    dataset = build(root)
    dataset.check_images()
    (root / "sequences/00/image_2/000002.png").unlink()
    dataset.check_images()  # check_data finds every one
    (root / "sequences/00/image_2/000004.png").unlink()
    with pytest.raises(UserError, match=r"000004.png.*data_odometry_color.zip, the KITTI.*page"):
        dataset.check_images()


def test_names_of_sequences_stay_below_the_root(root):
    with pytest.raises(UserError, match="cannot be the name of a sequence"):
        build(root, split={"train": ["../../x"]})


def test_unreadable_image(root):
    path = root / "sequences/00/image_2/000000.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"000000.png: cannot decode"):
        build(root).load(0).cameras[0].load()
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"000000.png: cannot decode"):
        build(root).load(0)


@pytest.mark.parametrize("key", ["P2", "Tr"])
def test_calib_without_a_line_names_line_and_archive(tmp_path, key):
    path = tmp_path / "calib.txt"
    kept = [line(k, m) for k, m in (("P2", P2), ("Tr", TR)) if k != key]
    path.write_text("\n".join(kept))
    with pytest.raises(
        UserError, match=rf"calib.txt: the line '{key}:' is missing.*data_odometry_calib.zip"
    ):
        read_calib(path)


def test_calib_tolerates_blank_lines_and_refuses_short_ones(tmp_path):
    path = tmp_path / "calib.txt"
    path.write_text("\n\n" + line("P2", P2) + "\n\n" + line("Tr", TR) + "\n\n")
    p2, tr = read_calib(path)
    np.testing.assert_array_equal(p2, P2)
    np.testing.assert_array_equal(tr[:3], TR)
    path.write_text(line("P2", P2) + "\nTr: 1 2 3\n")
    with pytest.raises(UserError, match="'Tr' holds 3 numbers; expected 12"):
        read_calib(path)


def test_truncated_scan(root):
    path = root / "sequences/00/velodyne/000000.bin"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        UserError, match=r"000000.bin: the file has 89 bytes.*multiple of 16.*5 whole points and 9"
    ):
        build(root).load(0)


def test_label_count_differs(root):
    path = root / "sequences/00/labels/000000.label"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"000000.label: .*20 bytes = 5 labels.*6 points"):
        build(root).load(0)


def test_unknown_label(root):
    np.full(COUNT, 77, np.uint32).tofile(root / "sequences/00/labels/000000.label")
    with pytest.raises(UserError, match=r"000000.label: label id 77 \(6 points\)"):
        build(root).load(0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(root, bad):
    points = points_of(0)
    points[1, 2] = points[4, 0] = points[4, 1] = bad
    points.tofile(root / "sequences/00/velodyne/000000.bin")
    with pytest.raises(UserError, match=r"000000\.bin: 2 of 6 points have NaN or infinite"):
        build(root).load(0)


def test_a_scan_is_an_ordinary_file(root):
    path = root / "sequences/00/velodyne/000000.bin"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"000000.bin: this scan is no regular file"):
        build(root).load(0)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"000000.bin: this scan is no regular file"):
        build(root).load(0)


def test_empty_scan(root):
    (root / "sequences/00/velodyne/000000.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"000000.bin: the scan holds no points"):
        build(root).load(0)


def test_missing_root_says_what_it_must_hold(tmp_path):
    with pytest.raises(UserError, match=r"does not exist.*sequences/00/velodyne"):
        build(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no 'sequences'"):
        build(tmp_path)


def test_missing_labels_folder(root):
    for path in (root / "sequences/00/labels").iterdir():
        path.unlink()
    (root / "sequences/00/labels").rmdir()
    with pytest.raises(UserError, match=r"00/labels.*data_odometry_labels.zip"):
        build(root)
    assert build(root, use_labels=False).load(0).labels is None


def test_scan_without_label_is_left_out(root):
    (root / "sequences/00/labels/000002.label").unlink()
    dataset = build(root)
    assert len(dataset) == 4
    assert any("1 of 5 label files" in text for text in dataset.missing())
    with pytest.raises(UserError, match="no scan '00/000002'"):
        dataset.index_of("00/000002")


SWEEPS = {"multisweeps": {"num_sweeps": 1}}


def test_poses_too_short(root):
    for name in ("poses.txt", "times.txt"):
        path = root / "sequences/00" / name
        path.write_text("\n".join(path.read_text().splitlines()[:2]))
    dataset = build(root, **SWEEPS)
    with pytest.raises(UserError, match=r"poses.txt: the file has 2 lines, too few for frame 4"):
        dataset.load(4)
    assert any("too few for frame 4" in gap.text for gap in dataset.gaps())
    assert np.isfinite(dataset.load(1).pose).all()


def test_poses_may_have_four_rows(root):
    path = root / "sequences/00/poses.txt"
    expected = build(root, **SWEEPS).load(2)
    other = root / "other"
    folder = write_sequence(other, "00")
    rows = [f"{line} 0 0 0 1" for line in path.read_text().splitlines()]
    (folder / "poses.txt").write_text("\n".join(rows))
    scan = build(other, **SWEEPS).load(2)
    np.testing.assert_array_equal(scan.xyz, expected.xyz)
    np.testing.assert_array_equal(scan.pose, expected.pose)


FLAT = "1 0 0 0 0 1 0 0 0 0 1 0"


@pytest.mark.parametrize(
    ("name", "number", "line", "message"),
    [
        ("poses.txt", 3, "1 0 0 0 0 1 0 0 0 0 1 0 7", r"line 3 holds 13 values.*12 or 16 finite"),
        ("poses.txt", 2, FLAT + " 0 0 0 1", r"line 2 holds 16 values"),
        ("poses.txt", 2, "", r"line 2 holds nothing"),
        ("poses.txt", 1, "1 0 0 0 0 1 0 0 0 0 1 nan", r"line 1 holds 12 values.*finite"),
        ("poses.txt", 1, "1 0 0 0 0 1 0 0 0 0 1 1_0", r"line 1 holds 12 values.*finite"),
        ("poses.txt", 4, "1 0 0 0 0 1 0 0 0 0 1.1 0", r"line 4 is no rotation"),
        ("poses.txt", 4, "0 1 0 0 1 0 0 0 0 0 1 0", r"line 4 is no rotation but a mirror image"),
        ("poses.txt", 5, "1 0 0 3.8e21 0 1 0 0 0 0 1 0", r"line 5 lies more than 1e\+08 m away"),
        ("times.txt", 3, "0.2 0.3", r"line 3 holds 2 values, '0.2 0.3'; expected 1 finite"),
        ("times.txt", 3, "inf", r"line 3 holds 1 values"),
        ("times.txt", 4, "0.1", r"the time in line 4 is 0.1; expected .* never go back"),
        ("times.txt", 5, None, r"has 4 lines, and poses.txt has 5"),
    ],
)
def test_damaged_tables_are_named_by_their_line_where_sweeps_use_them(
    root, name, number, line, message
):
    path = root / "sequences/00" / name
    lines = path.read_text().splitlines()
    lines[number - 1 : number] = [] if line is None else [line]
    path.write_text("\n".join(lines))
    dataset = build(root, **SWEEPS)
    with pytest.raises(UserError, match=rf"{name}: .*{message}.*It comes from"):
        dataset.load(1)
    assert [gap.needed_for for gap in dataset.gaps() if name in gap.text] == ["sweeps"]
    scan = build(root).load(1)  # as if the file were not there
    assert len(scan.points) == COUNT and np.isfinite(scan.pose).all() == (name == "times.txt")


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("Tr", "1 0 0 0 0 1 0 0 0 0 1.1 0", "line 'Tr' is no rotation"),
        ("Tr", "1 0 0 0 0 1 0 0 0 0 1 500", "line 'Tr' lies more than 100 m away"),
        ("Tr", "1 0 0 0 0 1 0 0 0 0 1 nan", "'Tr' holds 12 numbers; expected 12, all finite"),
        (
            "P2",
            "10 0 20 0 0 10 15 0 0 0 2 0",
            "line 'P2' is no camera: it has a third row of length 2",
        ),
        ("P2", "-10 0 20 0 0 10 15 0 0 0 1 0", "line 'P2' is no camera: it mirrors"),
    ],
)
def test_a_calibration_is_proven_where_cameras_use_it(root, key, values, message):
    path = root / "sequences/00/calib.txt"
    kept = [line for line in path.read_text().splitlines() if not line.startswith(key)]
    path.write_text("\n".join([*kept, f"{key}: {values}"]))
    dataset = build(root)
    with pytest.raises(UserError, match=message):
        dataset.load(0)
    assert "cameras" in {gap.needed_for for gap in dataset.gaps() if "calib.txt" in gap.text}
    assert len(dataset.load(0, cameras=False).points) == COUNT
    path.write_text("\n".join([line(key, P2), path.read_text()]))
    with pytest.raises(UserError, match=f"'{key}:' is written twice"):
        read_calib(path)


def test_an_image_of_another_size_than_calibrated(root):
    path = root / "sequences/00/image_2/000001.png"
    Image.new("RGB", (20, 15)).save(path)
    with pytest.raises(
        UserError,
        match=r"000001.png: this image has 20 x 15 px, but the principal point.*\(20, 15\)",
    ):
        build(root).load(1)


def test_images_may_be_jpegs_in_any_case(root):
    folder = root / "sequences/00/image_2"
    for frame, suffix in enumerate((".jpg", ".JPEG", ".PNG")):
        (folder / f"{frame:06d}.png").unlink()
        Image.new("RGB", (40, 30)).save(folder / f"{frame:06d}{suffix}")
    dataset = build(root)
    assert [dataset.load(i).cameras[0].load().shape for i in range(5)] == [(30, 40, 3)] * 5
    assert not any("image_2: " in gap.text and "00/" in gap.text for gap in dataset.gaps())


@pytest.fixture
def warnings():
    messages = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING")
    yield messages
    logger.remove(sink)


def test_files_that_no_name_leads_to_are_counted_and_named(root, warnings):
    folder = root / "sequences/00"
    for name in ("00000010.bin", "0000003.bin", "000007.BIN"):
        points_of(1).tofile(folder / "velodyne" / name)
    (folder / "velodyne/notes.txt").touch()
    (folder / "velodyne/._000000.bin").touch()
    RAW.tofile(folder / "labels/7.label")
    RAW.tofile(folder / "labels/000005.label")
    (folder / "velodyne/000003.bin").unlink()
    (root / "sequences/8").mkdir()
    dataset = build(root, split={"train": ["00"]})
    assert len(dataset) == 4
    found = {gap.text.removeprefix("sequences/00/"): gap.needed_for for gap in dataset.gaps()}
    assert found == {
        "velodyne: 3 files are not named NNNNNN.bin and are not read "
        "(00000010.bin, 0000003.bin, 000007.BIN)": "lidar",
        "velodyne: 1 other files are not read (notes.txt)": "nothing",
        "velodyne: 1 frames are lacking between others (000003); comes from "
        "data_odometry_velodyne.zip, the KITTI odometry download page": "sweeps",
        "labels: 1 files are not named NNNNNN.label and are not read (7.label)": "lidar",
        "labels: 2 label files are without a scan (000003.label, 000005.label)": "lidar",
        "sequences: 1 entries are not named like a sequence and are not read (8)": "nothing",
    }
    assert len(warnings) == 5 and not any("lacking" in text for text in warnings)
    kept = build(root, split={"train": ["00"]}, frames={"train": {"00": [0, 2]}})
    assert not any("without a scan" in gap.text for gap in kept.gaps())


def test_pickles_small(root):
    dataset = build(root)
    dataset.load(0)
    data = pickle.dumps(dataset)
    assert len(data) < 4000
    np.testing.assert_array_equal(pickle.loads(data).load(1).xyz, dataset.load(1).xyz)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"cameras": ["image_3"]}, "image_2 only"),
        ({"multisweeps": {"num_sweep": 1}}, "did you mean 'num_sweeps'"),
        ({"frames": {"training": {}}}, "frames.training"),
    ],
)
def test_wrong_keys(root, keys, message):
    with pytest.raises(UserError, match=message):
        build(root, **keys)


def test_registry_errors():
    with pytest.raises(UserError, match=r"dataset.name.*missing"):
        build_dataset(Config({}), "train")
    with pytest.raises(UserError, match="Did you mean 'semantickitti'"):
        build_dataset(Config({"dataset": {"name": "semantic_kitti"}}), "train")
    with pytest.raises(UserError, match="unknown split 'dev'"):
        build_dataset(Config({}), "dev")


REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))


@pytest.mark.realdata
@pytest.mark.skipif(
    not (REAL / "semantickitti").is_dir(), reason="no real scans; set LIDISTILL_REALDATA"
)
def test_real_neighbours_agree_once_registered():
    """Half-metre cells seen by two scans carry the same class more often in one frame than in two."""
    sweeps = {"num_sweeps": 1, "only_past": True, "labelled": True}
    dataset = build(REAL / "semantickitti", split={"train": ["00"]}, multisweeps=sweeps)
    scan = dataset.load(6, cameras=False)
    other = dataset.load(5, cameras=False)
    key = scan.keyframe
    own = {
        tuple(c): label
        for c, label in zip(np.floor(scan.xyz[key] / 0.5).astype(int).tolist(), scan.labels[key])
    }

    def agreement(points, labels):
        cells = [tuple(c) for c in np.floor(points / 0.5).astype(int).tolist()]
        hits = [own[c] == label for c, label in zip(cells, labels) if c in own]
        return np.mean(hits)

    registered = agreement(scan.xyz[~key], scan.labels[~key])
    raw = agreement(other.xyz[other.keyframe], other.labels[other.keyframe])
    assert registered > raw and registered > 0.9
