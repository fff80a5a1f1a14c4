"""What every data set is: a list of scans of one split, and the checks each file passes on its way in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field

from core.config import Section
from core.contracts import Scan, Sensor
from core.errors import UserError
from core.labels import LabelSpace

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "SPLITS",
    "DatasetConfig",
    "Gap",
    "Multisweeps",
    "ScanDataset",
    "ScanFiles",
    "SensorConfig",
    "SequenceDataset",
    "SplitName",
    "check_split",
    "image_size",
    "listing",
    "near_sensor",
    "read_image",
    "read_labels",
    "read_points",
]

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(SplitName)


class Multisweeps(Section):
    """Neighbouring sweeps appended to a keyframe."""

    num_sweeps: int = Field(
        0,
        ge=0,
        description="sweeps before the keyframe, and as many after it unless only_past",
    )
    only_past: bool = Field(True, description="take none after the keyframe")


class SensorConfig(Section):
    """``dataset.sensor:``, what is known of the scanner; null = the data set's own value."""

    origin: tuple[float, float, float] | None = Field(
        None, description="m, x, y, z of the scanner in the scans' frame"
    )
    beams: int | None = Field(None, ge=1, description="lasers of the scanner")
    elevation: tuple[float, float] | None = Field(
        None, description="degrees, [lowest, highest] beam above the horizon"
    )
    intensity_scale: float | None = Field(
        None, gt=0, description="largest intensity in the files, e.g. 1 or 255"
    )

    def over(self, sensor: Sensor) -> Sensor:
        """``sensor`` with what is given here in its place."""
        given = self.model_dump(exclude_none=True)
        if self.elevation is not None:
            low, high = np.radians(self.elevation).tolist()
            given["elevation"] = (low, high)
        return replace(sensor, **given)


class DatasetConfig(Section):
    """The ``dataset:`` section, as far as all data sets share it."""

    name: str = Field(description="the reader")
    root: Path = Field(description="folder of the data")
    use_labels: bool = Field(
        True,
        description="read ground truth where the split has it; false for label-free pretraining",
    )
    cameras: tuple[str, ...] | None = Field(
        None,
        description="cameras to give with each scan, in this order; null = all of the data set, [] = none",
    )
    sensor: SensorConfig = Field(
        SensorConfig(), description="the scanner, where it differs from the data set's own"
    )


@dataclass(frozen=True)
class ScanFiles:
    """Where one scan lies on disk: its points, its ground truth if the split has any, its images by camera name."""

    points: Path
    labels: Path | None
    images: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Gap:
    """Something that is not on disk.

    Attributes:
        text: what is missing and the archive it comes from, one line.
        needed_for: who cannot do without it: every job, jobs with cameras, or jobs with sweeps and poses.
    """

    text: str
    needed_for: Literal["lidar", "cameras", "sweeps"] = "lidar"


class ScanDataset(ABC):
    """The scans of one split.

    Objects pickle cheaply, so that loader workers may be forked or spawned; nothing heavy is held in memory.

    Attributes:
        config: the ``dataset:`` section it was opened with.
        labels: the label space. root: folder of the data. split: ``train``, ``val`` or ``test``.
        point_fields: float32 values per point in a scan file, 0 where files are compressed and their sizes say nothing.
        label_dtype: type of one id in a label file.
        sensor: the scanner.
    """

    Config: ClassVar[type[DatasetConfig]]
    title: ClassVar[str]
    config: DatasetConfig
    labels: LabelSpace
    root: Path
    split: str
    point_fields: int
    label_dtype: np.dtype
    sensor: Sensor = Sensor()

    @classmethod
    def label_space(cls, config: DatasetConfig) -> LabelSpace:
        """Label space of a data set of this configuration, whether or not its scans are on disk.

        Raises:
            UserError: the configuration names a label space that does not exist.
        """
        return cls.labels

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def token(self, index: int) -> str:
        """Name of scan ``index``, unique in the data set."""

    @abstractmethod
    def load(self, index: int, *, cameras: bool = True) -> Scan:
        """Read scan ``index``; images are only decoded when :attr:`Camera.load` is called.

        Args:
            cameras: False leaves ``Scan.cameras`` empty, and then no camera file need exist.

        Raises:
            UserError: a file is missing or damaged.
        """

    @abstractmethod
    def files(self, index: int) -> ScanFiles:
        """Files of scan ``index``, whether or not they exist."""

    @abstractmethod
    def index_of(self, token: str) -> int:
        """Position of the scan called ``token``.

        Raises:
            UserError: the split has no such scan.
        """

    def gaps(self) -> list[Gap]:
        """What the split should have and is not on disk; scans without their files are left out of the split."""
        return []

    def missing(self) -> list[str]:
        """:meth:`gaps` as lines for a person."""
        return [gap.text for gap in self.gaps()]

    @property
    def expected(self) -> int | None:
        """Number of scans of the official split, None where a split is the user's own."""
        return None

    def describe(self) -> str:
        """One line: what this is and how many scans it has."""
        return f"{self.title} {self.split}: {len(self)} scans in {self.root}"

    def _unknown_token(self, token: str) -> UserError:
        example = self.token(0) if len(self) else "none"
        return UserError(
            f"the {self.split} split has no scan '{token}'",
            where=str(self.root),
            cure=f"Tokens look like '{example}'; a scan may also sit in another split",
        )


class SequenceDataset(ScanDataset):
    """A data set whose scans are numbered frames of named sequences: ``<sequence>/<frame>``."""

    frame_digits: ClassVar[int]
    _frames: list[tuple[str, int]]
    _gaps: list[Gap]

    def __len__(self) -> int:
        return len(self._frames)

    def token(self, index: int) -> str:
        sequence, frame = self._frames[index]
        return f"{sequence}/{frame:0{self.frame_digits}d}"

    @cached_property
    def _positions(self) -> dict[tuple[str, int], int]:
        return {frame: i for i, frame in enumerate(self._frames)}

    def index_of(self, token: str) -> int:
        sequence, _, frame = token.partition("/")
        try:
            return self._positions[sequence, int(frame)]
        except (KeyError, ValueError) as error:
            raise self._unknown_token(token) from error

    def gaps(self) -> list[Gap]:
        return self._gaps


def check_split(split: str) -> None:
    """Refuse a split that does not exist.

    Raises:
        UserError: ``split`` is not one of ``SPLITS``.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}'", cure=f"Splits are {', '.join(SPLITS)}")


def listing(folder: Path) -> frozenset[str]:
    """Names in ``folder``, empty if it does not exist; one directory read in place of one look-up per file."""
    try:
        return frozenset(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def read_points(path: Path, fields: int, *, used: int = 4) -> np.ndarray:
    """Read a scan.

    Args:
        path: little-endian float32, ``fields`` values per point.
        used: leading values kept: x, y, z (m), intensity.

    Returns:
        f32 [N, used], N > 0, all finite.

    Raises:
        UserError: the file is missing, cut short, empty, or holds NaN or infinite values.
    """
    values = _read_array(path, np.dtype("<f4"), "scan")
    if values.size % fields or path.stat().st_size % (4 * fields):
        size = path.stat().st_size
        whole = size // (4 * fields)
        raise UserError(
            f"the file has {size} bytes, which is not a multiple of {4 * fields} ({fields} float32 per point): "
            f"{whole} whole points and {size - whole * 4 * fields} bytes over",
            where=str(path),
            cure="The file was cut short in copying or unpacking, or has another number of values per point; "
            "unpack it again",
        )
    if not values.size:
        raise UserError("the scan holds no points", where=str(path), cure="Unpack the file again")
    points = np.ascontiguousarray(values.reshape(-1, fields)[:, :used], np.float32)
    finite = np.isfinite(points)
    if not finite.all():
        bad = int((~finite.all(1)).sum())
        raise UserError(
            f"{bad} of {len(points)} points have NaN or infinite values",
            where=str(path),
            cure="Unpack the file again",
        )
    return points


def read_labels(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """Read one unsigned id per point, [count] of ``dtype``.

    Raises:
        UserError: the file is missing or has another number of ids than the scan has points.
    """
    dtype = np.dtype(dtype)
    raw = _read_array(path, dtype, "label file")
    if len(raw) != count or path.stat().st_size != count * dtype.itemsize:
        raise UserError(
            f"the label file has {path.stat().st_size} bytes = {len(raw)} labels of {dtype.itemsize} bytes, "
            f"but the scan has {count} points",
            where=str(path),
            cure="The two files do not belong together or one is cut short; unpack both again",
        )
    return raw


def _read_array(path: Path, dtype: np.dtype, kind: str) -> np.ndarray:
    try:
        return np.fromfile(path, dtype)
    except FileNotFoundError as error:
        raise UserError(
            f"this {kind} does not exist",
            where=str(path),
            cure="Run 'python -m core.check_data CONFIG' to see everything that is missing",
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot read this {kind} ({error.strerror or error})", where=str(path)
        ) from error


def read_image(path: Path) -> np.ndarray:
    """Decode a PNG or JPEG to u8 [H, W, 3] RGB.

    Raises:
        UserError: the file is missing or cannot be decoded.
    """
    with _opened_image(path) as image:
        return np.asarray(image.convert("RGB"))


def image_size(path: Path, source: str | None = None) -> tuple[int, int]:
    """(width, height) px from the header of an image; nothing is decoded.

    Args:
        source: said as the cure if the file does not exist.

    Raises:
        UserError: the file is missing or is no image.
    """
    with _opened_image(path, source) as image:
        return image.size


@contextmanager
def _opened_image(path: Path, source: str | None = None) -> Iterator[Image.Image]:
    from PIL import Image  # jobs without cameras never import it

    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise UserError("this image does not exist", where=str(path), cure=source) from error
    except (
        OSError,
        SyntaxError,
        ValueError,
    ) as error:  # Pillow reports a broken PNG as SyntaxError
        raise UserError(
            f"cannot decode this image ({error})",
            where=str(path),
            cure="The file is damaged; unpack it again",
        ) from error


def near_sensor(points: np.ndarray) -> np.ndarray:
    """Bool [N]: |x| < 1 m and |y| < 1 m, the vehicle's own returns, dropped from extra sweeps as the devkit does."""
    return (np.abs(points[:, 0]) < 1.0) & (np.abs(points[:, 1]) < 1.0)
