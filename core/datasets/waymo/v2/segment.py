"""A segment of the Waymo Open Dataset, v2: one Parquet table per component, ``<tag>/<context_name>.parquet``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from core.datasets.files import listing
from core.datasets.poses import check_poses
from core.datasets.waymo.frame import (
    CAMERAS,
    FRAME_ROW,
    LASERS,
    TOP,
    CameraCalibration,
    CameraImage,
    Context,
    Frame,
    RangeImage,
)
from core.datasets.waymo.segment import Segment
from core.datasets.waymo.v2 import components as columns
from core.datasets.waymo.v2.casts import CURE, Place
from core.datasets.waymo.v2.context import read_cameras, read_lasers, read_statistics
from core.datasets.waymo.v2.images import (
    read_camera_images,
    read_labels,
    read_pixel_pose,
    read_returns,
)
from core.datasets.waymo.v2.tables import Table, open_table
from core.errors import UserError

__all__ = ["TableSegment"]

_SUFFIX = ".parquet"
_LASER_NUMBERS = {name: number for number, name in LASERS.items()}
_CAMERA_NUMBERS = {name: number for number, name in CAMERAS.items()}
_TOP = _LASER_NUMBERS[TOP]


class TableSegment(Segment):
    """The tables of one segment.

    In rows of :meth:`frames`, ``start`` is the number of TOP's row in the table ``lidar`` and ``size`` how many rows of
    that table are of the frame.

    Args:
        folder: of the split. name: of the segment.
    """

    format: ClassVar[str] = "v2"

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.path = self._table("lidar")

    @classmethod
    def find(cls, folder: Path) -> dict[str, Segment]:
        """The segments that have a table ``lidar``.

        Raises:
            UserError: there is none, but there are files of format v1.
        """
        files = sorted(name for name in listing(folder / "lidar") if name.endswith(_SUFFIX))
        names = [file.removesuffix(_SUFFIX) for file in files if not file.startswith(".")]
        if not names and any(name.endswith(".tfrecord") for name in listing(folder)):
            raise UserError(
                "this folder holds TFRecord files, and no lidar/*.parquet",
                where=str(folder),
                cure="Set dataset.format v1, or name the folder of the Parquet tables",
            )
        return {name: cls(folder, name) for name in names}

    def sources(self) -> tuple[Path, ...]:
        """The tables of poses, range images and, where there is one, labels."""
        tags = ["vehicle_pose", "lidar"]
        if self._table("lidar_segmentation").exists():
            tags.append("lidar_segmentation")
        return tuple(self._table(tag) for tag in tags)

    @property
    def label_file(self) -> Path:
        """The table ``lidar_segmentation``."""
        return self._table("lidar_segmentation")

    @property
    def image_file(self) -> Path:
        """The table ``camera_image``."""
        return self._table("camera_image")

    def frames(self) -> np.ndarray:
        """Frames with range images of TOP. Every one has a pose, and every labelled one is among them."""
        poses, lidar = self._open("vehicle_pose"), self._open("lidar")
        matrices = poses.transforms(columns.VEHICLE_POSE)
        check_poses(matrices, poses.path, "row {}", CURE)
        top = np.flatnonzero(lidar.sensors == _TOP)
        rows = np.zeros(len(top), FRAME_ROW)
        rows["timestamp"] = lidar.timestamps[top]
        rows["start"] = top
        times, counts = np.unique(lidar.timestamps, return_counts=True)
        rows["size"] = counts[np.searchsorted(times, rows["timestamp"])]
        for place, time in enumerate(rows["timestamp"].tolist()):
            row = poses.row(time)
            if row is None:
                raise _without_partner(poses, time, lidar)
            rows["pose"][place] = matrices[row]
        rows["labelled"] = self._labelled(lidar, rows["timestamp"])
        return rows[np.argsort(rows["timestamp"])]

    def _labelled(self, lidar: Table, times: np.ndarray) -> np.ndarray:
        """Bool [F]: the frames with labels of TOP."""
        if not self._table("lidar_segmentation").exists():
            return np.zeros(len(times), bool)
        labels = self._open("lidar_segmentation")
        labelled = labels.timestamps[labels.sensors == _TOP]
        lost = np.setdiff1d(labelled, times)
        if len(lost):
            raise _without_partner(lidar, int(lost[0]), labels)
        return np.isin(times, labelled)

    # --- what the frames share ----------------------------------------------------------------------------------------
    def context(self) -> Context:
        """Calibrations and statistics; cameras and statistics are empty where their table is not there."""
        cameras: dict[str, CameraCalibration] = {}
        if self._table("camera_calibration").exists():
            cameras = read_cameras(self._open("camera_calibration"))
        stats: dict[str, str] = {}
        if self._table("stats").exists():
            stats = read_statistics(self._open("stats"))
        return Context(self.name, read_lasers(self._open("lidar_calibration")), cameras, stats)

    # --- one frame ----------------------------------------------------------------------------------------------------
    def read(self, row: np.void, lasers: Sequence[str] = (TOP,), labels: bool = True) -> Frame:
        """Read a frame, TOP with the poses of its pixels; of each table the pages with its values alone."""
        time = int(row["timestamp"])
        lidar = self._open("lidar")
        if lidar.row(time, _TOP) != int(row["start"]):
            raise UserError(
                f"no range image of {TOP} of the frame at {time} µs lies in row {row['start']}",
                where=str(lidar.path),
                cure="The table has changed since its frames were listed; list them again",
            )
        returns = {}
        for name in lasers:
            images = read_returns(lidar, lidar.row(time, _LASER_NUMBERS[name]))
            if images:
                returns[name] = images
        pixel_pose = None
        if TOP in lasers:
            pixel_pose, returns[TOP] = self._top(time, returns, labels and bool(row["labelled"]))
        return Frame(self.name, time, np.array(row["pose"]), returns, pixel_pose)

    def images(self, row: np.void, cameras: Sequence[str]) -> dict[str, CameraImage]:
        """Read images from the table ``camera_image``."""
        table = self._open("camera_image")
        rows = {}
        for name in cameras:
            place = table.row(int(row["timestamp"]), _CAMERA_NUMBERS[name])
            if place is not None:
                rows[name] = place
        return read_camera_images(table, rows)

    def _top(
        self, time: int, returns: Mapping[str, tuple[RangeImage, ...]], labels: bool
    ) -> tuple[np.ndarray, tuple[RangeImage, ...]]:
        """Poses of TOP's pixels, and its range images with their labels where they are asked for."""
        images = returns.get(TOP)
        if images is None:
            place = Place(self.path, f"{columns.LIDAR[0]}.values")
            raise place.error(f"{TOP} has no range image in the frame at {time} µs")
        poses = self._open("lidar_pose")
        pixel_pose = read_pixel_pose(poses, _row_of_top(poses, time), images[0].values)
        if labels:
            table = self._open("lidar_segmentation")
            images = read_labels(table, _row_of_top(table, time), images)
        return pixel_pose, images

    def _table(self, tag: str) -> Path:
        return self.folder / tag / f"{self.name}{_SUFFIX}"

    def _open(self, tag: str) -> Table:
        path = self._table(tag)
        if not path.exists():
            raise UserError(
                f"the table {tag} of this segment does not exist",
                where=str(path),
                cure=f"Download the component {tag} of the Waymo Open Dataset, perception v2",
            )
        return open_table(path)


def _row_of_top(table: Table, time: int) -> int:
    row = table.row(time, _TOP)
    if row is None:
        raise UserError(
            f"it lacks {TOP} of the frame at {time} µs", where=str(table.path), cure=CURE
        )
    return row


def _without_partner(lacking: Table, time: int, other: Table) -> UserError:
    """Tell of a frame that one table has and another one lacks."""
    return UserError(
        f"it lacks the frame at {time} µs that {other.path.parent.name} has",
        where=str(lacking.path),
        cure=f"One of the two tables is cut short. {CURE}",
    )
