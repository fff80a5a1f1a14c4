"""Where a split's frames come from: the segments of a release, or points that were exported from them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from core.contracts import Camera, Points, Sensor
from core.datasets.base import ScanFiles
from core.datasets.waymo.cameras import camera_of
from core.datasets.waymo.frame import LASERS, TOP, Context, Frame
from core.datasets.waymo.index import FrameIndex, FrameList
from core.datasets.waymo.range_image import CellPoints, Motion, points_of
from core.datasets.waymo.scoring.cells import Cells
from core.datasets.waymo.segment import Segment
from core.errors import UserError
from core.labels import LabelSpace

__all__ = ["FULL_SCALE", "FrameSource", "PointOptions", "SegmentFrames", "points_table"]

_CURE = "Download the segment again"
FULL_SCALE = 1.0  # what recorded intensities rarely exceed, and their tanh never
_CONTEXTS = 64  # segments whose calibration a process keeps


@dataclass(frozen=True)
class PointOptions:
    """Which points of a frame are read, and how.

    Attributes:
        lasers: names. returns: 1 = first returns alone, 2 = both.
        bounded: the column ``intensity`` is tanh of the recorded one.
    """

    lasers: tuple[str, ...] = (TOP,)
    returns: int = 2
    bounded: bool = True


class FrameSource(ABC):
    """The frames of one split.

    Attributes:
        format: as ``dataset.format`` names it. frames: all of them.
    """

    format: str
    frames: FrameList

    @abstractmethod
    def points(self, row: int, labels: LabelSpace | None) -> Points:
        """Points of a frame in its vehicle system.

        Args:
            labels: the space of its labels; None = they are not read.

        Raises:
            UserError: a file is missing or damaged, or the frame holds no point.
        """

    @abstractmethod
    def cells(self, row: int) -> Cells:
        """The cells of TOP's range images that the points of a frame are, in their order.

        Raises:
            UserError: as of :meth:`points`.
        """

    @abstractmethod
    def sensor(self, row: int) -> Sensor | None:
        """The scanner as its segment's calibration has it, None where that is not known."""

    @abstractmethod
    def cameras(self, row: int, names: Sequence[str]) -> tuple[Camera, ...]:
        """Cameras of a frame, as far as it has their images.

        Raises:
            UserError: as of :meth:`points`.
        """

    @abstractmethod
    def image_digests(self, row: int, names: Sequence[str]) -> Iterator[str]:
        """SHA-256 (hex) of each image of a frame as stored, as far as it has them.

        Raises:
            UserError: as of :meth:`points`.
        """

    @abstractmethod
    def files(self, row: int, *, labelled: bool, cameras: Sequence[str]) -> ScanFiles:
        """The files that hold a frame, whether or not they exist."""

    def where(self, row: int) -> str:
        """File and frame, for errors."""
        files = self.files(row, labelled=False, cameras=())
        return f"{files.points}, frame {self.frames.rows['timestamp'][row]}"


class SegmentFrames(FrameSource):
    """Frames of segments.

    Args:
        segments: by name, those of ``frames`` at least.
    """

    def __init__(
        self, segments: Mapping[str, Segment], frames: FrameIndex, options: PointOptions
    ) -> None:
        self._segments = tuple(segments[name] for name in frames.names)
        self.format = self._segments[0].format
        self.frames: FrameIndex = frames
        self._options = options

    def points(self, row: int, labels: LabelSpace | None) -> Points:
        """Points of the lidars that were asked for, in their order."""
        frame, where = self._frame(row, labels=labels is not None), self.where(row)
        parts = []
        for laser in self._options.lasers:
            if laser in frame.returns:
                cells = self._cells(frame, laser, self._context(row), where)
                parts.append(points_table(cells, laser, labels, self._options, where))
        if not sum(len(part) for part in parts):
            raise UserError("the frame holds no point", where=where, cure=_CURE)
        return Points.join(*parts)

    def cells(self, row: int) -> Cells:
        """Of the range images' own shape."""
        frame = self._frame(row, labels=False)
        found = self._cells(frame, TOP, self._context(row), self.where(row))
        height, width = frame.returns[TOP][0].values.shape[:2]
        return Cells(found.number, found.row, found.column, (height, width))

    def _frame(self, row: int, *, labels: bool) -> Frame:
        segment, record = self._place(row)
        frame = segment.read(record, self._options.lasers, labels)
        _check_frame(frame, record, segment, self.where(row))
        return frame

    def _cells(self, frame: Frame, laser: str, context: Context, where: str) -> CellPoints:
        calibration = context.lasers.get(laser)
        if calibration is None:
            raise UserError(f"the segment has no calibration of {laser}", where=where, cure=_CURE)
        motion = None
        if laser == TOP:
            if frame.pixel_pose is None:
                raise UserError("the frame has no poses of its pixels", where=where, cure=_CURE)
            motion = Motion(frame.pixel_pose, frame.pose)
        try:
            return points_of(frame.returns[laser][: self._options.returns], calibration, motion)
        except UserError as error:
            raise UserError(f"{laser}: {error.what}", where=where, cure=error.cure) from error

    def sensor(self, row: int) -> Sensor | None:
        """TOP, as calibrated."""
        calibration = self._context(row).lasers.get(TOP)
        if calibration is None:
            return None
        x, y, z = calibration.extrinsic[:3, 3].tolist()
        beams = calibration.inclinations
        if beams is None or not len(beams):
            return Sensor((x, y, z), elevation=calibration.limits, intensity_scale=FULL_SCALE)
        lowest, highest = float(beams.min()), float(beams.max())
        return Sensor((x, y, z), len(beams), (lowest, highest), FULL_SCALE)

    def cameras(self, row: int, names: Sequence[str]) -> tuple[Camera, ...]:
        """Cameras whose images the frame holds."""
        segment, record = self._place(row)
        images = segment.images(record, names)
        calibrations = self._context(row).cameras
        where = f"{segment.image_file}, frame {record['timestamp']}"
        cameras = []
        for name in names:
            if name not in images:
                continue
            if name not in calibrations:
                raise UserError(f"the segment has no calibration of {name}", where=where)
            cameras.append(camera_of(name, images[name], calibrations[name], record["pose"], where))
        return tuple(cameras)

    def image_digests(self, row: int, names: Sequence[str]) -> Iterator[str]:
        """Of the JPEGs."""
        segment, record = self._place(row)
        for image in segment.images(record, names).values():
            yield hashlib.sha256(image.content).hexdigest()

    def files(self, row: int, *, labelled: bool, cameras: Sequence[str]) -> ScanFiles:
        """The segment's files."""
        segment, _ = self._place(row)
        return ScanFiles(
            points=segment.path,
            labels=segment.label_file if labelled else None,
            images=dict.fromkeys(cameras, segment.image_file),
        )

    def _place(self, row: int) -> tuple[Segment, np.void]:
        return self._segments[self.frames.segment_of(row)], self.frames.rows[row]

    def _context(self, row: int) -> Context:
        number = self.frames.segment_of(row)
        return _context_of(self._segments[number], self.frames.entries[number].stamp)


@lru_cache(maxsize=_CONTEXTS)
def _context_of(segment: Segment, stamp: str) -> Context:
    """The segment's calibration while its files have the stamp."""
    return segment.context()


def _check_frame(frame: Frame, record: np.void, segment: Segment, where: str) -> None:
    """Compare what the index knows of a frame with the frame itself."""
    known = (segment.name, int(record["timestamp"]))
    if (frame.context, frame.timestamp) != known:
        what = f"this is frame {frame.timestamp} of {frame.context}, not {known[1]} of {known[0]}"
    elif not np.array_equal(frame.pose, record["pose"]):
        what = "the frame has another pose than when it was indexed"
    elif TOP not in frame.returns or not frame.returns[TOP]:
        what = f"the frame has no range image of {TOP}"
    else:
        return
    raise UserError(what, where=where, cure=f"{_CURE}; it may have changed while this job runs")


def points_table(
    cells: CellPoints, laser: str, labels: LabelSpace | None, options: PointOptions, where: str
) -> Points:
    """The columns of a lidar's points; ``label`` and ``instance`` where they are known.

    Raises:
        UserError: a class that the label space does not know, or a negative number of an instance.
    """
    intensity, top = cells.values[:, 1], laser == TOP
    beam = cells.row + np.int16(1) if top else np.zeros(len(cells), np.int16)
    columns = {
        "intensity": np.tanh(intensity) if options.bounded else np.ascontiguousarray(intensity),
        "elongation": np.ascontiguousarray(cells.values[:, 2]),
        "range": np.ascontiguousarray(cells.values[:, 0]),
        "return": cells.number,
        "row": cells.row,
        "column": cells.column,
        "no_label_zone": cells.values[:, 3] > 0,
        "beam": beam,
    }
    if len(options.lasers) > 1:
        number = next(number for number, name in LASERS.items() if name == laser)
        columns["laser"] = np.full(len(cells), number, np.uint8)
    if labels is not None and cells.labels is not None:
        columns["label"] = labels.to_train(cells.labels[:, 1].astype(np.uint32), where)
        columns["instance"] = _instances(cells.labels[:, 0], where)
    return Points(cells.xyz, **columns)


def _instances(numbers: np.ndarray, where: str) -> np.ndarray:
    if numbers.min(initial=0) < 0:
        raise UserError(f"an instance has the number {numbers.min()}", where=where, cure=_CURE)
    return np.ascontiguousarray(numbers)
