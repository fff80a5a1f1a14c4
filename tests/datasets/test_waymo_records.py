"""Segments of v1: frames against the official protobuf library, what was written, damage, and the real files."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waymo_frames import (
    COLUMNS,
    NAME,
    ROWS,
    add_what_is_not_read,
    context,
    frame,
    images,
    in_other_order,
    official,
)
from waymo_protos import message

from core.datasets.waymo.frame import CAMERAS, FRAME_ROW, Frame
from core.datasets.waymo.v1.messages import decode_context, decode_frame, decode_images
from core.datasets.waymo.v1.segment import RecordSegment
from core.datasets.waymo.v1.tfrecord import write_record
from core.datasets.waymo.v1.writer import encode_frame, segment_file, write_segment
from core.datasets.waymo.wire.matrices import encode_matrix
from core.datasets.waymo.wire.message import Malformed, Message
from core.errors import UserError

FRAMES = 4  # of the small segment; every second one is labelled


def same(found: Any, right: Any) -> None:
    """Assert that two dataclasses are alike to the bit."""
    assert type(found) is type(right)
    if is_dataclass(right):
        for item in fields(right):
            same(getattr(found, item.name), getattr(right, item.name))
    elif isinstance(right, dict):
        assert set(found) == set(right)
        for key in right:
            same(found[key], right[key])
    elif isinstance(right, tuple):
        assert len(found) == len(right)
        for one, other in zip(found, right):
            same(one, other)
    elif isinstance(right, np.ndarray):
        assert found.dtype == right.dtype
        np.testing.assert_array_equal(found, right)
    else:
        assert found == right


def small_frames(name: str = NAME) -> list[tuple[Frame, dict]]:
    return [(frame(i, labelled=i % 2 == 0, name=name), images(i)) for i in range(FRAMES)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training") / segment_file(NAME)
    write_segment(path, context(), small_frames())
    return path


@pytest.fixture
def path(written: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copy(written, tmp_path))


def segment(path: Path) -> RecordSegment:
    (found,) = RecordSegment.find(path.parent).values()
    assert isinstance(found, RecordSegment)
    return found


def write_payloads(path: Path, payloads: list[bytes]) -> RecordSegment:
    with open(path, "wb") as stream:
        for payload in payloads:
            write_record(stream, payload)
    return segment(path)


def of(content: bytes) -> Message:
    return Message(memoryview(content), "Frame")


# --- against the official library -------------------------------------------------------------------------------------
def test_what_we_encode_the_official_library_reads() -> None:
    ours = encode_frame(context(), frame(), images())
    read = message("Frame").FromString(ours)
    right = official(context(), frame(), images())
    for sensors in (right.lasers, right.images, right.context.laser_calibrations):
        sensors.sort(key=lambda sensor: sensor.name)
    assert read == right
    assert right.SerializeToString() == ours


@pytest.mark.parametrize("change", [lambda _: None, add_what_is_not_read, in_other_order])
def test_what_the_official_library_writes_we_decode(change: Any) -> None:
    content = official(context(), frame(), images())
    change(content)
    found = of(content.SerializeToString())
    same(decode_context(found), context())
    same(decode_frame(found, ("TOP", "FRONT", "REAR"), labels=True), frame())
    same(decode_images(found, tuple(CAMERAS.values())), images())


def test_only_what_is_asked_for() -> None:
    found = of(official(context(), frame(), images()).SerializeToString())
    top = decode_frame(found, ("TOP",), labels=False)
    assert list(top.returns) == ["TOP"]
    assert [image.labels for image in top.returns["TOP"]] == [None, None]
    rear = decode_frame(found, ("REAR",), labels=True)
    assert (list(rear.returns), rear.pixel_pose) == (["REAR"], None)
    assert decode_frame(found, (), labels=True).returns == {}
    assert list(decode_images(found, ("SIDE_LEFT", "FRONT_LEFT"))) == ["SIDE_LEFT"]


# --- a segment --------------------------------------------------------------------------------------------------------
def test_a_segment_reads_back_as_it_was_written(written: Path) -> None:
    found = segment(written)
    rows = found.frames()
    assert rows.dtype == FRAME_ROW
    assert rows["labelled"].tolist() == [True, False, True, False]
    for row, (right, pictures) in zip(rows, small_frames(), strict=True):
        assert row["timestamp"] == right.timestamp
        np.testing.assert_array_equal(row["pose"], right.pose)
        same(found.read(row, ("TOP", "REAR")), right)
        same(found.images(row, ("FRONT", "SIDE_LEFT")), pictures)
    same(found.context(), context())
    assert found.sources() == (written,)
    assert pickle.loads(pickle.dumps(found)) == found


def test_frames_are_ordered_by_time(path: Path) -> None:
    payloads = [encode_frame(context(), frame(i), images(i)) for i in (2, 0, 1)]
    found = write_payloads(path, payloads)
    rows = found.frames()
    assert [found.read(row).timestamp for row in rows] == [frame(i).timestamp for i in range(3)]
    assert rows["start"].argsort().tolist() == [2, 0, 1]


def test_names_of_files(tmp_path: Path) -> None:
    assert RecordSegment.find(tmp_path / "none") == {}
    for name in (
        segment_file("1_2"),
        "0_9.tfrecord",
        "segment-3_4.tfrecord",
        ".5.tfrecord",
        "6.parquet",
    ):
        (tmp_path / name).touch()
    assert list(RecordSegment.find(tmp_path)) == ["0_9", "1_2", "3_4"]
    (tmp_path / "1_2.tfrecord").touch()
    with pytest.raises(UserError, match="the same segment"):
        RecordSegment.find(tmp_path)


def test_a_folder_of_tables_is_told(tmp_path: Path) -> None:
    (tmp_path / "lidar").mkdir()
    assert RecordSegment.find(tmp_path) == {}
    (tmp_path / "lidar" / f"{NAME}.parquet").touch()
    with pytest.raises(UserError, match=r"dataset\.format v2"):
        RecordSegment.find(tmp_path)
    (tmp_path / segment_file(NAME)).touch()
    assert list(RecordSegment.find(tmp_path)) == [NAME]


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / segment_file(NAME)
    with pytest.raises(ValueError, match="timestamp"):
        write_segment(path, context(), [(frame(1), {}), (frame(0), {})])
    with pytest.raises(ValueError, match="other"):
        write_segment(path, context(), [(frame(name="other"), {})])
    assert list(tmp_path.iterdir()) == []


# --- damage -----------------------------------------------------------------------------------------------------------
def read_all(found: RecordSegment) -> list[object]:
    rows = found.frames()
    cameras = tuple(CAMERAS.values())
    read = [(found.read(row, ("TOP", "REAR")), found.images(row, cameras)) for row in rows]
    return [rows, found.context(), *read]


def test_no_flipped_byte_gets_through(path: Path) -> None:
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="segment-"):
            read_all(segment(path))


def test_a_cut_record_is_named(path: Path) -> None:
    start = int(segment(path).frames()["start"][3])
    path.write_bytes(path.read_bytes()[: start + 500])
    with pytest.raises(UserError, match=f"record 4 at byte {start} is cut short"):
        segment(path).frames()


@pytest.mark.parametrize("content", [b"", b"PAR1" + bytes(99)])
def test_no_frames_and_other_formats(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for work in (segment(path).frames, segment(path).context):
        with pytest.raises(UserError, match="no frames" if not content else "dataset.format: v2"):
            work()


def test_a_file_named_after_another_segment_is_refused(path: Path) -> None:
    moved = path.rename(path.with_name(segment_file("1_2_3")))
    for work in (segment(moved).frames, segment(moved).context):
        with pytest.raises(
            UserError, match=f"'1_2_3', but holds '{NAME}'.*name it segment-{NAME}_with"
        ):
            work()


def test_a_file_that_was_replaced_is_told(path: Path) -> None:
    found = segment(path)
    rows = found.frames()
    write_segment(
        path, context(), [(frame(i, labelled=i % 2 == 1), images(i)) for i in range(FRAMES)]
    )
    for row in rows:
        with pytest.raises(UserError, match=r"start again|no record begins"):
            found.read(row)
    write_segment(path, context(), small_frames()[:1])
    with pytest.raises(UserError):
        found.images(rows[3], ("FRONT",))
    moved = rows.copy()
    moved["pose"][:, 0, 3] += 1
    with pytest.raises(UserError, match="another frame"):
        found.read(moved[0])


def altered(change: Any) -> bytes:
    content = official(context(), frame(), images())
    change(content)
    return content.SerializeToString()


def set_blob(which: str, values: np.ndarray) -> Any:
    blob = encode_matrix(values)
    return lambda content: setattr(content.lasers[0].ri_return1, which, blob)


def with_point(value: float) -> np.ndarray:
    values = frame().returns["TOP"][0].values.copy()
    values[0, 0] = (5, value, 0, 0)
    return values


BLOBS = "range_image_compressed", "segmentation_label_compressed", "range_image_pose_compressed"
FLOATS = np.zeros((ROWS, COLUMNS, 6), np.float32)
CASES = [
    (lambda f: f.lasers.pop(0), "no range image of TOP"),
    (lambda f: f.lasers[0].ri_return1.ClearField(BLOBS[0]), "second return without a first"),
    (lambda f: f.lasers.add(name=1), "TOP has two"),
    (lambda f: f.images.add(name=1), "FRONT has two"),
    (lambda f: f.pose.transform.pop(), "15 numbers"),
    (lambda f: f.pose.transform.append(1), "up to 16"),
    (lambda f: f.pose.transform.__setitem__(0, 7.0), "no rotation"),
    (lambda f: f.images[0].ClearField("pose"), "image FRONT has 0 numbers"),
    (lambda f: f.ClearField("timestamp_micros"), "no frame of a segment"),
    (lambda f: f.ClearField("context"), "no frame of a segment"),
    (lambda f: setattr(f.context, "name", "../x"), "no frame of a segment"),
    (set_blob(BLOBS[0], with_point(np.nan)), "1 points of the first return of TOP have NaN"),
    (set_blob(BLOBS[0], with_point(0)[:-1]), r"is \[6, 10, 2\]; expected 5 x 10 x 2"),
    (set_blob(BLOBS[0], FLOATS), "expected any x any x 4"),
    (set_blob(BLOBS[1], np.full((ROWS, COLUMNS, 2), 23, np.int32)), "classes from 23 to 23"),
    (set_blob(BLOBS[1], np.full((ROWS, COLUMNS, 2), -1, np.int32)), "classes from -1"),
    (set_blob(BLOBS[1], np.zeros((ROWS, COLUMNS), np.int32)), "the shape of the labels of the first return of TOP"),
    (set_blob(BLOBS[2], FLOATS[:, 1:]), "the shape of the pixel poses of TOP"),
    (set_blob(BLOBS[2], FLOATS + np.inf), "the pixel poses of TOP have NaN"),
    (lambda f: f.context.laser_calibrations[0].beam_inclinations.__setitem__(0, 9), "do not ascend"),
    (lambda f: f.context.laser_calibrations[1].ClearField("beam_inclination_min"), "field of view from None"),
    (lambda f: f.context.laser_calibrations[1].ClearField("extrinsic"), "LaserCalibration REAR has 0 numbers"),
    (lambda f: f.context.camera_calibrations[0].intrinsic.pop(), "expected 9"),
    (lambda f: f.context.camera_calibrations[0].ClearField("width"), "0, 1280"),
    (lambda f: f.context.camera_calibrations.add(name=1), "FRONT has two"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "what"), CASES)
def test_what_a_frame_lacks_is_told(path: Path, change: Any, what: str) -> None:
    with pytest.raises(UserError, match=f"{path.name}: record 1 at byte 0: .*{what}"):
        read_all(write_payloads(path, [altered(change)]))


def test_a_record_that_is_no_frame_is_told(path: Path) -> None:
    """Such as the scenarios of the motion data: many doubles in field 1."""
    scenario = message("Transform")(transform=[0.1, 0.2]).SerializeToString()
    with pytest.raises(UserError, match="record 1 at byte 0: field 1 of Frame"):
        write_payloads(path, [scenario]).frames()
    with pytest.raises(UserError, match="no frame of a segment"):
        write_payloads(path, [b""]).frames()
    twice = encode_frame(context(), frame(), {})
    with pytest.raises(UserError, match="two frames have timestamp"):
        write_payloads(path, [twice, twice]).frames()


def test_nothing_is_read_that_the_index_does_not_need(written: Path) -> None:
    """Images in front of the range images, each longer than all that is read."""
    pictures = {name: replace(image, content=bytes(1 << 20)) for name, image in images().items()}
    content = encode_frame(context(), frame(), pictures)
    path = written.with_name("big")
    with open(path, "wb") as stream:
        write_record(stream, content)
    counted = []
    pread = os.pread
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", lambda *args: counted.append(pread(*args)) or counted[-1])
        RecordSegment(NAME, path).frames()
    path.unlink()
    assert sum(map(len, counted)) < 100_000 < len(content)


def test_malformed_is_no_user_error_of_its_own() -> None:
    with pytest.raises(Malformed):
        decode_frame(of(b"\x0a\x05abc"), ("TOP",), labels=True)
