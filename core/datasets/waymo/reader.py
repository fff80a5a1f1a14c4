"""Waymo Open Dataset, perception, with its labels for 3D semantic segmentation (Sun et al. 2020; v1.3.2 and later).

Points are those of the TOP lidar, both returns, in the vehicle system of their frame (x forward, y left, z up, origin
on the ground below the rear axle), compensated for the vehicle's motion. Only some frames have labels (2 of 10 per
second). Images are undistorted when they are decoded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.contracts import Sensor
from core.datasets.base import Gap, ScanDataset
from core.datasets.waymo.config import WaymoConfig
from core.datasets.waymo.exported import ExportedFrames, exported_names
from core.datasets.waymo.frame import CAMERAS
from core.datasets.waymo.index import open_index
from core.datasets.waymo.scans import FrameScans
from core.datasets.waymo.scoring.benchmark import WaymoBenchmark
from core.datasets.waymo.source import FULL_SCALE, FrameSource, SegmentFrames
from core.datasets.waymo.splits import (
    FOLDERS,
    SEGMENTS,
    TEST_LIST,
    FormatName,
    find_format,
    find_root,
    find_segments,
    listed_frames,
)
from core.errors import UserError, counted
from core.labels import WAYMO

__all__ = ["Waymo"]

_OFFICIAL_COUNTS = {"train": 23_691, "val": 5_976, "test": 2_982}  # frames with labels
_SOURCE = "Segments come from https://waymo.com/open, Perception Dataset"


class Waymo(FrameScans):
    """One split of the Waymo Open Dataset. Tokens are ``<context_name>/<timestamp_micros>``.

    Further columns: ``elongation``, ``range`` (m from the lidar), ``return`` (1 or 2), ``row`` and ``column`` of the
    range image, ``no_label_zone``, and of several lidars ``laser``, its number.
    """

    Config = WaymoConfig
    benchmark = WaymoBenchmark()
    config: WaymoConfig
    title = "Waymo Open Dataset"
    labels = WAYMO
    # TOP, as in the segments looked at; scans have that of their own segment.
    sensor = Sensor((1.43, 0.0, 2.184), 64, (-0.3073, 0.0437), intensity_scale=FULL_SCALE)
    image_source = "Images lie in the segments: in their .tfrecord files (v1), or in the table camera_image (v2)"

    def __init__(self, config: WaymoConfig, split: str) -> None:
        """Index the split's segments, where that has not been done, and list its frames.

        Raises:
            UserError: the root is missing, holds another format or a damaged segment, the configuration names a
                camera, segment or frame that is not there, or no frame is left.
        """
        super().__init__(config, split)
        self.labelled = config.use_labels
        if unknown := set(config.cameras or ()) - set(CAMERAS.values()):
            raise UserError(
                f"Waymo has no camera {', '.join(sorted(unknown))}",
                cure=f"dataset.cameras may name {tuple(CAMERAS.values())}",
            )
        source = self._open(find_format(self.root, self.split, config.format))
        self._source = source
        if config.multisweeps.num_sweeps and np.isnan(source.frames.rows["pose"][0]).any():
            raise UserError(
                "exported points have no poses, which sweeps need",
                where="dataset.multisweeps",
                cure="Set dataset.multisweeps.num_sweeps 0, or read a release (dataset.format v1 or v2)",
            )
        self._rows = self._chosen()
        self._note_segments()

    @staticmethod
    def _find_root(root: Path) -> Path:
        return find_root(root)

    def _open(self, kind: FormatName) -> FrameSource:
        if kind == "npy":
            folders: dict[str, str] = {}
            for folder in FOLDERS[self.split]:
                folders |= dict.fromkeys(exported_names(self.root, folder), folder)
            kept = {name: folders[name] for name in self._wanted(sorted(folders))}
            return ExportedFrames(self.root, kept, self.config.options)
        segments = find_segments(self.root, self.split, kind)
        wanted = {name: segments[name] for name in self._wanted(list(segments))}
        index = open_index(self.root, self.split, wanted, self.config.index_workers)
        return SegmentFrames(wanted, index, self.config.options)

    def _wanted(self, names: list[str]) -> list[str]:
        """Those of the segments that the configuration asks for."""
        chosen = self.config.segments.get(self.split)
        if chosen is None:
            return names
        unknown = sorted(set(chosen).difference(names))
        if unknown:
            raise UserError(
                f"dataset.segments.{self.split} names {unknown[0]}, which is not there",
                where=str(self.root),
                cure=f"Names look like {names[0]}" if names else _SOURCE,
            )
        return [name for name in names if name in chosen]

    def _chosen(self) -> np.ndarray:
        """Rows i64 of the frames that are scans of the split."""
        frames = self._source.frames
        if self.config.frames == "all":
            return np.arange(len(frames))
        labelled = np.flatnonzero(frames.rows["labelled"])
        if self.split == "test" and not len(labelled):
            return self._listed()
        if not len(labelled):
            raise UserError(
                f"no frame of the {self.split} split has labels",
                where=str(self.root),
                cure="Labels are in releases from v1.3.2 and in the table lidar_segmentation of v2; for jobs without "
                "labels set dataset.frames all",
            )
        return labelled

    def _listed(self) -> np.ndarray:
        path = self.config.test_frames
        if path is None:
            raise UserError(
                "which frames of the test split are scored is told by a list",
                where="dataset.test_frames",
                cure=f"Set it to {TEST_LIST} (waymo-open-dataset repository), or set dataset.frames all",
            )
        rows, absent = listed_frames(path, self._source.frames)
        if absent:
            what = f"{len(absent)} of {len(rows) + len(absent)} frames of {path.name} are not there"
            self._gaps.append(Gap(f"{what}, the first: {absent[0]}; {_SOURCE}"))
        if not len(rows):
            raise UserError(f"none of the frames of {path} is there", where=str(self.root))
        return rows

    def _note_segments(self) -> None:
        """Note how many segments of an official split are lacking."""
        found, wanted = len(self._source.frames.names), SEGMENTS[self.split]
        if self.expected is not None and found < wanted:
            folders = " and ".join(FOLDERS[self.split])
            text = f"{wanted - found} of {wanted} segments of {folders} are not there; {_SOURCE}"
            self._gaps.append(Gap(text))

    def between(self) -> ScanDataset:
        """The frames of the split's segments that are no scans of it, as scans without labels.

        Raises:
            UserError: there are none.
        """
        others = np.ones(len(self._source.frames), bool)
        others[self._rows] = False
        if not others.any():
            return super().between()
        return _FramesBetween(self, np.flatnonzero(others))

    def _official_count(self) -> int | None:
        """Labelled frames of the official split, None where the configuration chooses segments or all frames."""
        if self.config.frames == "all" or self.split in self.config.segments:
            return None
        return _OFFICIAL_COUNTS[self.split]

    @property
    def is_official(self) -> bool:
        """Whether these are all points that the benchmark scores, with its own classes."""
        whole = self.config.returns == "both" and self.config.lasers == ("TOP",)
        return super().is_official and whole

    @property
    def official_split(self) -> str:
        """``training``, ``validation`` or ``testing``."""
        return FOLDERS[self.split][0]

    def describe(self) -> str:
        """One line that also names the format and counts the segments."""
        segments = len({self.scene(index) for index in range(len(self))})
        held = f"{counted(len(self), 'frame')} of {counted(segments, 'segment')}"
        return f"{self.title} {self._source.format} {self.split}: {held} in {self.root}"


class _FramesBetween(FrameScans):
    """Frames of a split's segments that are no scans of it."""

    def __init__(self, scans: Waymo, rows: np.ndarray) -> None:
        self.take_after(scans)
        self._source, self._rows, self.labelled = scans._source, rows, False
