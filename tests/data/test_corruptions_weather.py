"""Fog, snow and wet ground: golden values of the published tables, and dense float64 references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from corruption_scenes import ROAD, named, street, sweep_of

from core.data.corruptions.base import Sweep
from core.data.corruptions.fog import fog, fog_table, visibility
from core.data.corruptions.ground import find_ground, transmittance, wet_ground
from core.data.corruptions.snow import (
    ALBEDO,
    BEAM,
    PLANES,
    PULSE,
    RADIUS,
    _snow,
    draw_flakes,
    rain_rate,
    snow,
    snow_occupancy,
)
from core.datasets.rings import rings


def line(distances: np.ndarray, intensity: float = 100.0) -> Sweep:
    """Points along x."""
    points = np.column_stack([distances, np.zeros((len(distances), 2))]).astype(np.float32)
    count = len(points)
    return Sweep(points, np.full(count, intensity, np.float32), np.zeros(count, bool), 64)


# --- fog ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("alpha", "where", "power", "range_"),
    [(0.005, 4.702, 4.568e-9, 599), (0.06, 4.602, 3.816e-9, 49.9), (0.2, 4.502, 2.476e-9, 15.0)],
)
def test_soft_return_equals_the_published_tables(
    alpha: float, where: float, power: float, range_: float
) -> None:
    table = fog_table(alpha)
    far = np.linspace(0, 200, 2000) >= 5
    assert table.where[far] == pytest.approx(where, abs=1e-3)
    assert table.power[far] == pytest.approx(power, rel=2e-4)
    assert (np.diff(table.power) >= 0).all() and table.where[0] == 0
    assert visibility(alpha) == pytest.approx(range_, rel=2e-3)


@pytest.mark.parametrize(("alpha", "beyond"), [(0.06, 35.6), (0.2, 13.6), (0.005, None)])
def test_fog_outshines_surfaces_beyond(alpha: float, beyond: float | None) -> None:
    distances = np.arange(5, 200, 0.05)
    hidden = fog(line(distances), np.random.default_rng(0), alpha=alpha, counts=False).ignored
    if beyond is None:
        assert not hidden.any()
    else:
        assert distances[hidden].min() == pytest.approx(beyond, abs=0.1)
        assert hidden[distances > beyond + 0.1].all()


def test_no_fog_changes_nothing() -> None:
    clean = sweep_of(street())
    out = fog(clean, np.random.default_rng(0), alpha=0.0)
    assert np.array_equal(out.points, clean.points) and np.array_equal(
        out.intensity, clean.intensity
    )
    assert not out.ignored.any()


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("alpha", [0.005, 0.06, 0.2])
def test_fog_equals_the_formulas(alpha: float, counts: bool) -> None:
    clean = sweep_of(street(columns=60))
    out = fog(clean, np.random.default_rng(3), alpha=alpha, counts=counts)
    table = fog_table(alpha)
    points = clean.points.astype(np.float64)
    distance = np.linalg.norm(points, axis=1)
    hard = clean.intensity.astype(np.float64) * np.exp(-2 * alpha * distance)
    beta = 0.046 * alpha / math.log(20)
    cell = np.minimum((distance * 1999 / 200).astype(int), 1999)
    soft = table.power[cell] * clean.intensity * distance**2 * beta / (1e-6 / math.pi)
    if counts:
        hard, soft = np.rint(hard), np.minimum(soft, 255)
    wins = soft > hard
    assert np.array_equal(out.ignored, wins)
    assert out.intensity == pytest.approx(np.where(wins, soft, hard), rel=1e-5)
    assert np.array_equal(out.points[~wins], clean.points[~wins])
    assert np.array_equal(out.source, np.arange(len(clean)))
    moved = np.linalg.norm(out.points[wins].astype(np.float64), axis=1)
    assert np.cross(out.points[wins], points[wins]) == pytest.approx(
        0, abs=1e-3
    )  # along its own ray
    assert (moved <= distance[wins] + 1e-4).all()  # never behind the surface
    assert (moved >= table.where[-1] * distance[wins] / (distance[wins] + 10) - 1e-4).all()


# --- snow -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rate", "velocity", "rain", "occupancy"),
    [(0.5, 2.0, 2.24, 6.9e-7), (1.5, 0.6, 70.8, 6.9e-6), (2.5, 1.6, 35.0, 4.3e-6)],
)
def test_rain_and_occupancy_of_the_shipped_pairs(
    rate: float, velocity: float, rain: float, occupancy: float
) -> None:
    assert rain_rate(rate, velocity) == pytest.approx(rain, rel=2e-3)
    assert snow_occupancy(rate, velocity) == pytest.approx(occupancy, rel=1e-2)


def test_flakes_cover_what_the_rate_says() -> None:
    flakes = draw_flakes(2.5, 1.6)
    small = [flakes.small[a:b] for a, b in zip(flakes.small_start, flakes.small_start[1:])]
    assert len(small) == PLANES and all((np.diff(plane[:, 0]) >= 0).all() for plane in small)
    once = flakes.small[(flakes.small[:, 0] >= 0) & (flakes.small[:, 0] < 2 * math.pi)]
    every = np.concatenate([once, flakes.wide]).astype(np.float64)
    radius = every[:, 1] * np.sin(every[:, 2])
    assert math.pi * (radius**2).sum() / PLANES == pytest.approx(
        4.34e-6 * math.pi * RADIUS**2, rel=5e-3
    )
    # A disc cut at a random height of a ball has pi/4 of its diameter on average; Gunn-Marshall: 25.5 r^-0.48 per cm.
    assert 2 * radius.mean() == pytest.approx(math.pi / 4 * 0.01 / (25.5 * 34.97**-0.48), rel=5e-3)
    assert (every[:, 1] ** 2).mean() == pytest.approx(
        RADIUS**2 / 2, rel=5e-3
    )  # evenly over the disc


def reference_beam(
    azimuth: float, distance: float, intensity: float, flakes: np.ndarray
) -> tuple[float, float]:
    """(range, power) of the strongest echo: the beam as 6000 thin rays, the waveform on 10 cm bins."""
    rays = (np.arange(6000) + 0.5) / 6000 * 2 * BEAM - BEAM
    owner, nearest = np.full(len(rays), -1), np.full(len(rays), distance)
    away = (flakes[:, 0] - azimuth + math.pi) % (2 * math.pi) - math.pi
    for k in np.flatnonzero((np.abs(away) < BEAM + flakes[:, 2]) & (flakes[:, 1] < distance)):
        hit = (np.abs(rays - away[k]) < flakes[k, 2]) & (flakes[k, 1] < nearest)
        owner[hit], nearest[hit] = k, flakes[k, 1]
    echoes = [(distance, (owner == -1).mean() * max(intensity, 0.5))]
    for k in set(owner[owner >= 0].tolist()):
        r = flakes[k, 1]
        echoes.append((r, (owner == k).mean() * ALBEDO * np.clip((r - 0.9) / 0.1, 0, 1) / r**2))
    bins = np.arange(1231) * 0.1
    wave = np.zeros(len(bins))
    for r, power in echoes:
        on = (bins >= r) & (bins <= r + PULSE)
        wave[on] += power * np.sin(math.pi * (bins[on] - r) / PULSE) ** 2
    return bins[wave.argmax()] - PULSE / 2, wave.max()


def test_beams_in_snow_equal_a_dense_reference() -> None:
    flakes = draw_flakes(2.5, 1.6)
    clean = sweep_of(street(columns=60))
    ring = rings(clean.points, 64)
    rng = np.random.default_rng(0)
    plane, turn = rng.permutation(64), rng.uniform(0, 2 * math.pi, 64)
    dark = (clean.intensity * np.float32(0.1)).astype(np.float32)  # so that flakes win often enough
    points, intensity, moved = _snow(clean.points, dark, ring, plane, turn, *flakes)
    rows = np.concatenate([np.flatnonzero(moved)[:60], rng.choice(len(dark), 60, replace=False)])
    assert moved.sum() >= 20
    agree = 0
    for i in rows:
        p = plane[ring[i]]
        own = np.concatenate(
            [
                flakes.small[flakes.small_start[p] : flakes.small_start[p + 1]],
                flakes.wide[flakes.wide_start[p] : flakes.wide_start[p + 1]],
            ]
        ).astype(np.float64)
        own = own[(own[:, 0] >= 0) & (own[:, 0] < 2 * math.pi)]
        x, y, z = clean.points[i].astype(np.float64)
        distance = math.sqrt(x * x + y * y + z * z)
        at, power = reference_beam(math.atan2(y, x) + turn[ring[i]], distance, float(dark[i]), own)
        scattered = abs(at - distance) >= 0.2 and round(power) >= 1
        agree += scattered == moved[i]
        if scattered and moved[i]:
            assert np.linalg.norm(points[i]) == pytest.approx(at, abs=0.15)
            assert intensity[i] == pytest.approx(power, abs=1.0)
    assert agree >= len(rows) - 1  # a tie of two echoes may fall either way


def test_heavier_snow_takes_more_points() -> None:
    clean = sweep_of(street(columns=600))
    lost, moved = [], []
    for rate in (0.5, 1.5, 2.5):
        outs = [
            snow(clean, np.random.default_rng(seed), rate=rate, velocity=1.6) for seed in range(3)
        ]
        moved.append(sum(int(out.ignored.sum()) for out in outs))
        lost.append(sum(len(clean) - int((~out.ignored).sum()) for out in outs))
    assert 0 < moved[0] < moved[1] < moved[2] and lost[0] < lost[1] < lost[2]


def test_moved_points_become_flakes_near_the_scanner() -> None:
    clean = sweep_of(street(columns=600))
    out = snow(clean, np.random.default_rng(0), rate=2.5, velocity=1.6)
    distance = np.linalg.norm(out.points[out.ignored], axis=1)
    before = np.linalg.norm(clean.points[out.source[out.ignored]], axis=1)
    assert (distance < before).all() and np.median(distance) < 8
    kept = ~out.ignored
    assert np.array_equal(out.points[kept], clean.points[out.source[kept]])
    assert (out.intensity[kept] <= clean.intensity[out.source[kept]]).all()


def test_no_snow_changes_nothing() -> None:
    clean = sweep_of(street())
    out = snow(clean, np.random.default_rng(0), rate=0.0, velocity=1.6)
    assert np.array_equal(out.points, clean.points) and np.array_equal(
        out.intensity, clean.intensity
    )


# --- ground ---------------------------------------------------------------------------------------------------------
def test_ground_is_found_under_a_slope() -> None:
    scan = street()
    tilt = np.array(
        [[math.cos(0.1), 0, math.sin(0.1)], [0, 1, 0], [-math.sin(0.1), 0, math.cos(0.1)]]
    )
    clean = sweep_of(scan)
    tilted = Sweep((clean.points @ tilt.T).astype(np.float32), clean.intensity, clean.vehicle, 64)
    ground = find_ground(tilted, np.random.default_rng(0))
    assert ground.normal == pytest.approx(tilt[:, 2], abs=2e-3) and ground.offset == pytest.approx(
        -1.73, abs=0.02
    )
    road = scan.labels == ROAD
    assert (ground.near[road]).mean() > 0.99 and ground.near[~road].mean() < 0.2
    # Intensities are uniform in 5 .. 99 %: the 5 % quantile is about 9.7 % at any range, of which 0.7 are detected.
    assert ground.threshold(np.array([6.0, 20.0])) == pytest.approx(0.7 * 0.097 * 255, rel=0.25)


def test_there_may_be_no_ground() -> None:
    up = line(np.arange(1, 200))
    assert find_ground(up, np.random.default_rng(0)) is None
    out = wet_ground(up, np.random.default_rng(0), water=1.0, texture=1.2)
    assert np.array_equal(out.points, up.points)


def test_light_enters_water_as_fresnel_says() -> None:
    assert transmittance(np.array([1.0]))[0] == pytest.approx(1 - (0.33 / 2.33) ** 2)
    brewster = math.atan(1.33)  # light polarised along the plane enters without loss there
    other = (1 - 1.33**2) / (1 + 1.33**2)
    assert transmittance(np.array([math.cos(brewster)]))[0] == pytest.approx(1 - other**2 / 2)
    assert transmittance(np.array([0.0]))[0] == pytest.approx(0, abs=1e-12)


def test_water_takes_the_far_road_first() -> None:
    scan = street(columns=120)
    clean = sweep_of(scan)
    road = scan.labels == ROAD
    left = []
    for name in ("light", "moderate", "heavy"):
        out = named("robo3d", f"wet_ground_{name}").apply(clean, np.random.default_rng(0))
        stays = np.zeros(len(clean), bool)
        stays[out.source] = True
        near_wall = clean.points[:, 2] < -1.5  # the wall's foot counts as ground
        assert stays[~road & ~near_wall].all() and not out.ignored.any()
        left.append(int(stays.sum()))
        far = road & (clean.distance > 15)
        assert stays[far].mean() < stays[road & (clean.distance < 6)].mean() or name == "light"
    assert len(clean) > left[0] > left[1] > left[2]
