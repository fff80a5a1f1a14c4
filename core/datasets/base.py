"""What every data set is: a list of scans of one split, and who it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal, cast

import numpy as np
from loguru import logger

from core.contracts import Scan, Sensor
from core.contracts.boxes import Boxes
from core.datasets.benchmark import Benchmark
from core.datasets.columns import Column, add_columns, column_file
from core.datasets.planes import add_planes
from core.datasets.sections import (
    SPLITS,
    DatasetConfig,
    Multisweeps,
    SensorConfig,
    SplitName,
)
from core.errors import UserError, counted
from core.io import sha256
from core.labels import LabelSpace, label_space

__all__ = [
    "MANIFEST",
    "SPLITS",
    "DatasetConfig",
    "Gap",
    "Multisweeps",
    "Need",
    "ScanDataset",
    "ScanFiles",
    "SensorConfig",
    "SplitName",
    "check_split",
    "near_sensor",
]

# Every job; those with cameras; those with sweeps; none: something lies there that nobody reads.
Need = Literal["lidar", "cameras", "sweeps", "nothing"]
MANIFEST = "synthetic.json"  # in the root of a synthetic world, whatever its format


@dataclass(frozen=True)
class ScanFiles:
    """Where one scan lies on disk: its points, its ground truth if the split has any, its images by camera name.

    A file may hold more than this scan, and all of it: points, labels and images.
    """

    points: Path
    labels: Path | None
    images: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Gap:
    """Something that is not on disk, is damaged, or lies there and is not read.

    Attributes:
        text: what is missing and the archive it comes from, one line.
        needed_for: who cannot do without it: every job, jobs with cameras, jobs with sweeps and poses, or none.
        unread: files are there, and no name of a scan leads to them.
    """

    text: str
    needed_for: Need = "lidar"
    unread: bool = False


class ScanDataset(ABC):
    """The scans of one split.

    Objects pickle cheaply, so that loader workers may be forked or spawned; nothing heavy is held in memory.

    Attributes:
        benchmark: the data set's official one, None if it has none.
        image_source: where its images come from, for errors.
        config: the ``dataset:`` section it was opened with.
        made_up: the root holds a synthetic world in the data set's format.
        title: name for a person; that of a synthetic world says so.
        labels: the label space; of the class: the data set's own.
        root: folder of the data. split: ``train``, ``val`` or ``test``.
        point_fields: float32 values per point in a scan file, 0 where files are compressed and their sizes say nothing.
        label_dtype: type of one id in a label file.
        own_columns: values per point of columns that networks may read and this reader alone has, by name.
        sensor: the scanner; of the class: the data set's own.
        columns: of ``dataset.columns``, by name, as far as they are read for the split.
        budget: bool [N], the scans with labels under ``dataset.labelled``; None = all.
        leak: what the split holds of a benchmark's hidden test split, a sentence; empty = nothing.
    """

    Config: ClassVar[type[DatasetConfig]]
    benchmark: ClassVar[Benchmark | None] = None
    own_columns: ClassVar[Mapping[str, int]] = MappingProxyType({})
    image_source: str = "Give every scan an image of each camera"
    config: DatasetConfig
    made_up: bool = False
    title: str
    labels: LabelSpace
    root: Path
    split: SplitName
    point_fields: int
    label_dtype: np.dtype
    sensor: Sensor = Sensor()
    columns: Mapping[str, Column] = MappingProxyType({})
    budget: np.ndarray | None = None
    leak: str = ""
    _gaps: list[Gap]  # noted while the split was opened

    @classmethod
    def leak_of(cls, config: DatasetConfig, split: str) -> str:
        """What a split of a configuration holds of the benchmark's hidden test split, a sentence; empty = nothing.

        Raises:
            UserError: it may not hold it.
        """
        return ""

    @classmethod
    def label_space(cls, config: DatasetConfig) -> LabelSpace:
        """Label space of a data set of this configuration, whether or not its scans are on disk.

        Raises:
            UserError: the configuration names a label space that does not exist.
        """
        if config.labels is None:
            return cls.labels
        return label_space(config.labels)

    def __init__(self, config: DatasetConfig, split: str) -> None:
        """Take from the configuration what all data sets share; a reader goes on and lists its scans.

        Raises:
            UserError: an unknown split or label space, or there is no such data set in the root.
        """
        self.config = config
        self._gaps = []
        self.split = check_split(split)
        self.root = self._find_root(config.root)
        self.labels = self.label_space(config)
        self.sensor = config.sensor.over(self.sensor)
        self.columns = {}
        for name, column in config.columns.items():
            if self.split == "train" or not column.train_only:
                self.columns[name] = column
        self.made_up = (self.root / MANIFEST).is_file()
        if self.made_up:
            self.title = f"synthetic world ({self.title} format)"

    def take_after(self, other: ScanDataset) -> None:
        """Take over what ``other`` says of itself, for a data set that is made from its scans."""
        self.config, self.root, self.split = other.config, other.root, other.split
        self.labels, self.sensor, self.columns = other.labels, other.sensor, other.columns
        self.point_fields, self.label_dtype = other.point_fields, other.label_dtype
        self.title, self.made_up, self.image_source = other.title, other.made_up, other.image_source
        self._gaps = []

    @staticmethod
    def _find_root(root: Path) -> Path:
        """The folder that holds the data, where ``dataset.root`` may also be one above it."""
        return root

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def token(self, index: int) -> str:
        """Name of scan ``index``, unique in the data set."""

    def scene(self, index: int) -> str:
        """Name of the scene or sequence that scan ``index`` belongs to: its token without the last part."""
        return self.token(index).rpartition("/")[0]

    @abstractmethod
    def read(self, index: int, *, cameras: bool = True) -> Scan:
        """Read scan ``index`` without ``dataset.columns`` and ``planes``, its keyframe's points first."""

    def load(self, index: int, *, cameras: bool = True) -> Scan:
        """Read scan ``index``; images are only decoded when :attr:`Camera.load` is called.

        Args:
            cameras: False leaves ``Scan.cameras`` empty, and then no camera file need exist.

        Raises:
            UserError: a file is missing or damaged.
        """
        scan = self.read(index, cameras=cameras)
        if self.columns:
            scan = add_columns(scan, self.columns, self.root, self.pose_files(index))
        if self.config.planes:
            scan = add_planes(scan, self.config.planes)
        return scan

    def boxes(self, index: int) -> Boxes:
        """Read the boxes about the objects of scan ``index``, for detectors.

        Raises:
            UserError: this data set has none that are read here, or a file is missing or damaged.
        """
        raise UserError(
            f"boxes of {self.title} are not read here",
            where="key 'dataset.name'",
            cure="PandaSet has them, and SemanticKITTI's layout may have sequences/NN/boxes/NNNNNN.json; OpenPCDet "
            "itself reads KITTI, nuScenes and Waymo",
        )

    def pose_files(self, index: int) -> tuple[Path, ...]:
        """The files that say where the scanner stood in the drive of scan ``index``; none where poses lie elsewhere."""
        return ()

    def check_poses(self, index: int) -> None:
        """Prove that the poses of a scan's drive belong to it, as far as its files tell.

        Raises:
            UserError: they do not, or are missing or damaged.
        """
        return  # most data sets keep a pose with each scan

    def column_files(self, index: int) -> dict[str, Path]:
        """Files of ``dataset.columns`` of scan ``index`` by column, whether or not they exist."""
        files = {}
        for name, column in self.columns.items():
            files[name] = column_file(column, self.root, self.token(index))
        return files

    @abstractmethod
    def files(self, index: int) -> ScanFiles:
        """Files of scan ``index``, whether or not they exist."""

    def num_points(self, index: int) -> int:
        """Count the points of scan ``index``: from the size of its file, or by reading what is compressed.

        Raises:
            UserError: a scan that has to be read is missing or damaged.
        """
        path = self.files(index).points
        if self.point_fields and path.suffix == ".bin":
            return path.stat().st_size // (4 * self.point_fields)
        return int(np.count_nonzero(self.read(index, cameras=False).keyframe))

    @abstractmethod
    def index_of(self, token: str) -> int:
        """Position of the scan called ``token``.

        Raises:
            UserError: the split has no such scan.
        """

    def gaps(self) -> list[Gap]:
        """What the split should have and is not on disk; scans without their files are left out of the split."""
        return list(self._gaps)

    def warn_of_unread(self) -> None:
        """Log what lies in the data set's folders and is not read."""
        for gap in self._gaps:
            if gap.unread:
                logger.warning("{}", gap.text)

    def missing(self) -> list[str]:
        """:meth:`gaps` as lines for a person."""
        return [gap.text for gap in self.gaps()]

    def member(self, index: int) -> tuple[ScanDataset, int]:
        """The reader that scan ``index`` comes from and its position there, where several were put together."""
        return self, index

    def between(self) -> ScanDataset:
        """The sweeps between the scans of the split as scans of their own, without labels.

        Raises:
            UserError: there are none.
        """
        raise UserError(
            f"{self.title} has no sweeps between its scans: each frame is a scan of the split",
            where="key 'dataset.unlabelled'",
            cure="Leave labels out of some frames: --dataset.labelled '{fraction: 0.1, by: frame}' "
            "--dataset.unlabelled rest",
        )

    def drive(self, index: int) -> str:
        """Name of what scan ``index`` was recorded in: a sequence, a scene, a folder."""
        return self.token(index).rpartition("/")[0]

    def check_images(self) -> None:
        """See that the first and the last scan of each drive have their images, before hours go by without them.

        Raises:
            UserError: one is missing; names it and where it comes from.
        """
        ends: dict[str, list[int]] = {}
        for index in range(len(self)):
            ends.setdefault(self.drive(index), [index])[1:] = [index]
        for indices in ends.values():
            for index in dict.fromkeys(indices):
                self._check_images_of(index)

    def _check_images_of(self, index: int) -> None:
        images = self.files(index).images
        if not images:
            cure = self.image_source
            if self.made_up:
                cure = "Write the world with images: prepare_synthetic.py --image-scale 0.25"
            raise UserError(
                f"scan {self.token(index)} has no camera",
                where=str(self.root),
                cure=f"{cure}; for jobs without images set data.images false",
            )
        for camera, path in self.absent_images(index).items():
            raise self.no_image(camera, path)

    def absent_images(self, index: int) -> dict[str, Path]:
        """Cameras of scan ``index`` without an image, and the file that should hold it."""
        images = self.files(index).images
        return {camera: path for camera, path in images.items() if not path.is_file()}

    def image_digests(self, index: int) -> Iterator[str]:
        """SHA-256 (hex) of each image of scan ``index`` as stored."""
        for path in self.files(index).images.values():
            yield sha256(path)

    def no_image(self, camera: str, path: Path) -> UserError:
        """The error of an image that is missing."""
        return UserError(
            f"the image of {camera} does not exist",
            where=str(path),
            cure=f"{self.image_source}; for jobs without images set data.images false",
        )

    @property
    def expected(self) -> int | None:
        """Number of scans of the official split; None where the world is made up or the split is the user's own."""
        if self.made_up:
            return None
        return self._official_count()

    def _official_count(self) -> int | None:
        """Number of scans of the official split that the configuration asks for, None where it asks for another."""
        return None

    @property
    def listed(self) -> int:
        """Number of scans of the split that are there."""
        return len(self)

    @property
    def complete(self) -> bool:
        """Whether every scan of an official split is there; a split of the user's own always is."""
        return self.expected in (None, self.listed)

    def absent(self) -> str:
        """Which parts of an incomplete official split are not there, in a few words."""
        return "; ".join(self.left_out())

    def left_out(self) -> list[str]:
        """What no job can do without and is not there, one line each; those scans are not in the split."""
        gaps = [gap for gap in self.gaps() if gap.needed_for == "lidar" and not gap.unread]
        return [gap.text for gap in gaps]

    @property
    def official_split(self) -> str:
        """The split as the benchmark calls it."""
        return self.split

    @property
    def is_official(self) -> bool:
        """Whether these are all scans of an official split, with the data set's own classes."""
        return self.expected == len(self) and self.labels == type(self).labels

    def describe(self) -> str:
        """One line: what this is and how many scans it has."""
        return f"{self.title} {self.split}: {counted(len(self), 'scan')} in {self.root}"

    def _unknown_token(self, token: str) -> UserError:
        example = self.token(0) if len(self) else "none"
        return UserError(
            f"the {self.split} split has no scan '{token}'",
            where=str(self.root),
            cure=f"Tokens look like '{example}'; a scan may also sit in another split",
        )


def check_split(split: str) -> SplitName:
    """The split, where it exists.

    Raises:
        UserError: ``split`` is not one of ``SPLITS``.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}'", cure=f"Splits are {', '.join(SPLITS)}")
    return cast(SplitName, split)


def near_sensor(points: np.ndarray) -> np.ndarray:
    """Bool [N]: |x| < 1 m and |y| < 1 m, the vehicle's own returns, dropped from extra sweeps as the devkit does."""
    return (np.abs(points[:, 0]) < 1.0) & (np.abs(points[:, 1]) < 1.0)
