"""Motion features of consecutive scans: the polar sequential residuals of MotionBEV (Zhou et al., RA-L 2023).

Two windows of scans that follow one another, moved into the frame of the newest one, are compared by the height extent
of each cell of azimuth and range. Where extent is lost or gained, something has moved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numba
import numpy as np

from core.datasets.motion_cells import add_extents, grid_of
from core.datasets.motion_config import MotionConfig, ResidualConfig
from core.datasets.motion_maps import MotionMaps
from core.errors import UserError
from core.geometry import chain, first_fault, invert

__all__ = ["FinishedScan", "MotionStream", "check_pushed", "height_extent", "residual"]


@dataclass(frozen=True)
class FinishedScan:
    """A scan whose features are as complete as they will be.

    Attributes:
        number: how many scans were pushed before it. xyz: f32 [N, 3] m, as pushed. motion: its maps.
    """

    number: int
    xyz: np.ndarray
    motion: MotionMaps
    settings: MotionConfig | ResidualConfig

    def features(self) -> np.ndarray:
        """F32 [N, C] m, what a network reads of its points; the same values that a file of maps gives."""
        return self.motion.at_points(self.xyz, self.settings)


@dataclass
class _Waiting:
    """A scan that is in a window or waits for later ones."""

    number: int
    xyz: np.ndarray
    pose: np.ndarray
    maps: dict[int, np.ndarray] = field(default_factory=dict)  # by channel, f16
    moves: dict[int, np.ndarray] = field(default_factory=dict)


class MotionStream:
    """Takes scans one by one and gives each back ``delay`` scans later, with its features.

    A sequence shorter than the two windows has no features at all. Files of maps are made by the same object.

    Args:
        settings: windows, grid and delay.
        skip: of the first scans, so many only fill the windows and are not given back.
    """

    def __init__(self, settings: MotionConfig, skip: int = 0) -> None:
        self.settings = settings
        self._grid = grid_of(settings)
        self._skip = skip
        self._pushed = 0
        self._held: deque[_Waiting] = deque()  # the newest last

    def push(self, xyz: np.ndarray, pose: np.ndarray) -> FinishedScan | None:
        """Take the next scan.

        Args:
            xyz: f32 [N, 3] m about the scanner. pose: f64 [4, 4] scanner -> world.

        Returns:
            the scan of ``delay`` pushes ago; None where there was none yet.

        Raises:
            UserError: the pose is no rigid transform, or the points are not [N, 3].
        """
        points = np.ascontiguousarray(xyz, np.float32)
        pose = np.asarray(pose, np.float64)
        check_pushed(points, pose, self._pushed)
        self._held.append(_Waiting(self._pushed, points, pose))
        self._pushed += 1
        windows = self.settings.channels
        if len(self._held) > windows:
            self._held.popleft()
        if len(self._held) == windows:
            self._compare()
        if self._pushed <= self.settings.delay:
            return None
        return self._finished(self._held[-1 - self.settings.delay])

    def finish(self) -> Iterator[FinishedScan]:
        """The last scans, which wait for others in vain; channels of scans that never came are 0."""
        waiting = min(self.settings.delay, self._pushed)
        for held in list(self._held)[len(self._held) - waiting :]:
            finished = self._finished(held)
            if finished is not None:
                yield finished

    def _compare(self) -> None:
        """Compare the windows at the time of the newest scan, and give each scan in them its channel."""
        newest = self._held[-1]
        into = invert(newest.pose)
        moves = [chain(into, held.pose)[:3].copy() for held in self._held]
        first = self.settings.previous
        previous = self._extent(0, first, moves)
        last = self._extent(first, len(moves), moves)
        gained = residual(last, previous, self.settings).astype(np.float16)
        lost = residual(previous, last, self.settings).astype(np.float16)
        for place, held in enumerate(self._held):
            channel = newest.number - held.number
            if channel <= self.settings.delay:
                held.maps[channel] = lost if place < first else gained
                held.moves[channel] = moves[place]

    def _extent(self, begin: int, end: int, moves: list[np.ndarray]) -> np.ndarray:
        scans = [(self._held[place].xyz, moves[place]) for place in range(begin, end)]
        return height_extent(scans, self.settings, self._grid)

    def _finished(self, held: _Waiting) -> FinishedScan | None:
        if held.number < self._skip:
            return None
        channels = self.settings.channels
        maps = np.zeros((channels, *self.settings.bins), np.float16)
        moves = np.full((channels, 3, 4), np.nan)
        for channel, values in held.maps.items():
            maps[channel] = values
            moves[channel] = held.moves[channel]
        return FinishedScan(
            held.number, held.xyz, MotionMaps(maps, moves, held.pose), self.settings
        )


def check_pushed(xyz: np.ndarray, pose: np.ndarray, number: int) -> None:
    """Refuse a scan of a stream that is none.

    Args:
        number: how many scans were pushed before it.

    Raises:
        UserError: the pose is no rigid transform, or the points are not [N, 3].
    """
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise UserError(f"scan {number} of the stream is {list(xyz.shape)}; expected points [N, 3]")
    fault = (0, f"is {list(pose.shape)}") if pose.shape != (4, 4) else first_fault(pose[None])
    if fault is not None:
        raise UserError(
            f"the pose of scan {number} of the stream {fault[1]}",
            cure="Give rigid transforms [4, 4] that lead from the scanner into one world",
        )


def height_extent(
    scans: list[tuple[np.ndarray, np.ndarray]], settings: MotionConfig, grid: np.ndarray
) -> np.ndarray:
    """How far the points of several scans reach in height, by cells of azimuth and range.

    Args:
        scans: of each, points f32 [N, 3] m and f64 [3, 4], their way into one frame.

    Returns:
        f32 [azimuth, range] m; 0 where there is no point or one. Range counts from the far end.
    """
    rows, columns = settings.bins
    lowest = np.full(rows * columns, np.inf, np.float32)
    highest = np.full(rows * columns, -np.inf, np.float32)
    for xyz, move in scans:
        add_extents(xyz, move, grid, lowest, highest)
    extent = np.zeros(rows * columns, np.float32)
    np.subtract(highest, lowest, out=extent, where=highest > lowest)
    return extent.reshape(rows, columns)


def residual(own: np.ndarray, other: np.ndarray, settings: MotionConfig) -> np.ndarray:
    """Height extent that one window has and the other has not.

    It counts where ``own`` lies within ``settings.extent``, ``other`` has at most a share ``settings.remains`` of it,
    and ``other`` saw something farther out in the same direction: else the place may have been hidden from it.

    Args:
        own, other: f32 [azimuth, range] m.

    Returns:
        f32 [azimuth, range] m, not negative.
    """
    smallest, largest = settings.extent
    return _residual(own, other, smallest, largest, settings.remains, settings.occlusion)


@numba.njit("f4[:,::1](f4[:,::1], f4[:,::1], f4, f4, f4, b1)", cache=True, nogil=True)
def _residual(
    own: np.ndarray, other: np.ndarray, smallest: float, largest: float, remains: float, hides: bool
) -> np.ndarray:
    rows, columns = own.shape
    found = np.zeros((rows, columns), np.float32)
    for row in range(rows):
        seen = not hides  # something at this place or farther out
        for column in range(columns):
            seen = seen or other[row, column] > 0
            mine = own[row, column]
            if seen and smallest <= mine <= largest and remains * mine >= other[row, column]:
                found[row, column] = mine - other[row, column]
    return found
