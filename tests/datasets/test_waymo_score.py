"""Waymo's metric against its own fixture, against counting cell by cell, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from waymo_fakes import SHAPE, FakeSplit, official_frame, official_list, truth_of
from waymo_protos import message

from core.datasets.waymo.scoring.score import score_files
from core.errors import UserError
from core.labels import WAYMO

SPLIT = FakeSplit()
METRICS = Path(os.environ.get("LIDISTILL_REALDATA", "realdata")) / "waymo" / "metrics"


def written(path: Path, *frames: tuple[str, list[np.ndarray]]) -> Path:
    return official_list(path, [official_frame(token, images) for token, images in frames])


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    frames = [(SPLIT.token(index), truth_of(SPLIT, index)) for index in range(len(SPLIT))]
    return written(tmp_path / "truth.bin", *frames)


def random_images(seed: int) -> list[np.ndarray]:
    images = np.zeros((2, *SHAPE, 2), np.int32)
    images[..., 1] = np.random.default_rng(seed).integers(0, 23, (2, *SHAPE))
    return list(images)


@pytest.mark.realdata
@pytest.mark.skipif(not METRICS.is_dir(), reason="no real files; set LIDISTILL_REALDATA")
def test_waymos_own_fixture() -> None:
    """The values that compute_segmentation_metrics_main.cc documents for the two files: floats of six digits."""
    score = score_files(
        METRICS / "fake_segmentation_groundtruths.bin",
        METRICS / "fake_segmentation_predictions.bin",
    )
    told = score.to_json(WAYMO.classes)
    assert f"{np.float32(told['miou_official'] / 100):.6g}" == "0.00395302"
    ious = {name: f"{np.float32(iou / 100):.6g}" for name, iou in told["iou"].items()}
    assert ious.pop("car") == ious.pop("pedestrian") == "0.0434832"
    assert set(ious.values()) == {"0"} and len(ious) == 20
    assert (told["frames"], told["frames_without_prediction"]) == (6, 0)


def test_cells_are_counted_one_by_one(truth: Path, tmp_path: Path) -> None:
    """One frame predicted by chance, one left out, one predicted rightly but for an id beside the truth."""
    right = truth_of(SPLIT, 2)
    predicted = written(
        tmp_path / "predicted.bin",
        (SPLIT.token(0), random_images(5)),
        (SPLIT.token(2), [image[:, :, 1] for image in right]),  # classes alone, as the tool reads
        ("elsewhere/1", right),
    )
    score = score_files(truth, predicted)
    expected = np.zeros((2, 23, 23), np.int64)
    answers = {0: random_images(5), 2: right}
    for index in range(3):
        for number in range(2):
            for row in range(SHAPE[0]):
                for column in range(SHAPE[1]):
                    true = truth_of(SPLIT, index)[number][row, column, 1]
                    own = answers[index][number][row, column, 1] if index in answers else 0
                    expected[number, true, own] += 1
    assert score.by_return[0].counts.tolist() == expected[0].tolist()
    assert score.overall.counts.tolist() == expected.sum(0).tolist()
    assert (score.frames, score.missing, score.unlabelled, score.unasked) == (3, 1, 0, 1)


def test_the_two_means_and_the_first_return(tmp_path: Path) -> None:
    """Truth: two cars and a road, a road behind; predicted: one car, three roads, and a pole over an undefined cell.

    Car 1/2. Road: 2 hits, 1 false alarm: 2/3. Pole: predicted on no valid cell, so its union is empty, as that of the
    other 19 classes. First return: car 1/2, road 1/2.
    """
    first = np.array([[1, 1, 18, 0, 0]], np.int32), np.array([[1, 18, 18, 10, 0]], np.int32)
    second = np.array([[18, 0, 0, 0, 0]], np.int32), np.array([[18, 0, 0, 0, 0]], np.int32)
    files = [
        written(tmp_path / f"{number}.bin", ("a/1", [first[number], second[number]]))
        for number in range(2)
    ]
    told = score_files(*files).to_json(WAYMO.classes)
    assert told["miou"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert told["miou_official"] == pytest.approx(100 * (1 / 2 + 2 / 3 + 20) / 22)
    assert told["first_return"]["miou"] == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)
    assert told["first_return"]["miou_official"] == pytest.approx(100 * (1 / 2 + 1 / 2 + 20) / 22)
    assert told["classes_scored"] == 2


def test_a_frame_without_labels_counts_nowhere(truth: Path, tmp_path: Path) -> None:
    frames = message("SegmentationFrameList").FromString(truth.read_bytes())
    frames.frames[1].ClearField("segmentation_labels")
    bare = tmp_path / "bare.bin"
    bare.write_bytes(frames.SerializeToString())
    score = score_files(bare, truth)
    assert (score.frames, score.missing, score.unlabelled, score.unasked) == (2, 0, 1, 0)
    assert score.overall.miou("nan_one") == 1.0
    score = score_files(truth, bare)
    assert (score.frames, score.missing) == (3, 1), "a predicted frame without a lidar is missed"
    for frame in frames.frames:
        frame.ClearField("segmentation_labels")
    bare.write_bytes(frames.SerializeToString())
    with pytest.raises(UserError, match=r"bare\.bin: no frame of the ground truth has labels"):
        score_files(bare, truth)


def swapped(images: list[np.ndarray]) -> list[np.ndarray]:
    return [np.ascontiguousarray(image[:, :, ::-1]) for image in images]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (swapped(random_images(1)), "channel 1 holds no class but channel 0 does; instance ids"),
        ([image + 20 for image in random_images(1)], "classes 20 to 42; expected 0 to 22"),
        ([image - 1 for image in random_images(1)], "classes -1 to 21; expected 0 to 22"),
        ([image[:, :-1] for image in random_images(1)], r"are \[\(4, 8\), \(4, 8\)\]; the truth's"),
        (random_images(1)[:1], r"are \[\(4, 9\)\]; the truth's are \[\(4, 9\), \(4, 9\)\]"),
        (
            [image[:, 0, 1] for image in random_images(1)],
            r"shape of return 1 is \[4\]; expected any x any",
        ),
    ],
)
def test_what_is_no_prediction_of_a_frame(
    images: list[np.ndarray], message: str, truth: Path, tmp_path: Path
) -> None:
    predicted = written(tmp_path / "predicted.bin", (SPLIT.token(0), images))
    with pytest.raises(UserError, match=message) as caught:
        score_files(truth, predicted)
    assert SPLIT.token(0) in str(caught.value) and "predicted.bin" in str(caught.value)


def test_frames_that_are_there_twice_or_of_other_lidars(truth: Path, tmp_path: Path) -> None:
    own = SPLIT.token(0), random_images(1)
    folder = tmp_path / "shards"
    folder.mkdir()
    written(folder / "a.bin", own)
    written(folder / "b.bin", own)
    with pytest.raises(UserError, match=r"is there twice, in a\.bin and in b\.bin"):
        score_files(truth, folder)
    front = official_list(tmp_path / "front.bin", [official_frame(*own, lidar=2)])
    with pytest.raises(UserError, match="it holds the lidars FRONT; expected TOP alone"):
        score_files(truth, front)
    with pytest.raises(UserError, match="not one of 3 labelled frames is predicted"):
        score_files(truth, written(tmp_path / "other.bin", ("other/1", random_images(1))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot decode"),
        (b"\x0a\x05\x12\x03abc\x0a\xff\xff\xff\x0f", "reaches beyond its end"),
        (b"\x7bJSON", "wire type 3, which these files lack"),
        (b"\x12\x01a", "neither a SegmentationFrameList nor a submission"),
        (b"\x0a\x01a\x52\x00", "holds no frame"),
        (None, "does not exist"),
    ],
)
def test_files_of_something_else(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "predicted.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        score_files(path, path)
