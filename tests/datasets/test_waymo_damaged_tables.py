"""Waymo v2: tables that are damaged, cut short, of another segment or contradict each other are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from waymo_frames import NAME, context
from waymo_tables import (
    LABELLED,
    LASER,
    LIDAR,
    VEHICLE,
    assert_equal,
    frames,
    rewrite,
    segment,
    write_reference,
)

from core.datasets.waymo.frame import TOP
from core.datasets.waymo.v2.writer import write_tables
from core.errors import UserError

FIRST, SECOND = f"{LIDAR}.range_image_return1", f"{LIDAR}.range_image_return2"
LABELS = "[LiDARSegmentationLabelComponent].range_image_return1"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return write_reference(tmp_path)


def frames_refused(folder: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        segment(folder).frames()
    assert NAME in str(caught.value.where)


def test_a_table_of_another_segment_is_refused(copy: Path) -> None:
    def rename(rows: list[dict]) -> None:
        rows[-1]["key.segment_context_name"] = "other"

    for tag in ("lidar", "vehicle_pose", "lidar_segmentation"):
        rewrite(copy, tag, rename)
        frames_refused(copy, r"key\.segment_context_name: holds rows of segment 'other'")
        rewrite(copy, tag, lambda rows: None)


def test_two_rows_of_one_key_are_refused(copy: Path) -> None:
    rewrite(copy, "lidar", lambda rows: [*rows, rows[0]])
    frames_refused(copy, r"rows \d+ and \d+ have the same key \(1553735853462203, 1\)")


def test_a_labelled_frame_without_range_images_is_refused(copy: Path) -> None:
    time = frames()[LABELLED[0]][0].timestamp
    rewrite(
        copy,
        "lidar",
        lambda rows: [row for row in rows if row["key.frame_timestamp_micros"] != time],
    )
    frames_refused(copy, f"lacks the frame at {time} µs that lidar_segmentation has")


def test_a_frame_without_pose_is_refused(copy: Path) -> None:
    rewrite(copy, "vehicle_pose", lambda rows: rows[1:])
    frames_refused(copy, "lacks the frame at 1553735853462203 µs that lidar has")


def test_a_pose_that_is_no_rigid_transform_is_refused(copy: Path) -> None:
    rewrite(copy, "vehicle_pose", lambda rows: rows[0].update({VEHICLE: [2.0] * 16}))
    frames_refused(copy, "the pose in row . has another last row than 0 0 0 1")


def test_wrong_columns_are_refused_by_name(copy: Path) -> None:
    def without(name: str):
        return lambda rows: [{key: row[key] for key in row if key != name} for row in rows]

    key, stamp = "key.segment_context_name", "key.frame_timestamp_micros"
    rewrite(copy, "lidar", without(key))
    frames_refused(copy, rf"column {key}: the table has 0 columns of this name")
    rewrite(copy, "lidar", without(stamp))
    frames_refused(copy, rf"column {stamp}: the table has 0 columns")
    rewrite(copy, "lidar", lambda rows: None, {stamp: pa.float64()})
    frames_refused(copy, rf"column {stamp}: holds double; integers are expected")
    rewrite(copy, "lidar", lambda rows: rows[0].update({stamp: None}))
    frames_refused(copy, rf"column {stamp}: 1 of 8 values are null")
    rewrite(copy, "lidar", lambda rows: rows[0].update({LASER: 7}))
    frames_refused(copy, r"column key.laser_name: 7 is no sensor; there are 1 \(TOP\)")
    rewrite(copy, "lidar", lambda rows: None, {LASER: pa.float32()})
    frames_refused(copy, r"column key.laser_name: holds float; texts are expected")


@pytest.mark.parametrize(
    ("cells", "match"),
    [
        ({f"{FIRST}.values": None, f"{FIRST}.shape": None}, "TOP has no range image"),
        ({f"{FIRST}.values": None}, "return1.values: .* holds 1 values, and the shapes beside it ask for 240"),
        ({f"{FIRST}.shape": [6, 10, 5]}, r"return1\.values: cannot be read"),
        ({f"{FIRST}.shape": [6, 20, 2]}, "return1.values: row . holds 240 values .* H x W x 4 numbers"),
        ({f"{FIRST}.shape": [-6, -10, 4]}, "return1.shape: holds a side below 0"),
        ({f"{FIRST}.shape": [2**20, 2**20, 4]}, "return1.shape: .* more than 67108864 values"),
        ({f"{FIRST}.shape": [2**30, 2**30, 16]}, "return1.shape: .* more than 67108864 values"),
        ({f"{FIRST}.values": [float("nan")] * 240}, "return1.values: holds NaN or infinite values"),
        ({f"{FIRST}.values": [None] * 240}, "return1.values: cannot be read .*nulls"),
        ({f"{SECOND}.shape": [2, 30, 4]}, "return2.values: has 2 x 30 pixels; .* has 6 x 10"),
        ({f"{SECOND}.values": None}, "return2.values: .* holds 1 values, and the shapes"),
    ],
)  # fmt: skip
def test_range_images_that_contradict_themselves_are_refused(
    copy: Path, cells: dict, match: str
) -> None:
    rewrite(copy, "lidar", lambda rows: rows[0].update(cells), row_group_size=1)
    one = segment(copy)
    with pytest.raises(UserError, match=match):
        one.read(one.frames()[0])


@pytest.mark.parametrize(
    ("tag", "cells", "match"),
    [
        (
            "lidar_segmentation",
            {f"{LABELS}.values": [23] * 120},
            "holds other classes than 0 to 22",
        ),
        (
            "lidar_segmentation",
            {f"{LABELS}.values": [-1] * 120},
            "holds other classes than 0 to 22",
        ),
        (
            "lidar_segmentation",
            {f"{LABELS}.values": None, f"{LABELS}.shape": None},
            "row . is null",
        ),
        ("lidar_segmentation", {f"{LABELS}.shape": [2, 30, 2]}, "has 2 x 30 pixels"),
    ],
)
def test_labels_that_fit_no_range_image_are_refused(
    copy: Path, tag: str, cells: dict, match: str
) -> None:
    rewrite(copy, tag, lambda rows: rows[0].update(cells), row_group_size=1)
    one = segment(copy)
    with pytest.raises(UserError, match=match):
        one.read(one.frames()[LABELLED[0]])


def test_labels_of_another_type_and_lost_pixel_poses_are_refused(copy: Path) -> None:
    rewrite(
        copy, "lidar_segmentation", lambda rows: None, {f"{LABELS}.values": pa.list_(pa.float32())}
    )
    one = segment(copy)
    rows = one.frames()
    with pytest.raises(UserError, match="holds float32; integers are expected"):
        one.read(rows[LABELLED[0]])
    rewrite(copy, "lidar_pose", lambda rows: rows[1:])
    with pytest.raises(UserError, match="lacks TOP of the frame at 1553735853462203"):
        one.read(rows[0])


def test_a_table_that_was_replaced_since_is_noticed(copy: Path) -> None:
    one = segment(copy)
    rows = one.frames()
    rewrite(copy, "lidar", lambda rows: rows[:-2])
    with pytest.raises(UserError, match="list them again"):
        one.read(rows[3])


def test_inclinations_that_do_not_rise_are_refused(copy: Path) -> None:
    angles = "[LiDARCalibrationComponent].beam_inclination.values"
    rewrite(copy, "lidar_calibration", lambda rows: rows[1].update({angles: [0.1, 0.0, 0.2, 0.3]}))
    one = segment(copy)
    with pytest.raises(
        UserError, match=r"beam_inclination\.values: the angles of row . do not rise"
    ):
        one.context()


@pytest.mark.parametrize("content", [None, b"", b"GIF89a"])
def test_what_is_no_jpeg_is_refused(copy: Path, content: bytes | None) -> None:
    cells = {"[CameraImageComponent].image": content}
    rewrite(copy, "camera_image", lambda rows: rows[0].update(cells))
    one = segment(copy)
    with pytest.raises(UserError, match="holds no JPEG"):
        one.images(one.frames()[0], ["FRONT"])


def test_a_file_of_another_kind_names_the_other_format(copy: Path) -> None:
    path = copy / "lidar" / f"{NAME}.parquet"
    for content in (b"", b"PA", b"\x10\0\0\0\0\0\0\0" * 9):
        path.unlink()
        path.write_bytes(content)
        frames_refused(copy, r"no Parquet file\. .*dataset\.format v1")
    path.unlink()
    path.write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    frames_refused(copy, "the footer: cannot be read")
    path.unlink()
    path.mkdir()
    frames_refused(copy, "cannot be read")


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """In any page of our own tables, wherever it lies."""
    write_tables(tmp_path, context(), frames())
    one = segment(tmp_path)
    expected = [frame for frame, _ in frames()]
    refused = 0
    for tag in ("lidar", "lidar_pose", "lidar_segmentation", "vehicle_pose"):
        path = tmp_path / tag / f"{NAME}.parquet"
        content = path.read_bytes()
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        for place in np.random.default_rng(0).integers(4, footer, 12):
            damaged = bytearray(content)
            damaged[place] ^= 1 << int(place % 8)
            path.write_bytes(damaged)
            try:
                found = [one.read(row, (TOP, "REAR")) for row in one.frames()]
            except UserError:
                refused += 1
                continue
            for frame, right in zip(found, expected, strict=True):
                assert_equal(frame, right)
        path.write_bytes(content)
    assert refused > 24


def test_a_damaged_schema_does_not_end_the_process(copy: Path) -> None:
    """Flips that make pyarrow's ``metadata.row_group(0).column(0)`` throw where nothing catches it."""
    path = copy / "lidar" / f"{NAME}.parquet"
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    refused = 0
    for place in range(start + 16, start + 28):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                segment(copy).frames()
            except UserError:
                refused += 1
    assert refused > 40
