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
    assert_equal,
    frames,
    rows_of,
    segment,
    write_reference,
    write_table,
)

from core.datasets.waymo.frame import CAMERAS, FRAME_ROW, LASERS, TOP, CameraCalibration, Frame
from core.datasets.waymo.v2.casts import Place, sensors
from core.datasets.waymo.v2.segment import TableSegment
from core.datasets.waymo.v2.tables import open_table
from core.datasets.waymo.v2.writer import write_tables
from core.errors import UserError

REAL = Path(os.environ.get("LIDISTILL_REALDATA", "realdata")) / "waymo/v2/training"
WITHOUT = "no real tables; set LIDISTILL_REALDATA"
FIRST = f"{LIDAR}.range_image_return1"
SECOND = f"{LIDAR}.range_image_return2"
LABELS = "[LiDARSegmentationLabelComponent].range_image_return1"


def read_all(folder: Path) -> list[Frame]:
    one = segment(folder)
    return [one.read(row, (TOP, "REAR", "FRONT")) for row in one.frames()]


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
