"""SemanticKITTI (Behley et al. 2019): 64-beam scans of the KITTI odometry benchmark with one id per point.

Layout: ``sequences/NN/{velodyne/*.bin, labels/*.label, image_2/*.png, calib.txt, poses.txt, times.txt}``. A LiDAR-only
job needs ``velodyne`` and ``labels``; sweeps need ``calib.txt``, ``poses.txt`` and ``times.txt``; cameras need
``calib.txt`` and ``image_2``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from core.contracts import Camera, Points, Scan, Sensor
from core.contracts.boxes import Boxes
from core.datasets.base import (
    DatasetConfig,
    Gap,
    Multisweeps,
    Need,
    ScanFiles,
    SplitName,
    check_split,
    near_sensor,
)
from core.datasets.boxes import read_boxes
from core.datasets.files import listing, meant_above, read_labels, read_points
from core.datasets.images import (
    check_principal_point,
    find_image,
    image_size,
    image_stem,
    open_image,
)
from core.datasets.semantickitti.benchmark import SemanticKITTIBenchmark
from core.datasets.semantickitti.drive import (
    ARCHIVES,
    check_drive,
    frame_row,
    known_poses,
    read_camera,
    read_track,
)
from core.datasets.semantickitti.road import RoadConfig, check_leak, check_road, is_road
from core.datasets.sequences import SequenceDataset, sequence_names
from core.errors import UserError, counted
from core.geometry import chain, invert, projection, transform
from core.labels import SEMANTICKITTI

__all__ = ["OFFICIAL_SEQUENCES", "SemanticKITTI", "SemanticKITTIConfig"]

OFFICIAL_SEQUENCES: dict[str, tuple[str, ...]] = {
    "train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"),
    "val": ("08",),
    "test": tuple(f"{n:02d}" for n in range(11, 22)),
}
_OFFICIAL_COUNTS = {"train": 19130, "val": 4071, "test": 20351}
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

    road: RoadConfig = Field(
        RoadConfig(), description="KITTI-Road, sequences 30 to 41, which tell what moves alone"
    )

    @model_validator(mode="after")
    def _no_label_beside_the_budget(self) -> Self:
        sweeps = self.multisweeps
        if self.labelled is not None and sweeps.labelled and sweeps.num_sweeps:
            raise ValueError(
                "multisweeps.labelled shows the labels of scans that dataset.labelled leaves without; leave one out"
            )
        return self


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
    image_source = f"It comes from {ARCHIVES['image_2']}"
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
        self.sequences = _named(config, self.split) or self._official_sequences()
        # The test sequences' labels are kept by the benchmark's server.
        self.labelled = config.use_labels and split != "test"
        if not self.made_up:
            self.leak = self.leak_of(config, self.split)
        if self.labelled:
            check_road(self.sequences, self.labels)
        if any(is_road(name) for name in self.sequences) and not self.made_up:
            self.title = f"{self.title} and KITTI-Road"
        self._note_folders(self.root / "sequences", "sequences", _is_sequence)
        self._frames = []
        for sequence in self.sequences:
            self._frames += [(sequence, frame) for frame in self._list(sequence)]
        if not self._frames:
            found = "; ".join(self.missing()) or "no frame of dataset.frames exists"
            raise UserError(
                f"the {split} split (sequences {', '.join(self.sequences)}) is empty: {found}",
                where=str(self.root),
                cure="Run 'python -m core.check_data CONFIG' for the full list",
            )
        self.warn_of_unread()

    @classmethod
    def leak_of(cls, config: DatasetConfig, split: str) -> str:
        """Sequence 41 of KITTI-Road; see :func:`core.datasets.semantickitti.road.check_leak`."""
        assert isinstance(config, SemanticKITTIConfig)
        sequences = _named(config, split) or config.road.sequences(split)
        return check_leak(sequences, split, config.road.leak)

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
            cure=meant_above(root, lambda folder: (folder / "sequences").is_dir())
            + "dataset.root must contain sequences/00/velodyne, sequences/00/labels and so on "
            "(or dataset/sequences/...); set dataset.root, or pass --dataset.root FOLDER",
        )

    def _official_sequences(self) -> tuple[str, ...]:
        """Those of the split; of a made-up world the ones that it has."""
        official = OFFICIAL_SEQUENCES[self.split] + self.config.road.sequences(self.split)
        if not self.made_up:
            return official
        folders = listing(self.root / "sequences")
        there = tuple(name for name in official if name in folders)
        return there or official

    def _list(self, sequence: str) -> list[int]:
        """Frame numbers of a sequence that are wanted and whole; notes what is missing or left over."""
        part = f"sequences/{sequence}/velodyne"
        numbers = self._numbers(self.root / part, part, ".bin")
        first, last = self.config.frames.get(self.split, {}).get(sequence, (0, 999_999))
        scans = [n for n in numbers if first <= n <= last]
        if not scans:
            self._note(sequence, "velodyne", "no scans")
            return []
        lacking = self._lacking(scans)
        if lacking is not None:
            self._note(sequence, "velodyne", lacking, "sweeps")
        self._note_optional(sequence, scans)
        if not self.labelled:
            return scans
        return self._labelled(sequence, scans, range(first, last + 1))

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
        files = listing(folder / "image_2")
        images = {image_stem(name) for name in files}
        without = sum(f"{n:06d}" not in images for n in scans)
        if without:
            what = f"{without} of {len(scans)} images are not there"
            self._note(sequence, "image_2", what, "cameras")

    def _labelled(self, sequence: str, scans: list[int], wanted: range) -> list[int]:
        """The scans with a label file."""
        part = f"sequences/{sequence}/labels"
        numbers = self._numbers(self.root / part, part, ".label")
        if not numbers:
            raise UserError(
                f"the {self.split} split needs labels, and this folder is missing or empty",
                where=str(self.root / part),
                cure=f"It comes from {ARCHIVES['labels']}; for label-free jobs set dataset.use_labels false",
            )
        whole = sorted(set(scans).intersection(numbers))
        lost = len(scans) - len(whole)
        if lost:
            self._note(sequence, "labels", f"{lost} of {len(scans)} label files are not there")
        self._note_alone(part, ".label", (n for n in numbers if n in wanted), set(scans))
        return whole

    def _note(self, sequence: str, part: str, what: str, needed_for: Need = "lidar") -> None:
        text = f"sequences/{sequence}/{part}: {what}; comes from {ARCHIVES[part]}"
        self._gaps.append(Gap(text, needed_for))

    def _official_count(self) -> int | None:
        """Scans of the official sequences.

        Returns:
            None where ``frames`` chooses some, or where ``split`` names sequences that do not make up the official
            split: those are the user's own.
        """
        road = self.config.road
        count = _OFFICIAL_COUNTS[self.split] + road.count(self.split)
        official = OFFICIAL_SEQUENCES[self.split] + road.sequences(self.split)
        if self.config.frames.get(self.split) or self.sequences != official:
            return None
        if self.config.split.get(self.split) and len(self) != count:
            return None
        return count

    def absent(self) -> str:
        """The official sequences without a scan, or else what every sequence lacks."""
        there = {sequence for sequence, _ in self._frames}
        absent = [name for name in self.sequences if name not in there]
        if not absent:
            return super().absent()
        return f"no scan of sequence{'s' * (len(absent) > 1)} {', '.join(absent)}"

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

    def boxes(self, index: int) -> Boxes:
        """Boxes beside the scans, which the official archives do not have; see :mod:`core.datasets.boxes`."""
        sequence, frame = self._frames[index]
        return read_boxes(self.root / "sequences" / sequence / "boxes" / f"{frame:06d}.json")

    def pose_files(self, index: int) -> tuple[Path, ...]:
        """Poses of the camera and its place, which together are those of the scanner."""
        folder = self.root / "sequences" / self._frames[index][0]
        return folder / "poses.txt", folder / "calib.txt"

    def check_poses(self, index: int) -> None:
        """See :func:`core.datasets.semantickitti.drive.check_drive`."""
        sequence, _ = self._frames[index]
        check_drive(self.root / "sequences" / sequence)

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
        sweep = self._points(sequence, other, labelled=self.config.multisweeps.labelled)
        sweep = sweep.take(~near_sensor(sweep["xyz"]))
        moved, lag = self._relative(sequence, frame, other)
        xyz = transform(moved, sweep["xyz"])
        return sweep.having(xyz=xyz).as_sweep(number, lag)

    def _points(self, sequence: str, frame: int, *, labelled: bool = True) -> Points:
        files = self._files(sequence, frame)
        values = read_points(files.points, self.point_fields)
        label = instance = None
        if labelled and files.labels is not None:
            raw = read_labels(files.labels, self.label_dtype, len(values))
            label = self.labels.to_train(raw & 0xFFFF, files.labels)
            if self.split == "train" and is_road(sequence):
                label = self.config.road.labels(raw & 0xFFFF, label, self.labels)
            instance = (raw >> 16).astype(np.int32)
        return Points(
            xyz=np.ascontiguousarray(values[:, :3]),
            intensity=np.ascontiguousarray(values[:, 3]),
            label=label,
            instance=instance,
        )

    def _cameras(self, sequence: str, frame: int) -> tuple[Camera, ...]:
        folder = self.root / "sequences" / sequence
        p2, camera_from_lidar = read_camera(folder)
        matrix = projection(p2, camera_from_lidar)
        cameras = []
        for name, path in self._files(sequence, frame).images.items():
            size = image_size(path, self.image_source)
            check_principal_point(p2, size, path, folder / "calib.txt")
            cameras.append(Camera(name, size, matrix, open_image(path, size)))
        return tuple(cameras)

    def _neighbours(self, sequence: str, frame: int) -> list[int]:
        """Past frames from near to far, then future ones; those absent from the split are passed over."""
        sweeps = self.config.multisweeps
        steps = [-k for k in range(1, sweeps.num_sweeps + 1)]
        if not sweeps.only_past:
            steps += range(1, sweeps.num_sweeps + 1)
        return [frame + step for step in steps if (sequence, frame + step) in self._positions]

    def _relative(self, sequence: str, frame: int, other: int) -> tuple[np.ndarray, float]:
        """LiDAR of ``other`` -> LiDAR of ``frame``, f64 [4, 4], and how much earlier it was, s."""
        folder = self.root / "sequences" / sequence
        track = read_track(folder)
        here = frame_row(track.poses, frame, folder)
        there = frame_row(track.poses, other, folder)
        lag = frame_row(track.times, frame, folder) - frame_row(track.times, other, folder)
        return chain(invert(here), there), float(lag)

    def _pose(self, sequence: str, frame: int) -> np.ndarray:
        """LiDAR -> world; NaN where it is not known, so that nobody takes it for a pose: only sweeps need it."""
        poses = known_poses(self.root / "sequences" / sequence)
        if frame >= len(poses):
            return np.full((4, 4), np.nan)
        return poses[frame]

    def gaps(self) -> list[Gap]:
        """What was noted while the split was opened, and files that jobs with sweeps or cameras cannot use."""
        gaps = list(self._gaps)
        for sequence in dict.fromkeys(sequence for sequence, _ in self._frames):
            folder = self.root / "sequences" / sequence
            last = max(frame for other, frame in self._frames if other == sequence)
            for needed_for, use in _OPTIONAL.items():
                try:
                    use(folder, last)
                except UserError as error:
                    if Path(error.where or "").is_file():  # else it is noted as missing
                        gaps.append(Gap(str(error), needed_for))
        return gaps

    def describe(self) -> str:
        """One line that also names the sequences."""
        sequences = sorted({sequence for sequence, _ in self._frames})
        named = f"sequence{'s' * (len(sequences) > 1)} {', '.join(sequences)}"
        return f"{self.title} {self.split}: {counted(len(self), 'scan')} of {named} in {self.root}"


def _named(config: SemanticKITTIConfig, split: str) -> tuple[str, ...]:
    """The sequences that a configuration names for a split; none = the official ones."""
    name = check_split(split)
    return config.split.get(name) or tuple(config.frames.get(name, {}))


def _is_sequence(name: str) -> bool:
    return len(name) == 2 and name.isdecimal()


def _use_track(folder: Path, last: int) -> None:
    """Read poses and times up to frame ``last``."""
    frame_row(read_track(folder).poses, last, folder)


def _use_camera(folder: Path, last: int) -> None:
    """Read the calibration."""
    read_camera(folder)


_OPTIONAL: dict[Need, Callable[[Path, int], None]] = {"sweeps": _use_track, "cameras": _use_camera}
