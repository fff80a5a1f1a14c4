"""``dataset.drop_static``: the rule, whose labels it reads, what a training keeps and writes down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loguru import logger

from core.config import Config
from core.datasets import build_dataset
from core.datasets.sections import DropStatic
from core.datasets.static_scans import kept_scans
from core.datasets.training import TrainingScans
from core.engine.train.split import write_labelled
from core.errors import UserError

POINTS = 20
# of sequence 00, frame by frame; 01 has nothing that moves
MOVING = [0, 0, 10, 0, 0, 9, 3, 0, 0, 0, 0, 0, 0, 15, 0, 20]


def frames(kept: np.ndarray) -> list[int]:
    return np.flatnonzero(kept).tolist()


def test_the_rule_by_hand():
    rule = DropStatic()
    assert frames(kept_scans(np.array(MOVING), ["a"] * 16, rule)) == [0, 2, 12, 13, 15]
    still = np.zeros(35, np.int64)
    assert frames(kept_scans(still, ["a"] * 35, rule)) == [0, 10, 20, 30]
    assert frames(kept_scans(still, ["a"] * 12 + ["b"] * 23, rule)) == [0, 10, 12, 22, 32]
    assert frames(kept_scans(np.array([9, 9, 10, 11, -1]), ["a"] * 5, rule)) == [0, 2, 3, 4]
    assert frames(kept_scans(still[:7], ["a"] * 7, DropStatic(every=3))) == [0, 3, 6]
    assert kept_scans(still, ["a"] * 35, DropStatic(every=1)).all()


def test_the_rule_on_a_long_drive():
    """What was found in the published list: all scans with ten points, and gaps of ten between static ones."""
    rng = np.random.default_rng(0)
    moving = np.where(rng.random(4000) < 0.05, rng.integers(1, 40, 4000), 0)
    kept = kept_scans(moving, ["a"] * 4000, DropStatic())
    assert kept[moving >= 10].all()
    rows = np.flatnonzero(kept)
    gaps = np.diff(rows)[moving[rows[1:]] < 10]
    assert (gaps == 10).all() and len(gaps) > 100
    assert np.diff(rows).max() <= 10


def write_drives(root: Path) -> None:
    for name, counts in (("00", MOVING), ("01", [0] * 12)):
        folder = root / "sequences" / name
        for part in ("velodyne", "labels"):
            (folder / part).mkdir(parents=True)
        for frame, moving in enumerate(counts):
            np.ones((POINTS, 4), np.float32).tofile(folder / f"velodyne/{frame:06d}.bin")
            ids = np.full(POINTS, 40, np.uint32)
            ids[:moving] = (7 << 16) | np.resize([251, 252, 259], moving)
            ids[moving : moving + 3] = 10  # at rest, and could move
            ids.tofile(folder / f"labels/{frame:06d}.label")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_drives(tmp_path)
    return tmp_path


def opened(root: Path, split: str = "train", **keys: Any):
    section = {
        "name": "semantickitti",
        "root": str(root),
        "labels": "semantickitti_movable",
        "cameras": [],
        "split": {"train": ["00", "01"], "val": ["00"]},
        "drop_static": {},
    }
    return build_dataset(Config({"dataset": section | keys}), split)


def tokens(dataset: Any) -> list[str]:
    return [dataset.token(row) for row in range(len(dataset))]


KEPT = [f"00/{frame:06d}" for frame in (0, 2, 12, 13, 15)] + ["01/000000", "01/000010"]


def test_a_training_does_without_them_and_says_so(root, tmp_path):
    told: list[str] = []
    sink = logger.add(told.append, format="{message}")
    train = opened(root)
    logger.remove(sink)
    assert isinstance(train, TrainingScans) and tokens(train) == KEPT
    assert train.budget.all() and train.load(1, cameras=False).labels is not None
    assert "leaves 7 scans of 28: 3 with 10 moving points or more, 4 others" in told[-1]
    assert "21 static ones dropped" in train.describe()
    write_labelled(train, tmp_path)
    written = (tmp_path / "drop_static.txt").read_text().splitlines()
    assert written[0].startswith("# dataset.drop_static leaves 7 scans of 28")
    assert written[2] == "00/000002  # moving points: 10"
    again = opened(root, drop_static=None, labelled={"file": str(tmp_path / "drop_static.txt")})
    assert tokens(again) == KEPT
    assert len(opened(root, "val")) == 16


def test_with_a_label_budget(root):
    """Only labels of the budget are looked at; what is dropped comes back as nothing else."""
    for path in (root / "sequences/00/labels").glob("*[13579].label"):
        path.write_bytes(b"not read")
    budget = {"fraction": 0.5, "by": "frame"}
    train = opened(root, labelled=budget, unlabelled="rest")
    labelled = [train.token(row) for row in train.rows_of("labelled")]
    # every second frame: moving points of 00 are 0 0+2: [0, 10, 0, 3, 0, 0, 0, 0]
    assert labelled == ["00/000000", "00/000002", "01/000000"]
    rest = [train.token(row) for row in train.rows_of("rest")]
    assert rest == [f"00/{k:06d}" for k in range(1, 16, 2)] + [
        f"01/{k:06d}" for k in range(1, 12, 2)
    ]


def test_labels_that_cannot_be_read(root):
    (root / "sequences/00/labels/000005.label").write_bytes(b"123")
    assert "00/000005" in tokens(opened(root))


def test_classes_that_do_not_tell_what_moves(root):
    with pytest.raises(
        UserError, match=r"drop_static': no class.*'semantickitti' moves.*semantickitti_movable"
    ):
        opened(root, labels="semantickitti")
    assert len(opened(root, labels="semantickitti_multiscan")) < 16
