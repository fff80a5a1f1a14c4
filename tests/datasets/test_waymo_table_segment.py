"""Waymo v2: segments in tables that pyarrow wrote, ours written and read, damaged ones, and two real tables."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from waymo_frames import NAME, context
from waymo_tables import (
    CAMERA,
    LABELLED,
    LASER,
    LIDAR,
    VEHICLE,
    frames,
    rows_of,
    write_reference,
    write_table,
)

from core.datasets.waymo.casts import Place, sensors
from core.datasets.waymo.frame import CAMERAS, FRAME_ROW, LASERS, TOP, CameraCalibration, Frame
from core.datasets.waymo.table_segment import TableSegment
from core.datasets.waymo.table_writer import write_tables
from core.datasets.waymo.tables import open_table
from core.errors import UserError

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata")) / "waymo/v2/training"
WITHOUT = "no real tables; set LIDISTILL_REALDATA"
FIRST = f"{LIDAR}.range_image_return1"
SECOND = f"{LIDAR}.range_image_return2"
LABELS = "[LiDARSegmentationLabelComponent].range_image_return1"


def segment(folder: Path) -> TableSegment:
    found = TableSegment.find(folder)
    assert list(found) == [NAME]
    return found[NAME]  # type: ignore[return-value]


def read_all(folder: Path) -> list[Frame]:
    one = segment(folder)
    return [one.read(row, (TOP, "REAR", "FRONT")) for row in one.frames()]


def assert_equal(found: Frame, expected: Frame, *, poses: float = 0.0) -> None:
    assert (found.context, found.timestamp) == (expected.context, expected.timestamp)
    np.testing.assert_allclose(found.pose, expected.pose, atol=poses, rtol=0)
    np.testing.assert_array_equal(found.pixel_pose, expected.pixel_pose)
    assert found.pixel_pose.dtype == np.float32
    assert set(found.returns) == set(expected.returns)
    for name, images in expected.returns.items():
        assert len(found.returns[name]) == len(images)
        for image, right in zip(found.returns[name], images):
            np.testing.assert_array_equal(image.values, right.values)
            assert image.values.dtype == np.float32
            assert (image.labels is None) == (right.labels is None)
            if right.labels is not None:
                np.testing.assert_array_equal(image.labels, right.labels)
                assert image.labels.dtype == np.int32


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reference(tmp_path_factory.mktemp("waymo_reference"))


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    """Tables of the reference that a test may replace: links, and a new file takes a link's place."""
    for path in reference.glob("*/*.parquet"):
        target = tmp_path / path.relative_to(reference)
        target.parent.mkdir()
        target.symlink_to(path)
    return tmp_path


def replace(folder: Path, tag: str, change, types: dict | None = None, **options) -> None:
    """Write one table anew, its rows changed."""
    rows = rows_of(context(), frames())[tag]
    (folder / tag / f"{NAME}.parquet").unlink()
    write_table(folder, tag, change(rows) or rows, types, **options)


# --- right tables -----------------------------------------------------------------------------------------------------
def test_frames_come_by_time_with_their_pose_and_whether_they_are_labelled(reference: Path) -> None:
    rows = segment(reference).frames()
    expected = [frame for frame, _ in frames()]
    assert rows.dtype == FRAME_ROW
    assert rows["timestamp"].tolist() == [frame.timestamp for frame in expected]
    np.testing.assert_array_equal(rows["pose"], [frame.pose for frame in expected])
    assert np.flatnonzero(rows["labelled"]).tolist() == list(LABELLED)
    assert rows["size"].tolist() == [2] * 4


def test_every_frame_reads_as_it_was_written(reference: Path) -> None:
    for found, (expected, _) in zip(read_all(reference), frames(), strict=True):
        assert_equal(found, expected)


def test_only_lidars_and_labels_that_are_asked_for_are_read(reference: Path) -> None:
    one = segment(reference)
    row = one.frames()[LABELLED[0]]
    assert set(one.read(row).returns) == {TOP}
    assert one.read(row, labels=False).returns[TOP][0].labels is None
    rear = one.read(row, ("REAR",))
    assert rear.pixel_pose is None and set(rear.returns) == {"REAR"}


def test_types_of_older_releases_are_cast(tmp_path: Path) -> None:
    """float32 poses and sensors by name, as in the real tables; 64-bit values and pandas' categories as well."""
    tables = rows_of(context(), frames())
    types = {VEHICLE: pa.list_(pa.float32(), 16), LASER: pa.string(), CAMERA: pa.large_string()}
    types |= {f"{FIRST}.values": pa.list_(pa.float64()), f"{FIRST}.shape": pa.list_(pa.int64())}
    types |= {f"{LABELS}.values": pa.large_list(pa.int64())}
    types |= {"key.segment_context_name": pa.dictionary(pa.int32(), pa.string())}
    for tag, rows in tables.items():
        for row in rows:
            if LASER in row:
                row[LASER] = LASERS[row[LASER]]
            if CAMERA in row:
                row[CAMERA] = CAMERAS[row[CAMERA]]
        write_table(tmp_path, tag, rows, types)
    for found, (expected, _) in zip(read_all(tmp_path), frames(), strict=True):
        assert_equal(found, expected, poses=2e-3)  # float32 of 25 km


def test_the_context_has_calibrations_by_name(reference: Path) -> None:
    found, expected = segment(reference).context(), context()
    assert found.name == NAME and found.stats == expected.stats
    assert set(found.lasers) == {TOP, "REAR"}
    for name, laser in expected.lasers.items():
        np.testing.assert_array_equal(found.lasers[name].extrinsic, laser.extrinsic)
        assert found.lasers[name].limits == laser.limits
    np.testing.assert_array_equal(found.lasers[TOP].inclinations, expected.lasers[TOP].inclinations)
    assert found.lasers["REAR"].inclinations is None
    assert set(found.cameras) == set(expected.cameras)
    for name, camera in expected.cameras.items():
        assert_cameras(found.cameras[name], camera)


def assert_cameras(found: CameraCalibration, expected: CameraCalibration) -> None:
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    np.testing.assert_array_equal(found.distortion, expected.distortion)
    np.testing.assert_array_equal(found.extrinsic, expected.extrinsic)
    assert (found.size, found.shutter) == (expected.size, expected.shutter)


def test_images_come_as_stored_with_their_pose(reference: Path) -> None:
    one = segment(reference)
    for row, (_, photos) in zip(one.frames(), frames()):
        found = one.images(row, ["FRONT", "SIDE_LEFT", "SIDE_RIGHT"])
        assert list(found) == ["FRONT", "SIDE_LEFT"]
        for name, image in found.items():
            assert image.content == photos[name].content
            np.testing.assert_array_equal(image.pose, photos[name].pose)


def test_a_segment_holds_nothing_heavy(reference: Path) -> None:
    one = segment(reference)
    again = pickle.loads(pickle.dumps(one))
    assert len(pickle.dumps(one)) < 1000
    assert (again.name, again.path, again.format) == (NAME, one.path, "v2")
    assert_equal(again.read(one.frames()[0], (TOP, "REAR")), frames()[0][0])


# --- our own tables ---------------------------------------------------------------------------------------------------
def test_what_is_written_here_reads_back(tmp_path: Path) -> None:
    write_tables(tmp_path, context(), iter(frames()))
    for found, (expected, _) in zip(read_all(tmp_path), frames(), strict=True):
        assert_equal(found, expected)
    one = segment(tmp_path)
    assert_cameras(one.context().cameras["FRONT"], context().cameras["FRONT"])
    assert one.context().stats == context().stats
    assert (
        one.images(one.frames()[2], ["FRONT"])["FRONT"].content == frames()[2][1]["FRONT"].content
    )
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_is_written_here_has_the_official_schema(tmp_path: Path, reference: Path) -> None:
    write_tables(tmp_path, context(), frames())
    for path in sorted(reference.glob("*/*.parquet")):
        ours = pq.read_schema(tmp_path / path.relative_to(reference))
        official = pq.read_schema(path)
        types = {field.name: field.type for field in official if field.name != "index"}
        assert {field.name: field.type for field in ours} == types


def test_a_row_group_holds_256_rows_or_so_many_bytes(tmp_path: Path) -> None:
    made = [frames(1)[0][0]] * 130
    stamped = []
    for number, frame in enumerate(made):
        stamped.append((Frame(NAME, number, frame.pose, frame.returns, frame.pixel_pose), {}))
    write_tables(tmp_path / "a", context(), stamped)
    groups = pq.ParquetFile(segment(tmp_path / "a").path).metadata
    assert [groups.row_group(k).num_rows for k in range(groups.num_row_groups)] == [256, 4]
    write_tables(tmp_path / "b", context(), stamped, group_bytes=10_000)
    assert pq.ParquetFile(segment(tmp_path / "b").path).num_row_groups > 10
    one = segment(tmp_path / "b")
    assert_equal(one.read(one.frames()[129], (TOP, "REAR")), stamped[129][0])


def test_a_segment_that_fails_to_be_made_leaves_no_file(tmp_path: Path) -> None:
    def failing():
        yield frames()[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_tables(tmp_path, context(), failing())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- tables that are not there ----------------------------------------------------------------------------------------
def test_without_labels_nothing_is_labelled(copy: Path) -> None:
    one = segment(copy)
    before = one.sources()
    (copy / "lidar_segmentation" / f"{NAME}.parquet").unlink()
    rows = one.frames()
    assert not rows["labelled"].any()
    assert one.read(rows[1]).returns[TOP][0].labels is None
    assert set(before) - set(one.sources()) == {copy / "lidar_segmentation" / f"{NAME}.parquet"}


def test_a_table_is_missed_only_where_it_is_used(copy: Path) -> None:
    one = segment(copy)
    row = one.frames()[0]
    for tag in ("camera_image", "camera_calibration", "stats", "lidar_pose", "lidar_calibration"):
        (copy / tag / f"{NAME}.parquet").unlink()
    one.frames()
    assert one.read(row, ("REAR",)).returns
    with pytest.raises(UserError, match="table lidar_pose of this segment does not exist"):
        one.read(row)
    with pytest.raises(UserError, match="table camera_image of this segment"):
        one.images(row, ["FRONT"])
    with pytest.raises(UserError, match="table lidar_calibration of this segment"):
        one.context()
    (copy / "vehicle_pose" / f"{NAME}.parquet").unlink()
    with pytest.raises(UserError, match="Download the component vehicle_pose"):
        one.frames()


def test_without_their_tables_there_are_no_cameras_and_statistics(copy: Path) -> None:
    for tag in ("camera_calibration", "stats"):
        (copy / tag / f"{NAME}.parquet").unlink()
    found = segment(copy).context()
    assert not found.cameras and not found.stats and set(found.lasers) == {TOP, "REAR"}


def test_segments_are_found_by_their_range_images(tmp_path: Path) -> None:
    assert TableSegment.find(tmp_path) == {}
    (tmp_path / "lidar").mkdir()
    for name in ("b.parquet", "a.parquet", ".c.parquet", ".a.parquet.1234abcd.tmp", "d.txt"):
        (tmp_path / "lidar" / name).touch()
    assert list(TableSegment.find(tmp_path)) == ["a", "b"]


def test_a_folder_of_tfrecords_names_their_format(tmp_path: Path) -> None:
    (tmp_path / f"segment-{NAME}_with_camera_labels.tfrecord").touch()
    with pytest.raises(UserError, match=r"dataset\.format v1"):
        TableSegment.find(tmp_path)


# --- damaged tables ---------------------------------------------------------------------------------------------------
def frames_refused(folder: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        segment(folder).frames()
    assert NAME in str(caught.value.where)


def test_a_table_of_another_segment_is_refused(copy: Path) -> None:
    def rename(rows: list[dict]) -> None:
        rows[-1]["key.segment_context_name"] = "other"

    for tag in ("lidar", "vehicle_pose", "lidar_segmentation"):
        replace(copy, tag, rename)
        frames_refused(copy, r"key\.segment_context_name: holds rows of segment 'other'")
        replace(copy, tag, lambda rows: None)


def test_two_rows_of_one_key_are_refused(copy: Path) -> None:
    replace(copy, "lidar", lambda rows: [*rows, rows[0]])
    frames_refused(copy, r"rows \d+ and \d+ have the same key \(1553735853462203, 1\)")


def test_a_labelled_frame_without_range_images_is_refused(copy: Path) -> None:
    time = frames()[LABELLED[0]][0].timestamp
    replace(
        copy,
        "lidar",
        lambda rows: [row for row in rows if row["key.frame_timestamp_micros"] != time],
    )
    frames_refused(copy, f"lacks the frame at {time} µs that lidar_segmentation has")


def test_a_frame_without_pose_is_refused(copy: Path) -> None:
    replace(copy, "vehicle_pose", lambda rows: rows[1:])
    frames_refused(copy, "lacks the frame at 1553735853462203 µs that lidar has")


def test_a_pose_that_is_no_rigid_transform_is_refused(copy: Path) -> None:
    replace(copy, "vehicle_pose", lambda rows: rows[0].update({VEHICLE: [2.0] * 16}))
    frames_refused(copy, "the pose in row . has another last row than 0 0 0 1")


def test_wrong_columns_are_refused_by_name(copy: Path) -> None:
    def without(name: str):
        return lambda rows: [{key: row[key] for key in row if key != name} for row in rows]

    key, stamp = "key.segment_context_name", "key.frame_timestamp_micros"
    replace(copy, "lidar", without(key))
    frames_refused(copy, rf"column {key}: the table has 0 columns of this name")
    replace(copy, "lidar", without(stamp))
    frames_refused(copy, rf"column {stamp}: the table has 0 columns")
    replace(copy, "lidar", lambda rows: None, {stamp: pa.float64()})
    frames_refused(copy, rf"column {stamp}: holds double; integers are expected")
    replace(copy, "lidar", lambda rows: rows[0].update({stamp: None}))
    frames_refused(copy, rf"column {stamp}: 1 of 8 values are null")
    replace(copy, "lidar", lambda rows: rows[0].update({LASER: 7}))
    frames_refused(copy, r"column key.laser_name: 7 is no sensor; there are 1 \(TOP\)")
    replace(copy, "lidar", lambda rows: None, {LASER: pa.float32()})
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
        ({f"{FIRST}.values": [float("nan")] * 240}, "return1.values: holds NaN or infinite values"),
        ({f"{FIRST}.values": [None] * 240}, "return1.values: cannot be read .*nulls"),
        ({f"{SECOND}.shape": [2, 30, 4]}, "return2.values: has 2 x 30 pixels; .* has 6 x 10"),
        ({f"{SECOND}.values": None}, "return2.values: .* holds 1 values, and the shapes"),
    ],
)  # fmt: skip
def test_range_images_that_contradict_themselves_are_refused(
    copy: Path, cells: dict, match: str
) -> None:
    replace(copy, "lidar", lambda rows: rows[0].update(cells), row_group_size=1)
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
    replace(copy, tag, lambda rows: rows[0].update(cells), row_group_size=1)
    one = segment(copy)
    with pytest.raises(UserError, match=match):
        one.read(one.frames()[LABELLED[0]])


def test_labels_of_another_type_and_lost_pixel_poses_are_refused(copy: Path) -> None:
    replace(
        copy, "lidar_segmentation", lambda rows: None, {f"{LABELS}.values": pa.list_(pa.float32())}
    )
    one = segment(copy)
    rows = one.frames()
    with pytest.raises(UserError, match="holds float32; integers are expected"):
        one.read(rows[LABELLED[0]])
    replace(copy, "lidar_pose", lambda rows: rows[1:])
    with pytest.raises(UserError, match="lacks TOP of the frame at 1553735853462203"):
        one.read(rows[0])


def test_a_table_that_was_replaced_since_is_noticed(copy: Path) -> None:
    one = segment(copy)
    rows = one.frames()
    replace(copy, "lidar", lambda rows: rows[:-2])
    with pytest.raises(UserError, match="list them again"):
        one.read(rows[3])


def test_inclinations_that_do_not_rise_are_refused(copy: Path) -> None:
    angles = "[LiDARCalibrationComponent].beam_inclination.values"
    replace(copy, "lidar_calibration", lambda rows: rows[1].update({angles: [0.1, 0.0, 0.2, 0.3]}))
    one = segment(copy)
    with pytest.raises(
        UserError, match=r"beam_inclination\.values: the angles of row . do not rise"
    ):
        one.context()


@pytest.mark.parametrize("content", [None, b"", b"GIF89a"])
def test_what_is_no_jpeg_is_refused(copy: Path, content: bytes | None) -> None:
    cells = {"[CameraImageComponent].image": content}
    replace(copy, "camera_image", lambda rows: rows[0].update(cells))
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
    frames_refused(copy, "column footer: cannot be read")
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


# --- real tables ------------------------------------------------------------------------------------------------------
@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason=WITHOUT)
def test_the_real_table_of_poses() -> None:
    path = REAL / f"vehicle_pose/{NAME}.parquet"
    table = open_table(path)
    assert len(table.timestamps) == 199 and table.timestamps[0] == 1552440195362591
    matrices = table.transforms(VEHICLE)
    np.testing.assert_allclose(
        matrices[0, 0], [0.69906, 0.71503, 0.00663, 860.595], atol=5e-4, rtol=1e-5
    )
    assert np.abs(np.linalg.det(matrices[:, :3, :3]) - 1).max() < 1e-3


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason=WITHOUT)
def test_sensors_by_name_in_the_real_table_of_keypoints() -> None:
    path = REAL / f"camera_hkp/{NAME}.parquet"
    names = pq.read_table(path, columns=[CAMERA])[CAMERA]
    assert names.type == pa.string() and len(names) == 15_844
    numbers = sensors(names, CAMERAS, Place(path, CAMERA))
    assert [CAMERAS[number] for number in numbers[:9000:1000]] == names.to_pylist()[:9000:1000]
    assert set(numbers) == set(CAMERAS)
