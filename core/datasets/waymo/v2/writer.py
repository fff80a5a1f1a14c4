"""Writes a segment as the Parquet tables of the Waymo Open Dataset, v2, in the types of its newest release.

Of each table the columns are written that are read here; the official ones have more (counts of objects, velocities,
times of the shutter). Pages carry checksums, unlike the official ones, so that a damaged table is found out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.datasets.waymo.frame import CAMERAS, LASERS, TOP, CameraImage, Context, Frame
from core.datasets.waymo.v2 import components as columns
from core.io import atomic_path

__all__ = ["write_tables"]

_GROUP_ROWS = 256  # as in the official files
_GROUP_BYTES = 256 << 20
_TRANSFORM = pa.list_(pa.float64(), 16)
_DTYPES = {pa.float64(): np.float64, pa.float32(): np.float32, pa.int32(): np.int32}
_SHAPE = pa.list_(pa.int32(), 3)
# Official files have lists of fixed size here, too, which are the same on disk; but pyarrow writes and reads those only
# as long as none is null.
_SHAPE_OR_NULL = pa.list_(pa.int32())
_LASER_NUMBERS = {name: number for number, name in LASERS.items()}
_CAMERA_NUMBERS = {name: number for number, name in CAMERAS.items()}
_KEY_TYPES = {columns.TIMESTAMP: pa.int64(), columns.LASER: pa.int8(), columns.CAMERA: pa.int8()}
# pyarrow looks at a page's size after that many values: official row groups of images are one page of 100 MB.
_OPTIONS: dict[str, dict[str, Any]] = {
    "camera_image": {"write_batch_size": 1, "use_dictionary": False}
}
Cell = Any  # of a row: number, text, bytes, array or None
Images = Mapping[str, CameraImage]


def write_tables(
    folder: Path,
    context: Context,
    frames: Iterable[tuple[Frame, Images]],
    *,
    group_bytes: int = _GROUP_BYTES,
) -> None:
    """Write ``<tag>/<context_name>.parquet`` of all tags below a split's folder; each file is whole or absent.

    Args:
        frames: of the segment in any order, with their images by camera; they are gone through once.
        group_bytes: values of a table that are held at most; a row group ends there, or at 256 rows.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    with ExitStack() as stack:  # "lidar", by which a segment is found, is the last to get its name
        tables = {}
        for tag in columns.KEYS:
            path = folder / tag / f"{context.name}.parquet"
            tables[tag] = stack.enter_context(_writing(path, tag, context.name, group_bytes))
        _add_calibrations(tables, context)
        for frame, images in frames:
            _add_frame(tables, frame, context)
            _add_images(tables["camera_image"], frame, images)


@contextmanager
def _writing(path: Path, tag: str, segment: str, group_bytes: int) -> Iterator[_TableWriter]:
    with atomic_path(path) as temporary:
        writer = _TableWriter(temporary, tag, segment, group_bytes)
        try:
            yield writer
            writer.flush()
        finally:
            writer.close()


class _TableWriter:
    """A table under way; rows become a row group when there are enough of them."""

    def __init__(self, path: Path, tag: str, segment: str, group_bytes: int) -> None:
        self._segment, self._group_bytes = segment, group_bytes
        self._schema = _schema(tag)
        self._rows: list[tuple[Cell, ...]] = []
        self._bytes = 0
        self._writer = pq.ParquetWriter(
            path, self._schema, write_page_checksum=True, **_OPTIONS.get(tag, {})
        )

    def add(self, *cells: Cell) -> None:
        """Add a row, its cells as the columns behind the segment's name come."""
        self._rows.append((self._segment, *cells))
        for cell in cells:
            self._bytes += _size(cell)
        if len(self._rows) == _GROUP_ROWS or self._bytes >= self._group_bytes:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are held as a row group."""
        if not self._rows:
            return
        arrays = []
        for cells, field in zip(zip(*self._rows), self._schema):
            arrays.append(_array(cells, field.type))
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        self._writer.close()


def _size(cell: Cell) -> int:
    if isinstance(cell, np.ndarray):
        return cell.nbytes
    return len(cell) if isinstance(cell, bytes) else 8


def _schema(tag: str) -> pa.Schema:
    fields = {columns.SEGMENT: pa.string()}
    for key in columns.KEYS[tag]:
        fields[key] = _KEY_TYPES[key]
    return pa.schema([*fields.items(), *_VALUES[tag].items()])


def _image_types(names: Iterable[str], value: pa.DataType) -> dict[str, pa.DataType]:
    types = {}
    for place, name in enumerate(names):
        types[f"{name}.values"] = pa.list_(value)
        types[f"{name}.shape"] = _SHAPE if place == 0 else _SHAPE_OR_NULL
    return types


_VALUES: dict[str, dict[str, pa.DataType]] = {
    "lidar": _image_types(columns.LIDAR, pa.float32()),
    "lidar_segmentation": _image_types(columns.SEGMENTATION, pa.int32()),
    "lidar_calibration": {
        f"{columns.LIDAR_CALIBRATION}.extrinsic.transform": _TRANSFORM,
        f"{columns.LIDAR_CALIBRATION}.beam_inclination.min": pa.float64(),
        f"{columns.LIDAR_CALIBRATION}.beam_inclination.max": pa.float64(),
        f"{columns.LIDAR_CALIBRATION}.beam_inclination.values": pa.list_(pa.float64()),
    },
    "lidar_pose": _image_types([columns.PIXEL_POSE], pa.float32()),
    "vehicle_pose": {columns.VEHICLE_POSE: _TRANSFORM},
    "stats": {f"{columns.STATS}.{name}": pa.string() for name in columns.STATISTICS},
    "camera_image": {
        f"{columns.IMAGE}.image": pa.binary(),
        f"{columns.IMAGE}.pose.transform": _TRANSFORM,
    },
    "camera_calibration": {
        **{f"{columns.CAMERA_CALIBRATION}.intrinsic.{k}": pa.float64() for k in columns.INTRINSICS},
        f"{columns.CAMERA_CALIBRATION}.extrinsic.transform": _TRANSFORM,
        f"{columns.CAMERA_CALIBRATION}.width": pa.int32(),
        f"{columns.CAMERA_CALIBRATION}.height": pa.int32(),
        f"{columns.CAMERA_CALIBRATION}.rolling_shutter_direction": pa.int8(),
    },
}


def _array(cells: tuple[Cell, ...], kind: pa.DataType) -> pa.Array:
    """A column; the values of lists become one array, without a Python object for each."""
    if pa.types.is_list(kind):
        lengths = [0 if cell is None else cell.size for cell in cells]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        there = [cell for cell in cells if cell is not None]
        mask = pa.array([cell is None for cell in cells])
        return pa.ListArray.from_arrays(offsets, _joined(there, kind), type=kind, mask=mask)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(_joined(cells, kind), type=kind)
    return pa.array(cells, kind)


def _joined(cells: Sequence[np.ndarray], kind: pa.DataType) -> pa.Array:
    dtype = _DTYPES[kind.value_type]
    values = [np.empty(0, dtype), *(np.ravel(cell).astype(dtype, copy=False) for cell in cells)]
    return pa.array(np.concatenate(values))


# --- rows -------------------------------------------------------------------------------------------------------------
def _add_calibrations(tables: Mapping[str, _TableWriter], context: Context) -> None:
    for name, laser in context.lasers.items():
        tables["lidar_calibration"].add(
            _LASER_NUMBERS[name], laser.extrinsic, *laser.limits, laser.inclinations
        )
    for name, camera in context.cameras.items():
        matrix = camera.matrix
        tables["camera_calibration"].add(
            _CAMERA_NUMBERS[name],
            *(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], *camera.distortion),
            camera.extrinsic,
            *camera.size,
            camera.shutter,
        )


def _add_frame(tables: Mapping[str, _TableWriter], frame: Frame, context: Context) -> None:
    time = frame.timestamp
    tables["vehicle_pose"].add(time, frame.pose)
    tables["stats"].add(time, *(context.stats.get(name) for name in columns.STATISTICS))
    for name, returns in frame.returns.items():
        key = time, _LASER_NUMBERS[name]
        tables["lidar"].add(*key, *_image_cells([image.values for image in returns], 2))
        if returns[0].labels is not None:
            cells = _image_cells([image.labels for image in returns], 2)
            tables["lidar_segmentation"].add(*key, *cells)
    if frame.pixel_pose is not None:
        cells = _image_cells([frame.pixel_pose], 1)
        tables["lidar_pose"].add(time, _LASER_NUMBERS[TOP], *cells)


def _add_images(table: _TableWriter, frame: Frame, images: Images) -> None:
    for name, image in images.items():
        table.add(frame.timestamp, _CAMERA_NUMBERS[name], image.content, image.pose)


def _image_cells(images: Sequence[np.ndarray | None], count: int) -> list[np.ndarray | None]:
    """Values and shapes of ``count`` range images, both null where there is none."""
    cells: list[np.ndarray | None] = []
    for image in [*images, *[None] * (count - len(images))]:
        cells += [image, None if image is None else np.array(image.shape)]
    return cells
