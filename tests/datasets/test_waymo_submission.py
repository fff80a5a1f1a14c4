"""Waymo's submissions: read by the official library, packed in shards, and what the server would refuse."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import waymo_frames as made
from waymo_fakes import SHAPE, FakeSplit, official_frame, official_list, truth_of
from waymo_protos import message

from core.datasets.benchmark import benchmark
from core.datasets.waymo.frame import Frame
from core.datasets.waymo.frame_lists import FrameFile
from core.datasets.waymo.matrices import decode_matrix
from core.datasets.waymo.score import score_files
from core.datasets.waymo.segment_writer import segment_file, write_segment
from core.engine.score.submission_check import check_submission, open_split
from core.errors import UserError
from core.io import write_bytes, write_json

SPLIT = FakeSplit(count=3)
SERVER = benchmark("waymo")
CONTAINER = SERVER.container
INFO = {
    "account_name": "me@example.com",
    "unique_method_name": "Net",
    "authors": ["A. Author", "Ü. Zweite"],
    "sensor_type": "LIDAR_TOP",
    "past_frames": 2,
}


def classes_of(index: int) -> np.ndarray:
    """Predicted classes, 1 to 22, of the points of a frame."""
    count = len(SPLIT.cells(index))
    return np.random.default_rng(index).integers(1, 23, count).astype(np.uint8)


def packed(
    folder: Path,
    classes: Callable[[int], np.ndarray] = classes_of,
    per_file: int | None = None,
    **info,
) -> list[Path]:
    """A whole submission."""
    names = [SERVER.submitted_path(SPLIT.token(index), "val") for index in range(len(SPLIT))]
    for index, name in enumerate(names):
        write_bytes(folder / name, SERVER.submitted_content(classes(index), SPLIT, index))
    (written,) = SERVER.metadata("val", uses_camera=False).items()
    write_json(folder / written[0], written[1] | INFO | info)
    return CONTAINER.pack(folder, names, per_file)


def faults(path: Path) -> list[str]:
    return list(CONTAINER.faults(path, SPLIT))


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


# --- what the server would refuse -------------------------------------------------------------------------------------
def images_of(index: int) -> list[np.ndarray]:
    """A flawless frame."""
    images = np.zeros((2, *SHAPE, 2), np.int32)
    images[..., 1] = SPLIT.cells(index).images(classes_of(index))
    return list(images)


def other_at(index: int, where: str, value: int, channel: int = 1) -> list[np.ndarray]:
    """A frame that has this value in one cell."""
    images = images_of(index)
    occupied = SPLIT.cells(index).occupied[1]
    row, column = np.argwhere(occupied if where == "point" else ~occupied)[0]
    images[1][row, column, channel] = value
    return images


def bent(frame: object) -> object:
    """A frame whose second matrix is cut."""
    part = frame.segmentation_labels.ri_return2
    part.segmentation_label_compressed = part.segmentation_label_compressed[:-3]
    return frame


def with_range_image(frame: object) -> object:
    frame.segmentation_labels.ri_return1.range_image_compressed = b"x"
    return frame


FIRST = SPLIT.token(0)
FRAME_FAULTS = [
    (
        official_frame(FIRST, [image[:, :, ::-1] for image in images_of(0)]),
        r"return 1: channel 0, of instances, holds \d+; expected zeros; are the two swapped\?",
    ),
    (
        official_frame(FIRST, other_at(0, "point", 5, channel=0)),
        "return 2: channel 0, of instances, holds 5; expected zeros$",
    ),
    (
        official_frame(FIRST, other_at(0, "point", 23)),
        "return 2: class 23 in 1 cell; expected 1 to 22",
    ),
    (
        official_frame(FIRST, other_at(0, "point", -2)),
        "return 2: class -2 in 1 cell; expected 1 to 22",
    ),
    (
        official_frame(FIRST, other_at(0, "point", 0)),
        "return 2: no class in 1 cell with a point, which count as misses",
    ),
    (
        official_frame(FIRST, other_at(0, "nothing", 4)),
        "return 2: a class in 1 cell without a point",
    ),
    (
        official_frame(FIRST, [image[:3] for image in images_of(0)]),
        "return 1: the matrix is 3 x 9 x 2; expected 4 x 9 x 2",
    ),
    (
        official_frame(FIRST, [image[:, :, 1] for image in images_of(0)]),
        "return 1: the matrix is 4 x 9; expected 4 x 9 x 2",
    ),
    (official_frame(FIRST, images_of(0)[:1]), "it has 1 return; both are asked for"),
    (official_frame(FIRST, images_of(0), lidar=3), "the lidars SIDE_LEFT; expected TOP alone"),
    (bent(official_frame(FIRST, images_of(0))), "return 2 is cut short or followed by other bytes"),
    (with_range_image(official_frame(FIRST, images_of(0))), "it holds more than classes"),
]


@pytest.mark.parametrize(("frame", "words"), FRAME_FAULTS, ids=range(len(FRAME_FAULTS)))
def test_faulty_frames(frame: object, words: str, tmp_path: Path) -> None:
    rest = [official_frame(SPLIT.token(index), images_of(index)) for index in (1, 2)]
    path = official_list(tmp_path / "frames.bin", [frame, *rest])
    found = faults(path)
    assert found and all(line.startswith(f"frames.bin: frame {FIRST}: ") for line in found)
    assert re.search(words, found[0])


def test_frames_missing_twice_or_of_another_split(tmp_path: Path) -> None:
    whole = [official_frame(SPLIT.token(index), images_of(index)) for index in range(3)]
    other = official_frame("another_segment/7", images_of(0))
    path = official_list(tmp_path / "frames.bin", [whole[0], other, whole[1], whole[0]])
    assert faults(path) == [
        "frames.bin: frame another_segment/7 is not one of the 3 frames of the val split",
        f"frames.bin: frame {FIRST} is there twice, also in frames.bin",
        f"frames.bin: frame {SPLIT.token(2)} is missing",
    ]


def test_shards_that_name_different_methods(tmp_path: Path) -> None:
    first, second = packed(tmp_path, per_file=2)[:2]
    read = message("SemanticSegmentationSubmission").FromString(second.read_bytes())
    read.unique_method_name = "Other"
    second.write_bytes(read.SerializeToString())
    assert faults(tmp_path) == [f"{second.name}: it names another method than {first.name}"]
    read.sensor_type = 9
    second.write_bytes(read.SerializeToString())
    assert faults(tmp_path) == [f"{second.name}: sensor_type is 9; expected 1 to 5"]


def test_no_files_of_frames(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.bin files in this folder"):
        faults(tmp_path)
    (tmp_path / "a.bin").write_text(json.dumps({"no": "message"}))
    with pytest.raises(UserError, match="cannot decode this file of classes by frame"):
        faults(tmp_path)


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
