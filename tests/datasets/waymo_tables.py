"""Tables of a Waymo segment (v2) as pyarrow writes them from plain lists, in the schema of the official library.

The rows are shuffled, each table on its own, and there is a column ``index``, as in some releases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from waymo_frames import CAMERA_NUMBERS, LASER_NUMBERS, NAME, context, frame, images

from core.datasets.waymo.frame import TOP, CameraImage, Context, Frame, RangeImage
from core.datasets.waymo.v2.segment import TableSegment

LABELLED = (1, 3)
K1 = ("key.segment_context_name", "key.frame_timestamp_micros")
LASER, CAMERA = "key.laser_name", "key.camera_name"
Row = dict[str, Any]
Taken = tuple[Frame, dict[str, CameraImage]]


def frames(count: int = 4) -> list[Taken]:
    """Frames of which ``LABELLED`` have labels; the second lacks its second return."""
    made = []
    for number in range(count):
        one = frame(number, labelled=number in LABELLED)
        if number == 1:
            one = replace(one, returns={**one.returns, TOP: one.returns[TOP][:1]})
        made.append((one, images(number)))
    return made


def image_cells(name: str, image: np.ndarray | None) -> Row:
    if image is None:
        return {f"{name}.values": None, f"{name}.shape": None}
    return {f"{name}.values": image.ravel().tolist(), f"{name}.shape": list(image.shape)}


def image_types(name: str, value: pa.DataType) -> dict[str, pa.DataType]:
    """Second returns may be null, which pyarrow cannot write in lists of fixed size unless a row group has one row."""
    shape = pa.list_(pa.int32()) if name.endswith("2") else pa.list_(pa.int32(), 3)
    return {f"{name}.values": pa.list_(value), f"{name}.shape": shape}


BEAMS, LENSES = "[LiDARCalibrationComponent]", "[CameraCalibrationComponent]"
IMAGE = "[CameraImageComponent]"
LIDAR, LABEL = "[LiDARComponent]", "[LiDARSegmentationLabelComponent]"
POSE, VEHICLE = "[LiDARPoseComponent]", "[VehiclePoseComponent].world_from_vehicle.transform"
MATRIX = pa.list_(pa.float64(), 16)
TYPES: dict[str, pa.DataType] = {
    "key.segment_context_name": pa.string(),
    "key.frame_timestamp_micros": pa.int64(),
    LASER: pa.int8(),
    CAMERA: pa.int8(),
    **image_types(f"{LIDAR}.range_image_return1", pa.float32()),
    **image_types(f"{LIDAR}.range_image_return2", pa.float32()),
    **image_types(f"{LABEL}.range_image_return1", pa.int32()),
    **image_types(f"{LABEL}.range_image_return2", pa.int32()),
    **image_types(f"{POSE}.range_image_return1", pa.float32()),
    VEHICLE: MATRIX,
    f"{BEAMS}.extrinsic.transform": MATRIX,
    f"{BEAMS}.beam_inclination.min": pa.float64(),
    f"{BEAMS}.beam_inclination.max": pa.float64(),
    f"{BEAMS}.beam_inclination.values": pa.list_(pa.float64()),
    "[StatsComponent].time_of_day": pa.string(),
    "[StatsComponent].location": pa.string(),
    "[StatsComponent].weather": pa.string(),
    f"{IMAGE}.image": pa.binary(),
    f"{IMAGE}.pose.transform": MATRIX,
    f"{LENSES}.extrinsic.transform": MATRIX,
    f"{LENSES}.width": pa.int32(),
    f"{LENSES}.height": pa.int32(),
    f"{LENSES}.rolling_shutter_direction": pa.int8(),
    "index": pa.int64(),
}
LENS = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
for coefficient in LENS:
    TYPES[f"{LENSES}.intrinsic.{coefficient}"] = pa.float64()


def rows_of(shared: Context, made: Sequence[Taken]) -> dict[str, list[Row]]:
    """The rows of all tables by tag."""
    tables: dict[str, list[Row]] = defaultdict(list)
    tables["lidar_calibration"] = lidar_calibrations(shared)
    tables["camera_calibration"] = camera_calibrations(shared)
    for one, photos in made:
        key = dict(zip(K1, (NAME, one.timestamp)))
        tables["vehicle_pose"].append({**key, VEHICLE: flat(one.pose)})
        stats = {f"[StatsComponent].{name}": value for name, value in shared.stats.items()}
        tables["stats"].append({**key, **stats})
        for name, photo in photos.items():
            cells = {f"{IMAGE}.image": photo.content, f"{IMAGE}.pose.transform": flat(photo.pose)}
            tables["camera_image"].append({**key, CAMERA: CAMERA_NUMBERS[name], **cells})
        for name, found in one.returns.items():
            sensor = {**key, LASER: LASER_NUMBERS[name]}
            add_lidar(tables, sensor, found, one.pixel_pose if name == TOP else None)
    return tables


def add_lidar(
    tables: dict[str, list[Row]],
    key: Row,
    images: Sequence[RangeImage],
    pixel_pose: np.ndarray | None,
) -> None:
    values = [image.values for image in images]
    tables["lidar"].append({**key, **returns(LIDAR, values)})
    labels = [image.labels for image in images if image.labels is not None]
    if labels:
        tables["lidar_segmentation"].append({**key, **returns(LABEL, labels)})
    if pixel_pose is not None:
        cells = image_cells(f"{POSE}.range_image_return1", pixel_pose)
        tables["lidar_pose"].append({**key, **cells})


def returns(component: str, images: Sequence[np.ndarray]) -> Row:
    row: Row = {}
    for place, image in enumerate([*images, None][:2], 1):
        row |= image_cells(f"{component}.range_image_return{place}", image)
    return row


def lidar_calibrations(shared: Context) -> list[Row]:
    rows = []
    for name, one in shared.lasers.items():
        rows.append({
            "key.segment_context_name": NAME,
            LASER: LASER_NUMBERS[name],
            f"{BEAMS}.extrinsic.transform": flat(one.extrinsic),
            f"{BEAMS}.beam_inclination.min": one.limits[0],
            f"{BEAMS}.beam_inclination.max": one.limits[1],
            f"{BEAMS}.beam_inclination.values": None if one.inclinations is None else flat(one.inclinations),
        })  # fmt: skip
    return rows


def camera_calibrations(shared: Context) -> list[Row]:
    rows = []
    for name, one in shared.cameras.items():
        (f_u, _, c_u), (_, f_v, c_v) = one.matrix[:2]
        row = {"key.segment_context_name": NAME, CAMERA: CAMERA_NUMBERS[name]}
        for coefficient, value in zip(LENS, [f_u, f_v, c_u, c_v, *one.distortion]):
            row[f"{LENSES}.intrinsic.{coefficient}"] = float(value)
        row |= {f"{LENSES}.extrinsic.transform": flat(one.extrinsic)}
        row |= {f"{LENSES}.width": one.size[0], f"{LENSES}.height": one.size[1]}
        rows.append(row | {f"{LENSES}.rolling_shutter_direction": one.shutter})
    return rows


def flat(values: np.ndarray) -> list[float]:
    return values.ravel().tolist()


def write_table(
    folder: Path, tag: str, rows: list[Row], types: dict | None = None, **options: Any
) -> Path:
    """Write rows, shuffled, with an ``index`` column; ``types`` replaces some of the official ones."""
    order = np.random.default_rng(len(rows)).permutation(len(rows))
    shuffled = [{**rows[place], "index": int(place)} for place in order]
    known = {**TYPES, **(types or {})}
    arrays = {}
    for name in shuffled[0]:
        arrays[name] = pa.array([row[name] for row in shuffled], known[name])
    path = folder / tag / f"{NAME}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), path, **{"row_group_size": 3, **options})
    return path


def write_reference(folder: Path, types: dict | None = None, **options: Any) -> Path:
    """Write all tables of the segment below a split's folder."""
    for tag, rows in rows_of(context(), frames()).items():
        write_table(folder, tag, rows, types, **options)
    return folder


def rewrite(folder: Path, tag: str, change, types: dict | None = None, **options) -> None:
    """Write one table anew, its rows changed."""
    rows = rows_of(context(), frames())[tag]
    (folder / tag / f"{NAME}.parquet").unlink()
    write_table(folder, tag, change(rows) or rows, types, **options)


def segment(folder: Path) -> TableSegment:
    found = TableSegment.find(folder)
    assert list(found) == [NAME]
    return found[NAME]  # type: ignore[return-value]


def assert_equal(found: Frame, expected: Frame, *, poses: float = 0.0) -> None:
    assert (found.context, found.timestamp) == (expected.context, expected.timestamp)
    np.testing.assert_allclose(found.pose, expected.pose, atol=poses, rtol=0)
    np.testing.assert_array_equal(found.pixel_pose, expected.pixel_pose)
    assert found.pixel_pose.dtype == np.float32
    assert set(found.returns) == set(expected.returns)
    for name, right_images in expected.returns.items():
        assert len(found.returns[name]) == len(right_images)
        for image, right in zip(found.returns[name], right_images):
            np.testing.assert_array_equal(image.values, right.values)
            assert image.values.dtype == np.float32
            assert (image.labels is None) == (right.labels is None)
            if right.labels is not None:
                np.testing.assert_array_equal(image.labels, right.labels)
                assert image.labels.dtype == np.int32
