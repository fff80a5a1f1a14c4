"""PandaSet (Xiao et al. 2021): a 360-degree Pandar64, a forward PandarGT and six cameras at 10 Hz, 8 s per sequence.

Layout: ``NNN/{lidar, annotations/semseg, annotations/cuboids}/NN.pkl.gz``, ``NNN/camera/NAME/NN.jpg``, and beside the
numbered files ``poses.json``, ``timestamps.json`` and (cameras) ``intrinsics.json``. A LiDAR-only job needs ``lidar``
and ``annotations/semseg``; sequences without the latter (27 of 103) belong to no labelled split.

Points are stored in the sequence's world frame. ``lidar/poses.json`` gives the frame they are returned in, after a
quarter turn: PandaSet's has x to the right, y forward, z up and its origin near the road under the sensors (cameras sit
1.5 to 1.8 m above it, 0.3 m behind to 1.5 m before it); here x points forward and y left. Cameras have poses of their
own, at the time of the image.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from core.contracts import Camera, Points, Scan, Sensor
from core.contracts.boxes import Boxes
from core.datasets.base import (
    DatasetConfig,
    Gap,
    Multisweeps,
    Need,
    ScanFiles,
    SplitName,
    near_sensor,
)
from core.datasets.files import listing, meant_above
from core.datasets.images import (
    check_principal_point,
    find_image,
    image_size,
    image_stem,
    open_image,
)
from core.datasets.numbered import numbered_files
from core.datasets.pandaset.cuboids import (
    COLUMNS,
    FramePoints,
    boxes_of,
    check_cuboids,
    check_numbers,
    instances_of,
)
from core.datasets.pandaset.drive import SOURCE, check_classes, pose_of, read_intrinsic, read_times
from core.datasets.pandaset.safe_pickle import read_frame
from core.datasets.sequences import SequenceDataset, sequence_names
from core.errors import UserError
from core.geometry import FARTHEST, chain, invert, projection, rigid, transform
from core.labels import PANDASET

__all__ = ["CAMERAS", "PandaSet", "PandaSetConfig"]

CAMERAS = (
    "front_left_camera",
    "front_camera",
    "front_right_camera",
    "left_camera",
    "back_camera",
    "right_camera",
)
SENSORS = ("pandar64", "pandargt")  # by their number in column "d"
_SUFFIX = ".pkl.gz"
_QUARTER_TURN = rigid(
    np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.zeros(3)
)  # PandaSet's frame <- x forward, y left


_names = partial(sequence_names, digits=3)
Sequences = Annotated[tuple[str, ...], BeforeValidator(_names)]
FrameRanges = Annotated[dict[str, tuple[int, int]], BeforeValidator(_names)]


class PandaSetConfig(DatasetConfig):
    """``dataset:`` section of PandaSet."""

    sensors: tuple[Literal["pandar64", "pandargt"], ...] = Field(
        ("pandar64",),
        min_length=1,
        description="whose points a scan holds: pandar64 (360 degrees), pandargt (forward, dense, up to 300 m)",
    )
    split: dict[SplitName, Sequences] = Field(
        default_factory=dict,
        description='sequences of a split, {train: ["001"], val: ["003"]}; by default those with labels whose '
        "number is divisible by 5 validate and the others train (there is no official split, and no test "
        "split)",
    )
    frames: dict[SplitName, FrameRanges] = Field(
        default_factory=dict,
        description='inclusive range of frame numbers by split and sequence, {val: {"002": [2, 2]}}; '
        "sequences it names for a split are the split's sequences unless split says otherwise",
    )
    multisweeps: Multisweeps = Field(
        Multisweeps(),
        description="neighbouring frames of the sequence (10 Hz: 1 = 0.1 s) through the poses; their labels "
        "are ignored",
    )
    instances: bool = Field(
        False, description="number the points inside labelled cuboids of their own class"
    )


def _holds_sequences(folder: Path) -> bool:
    return any(_is_sequence(name) for name in listing(folder))


class PandaSet(SequenceDataset):
    """One split of PandaSet. Instances are 31-bit numbers of the cuboids' names: an object keeps its own over time."""

    Config = PandaSetConfig
    config: PandaSetConfig
    title = "PandaSet"
    labels = PANDASET
    point_fields = 0
    label_dtype = np.dtype("<i8")
    frame_digits = 2
    image_source = f"{SOURCE}, or choose cameras with dataset.cameras"
    # Pandar64. Frames have their origin on the road; the scanner's place was found as the point from which the beams'
    # elevations are sharpest.
    sensor = Sensor((1.2, 0.0, 1.85), 64, elevation=(-0.4363, 0.2618), intensity_scale=255.0)

    def __init__(self, config: PandaSetConfig, split: str) -> None:
        """List the split's frames.

        Raises:
            UserError: the root is missing, a camera is unknown, or no frame is found.
        """
        super().__init__(config, split)
        self.cameras = CAMERAS if config.cameras is None else config.cameras
        if unknown := set(self.cameras) - set(CAMERAS):
            raise UserError(
                f"PandaSet has no camera {', '.join(sorted(unknown))}",
                cure=f"dataset.cameras may name {CAMERAS}",
            )
        self.labelled = config.use_labels
        chosen = config.split.get(self.split) or tuple(config.frames.get(self.split, {}))
        self.sequences = chosen or self._default()
        self._note_folders(self.root, str(self.root), _is_sequence)
        self._frames = []
        for sequence in self.sequences:
            self._frames += [(sequence, frame) for frame in self._list(sequence)]
        if not self._frames:
            found = "; ".join(self.missing()) or "no frame of dataset.frames exists"
            raise UserError(
                f"the {split} split is empty: {found if chosen else 'no sequence belongs to it'}",
                where=str(self.root),
                cure=f"Name sequences in dataset.split, e.g. {{{split}: ['001', '002']}}, or run 'python -m "
                "core.check_data CONFIG' for the full list",
            )
        self.warn_of_unread()

    @staticmethod
    def _find_root(root: Path) -> Path:
        for candidate in (root, root / "pandaset"):
            if _holds_sequences(candidate):
                return candidate
        what = "this folder does not exist"
        if root.is_dir():
            what = "this folder holds no sequences (001, 002, ...)"
        raise UserError(
            what,
            where=str(root),
            cure=meant_above(root, _holds_sequences)
            + "dataset.root must contain 001/lidar, 001/annotations and so on; set dataset.root, or pass "
            "--dataset.root FOLDER",
        )

    def _default(self) -> tuple[str, ...]:
        """The sequences on disk whose number puts them into this split."""
        names = sorted(name for name in listing(self.root) if _is_sequence(name))
        if self.labelled:
            names = [n for n in names if (self.root / n / "annotations" / "semseg").is_dir()]
        return tuple(n for n in names if self.split == ("train" if int(n) % 5 else "val"))

    def _list(self, sequence: str) -> list[int]:
        """Frame numbers of a sequence that are wanted and whole; notes what is missing or left over."""
        folder = self.root / sequence
        part = f"{sequence}/lidar"
        known = ("poses.json", "timestamps.json")
        numbers = self._numbers(self.root / part, part, _SUFFIX, known)
        first, last = self.config.frames.get(self.split, {}).get(sequence, (0, 999))
        scans = [n for n in numbers if first <= n <= last]
        if not scans:
            self._note(f"{sequence}/lidar: no scans")
            return []
        needs: tuple[tuple[str, Need], ...] = (
            ("poses.json", "lidar"),
            ("timestamps.json", "sweeps"),
        )
        for name, needed_for in needs:
            if not (folder / "lidar" / name).is_file():
                self._note(f"{sequence}/lidar/{name}: no file", needed_for)
        lacking = self._lacking(scans)
        if lacking is not None:
            self._note(f"{part}: {lacking}", "sweeps")
        self._note_images(sequence, scans)
        if not self.labelled:
            return scans
        return self._labelled(sequence, scans, range(first, last + 1))

    def _note_images(self, sequence: str, scans: list[int]) -> None:
        for name in self.cameras:
            images = {image_stem(file) for file in listing(self.root / sequence / "camera" / name)}
            without = sum(f"{n:02d}" not in images for n in scans)
            if without:
                what = f"{without} of {len(scans)} images are not there"
                self._note(f"{sequence}/camera/{name}: {what}", "cameras")

    def _labelled(self, sequence: str, scans: list[int], wanted: range) -> list[int]:
        """The scans with a file of classes."""
        part = f"{sequence}/annotations/semseg"
        labels = self._numbers(self.root / part, part, _SUFFIX, ("classes.json",))
        whole = sorted(set(scans).intersection(labels))
        if len(whole) < len(scans):
            lost = len(scans) - len(whole)
            self._note(f"{part}: {lost} of {len(scans)} label files are not there")
        self._note_alone(part, _SUFFIX, (n for n in labels if n in wanted), set(scans))
        return whole

    def _note(self, what: str, needed_for: Need = "lidar") -> None:
        self._gaps.append(Gap(f"{what}; comes from the PandaSet archive", needed_for))

    def files(self, index: int) -> ScanFiles:
        """The table of points, that of classes and the image of each camera."""
        sequence, frame = self._frames[index]
        folder = self.root / sequence
        labels = None
        if self.labelled:
            labels = folder / "annotations" / "semseg" / f"{frame:02d}{_SUFFIX}"
        images = {}
        for name in self.cameras:
            images[name] = find_image(folder / "camera" / name, f"{frame:02d}", ".jpg")
        return ScanFiles(points=_scan_file(folder, frame), labels=labels, images=images)

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        """Read the frame, and the neighbouring ones that ``multisweeps`` asks for, in the scanner's frame."""
        sequence, frame = self._frames[index]
        folder = self.root / sequence
        pose = chain(pose_of(folder / "lidar", frame), _QUARTER_TURN)
        lidar_from_world = invert(pose)
        own = self._points(folder, frame)
        label = self._labels(index, own)
        instance = None
        if label is not None and self.config.instances:
            instance = self._instances(folder, frame, own, label)
        parts = [
            Points(
                xyz=transform(lidar_from_world, own.world),
                intensity=own.intensity,
                label=label,
                instance=instance,
            )
        ]
        for other in self._neighbours(folder, frame):
            sweep, lag = self._sweep(folder, frame, other, lidar_from_world)
            parts.append(sweep.as_sweep(len(parts), lag))
        return Scan(
            token=self.token(index),
            points=Points.join(*parts),
            sensor=self.sensor,
            cameras=self._cameras(index, pose) if cameras else (),
            pose=pose,
        )

    def _sweep(
        self, folder: Path, frame: int, other: int, lidar_from_world: np.ndarray
    ) -> tuple[Points, float]:
        """Points of frame ``other`` in the frame of ``frame``, without the vehicle's own returns, and the lag (s)."""
        sweep = self._points(folder, other)
        pose = pose_of(folder / "lidar", other)
        times = read_times(folder / "lidar")
        lag = times[frame] - times[other]
        xyz = transform(lidar_from_world, sweep.world)
        points = Points(xyz=xyz, intensity=sweep.intensity)
        from_vehicle = transform(invert(chain(pose, _QUARTER_TURN)), sweep.world)
        return points.take(~near_sensor(from_vehicle)), float(lag)

    def _points(self, folder: Path, frame: int) -> FramePoints:
        path = _scan_file(folder, frame)
        table = read_frame(path, ("x", "y", "z", "i", "d"), SOURCE)
        check_numbers(table, path, SOURCE)
        if not np.isin(table["d"], range(len(SENSORS))).all():
            raise UserError(
                f"column d holds other numbers of sensors than 0 ({SENSORS[0]}) and 1 ({SENSORS[1]})",
                where=str(path),
                cure=SOURCE,
            )
        sensor = table["d"].astype(np.int64)
        chosen = [SENSORS.index(name) for name in self.config.sensors]
        rows = np.flatnonzero(np.isin(sensor, chosen))
        world = np.stack([table[name][rows] for name in "xyz"], 1).astype(np.float64)
        with np.errstate(over="ignore"):
            intensity = table["i"][rows].astype(np.float32)
        if not len(rows):
            raise UserError(
                f"the scan holds no points of {', '.join(self.config.sensors)}",
                where=str(path),
                cure=SOURCE,
            )
        sound = (np.abs(world) <= FARTHEST).all(1) & np.isfinite(intensity)
        if not sound.all():
            raise UserError(
                f"{int((~sound).sum())} of {len(rows)} points have NaN or infinite values or lie beyond {FARTHEST:g} m",
                where=str(path),
                cure=SOURCE,
            )
        return FramePoints(world, intensity, sensor[rows], rows, len(sensor))

    def _labels(self, index: int, own: FramePoints) -> np.ndarray | None:
        """u8 [N] train ids of the keyframe's points."""
        path = self.files(index).labels
        if path is None:
            return None
        check_classes(path.parent)
        raw = read_frame(path, ("class",), SOURCE)["class"]
        if raw.dtype.kind not in "iu":
            raise UserError(
                f"column class holds {raw.dtype}, not whole numbers", where=str(path), cure=SOURCE
            )
        if len(raw) != own.total:
            raise UserError(
                f"the table has {len(raw)} labels, but the scan has {own.total} points",
                where=str(path),
                cure="The two files do not belong together; unpack both again",
            )
        return self.labels.to_train(raw[own.rows], path)

    def _instances(
        self, folder: Path, frame: int, own: FramePoints, labels: np.ndarray
    ) -> np.ndarray:
        table = _cuboids(folder, frame, "; without cuboids set dataset.instances false")
        return instances_of(own, labels, table, self.labels)

    def boxes(self, index: int) -> Boxes:
        """The frame's cuboids; see :func:`boxes_of`."""
        sequence, frame = self._frames[index]
        folder = self.root / sequence
        sensors = [SENSORS.index(name) for name in self.config.sensors]
        pose = chain(pose_of(folder / "lidar", frame), _QUARTER_TURN)
        return boxes_of(_cuboids(folder, frame), sensors, pose)

    def _neighbours(self, folder: Path, frame: int) -> list[int]:
        """Past frames from near to far, then future ones, as far as the sequence has them."""
        sweeps = self.config.multisweeps
        if not sweeps.num_sweeps:
            return []
        steps = [-k for k in range(1, sweeps.num_sweeps + 1)]
        if not sweeps.only_past:
            steps += range(1, sweeps.num_sweeps + 1)
        there = numbered_files(folder / "lidar", self.frame_digits, (_SUFFIX,)).numbers
        return [frame + step for step in steps if frame + step in there]

    def _cameras(self, index: int, world_from_lidar: np.ndarray) -> tuple[Camera, ...]:
        sequence, frame = self._frames[index]
        cameras = []
        for name, path in self.files(index).images.items():
            folder = self.root / sequence / "camera" / name
            pose = pose_of(folder, frame, self.root / sequence / "lidar")
            intrinsic = read_intrinsic(folder / "intrinsics.json")
            matrix = projection(intrinsic, chain(invert(pose), world_from_lidar))
            size = image_size(path, self.image_source)
            check_principal_point(intrinsic, size, path, folder / "intrinsics.json")
            cameras.append(Camera(name, size, matrix, open_image(path, size)))
        return tuple(cameras)


def _cuboids(folder: Path, frame: int, advice: str = "") -> dict[str, np.ndarray]:
    """The table of a frame's cuboids, checked; ``advice`` is for where it is missing."""
    path = folder / "annotations" / "cuboids" / f"{frame:02d}{_SUFFIX}"
    table = read_frame(path, COLUMNS, SOURCE + advice)
    check_cuboids(table, path, SOURCE)
    return table


def _scan_file(folder: Path, frame: int) -> Path:
    return folder / "lidar" / f"{frame:02d}{_SUFFIX}"


def _is_sequence(name: str) -> bool:
    return len(name) == 3 and name.isdecimal()
