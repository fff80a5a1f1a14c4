"""The nuScenes reader and its index against nuscenes-devkit, on the tiny synthetic world and on a real keyframe."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.config import Config
from core.datasets import build_dataset
from core.datasets import index_folder as index_files
from core.datasets.nuscenes import index as nuscenes_index
from core.datasets.nuscenes.checks import check_links
from core.datasets.nuscenes.index import CAMERAS, open_index
from core.datasets.nuscenes.tables import iterate_table
from core.errors import UserError
from core.io import sha256

VERSION = "v1.0-mini"
REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))


def build(root: Path, part: str = "train", /, **keys):
    tree = {"dataset": {"name": "nuscenes", "root": str(root), "version": VERSION, **keys}}
    return build_dataset(Config(tree), part)


@pytest.fixture(scope="module")
def root(tiny_nuscenes, tmp_path_factory):
    """A copy, so that the index is not written into the shared world."""
    return Path(shutil.copytree(tiny_nuscenes, tmp_path_factory.mktemp("nuscenes") / "root"))


@pytest.fixture
def spoilt(root, tmp_path):
    """A copy of one's own, for tests that damage it; its index is already there."""
    return Path(shutil.copytree(root, tmp_path / "root"))


@pytest.fixture(scope="module")
def devkit(root):
    nuscenes = pytest.importorskip("nuscenes")
    return nuscenes.NuScenes(VERSION, str(root), verbose=False)


def lidar_record(devkit, dataset, index):
    return devkit.get("sample_data", dataset.token(index))


def test_keyframes_are_those_of_the_official_split(root, devkit):
    from nuscenes.utils.splits import create_splits_scenes

    splits = create_splits_scenes()
    for part in ("train", "val"):
        dataset = build(root, part)
        expected = [
            s["token"]
            for s in devkit.sample
            if devkit.get("scene", s["scene_token"])["name"] in splits[f"mini_{part}"]
        ]
        assert [dataset.sample_token(i) for i in range(len(dataset))] == expected
        assert {dataset.scene(i) for i in range(len(dataset))} <= set(splits[f"mini_{part}"])
        assert [dataset.index_of(dataset.token(i)) for i in range(len(dataset))] == list(
            range(len(dataset))
        )
        assert dataset.missing() == [] and dataset.expected is None


def test_points_and_labels_are_the_files(root, devkit):
    from nuscenes.utils.data_classes import LidarPointCloud

    dataset = build(root, "val")
    scan = dataset.load(1)
    record = lidar_record(devkit, dataset, 1)
    cloud = LidarPointCloud.from_file(str(root / record["filename"])).points
    np.testing.assert_array_equal(scan.xyz, cloud[:3].T)
    np.testing.assert_array_equal(scan.intensity, cloud[3])
    raw = np.fromfile(root / devkit.get("lidarseg", record["token"])["filename"], np.uint8)
    names = [devkit.lidarseg_idx2name_mapping[i] for i in raw]
    assert scan.labels.dtype == np.uint8
    car = np.array([name == "vehicle.car" for name in names])
    assert car.any() and (scan.labels[car] == 4).all() and (scan.labels[~car] != 4).all()
    assert scan.instances is None and scan.keyframe.all()


def test_instances_follow_the_panoptic_file(root, devkit):
    dataset = build(root, instances=True)
    scan = dataset.load(0)
    with np.load(root / devkit.get("panoptic", dataset.token(0))["filename"]) as archive:
        raw = archive["data"].astype(np.int64)
    assert scan.instances.dtype == np.int32 and (scan.instances > 0).any()
    np.testing.assert_array_equal(scan.instances[scan.instances > 0], raw[raw % 1000 > 0])
    np.testing.assert_array_equal(scan.instances > 0, raw % 1000 > 0)


def test_projection_agrees_with_the_devkit(root, devkit):
    dataset = build(root)
    scan = dataset.load(1)
    assert tuple(camera.name for camera in scan.cameras) == CAMERAS
    sample = devkit.get("sample", dataset.sample_token(1))
    for camera in scan.cameras:
        pixels, depth, image = devkit.explorer.map_pointcloud_to_image(
            dataset.token(1), sample["data"][camera.name]
        )
        uv, own_depth, visible = camera.project(scan.xyz)
        width, height = camera.size
        assert camera.size == image.size
        # The devkit leaves a margin of one pixel at the left and the top.
        inner = (
            visible
            & (uv[:, 0] > 1)
            & (uv[:, 1] > 1)
            & (uv[:, 0] < width - 1)
            & (uv[:, 1] < height - 1)
        )
        assert inner.sum() == pixels.shape[1] > 0
        np.testing.assert_allclose(uv[inner], pixels[:2].T, atol=2e-2)
        np.testing.assert_allclose(own_depth[inner], depth, atol=1e-3)
        assert camera.load().shape == (height, width, 3)


def test_pose_is_ego_times_sensor(root, devkit):
    from nuscenes.utils.geometry_utils import transform_matrix
    from pyquaternion import Quaternion

    dataset = build(root)
    record = lidar_record(devkit, dataset, 0)
    expected = np.eye(4)
    for table in ("ego_pose", "calibrated_sensor"):
        row = devkit.get(table, record[f"{table}_token"])
        expected = expected @ transform_matrix(row["translation"], Quaternion(row["rotation"]))
    np.testing.assert_allclose(dataset.load(0).pose, expected, atol=1e-9)


def test_past_sweeps_agree_with_the_devkit(root, devkit):
    from nuscenes.utils.data_classes import LidarPointCloud

    dataset = build(root, multisweeps={"num_sweeps": 2})
    index = 1
    scan = dataset.load(index, cameras=False)
    sample = devkit.get("sample", dataset.sample_token(index))
    cloud, lags = LidarPointCloud.from_file_multisweep(
        devkit, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=3
    )
    other = (
        lags[0] > 0
    )  # the devkit also takes the vehicle's returns out of the keyframe; we keep a keyframe whole
    assert other.sum() == (~scan.keyframe).sum() > 0
    np.testing.assert_allclose(scan.xyz[~scan.keyframe], cloud.points[:3, other].T, atol=1e-3)
    np.testing.assert_array_equal(scan.intensity[~scan.keyframe], cloud.points[3, other])
    np.testing.assert_allclose(scan.time_lag[~scan.keyframe], lags[0, other], atol=1e-6)
    assert not scan.labels[~scan.keyframe].any()
    alone = build(root).load(index, cameras=False)
    np.testing.assert_array_equal(scan.xyz[scan.keyframe], alone.xyz)
    np.testing.assert_array_equal(scan.labels[scan.keyframe], alone.labels)


def walk(devkit, token, way):
    tokens = []
    while token := devkit.get("sample_data", token)[way]:
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("num_sweeps", [1, 2])
def test_both_ways_future_fills_up_for_missing_past(root, devkit, num_sweeps):
    dataset = build(root, multisweeps={"num_sweeps": num_sweeps, "only_past": False})
    for index in range(len(dataset)):
        scan = dataset.load(index, cameras=False)
        past = walk(devkit, dataset.token(index), "prev")[:num_sweeps]
        future = walk(devkit, dataset.token(index), "next")[: 2 * num_sweeps - len(past)]
        now = lidar_record(devkit, dataset, index)["timestamp"]
        lags = [
            (now - devkit.get("sample_data", token)["timestamp"]) * 1e-6 for token in past + future
        ]
        found = list(dict.fromkeys(scan.time_lag[~scan.keyframe].tolist()))
        np.testing.assert_allclose(found, lags, atol=1e-6)


def test_frames_by_scene_sample_and_scan(root):
    val = build(root, "val")
    picked = [val.scene(0), val.sample_token(len(val) - 1)]
    dataset = build(root, frames={"train": picked})
    expected = [
        val.token(i) for i in range(len(val)) if val.scene(i) == val.scene(0) or i == len(val) - 1
    ]
    assert [dataset.token(i) for i in range(len(dataset))] == expected
    assert len(build(root, frames={"train": [val.token(1)]})) == 1
    with pytest.raises(UserError, match=r"names scene-9999, which v1\.0-mini does not have"):
        build(root, frames={"train": ["scene-9999"]})


def test_cameras_in_the_order_asked_for(root):
    scan = build(root, cameras=["CAM_BACK", "CAM_FRONT"]).load(0)
    assert [camera.name for camera in scan.cameras] == ["CAM_BACK", "CAM_FRONT"]
    with pytest.raises(UserError, match="no camera CAM_UP"):
        build(root, cameras=["CAM_UP"])


def test_test_split_of_mini_is_empty(root):
    with pytest.raises(UserError, match=r"the test split is empty"):
        build(root, "test")


def test_missing_root_and_version(tmp_path):
    with pytest.raises(UserError, match=r"does not exist.*v1.0-mini/.*samples/"):
        build(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no 'v1.0-mini'.*v1.0-mini.tgz"):
        build(tmp_path)


def test_missing_table(spoilt):
    (spoilt / VERSION / "ego_pose.json").unlink()
    with pytest.raises(UserError, match=r"ego_pose.json: this table does not exist.*v1.0-mini.tgz"):
        build(spoilt)


def test_missing_lidarseg_table_names_the_archive(spoilt):
    (spoilt / VERSION / "lidarseg.json").unlink()
    with pytest.raises(UserError, match=r"lidarseg.json.*nuScenes-lidarseg-all-v1.0.tar.bz2"):
        build(spoilt)
    assert build(spoilt, use_labels=False).load(0, cameras=False).labels is None


def test_missing_labels_folder(spoilt):
    shutil.rmtree(spoilt / "lidarseg")
    with pytest.raises(UserError, match=r"have no label file.*nuScenes-lidarseg-all"):
        build(spoilt)


def test_keyframes_without_files_are_left_out(spoilt):
    whole = build(spoilt)
    first = whole.files(0)
    first.points.unlink()
    whole.files(1).images["CAM_BACK"].unlink()
    dataset = build(spoilt)
    assert [dataset.token(i) for i in range(len(dataset))] == [
        whole.token(i) for i in range(1, len(whole))
    ]
    scans, images = dataset.gaps()
    assert (scans.needed_for, images.needed_for) == ("lidar", "cameras")
    assert scans.text.startswith(f"1 of {len(whole)} keyframes (1 scenes) have no scan")
    with pytest.raises(UserError, match=r"image of CAM_BACK does not exist.*file blobs"):
        dataset.load(0)
    assert dataset.load(0, cameras=False).cameras == ()


def test_missing_sweep(spoilt):
    shutil.rmtree(spoilt / "sweeps" / "LIDAR_TOP")
    assert len(build(spoilt)) == 2
    dataset = build(spoilt, multisweeps={"num_sweeps": 1})
    assert len(dataset) == 1  # a scene's first keyframe has nothing before it
    assert "1 of 2 keyframes (1 scenes) miss a sweep" in dataset.missing()[0]


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("points", lambda d: d[:-3], "multiple of 20"),
        ("points", lambda d: b"", "holds no points"),
        ("points", lambda d: np.float32(np.nan).tobytes() + d[4:], r"1 of \d+ points have NaN"),
        ("labels", lambda d: d[:-1], r"bytes = \d+ labels of 1 bytes"),
        ("labels", lambda d: b"\x63" * 3 + d[3:], r"label id 99 \(3 points\)"),
    ],
)
def test_damaged_files(spoilt, kind, damage, message):
    dataset = build(spoilt)
    path = getattr(dataset.files(0), kind)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        dataset.load(0)
    assert str(path) in str(error.value)


def test_damaged_image_and_instances(spoilt, devkit):
    dataset = build(spoilt, instances=True)
    path = dataset.files(0).images["CAM_FRONT"]
    path.write_bytes(path.read_bytes()[:100])
    camera = next(c for c in dataset.load(0).cameras if c.name == "CAM_FRONT")
    with pytest.raises(UserError, match="cannot decode this image"):
        camera.load()
    panoptic = spoilt / devkit.get("panoptic", dataset.token(0))["filename"]
    panoptic.write_bytes(b"PK\x03\x04")
    with pytest.raises(
        UserError, match=r"panoptic.npz: cannot decode this file of instances.*nuScenes-panoptic"
    ):
        dataset.load(0)


def test_index_is_reused_until_a_table_changes(spoilt):
    first = open_index(spoilt, VERSION)
    stamp = (first.folder / "index.json").stat().st_mtime_ns
    assert (open_index(spoilt, VERSION).folder / "index.json").stat().st_mtime_ns == stamp
    os.utime(spoilt / VERSION / "scene.json", ns=(1, 1))
    second = open_index(spoilt, VERSION)
    assert second.folder != first.folder and not first.folder.exists()
    assert second.folder.parent == spoilt / ".lidistill"
    np.testing.assert_array_equal(
        second.lidar_ego, np.load(second.folder / "lidar_ego.npy", allow_pickle=False)
    )


@pytest.mark.parametrize("name", ["index.json", "lidar_ego.npy", "key_sample.npy"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove", "json"])
def test_a_damaged_index_is_built_anew(spoilt, name, damage):
    first = open_index(spoilt, VERSION)
    path = first.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    changed = {"flip": bytes(content), "cut": bytes(content[:-9]), "empty": b"", "json": b"[1]"}
    path.unlink()
    if damage != "remove":
        path.write_bytes(changed[damage])
    again = open_index(spoilt, VERSION)
    np.testing.assert_array_equal(again.lidar_ego, first.lidar_ego)
    assert sha256(path) == sha256(again.folder / name) and again.damaged == first.damaged == {}


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("sensor", "channel", 5),
        ("calibrated_sensor", "translation", [1.0, 2.0]),
        ("calibrated_sensor", "rotation", ["1", 0, 0, 0]),
        ("calibrated_sensor", "camera_intrinsic", [[1.0, 0.0, 0.0]]),
        ("scene", "name", None),
        ("sample", "timestamp", "1538984233547259"),
        ("sample_data", "is_key_frame", "yes"),
        ("sample_data", "width", 1e300),
        ("sample_data", "timestamp", 1 << 70),
        ("sample_data", "filename", "x" * 5000),
        ("ego_pose", "translation", [0.0, 0.0, float("nan")]),
        ("sample_data", "token", "../../../../tmp/x"),
        ("sample_data", "token", "a\0b"),
        ("sample_data", "filename", "../../etc/passwd"),
        ("sample_data", "filename", "/etc/passwd"),
        ("sample_data", "filename", ""),
        ("ego_pose", "rotation", [0.0, 0.0, 0.0, 0.0]),
        ("ego_pose", "rotation", [2.0, 0.0, 0.0, 0.0]),
        ("calibrated_sensor", "rotation", [0.7, 0.7, 0.7, 0.0]),
        ("ego_pose", "translation", [1e12, 0.0, 0.0]),
    ],
)
def test_a_table_of_wrong_types_names_row_and_key(spoilt, table, key, value):
    path = spoilt / VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    rows[-1][key] = value
    path.write_text(json.dumps(rows))
    with pytest.raises(
        UserError, match=rf"{table}\.json: row {len(rows) - 1}: key '{key}"
    ) as caught:
        open_index(spoilt, VERSION)
    assert "metadata archive" in caught.value.cure


@pytest.mark.parametrize("name", ["lidarseg", "panoptic"])
@pytest.mark.parametrize("value", [["a"], "lidarseg/../../x"])
def test_a_damaged_table_of_labels_ends_jobs_that_read_them_alone(spoilt, name, value):
    path = spoilt / VERSION / f"{name}.json"
    rows = json.loads(path.read_text())
    rows[-1]["filename"] = value
    path.write_text(json.dumps(rows))
    for _ in range(2):  # from the tables, and from the index
        with pytest.raises(UserError, match=rf"{name}\.json: row {len(rows) - 1}: key 'filename'"):
            build(spoilt, instances=True)
        assert build(spoilt, use_labels=False, instances=True).load(0).labels is None
    assert name == "lidarseg" or build(spoilt).load(0).labels is not None
    path.unlink()
    assert name == "lidarseg" or build(spoilt, instances=True).load(0).instances is None


def _changed_table(root, table, change):
    path = root / VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    change([row for row in rows if row.get("fileformat") in (None, "pcd")])
    path.write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("scene", lambda rows: rows[0].update(nbr_samples=3), r"has 3 samples .* and 2 keyframes"),
        ("sample_data", lambda rows: rows[1].update(prev="absent"), "'absent' is referred to"),
        ("sample_data", lambda rows: rows[2].update(prev=""), "does not name it back"),
        ("sample_data", lambda rows: rows[1].update(prev=rows[1]["token"]), "not name it back"),
        (
            "sample_data",
            lambda rows: rows[0].update(timestamp=1 << 61),
            "older than the sweep before",
        ),
        ("sample_data", lambda rows: rows[1].update(token=rows[2]["token"]), "is referred to"),
        (
            "sample_data",
            lambda rows: rows[1].update(is_key_frame=True),
            r"7 rows are keyframes of LIDAR_TOP, but they belong to 6 samples",
        ),
    ],
    ids=["count", "absent", "one way", "itself", "time", "twice", "two keyframes"],
)
def test_tables_agree_on_what_they_say_twice(spoilt, table, change, message):
    _changed_table(spoilt, table, change)
    with pytest.raises(UserError, match=message) as caught:
        open_index(spoilt, VERSION)
    assert VERSION in caught.value.where and "metadata archive" in caught.value.cure


def test_a_token_is_written_once() -> None:
    none = np.full(2, -1)
    arrays = {"lidar_token": np.array([b"a", b"a"]), "lidar_time": np.zeros(2)}
    with pytest.raises(UserError, match="token a is written twice"):
        check_links({**arrays, "lidar_prev": none, "lidar_next": none}, Path(VERSION))


def test_sweeps_of_one_time_are_still_sweeps(spoilt):
    whole = build(spoilt, multisweeps={"num_sweeps": 2})
    own = len(build(spoilt).load(1).points)
    _changed_table(spoilt, "sample_data", lambda rows: [row.update(timestamp=5) for row in rows])
    scan = build(spoilt, multisweeps={"num_sweeps": 2}).load(1)
    assert not scan.time_lag.any() and scan.keyframe.sum() == own
    assert len(scan.points) == len(whole.load(1).points)


def test_images_are_of_the_size_in_the_table(spoilt):
    scan = build(spoilt).load(0)
    path = build(spoilt).files(0).images["CAM_FRONT"]
    width, height = scan.cameras[1].size
    Image.new("RGB", (width // 2, height // 2)).save(path)
    camera = next(c for c in build(spoilt).load(0).cameras if c.name == "CAM_FRONT")
    with pytest.raises(UserError, match=rf"px; the calibration is for {width} x {height}"):
        camera.load()
    _changed_table(spoilt, "calibrated_sensor", lambda rows: [_shift(row) for row in rows])
    with pytest.raises(UserError, match=r"principal point of .*calibrated_sensor\.json"):
        build(spoilt).load(0)


def _shift(row):
    if row["camera_intrinsic"]:
        row["camera_intrinsic"][0][2] *= 2


def test_instances_have_the_classes_of_the_labels(spoilt, devkit):
    dataset = build(spoilt, instances=True)
    path = spoilt / devkit.get("panoptic", dataset.token(0))["filename"]
    with np.load(path) as archive:
        data = archive["data"]
    np.savez_compressed(path, data=data[::-1])
    with pytest.raises(UserError, match=r"another class here than in the lidarseg file"):
        dataset.load(0)
    np.savez_compressed(path, data=data[:-1])
    with pytest.raises(UserError, match=r"ids, but the scan has"):
        dataset.load(0)


def test_label_files_that_no_row_names_are_counted(spoilt):
    (spoilt / "lidarseg" / VERSION / "other_lidarseg.bin").touch()
    (gap,) = build(spoilt).gaps()
    assert gap.needed_for == "nothing" and "1 files are in no row" in gap.text
    assert not build(spoilt, use_labels=False).gaps()


def test_the_first_and_last_image_of_each_scene_are_looked_for(spoilt):
    dataset = build(spoilt, "val")
    dataset.check_images()
    last = max(i for i in range(len(dataset)) if dataset.scene(i) == dataset.scene(0))
    dataset.files(last).images["CAM_BACK"].unlink()
    with pytest.raises(UserError, match=r"CAM_BACK.*does not exist.*file blobs of v1\.0-mini"):
        dataset.check_images()


@pytest.mark.parametrize(
    "content", [b"[5]", b'["\xff"]', b"[" * 100_000, b"[" + b"9" * 5000 + b"]"]
)
def test_a_table_of_other_bytes_is_named(spoilt, content):
    (spoilt / VERSION / "scene.json").write_bytes(content)
    with pytest.raises(UserError, match=r"scene\.json"):
        open_index(spoilt, VERSION)


def test_read_only_root_uses_the_cache_folder(spoilt, tmp_path, monkeypatch):
    shutil.rmtree(spoilt / ".lidistill", ignore_errors=True)  # where an earlier test left an index
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index_files.os, "access", lambda path, mode: False)  # tests may run as root
    index = open_index(spoilt, VERSION)
    assert index.folder.is_relative_to(tmp_path / "cache" / "lidistill")
    assert not (spoilt / ".lidistill").exists()


def test_index_is_mapped_and_pickles_small(root):
    dataset = build(root)
    assert isinstance(dataset.index.lidar_ego, np.memmap)
    data = pickle.dumps(dataset)
    assert len(data) < 3000
    again = pickle.loads(data)
    assert isinstance(again.index.lidar_ego, np.memmap)
    np.testing.assert_array_equal(again.load(0).xyz, dataset.load(0).xyz)


def _open(root, queue):
    queue.put(len(open_index(root, VERSION).key_lidar))


def test_only_one_process_builds(spoilt, tmp_path, monkeypatch):
    shutil.rmtree(spoilt / ".lidistill")
    original = nuscenes_index._build

    def slow_build(tables):
        with open(tmp_path / "builds", "a") as stream:
            stream.write("x")
        time.sleep(0.3)  # long enough for the others to arrive
        return original(tables)

    monkeypatch.setattr(nuscenes_index, "_build", slow_build)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_open, args=(spoilt, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    counts = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert counts == [6, 6, 6]
    assert (tmp_path / "builds").read_text() == "x"
    assert len(list((spoilt / ".lidistill").glob(f"{VERSION}-*"))) == 1


def test_rows_across_chunks(tmp_path, monkeypatch):
    rows = [{"token": f"{i:032x}", "text": "[{,]}" * (i % 7), "list": [i, [i]]} for i in range(300)]
    path = tmp_path / "rows.json"
    monkeypatch.setattr("core.datasets.nuscenes.tables._CHUNK", 512)
    for indent in (None, 0, 2):
        path.write_text(json.dumps(rows, indent=indent))
        assert list(iterate_table(path, dict[str, object])) == rows
    path.write_text("[]")
    assert list(iterate_table(path, dict[str, object])) == []


@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"a"', '[{"a": 1}', '{"a": 1}', "", '[{"a": 1}, oops]' + " " * 3000]
)
def test_damaged_tables(tmp_path, monkeypatch, text):
    monkeypatch.setattr("core.datasets.nuscenes.tables._CHUNK", 512)
    path = tmp_path / "scene.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"scene.json: this table is damaged or cut short"):
        list(iterate_table(path, dict[str, object]))


def test_tables_of_two_versions(spoilt):
    path = spoilt / VERSION / "ego_pose.json"
    path.write_text(json.dumps(json.loads(path.read_text())[1:]))
    with pytest.raises(UserError, match=r"do not fit together.*ego_pose"):
        build(spoilt)


@pytest.mark.realdata
@pytest.mark.skipif(
    not (REAL / "nuscenes").is_dir(), reason="no real keyframe; set LIDISTILL_REALDATA"
)
def test_real_keyframe_agrees_with_the_devkit(tmp_path):
    for name in (VERSION, "samples", "lidarseg"):
        (tmp_path / name).symlink_to(REAL / "nuscenes" / name)
    devkit = pytest.importorskip("nuscenes").NuScenes(VERSION, str(tmp_path), verbose=False)
    dataset = build(tmp_path, frames={"val": ["ca9a282c9e77460f8360f564131a8af5"]})
    scan = dataset.load(0)
    assert len(scan.xyz) == 34688
    sample = devkit.get("sample", dataset.sample_token(0))
    for camera in scan.cameras:
        pixels, _, _ = devkit.explorer.map_pointcloud_to_image(
            dataset.token(0), sample["data"][camera.name]
        )
        uv, _, visible = camera.project(scan.xyz)
        inner = visible & (uv[:, 0] > 1) & (uv[:, 1] > 1)
        assert (
            abs(int(inner.sum()) - pixels.shape[1]) <= 2
        )  # the devkit rounds to float32 in global coordinates
        seen = pixels[:2].T[
            np.abs(pixels[:2].T[:, None] - uv[inner][None, :200]).sum(2).min(1) < 0.2
        ]
        assert len(seen) >= 200
