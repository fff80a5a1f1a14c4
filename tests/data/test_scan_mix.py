"""LaserMix and PolarMix, next to a restatement point by point."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from data_fakes import make_scan

from core.contracts import Scan, Sensor
from core.data.config import ScanMixConfig
from core.data.scan_mix import ScanMixer, laser_mix, polar_mix

SENSOR = Sensor(origin=(0.5, -1.0, 1.5))


def random_scan(seed: int, points: int = 200) -> Scan:
    """Random points about a scanner that is not the origin; intensities number them, the last 20 are a sweep's."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-20, 20, (points, 3)) * (1, 1, 0.2)
    lag = np.where(np.arange(points) < points - 20, 0, 0.1)
    scan = make_scan(xyz, labels=rng.integers(0, 5, points), time_lag=lag, token=f"scan{seed}")
    number = np.arange(points, dtype=np.float32) + 1000 * seed
    return replace(scan.having(intensity=number), sensor=SENSOR)


def angles(scan: Scan, row: int) -> tuple[float, float]:
    """Azimuth and pitch in rad as seen from the scanner, in float64."""
    x, y, z = (float(v) - o for v, o in zip(scan.xyz[row], SENSOR.origin))
    return math.atan2(y, x), math.atan2(z, math.hypot(x, y))


def numbers(scan: Scan) -> list[float]:
    return sorted(scan.intensity.tolist())


@pytest.mark.parametrize("areas", [3, 6])
def test_laser_mix_takes_every_other_band(areas: int) -> None:
    scan, other = random_scan(0), random_scan(1)
    expected = []
    for one, remainder in ((scan, 0), (other, 1)):
        for row in range(len(one.points)):
            share = (math.degrees(angles(one, row)[1]) + 25) / 28
            if min(max(math.floor(share * areas), 0), areas - 1) % 2 == remainder:
                expected.append(float(one.intensity[row]))
    mixed = laser_mix(scan, other, areas, (-25.0, 3.0))
    assert numbers(mixed) == sorted(expected)
    assert set(mixed.intensity[mixed.pasted] >= 1000) == {True}
    assert set(mixed.intensity[~mixed.pasted] < 1000) == {True}


def test_polar_mix_exchanges_half_a_turn() -> None:
    scan, other = random_scan(0), random_scan(1)
    start = 2.5
    expected = []
    for one, inside in ((scan, False), (other, True)):
        for row in range(len(one.points)):
            if ((angles(one, row)[0] - start) % (2 * math.pi) < math.pi) is inside:
                expected.append(float(one.intensity[row]))
    assert numbers(polar_mix(scan, other, start, (), {1})) == sorted(expected)


def test_polar_mix_pastes_things_about_the_scanner() -> None:
    """A copy at each turn; a turn keeps distance and height and adds to the azimuth."""
    scan, other = random_scan(0), random_scan(1)
    mixed = polar_mix(scan, other, None, (0.0, 1.0), {2, 3})
    things = np.flatnonzero(np.isin(other.labels, (2, 3)))
    added = np.flatnonzero(mixed.pasted)
    assert len(mixed.points) == len(scan.points) + 2 * len(things)
    assert set(mixed.labels[added].tolist()) == {2, 3}
    for row in things:
        copies = added[mixed.intensity[added] == other.intensity[row]]
        turned = []
        for copy in copies:
            azimuth, pitch = angles(mixed, copy)
            assert pitch == pytest.approx(angles(other, row)[1], abs=1e-5)
            turned.append((azimuth - angles(other, row)[0]) % (2 * math.pi))
        assert sorted(min(t, 2 * math.pi - t) for t in turned) == pytest.approx([0, 1], abs=1e-4)


def test_keyframes_come_first_and_columns_follow() -> None:
    scan, other = random_scan(0), random_scan(1)
    scan = scan.having(instance=np.arange(len(scan.points), dtype=np.int32))
    other = other.having(instance=np.arange(len(other.points), dtype=np.int32))
    mixed = laser_mix(scan, other, 4, (-25.0, 3.0))
    steps = np.diff(mixed.keyframe.astype(int))
    assert np.count_nonzero(steps) == 1 and steps.min() == -1
    top = scan.instances[np.isin(scan.intensity, mixed.intensity)].max()
    for one, shift in ((scan, 0), (other, top)):
        by_number = dict(zip(one.intensity.tolist(), range(len(one.points))))
        rows = [r for r, n in enumerate(mixed.intensity.tolist()) if n in by_number]
        source = [by_number[float(mixed.intensity[r])] for r in rows]
        assert np.array_equal(mixed.labels[rows], one.labels[source])
        had = one.instances[source]
        assert np.array_equal(mixed.instances[rows], np.where(had > 0, had + shift, 0))


def test_scans_without_labels_are_mixed_too() -> None:
    """Nothing is pasted where nobody knows the things; labels of the other half are 0."""
    scan, other = random_scan(0), random_scan(1).having(label=None)
    mixed = polar_mix(scan, other, 0.0, (0.0,), {1})
    assert set(mixed.labels[mixed.pasted].tolist()) == {0}
    assert polar_mix(scan, other, None, (0.0,), {1}).points["intensity"].tolist() == numbers(scan)


class Scans:
    """Three random scans."""

    def __len__(self) -> int:
        return 3

    def load(self, index: int, *, cameras: bool = True) -> Scan:
        return random_scan(index)


def test_the_mixer_draws_another_scan_and_a_kind() -> None:
    mixer = ScanMixer(Scans(), ScanMixConfig(), {1, 2})
    partners = set()
    for seed in range(40):
        mixed = mixer(random_scan(0), 0, np.random.default_rng(seed))
        partners |= set((mixed.intensity[mixed.pasted] // 1000).astype(int).tolist())
        again = mixer(random_scan(0), 0, np.random.default_rng(seed))
        assert np.array_equal(again.xyz, mixed.xyz)
    assert partners == {1, 2}


def test_a_chance_of_nothing() -> None:
    mixer = ScanMixer(Scans(), ScanMixConfig(chance=0), {1})
    scan = random_scan(0)
    assert mixer(scan, 0, np.random.default_rng(0)) is scan


def test_the_range_of_pitch_is_ordered() -> None:
    with pytest.raises(ValueError, match="low < high"):
        ScanMixConfig(pitch=(3.0, -25.0))
