"""The paste augmentation on toy scans: where objects land, when they do not, and that all views see the same scan."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fakes import forward_camera, make_scan
from instance_fakes import (
    CAR,
    CENTRE,
    MANMADE,
    PEDESTRIAN,
    ROAD,
    RoadDataset,
    box_of_points,
    paste_config,
    road_scan,
    toy_database,
)
from loguru import logger

from core.config import Config
from core.data import (
    DataConfig,
    PairedSamples,
    SampleKey,
    ScanSamples,
    build_loader,
    make_sample,
    teacher_voxels,
)
from core.data.instances.build import build_database
from core.data.instances.drawing import class_weights
from core.data.instances.paste import Paster, U2MKDPaste
from core.data.instances.scene import Scene, in_shadow, place
from core.data.instances.tables import thing_rules
from core.data.paste_config import ThingRule
from core.datasets import build_dataset
from core.errors import UserError
from core.labels import LABEL_SPACES, NUSCENES, SEMANTICKITTI

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))
SOURCE = np.array([3.0, 12.0, 0.5])  # where the toy object was recorded
CLOUD = box_of_points(SOURCE)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def folder(tmp_path):
    toy_database(tmp_path / "db", [(CAR, CLOUD)])
    return tmp_path / "db"


def paster(folder, **keys) -> Paster:
    return Paster(paste_config(folder, **keys), NUSCENES)


def expected(cloud: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The object turned by the difference in azimuth, its anchor (mean x, mean y, min z) on the target; in float64."""
    points = cloud[:, :3].astype(np.float64)
    anchor = np.array([points[:, 0].mean(), points[:, 1].mean(), points[:, 2].min()])
    turn = np.exp(1j * (np.angle(complex(*target[:2])) - np.angle(complex(*anchor[:2]))))
    flat = ((points[:, 0] - anchor[0]) + 1j * (points[:, 1] - anchor[1])) * turn
    return np.column_stack(
        [flat.real + target[0], flat.imag + target[1], points[:, 2] - anchor[2] + target[2]]
    )


def test_object_is_turned_to_the_place_and_stands_on_its_ground(folder):
    scan = road_scan()
    pasted = paster(folder, count=1)(scan, rng())
    assert len(pasted.xyz) == 24 + 40
    assert pasted.pasted.tolist() == [False] * 24 + [True] * 40
    np.testing.assert_allclose(pasted.xyz[24:], expected(CLOUD, CENTRE), atol=2e-6)
    assert pasted.xyz[24:, 2].min() == pytest.approx(-1.75)
    np.testing.assert_array_equal(pasted.xyz[:24], scan.xyz)
    assert set(pasted.labels[24:]) == {CAR} and set(pasted.intensity[24:]) == {7.0}
    assert {field: getattr(pasted, field).dtype for field in ("xyz", "intensity", "labels", "time_lag")} == {
        "xyz": "f4", "intensity": "f4", "labels": "u1", "time_lag": "f4",
    }  # fmt: skip
    assert scan.pasted is None and len(scan.xyz) == 24


def test_places_nearest_in_distance_come_first():
    centres = [(12.5, 2.5, -1), (-32.5, 2.5, -1), (2.5, 22.5, -1)]
    xyz = np.concatenate(
        [np.repeat([centre], 20, 0) for centre in centres] + [[(52.5, 2.5, -1)] * 19]
    )
    ground = np.full(256, -1, np.int8)
    ground[ROAD] = 0
    scene = Scene(
        xyz.astype(np.float32), np.full(len(xyz), ROAD, np.uint8), np.zeros(256, bool), ground
    )
    nearest = scene.places(np.array([0]), 25.0, 9)  # 19 points are too few for a cell
    np.testing.assert_allclose(nearest, [centres[2], centres[1], centres[0]], atol=1e-6)
    assert len(scene.places(np.array([0]), 25.0, 2)) == 2


def test_only_the_class_s_own_ground_counts(folder):
    scan = road_scan().having(label=np.full(24, MANMADE, np.uint8))
    assert paster(folder)(scan, rng()) is scan
    other = {"car": ThingRule(min_points=1, ground=("sidewalk",))}
    assert paster(folder, things=other)(road_scan(), rng()).pasted is None


def test_too_little_ground_and_no_ground_paste_nothing(folder):
    few = road_scan(points=19)
    assert paster(folder)(few, rng()) is few
    far = road_scan(centre=(182.5, 2.5, -1.75))  # beyond reach
    assert paster(folder)(far, rng()) is far


@pytest.mark.parametrize(
    ("label", "count", "fits"),
    [(MANMADE, 2, True), (MANMADE, 3, False), (CAR, 1, False), (0, 3, False)],
)
def test_box_test_counts_things_and_others(folder, label, count, fits):
    """40 points allow 2 others (5 %) and no thing (0.1 %)."""
    inside = np.repeat([CENTRE + (0, 0, 0.5)], count, 0)
    scan = road_scan(more=inside, labels=[label] * count)
    assert (paster(folder, count=1)(scan, rng()) is not scan) == fits
    above = road_scan(more=inside + (0, 0, 2), labels=[label] * count)
    assert paster(folder, count=1)(above, rng()).pasted.sum() == 40


def test_a_scanner_off_the_origin_is_what_objects_are_turned_about(folder):
    sensor = np.array([1.25, -0.5, 1.75])
    scan = road_scan(centre=CENTRE + sensor)
    pasted = paster(folder, count=1, sensor=tuple(sensor))(scan, rng())
    relative = CLOUD - np.float32([*sensor, 0])
    np.testing.assert_allclose(pasted.xyz[24:], expected(relative, CENTRE) + sensor, atol=5e-6)
    np.testing.assert_array_equal(pasted.xyz[:24], scan.xyz)


def test_two_objects_never_share_a_place(folder):
    assert paster(folder, count=5)(road_scan(), rng()).pasted.sum() == 40


def test_nothing_is_put_around_the_sensor(folder):
    """The mean of a ring of road around the sensor is the sensor's own place."""
    scan = make_scan(np.repeat([(0.2, 0.2, -1.7), (0.1, 0.3, -1.7)], 12, 0), labels=[ROAD] * 24)
    assert paster(folder)(scan, rng()) is scan


def test_shifts_start_from_the_place_each_time():
    scan = road_scan(more=[CENTRE + (0, 0, 0.5), CENTRE + (1.5, 0, 0.5)], labels=[CAR, CAR])
    things = np.arange(256) == CAR
    scene = Scene(scan.xyz, scan.labels, things, np.full(256, -1, np.int8))
    shifts = np.array([[[0, 0, 0], [1.5, 0, 0.0], [-1.25, 0.0, 0.0625]]])
    anchor = np.array([*CLOUD[:, :2].mean(0, dtype=np.float64), CLOUD[:, 2].min()])
    moved = place(scene, CLOUD[:, :3], anchor, CENTRE[None].copy(), shifts, np.zeros((0, 2, 3)))
    np.testing.assert_allclose(moved, expected(CLOUD, CENTRE + (-1.25, 0, 0.0625)), atol=2e-6)
    assert (
        place(
            scene,
            CLOUD[:, :3],
            anchor,
            CENTRE[None].copy(),
            shifts[:, :2].copy(),
            np.zeros((0, 2, 3)),
        )
        is None
    )


def test_jitter_is_bounded(folder):
    dropped = [
        paster(folder, count=1, jitter=(0.5, 0.05))(road_scan(), rng(seed)) for seed in range(20)
    ]
    anchors = np.array(
        [[*p.xyz[24:, :2].mean(0, dtype=np.float64), p.xyz[24:, 2].min()] for p in dropped]
    )
    away = anchors - CENTRE
    assert np.abs(away[:, :2]).max() <= 0.5 + 1e-5 and np.abs(away[:, :2]).max() > 0.3
    assert away[:, 2].min() >= -1e-6 and 0.03 < away[:, 2].max() <= 0.05 + 1e-6


def test_budget_holds_for_all_classes_together(tmp_path):
    toy_database(tmp_path / "db", [(CAR, CLOUD), (PEDESTRIAN, CLOUD)])
    dataset = RoadDataset()
    for limit, total in ((39, 0), (40, 40), (79, 40), (80, 80), (5000, 120)):
        augmented = paster(tmp_path / "db", count=20, max_points=limit)(dataset.load(0), rng())
        assert (0 if augmented.pasted is None else int(augmented.pasted.sum())) == total


def test_keyframe_then_pasted_then_sweeps(folder):
    scan = RoadDataset().load(0)
    numbers = np.zeros(len(scan.points), np.int32)
    numbers[0] = 4017
    scan = scan.having(instance=numbers)
    augmented = paster(folder, count=20)(scan, rng())
    own, extra = 72, int(augmented.pasted.sum())
    assert extra == 120
    assert augmented.keyframe.tolist() == [True] * (own + extra) + [False] * 30
    np.testing.assert_array_equal(augmented.xyz[own + extra :], scan.xyz[own:])
    np.testing.assert_array_equal(augmented.intensity[:own], scan.intensity[:own])
    assert augmented.instances[0] == 4017
    assert augmented.instances[augmented.pasted].tolist() == [1] * 40 + [2] * 40 + [3] * 40


def test_instance_numbers_of_31_bits_stay_unique(folder):
    numbers = np.full(24, 2**31 - 1, np.int32)
    numbers[:2] = 1, 3
    pasted = paster(folder, count=1)(road_scan().having(instance=numbers), rng())
    assert pasted.instances.dtype == np.int32 and set(pasted.instances[24:]) == {2}


def test_class_weights():
    counts = {"car": 90, "pedestrian": 10, "bus": 0}
    assert class_weights("frequency", counts) == {"car": 90, "pedestrian": 10, "bus": 0}
    assert class_weights("sqrt", counts)["car"] == pytest.approx(90**0.5)
    assert class_weights("uniform", counts) == {"car": 1, "pedestrian": 1, "bus": 0}
    assert class_weights({"bus": 3.0, "pedestrian": 2.0}, counts) == {
        "car": 0,
        "pedestrian": 2,
        "bus": 0,
    }
    with pytest.raises(UserError, match="'tree' is no thing class"):
        class_weights({"tree": 1.0}, counts)


def test_classes_are_drawn_by_weight(tmp_path):
    toy_database(tmp_path / "db", [(CAR, CLOUD)] * 3 + [(PEDESTRIAN, CLOUD)])
    assert paster(tmp_path / "db").weights.tolist() == [0.75, 0.25]
    assert paster(tmp_path / "db", weights="uniform").weights.tolist() == [0.5, 0.5]
    only = paster(tmp_path / "db", weights={"pedestrian": 5})
    assert only.classes.tolist() == [PEDESTRIAN]
    assert set(only(road_scan(), rng()).labels[24:]) == {PEDESTRIAN}
    scans = [paster(tmp_path / "db", count=1)(road_scan(), rng(seed)) for seed in range(400)]
    assert np.mean([scan.labels[-1] == CAR for scan in scans]) == pytest.approx(0.75, abs=0.06)


def test_small_instances_are_not_drawn(tmp_path):
    toy_database(tmp_path / "db", [(CAR, CLOUD), (PEDESTRIAN, CLOUD[:9])])
    default = Paster(paste_config(tmp_path / "db", things=None), NUSCENES)
    assert default.classes.tolist() == [CAR]
    large = {"car": ThingRule(min_points=41, ground=("driveable_surface",))}
    with pytest.raises(UserError, match="no instance can be drawn"):
        paster(tmp_path / "db", things=large)


def test_shadow():
    wall = np.array(
        [(10, y, z) for y in np.linspace(-0.5, 0.5, 21) for z in (-1, -0.5, 0, 0.5)], np.float32
    )
    wall_number = np.zeros(len(wall), int)
    points = {
        (20, 0, 0): True,  # behind
        (20, 0, 0.99): True,  # slope 0.0495, just below the wall's top
        (20, 0, 1.2): False,  # above it
        (20, 0, -2.2): False,  # below it
        (20, 3, 0): False,  # beside it
        (9, 0, 0): False,  # before it
        (-20, 0, 0): False,  # on the other side
        (0, 0, 5): False,  # over the sensor
    }
    xyz = np.array(list(points), np.float32)
    nobody = np.full(len(xyz), -1)
    hidden = in_shadow(xyz, nobody, wall, wall_number, 1)
    assert hidden.tolist() == list(points.values())
    assert not in_shadow(xyz, nobody * 0, wall, wall_number, 1).any()  # nothing hides itself
    seam = np.array([(-20, 0.01, 0), (-20, -0.01, 0)], np.float32)  # azimuths pi and -pi
    assert in_shadow(seam, np.full(2, -1), wall * np.float32([-1, 1, 1]), wall_number, 1).all()


def test_occlusion_removes_what_lies_behind_in_the_keyframe_alone(folder):
    """Points at 40 m in the object's direction: the keyframe's go, the sweep's stays, what stands beside stays."""
    behind, beside = CENTRE * 3.2 + (0, 0, 1.6), CENTRE * 3.2 + (0, 10, 1.6)
    scan = road_scan(more=[behind, beside, behind], labels=[MANMADE, MANMADE, 0])
    scan = scan.having(sweep=np.r_[np.zeros(26, np.int16), np.int16(1)])
    kept = paster(folder, count=1)(scan, rng())
    assert len(kept.xyz) == 27 + 40
    cut = paster(folder, count=1, occlude=True)(scan, rng())
    left = cut.xyz[~cut.pasted]
    assert not (np.abs(left[cut.keyframe[~cut.pasted]] - behind) < 1e-3).all(1).any()
    assert (np.abs(left - beside) < 1e-3).all(1).any()
    np.testing.assert_allclose(cut.xyz[-1], behind, atol=1e-5)
    assert cut.pasted.sum() == 40


def test_no_camera_sees_pasted_points(folder):
    scan = road_scan(cameras=(forward_camera(),))
    pasted = paster(folder, count=1)(scan, rng())
    sample = make_sample(pasted, 0, DataConfig(voxel_size=0.01, augment=None, images=True))
    new = pasted.pasted[sample.voxel_to_point]
    assert new.sum() > 30 and not sample.visible[:, new].any() and not sample.pixels[:, new].any()
    assert sample.visible[0, ~new].all()
    plain = make_sample(
        pasted.having(pasted=None), 0, DataConfig(voxel_size=0.01, augment=None, images=True)
    )
    assert plain.visible[0, new].all()  # they do lie in the camera's view


VIEW = DataConfig(voxel_size=0.001, augment=None)


def test_both_views_show_the_same_pasted_scan(folder):
    paste = paste_config(folder, count=20, occlude=True, jitter=(0.5, 0.05))
    student = VIEW.model_copy(update={"paste": paste, "sweeps": False, "images": True})
    dataset = RoadDataset(cameras=(forward_camera(),))
    pairs = PairedSamples(dataset, student, VIEW, seed=1, training=True)
    samples = [pairs[SampleKey(0, index)] for index in range(3)]
    batch = pairs.collate(samples)
    s, t = batch.student, batch.teacher
    assert int((s.point_labels == CAR).sum()) > 3 * 80
    assert torch.equal(s.point_labels, t.point_labels[t.keyframe])
    rows = teacher_voxels(s, t)
    assert (rows >= 0).all()
    assert torch.equal(s.feats, t.feats[rows])  # the same coordinates, found through indices alone
    assert not s.visible[:, s.labels == CAR].any() and s.visible.any()
    alone = ScanSamples(dataset, student, seed=1, training=True)[SampleKey(0, 1)]
    np.testing.assert_array_equal(alone.feats, samples[1][0].feats)


def test_augmented_views_share_the_objects_and_not_the_augmentation(folder):
    student = DataConfig(voxel_size=0.1, paste=paste_config(folder, count=20), sweeps=False)
    pairs = PairedSamples(RoadDataset(), student, DataConfig(voxel_size=0.1), seed=1, training=True)
    s, t = pairs[SampleKey(2, 0)]
    np.testing.assert_array_equal(s.point_labels, t.point_labels[t.keyframe])
    np.testing.assert_array_equal(s.distance, t.distance[t.keyframe])
    assert not np.allclose(s.feats[0, :2], t.feats[0, :2])


def test_a_sample_is_a_function_of_seed_epoch_and_index(folder):
    config = VIEW.model_copy(update={"paste": paste_config(folder, count=2, jitter=(0.5, 0.05))})

    def feats(seed: int, epoch: int, index: int) -> bytes:
        return ScanSamples(RoadDataset(), config, seed=seed, training=True)[
            SampleKey(epoch, index)
        ].feats.tobytes()

    keys = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
    assert len({feats(*key) for key in keys}) == 4
    assert [feats(*key) for key in keys] == [feats(*key) for key in keys]
    plain = ScanSamples(RoadDataset(), VIEW, seed=1, training=True)[SampleKey(0, 0)]
    with_objects = ScanSamples(RoadDataset(), config, seed=1, training=True)[SampleKey(0, 0)]
    np.testing.assert_array_equal(
        with_objects.feats[:72], plain.feats[:72]
    )  # the views' own stream is untouched


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_map_the_database_and_change_nothing(folder, workers):
    config = VIEW.model_copy(update={"paste": paste_config(folder, count=2, jitter=(0.5, 0.05))})
    samples = ScanSamples(RoadDataset(), config, seed=1, training=True)
    assert len(pickle.dumps(samples.paste)) < 5000
    alone = build_loader(samples, batch_size=2, workers=0, training=True, seed=1)
    many = build_loader(samples, batch_size=2, workers=workers, training=True, seed=1)
    for a, b in zip(alone, many, strict=True):
        assert torch.equal(a.feats, b.feats) and int((a.point_labels == CAR).sum()) > 0
    restored = pickle.loads(pickle.dumps(samples))
    np.testing.assert_array_equal(restored[SampleKey(0, 1)].feats, samples[SampleKey(0, 1)].feats)


def test_evaluation_never_pastes(tmp_path):
    config = VIEW.model_copy(update={"paste": paste_config(tmp_path / "there is none")})
    sample = ScanSamples(RoadDataset(), config, training=False)[SampleKey(0, 0)]
    assert CAR not in sample.point_labels
    pair = PairedSamples(RoadDataset(), config, VIEW, training=False)[SampleKey(0, 0)]
    assert CAR not in pair[0].point_labels


def test_scans_of_another_split_are_warned_about(tmp_path):
    told: list[str] = []
    sink = logger.add(told.append, level="WARNING")
    for token in ("scan1", "scan9"):
        toy_database(tmp_path / token, [(CAR, CLOUD)], token)
        config = VIEW.model_copy(update={"paste": paste_config(tmp_path / token)})
        ScanSamples(RoadDataset(), config, training=True)
    logger.remove(sink)
    assert len(told) == 1 and "1 scans of the instance database" in told[0] and "scan9" in told[0]


def test_bad_input_is_named(folder):
    unlabelled = road_scan().having(label=None)
    with pytest.raises(UserError, match=r"data\.paste: scan scan has no labels"):
        paster(folder)(unlabelled, rng())
    with pytest.raises(
        UserError, match="classes of 'nuscenes', the scans those of 'semantickitti'"
    ):
        Paster(paste_config(folder), SEMANTICKITTI)
    with pytest.raises(UserError, match=r"no finished instance database.*prepare_inst_database"):
        paster(folder / "nowhere")
    with pytest.raises(UserError, match=r"data\.paste\.things.*has no class 'moon'"):
        paster(folder, things={"car": ThingRule(ground=("moon",))})
    with pytest.raises(UserError, match="which classes of the label space 'mine' are things"):
        thing_rules(replace(NUSCENES, name="mine", things={}))


@pytest.mark.skipif(
    not (REAL / "semantickitti").is_dir(), reason="no real scans; set LIDISTILL_REALDATA"
)
def test_real_objects_stand_on_the_real_road(tmp_path):
    tree = {
        "name": "semantickitti",
        "root": str(REAL / "semantickitti"),
        "frames": {"train": {"00": [0, 1]}},
    }
    database = build_database(Config({"dataset": tree}), tmp_path / "db")
    scan = build_dataset(Config({"dataset": tree}), "train").load(0)
    augmented = Paster(U2MKDPaste(database=database.folder), SEMANTICKITTI)(scan, rng())
    assert 0 < augmented.pasted.sum() <= 5000
    road = scan.xyz[(scan.labels == 9) | (scan.labels == 10)]
    for number in np.unique(augmented.instances[augmented.pasted]):
        cloud = augmented.xyz[augmented.pasted & (augmented.instances == number)]
        near = road[np.hypot(*(road[:, :2] - cloud[:, :2].mean(0)).T) < 5]
        assert abs(cloud[:, 2].min() - near[:, 2].mean()) < 0.4
        assert len(cloud) >= 3 and len(near) > 20


def test_tables_name_the_classes_of_the_specification():
    nuscenes, kitti = (thing_rules(space) for space in (NUSCENES, SEMANTICKITTI))
    assert list(nuscenes) == list(range(1, 11)) and {
        rule.min_points for rule in nuscenes.values()
    } == {10}
    assert list(kitti) == list(range(1, 9)) and {rule.min_points for rule in kitti.values()} == {40}

    def grounds(space, rules):
        return {
            c: sorted(space.classes.index(name) for name in rule.ground)
            for c, rule in rules.items()
        }

    flat = grounds(NUSCENES, nuscenes)
    assert {c for c, on in flat.items() if on == [11, 12, 13]} == {7, 8}
    assert all(on == [11] for c, on in flat.items() if c not in (7, 8))
    vehicles, cycles, riders, person = [9, 10], [9, 10, 11], [9, 10, 11, 12], [9, 10, 11, 12, 17]
    assert grounds(SEMANTICKITTI, kitti) == {
        1: vehicles, 2: cycles, 3: cycles, 4: vehicles, 5: vehicles, 6: person, 7: riders, 8: riders,
    }  # fmt: skip
    assert {rule.min_points for rule in thing_rules(LABEL_SPACES["pandaset"]).values()} == {20}
