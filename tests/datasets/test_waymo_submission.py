"""Waymo's submissions: read by the official library, packed in shards, and what the server would refuse."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import waymo_frames as made
from waymo_fakes import (
    CONTAINER,
    SERVER,
    SHAPE,
    SPLIT,
    classes_of,
    faults,
    official_frame,
    official_list,
    packed,
    truth_of,
)
from waymo_protos import message

from core.datasets.waymo.frame import Frame
from core.datasets.waymo.scoring.frame_lists import FrameFile
from core.datasets.waymo.scoring.score import score_files
from core.datasets.waymo.v1.writer import segment_file, write_segment
from core.datasets.waymo.wire.matrices import decode_matrix
from core.engine.score.submission_check import check_submission, open_split
from core.errors import UserError
from core.io import write_bytes, write_json


# --- what is written --------------------------------------------------------------------------------------------------
def test_the_official_library_reads_what_is_written(tmp_path: Path) -> None:
    submission, bare = packed(tmp_path)
    read = message("SemanticSegmentationSubmission").FromString(submission.read_bytes())
    assert (read.account_name, read.unique_method_name) == ("me@example.com", "Net")
    assert list(read.authors) == ["A. Author", "Ü. Zweite"]
    assert (read.sensor_type, read.number_past_frames_exclude_current) == (2, 2)
    assert read.HasField("number_future_frames_exclude_current")
    frames = read.inference_results
    assert message("SegmentationFrameList").FromString(bare.read_bytes()) == frames
    assert len(frames.frames) == len(SPLIT)
    for index, frame in enumerate(frames.frames):
        token = f"{frame.context_name}/{frame.frame_timestamp_micros}"
        assert token == SPLIT.token(index)
        laser, cells, classes = frame.segmentation_labels, SPLIT.cells(index), classes_of(index)
        assert laser.name == 1
        images = []
        for part in (laser.ri_return1, laser.ri_return2):
            assert [field.name for field, _ in part.ListFields()] == [
                "segmentation_label_compressed"
            ]
            content = zlib.decompress(part.segmentation_label_compressed)
            matrix = message("MatrixInt32").FromString(content)
            assert list(matrix.shape.dims) == [*SHAPE, 2]
            images.append(np.array(matrix.data).reshape(*SHAPE, 2))
        at_points = np.stack(images)[cells.number - 1, cells.row, cells.column]
        np.testing.assert_array_equal(at_points, np.column_stack([0 * classes, classes]))
        assert sum(np.count_nonzero(image) for image in images) == len(classes)
    assert faults(tmp_path) == faults(submission) == faults(bare) == []


def test_shards_hold_each_frame_once_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    assert [path.name for path in packed(tmp_path / "one")] == ["submission.bin", "frame_list.bin"]
    shards = packed(tmp_path / "many", per_file=2)
    assert [path.name for path in shards] == [
        "submission-00001-of-00002.bin", "submission-00002-of-00002.bin",
        "frame_list-00001-of-00002.bin", "frame_list-00002-of-00002.bin",
    ]  # fmt: skip
    assert [len(FrameFile(path)) for path in shards] == [2, 1, 2, 1]
    assert faults(tmp_path / "many") == []
    part = "submission-00001-of-00002.bin"
    assert faults(tmp_path / "many" / part) == [f"{part}: frame {SPLIT.token(2)} is missing"]
    again = packed(tmp_path / "many")
    assert sorted((tmp_path / "many").glob("*.bin")) == sorted(again), "no other shards are left"
    for one, other in zip(packed(tmp_path / "one"), again):
        assert one.read_bytes() == other.read_bytes()
    (tmp_path / "many" / "submission_old.bin").write_bytes(b"")
    packed(tmp_path / "many")
    assert (tmp_path / "many" / "submission_old.bin").is_file(), "a person's own file stays"


def test_labels_that_go_in_come_back(tmp_path: Path) -> None:
    """Labels as predictions score 1.0 against the frames that hold them; cells of class 0 count nowhere."""
    truth = [official_frame(SPLIT.token(i), truth_of(SPLIT, i)) for i in range(len(SPLIT))]
    official_list(tmp_path / "truth.bin", truth)
    packed(tmp_path / "out", lambda index: SPLIT.load(index).labels, per_file=1)
    score = score_files(tmp_path / "truth.bin", tmp_path / "out")
    assert score.frames == len(SPLIT) and score.missing == 0
    assert score.overall.miou("nan_one") == score.overall.miou() == 1.0
    labelled = sum(np.count_nonzero(SPLIT.load(i).labels) for i in range(len(SPLIT)))
    assert int(score.overall.counts.diagonal()[1:].sum()) == labelled
    packed(tmp_path / "out", lambda index: np.roll(SPLIT.load(index).labels, 1))
    assert score_files(tmp_path / "truth.bin", tmp_path / "out").overall.miou() < 0.3


def test_a_frame_of_true_size_comes_back_exactly() -> None:
    rng = np.random.default_rng(0)
    images = np.zeros((2, 64, 2650, 2), np.int32)
    images[..., 1] = rng.integers(0, 23, (2, 64, 2650))
    frame = message("SegmentationFrame").FromString(
        official_frame("a/1", list(images)).SerializeToString()
    )
    for part, image in zip(
        (frame.segmentation_labels.ri_return1, frame.segmentation_labels.ri_return2), images
    ):
        content = part.segmentation_label_compressed
        found = decode_matrix(content, np.int32, (64, 2650, 2), "return")
        np.testing.assert_array_equal(found, image)


# --- what a person fills in -------------------------------------------------------------------------------------------
def test_what_is_empty_is_outstanding(tmp_path: Path) -> None:
    blank = SERVER.metadata("val", uses_camera=True, sweeps=(2, 1))["submission.json"]
    assert (blank["sensor_type"], blank["past_frames"], blank["future_frames"]) == (
        "CAMERA_LIDAR_TOP",
        2,
        1,
    )
    packed(tmp_path, account_name="", authors=[])
    assert faults(tmp_path) == []
    assert CONTAINER.outstanding(tmp_path) == ["account_name, authors in submission.json"]
    packed(tmp_path)
    assert CONTAINER.outstanding(tmp_path) == []
    assert CONTAINER.outstanding(tmp_path / "frame_list.bin") == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sensor_type": "SONAR"}, "key 'sensor_type': Input should be 'LIDAR_ALL'"),
        ({"past_frames": -1}, "key 'past_frames'"),
        ({"authors": "me"}, "key 'authors'"),
        ({"description": "x" * 1001}, "key 'description'"),
    ],
)
def test_wrong_information_is_named(wrong: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        packed(tmp_path, **wrong)
    assert "submission.json" in str(caught.value)
    assert not list(tmp_path.glob("*.bin"))


def test_a_missing_frame_keeps_everything_from_being_written(tmp_path: Path) -> None:
    written = packed(tmp_path, per_file=1)
    names = [SERVER.submitted_path(SPLIT.token(index), "val") for index in range(len(SPLIT))]
    for path in [*written, tmp_path / names[2]]:
        path.unlink()
    with pytest.raises(UserError, match=r"1522688015970187\.bin: this prediction of a frame does"):
        CONTAINER.pack(tmp_path, names, 1)
    assert not list(tmp_path.glob("*.bin"))


# --- the test split ---------------------------------------------------------------------------------------------------
def standing(frame: Frame) -> Frame:
    """The frame of a vehicle that does not move while it is measured."""
    pixels = np.zeros_like(frame.pixel_pose)
    pixels[..., 3:] = frame.pose[:3, 3]
    return replace(frame, pixel_pose=pixels)


def test_the_test_split_is_that_of_its_list(tmp_path: Path) -> None:
    """Three frames without labels, two of which the list names; the official list has 2,982."""
    frames = [standing(made.frame(number, labelled=False)) for number in range(3)]
    path = tmp_path / "testing" / segment_file(made.NAME)
    write_segment(path, made.context(), [(each, made.images()) for each in frames])
    listed = tmp_path / "frames.txt"
    listed.write_text("".join(f"{made.NAME},{frames[number].timestamp}\n" for number in (0, 2)))
    scans = open_split("waymo", tmp_path, "test", "", test_frames=listed)
    assert [scans.token(index) for index in range(2)] == [
        f"{made.NAME}/{frames[number].timestamp}" for number in (0, 2)
    ]
    for index in range(len(scans)):
        classes = np.full(scans.num_points(index), 18, np.uint8)
        name = SERVER.submitted_path(scans.token(index), scans.official_split)
        write_bytes(tmp_path / "out" / name, SERVER.submitted_content(classes, scans, index))
    write_json(
        tmp_path / "out" / "submission.json", SERVER.metadata("testing", False)["submission.json"]
    )
    names = [
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out" / "frames").rglob("*.bin")
    ]
    CONTAINER.pack(tmp_path / "out", sorted(names), None)
    (fault, *others) = check_submission(tmp_path / "out", scans)
    assert fault.startswith("data set: test has 2 of the official 2,982 scans")
    assert all(other.startswith("data set: ") for other in others)
    scans = open_split("waymo", tmp_path, "test", "", partial=True, test_frames=listed)
    assert list(check_submission(tmp_path / "out", scans)) == []
