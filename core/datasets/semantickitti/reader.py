"""SemanticKITTI (Behley et al. 2019): 64-beam scans of the KITTI odometry benchmark with one id per point.

Layout: ``sequences/NN/{velodyne/*.bin, labels/*.label, image_2/*.png, calib.txt, poses.txt, times.txt}``. A LiDAR-only
job needs ``velodyne`` and ``labels``; sweeps need ``calib.txt``, ``poses.txt`` and ``times.txt``; cameras need
``calib.txt`` and ``image_2``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field

from core.contracts import Camera, Points, Scan, Sensor
from core.datasets.base import (
    DatasetConfig,
    Gap,
    Multisweeps,
    Need,
    ScanFiles,
    SequenceDataset,
    SplitName,
    near_sensor,
    sequence_names,
)
from core.datasets.files import listing, read_labels, read_points
from core.datasets.images import (
    check_principal_point,
    find_image,
    image_size,
    image_stem,
    open_image,
)
from core.datasets.semantickitti.benchmark import SemanticKITTIBenchmark
from core.datasets.semantickitti.drive import Drive, read_drive
from core.errors import UserError
from core.geometry import chain, invert, projection, transform
from core.labels import SEMANTICKITTI

__all__ = ["OFFICIAL_SEQUENCES", "SemanticKITTI", "SemanticKITTIConfig"]

OFFICIAL_SEQUENCES: dict[str, tuple[str, ...]] = {
    "train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"),
    "val": ("08",),
    "test": tuple(f"{n:02d}" for n in range(11, 22)),
}
_OFFICIAL_COUNTS = {"train": 19130, "val": 4071, "test": 20351}
_PAGE_KITTI = "the KITTI odometry download page"
_PAGE_SEMANTIC = "the SemanticKITTI download page"
_ARCHIVES = {
    "velodyne": f"data_odometry_velodyne.zip, {_PAGE_KITTI}",
    "labels": f"data_odometry_labels.zip, {_PAGE_SEMANTIC}",
    "image_2": f"data_odometry_color.zip, {_PAGE_KITTI}",
    "calib.txt": f"data_odometry_calib.zip, {_PAGE_KITTI}",
    "times.txt": f"data_odometry_calib.zip, {_PAGE_KITTI}",
    "poses.txt": f"data_odometry_labels.zip, {_PAGE_SEMANTIC}",
}


_names = partial(sequence_names, digits=2)
Sequences = Annotated[tuple[str, ...], BeforeValidator(_names)]
FrameRanges = Annotated[dict[str, tuple[int, int]], BeforeValidator(_names)]


class KittiSweeps(Multisweeps):
    """Neighbouring scans, whose labels are ground truth of other keyframes."""

    labelled: bool = Field(
        False, description="true: neighbours' points keep their labels; false: they are ignored"
    )


class SemanticKITTIConfig(DatasetConfig):
    """``dataset:`` section of SemanticKITTI."""

    split: dict[SplitName, Sequences] = Field(
        default_factory=dict,
        description='sequences of a split in place of the official ones, {train: ["00"], val: ["08"]}',
    )
    frames: dict[SplitName, FrameRanges] = Field(
        default_factory=dict,
        description='inclusive range of frame numbers by split and sequence, {train: {"00": [0, 8]}}; '
        "sequences it names for a split are the split's sequences unless split says otherwise",
    )
    multisweeps: KittiSweeps = Field(
        KittiSweeps(),
        description="neighbouring scans (10 Hz: 1 = 0.1 s) through the poses; they come from the same "
        "split's frames only",
    )


class SemanticKITTI(SequenceDataset):
    """One split of SemanticKITTI."""

    Config = SemanticKITTIConfig
    benchmark = SemanticKITTIBenchmark()
    config: SemanticKITTIConfig
    title = "SemanticKITTI"
    labels = SEMANTICKITTI
    point_fields = 4
    label_dtype = np.dtype("<u4")
    frame_digits = 6
    sensor = Sensor(beams=64, elevation=(-0.4328, 0.0349), intensity_scale=1.0)  # HDL-64E

    def __init__(self, config: SemanticKITTIConfig, split: str) -> None:
        """List the split's scans.

        Raises:
            UserError: the root or the labels are missing, a camera is unknown, or no scan is found.
        """
        super().__init__(config, split)
        self.cameras = ("image_2",) if config.cameras is None else config.cameras
        if not set(self.cameras) <= {"image_2"}:
            raise UserError(
                f"SemanticKITTI has no camera {self.cameras}",
                cure="dataset.cameras may name image_2 only",
            )
        self.sequences = (
            config.split.get(self.split)
            or tuple(config.frames.get(self.split, {}))
            or OFFICIAL_SEQUENCES[split]
        )
        # The test sequences' labels are kept by the benchmark's server.
        self.labelled = config.use_labels and split != "test"
        self._gaps: list[Gap] = []
        self._frames: list[tuple[str, int]] = []
        for sequence in self.sequences:
            self._frames += [(sequence, frame) for frame in self._list(sequence)]
        if not self._frames:
            found = "; ".join(self.missing()) or "no frame of dataset.frames exists"
            raise UserError(
                f"the {split} split (sequences {', '.join(self.sequences)}) is empty: {found}",
                where=str(self.root),
                cure="Run 'python -m core.check_data CONFIG' for the full list",
            )

    @staticmethod
    def _find_root(root: Path) -> Path:
        for candidate in (root, root / "dataset"):
            if (candidate / "sequences").is_dir():
                return candidate
        what = "this folder does not exist"
        if root.is_dir():
            what = "this folder holds no 'sequences'"
        raise UserError(
            what,
            where=str(root),
            cure="dataset.root must contain sequences/00/velodyne, sequences/00/labels and so on "
            "(or dataset/sequences/...); set dataset.root, or pass --dataset.root FOLDER",
        )

    def _list(self, sequence: str) -> list[int]:
        """Frame numbers of a sequence that are wanted and whole; notes what is missing."""
        folder = self.root / "sequences" / sequence
        names = listing(folder / "velodyne")
        first, last = self.config.frames.get(self.split, {}).get(sequence, (0, 999_999))
        scans = [n for n in _scan_numbers(names) if first <= n <= last]
        if not scans:
            self._note(sequence, "velodyne", "no scans")
            return []
        self._note_optional(sequence, scans)
        if not self.labelled:
            return scans
        return self._labelled(sequence, scans)

    def _note_optional(self, sequence: str, scans: list[int]) -> None:
        """Note what only some jobs need and is not there."""
        folder = self.root / "sequences" / sequence
        needs: tuple[tuple[str, Need], ...] = (
            ("calib.txt", "cameras"),
            ("poses.txt", "sweeps"),
            ("times.txt", "sweeps"),
        )
        for part, needed_for in needs:
            if not (folder / part).is_file():
                self._note(sequence, part, "no file", needed_for)
        images = {image_stem(name) for name in listing(folder / "image_2")}
        without = sum(f"{n:06d}" not in images for n in scans)
        if without:
            what = f"{without} of {len(scans)} images are not there"
            self._note(sequence, "image_2", what, "cameras")

    def _labelled(self, sequence: str, scans: list[int]) -> list[int]:
        """The scans with a label file."""
        folder = self.root / "sequences" / sequence
        labels = listing(folder / "labels")
        if not labels:
            raise UserError(
                f"the {self.split} split needs labels, and this folder is missing or empty",
                where=str(folder / "labels"),
                cure=f"It comes from {_ARCHIVES['labels']}; for label-free jobs set dataset.use_labels false",
            )
        whole = [n for n in scans if f"{n:06d}.label" in labels]
        lost = len(scans) - len(whole)
        if lost:
            self._note(sequence, "labels", f"{lost} of {len(scans)} label files are not there")
        return whole

    def _note(self, sequence: str, part: str, what: str, needed_for: Need = "lidar") -> None:
        text = f"sequences/{sequence}/{part}: {what}; comes from {_ARCHIVES[part]}"
        self._gaps.append(Gap(text, needed_for))

    @property
    def expected(self) -> int | None:
        """Scans of the official sequences, None where ``frames`` or other sequences are chosen."""
        if self.config.frames.get(self.split) or self.sequences != OFFICIAL_SEQUENCES[self.split]:
            return None
        return _OFFICIAL_COUNTS[self.split]

    def files(self, index: int) -> ScanFiles:
        """The scan, its labels and the image of each camera, of one frame of a drive."""
        return self._files(*self._frames[index])

    def _files(self, sequence: str, frame: int) -> ScanFiles:
        folder = self.root / "sequences" / sequence
        labels = None
        if self.labelled:
            labels = folder / "labels" / f"{frame:06d}.label"
        return ScanFiles(
            points=folder / "velodyne" / f"{frame:06d}.bin",
            labels=labels,
            images={name: find_image(folder / name, f"{frame:06d}") for name in self.cameras},
        )

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        """Read the scan and the neighbouring scans that ``multisweeps`` asks for."""
        sequence, frame = self._frames[index]
        parts = [self._points(sequence, frame)]
        for other in self._neighbours(sequence, frame):
            parts.append(self._sweep(sequence, frame, other, len(parts)))
        return Scan(
            token=self.token(index),
            points=Points.join(*parts),
            sensor=self.sensor,
            cameras=self._cameras(sequence, frame) if cameras else (),
            pose=self._pose(sequence, frame),
        )

    def _sweep(self, sequence: str, frame: int, other: int, number: int) -> Points:
        """Points of the scan ``other`` in the frame of scan ``frame``, without the vehicle's own returns."""
        sweep = self._points(sequence, other)
        sweep = sweep.take(~near_sensor(sweep["xyz"]))
        xyz = transform(self._relative(sequence, frame, other), sweep["xyz"])
        sweep = sweep.having(xyz=xyz).as_sweep(number, self._lag(sequence, frame, other))
        if self.config.multisweeps.labelled:
            return sweep
        return sweep.having(label=None, instance=None)

    def _points(self, sequence: str, frame: int) -> Points:
        files = self._files(sequence, frame)
        values = read_points(files.points, self.point_fields)
        label = instance = None
        if files.labels is not None:
            raw = read_labels(files.labels, self.label_dtype, len(values))
            label = self.labels.to_train(raw & 0xFFFF, files.labels)
            instance = (raw >> 16).astype(np.int32)
        return Points(
            xyz=np.ascontiguousarray(values[:, :3]),
            intensity=np.ascontiguousarray(values[:, 3]),
            label=label,
            instance=instance,
        )

    def _cameras(self, sequence: str, frame: int) -> tuple[Camera, ...]:
        calibration = self._sequence(sequence)
        calib = self.root / "sequences" / sequence / "calib.txt"
        if calibration.p2 is None or calibration.camera_from_lidar is None:
            raise UserError(
                "cameras need this file",
                where=str(calib),
                cure=f"It comes from {_ARCHIVES['calib.txt']}",
            )
        matrix = projection(calibration.p2, calibration.camera_from_lidar)
        images = self._files(sequence, frame).images
        source = f"It comes from {_ARCHIVES['image_2']}"
        cameras = []
        for name, path in images.items():
            size = image_size(path, source)
            check_principal_point(calibration.p2, size, path, calib)
            cameras.append(Camera(name, size, matrix, open_image(path, size)))
        return tuple(cameras)

    def _neighbours(self, sequence: str, frame: int) -> list[int]:
        """Past frames from near to far, then future ones; those absent from the split are passed over."""
        sweeps = self.config.multisweeps
        steps = [-k for k in range(1, sweeps.num_sweeps + 1)]
        if not sweeps.only_past:
            steps += range(1, sweeps.num_sweeps + 1)
        return [frame + step for step in steps if (sequence, frame + step) in self._positions]

    def _relative(self, sequence: str, frame: int, other: int) -> np.ndarray:
        """f64 [4, 4]: LiDAR of ``other`` -> LiDAR of ``frame``."""
        poses = [self._pose(sequence, number) for number in (frame, other)]
        if not np.isfinite(poses).all():
            raise UserError(
                "sweeps need this sequence's poses.txt and calib.txt",
                where=str(self.root / "sequences" / sequence),
                cure=f"They come from {_ARCHIVES['poses.txt']}, and {_ARCHIVES['calib.txt']}",
            )
        return chain(invert(poses[0]), poses[1])

    def _pose(self, sequence: str, frame: int) -> np.ndarray:
        """LiDAR -> world; NaN where the poses are not on disk, so that nobody takes it for a pose."""
        poses = self._sequence(sequence).poses
        if poses is None:
            return np.full((4, 4), np.nan)
        return poses[self._bounded(sequence, frame, poses, "poses.txt")]

    def _lag(self, sequence: str, frame: int, other: int) -> float:
        times = self._sequence(sequence).times
        if times is None:
            raise UserError(
                "sweeps need this file",
                where=str(self.root / "sequences" / sequence / "times.txt"),
                cure=f"It comes from {_ARCHIVES['times.txt']}",
            )
        first = times[self._bounded(sequence, frame, times, "times.txt")]
        second = times[self._bounded(sequence, other, times, "times.txt")]
        return float(first - second)

    def _bounded(self, sequence: str, frame: int, table: np.ndarray, name: str) -> int:
        if frame >= len(table):
            raise UserError(
                f"the file has {len(table)} lines, too few for frame {frame}",
                where=str(self.root / "sequences" / sequence / name),
                cure=f"Unpack it again from {_ARCHIVES[name]}",
            )
        return frame

    def _sequence(self, sequence: str) -> Drive:
        return read_drive(self.root / "sequences" / sequence)

    def describe(self) -> str:
        """One line that also names the sequences."""
        numbers = ", ".join(sorted({sequence for sequence, _ in self._frames}))
        return f"{self.title} {self.split}: {len(self)} scans of sequences {numbers} in {self.root}"


def _scan_numbers(names: Iterable[str]) -> list[int]:
    """Frame numbers of the scans among these file names, ascending."""
    numbers = []
    for name in names:
        if len(name) == 10 and name[:6].isdecimal() and name.endswith(".bin"):
            numbers.append(int(name[:6]))
    return sorted(numbers)
