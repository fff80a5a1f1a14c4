"""The nuScenes world through the eyes of the official devkit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.lidarseg.evaluate import LidarSegEval
from nuscenes.eval.lidarseg.utils import LidarsegClassMapper
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box, transform_matrix, view_points
from nuscenes.utils.splits import mini_train, mini_val
from PIL import Image
from pyquaternion import Quaternion

from core.datasets.synthetic import WorldSpec
from core.datasets.synthetic.classes import NUSCENES_RAW
from core.datasets.synthetic.nuscenes_format import PERIOD, instance_numbers, quaternion
from core.datasets.synthetic.nuscenes_world import NuScenesWorld
from core.datasets.synthetic.render import render
from core.datasets.synthetic.sensors import NUSCENES_CAMERAS

KEYS = {  # schema_nuscenes.md: foreign key -> table
    "calibrated_sensor": {"sensor_token": "sensor"},
    "instance": {
        "category_token": "category",
        "first_annotation_token": "sample_annotation",
        "last_annotation_token": "sample_annotation",
    },
    "sample": {"scene_token": "scene", "next": "sample", "prev": "sample"},
    "sample_annotation": {
        "sample_token": "sample",
        "instance_token": "instance",
        "visibility_token": "visibility",
        "next": "sample_annotation",
        "prev": "sample_annotation",
    },
    "sample_data": {
        "sample_token": "sample",
        "ego_pose_token": "ego_pose",
        "calibrated_sensor_token": "calibrated_sensor",
        "next": "sample_data",
        "prev": "sample_data",
    },
    "scene": {"log_token": "log", "first_sample_token": "sample", "last_sample_token": "sample"},
    "lidarseg": {"sample_data_token": "sample_data"},
    "panoptic": {"sample_data_token": "sample_data"},
}


@pytest.fixture(scope="module")
def nusc(tiny_nuscenes: Path) -> NuScenes:
    return NuScenes("v1.0-mini", str(tiny_nuscenes), verbose=False)


def labels_of(nusc: NuScenes, token: str) -> tuple[np.ndarray, np.ndarray]:
    root = Path(nusc.dataroot)
    panoptic = np.load(root / nusc.get("panoptic", token)["filename"])["data"]
    return np.fromfile(root / nusc.get("lidarseg", token)["filename"], np.uint8), panoptic


def matrix(record: dict) -> np.ndarray:
    return transform_matrix(record["translation"], Quaternion(record["rotation"]))


def test_every_reference_leads_somewhere(nusc):
    for table, references in KEYS.items():
        for row in getattr(nusc, table):
            for key, target in references.items():
                if row[key] or key not in ("next", "prev"):
                    nusc.get(target, row[key])
            if row.get("next"):
                assert nusc.get(table, row["next"])["prev"] == row["token"]
    tokens = [
        row["token"]
        for name in nusc.table_names
        for row in getattr(nusc, name)
        if name != "visibility"
    ]
    assert all(len(token) == 32 and int(token, 16) >= 0 for token in tokens)
    for row in nusc.sample_data:
        assert (Path(nusc.dataroot) / row["filename"]).is_file()


def test_official_names_and_categories(nusc):
    names = [scene["name"] for scene in nusc.scene]
    assert names == mini_train[:1] + mini_val
    assert nusc.lidarseg_idx2name_mapping[24] == "flat.driveable_surface"
    assert nusc.lidarseg_name2idx_mapping["vehicle.ego"] == 31 and len(nusc.category) == 32


def test_images_have_the_recorded_size(nusc):
    cameras = [row for row in nusc.sample_data if row["fileformat"] == "jpg"]
    assert len(cameras) == 6 * len(nusc.sample)
    for row in cameras[:6]:
        with Image.open(Path(nusc.dataroot) / row["filename"]) as image:
            assert image.size == (row["width"], row["height"]) == (96, 54)
            assert np.asarray(image).std() > 10
    times = {
        nusc.get("sample", row["sample_token"])["timestamp"] - row["timestamp"] for row in cameras
    }
    assert min(times) > 0 and max(times) < 60_000 and len(times) > 1


def test_sweeps_lie_between_the_keyframes(nusc):
    for sample in nusc.sample:
        if sample["next"]:
            row, seen = nusc.get("sample_data", sample["data"]["LIDAR_TOP"]), []
            while row["next"]:
                row = nusc.get("sample_data", row["next"])
                seen.append((row["is_key_frame"], row["timestamp"] - sample["timestamp"]))
            assert [flag for flag, _ in seen] == [False, False, True]
            assert [gap for _, gap in seen] == [166667, 333333, 500000]


def test_labels_match_points_and_each_other(nusc):
    for sample in nusc.sample:
        token = sample["data"]["LIDAR_TOP"]
        cloud = LidarPointCloud.from_file(nusc.get_sample_data_path(token)).points
        labels, panoptic = labels_of(nusc, token)
        assert cloud.shape[1] == len(labels) == len(panoptic) > 3000
        assert panoptic.dtype == np.uint16 and (panoptic // 1000 == labels).all()
        things = np.isin(labels, [2, 3, 4, 9, 10, 12, 14, 16, 17, 18, 21, 22, 23])
        assert ((panoptic % 1000 > 0) == things).all()
        assert cloud[3].min() >= 0 and cloud[3].max() <= 255


def test_ground_is_below_the_sensor_and_x_points_right(nusc):
    sample = nusc.sample[0]
    record = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
    cloud = LidarPointCloud.from_file(nusc.get_sample_data_path(record["token"])).points[:3]
    labels, _ = labels_of(nusc, record["token"])
    height = cloud[2][(labels == 24) & (np.hypot(cloud[0], cloud[1]) < 12)]
    assert np.median(height) == pytest.approx(-1.84, abs=0.05)
    mount = matrix(nusc.get("calibrated_sensor", record["calibrated_sensor_token"]))
    np.testing.assert_allclose(mount[:3, 1], [1, 0, 0], atol=0.02)  # sensor y is forward
    np.testing.assert_allclose(mount[:3, 0], [0, -1, 0], atol=0.02)  # sensor x is right


def test_boxes_hold_the_points_of_their_instance(nusc):
    checked = 0
    for sample in nusc.sample:
        token = sample["data"]["LIDAR_TOP"]
        path, boxes, _ = nusc.get_sample_data(token)
        cloud = LidarPointCloud.from_file(path).points[:3]
        labels, panoptic = labels_of(nusc, token)
        claimed = np.zeros(len(labels), bool)
        for box in boxes:
            inside = points_in_box(box, cloud)
            index = nusc.lidarseg_name2idx_mapping[box.name]
            ids, counts = np.unique(panoptic[inside & (labels == index)], return_counts=True)
            own = panoptic == ids[counts.argmax()]
            assert inside[own].all()
            assert own.sum() == nusc.get("sample_annotation", box.token)["num_lidar_pts"]
            claimed |= own
            checked += 1
        assert (claimed == (panoptic % 1000 > 0)).all()
    assert checked > 100


def test_lidar_points_fall_on_their_object_in_the_images(nusc, tiny_spec):
    spec, scale = WorldSpec(format="nuscenes", scenes=3, **tiny_spec), 0.3
    agreed = total = near = 0
    for frame in range(2):
        scene, sample = NuScenesWorld().scene(spec, 1), nusc.sample[2 + frame]
        lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        cloud = LidarPointCloud.from_file(nusc.get_sample_data_path(lidar["token"])).points[:3]
        _, panoptic = labels_of(nusc, lidar["token"])
        to_world = matrix(nusc.get("ego_pose", lidar["ego_pose_token"])) @ matrix(
            nusc.get("calibrated_sensor", lidar["calibrated_sensor_token"])
        )
        names = np.zeros(len(scene.things) + 1, int)
        for thing in scene.things:
            names[thing.number] = (
                int(NUSCENES_RAW[thing.cls]) * 1000 + instance_numbers(scene)[thing.number]
            )
        for camera in NUSCENES_CAMERAS:
            record = nusc.get("sample_data", sample["data"][camera.name])
            mount = nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
            from_world = np.linalg.inv(
                matrix(nusc.get("ego_pose", record["ego_pose_token"])) @ matrix(mount)
            )
            local = (from_world @ to_world @ np.vstack([cloud, np.ones(cloud.shape[1])]))[:3]
            front = local[2] > 1
            intrinsic = np.array(mount["camera_intrinsic"]) * np.array(
                [[scale / 0.06], [scale / 0.06], [1]]
            )
            column, row = np.round(view_points(local[:, front], intrinsic, True)[:2]).astype(int)
            width, height = camera.size(scale)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            now = scene.snapshot(frame * PERIOD - camera.lag, body=False)
            _, things, distance = render(
                now, now.ego @ camera.mount, camera.matrix(scale), (width, height)
            )
            column, row = column[inside], row[inside]
            range_ = np.linalg.norm(local[:, front][:, inside], axis=0)
            plain = np.abs(distance[row, column] - range_) < 0.04 * range_
            own = panoptic[front][inside]
            both = plain & (own % 1000 > 0)
            agreed += (names[things[row, column]][both] == own[both]).sum()
            total, near = total + both.sum(), near + plain.mean() / 12
    assert total > 300
    assert agreed / total > 0.9
    assert near > 0.7


def test_devkit_evaluation_runs_and_truth_scores_one(nusc, tmp_path):
    folder = tmp_path / "lidarseg" / "mini_val"
    folder.mkdir(parents=True)
    mapper, present = LidarsegClassMapper(nusc), set()
    for sample in nusc.sample[2:]:  # the two validation scenes
        token = sample["data"]["LIDAR_TOP"]
        labels, _ = labels_of(nusc, token)
        coarse = mapper.convert_label(labels)
        present |= set(np.unique(coarse))
        np.where(coarse == 0, 1, coarse).astype(np.uint8).tofile(folder / f"{token}_lidarseg.bin")
    result = LidarSegEval(nusc, str(tmp_path), "mini_val").evaluate()
    scores = {name: score for name, score in result["iou_per_class"].items() if np.isfinite(score)}
    assert len(present - {0}) >= 15
    assert result["miou"] == pytest.approx(1.0) and set(scores.values()) == {1.0}


def test_quaternion_agrees_with_pyquaternion():
    rng = np.random.default_rng(0)
    for _ in range(50):
        turn = Quaternion(rng.standard_normal(4)).normalised
        ours = Quaternion(quaternion(turn.rotation_matrix))
        np.testing.assert_allclose(ours.rotation_matrix, turn.rotation_matrix, atol=1e-9)
        assert ours.w >= 0


def test_moving_objects_move_and_parked_ones_do_not(nusc):
    names = {row["token"]: row["name"] for row in nusc.attribute}
    moved = {"vehicle.moving": 0, "vehicle.parked": 0}
    for row in nusc.sample_annotation:
        name = names[row["attribute_tokens"][0]] if row["attribute_tokens"] else ""
        if row["next"] and name in moved:
            after = nusc.get("sample_annotation", row["next"])
            way = np.linalg.norm(np.subtract(after["translation"], row["translation"]))
            assert (way > 1.0) if name == "vehicle.moving" else (way == 0.0)
            moved[name] += 1
    assert moved["vehicle.moving"] >= 5 and moved["vehicle.parked"] >= 10


def test_map_covers_the_road_under_the_car(nusc):
    for scene in nusc.scene:
        log = nusc.get("log", scene["log_token"])
        mask = nusc.get("map", log["map_token"])["mask"]
        sample = nusc.get("sample", scene["first_sample_token"])
        pose = nusc.get(
            "ego_pose", nusc.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"]
        )
        x, y, _ = pose["translation"]
        assert bool(mask.is_on_mask(x, y)[0])
    assert 0.2 < (mask.mask() > 0).mean() < 0.9


def test_tables_are_json_lists(tiny_nuscenes):
    tables = sorted(path.stem for path in (tiny_nuscenes / "v1.0-mini").iterdir())
    assert len(tables) == 15
    assert all(
        isinstance(json.loads((tiny_nuscenes / "v1.0-mini" / f"{t}.json").read_text()), list)
        for t in tables
    )
