"""Formats of scan files. A new one is a function here and a line in ``SCAN_FORMATS``.

Every format becomes a table: columns by name in the file's order, one value per point each, in the file's own number
type. What of it are coordinates, intensity and further columns is said by :mod:`core.datasets.scan_columns`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.datasets.point_fields import check_point_fields
from core.decode import decoding, read_array, read_arrays
from core.errors import UserError

if TYPE_CHECKING:
    import types

__all__ = [
    "SCAN_FORMATS",
    "Table",
    "check_scan_file",
    "has_fixed_rows",
    "read_table",
    "stem_of",
    "suffix_of",
]

Table = dict[str, np.ndarray]
_FIRST = ("x", "y", "z", "intensity")  # columns of an array whose columns have no names
_UNPACKED = 1 << 32  # bytes that a compressed scan may become
_HEADER_LINES = 64  # of a .pcd file


def read_table(path: Path, fields: int) -> Table:
    """Read a scan.

    Args:
        fields: values per point where the file does not say it: float32 files and arrays.

    Returns:
        columns [N] by name, N > 0; without names they are x, y, z, intensity, 4, 5, …

    Raises:
        UserError: the file is missing or damaged, holds no points, has another number of values per point, or needs a
            package that is not installed.
    """
    read = SCAN_FORMATS.get(suffix_of(path), _read_bin)
    table = read(path, fields)
    if not len(next(iter(table.values()), ())):
        raise UserError("the scan holds no points", where=str(path), cure="Copy the file again")
    for name, column in table.items():
        if column.dtype.kind not in "fiub":
            raise UserError(
                f"the column '{name}' holds {column.dtype}; expected numbers", where=str(path)
            )
    return table


def check_scan_file(path: Path, fields: int) -> None:
    """Refuse a float32 file that has another number of values per point; files of other kinds say it themselves.

    Raises:
        UserError: it has, or cannot be read.
    """
    if has_fixed_rows(path):
        _read_bin(path, fields)


def suffix_of(path: Path) -> str:
    """Suffix of a scan file in lower case."""
    return path.suffix.lower()


def stem_of(path: Path) -> str:
    """The name of a scan file without its suffix, which may be a double one: ``.pcd.bin``."""
    name = path.name
    if name.lower().endswith(".pcd.bin"):
        return name[: -len(".pcd.bin")]
    return os.path.splitext(name)[0]


def has_fixed_rows(path: Path) -> bool:
    """Whether the file is an array of float32 alone, so that its size tells the number of its points."""
    return SCAN_FORMATS.get(suffix_of(path), _read_bin) is _read_bin


def _read_bin(path: Path, fields: int) -> Table:
    """Float32, ``fields`` values per point."""
    with decoding(path, "scan"):
        values = np.fromfile(path, "<f4")
        size = path.stat().st_size
    check_point_fields(path, values, size, fields)
    return _unnamed(values.reshape(-1, fields))


def _read_npy(path: Path, fields: int) -> Table:
    """One array: numbers [points, fields], or records with a name for each column."""
    values = read_array(path, "scan", cure="Save it with numpy.save")
    if values.dtype.names is not None:
        return {name: values[name].reshape(len(values), -1)[:, 0] for name in values.dtype.names}
    if values.ndim != 2 or values.shape[1] != fields or values.dtype.kind not in "fiu":
        raise UserError(
            f"the array is {values.dtype} {list(values.shape)}; expected numbers [points, {fields}]",
            where=str(path),
            cure="One row per point: x, y, z (m), intensity, …; dataset.point_fields says how many values",
        )
    return _unnamed(values)


def _read_npz(path: Path, fields: int) -> Table:
    """Arrays [points] are columns by name, arrays [points, 3] called xyz are three; one alone is read as ``.npy``."""
    arrays = read_arrays(path, "scan")
    table: Table = {}
    count = max((len(array) for array in arrays.values() if array.ndim), default=0)
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != count:
            continue  # about the scan, not its points
        if array.ndim == 1:
            table[name] = array
        elif name.lower() in ("xyz", "points") and array.ndim == 2:
            table |= _unnamed(array)
    if not {"x", "y", "z"} <= {name.lower() for name in table}:
        shapes = [f"{name} {list(array.shape)}" for name, array in arrays.items()]
        raise UserError(
            f"the archive holds {', '.join(shapes) or 'nothing'}",
            where=str(path),
            cure="Expected columns x, y, z, intensity [points], or xyz [points, 3] and intensity",
        )
    return table


def _unnamed(values: np.ndarray) -> Table:
    """Columns [N] of an array [N, F]."""
    table: Table = {}
    for place in range(values.shape[1]):
        name = _FIRST[place] if place < len(_FIRST) else str(place)
        table[name] = values[:, place]
    return table


def _read_pcd(path: Path, fields: int) -> Table:
    """Point Cloud Library: ASCII, binary and compressed."""
    pypcd4 = _package("pypcd4", "pcd", path)
    with decoding(path, "scan"):
        _check_pcd_size(path, pypcd4)
        try:
            cloud = pypcd4.PointCloud.from_path(path)
        except RuntimeError as error:  # data that unpack to another size than they say
            raise ValueError(str(error)) from error
        values = np.atleast_1d(cloud.pc_data)
        if len(values) != cloud.points:
            raise ValueError(f"{len(values)} points, but its header says {cloud.points}")
        names = values.dtype.names or ()
        return {name: values[name] for name in names if name in cloud.fields}


def _check_pcd_size(path: Path, pypcd4: types.ModuleType) -> None:
    """Compare what the header of a .pcd file asks for with what is there.

    Raises:
        ValueError: the file is cut short, or its header is no such header.
    """
    lines: list[str] = []
    with path.open("rb") as stream:
        while not (lines and lines[-1].startswith("DATA")):
            line = stream.readline(4096)
            if not line or len(lines) > _HEADER_LINES:
                raise ValueError("its header has no DATA line")
            lines.append(line.decode().strip())
        meta = pypcd4.pypcd4.MetaData.parse_header(lines)
        body = path.stat().st_size - stream.tell()
        packed = stream.read(8)
    widths = {len(meta.fields), len(meta.size), len(meta.type), len(meta.count)}
    if len(widths) > 1:
        raise ValueError("FIELDS, SIZE, TYPE and COUNT of its header differ in length")
    points = meta.points * meta.build_dtype().itemsize
    if meta.data.value == "binary" and body < points:
        raise ValueError(f"{body} bytes of points, but its header says {points}")
    if meta.data.value.startswith("binary_") and meta.points:
        kept, unpacked = np.frombuffer(packed, "<u4").tolist()
        if unpacked != points or kept > body - 8:
            raise ValueError(f"its header says {points} bytes, the packed points say {unpacked}")


def _read_las(path: Path, fields: int) -> Table:
    """LAS and LAZ; coordinates are f64 m, scaled and shifted as the header says."""
    laspy = _package("laspy", "las", path)
    if suffix_of(path) == ".laz":
        _package("lazrs", "las", path)
    with decoding(path, "scan"):
        _check_records(path)
        try:
            # One thread: the pool of the parallel reader does not survive a fork, and loader workers would wait for it
            # for ever once this process has read a file.
            with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs) as stream:
                header = stream.header
                wanted = header.point_count * header.point_format.size
                if wanted > _UNPACKED:
                    raise ValueError(f"its header asks for {wanted} bytes")
                if header.are_points_compressed:
                    _check_chunks(path, header.offset_to_point_data, header.point_count)
                cloud = stream.read()
        except (laspy.errors.LaspyException, RuntimeError) as error:
            raise ValueError(str(error)) from error
        if len(cloud.points) != header.point_count:
            raise ValueError(f"{len(cloud.points)} points; its header says {header.point_count}")
        table = {name: np.asarray(cloud[name]) for name in ("x", "y", "z")}
        for name in cloud.point_format.dimension_names:
            column = np.asarray(cloud[name])
            if column.ndim == 1 and name not in ("X", "Y", "Z"):
                table[name] = column
        return table


def _check_records(path: Path) -> None:
    """Compare a .las file's number of variable-length records with its size; laspy reads as many as the header says.

    Raises:
        ValueError: they do not fit.
    """
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        header = stream.read(375)
    length = int.from_bytes(header[94:96], "little")
    points = int.from_bytes(header[96:100], "little")
    records = int.from_bytes(header[100:104], "little")
    if not length <= points <= size or records * 54 > points - length:
        raise ValueError(f"its header says {records} records before byte {points} of {size}")
    if length >= 375:  # version 1.4 may have more behind the points
        start = int.from_bytes(header[235:243], "little")
        records = int.from_bytes(header[243:247], "little")
        if records and start + records * 60 > size:
            raise ValueError(f"its header says {records} records from byte {start} of {size}")


def _check_chunks(path: Path, start: int, points: int) -> None:
    """Look at the table of a .laz file's chunks, which the decoder believes: it may ask for any memory and time.

    Args:
        start: of the packed points, bytes; first stands where the table is, -1 = the last eight bytes say it.

    Raises:
        ValueError: the table is not between the points and the end of the file, or counts more chunks than points.
    """
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        place = -1
        for where in (start, size - 8):
            if place == -1 and 0 <= where <= size - 8:
                stream.seek(where)
                place = int.from_bytes(stream.read(8), "little", signed=True)
        if not start + 8 <= place <= size - 8:
            raise ValueError(f"its table of chunks would lie at byte {place} of {size}")
        stream.seek(place + 4)  # behind the version
        chunks = int.from_bytes(stream.read(4), "little")
    if chunks > max(points, 1):
        raise ValueError(f"its table counts {chunks} chunks of {points} points")


def _package(name: str, extra: str, path: Path) -> types.ModuleType:
    """A package that only some formats need.

    Raises:
        UserError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"scans of this format need the package {name}, which is not installed",
            where=str(path),
            cure=f"Run 'pip install \"{PACKAGES[extra]}\"', or convert the scans to .npy",
        ) from error


PACKAGES = {"pcd": "pypcd4==1.5.1", "las": "laspy[lazrs]==2.7.0"}  # as in pyproject.toml
SCAN_FORMATS: dict[str, Callable[[Path, int], Table]] = {  # by suffix; others are read as .bin
    ".bin": _read_bin,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pcd": _read_pcd,
    ".las": _read_las,
    ".laz": _read_las,
}
