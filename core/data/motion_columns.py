"""Motion features of scans as they come, as columns of their points, in place of files that were made before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.contracts import Scan
from core.data.motion import FinishedScan
from core.data.motion_kinds import motion_stream
from core.datasets.motion_config import MotionConfig, ResidualConfig
from core.datasets.motion_maps import scanner_pose

__all__ = ["MotionColumns"]


@dataclass
class _Waiting:
    scan: Scan
    columns: dict[str, np.ndarray] = field(default_factory=dict)


class MotionColumns:
    """Takes scans one by one and gives them back, in order, with the columns of motion that a network reads.

    A scan comes back when the scans have come that its features look at: as many as the longest delay of a column.

    Args:
        settings: of each column by its name; none = every scan comes back at once, as it is.
    """

    def __init__(self, settings: Mapping[str, MotionConfig | ResidualConfig]) -> None:
        self.settings = dict(settings)
        self._begin()

    @property
    def delay(self) -> int:
        """Scans that a scan waits for."""
        return max((settings.delay for settings in self.settings.values()), default=0)

    def _begin(self) -> None:
        self._streams = {name: motion_stream(value) for name, value in self.settings.items()}
        self._waiting: deque[_Waiting] = deque()
        self._given = 0

    def push(self, scan: Scan, poses: Sequence[Path] = ()) -> Iterator[Scan]:
        """Take the next scan of a drive.

        Args:
            scan: its own points alone, with its pose. poses: files that poses come from, for errors.

        Yields:
            scans that wait for nothing more.

        Raises:
            UserError: the pose is not known or no rigid transform.
        """
        self._waiting.append(_Waiting(scan))
        for name, stream in self._streams.items():
            finished = stream.push(scan.sensor.seen(scan.xyz), scanner_pose(scan, poses))
            if finished is not None:
                self._take(name, finished)
        yield from self._complete()

    def finish(self) -> Iterator[Scan]:
        """The scans that wait for others in vain, with 0 for what those would have told; the next begins a drive."""
        for name, stream in self._streams.items():
            for finished in stream.finish():
                self._take(name, finished)
        yield from self._complete()
        self._begin()

    def _take(self, name: str, finished: FinishedScan) -> None:
        self._waiting[finished.number - self._given].columns[name] = finished.features()

    def _complete(self) -> Iterator[Scan]:
        while self._waiting and len(self._waiting[0].columns) == len(self._streams):
            done = self._waiting.popleft()
            self._given += 1
            yield done.scan.having(**done.columns)
