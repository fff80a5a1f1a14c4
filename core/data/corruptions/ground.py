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
    """The plane ``normal @ p = offset`` (f64 [3], upwards; m), ``near`` bool [N] of its points, and the detection
    threshold ``start + slope * distance`` in counts."""

    normal: np.ndarray
    offset: float
    near: np.ndarray
    start: float
    slope: float

    def threshold(self, distance: np.ndarray) -> np.ndarray:
        """Weakest intensity that is detected at ``distance`` (m)."""
        return np.maximum(self.start + self.slope * distance, 0)


def find_ground(sweep: Sweep, rng: np.random.Generator) -> Ground | None:
    """Largest nearly level plane below the scanner (RANSAC); None where there is none.

    The weakest returns of the ground say what the scanner detects: a line through the 5 % quantiles of their
    intensities over distance, times ``NOISE_FLOOR``. Returns of exactly 0 are left out: scanners cut the scale there.
    """
    low = np.flatnonzero((sweep.points[:, 2] < -0.5) & (np.abs(sweep.points[:, :2]) < 50).all(1))
    if len(low) < 100:
        return None
    sample = sweep.points[rng.choice(low, min(_SAMPLE, len(low)), replace=False)].astype(np.float64)
    plane = _best_plane(sample, rng)
    if plane is None:
        return None
    normal, offset = plane
    near = np.abs(sweep.points @ normal.astype(np.float32) - np.float32(offset)) < _THICKNESS
    return Ground(normal, offset, near, *_weakest(sweep, near))


def _best_plane(sample: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float] | None:
    corners = sample[rng.integers(len(sample), size=(_HYPOTHESES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1)
    level = np.abs(normals[:, 2]) > 0.94 * np.maximum(length, 1e-9)  # within 20 degrees
    if not level.any():
        return None
    normals, corners = normals[level] / length[level, None], corners[level, 0]
    normals *= np.sign(normals[:, 2:])
    offsets = (normals * corners).sum(1)
    votes = (np.abs(sample @ normals.T - offsets) < _THICKNESS / 2).sum(0)
    best = int(votes.argmax())
    inliers = sample[np.abs(sample @ normals[best] - offsets[best]) < _THICKNESS / 2]
    if len(inliers) < 3:
        return None
    middle = inliers.mean(0)
    normal = np.linalg.eigh((inliers - middle).T @ (inliers - middle))[1][:, 0]
    normal *= math.copysign(1.0, normal[2])
    return normal, float(normal @ middle)


def _weakest(sweep: Sweep, near: np.ndarray) -> tuple[float, float]:
    """(start, slope) of the detection threshold; (0, 0) where too few ground returns tell."""
    chosen = near & (sweep.intensity > 0)
    distance, intensity = sweep.distance[chosen], sweep.intensity[chosen]
    edges = np.arange(4.0, 52.0, 4.0)
    bins = np.digitize(distance, edges)
    counts = np.bincount(bins, minlength=len(edges) + 1)
    found = [b for b in range(1, len(edges)) if counts[b] >= 20]
    if len(found) < 2:
        return 0.0, 0.0
    weakest = [np.quantile(intensity[bins == b], 0.05) for b in found]
    slope, start = np.polyfit(edges[np.array(found) - 1] + 2, weakest, 1, w=np.sqrt(counts[found]))
    return NOISE_FLOOR * float(start), NOISE_FLOOR * float(slope)


def transmittance(cosine: np.ndarray) -> np.ndarray:
    """Share of unpolarised light that enters water from air at an incidence of ``cosine`` (Fresnel)."""
    cosine = np.clip(cosine, 0.0, 1.0)
    inside = np.sqrt(1 - (1 - cosine**2) / WATER**2)
    across = (cosine - WATER * inside) / (cosine + WATER * inside)
    along = (WATER * cosine - inside) / (WATER * cosine + inside)
    return 1 - (across**2 + along**2) / 2


def wet_ground(sweep: Sweep, rng: np.random.Generator, *, water: float, texture: float) -> Returns:
    """Ground returns weakened by a film of water, and lost where too little is left.

    Water fills the road's texture: it covers ``water / texture`` of the surface, at most all of it. Seen through water
    a surface returns T² / n² of its light (in and out through the interface), so that far ground, struck at a grazing
    angle, disappears first.

    Args:
        water, texture: mm, height of the water and depth of the texture.
    """
    source, ignored = np.arange(len(sweep)), np.zeros(len(sweep), bool)
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
