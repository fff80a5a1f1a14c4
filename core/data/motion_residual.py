"""Motion features of consecutive scans: the residual range images of LMNet (Chen et al., RA-L 2021).

Earlier scans, moved into the frame of the newest one, are seen as range images from there; where the range of a pixel
has changed, something has moved. Nothing of the future is looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from core.data.motion import FinishedScan, check_pushed
from core.datasets.motion_config import ResidualConfig
from core.datasets.motion_maps import MotionMaps
from core.datasets.motion_pixels import nearest_ranges, range_residual, view_of
from core.geometry import chain, invert

__all__ = ["ResidualStream"]


@dataclass(frozen=True)
class _Held:
    xyz: np.ndarray
    pose: np.ndarray


class ResidualStream:
    """Takes scans one by one and gives each back at once, with its features; of the first scans some channels are 0.

    Args:
        settings: image and number of earlier scans.
        skip: of the first scans, so many are only looked back at and are not given back.
    """

    def __init__(self, settings: ResidualConfig, skip: int = 0) -> None:
        self.settings = settings
        self._view = view_of(settings)
        self._skip = skip
        self._pushed = 0
        self._held: deque[_Held] = deque(maxlen=settings.scans)  # the newest first

    def push(self, xyz: np.ndarray, pose: np.ndarray) -> FinishedScan | None:
        """Take the next scan.

        Args:
            xyz: f32 [N, 3] m about the scanner. pose: f64 [4, 4] scanner -> world.

        Returns:
            the same scan; None for those that are skipped.

        Raises:
            UserError: the pose is no rigid transform, or the points are not [N, 3].
        """
        points = np.ascontiguousarray(xyz, np.float32)
        pose = np.asarray(pose, np.float64)
        check_pushed(points, pose, self._pushed)
        finished = None
        if self._pushed >= self._skip:
            maps = self._maps(points, pose)
            finished = FinishedScan(self._pushed, points, maps, self.settings)
        self._held.appendleft(_Held(points, pose))
        self._pushed += 1
        return finished

    def finish(self) -> Iterator[FinishedScan]:
        """No scan waits for others."""
        return iter(())

    def _maps(self, points: np.ndarray, pose: np.ndarray) -> MotionMaps:
        settings = self.settings
        maps = np.zeros((settings.channels, settings.height * settings.width), np.float16)
        moves = np.full((settings.channels, 3, 4), np.nan)
        still = np.eye(4)[:3].copy()
        now = self._ranges(points, still)
        into = invert(pose)
        for channel, held in enumerate(self._held):
            before = self._ranges(held.xyz, chain(into, held.pose)[:3].copy())
            maps[channel] = range_residual(now, before)
            moves[channel] = still
        return MotionMaps(maps.reshape(-1, *settings.bins), moves, pose)

    def _ranges(self, xyz: np.ndarray, move: np.ndarray) -> np.ndarray:
        """F32 [pixels] m, infinite where there is no point."""
        nearest = np.full(self.settings.height * self.settings.width, np.inf, np.float32)
        nearest_ranges(xyz, move, self._view, nearest)
        return nearest
