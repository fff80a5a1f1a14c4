"""Fog: a point fades with distance, or the fog itself answers first (Hahner et al. 2021, from the formulas).

A pulse of 2 x 20 ns (sin² shaped) loses exp(-2 alpha R) on its way to a surface at R and back. The fog along the way
scatters some of it back as well; its strongest answer, I* at R*, depends on alpha alone once the surface is farther
than the pulse is long. Where that answer is the stronger one, the scanner reports the fog in place of the surface.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np

from core.data.corruptions.base import NEAREST, Returns, Sweep, kept

__all__ = ["FogTable", "fog", "fog_table", "visibility"]

LIGHT = 299_792_458.0  # m/s
HALF_PULSE = 20e-9  # s
GRID = np.linspace(0.0, 200.0, 2000)  # m, ranges at which the answer of the fog is computed
BETA_CLEAR = 1e-6 / math.pi  # backscattering of a clear-weather target, 1/(m sr)
_FARTHEST_PEAK = 10.0  # m; the answer of the fog falls with range beyond, whatever alpha


class FogTable(NamedTuple):
    """Strongest answer of the fog within each range of ``GRID``: ``where`` f64 [2000] m and ``power`` f64 [2000]."""

    where: np.ndarray
    power: np.ndarray


def visibility(alpha: float) -> float:
    """Return the meteorological range (m) of attenuation ``alpha`` (1/m)."""
    return math.log(20.0) / alpha


@lru_cache(maxsize=16)
def fog_table(alpha: float) -> FogTable:
    """Integrate the soft return; up to the surface it does not depend on where the surface is, hence one integral.

    Args:
        alpha: attenuation, 1/m.
    """
    steps = 4000
    tick = 2 * HALF_PULSE / steps  # s
    t = (np.arange(steps) + 0.5) * tick
    near = GRID[GRID <= _FARTHEST_PEAK]
    r = near[:, None] - LIGHT * t / 2  # m, where the light that arrives now was scattered
    seen = np.clip((r - NEAREST) / 0.1, 0, 1)  # the receiver's view opens between 0.9 and 1.0 m
    r = np.where(seen > 0, r, 1.0)
    pulse = np.sin(math.pi * t / (2 * HALF_PULSE)) ** 2
    power = (pulse * np.exp(-2 * alpha * r) / r**2 * seen).sum(1) * tick
    best = np.maximum.accumulate(power)
    first = np.maximum.accumulate(np.where(power == best, np.arange(len(near)), 0))
    pad = (0, len(GRID) - len(near))
    where = np.pad(near[first], pad, mode="edge")
    return FogTable(where, np.pad(best, pad, mode="edge"))


def fog(sweep: Sweep, rng: np.random.Generator, *, alpha: float, counts: bool = True) -> Returns:
    """Put the scan into fog of attenuation ``alpha`` (1/m); 0 changes nothing.

    Args:
        counts: the surface's intensity is rounded to whole counts and the fog's ends at 255, as in the simulator;
            False keeps both as they are (Robo3D).
    """
    if alpha == 0:
        return kept(sweep)
    table = fog_table(alpha)
    gain = 0.046 * alpha / math.log(20.0) / BETA_CLEAR
    points, intensity, hidden = _fog(
        np.ascontiguousarray(sweep.points),
        sweep.intensity,
        alpha,
        gain,
        table.where,
        table.power,
        rng.random(len(sweep)),
        counts,
    )
    return Returns(points, intensity, np.arange(len(sweep)), hidden)


@numba.njit(
    "Tuple((f4[:,::1], f4[::1], b1[::1]))(f4[:,::1], f4[::1], f8, f8, f8[::1], f8[::1], f8[::1], b1)",
    cache=True,
    nogil=True,
)
def _fog(
    points: np.ndarray,
    intensity: np.ndarray,
    alpha: float,
    gain: float,
    where: np.ndarray,
    power: np.ndarray,
    draw: np.ndarray,
    counts: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, intensities and which of them the fog hides; ``draw`` f64 [N] is uniform in [0, 1)."""
    n = points.shape[0]
    moved = points.copy()
    weaker = np.empty(n, np.float32)
    hidden = np.zeros(n, np.bool_)
    per_metre = (where.shape[0] - 1) / 200.0
    for i in range(n):
        x = np.float64(points[i, 0])
        y = np.float64(points[i, 1])
        z = np.float64(points[i, 2])
        distance = math.sqrt(x * x + y * y + z * z)
        cell = min(int(distance * per_metre), where.shape[0] - 1)
        hard = intensity[i] * math.exp(-2.0 * alpha * distance)
        soft = power[cell] * intensity[i] * distance * distance * gain
        if counts:
            hard = np.rint(hard)
            soft = min(255.0, soft)
        if soft <= hard or where[cell] <= 0.0:
            weaker[i] = hard
            continue
        # The simulator scatters the answer by R0 / U(R0 - 10, R0 + 10), which is negative or huge for near surfaces;
        # bounded below by R*, the fog never lies behind the surface it hides.
        spread = max(distance - 10.0 + 20.0 * draw[i], where[cell])
        factor = where[cell] / spread
        for axis in range(3):
            moved[i, axis] = np.float32(np.float64(points[i, axis]) * factor)
        weaker[i] = soft
        hidden[i] = True
    return moved, weaker, hidden
