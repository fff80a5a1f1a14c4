"""Waymo's Parquet tables at true size for benchmarks/waymo.py, and the plain way to read a frame of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from core.datasets.waymo.frame import LASERS, TOP, CameraImage, Context, Frame, RangeImage
from core.datasets.waymo.v2 import components as columns
from core.datasets.waymo.v2.segment import TableSegment
from core.datasets.waymo.v2.writer import write_tables

FRAMES = 52  # the first row group of 256 rows is then full, as in the official files
SMALL = 200, 600  # rows and columns of the four other lidars
STEP = 100_000  # microseconds
_EVERY = 5  # frame has labels
_GROUP_BYTES = 4 << 30
Taken = tuple[Frame, Mapping[str, CameraImage]]


def write_true_size(folder: Path, context: Context, taken: Taken) -> None:
    """Write ``FRAMES`` times the same frame, with four lidars more."""
    frame, images = taken
    returns = dict(frame.returns)
    for name in LASERS.values():
        if name != TOP:
            returns[name] = tuple(_smaller(image) for image in frame.returns[TOP])
    whole = dataclasses.replace(frame, returns=returns)
    write_tables(folder, context, _repeated(whole, images, FRAMES), group_bytes=_GROUP_BYTES)


def write_many(folder: Path, context: Context, taken: Taken, count: int) -> None:
    """Write ``count`` frames of five lidars with few pixels: an index reads the keys alone."""
    frame, _ = taken
    tiny = [RangeImage(image.values[:2, :5], None) for image in frame.returns[TOP]]
    assert frame.pixel_pose is not None
    small = dataclasses.replace(
        frame,
        returns={name: tuple(tiny) for name in LASERS.values()},
        pixel_pose=frame.pixel_pose[:2, :5],
    )
    write_tables(folder, context, _repeated(small, {}, count))


def _smaller(image: RangeImage) -> RangeImage:
    return RangeImage(np.resize(image.values, (*SMALL, 4)), None)


def _repeated(frame: Frame, images: Mapping[str, CameraImage], count: int) -> Iterator[Taken]:
    """The frame with rising timestamps; every fifth keeps its labels."""
    bare = tuple(RangeImage(image.values, None) for image in frame.returns[TOP])
    without = dataclasses.replace(frame, returns={**frame.returns, TOP: bare})
    for number in range(count):
        one = without if number % _EVERY else frame
        yield dataclasses.replace(one, timestamp=frame.timestamp + number * STEP), images


# --- the plain way ----------------------------------------------------------------------------------------------------
def read_plain(folder: Path, name: str, timestamp: int) -> Frame:
    """Read TOP of a frame through ``read_table(filters=…).to_pylist()``."""
    lidar, labels, poses = (
        _row(folder / tag / f"{name}.parquet", timestamp)
        for tag in ("lidar", "lidar_segmentation", "lidar_pose")
    )
    vehicle = pq.read_table(
        folder / "vehicle_pose" / f"{name}.parquet", filters=[(columns.TIMESTAMP, "==", timestamp)]
    ).to_pylist()[0]
    returns = []
    for values, label in zip(columns.LIDAR, columns.SEGMENTATION):
        returns.append(
            RangeImage(_image(lidar, values, np.float32), _image(labels, label, np.int32))
        )
    pose = np.array(vehicle[columns.VEHICLE_POSE]).reshape(4, 4)
    pixel_pose = _image(poses, columns.PIXEL_POSE, np.float32)
    return Frame(name, timestamp, pose, {TOP: tuple(returns)}, pixel_pose)


def _row(path: Path, timestamp: int) -> dict[str, Any]:
    keys = [(columns.TIMESTAMP, "==", timestamp), (columns.LASER, "==", 1)]
    return pq.read_table(path, filters=keys).to_pylist()[0]  # type: ignore[no-any-return]


def _image(row: dict[str, Any], name: str, dtype: type) -> np.ndarray:
    return np.array(row[f"{name}.values"], dtype).reshape(row[f"{name}.shape"])


# --- ours -------------------------------------------------------------------------------------------------------------
def labelled_row(segment: TableSegment) -> np.void:
    """A frame in the middle of the row group that has labels."""
    rows = segment.frames()
    return rows[FRAMES // 2 // _EVERY * _EVERY]  # type: ignore[no-any-return]
