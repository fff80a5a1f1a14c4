"""What files of predicted classes look like, and what a benchmark takes as a submission.

A data set with a benchmark of its own has a class for it beside its reader, and a line in :mod:`core.names`.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from core.decode import parse_array
from core.errors import UserError
from core.labels import LabelSpace
from core.names import BENCHMARKS, FORMATS
from core.registry import load_entry, named_entry

__all__ = [
    "BENCHMARKS",
    "FORMATS",
    "Benchmark",
    "NumpyFormat",
    "PredictionFormat",
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


class Benchmark(PredictionFormat):
    """A data set's official benchmark: its files of predictions, its submissions, and what its validator refuses.

    Attributes:
        title: for a person.
        dtype: of one id in a file.
        folder_entries: the validator wants an entry for each folder of the zip.
        optional: further files that a submission may hold; its server refuses one without them.
        has_corrupted_version: scores of others on corrupted scans of this data set are published.
    """

    title: ClassVar[str]
    dtype: ClassVar[np.dtype]
    folder_entries: ClassVar[bool] = False
    optional: ClassVar[tuple[str, ...]] = ()
    has_corrupted_version: ClassVar[bool] = False

    @abstractmethod
    def submitted_path(self, token: str, split: str) -> str:
        """File of a scan, below a submission's root; ``split`` as ``ScanDataset.official_split`` says."""

    @abstractmethod
    def allowed_ids(self, labels: LabelSpace) -> Sequence[int]:
        """Ids that a submitted file may hold."""

    def class_ids(self, ids: np.ndarray) -> np.ndarray:
        """The part of each id [N] that names the class."""
        return ids

    @abstractmethod
    def advice(self, labels: LabelSpace, largest: int) -> str:
        """What ids are right where others were found; ``largest`` is the largest of those."""

    def metadata(self, split: str, uses_camera: bool) -> dict[str, dict[str, Any]]:
        """JSON files that a submission must hold besides the predictions: content by path."""
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
            cure=f"{' and '.join(titles)} have; for other scans use --predict",
        )
    return cast(Benchmark, load_entry(BENCHMARKS[name])())
