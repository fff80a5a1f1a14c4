"""Which sweeps lie before and after a keyframe."""

from __future__ import annotations

import numpy as np

from core.datasets.base import Multisweeps
from core.datasets.nuscenes.index import NuScenesIndex

__all__ = ["walk"]


def walk(index: NuScenesIndex, rows: np.ndarray, sweeps: Multisweeps) -> np.ndarray:
    """Neighbouring sweeps of each row, i64 [F, S], -1 = none: past from near to far, then future.

    When fewer past sweeps exist, more future ones are taken, so that a scene's first keyframes are as dense.
    """
    total = sweeps.num_sweeps if sweeps.only_past else 2 * sweeps.num_sweeps
    past = _follow(index.lidar_prev, rows, sweeps.num_sweeps)
    if sweeps.only_past:
        return past
    future = _follow(index.lidar_next, rows, total)
    allowed = total - (past >= 0).sum(1, keepdims=True)
    future[np.arange(total)[None] >= allowed] = -1
    return np.concatenate([past, future], 1)


def _follow(link: np.ndarray, rows: np.ndarray, steps: int) -> np.ndarray:
    chains = np.full((len(rows), steps), -1, np.int64)
    current = rows
    for step in range(steps):
        current = np.where(current >= 0, link[current], -1)
        chains[:, step] = current
    return chains
