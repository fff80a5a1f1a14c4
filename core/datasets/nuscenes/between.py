"""The sweeps between keyframes as scans of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from core.contracts import Scan
from core.datasets.base import Gap, ScanDataset, ScanFiles
from core.datasets.nuscenes.index import NuScenesIndex

__all__ = ["SweepScans", "sweeps_between"]


class SweepScans(ScanDataset):
    """Sweeps of a split of nuScenes, each with its own pose, time and neighbours, without labels and cameras.

    Images are taken at the times of keyframes, so none shows what a sweep sees.

    Args:
        keyframes: the split. index: of its tables.
        rows: i64 [N], rows of the index. scenes: i64 [N], rows of their scenes.
        read_row: reads the scan of a row of the index.
        gaps: what is not there.
    """

    def __init__(
        self,
        keyframes: ScanDataset,
        index: NuScenesIndex,
        rows: np.ndarray,
        scenes: np.ndarray,
        read_row: Callable[[int], Scan],
        gaps: list[Gap],
    ) -> None:
        self.take_after(keyframes)
        self.index, self._rows, self._scenes = index, rows, scenes
        self._read_row, self._gaps = read_row, gaps

    def __len__(self) -> int:
        return len(self._rows)

    def token(self, index: int) -> str:
        """nuScenes' sample_data token of the sweep."""
        return self.index.lidar_token[self._rows[index]].decode()

    def scene(self, index: int) -> str:
        """Name of the scene that the sweep belongs to."""
        return self.index.scene_name[self._scenes[index]].decode()

    def drive(self, index: int) -> str:
        """The scene."""
        return self.scene(index)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {self.token(index): index for index in range(len(self))}

    def index_of(self, token: str) -> int:
        """Position of the sweep with that sample_data token."""
        if token not in self._positions:
            raise self._unknown_token(token)
        return self._positions[token]

    def files(self, index: int) -> ScanFiles:
        """The sweep's points."""
        return ScanFiles(self.root / self.index.lidar_file[self._rows[index]].decode(), None)

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        """Read the sweep and those that ``multisweeps`` asks for, in its own frame."""
        return self._read_row(int(self._rows[index]))


def sweeps_between(index: NuScenesIndex, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the sweeps whose nearest keyframes before and after are all among ``keys``.

    A sweep beside a keyframe of another split shows what that split is scored on, and is not among them.

    Args:
        keys: i64, keyframes of the split.

    Returns:
        rows of the sweeps i64 [N], ordered by scene and time, and rows of their scenes i64 [N].
    """
    key_of = np.full(len(index.lidar_token), -1, np.int64)
    key_of[index.key_lidar] = np.arange(len(index.key_lidar))
    wanted = np.zeros(len(index.key_lidar) + 1, bool)
    wanted[keys] = True
    wanted[-1] = True  # none on that side
    before = _nearest_key(index.lidar_prev, key_of)
    after = _nearest_key(index.lidar_next, key_of)
    between = (key_of < 0) & (np.maximum(before, after) >= 0) & wanted[before] & wanted[after]
    rows = np.flatnonzero(between)
    scenes = index.key_scene[np.maximum(before, after)[rows]]
    order = np.lexsort([index.lidar_time[rows], scenes])
    return rows[order], scenes[order]


def _nearest_key(link: np.ndarray, key_of: np.ndarray) -> np.ndarray:
    """The first keyframe along the links from each sweep, i64 [L], -1 = none.

    Each round doubles the length of the way that is known.
    """
    target = np.where(key_of >= 0, np.arange(len(link)), link)
    for _ in range(len(link).bit_length()):
        target = np.where(target >= 0, target[target], -1)
    return np.where(target >= 0, key_of[target], -1)
