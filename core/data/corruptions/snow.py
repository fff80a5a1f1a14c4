"""Snowfall: flakes in the way of the beams (Hahner et al. 2022, from the formulas).

Sizes follow Gunn and Marshall, numbers follow from the snowfall rate; each laser has its own plane of flakes. Flakes
before a surface take their share of the beam. What they and the surface return is added up over range, and the
scanner reports the strongest echo.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np

from core.data.corruptions.base import NEAREST, Returns, Sweep
from core.data.corruptions.ground import find_ground
from core.datasets.rings import rings

__all__ = ["Flakes", "draw_flakes", "rain_rate", "snow", "snow_occupancy"]

DENSITY = 0.1  # g/cm3, of snow
FLAKE = 0.003  # m, of snow
RADIUS = 80.0  # m, flakes beyond are not seen
LARGEST = 0.020  # m, diameter
PLANES = 64
BEAM = 1.5e-3  # rad, half the divergence
PULSE = 299_792_458.0 * 10e-9  # m, length of the pulse's echo
ALBEDO = 0.9 * 255  # counts, what a flake at 1 m returns if it fills the beam
_BIN = 0.1  # m, of the waveform
_FARTHEST = 120.0  # m
_WIDE = 5e-4  # rad; flakes that look larger are kept in a list of their own
_MARGIN = 2 * (BEAM + _WIDE)  # rad, flakes repeated beyond 0 and 2 pi
_SHAPE = np.sin(np.linspace(0, math.pi, 300)) ** 2  # of an echo along range, 1 cm steps
_SEED = 20220614


class Flakes(NamedTuple):
    """Flakes of all planes, f32 azimuth (rad), range (m) and half angle (rad), plane after plane.

    ``small`` ascend in azimuth within a plane and repeat around 0 and 2 pi; ``wide`` have no order. Plane ``p`` has
    rows ``start[p]:start[p + 1]``.
    """

    small: np.ndarray
    small_start: np.ndarray
    wide: np.ndarray
    wide_start: np.ndarray


def rain_rate(rate: float, velocity: float) -> float:
    """Return the rain (mm/h) that equals a snowfall of ``rate`` (mm/h) of flakes that fall at ``velocity`` (m/s)."""
    return (rate / (487 * DENSITY * FLAKE * velocity)) ** 1.5


def snow_occupancy(rate: float, velocity: float) -> float:
    """Return the share of a plane that flakes cover; ``rate`` in mm/h of water, ``velocity`` in m/s."""
    return rate / (3.6e6 * DENSITY * velocity)


@lru_cache(maxsize=5)
def draw_flakes(rate: float, velocity: float) -> Flakes:
    """Draw ``PLANES`` planes of flakes, the same in every process; ``rate`` in mm/h, ``velocity`` in m/s.

    A plane cuts each ball at a height drawn uniformly; discs are thrown until they cover the share. At shares of a
    millionth fewer than one pair in a plane overlaps, and none matters: a beam counts covered angles once.
    """
    rng = np.random.default_rng([_SEED, round(1e6 * rate), round(1e6 * velocity)])
    scale = 0.01 / (25.5 * rain_rate(rate, velocity) ** -0.48)  # m, mean diameter
    area = snow_occupancy(rate, velocity) * math.pi * RADIUS**2
    small = []
    wide = []
    for _ in range(PLANES):
        small_flakes, wide_flakes = _plane(rng, scale, area)
        small.append(small_flakes)
        wide.append(wide_flakes)
    return Flakes(np.concatenate(small), _starts(small), np.concatenate(wide), _starts(wide))


def _starts(parts: list[np.ndarray]) -> np.ndarray:
    """Row at which each part begins once they are joined, and where the last ends, i64 [parts + 1]."""
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])])


def _plane(rng: np.random.Generator, scale: float, area: float) -> tuple[np.ndarray, np.ndarray]:
    """Small and wide flakes of one plane: discs of mean diameter ``scale`` (m) that cover ``area`` (m2)."""
    radius = _discs(rng, scale, area)
    distance = RADIUS * np.sqrt(rng.random(len(radius)))
    azimuth = rng.uniform(0, 2 * math.pi, len(radius))
    seen = distance > NEAREST
    azimuth = azimuth[seen]
    distance = distance[seen]
    half = np.arcsin(np.minimum(radius[seen] / distance, 1))
    flakes = np.column_stack([azimuth, distance, half]).astype(np.float32)
    large = half > _WIDE
    small = flakes[~large][np.argsort(azimuth[~large])]
    before = small[small[:, 0] > 2 * math.pi - _MARGIN]
    after = small[small[:, 0] < _MARGIN]
    turn = np.array([2 * math.pi, 0, 0], np.float32)
    return np.concatenate([before - turn, small, after + turn]), flakes[large]


def _discs(rng: np.random.Generator, scale: float, area: float) -> np.ndarray:
    """Radii f64 [n] m."""
    discs = []
    covered = 0.0
    while covered < area:
        expected = (area - covered) / (math.pi / 3 * scale**2)
        diameter = rng.exponential(scale, int(1.05 * expected) + 16)
        diameter = diameter[diameter < LARGEST]
        radius = diameter / 2 * np.sqrt(1 - rng.random(len(diameter)) ** 2)
        total = covered + np.cumsum(math.pi * radius**2)
        discs.append(radius[: np.searchsorted(total, area) + 1])
        covered = total[-1]
    return np.concatenate(discs)


def snow(sweep: Sweep, rng: np.random.Generator, *, rate: float, velocity: float) -> Returns:
    """Let it snow at ``rate`` (mm/h of water), flakes falling at ``velocity`` (m/s); rate 0 changes nothing.

    Planes are dealt out to the lasers anew and turned for each scan. A point whose echo a flake outshines moves to the
    flake and loses its class. Of the others those below the noise of the scanner are lost, weakened by a flake or not:
    as in the simulator, dark surfaces disappear at any severity.
    """
    source = np.arange(len(sweep))
    if rate == 0 or not len(sweep):
        return Returns(sweep.points, sweep.intensity, source, np.zeros(len(sweep), bool))
    flakes = draw_flakes(rate, velocity)
    plane = rng.permutation(PLANES)[np.arange(sweep.beams) % PLANES]
    turn = rng.uniform(0, 2 * math.pi, sweep.beams)
    points, intensity, ignored = _snow(
        np.ascontiguousarray(sweep.points),
        sweep.intensity,
        rings(sweep.points, sweep.beams),
        plane,
        turn,
        *flakes,
    )
    ground = find_ground(sweep, rng)
    if ground is None:
        return Returns(points, intensity, source, ignored)
    stays = ignored | (intensity >= ground.threshold(sweep.distance))
    return Returns(points[stays], intensity[stays], source[stays], ignored[stays])


@numba.njit("i8(f4[:,::1], i8, i8, f8, f8, f8[:,::1], i8, i8)", cache=True, nogil=True)
def _gather(
    flakes: np.ndarray,
    first: int,
    last: int,
    azimuth: float,
    distance: float,
    hits: np.ndarray,
    found: int,
    wrap: int,
) -> int:
    """Add the flakes of rows first..last that stand in the beam before ``distance``, near to far, to ``hits``."""
    for k in range(first, last):
        if flakes[k, 1] >= distance:
            continue
        away = np.float64(flakes[k, 0]) - azimuth
        if wrap:
            away -= 2 * math.pi * np.rint(away / (2 * math.pi))
        half = np.float64(flakes[k, 2])
        if abs(away) >= BEAM + half or found == hits.shape[0]:
            continue
        place = found
        while place > 0 and hits[place - 1, 0] > flakes[k, 1]:
            hits[place] = hits[place - 1]
            place -= 1
        hits[place, 0] = flakes[k, 1]
        hits[place, 1] = max(away - half, -BEAM)
        hits[place, 2] = min(away + half, BEAM)
        found += 1
    return found


@numba.njit("i8(f4[:,::1], i8, i8, f8)", cache=True, nogil=True)
def _first_from(flakes: np.ndarray, first: int, last: int, azimuth: float) -> int:
    """First row of first..last whose azimuth is not below ``azimuth``."""
    while first < last:
        middle = (first + last) // 2
        if flakes[middle, 0] < azimuth:
            first = middle + 1
        else:
            last = middle
    return first


@numba.njit("f8(f8[:,::1], i8, f8, f8)", cache=True, nogil=True)
def _newly_covered(cover: np.ndarray, count: int, low: float, high: float) -> float:
    """Angle of low..high outside the ``count`` disjoint intervals of ``cover``."""
    free = high - low
    for k in range(count):
        free -= max(0.0, min(high, cover[k, 1]) - max(low, cover[k, 0]))
    return max(free, 0.0)


@numba.njit("i8(f8[:,::1], i8, f8, f8)", cache=True, nogil=True)
def _join(cover: np.ndarray, count: int, low: float, high: float) -> int:
    """Add low..high to ``cover``, merged with what it overlaps; returns the new number of intervals."""
    k = 0
    while k < count:
        if cover[k, 0] <= high and cover[k, 1] >= low:
            low = min(low, cover[k, 0])
            high = max(high, cover[k, 1])
            count -= 1
            cover[k, 0] = cover[count, 0]
            cover[k, 1] = cover[count, 1]
            k = 0
        else:
            k += 1
    cover[count, 0] = low
    cover[count, 1] = high
    return count + 1


@numba.njit("void(f8[::1], f8, f8)", cache=True, nogil=True)
def _echo(wave: np.ndarray, distance: float, power: float) -> None:
    """Add one reflector's echo to the waveform."""
    first = math.ceil(distance / _BIN)
    last = min(int((distance + PULSE) / _BIN), wave.shape[0] - 1)
    step = (_SHAPE.shape[0] - 1) / PULSE
    for k in range(first, last + 1):
        place = int((k * _BIN - distance) * step + 0.5)
        wave[k] += power * _SHAPE[place]


@numba.njit("f8(f8[:,::1], i8, f8[:,::1], f8[::1])", cache=True, nogil=True)
def _answers(hits: np.ndarray, found: int, cover: np.ndarray, wave: np.ndarray) -> float:
    """Add the echoes of ``found`` flakes, near to far, to the waveform; returns the angle they leave free (rad)."""
    covered = 0
    free = 2 * BEAM
    for k in range(found):
        low, high = hits[k, 1], hits[k, 2]
        newly = _newly_covered(cover, covered, low, high)
        covered = _join(cover, covered, low, high)
        free -= newly
        share = newly / (2 * BEAM)
        opened = min((hits[k, 0] - NEAREST) / 0.1, 1.0)
        _echo(wave, hits[k, 0], share * ALBEDO * opened / hits[k, 0] ** 2)
    return max(free, 0.0)


@numba.njit(
    "Tuple((f4[:,::1], f4[::1], b1[::1]))(f4[:,::1], f4[::1], i8[::1], i8[::1], f8[::1], f4[:,::1], "
    "i8[::1], f4[:,::1], i8[::1])",
    cache=True,
    nogil=True,
)
def _snow(
    points: np.ndarray,
    intensity: np.ndarray,
    ring: np.ndarray,
    plane: np.ndarray,
    turn: np.ndarray,
    small: np.ndarray,
    small_start: np.ndarray,
    wide: np.ndarray,
    wide_start: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, intensities and which of them a flake hides; ``plane`` i64 and ``turn`` f64 (rad) by ring."""
    n = points.shape[0]
    moved = points.copy()
    weaker = intensity.copy()
    ignored = np.zeros(n, np.bool_)
    hits = np.empty((128, 3))
    cover = np.empty((130, 2))
    wave = np.zeros(int((_FARTHEST + PULSE) / _BIN) + 2)
    for i in range(n):
        x = np.float64(points[i, 0])
        y = np.float64(points[i, 1])
        z = np.float64(points[i, 2])
        true = math.sqrt(x * x + y * y + z * z)
        distance = min(true, _FARTHEST)
        azimuth = (math.atan2(y, x) + turn[ring[i]]) % (2 * math.pi)
        p = plane[ring[i]]
        reach = BEAM + _WIDE
        first = _first_from(small, small_start[p], small_start[p + 1], azimuth - reach)
        last = _first_from(small, first, small_start[p + 1], azimuth + reach)
        found = _gather(small, first, last, azimuth, distance, hits, 0, 0)
        found = _gather(wide, wide_start[p], wide_start[p + 1], azimuth, distance, hits, found, 1)
        if found == 0:
            continue
        free = _answers(hits, found, cover, wave)
        # An intensity of 0 is a return below the first count of the scale: half a count.
        clear = max(np.float64(intensity[i]), 0.5)
        _echo(wave, distance, free / (2 * BEAM) * clear)
        first = math.ceil(hits[0, 0] / _BIN)
        last = min(int((distance + PULSE) / _BIN), wave.shape[0] - 1)
        peak = first
        for k in range(first, last + 1):
            if wave[k] > wave[peak]:
                peak = k
        power = np.rint(wave[peak])
        wave[first : last + 1] = 0.0
        at = max(peak * _BIN - PULSE / 2, NEAREST)
        if abs(at - distance) < 0.2:
            weaker[i] = min(np.float64(intensity[i]), power)
        elif power >= 1.0:
            for axis in range(3):
                moved[i, axis] = np.float32(np.float64(points[i, axis]) * (at / true))
            weaker[i] = min(power, 255.0)
            ignored[i] = True
    return moved, weaker, ignored
