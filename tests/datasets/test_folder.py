"""The reader for one's own scans."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from core.config import Config
from core.datasets import build_dataset
from core.errors import UserError

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))


def points_of(scan: int) -> np.ndarray:
    return np.random.default_rng(scan).normal(size=(4 + scan, 5)).astype(np.float32)


def ids_of(scan: int) -> np.ndarray:
    return (np.arange(4 + scan) % 3 + 16).astype(np.uint8)  # bus, car, construction vehicle


@pytest.fixture
def root(tmp_path):
    (tmp_path / "lidar").mkdir()
    (tmp_path / "truth").mkdir()
    for scan in range(4):
        points_of(scan).tofile(tmp_path / "lidar" / f"s{scan}.pcd.bin")
        ids_of(scan).tofile(tmp_path / "truth" / f"s{scan}_seg.bin")
    return tmp_path


def build(root: Path, part: str = "train", /, **keys):
    section = {
        "name": "folder", "root": str(root), "scans": "lidar/*.pcd.bin", "labels": "truth/{stem}_seg.bin",
        "point_fields": 5, "label_dtype": "uint8", "label_space": "nuscenes", "split": {"train": [0, 2], "val": [3, 3]},
    }  # fmt: skip
    return build_dataset(Config({"dataset": section | keys}), part)


def test_reads_scans_and_labels(root):
    dataset = build(root)
    assert [dataset.token(i) for i in range(len(dataset))] == ["s0", "s1", "s2"]
    assert build(root, "val").token(0) == "s3" and dataset.index_of("s1") == 1
    scan = dataset.load(1)
    np.testing.assert_array_equal(scan.xyz, points_of(1)[:, :3])
    np.testing.assert_array_equal(scan.intensity, points_of(1)[:, 3])
    assert scan.labels.tolist() == [3, 4, 5, 3, 4] and scan.instances is None
    assert scan.cameras == () and np.isnan(scan.pose).all() and scan.keyframe.all()


def test_high_bits_are_instances(root):
    for scan in range(4):
        (np.full(4 + scan, 17, np.uint32) | (np.arange(4 + scan, dtype=np.uint32) << 16)).tofile(
            root / "truth" / f"s{scan}_seg.bin"
        )
    scan = build(root, label_dtype="uint32").load(0)
    assert scan.labels.tolist() == [4] * 4 and scan.instances.tolist() == [0, 1, 2, 3]


def test_own_label_space(root, tmp_path):
    space = tmp_path / "own.yaml"
    space.write_text("classes: [ignore, big, small]\nmap: {16: 1, 17: 2, 18: 0}\n")
    assert build(root, label_space=str(space)).load(0).labels.tolist() == [1, 2, 0, 1]


def test_test_split_and_label_free(root):
    assert build(root, "test", split={"test": [0, 0]}).load(0).labels is None
    assert build(root, labels=None).load(0).labels is None
    assert build(root, use_labels=False).load(0).labels is None


def test_without_split_all_scans(root):
    assert len(build(root, split={})) == 4


def test_scan_without_label_is_left_out(root):
    (root / "truth" / "s1_seg.bin").unlink()
    dataset = build(root)
    assert [dataset.token(i) for i in range(len(dataset))] == ["s0", "s2"]
    assert "1 of 3 scans have no label file" in dataset.missing()[0]


def test_range_beyond_the_scans_is_reported(root):
    dataset = build(root, split={"train": [2, 9]})
    assert len(dataset) == 2 and "ends at 9, but there are 4 scans" in dataset.missing()[0]


@pytest.mark.parametrize(
    ("part", "keys", "message"),
    [
        ("train", {"root": "/nowhere/at/all"}, "does not exist"),
        ("train", {"scans": "*.none"}, "no file matches dataset.scans"),
        ("train", {"labels": "other/{stem}.bin"}, "folder of labels does not exist"),
        ("train", {"labels": "truth/labels.bin"}, r"must contain \{stem\}"),
        ("train", {"label_space": "none.yaml"}, "label space file does not exist"),
        ("train", {"cameras": ["front"]}, "front of dataset.cameras is not calibrated"),
        ("test", {}, "test split is empty"),
        ("val", {"split": {"val": [8, 9]}}, "val split is empty"),
        ("train", {"point_fields": 2}, "point_fields"),
        ("train", {"scans": "/data/*.bin"}, "below dataset.root"),
        (
            "train",
            {"label_column": "label"},
            "from label_files or from label_column, not from both",
        ),
        ("train", {"point_columns": {"x": None}}, "'x' is a coordinate"),
        ("train", {"point_columns": {"label": "l"}}, "'label' is a column that every scan has"),
        ("train", {"scans": "*.pcd"}, "it holds 2 folders"),
    ],
)
def test_wrong_settings(root, part, keys, message):
    with pytest.raises(UserError, match=message):
        build(root, part, **keys)


def test_wrong_point_fields_shows_in_the_size(root):
    with pytest.raises(
        UserError, match=r"s0.pcd.bin: .* not have 6 .* its 80 bytes are no multiple of 24"
    ):
        build(root, point_fields=6).load(0)


def test_two_scans_of_one_name(root):
    points_of(0).tofile(root / "lidar" / "s0.bin")
    with pytest.raises(UserError, match="share the name 's0'"):
        build(root, scans="lidar/*.bin")


@pytest.mark.realdata
@pytest.mark.skipif(
    not (REAL / "nuscenes_projected").is_dir(), reason="no real scans; set LIDISTILL_REALDATA"
)
def test_real_folder():
    keys = {
        "scans": "samples/LIDAR_TOP/*.pcd.bin",
        "labels": "lidarseg/v1.0-trainval/{stem}_lidarseg.bin",
    }
    dataset = build(REAL / "nuscenes_projected", split={"train": [0, 9]}, **keys)
    assert len(dataset) == 10
    scan = dataset.load(0)
    ground = scan.xyz[scan.labels == 11]
    assert (
        len(ground) > 5000 and -2.5 < np.median(ground[:, 2]) < -1.4
    )  # the sensor sits 1.84 m above the road


def test_a_damaged_calibration_ends_jobs_with_cameras_alone(tmp_path):
    np.ones((3, 4), np.float32).tofile(tmp_path / "a.bin")
    (tmp_path / "calibration.yaml").write_text("cameras: [")
    tree = {"dataset": {"name": "folder", "root": str(tmp_path)}}
    dataset = build_dataset(Config(tree), "train")
    assert len(dataset.load(0, cameras=False).points) == 3
    assert [gap.needed_for for gap in dataset.gaps()] == ["cameras"]
    for use in (dataset.check_images, lambda: dataset.load(0)):
        with pytest.raises(UserError, match=r"calibration\.yaml.*not valid YAML"):
            use()
    (tmp_path / "calibration.yaml").write_text(
        "cameras: {'../x': {size: [8, 4], projection: [[8, 0, 4, 0], [0, 8, 2, 0], [0, 0, 1, 0]]}}"
    )
    with pytest.raises(UserError, match=r"the name '\.\./x' holds"):
        build_dataset(Config(tree), "train").check_images()


def test_files_that_look_like_scans_and_labels_are_counted(tmp_path):
    for name in ("a0.bin", "a1.bin", "b0.bin", "._a2.bin"):
        np.ones((3, 4), np.float32).tofile(tmp_path / name)
    for name in ("a0.label", "a1.label", "a7.label"):
        np.zeros(3, np.uint32).tofile(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    section = {"name": "folder", "root": str(tmp_path), "scans": "a*.bin"}
    dataset = build_dataset(Config({"dataset": section | {"label_files": "{stem}.label"}}), "train")
    assert len(dataset) == 2 and {gap.needed_for for gap in dataset.gaps()} == {"nothing"}
    assert [gap.text for gap in dataset.gaps()] == [
        "1 file could be a scan and no name leads there (b0.bin)",
        "1 file could be a scan's labels and no name leads there (a7.label)",
    ]


def test_who_asks_for_one_scan_leaves_the_others_out_on_purpose(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        np.ones((3, 4), np.float32).tofile(tmp_path / name)
    section = {"name": "folder", "root": str(tmp_path), "scans": "a.bin"}
    assert build_dataset(Config({"dataset": section}), "test").gaps() == []
