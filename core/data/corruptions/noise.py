"""Points that are wrong, strewn about, shaken or missing: measurement noise and faults of the sensor."""

from __future__ import annotations

import numpy as np

from core.data.corruptions.base import Returns, Sweep, kept

__all__ = ["crosstalk", "global_outliers", "incomplete_echo", "local_distortion", "motion_blur"]


def global_outliers(sweep: Sweep, rng: np.random.Generator, *, share: float) -> Returns:
    """Add ``round(share * N)`` points, uniform in the scan's bounding box, intensity uniform over the scale."""
    count = round(share * len(sweep))
    if not count:
        return kept(sweep)
    clean = kept(sweep)
    low = sweep.points.min(0)
    high = sweep.points.max(0)
    points = rng.uniform(low, high, (count, 3)).astype(np.float32)
    intensity = rng.uniform(0, 255, count).astype(np.float32)
    return Returns(
        points=np.concatenate([clean.points, points]),
        intensity=np.concatenate([clean.intensity, intensity]),
        source=np.concatenate([clean.source, np.full(count, -1)]),
        ignored=np.concatenate([clean.ignored, np.ones(count, bool)]),
    )


def _shaken(
    sweep: Sweep, rng: np.random.Generator, share: float, std: float, ignored: bool
) -> Returns:
    """Add normal noise of ``std`` m to x, y, z of ``round(share * N)`` points; ``ignored``: they lose their class."""
    clean = kept(sweep)
    count = round(share * len(sweep))
    chosen = np.arange(len(sweep))
    if count < len(sweep):
        chosen = rng.choice(len(sweep), count, replace=False)
    points = clean.points.copy()
    points[chosen] += std * rng.standard_normal((count, 3), np.float32)
    lost = clean.ignored.copy()
    lost[chosen] = ignored
    return Returns(points, clean.intensity, clean.source, lost)


def local_distortion(
    sweep: Sweep, rng: np.random.Generator, *, share: float, std: float, keep_labels: bool = False
) -> Returns:
    """Shake ``share`` of the points by ``std`` m; in the published pictures they are drawn as "ignore"."""
    return _shaken(sweep, rng, share, std, not keep_labels)


def motion_blur(sweep: Sweep, rng: np.random.Generator, *, std: float) -> Returns:
    """Shake every point by ``std`` m; labels stay."""
    return _shaken(sweep, rng, 1.0, std, False)


def crosstalk(sweep: Sweep, rng: np.random.Generator, *, share: float, std: float) -> Returns:
    """Let ``share`` of the points answer another scanner's pulse: thrown about by ``std`` m, class lost."""
    return _shaken(sweep, rng, share, std, True)


def incomplete_echo(sweep: Sweep, rng: np.random.Generator, *, share: float) -> Returns:
    """Lose ``share`` of the points on vehicles, whose paint and glass swallow or mirror the pulse."""
    vehicles = np.flatnonzero(sweep.vehicle)
    lost = rng.choice(vehicles, round(share * len(vehicles)), replace=False)
    stays = np.ones(len(sweep), bool)
    stays[lost] = False
    return kept(sweep, stays)
