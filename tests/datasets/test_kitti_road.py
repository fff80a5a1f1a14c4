"""KITTI-Road beside SemanticKITTI: its splits, its two ids, and the drive that is in the hidden test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import random_checkpoint

from core.config import Config
from core.datasets import build_dataset
from core.datasets.semantickitti import OFFICIAL_SEQUENCES
from core.datasets.semantickitti.drive import SCANS
from core.datasets.semantickitti.road import ROAD_COUNTS, ROAD_SEQUENCES, RoadConfig
from core.engine.run.distributed import World
from core.engine.score.jobs import evaluate_checkpoint
from core.engine.score.submission import submit_checkpoint
from core.errors import UserError
from core.labels import LABEL_SPACES

# of the specification, scan by scan counted: sequence -> scans
COUNTS = {30: 297, 31: 188, 32: 430, 33: 430, 34: 390, 35: 78, 36: 420, 37: 936, 38: 339, 39: 279}
COUNTS |= {40: 1170, 41: 837}
OFFICIAL = {"00": [40, 10, 252], "08": [40, 10, 252], "11": [40, 10, 252]}
ROAD = [9, 9, 251]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A scan of three points in each sequence."""
    raw = OFFICIAL | {str(number): ROAD for number in COUNTS}
    for name, ids in raw.items():
        folder = tmp_path / "data/sequences" / name
        for part in ("velodyne", "labels"):
            (folder / part).mkdir(parents=True)
        points = np.random.default_rng(int(name)).uniform(2, 9, (3, 4)).astype(np.float32)
        points.tofile(folder / "velodyne/000000.bin")
        if name != "11":
            np.array(ids, np.uint32).tofile(folder / "labels/000000.label")
    return tmp_path / "data"


def tree(root: Path, **keys: Any) -> dict[str, Any]:
    section = {
        "name": "semantickitti",
        "root": str(root),
        "labels": "semantickitti_movable",
        "cameras": [],
        "partial": True,
    }
    return section | keys


def opened(root: Path, which: str, **keys: Any):
    return build_dataset(Config({"dataset": tree(root, **keys)}), which)


def sequences(dataset: Any) -> list[str]:
    return [dataset.scene(row) for row in range(len(dataset))]


def label(dataset: Any, sequence: str) -> list[int]:
    scan = dataset.read(dataset.index_of(f"{sequence}/0"), cameras=False)
    return scan.labels.tolist()


def test_counts_of_the_splits():
    assert {name: SCANS[str(name)] for name in COUNTS} == COUNTS
    for split, names in OFFICIAL_SEQUENCES.items():
        total = {"train": 19130, "val": 4071, "test": 20351}[split]
        assert total == sum(SCANS[name] for name in names)
    for split, names in ROAD_SEQUENCES.items():
        assert ROAD_COUNTS[split] == sum(COUNTS[int(name)] for name in names)
    road = RoadConfig(splits=("train", "val"))
    assert road.count("train") == 2905 and road.count("test") == 0
    assert road.count("val") == 2889 - 837
    assert RoadConfig(splits=("val",), leak=True).count("val") == 2889


def test_splits_that_they_join(root):
    assert sequences(opened(root, "train")) == ["00"]
    both = {"splits": ["train", "val"]}
    train = opened(root, "train", road=both)
    assert sequences(train) == ["00", "30", "31", "32", "33", "34", "40"]
    assert train.expected == 19130 + 2905 and "KITTI-Road" in train.describe()
    val = opened(root, "val", road=both)
    assert sequences(val) == ["08", "35", "36", "37", "38", "39"] and val.leak == ""
    assert val.expected == 4071 + 2052
    assert "KITTI-Road" not in opened(root, "val", road={"splits": ["train"]}).describe()
    assert sequences(opened(root, "test", road=both)) == ["11"]


def test_what_does_not_move_may_be_movable(root):
    train = opened(root, "train", road={"splits": ["train"]})
    assert label(train, "00") == [1, 2, 3] and label(train, "30") == [0, 0, 3]
    as_static = opened(root, "train", road={"splits": ["train"], "static": "static"})
    assert label(as_static, "30") == [1, 1, 3]
    two = opened(root, "train", road={"splits": ["train"]}, labels="semantickitti_mos")
    assert label(two, "30") == [1, 1, 2]  # nothing is asked of what could move
    val = opened(root, "val", road={"splits": ["val"]})
    assert label(val, "35") == [1, 1, 3]  # else moving found in vain would not count


def test_the_drive_of_the_hidden_test_split(root):
    with pytest.raises(
        UserError, match=r"sequence 41.*sequence 20.*never trained on.*Leave 41 out"
    ):
        opened(root, "train", split={"train": ["00", "41"]})
    with pytest.raises(UserError, match="never trained on"):
        opened(root, "train", frames={"train": {"41": [0, 5]}}, road={"leak": True})
    with pytest.raises(UserError, match=r"not fit for a submission.*leak: true"):
        opened(root, "val", split={"val": ["41"]})
    val = opened(root, "val", road={"splits": ["val"], "leak": True})
    assert "41" in sequences(val) and val.expected == 4071 + 2889
    assert "sequence 20, whose labels the benchmark hides" in val.leak
    assert sequences(opened(root, "test", split={"test": ["41"]})) == ["41"]


def test_classes_that_its_labels_do_not_tell(root):
    with pytest.raises(UserError, match=r"30.*'semantickitti' does not know 9 and 251"):
        opened(root, "train", road={"splits": ["train"]}, labels=None)


def test_scores_and_submissions_know_of_the_leak(root, tmp_path):
    config = Config(
        {
            "num_epochs": 1,
            "batch_size": 1,
            "workers_per_gpu": 0,
            "dataset": tree(root, road={"splits": ["val"], "leak": True}),
            "data": {"voxel_size": 0.5},
            "model": {"name": "minkunet", "cr": 0.1},
        }
    )
    space = LABEL_SPACES["semantickitti_movable"]
    checkpoint = random_checkpoint(config, space, tmp_path / "net.pt")
    result = evaluate_checkpoint(World(), config, checkpoint, tmp_path)
    assert "sequence 41" in result.extra["leak"]
    with pytest.raises(
        UserError, match="weights were chosen by a score of which the val split holds"
    ):
        submit_checkpoint(World(), config, checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
