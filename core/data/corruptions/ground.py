"""The ground under a scan, what the scanner can still make out of it, and water on it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from core.data.corruptions.base import Returns, Sweep

__all__ = ["NOISE_FLOOR", "Ground", "find_ground", "transmittance", "wet_ground"]

NOISE_FLOOR = 0.7  # share of the weakest ground return that is still detected
WATER = 1.33  # refractive index
_THICKNESS = 0.2  # m above or below the plane that still counts as ground
_HYPOTHESES, _SAMPLE = 64, 2000


class Ground(NamedTuple):
    """The ground of a scan and what the scanner detects there.

    Attributes:
        normal, offset: of the plane ``normal @ p = offset``, f64 [3], upwards, and m.
        near: bool [N], the points on it. start, slope: threshold ``start + slope * distance``, counts and counts/m.
    """

    normal: np.ndarray
    offset: float
    near: np.ndarray
    start: float
    slope: float

    def threshold(self, distance: np.ndarray) -> np.ndarray:
        """Return the weakest intensity (counts) that is detected at ``distance`` (m)."""
        return np.maximum(self.start + self.slope * distance, 0)


def find_ground(sweep: Sweep, rng: np.random.Generator) -> Ground | None:
    """Find the largest nearly level plane below the scanner (RANSAC); None where there is none.

    The weakest returns of the ground say what the scanner detects: a line through the 5 % quantiles of their
    intensities over distance, times ``NOISE_FLOOR``. Returns of exactly 0 are left out: scanners cut the scale there.
    """
    around = (np.abs(sweep.points[:, :2]) < 50).all(1)
    low = np.flatnonzero((sweep.points[:, 2] < -0.5) & around)
    if len(low) < 100:
        return None
    rows = rng.choice(low, min(_SAMPLE, len(low)), replace=False)
    plane = _best_plane(sweep.points[rows].astype(np.float64), rng)
    if plane is None:
        return None
    normal, offset = plane
    height = sweep.points @ normal.astype(np.float32) - np.float32(offset)
    near = np.abs(height) < _THICKNESS
    start, slope = _weakest(sweep, near)
    return Ground(normal, offset, near, start, slope)


def _best_plane(sample: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float] | None:
    """Normal f64 [3] (upwards) and offset (m) of the plane most points of ``sample`` (f64 [n, 3] m) lie on."""
    corners = sample[rng.integers(len(sample), size=(_HYPOTHESES, 3))]
    first = corners[:, 0]
    normals = np.cross(corners[:, 1] - first, corners[:, 2] - first)
    length = np.linalg.norm(normals, axis=1)
    level = np.abs(normals[:, 2]) > 0.94 * np.maximum(length, 1e-9)  # within 20 degrees
    if not level.any():
        return None
    normals = normals[level] / length[level, None]
    normals *= np.sign(normals[:, 2:])
    offsets = (normals * first[level]).sum(1)
    votes = (np.abs(sample @ normals.T - offsets) < _THICKNESS / 2).sum(0)
    best = int(votes.argmax())
    height = sample @ normals[best] - offsets[best]
    inliers = sample[np.abs(height) < _THICKNESS / 2]
    if len(inliers) < 3:
        return None
    middle = inliers.mean(0)
    # two arrays: the product of one with itself takes another routine, which rounds otherwise
    spread = (inliers - middle).T @ (inliers - middle)
    _, axes = np.linalg.eigh(spread)
    normal = axes[:, 0]
    normal *= math.copysign(1.0, normal[2])
    return normal, float(normal @ middle)


def _weakest(sweep: Sweep, near: np.ndarray) -> tuple[float, float]:
    """(start, slope) of the detection threshold; (0, 0) where too few ground returns tell."""
    chosen = near & (sweep.intensity > 0)
    distance = sweep.distance[chosen]
    intensity = sweep.intensity[chosen]
    edges = np.arange(4.0, 52.0, 4.0)
    bins = np.digitize(distance, edges)
    counts = np.bincount(bins, minlength=len(edges) + 1)
    found = [b for b in range(1, len(edges)) if counts[b] >= 20]
    if len(found) < 2:
        return 0.0, 0.0
    weakest = [np.quantile(intensity[bins == b], 0.05) for b in found]
    middles = edges[np.array(found) - 1] + 2
    slope, start = np.polyfit(middles, weakest, 1, w=np.sqrt(counts[found]))
    return NOISE_FLOOR * float(start), NOISE_FLOOR * float(slope)


def transmittance(cosine: np.ndarray) -> np.ndarray:
    """Return the share of unpolarised light that enters water from air at an incidence of ``cosine`` (Fresnel)."""
    cosine = np.clip(cosine, 0.0, 1.0)
    inside = np.sqrt(1 - (1 - cosine**2) / WATER**2)
    across = (cosine - WATER * inside) / (cosine + WATER * inside)
    along = (WATER * cosine - inside) / (WATER * cosine + inside)
    return 1 - (across**2 + along**2) / 2


def wet_ground(sweep: Sweep, rng: np.random.Generator, *, water: float, texture: float) -> Returns:
    """Weaken ground returns by a film of water; they are lost where too little is left.

    Water fills the road's texture: it covers ``water / texture`` of the surface, at most all of it. Seen through water
    a surface returns T² / n² of its light (in and out through the interface), so that far ground, struck at a grazing
    angle, disappears first.

    Args:
        water, texture: mm, height of the water and depth of the texture.
    """
    source = np.arange(len(sweep))
    ignored = np.zeros(len(sweep), bool)
    ground = find_ground(sweep, rng)
    if ground is None or water == 0:
        return Returns(sweep.points, sweep.intensity, source, ignored)
    wet = np.flatnonzero(ground.near)
    distance = sweep.distance[wet].astype(np.float64)
    cosine = np.abs(sweep.points[wet] @ ground.normal) / np.maximum(distance, 1e-6)
    covered = min(1.0, water / texture)
    factor = 1 - covered + covered * (transmittance(cosine) / WATER) ** 2
    intensity = sweep.intensity.copy()
    intensity[wet] = np.rint(intensity[wet] * factor)
    stays = np.ones(len(sweep), bool)
    stays[wet] = intensity[wet] >= ground.threshold(distance)
    return Returns(sweep.points[stays], intensity[stays], source[stays], ignored[stays])
