"""Panoptic-PolarNet's instance augmentation on hand-made scenes: where objects may go, and what goes with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from data_fakes import make_scan
from instance_fakes import CAR, MANMADE, PEDESTRIAN, RULES, box_of_points, toy_database

from core.contracts import Scan
from core.data import DataConfig, SampleKey, ScanSamples, build_loader
from core.data.instances.polarnet import (
    PolarNetPaste,
    PolarNetPaster,
    mirrored,
    open_azimuth,
    turned,
)
from core.errors import UserError
from core.labels import NUSCENES

CENTRE = (10.0, 0.0, 0.0)
CLOUD = box_of_points(CENTRE)
STILL = {"shift_std": 0.0, "turn": 0.0, "mirror": 0.0, "move": 0.0}


@pytest.fixture
def folder(tmp_path):
    toy_database(tmp_path / "db", [(CAR, CLOUD)])
    return tmp_path / "db"


def paster(folder, **keys: Any) -> PolarNetPaster:
    plain: dict[str, Any] = {"name": "panoptic_polarnet", "database": folder, "things": RULES}
    return PolarNetPaste(**plain | STILL | keys).paster(NUSCENES)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def posts(degrees: np.ndarray, radius: float = 10.0, height: float = 0.5) -> np.ndarray:
    """Points of a circle about the scanner."""
    angle = np.radians(degrees)
    return np.column_stack(
        [radius * np.cos(angle), radius * np.sin(angle), np.full(len(angle), height)]
    )


def walled(points: np.ndarray) -> Scan:
    """A scan of things nobody moves, without objects."""
    count = len(points)
    return make_scan(points, labels=[MANMADE] * count).having(instance=np.zeros(count, np.int32))


def with_object(
    *, cls: int = CAR, number: int = 7, cloud: np.ndarray = CLOUD, wall: np.ndarray | None = None
) -> Scan:
    """Posts far from the object's circle (or ``wall``), then the object as the scan's own, numbered ``number``."""
    wall = posts(np.arange(0, 360, 30), radius=30.0) if wall is None else wall
    sizes = [len(wall), len(cloud)]
    scan = make_scan(np.concatenate([wall, cloud[:, :3]]), labels=np.repeat([MANMADE, cls], sizes))
    return scan.having(
        instance=np.repeat([0, number], sizes).astype(np.int32),
        target=np.arange(sum(sizes), dtype=np.float32),
    )


def azimuth(points: np.ndarray) -> float:
    """Degrees, of the points' mean."""
    x, y = points[:, :2].mean(0).astype(np.float64)
    return float(np.degrees(np.arctan2(y, x)))


def test_an_object_is_turned_about_the_scanner_and_brings_its_columns(folder):
    scan = walled(posts(np.arange(0, 360, 30), radius=30.0))
    made = paster(folder, count=1)(scan, rng())
    assert made.pasted.tolist() == [False] * 12 + [True] * 40
    np.testing.assert_array_equal(made.xyz[:12], scan.xyz)
    new = made.xyz[12:].astype(np.float64)
    turn = np.radians(azimuth(new) - azimuth(CLOUD))
    flat = (CLOUD[:, 0] + 1j * CLOUD[:, 1]) * np.exp(1j * turn)
    np.testing.assert_allclose(new, np.column_stack([flat.real, flat.imag, CLOUD[:, 2]]), atol=5e-6)
    assert set(made.labels[12:]) == {CAR} and set(made.intensity[12:]) == {7.0}
    assert len(set(made.instances[12:])) == 1 and made.instances[12] > 0
    assert (made.labels.dtype, made.instances.dtype, made.xyz.dtype) == ("u1", "i4", "f4")


def test_the_only_gap_is_found(folder):
    """Posts every 5 degrees at the object's distance (0.87 m) leave 60 degrees free."""
    gap = walled(posts(np.arange(30, 331, 5)))
    made = paster(folder, count=1, tries=100)(gap, rng())
    centre = made.xyz[made.pasted].mean(0)
    assert abs(azimuth(made.xyz[made.pasted])) < 30
    assert np.linalg.norm(gap.xyz - centre, axis=1).min() > 2.0
    closed = walled(posts(np.arange(0, 360, 5)))
    assert paster(folder, count=3)(closed, rng()) is closed
    above = walled(posts(np.arange(0, 360, 5), height=2.9))
    assert paster(folder, count=1)(above, rng()).pasted.sum() == 40


def test_two_metres_are_too_near_and_a_little_more_is_not():
    scene = np.array([[10.0, 0.0, 2.0], [0.0, 10.0, 2.001], [np.nan] * 3])
    centre = np.array([10.0, 0.0, 0.0])
    turns = np.radians([0.0, 90.0, 180.0])
    assert open_azimuth(scene, centre, turns, 2.0) == turns[1]
    assert open_azimuth(scene, centre, turns[:1], 2.0) is None
    assert open_azimuth(scene, centre, turns, 2.5) == turns[2]


def test_objects_keep_clear_of_objects_added_before(folder):
    made = paster(folder, count=5)(walled(posts(np.arange(1), radius=50.0)), rng())
    numbers = np.unique(made.instances[made.pasted])
    assert len(numbers) > 2 and len(made.xyz) == 1 + 40 * len(numbers)
    for number in numbers:
        own = made.instances == number
        distances = np.linalg.norm(made.xyz[~own] - made.xyz[own].mean(0), axis=1)
        # The later of two was kept clear of the earlier, whose points reach 1 m from its centre.
        assert distances.min() > 1.0


@pytest.mark.parametrize(("limit", "objects"), [(39, 1), (40, 2), (5000, 3)])
def test_nothing_is_added_once_there_are_too_many_points(folder, limit, objects):
    scan = walled(posts(np.arange(1), radius=50.0))
    made = paster(folder, count=3, max_points=limit, tries=100)(scan, rng(1))
    assert made.pasted.sum() == 40 * objects


def test_classes_are_drawn_by_weight(tmp_path):
    far = box_of_points((20.0, 0.0, 0.0))
    toy_database(tmp_path / "db", [(CAR, CLOUD), (CAR, CLOUD), (CAR, CLOUD), (PEDESTRIAN, far)])
    scan = walled(posts(np.arange(1), radius=50.0))
    drawn = paster(tmp_path / "db", count=1, weights={"car": 1.0, "pedestrian": 3.0})
    labels = [int(drawn(scan, rng(seed)).labels[-1]) for seed in range(400)]
    assert set(labels) == {CAR, PEDESTRIAN}
    assert labels.count(PEDESTRIAN) == pytest.approx(300, abs=4 * np.sqrt(400 * 0.75 * 0.25))


def test_a_mirror_keeps_the_line_of_sight():
    centre = np.array([3.0, 4.0, 1.0])
    along = np.array([0.6, 0.8, 0.0])
    across = np.array([-0.8, 0.6, 0.0])
    points = centre + np.outer([1.0, 0.0, 2.0], along) + np.outer([0.5, -1.0, 3.0], across)
    expected = centre + np.outer([1.0, 0.0, 2.0], along) - np.outer([0.5, -1.0, 3.0], across)
    np.testing.assert_allclose(mirrored(points, centre), expected, atol=1e-12)
    np.testing.assert_allclose(turned(along[None], np.pi / 2), across[None], atol=1e-12)


def test_shift_and_turn_of_each_object(folder):
    """Over 300 scans: the shift has 0.25 m per axis, the turn about the centre is even in +- 9 degrees."""
    scan = with_object()
    change = paster(folder, count=0, shift_std=0.25, turn=9.0)
    before = CLOUD[:, :3].astype(np.float64)
    flat = before[:, 0] + 1j * before[:, 1]
    flat -= flat.mean()
    shifts = []
    turns = []
    for seed in range(300):
        after = change(scan, rng(seed)).xyz[12:].astype(np.float64)
        shifts.append(after.mean(0) - before.mean(0))
        there = after[:, 0] + 1j * after[:, 1]
        turns.append(np.degrees(np.angle((np.conj(flat) * (there - there.mean())).sum())))
    np.testing.assert_allclose(np.std(shifts, axis=0), 0.25, atol=0.04)
    np.testing.assert_allclose(np.mean(shifts, axis=0), 0.0, atol=0.06)
    assert np.abs(turns).max() < 9.001
    assert np.std(turns) == pytest.approx(18 / np.sqrt(12), abs=0.6)


def test_one_in_five_is_mirrored_and_one_in_five_moved(folder):
    scan = with_object()
    before = CLOUD[:, :3]
    mirrors = 0
    moves = 0
    mirror, move = paster(folder, count=0, mirror=0.2), paster(folder, count=0, move=0.2)
    for seed in range(400):
        mirrors += mirror(scan, rng(seed)) is not scan
        after = move(scan, rng(seed)).xyz[12:]
        moves += abs(azimuth(after) - azimuth(before)) > 1e-3
    spread = 4 * np.sqrt(400 * 0.2 * 0.8)
    assert mirrors == pytest.approx(80, abs=spread) and moves == pytest.approx(80, abs=spread)


def test_the_scan_s_own_object_moves_with_all_it_has(folder):
    scan = with_object()
    made = paster(folder, count=0, move=1.0)(scan, rng())
    assert made.pasted.tolist() == [False] * 12 + [True] * 40  # no image shows it there
    np.testing.assert_array_equal(made.xyz[:12], scan.xyz[:12])
    radius = np.hypot(*made.xyz[12:, :2].T)
    np.testing.assert_allclose(radius, np.hypot(*CLOUD[:, :2].T), rtol=1e-6)
    for name in ("label", "instance", "target", "intensity"):
        np.testing.assert_array_equal(made.points[name], scan.points[name])


def test_an_added_object_is_not_placed_twice(folder):
    """``move`` is for the scan's own objects: an added one stays where it was put."""
    scan = walled(posts(np.arange(1), radius=50.0))
    once = paster(folder, count=1)(scan, rng())
    with_moves = paster(folder, count=1, move=1.0)(scan, rng())
    np.testing.assert_allclose(with_moves.xyz, once.xyz, atol=1e-6)


def test_a_closed_scene_leaves_objects_where_they_are(folder):
    closed = with_object(wall=posts(np.arange(0, 360, 5)))
    assert paster(folder, count=2, move=1.0)(closed, rng()) is closed


def test_one_number_of_two_classes_is_two_objects(folder):
    other = box_of_points((0.0, 20.0, 0.0), count=30)
    wall = posts(np.arange(0, 360, 30), radius=40.0)
    sizes = [12, 40, 30]
    scan = make_scan(
        np.concatenate([wall, CLOUD[:, :3], other[:, :3]]),
        labels=np.repeat([MANMADE, CAR, PEDESTRIAN], sizes),
    )
    scan = scan.having(instance=np.repeat([0, 7, 7], sizes).astype(np.int32))
    made = paster(folder, count=0, shift_std=0.25)(scan, rng())
    shift = made.xyz - scan.xyz
    assert np.ptp(shift[12:52], axis=0).max() < 1e-4 and np.ptp(shift[52:], axis=0).max() < 1e-4
    assert np.abs(shift[12] - shift[52]).max() > 0.01


def test_sweeps_follow_and_stay(folder):
    wall = posts(np.arange(0, 360, 30), radius=30.0)
    labels = [MANMADE] * 6 + [CAR] * 6
    scan = make_scan(wall, labels=labels, time_lag=[0.0] * 6 + [0.1] * 6)
    scan = scan.having(instance=np.array([0] * 6 + [7] * 6, np.int32))
    made = paster(folder, count=1, shift_std=0.25)(scan, rng())
    assert made.points["sweep"].tolist() == [0] * 46 + [1] * 6
    np.testing.assert_array_equal(made.xyz[46:], scan.xyz[6:])


def test_small_objects_are_left_alone(folder):
    small = with_object(cloud=CLOUD[:9])
    ten = {"car": {"min_points": 10, "ground": ["driveable_surface"]}}
    change = paster(folder, count=0, shift_std=0.25, things=ten)
    assert change(small, rng()) is small
    assert change(with_object(cloud=CLOUD[:10]), rng()).pasted.sum() == 10


def test_a_scanner_off_the_origin_is_what_objects_are_turned_about(tmp_path):
    place = np.array([1.25, -0.5, 1.75])
    moved = CLOUD + np.float32([*place, 0])
    toy_database(tmp_path / "db", [(CAR, moved)])
    scan = walled(posts(np.arange(0, 360, 30), radius=30.0) + place)
    made = paster(tmp_path / "db", count=1, sensor=tuple(place))(scan, rng())
    radius = np.hypot(*(made.xyz[12:] - place)[:, :2].T)
    np.testing.assert_allclose(radius, np.hypot(*CLOUD[:, :2].T), rtol=1e-6)
    assert abs(azimuth(made.xyz[12:] - place)) > 1


class OneKindOfScan:
    """Scans that are all alike, each with an object of its own."""

    labels, budget = NUSCENES, None

    def __len__(self) -> int:
        return 4

    def token(self, index: int) -> str:
        return "elsewhere"

    def load(self, index: int, *, cameras: bool = True) -> Scan:
        return with_object()


def data_config(folder, **keys: Any) -> DataConfig:
    paste = {"name": "panoptic_polarnet", "database": str(folder), **keys}
    return DataConfig.model_validate({"augment": None, "voxel_size": 0.1, "paste": paste})


def test_by_configuration_and_the_same_for_any_number_of_workers(folder):
    things = {name: rule.model_dump() for name, rule in RULES.items()}
    config = data_config(folder, things=things)
    assert isinstance(config.paste, PolarNetPaste) and config.paste.shift_std == 0.25
    samples = ScanSamples(OneKindOfScan(), config, seed=3, training=True)
    alone = build_loader(samples, batch_size=2, workers=0, training=True, seed=3)
    many = build_loader(samples, batch_size=2, workers=2, training=True, seed=3)
    clouds = set()
    for one, other in zip(alone, many, strict=True):
        np.testing.assert_array_equal(one.points["xyz"], other.points["xyz"])
        assert int((one.point_labels == CAR).sum()) > 2 * 40
        clouds.add(one.points["xyz"].numpy().tobytes())
    assert len(clouds) == 2  # another scene for each scan
    again = ScanSamples(OneKindOfScan(), config, seed=3, training=True)
    key = SampleKey(1, 2)
    np.testing.assert_array_equal(again[key].feats, samples[key].feats)


def test_bad_input_is_named(folder):
    with pytest.raises(UserError, match="has no labels"):
        paster(folder)(with_object().having(label=None), rng())
    with pytest.raises(UserError, match=r"data\.paste: scan scan has no instance numbers"):
        paster(folder)(with_object().having(instance=None), rng())
    with pytest.raises(ValueError, match=r"unknown key 'data\.paste\.tris'; did you mean 'tries'"):
        data_config(folder, tris=3)
    with pytest.raises(ValueError, match="unknown paste augmentation 'polarnet'"):
        DataConfig.model_validate({"paste": {"name": "polarnet", "database": "x"}})
