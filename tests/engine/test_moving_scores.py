"""Scores of what moves: three countings of one small table by hand, sequences, files of predictions."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fakes import make_scan

from core.config import Config
from core.data import DataConfig, collate, make_sample
from core.datasets import build_dataset
from core.datasets.base import ScanDataset
from core.datasets.columns import Column
from core.engine.score.moving import (
    COUNTINGS,
    SequenceCounts,
    moving_class,
    moving_line,
    moving_score,
    with_moving,
)
from core.engine.submission import main
from core.errors import UserError
from core.labels import LABEL_SPACES
from core.metrics import Confusion, EvaluationResult

MOVABLE = LABEL_SPACES["semantickitti_movable"]
MOVING = 3
#        predicted: none  static movable moving     truth:
TABLE = [
    [5, 7, 0, 11],  # no label
    [2, 100, 3, 13],  # static
    [0, 4, 50, 17],  # movable
    [19, 23, 29, 31],  # moving
]


def test_the_countings_differ_where_label_or_prediction_is_missing():
    confusion = Confusion(4, torch.tensor(TABLE))
    missed = 23 + 29
    expected = {
        "official": (31, 13 + 17, missed + 19),
        "all points": (31, 13 + 17 + 11, missed + 19),
        "predicted points": (31, 13 + 17, missed),
    }
    assert tuple(expected) == COUNTINGS
    for counting, (hits, false, lost) in expected.items():
        score = moving_score(confusion, MOVING, counting)
        assert (score.hits, score.false, score.missed) == (hits, false, lost)
        assert score.iou == hits / (hits + false + lost)
        assert score.precision == hits / (hits + false)
        assert score.recall == hits / (hits + lost)
    assert moving_score(confusion, MOVING).iou == pytest.approx(confusion.iou()[MOVING].item())


def test_movable_or_static_is_the_same_to_what_moves():
    table = torch.tensor(TABLE)
    three = table.clone()
    three[:, 1] += three[:, 2]
    three[1] += three[2]
    three = three[[0, 1, 3]][:, [0, 1, 3]]
    for counting in COUNTINGS:
        whole, merged = Confusion(4, table), Confusion(3, three)
        assert moving_score(whole, 3, counting) == moving_score(merged, 2, counting)


def test_nothing_moves():
    still = Confusion(4, torch.tensor([[0] * 4, [0, 9, 0, 0], [0] * 4, [0] * 4]))
    score = moving_score(still, MOVING)
    assert math.isnan(score.iou) and math.isnan(score.recall) and math.isnan(score.precision)
    assert score.to_json() == {"iou": None, "precision": None, "recall": None}
    assert moving_class(LABEL_SPACES["semantickitti"]) is None
    assert moving_class(LABEL_SPACES["semantickitti_mos"]) == 2


class Drives(ScanDataset):
    """Three scans of two drives."""

    labels = MOVABLE
    read = files = index_of = None  # never asked for

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return 3

    def token(self, index: int) -> str:
        return ("00/000000", "08/000000", "08/000001")[index]


Drives.__abstractmethods__ = frozenset()


def test_sequences_are_counted_apart_and_padding_not_at_all():
    counts = SequenceCounts(Drives())
    data = DataConfig(augment=None)
    labels = [[1, 3, 0], [3, 3], [2, 1]]
    samples = []
    for index in (2, 0, 1):
        points = np.arange(3.0 * len(labels[index])).reshape(-1, 3)
        scan = make_scan(points, labels=np.array(labels[index]), token=f"s{index}")
        samples.append(make_sample(scan, index, data))
    counts(collate(samples), torch.tensor([3, 1, 1, 3, 3, 3, 1]))
    counts(collate([replace(samples[0], padded=True)]), torch.tensor([2, 2]))
    found = counts.by_name()
    assert list(found) == ["00", "08"]
    assert found["00"].counts.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [0] * 4, [0, 0, 0, 1]]
    assert found["08"].counts.tolist() == [[0] * 4, [0, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1]]


@pytest.mark.parametrize(
    ("features", "looks"), [(("xyz", "past"), ""), (("motion", "past"), ", looking 7 scans ahead")]
)
def test_a_score_says_how_far_its_network_looked_ahead(features, looks):
    scans = Drives()
    ahead = {"file": "{token}.npz", "channels": 8}
    scans.columns = {
        "motion": Column.model_validate(ahead | {"motion": {}}),
        "past": Column.model_validate(ahead | {"motion": {"delay": 0}}),
    }
    known = {"num_scans": 1, "num_points": 1, "seconds": 0.0, "checkpoint": "", "command": ""}
    result = EvaluationResult("D", "val", MOVABLE.classes, TABLE, {}, checkpoint_sha256="", **known)
    told = with_moving(result, {}, scans, features)
    assert set(told.extra["moving"]["delays"]) == set(features) - {"xyz"}
    assert moving_line(told) == f"moving: IoU 23.48, precision 50.82, recall 30.39{looks}"
    assert moving_line(result) == ""


# --- files ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def predicted(tiny_kitti, tmp_path) -> Path:
    """The raw labels of the val split as if they were predictions, in the benchmark's layout."""
    folder = tmp_path / "sequences/08/predictions"
    folder.mkdir(parents=True)
    for path in (tiny_kitti / "sequences/08/labels").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return tmp_path


def score(folder: Path, root: Path, *options: str) -> dict:
    target = folder / "score.json"
    main(["moving-score", str(folder), "--root", str(root), "--json", str(target), *options])
    return json.loads(target.read_text())["extra"]["moving"]


def change(folder: Path, frame: int, ids: np.ndarray) -> None:
    path = folder / f"sequences/08/predictions/{frame:06d}.label"
    path.write_bytes(ids.astype("<u4").tobytes())


def truth(root: Path, frame: int) -> np.ndarray:
    return np.fromfile(root / f"sequences/08/labels/{frame:06d}.label", "<u4") & 0xFFFF


def test_files_of_the_truth_are_right_and_others_are_counted(predicted, tiny_kitti, capsys):
    assert score(predicted, tiny_kitti)["countings"]["official"]["iou"] == 100
    ids = truth(tiny_kitti, 0)
    moves = ids >= 252
    later = int((truth(tiny_kitti, 1) >= 252).sum())
    assert moves.any() and later
    change(predicted, 0, np.where(moves, 250, 251))  # all wrong, by the ids of KDMOS
    known = ids > 1
    record = score(predicted, tiny_kitti)
    hits, false, missed = later, int((known & ~moves).sum()), int(moves.sum())
    official = record["countings"]["official"]
    assert official["iou"] == pytest.approx(100 * hits / (hits + false + missed))
    assert official["recall"] == pytest.approx(100 * hits / (hits + missed))
    assert record["by_sequence"] == {"08": official}
    assert set(record["by_range"]) == {"0-20", "20-50", "50+"}
    assert len(record["poses_sha256"]) == 64
    assert f"moving: IoU {official['iou']:.2f}, precision" in capsys.readouterr().out
    change(predicted, 0, np.where(moves, 0, ids))
    lenient = score(predicted, tiny_kitti)["countings"]
    assert lenient["predicted points"]["iou"] == 100 > lenient["official"]["iou"]


def test_missing_and_short_files_are_refused(predicted, tiny_kitti):
    change(predicted, 1, truth(tiny_kitti, 1)[:-3])
    with pytest.raises(
        UserError, match=r"000001\.label.*predictions for the .* points of scan 08/000001"
    ):
        score(predicted, tiny_kitti)
    (predicted / "sequences/08/predictions/000001.label").unlink()
    with pytest.raises(UserError, match=r"1 file of 2 missing, the first is .*000001\.label"):
        score(predicted, tiny_kitti)
    with pytest.raises(UserError, match=r"none of the classes .* is called 'moving'"):
        score(predicted, tiny_kitti, "--labels", "semantickitti")


def test_a_submission_holds_static_and_moving(tiny_kitti):
    labels = {"name": "semantickitti", "root": str(tiny_kitti), "labels": MOVABLE.name}
    scans = build_dataset(Config({"dataset": labels | {"cameras": []}}), "val")
    content = scans.benchmark.encode(np.array([1, 2, 3, 2], np.uint8), scans.labels)
    assert np.frombuffer(content, "<u4").tolist() == [9, 9, 251, 9]
