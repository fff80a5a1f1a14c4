"""What files of predicted classes look like, and what a benchmark takes as a submission.

A data set with a benchmark of its own has a class for it beside its reader, and a line in :mod:`core.names`.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, cast

import numpy as np

from core.decode import parse_array
from core.errors import UserError
from core.labels import LabelSpace
from core.metrics import Absent
from core.names import BENCHMARKS, FORMATS
from core.registry import load_entry, named_entry

__all__ = [
    "BENCHMARKS",
    "FORMATS",
    "Benchmark",
    "Container",
    "NumpyFormat",
    "PredictionFormat",
    "Split",
    "benchmark",
    "prediction_format",
    "stored_ids",
    "train_ids",
]


class PredictionFormat(ABC):
    """How the predicted classes of a scan lie in a file.

    Attributes:
        name: as in ``FORMATS``.
    """

    name: ClassVar[str]

    @abstractmethod
    def path(self, token: str) -> str:
        """File of a scan, below a folder of predictions."""

    @abstractmethod
    def ids(self, labels: LabelSpace) -> Sequence[int]:
        """The id that stands in a file for each train id."""

    @abstractmethod
    def encode(self, classes: np.ndarray, labels: LabelSpace) -> bytes:
        """A file's content for train ids u8 [N]."""

    @abstractmethod
    def decode(self, content: bytes, labels: LabelSpace, where: Path) -> np.ndarray:
        """Train ids u8 [N] of a file's content.

        Raises:
            UserError: an id that the label space does not know.
        """


def stored_ids(content: bytes, dtype: np.dtype, where: Path) -> np.ndarray:
    """The ids of a file that holds nothing else, [N] of ``dtype``.

    Raises:
        UserError: the file is cut short.
    """
    if len(content) % dtype.itemsize:
        what = f"the file has {len(content)} bytes, which is no multiple of {dtype.itemsize}"
        raise UserError(what, where=str(where), cure="It is cut short; write it again")
    return np.frombuffer(content, dtype)


def train_ids(ids: np.ndarray, labels: LabelSpace, where: Path) -> np.ndarray:
    """The ids of a file as they are, where all are train ids of the label space.

    Raises:
        UserError: some are not.
    """
    wrong = (ids < 0) | (ids >= labels.num_classes)
    if wrong.any():
        raise UserError(
            f"{int(wrong.sum())} of {len(ids)} ids are none of 0..{labels.num_classes - 1}, the classes of "
            f"'{labels.name}'",
            where=str(where),
        )
    return ids


class NumpyFormat(PredictionFormat):
    """U8 train ids in ``<token>.npy``."""

    name = "npy"

    def path(self, token: str) -> str:
        """``<token>.npy``."""
        return f"{token}.npy"

    def ids(self, labels: LabelSpace) -> Sequence[int]:
        """Train ids as they are."""
        return range(labels.num_classes)

    def encode(self, classes: np.ndarray, labels: LabelSpace) -> bytes:
        """Write the array with NumPy's header."""
        stream = io.BytesIO()
        np.save(stream, classes)
        return stream.getvalue()

    def decode(self, content: bytes, labels: LabelSpace, where: Path) -> np.ndarray:
        """Read the array; pickled objects are refused."""
        classes = parse_array(content, where, "array of classes")
        if classes.ndim != 1 or classes.dtype.kind not in "iu":
            raise UserError(
                f"the array is {classes.dtype} {list(classes.shape)}; expected one train id per point",
                where=str(where),
            )
        return train_ids(classes, labels, where)


class Split(Protocol):
    """The scans of a split as far as a benchmark looks at them: each :class:`core.datasets.base.ScanDataset` is one."""

    root: Path
    split: Any
    labels: LabelSpace

    def __len__(self) -> int: ...

    def token(self, index: int) -> str:
        """Name of scan ``index``."""

    def index_of(self, token: str) -> int:
        """Position of the scan called ``token``."""


class Container(ABC):
    """Files that a benchmark takes in place of a zip of the files of single scans."""

    @abstractmethod
    def pack(self, folder: Path, names: Sequence[str], per_file: int | None) -> list[Path]:
        """Write what is uploaded beside the submitted files of single scans.

        Args:
            folder: of the submission; it holds ``names`` and the files of :meth:`Benchmark.metadata`.
            names: :meth:`Benchmark.submitted_path` of each scan. per_file: scans in one file, 1 or more; None = all.

        Returns:
            the written files; others of an earlier call are gone.

        Raises:
            UserError: a file is missing or damaged, or a file would become too large.
        """

    @abstractmethod
    def faults(self, path: Path, scans: Split) -> Iterator[str]:
        """Look for everything the benchmark would refuse, one scan in memory at a time.

        Args:
            path: a folder of packed files, or one of them. scans: the split.

        Yields:
            one line per fault, which begins with the file's name.

        Raises:
            UserError: there is no such file, or one that is none of this benchmark.
        """

    @abstractmethod
    def outstanding(self, path: Path) -> list[str]:
        """What a person still has to fill in, where :meth:`faults` finds none."""


class Benchmark(PredictionFormat):
    """A data set's official benchmark: its files of predictions, its submissions, and what its validator refuses.

    Attributes:
        title: for a person.
        dtype: of one id in a file.
        folder_entries: the validator wants an entry for each folder of the zip.
        optional: further files that a submission may hold; its server refuses one without them.
        has_corrupted_version: scores of others on corrupted scans of this data set are published.
        subsets: named subsets of the points that get a score of their own: a column and its value there.
        absent: what its own tool counts a class as that the truth does not hold.
        container: what it takes in place of a zip.
    """

    title: ClassVar[str]
    dtype: ClassVar[np.dtype]
    folder_entries: ClassVar[bool] = False
    optional: ClassVar[tuple[str, ...]] = ()
    has_corrupted_version: ClassVar[bool] = False
    subsets: ClassVar[Mapping[str, tuple[str, int]]] = MappingProxyType({})
    absent: ClassVar[Absent] = "skip"
    container: ClassVar[Container | None] = None

    @abstractmethod
    def submitted_path(self, token: str, split: str) -> str:
        """File of a scan, below a submission's root; ``split`` as ``ScanDataset.official_split`` says."""

    def submitted_content(self, classes: np.ndarray, scans: Split, index: int) -> bytes:
        """The submitted file of scan ``index`` for train ids u8 [N]: by default that of any prediction."""
        return self.encode(classes, scans.labels)

    def allowed_ids(self, labels: LabelSpace) -> Sequence[int]:
        """Ids that a submitted file may hold: by default all train ids but 0."""
        return range(1, labels.num_classes)

    def class_ids(self, ids: np.ndarray) -> np.ndarray:
        """The part of each id [N] that names the class."""
        return ids

    def advice(self, labels: LabelSpace, largest: int) -> str:
        """What ids are right where others were found; ``largest`` is the largest of those."""
        return f"every point needs a class, 1 to {labels.num_classes - 1}"

    def metadata(
        self, split: str, uses_camera: bool, sweeps: tuple[int, int] = (0, 0)
    ) -> dict[str, dict[str, Any]]:
        """JSON files that a submission must hold besides the predictions: content by path.

        Args:
            split: as ``ScanDataset.official_split`` says. uses_camera: the network sees images.
            sweeps: how many before and after its own the network sees.
        """
        return {}

    def metadata_fault(self, content: bytes) -> str | None:
        """What is wrong with one of these files as it was found, None = nothing."""
        return None


def prediction_format(name: str) -> PredictionFormat:
    """The format of this name.

    Raises:
        UserError: there is none.
    """
    return cast(PredictionFormat, named_entry(FORMATS, name, "format of predictions")())


def benchmark(name: str) -> Benchmark:
    """The benchmark of this data set, by the name of its reader.

    Raises:
        UserError: it has none.
    """
    if name not in BENCHMARKS:
        titles = [load_entry(entry).title for entry in BENCHMARKS.values()]
        raise UserError(
            f"'{name}' has no benchmark to submit to",
            cure=f"{', '.join(titles)} have one; for other scans use --predict",
        )
    return cast(Benchmark, load_entry(BENCHMARKS[name])())
