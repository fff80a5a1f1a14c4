"""``dataset.columns``: further values per point, from files beside any data set.

They become columns of ``Scan.points`` and follow the points through every cut, join, paste and corruption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self, TypeVar

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from core.config import Section
from core.contracts import Points, Scan
from core.datasets.motion_config import Motion
from core.datasets.stored_logits import LOGITS, check_scan
from core.decode import read_array, read_arrays
from core.errors import UserError
from core.paths import check_name

__all__ = [
    "CELL_COLUMNS",
    "READ_COLUMNS",
    "Column",
    "add_columns",
    "as_column",
    "column_file",
    "read_column",
]

T = TypeVar("T")
READ_COLUMNS = (
    "xyz",
    "lag",
    "sweep",
    "intensity",
    "label",
    "instance",
    "pasted",
    "no_return",
    "beam",
)  # that readers make themselves
# Where a point lies in the scanner's range image, and what is said of that place: of no use to a network.
CELL_COLUMNS = ("row", "column", "laser", "no_label_zone")
_LARGEST = np.iinfo(np.int64).max
_SCAN_NAMES = ("{token}", "{flat}", "{stem}")
_TAKEN = (*READ_COLUMNS, "distance")  # which samples make


def _named_by_scan(pattern: str) -> str:
    if not any(name in pattern for name in _SCAN_NAMES):
        raise ValueError("must contain {token}, {flat} or {stem}, which stand for the scan")
    if not pattern.endswith((".npy", ".npz")):
        raise ValueError("must end in .npy or .npz")
    return pattern


class Column(Section):
    """``dataset.columns.<name>:``, one array per scan with a row per point."""

    file: Annotated[str, AfterValidator(_named_by_scan)] = Field(
        description="file of a scan below dataset.root, .npy or .npz; {token} is the scan's token, which may hold "
        "'/', {flat} the token with '_' for '/', as KDMOS writes logits, {stem} the token's last part"
    )
    key: str | None = Field(
        None, description="array of the .npz file; null = the only one, and for .npy"
    )
    channels: int = Field(1, ge=1, description="values per point")
    train_only: bool = Field(
        False, description="read for the training split alone, e.g. a teacher's logits"
    )
    motion: Motion | None = Field(
        None,
        description="the files hold motion maps, written by prepare_motion.py, in which each point reads its cells; "
        "{} = MotionBEV's, channels is then last + previous, 8; {kind: residual} = LMNet's, channels is scans, 8. "
        "null = the files have a row per point",
    )

    @model_validator(mode="after")
    def _motion_fits(self) -> Self:
        if self.motion is None:
            return self
        if self.channels != self.motion.channels:
            raise ValueError(f"motion gives {self.motion.channels} values: write channels so")
        if self.key is not None or not self.file.endswith(".npz"):
            raise ValueError("files of motion end in .npz and need no key")
        return self


def check_names(columns: Mapping[str, T]) -> Mapping[str, T]:
    """The columns, where none has a name that is taken.

    Raises:
        ValueError: one has.
    """
    for name in columns:
        if name in _TAKEN:
            raise ValueError(f"'{name}' is a column that every scan has; choose another name")
    return columns


def column_file(column: Column, root: Path, token: str) -> Path:
    """The file that holds a column of a scan, whether or not it exists."""
    token = check_name(token, str(root))
    names = (token, token.replace("/", "_"), token.rpartition("/")[2])
    file = column.file
    for placeholder, name in zip(_SCAN_NAMES, names):
        file = file.replace(placeholder, name)
    return root / file


def add_columns(
    scan: Scan, columns: Mapping[str, Column], root: Path, poses: Sequence[Path] = ()
) -> Scan:
    """The scan with columns from disk: rows of its keyframe as read, 0 for points of neighbouring sweeps.

    Args:
        scan: as read, its keyframe's points first. root: folder that the files' names start from.
        poses: the files that the poses of the scan's drive come from, which motion depends on.

    Raises:
        UserError: see :func:`read_column` and :func:`core.datasets.motion_maps.motion_column`; or logits are those of
            another scan.
    """
    count = int(np.count_nonzero(scan.keyframe))
    read = {}
    for name, column in columns.items():
        path = column_file(column, root, scan.token)
        if column.motion is None:
            read[name] = read_column(path, column, name, count)
            if column.key == LOGITS and path.suffix == ".npz":
                check_scan(path, scan.token)
        else:
            from core.datasets.motion_maps import motion_column  # compiled loops

            read[name] = motion_column(path, column.motion, scan, count, poses)
    own = scan.points.take(slice(count)).having(**read)
    points = Points.join(own, scan.points.take(slice(count, None)))
    return scan.having(**{name: points[name] for name in columns})


def read_column(path: Path, column: Column, name: str, count: int) -> np.ndarray:
    """Read one column of a scan.

    Args:
        name: of the column, for errors. count: points of the keyframe.

    Returns:
        [count] of one channel, else [count, channels]: f32 of floating-point numbers, u8 and bool as they are, i64 of
        other integers.

    Raises:
        UserError: the file or its key is missing, or the array has another number of rows or channels, is no array of
            numbers, or holds NaN or infinite values.
    """
    values = _load(path, column, name)
    expected = f"expected numbers [{count}, {column.channels}], a row for each point of the scan"
    if values.dtype.kind not in "fiub":
        raise _wrong(name, path, f"holds {values.dtype} {list(values.shape)}; {expected}")
    flat = values.ndim == 1 and column.channels == 1
    if not flat and (values.ndim != 2 or values.shape[1] != column.channels):
        raise _wrong(name, path, f"holds {values.dtype} {list(values.shape)}; {expected}")
    if len(values) != count:
        raise _wrong(name, path, f"has {len(values)} rows; {expected}")
    if column.channels == 1:
        values = values.reshape(count)
    if values.dtype.kind == "u" and values.dtype.itemsize == 8 and values.max(initial=0) > _LARGEST:
        raise _wrong(name, path, f"holds numbers above {_LARGEST}")
    with np.errstate(over="ignore"):
        read = as_column(values)
    if read.dtype.kind == "f" and not np.isfinite(read).all():
        raise _wrong(name, path, "holds NaN or infinite values, or such that float32 cannot hold")
    return read


def as_column(values: np.ndarray) -> np.ndarray:
    """Numbers as columns hold them: f32 of floating-point ones, u8 and bool as they are, i64 of other integers."""
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values, np.float32)
    if values.dtype in (np.uint8, np.bool_):
        return np.ascontiguousarray(values)
    return values.astype(np.int64)


def _wrong(name: str, path: Path, what: str) -> UserError:
    return UserError(
        f"the column '{name}' {what}",
        where=str(path),
        cure=f"Write the file again for this scan, or correct dataset.columns.{name}",
    )


def _load(path: Path, column: Column, name: str) -> np.ndarray:
    """The array as it lies in the file."""
    kind = f"file of the column '{name}'"
    cure = f"Write it again for this scan, or correct dataset.columns.{name}.file"
    if path.suffix == ".npy":
        return read_array(path, kind, cure=cure)
    arrays = read_arrays(path, kind, only=column.key, cure=cure)
    if not arrays:
        arrays = read_arrays(path, kind, cure=cure)  # to name what there is
    return arrays[_key(list(arrays), column, name, path)]


def _key(found: list[str], column: Column, name: str, path: Path) -> str:
    """The array of an archive that the column is."""
    if column.key is None and len(found) == 1:
        return found[0]
    if column.key not in found:
        wanted = "one array only" if column.key is None else f"an array '{column.key}'"
        raise UserError(
            f"the column '{name}' needs {wanted}; the file has {', '.join(found) or 'none'}",
            where=str(path),
            cure=f"Set dataset.columns.{name}.key to one of them",
        )
    return column.key
