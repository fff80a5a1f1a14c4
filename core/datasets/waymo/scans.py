"""Scans made of frames of a source: points, neighbouring frames, cameras."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np

from core.contracts import Camera, Points, Scan, Sensor
from core.datasets.base import Gap, ScanDataset, ScanFiles, near_sensor
from core.datasets.waymo.config import WaymoConfig
from core.datasets.waymo.frame import CAMERAS, TOP
from core.datasets.waymo.scoring.cells import Cells
from core.datasets.waymo.source import FrameSource
from core.errors import UserError
from core.geometry import chain, invert, transform

__all__ = ["FrameScans"]


class FrameScans(ScanDataset):
    """Some frames of a source, by segment and time.

    Attributes:
        labelled: labels are read where a frame has some.
    """

    own_columns = MappingProxyType({"elongation": 1, "range": 1, "return": 1})
    point_fields = 0  # sizes of files say nothing
    label_dtype = np.dtype("<i4")
    config: WaymoConfig
    labelled: bool
    _source: FrameSource
    _rows: np.ndarray  # i64 [N] of the source's frames, rising

    def __len__(self) -> int:
        return len(self._rows)

    def token(self, index: int) -> str:
        """``<context_name>/<timestamp_micros>``."""
        return self._source.frames.token(int(self._rows[index]))

    def index_of(self, token: str) -> int:
        """Position of the frame with that context name and time."""
        name, _, timestamp = token.partition("/")
        row = None
        if timestamp.isascii() and timestamp.isdecimal() and len(timestamp) < 19:
            row = self._source.frames.find(name, int(timestamp))
        if row is not None:
            place = int(np.searchsorted(self._rows, row))
            if place < len(self._rows) and self._rows[place] == row:
                return place
        raise self._unknown_token(token)

    def files(self, index: int) -> ScanFiles:
        """The files of the segment that hold the frame; v1 has one for everything."""
        row = int(self._rows[index])
        cameras = self._cameras()
        return self._source.files(row, labelled=self._has_labels(row), cameras=cameras)

    def _cameras(self) -> tuple[str, ...]:
        """Names of the cameras that are given."""
        if self.config.cameras is None:
            return tuple(CAMERAS.values())
        return self.config.cameras

    def _has_labels(self, row: int) -> bool:
        return self.labelled and bool(self._source.frames.rows["labelled"][row])

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        """Read the frame and the neighbouring ones that ``multisweeps`` asks for, in its vehicle system."""
        row = int(self._rows[index])
        sensor = self._sensor(row)
        has_labels = self._has_labels(row)
        parts = [self._source.points(row, self.labels if has_labels else None)]
        for other in self._neighbours(row):
            parts.append(self._sweep(row, other, len(parts)))
        return Scan(
            token=self.token(index),
            points=Points.join(*parts),
            sensor=sensor,
            cameras=self._seen(row, required=has_labels) if cameras else (),
            pose=np.array(self._pose(row)),
            images_optional=not has_labels,
        )

    def cells(self, index: int) -> Cells:
        """The cells of TOP's range images that the points of scan ``index`` are, in their order.

        Raises:
            UserError: the frame is damaged, or the configuration leaves some of these points out or adds others.
        """
        if self.config.returns != "both" or self.config.lasers != (TOP,):
            raise UserError(
                f"the benchmark wants classes for both returns of {TOP}, and of no other lidar",
                where="dataset.returns, dataset.lasers",
                cure=f"Set dataset.returns both and dataset.lasers [{TOP}]",
            )
        return self._source.cells(int(self._rows[index]))

    def _sensor(self, row: int) -> Sensor:
        """TOP where the segment's calibration has it; ``dataset.sensor`` comes first."""
        calibrated = self._source.sensor(row)
        if calibrated is None:
            return self.sensor
        return self.config.sensor.over(calibrated)

    def _pose(self, row: int) -> np.ndarray:
        return self._source.frames.rows["pose"][row]

    def _neighbours(self, row: int) -> list[int]:
        """Past frames from near to far, then future ones, as far as the segment has them."""
        sweeps, stride = self.config.multisweeps, self.config.sweep_stride
        steps = [-stride * k for k in range(1, sweeps.num_sweeps + 1)]
        if not sweeps.only_past:
            steps += [stride * k for k in range(1, sweeps.num_sweeps + 1)]
        frames = self._source.frames
        there = frames.rows_of(frames.segment_of(row))
        return [row + step for step in steps if row + step in there]

    def _sweep(self, row: int, other: int, number: int) -> Points:
        """Points of the frame in row ``other`` in the frame of ``row``, without the vehicle's own returns."""
        points = self._source.points(other, None)
        seen = self._sensor(other).seen(points["xyz"])
        points = points.take(~near_sensor(seen))
        moved = chain(invert(self._pose(row)), self._pose(other))
        times = self._source.frames.rows["timestamp"]
        lag = float(times[row] - times[other]) * 1e-6
        return points.having(xyz=transform(moved, points["xyz"])).as_sweep(number, lag)

    def _seen(self, row: int, *, required: bool) -> tuple[Camera, ...]:
        """All cameras that are wanted; none where there are no images, or a frame that may do without lacks one."""
        names = tuple(self._source.files(row, labelled=False, cameras=self._cameras()).images)
        cameras = self._source.cameras(row, names)
        if len(cameras) == len(names):
            return cameras
        if not required:
            return ()
        there = {camera.name for camera in cameras}
        absent = [name for name in names if name not in there]
        raise UserError(
            f"the frame has no image of {', '.join(absent)}",
            where=self._source.where(row),
            cure=f"{self.image_source}; for jobs without images set data.images false",
        )

    def absent_images(self, index: int) -> dict[str, Path]:
        """Cameras whose image the frame does not hold, found by looking into the files."""
        files = self.files(index).images
        if any(not path.is_file() for path in files.values()):
            return dict(files)
        there = {camera.name for camera in self._source.cameras(int(self._rows[index]), [*files])}
        return {name: path for name, path in files.items() if name not in there}

    def image_digests(self, index: int) -> Iterator[str]:
        """Of the images that are wanted, without what else their file holds."""
        return self._source.image_digests(int(self._rows[index]), self._cameras())

    def check_images(self) -> None:
        """See that every segment has its file of images, and look for them in the first and the last frame.

        Looking into each segment would read gigabytes.

        Raises:
            UserError: one is missing; names it.
        """
        for files in self._image_files().values():
            for camera, path in files.items():
                if not path.is_file():
                    raise self.no_image(camera, path)
        for index in (0, len(self) - 1):
            self._check_images_of(index)

    def _image_files(self) -> dict[str, dict[str, Path]]:
        """Files of images of each segment, by camera."""
        frames = self._source.frames
        _, first = np.unique([frames.segment_of(row) for row in self._rows], return_index=True)
        return {self.scene(index): dict(self.files(index).images) for index in first.tolist()}

    def gaps(self) -> list[Gap]:
        """What was noted while the split was opened, and segments without a file of images."""
        files = self._image_files()
        without = []
        for name, images in files.items():
            if not images or not all(path.is_file() for path in images.values()):
                without.append(name)
        if not without or not self._cameras():
            return list(self._gaps)
        what = f"{len(without)} of {len(files)} segments have no images, the first: {without[0]}"
        return [*self._gaps, Gap(f"{what}; {self.image_source}", "cameras")]
