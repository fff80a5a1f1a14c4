"""What Waymo's server would refuse, or count as wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from waymo_fakes import SHAPE, SPLIT, classes_of, faults, official_frame, official_list, packed
from waymo_protos import message

from core.errors import UserError


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
