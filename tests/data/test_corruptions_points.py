"""Noise, faults and fewer beams; and what holds for every corruption: labels, order, determinism, sweeps."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corruption_scenes import ALL, CAR, COLUMNS, RINGS, SENSOR, named, part, street

from core.contracts import Points, Scan, Sensor
from core.data.corruptions import PROFILES, Scanner, chosen, corrupt
from core.datasets.rings import rings
from core.errors import UserError

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))
CLEAN = street()
N = len(CLEAN.xyz)


def under(name: str, scan: Scan = CLEAN, profile: str = "semantickitti-c", seed: int = 0) -> Scan:
    return corrupt(scan, named(profile, name), SENSOR, seed)


# --- the table ------------------------------------------------------------------------------------------------------
def test_the_benchmarks_hold_what_they_published() -> None:
    names = [c.name for c in PROFILES["semantickitti-c"]]
    levels = ("light", "moderate", "heavy")
    expected = [
        f"{kind}_{level}" for kind in ("fog", "snowfall", "local", "global") for level in levels
    ]
    assert names == [*expected, "dense_32beam", "sparse_32beam", "dense_16beam", "sparse_16beam"]
    robo3d = PROFILES["robo3d"]
    assert len(robo3d) == 24 and len({c.kind for c in robo3d}) == 8
    assert [c.folder for c in robo3d[:3]] == ["fog/light", "fog/moderate", "fog/heavy"]


def test_choice_by_name_and_by_type() -> None:
    assert [c.name for c in chosen("semantickitti-c", ["16beam", "fog_heavy"])] == [
        "fog_heavy", "dense_16beam", "sparse_16beam",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"no corruption haze.*Types are fog"):
        chosen("semantickitti-c", ["haze"])
    with pytest.raises(UserError, match=r"semantickitti-c, robo3d"):
        chosen("nuscenes-c")


# --- noise ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("level", "share"), [("light", 0.001), ("moderate", 0.05), ("heavy", 0.5)])
def test_outliers_are_added_and_ignored(level: str, share: float) -> None:
    out = under(f"global_{level}")
    assert len(out.xyz) == N + round(share * N)
    assert np.array_equal(out.xyz[:N], CLEAN.xyz) and np.array_equal(out.labels[:N], CLEAN.labels)
    assert not out.labels[N:].any() and not out.instances[N:].any()
    assert (out.xyz[N:] >= CLEAN.xyz.min(0)).all() and (out.xyz[N:] <= CLEAN.xyz.max(0)).all()
    assert out.intensity[N:].min() >= 0 and out.intensity.max() <= 1
    if level == "heavy":  # evenly over the box
        middle = (CLEAN.xyz.min(0) + CLEAN.xyz.max(0)) / 2
        assert out.xyz[N:].mean(0) == pytest.approx(middle, abs=1.0)


@pytest.mark.parametrize(("level", "std"), [("light", 0.05), ("moderate", 0.1), ("heavy", 0.2)])
def test_a_fifth_is_shaken(level: str, std: float) -> None:
    out = under(f"local_{level}")
    moved = (out.xyz != CLEAN.xyz).any(1)
    assert moved.sum() == round(0.2 * N)
    assert (out.xyz - CLEAN.xyz)[moved].std() == pytest.approx(std, rel=0.02)
    assert not out.labels[moved].any() and np.array_equal(out.labels[~moved], CLEAN.labels[~moved])
    assert np.array_equal(out.intensity, CLEAN.intensity)


def test_shaken_points_may_keep_their_class() -> None:
    (kept,) = chosen("semantickitti-c", ["local_heavy"], keep_labels=True)
    out = corrupt(CLEAN, kept, SENSOR)
    assert np.array_equal(out.labels, CLEAN.labels)
    assert np.array_equal(out.xyz, under("local_heavy").xyz)


@pytest.mark.parametrize(("level", "std"), [("light", 0.2), ("moderate", 0.25), ("heavy", 0.3)])
def test_motion_blur_shakes_all_and_keeps_classes(level: str, std: float) -> None:
    out = under(f"motion_blur_{level}", profile="robo3d")
    assert (out.xyz - CLEAN.xyz).std() == pytest.approx(std, rel=0.02)
    assert np.array_equal(out.labels, CLEAN.labels)


def test_crosstalk_throws_a_few_points_about() -> None:
    out = under("crosstalk_heavy", profile="robo3d")
    moved = (out.xyz != CLEAN.xyz).any(1)
    assert moved.sum() == round(0.01 * N) and not out.labels[moved].any()
    assert (out.xyz - CLEAN.xyz)[moved].std() == pytest.approx(3.0, rel=0.1)


def test_incomplete_echo_takes_vehicles_alone() -> None:
    out = under("incomplete_echo_moderate", profile="robo3d")
    cars = int((CLEAN.labels == CAR).sum())
    assert (out.labels == CAR).sum() == cars - round(0.85 * cars)
    assert (out.labels != CAR).sum() == N - cars


# --- beams ----------------------------------------------------------------------------------------------------------
def test_rings_are_read_off_the_storage_order() -> None:
    assert np.array_equal(rings(CLEAN.xyz, RINGS), np.repeat(np.arange(RINGS), COLUMNS))


def test_noise_across_the_wrap_starts_no_ring() -> None:
    points = CLEAN.xyz.copy()
    for ring in range(
        1, RINGS
    ):  # the last points of a ring and the first of the next change places
        seam = ring * COLUMNS
        points[[seam - 1, seam]] = points[[seam, seam - 1]]
    number = rings(points, RINGS)
    assert number.max() == RINGS - 1
    wrong = number != np.repeat(np.arange(RINGS), COLUMNS)
    assert wrong.sum() <= 2 * (RINGS - 1)


def test_rings_of_shuffled_points_follow_their_elevation() -> None:
    order = np.random.default_rng(0).permutation(N)
    assert np.array_equal(
        rings(CLEAN.xyz[order], RINGS), np.repeat(np.arange(RINGS), COLUMNS)[order]
    )


@pytest.mark.parametrize(("name", "every", "points"), [("dense_32beam", 2, 1), ("sparse_32beam", 2, 2),
                                                       ("dense_16beam", 4, 1), ("sparse_16beam", 4, 2)])  # fmt: skip
def test_fewer_beams(name: str, every: int, points: int) -> None:
    out = under(name)
    where = out.instances - 1
    assert np.array_equal(np.unique(where // COLUMNS), np.arange(0, RINGS, every))
    assert np.array_equal(np.unique(where % COLUMNS), np.arange(0, COLUMNS, points))
    assert len(out.xyz) == N // every // points


def test_missing_and_spaced_lasers() -> None:
    for level, left in (("light", 48), ("moderate", 32), ("heavy", 16)):
        missing = under(f"beam_missing_{level}", profile="robo3d")
        present = np.unique((missing.instances - 1) // COLUMNS)
        assert len(present) == left and len(missing.points) == left * COLUMNS
        other = under(f"beam_missing_{level}", street("08/000001"), profile="robo3d")
        assert not np.array_equal(present, np.unique((other.instances - 1) // COLUMNS))
        spaced = under(f"cross_sensor_{level}", profile="robo3d")
        assert len(np.unique((spaced.instances - 1) // COLUMNS)) == left
        assert len(spaced.points) == left * COLUMNS // 2


# --- every corruption -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("corruption", ALL, ids=lambda c: f"{c.profile}-{c.name}")
def test_labels_stay_with_their_points(corruption) -> None:
    out = corrupt(CLEAN, corruption, SENSOR)
    count = len(out.xyz)
    assert count and {len(v) for v in (out.intensity, out.labels, out.instances, out.time_lag)} == {
        count
    }
    assert out.xyz.dtype == out.intensity.dtype == out.time_lag.dtype == np.float32
    assert (
        out.labels.dtype == np.uint8
        and out.instances.dtype == np.int32
        and np.isfinite(out.xyz).all()
    )
    assert out.intensity.min() >= 0 and out.intensity.max() <= 1.0001
    known = out.instances > 0  # where a point comes from; 0 once its class is lost
    origin = out.instances[known] - 1
    assert np.array_equal(out.labels[known], CLEAN.labels[origin]) and not out.labels[~known].any()
    assert len(np.unique(origin)) == len(origin) and (np.diff(origin) > 0).all()
    if corruption.kind != "motion_blur":
        assert np.array_equal(out.xyz[known], CLEAN.xyz[origin])


@pytest.mark.parametrize("corruption", ALL, ids=lambda c: f"{c.profile}-{c.name}")
def test_a_scan_is_corrupted_the_same_way_each_time(corruption) -> None:
    small = part(CLEAN, slice(0, None))
    first, again = (corrupt(small, corruption, SENSOR) for _ in range(2))
    assert np.array_equal(first.xyz, again.xyz) and np.array_equal(first.intensity, again.intensity)
    assert np.array_equal(first.labels, again.labels)


@pytest.mark.parametrize("corruption", ALL, ids=lambda c: f"{c.profile}-{c.name}")
def test_scans_of_no_or_one_point(corruption) -> None:
    for rows in (slice(0, 0), slice(0, 1)):
        out = corrupt(part(CLEAN, rows), corruption, SENSOR)
        assert len(out.xyz) == len(out.labels) <= 2
    bare = part(CLEAN, slice(0, 2000)).having(label=None, instance=None)
    out = corrupt(bare, corruption, SENSOR)
    assert out.labels is None and out.instances is None and len(out.xyz) == len(out.intensity)


def test_draws_depend_on_token_and_seed() -> None:
    first = under("local_heavy")
    assert not np.array_equal(first.xyz, under("local_heavy", street("08/000001")).xyz)
    assert not np.array_equal(first.xyz, under("local_heavy", seed=1).xyz)
    moved = (first.xyz != CLEAN.xyz).any(1)
    other = (under("local_light").xyz != CLEAN.xyz).any(1)
    assert not np.array_equal(moved, other)  # severities draw on their own


def test_sweeps_are_corrupted_one_by_one() -> None:
    lag = np.repeat(np.array([0, 0.1], np.float32), N)
    points = Points.join(CLEAN.points, CLEAN.points)
    labels = np.r_[CLEAN.labels, np.zeros(N, np.uint8)]
    sweep = np.repeat(np.array([0, 1], np.int16), N)
    both = replace(CLEAN, points=points.having(lag=lag, sweep=sweep, label=labels))
    out = under("dense_32beam", both)
    assert len(out.xyz) == N and out.keyframe[: N // 2].all() and not out.keyframe[N // 2 :].any()
    outliers = under("global_heavy", both)
    assert np.array_equal(np.unique(outliers.time_lag), np.float32([0, 0.1]))
    own = np.flatnonzero(outliers.keyframe)
    assert np.array_equal(own, np.arange(N + round(0.5 * N)))  # the keyframe's points stay first


def test_sweeps_of_one_time_are_two_sweeps() -> None:
    sweep = np.repeat(np.array([0, 1], np.int16), N)
    both = replace(CLEAN, points=Points.join(CLEAN.points, CLEAN.points).having(sweep=sweep))
    out = under("dense_32beam", both)
    assert out.keyframe.sum() == (~out.keyframe).sum() == N // 2


def test_the_scanner_may_stand_elsewhere() -> None:
    place = np.array([1.0, 0.5, 1.9], np.float32)
    sensor = Sensor(origin=tuple(place.tolist()))
    moved = replace(CLEAN.having(xyz=CLEAN.xyz + place), sensor=sensor)
    out = corrupt(moved, named("semantickitti-c", "fog_heavy"), SENSOR)
    at_home = under("fog_heavy")
    assert out.xyz == pytest.approx(at_home.xyz + place, abs=1e-3)
    known = out.instances > 0
    assert np.array_equal(out.xyz[known], moved.xyz[out.instances[known] - 1])  # to the bit


def test_counts_of_other_data_sets() -> None:
    """Intensities that are counts already give the same corruption."""
    counts = CLEAN.having(intensity=CLEAN.intensity * np.float32(255))
    out = corrupt(counts, named("semantickitti-c", "fog_moderate"), replace(SENSOR, scale=1.0))
    assert out.intensity == pytest.approx(under("fog_moderate").intensity * 255, abs=1e-3)


# --- real scans -----------------------------------------------------------------------------------------------------
@pytest.mark.realdata
@pytest.mark.skipif(
    not (REAL / "semantickitti").is_dir(), reason="no real scans; set LIDISTILL_REALDATA"
)
def test_a_real_scan() -> None:
    from core.datasets.semantickitti import SemanticKITTI, SemanticKITTIConfig

    config = SemanticKITTIConfig(
        name="semantickitti", root=REAL / "semantickitti", split={"val": ["00"]}
    )
    dataset = SemanticKITTI(config, "val")
    sensor, scan = Scanner.of(dataset), dataset.load(0, cameras=False)
    assert (sensor.beams, sensor.scale) == (64, 255.0)
    ring = rings(scan.xyz, 64)
    sizes = np.bincount(ring, minlength=64)
    assert len(sizes) == 64 and sizes.min() > 500 and (np.diff(ring) >= 0).all()
    elevation = np.arcsin(scan.xyz[:, 2] / np.linalg.norm(scan.xyz, axis=1))
    medians = [np.median(elevation[ring == r]) for r in range(64)]
    assert (np.diff(medians) < 0).all()
    share = {
        c.name: (corrupt(scan, c, sensor).labels == 0).mean()
        for c in chosen("semantickitti-c", ["fog"])
    }
    clean = (scan.labels == 0).mean()
    assert (
        share["fog_light"] == clean
        and clean < share["fog_moderate"] < 0.1 < share["fog_heavy"] < 0.5
    )
