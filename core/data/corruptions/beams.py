"""Scanners with fewer lasers."""

from __future__ import annotations

import numpy as np

from core.data.corruptions.base import Returns, Sweep, kept
from core.datasets.rings import rings

__all__ = ["beam_missing", "cross_sensor", "thin_beams"]


def thin_beams(sweep: Sweep, rng: np.random.Generator, *, every: int, sparse: bool) -> Returns:
    """Keep every ``every``-th ring from the first on; ``sparse``: and every second point of each of these."""
    ring = rings(sweep.points, sweep.beams)
    stays = ring % every == 0
    if sparse:
        stays &= _place_in_ring(ring) % 2 == 0
    return kept(sweep, stays)


def _place_in_ring(ring: np.ndarray) -> np.ndarray:
    """How many points of the same ring come before each point, i64 [N]."""
    order = np.argsort(ring, kind="stable")
    counts = np.bincount(ring)
    starts = np.cumsum(counts) - counts
    place = np.empty(len(ring), np.int64)
    place[order] = np.arange(len(ring)) - np.repeat(starts, counts)
    return place


def beam_missing(sweep: Sweep, rng: np.random.Generator, *, share: float) -> Returns:
    """Silence ``share`` of the lasers, drawn anew for each scan."""
    count = round(share * sweep.beams)
    dead = np.zeros(sweep.beams, bool)
    dead[rng.choice(sweep.beams, count, replace=False)] = True
    ring = rings(sweep.points, sweep.beams)
    return kept(sweep, ~dead[ring])


def cross_sensor(sweep: Sweep, rng: np.random.Generator, *, share: float) -> Returns:
    """Leave out evenly spaced lasers (``share`` of them), and every second point of the others."""
    left = round((1 - share) * sweep.beams)
    present = np.zeros(sweep.beams, bool)
    present[np.arange(left) * sweep.beams // max(left, 1)] = True
    ring = rings(sweep.points, sweep.beams)
    stays = np.flatnonzero(present[ring])
    second = np.zeros(len(sweep), bool)
    second[stays[::2]] = True
    return kept(sweep, second)
