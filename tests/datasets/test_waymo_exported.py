"""Points exported frame by frame, in the layout that the PVKD repository reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from waymo_segments import NAMES, frame, laser

from core.config import Config
from core.datasets import build_dataset
from core.datasets.base import ScanDataset
from core.datasets.waymo.exported import RETURNS
from core.datasets.waymo.frame import TOP
from core.datasets.waymo.range_image import CellPoints, Motion, points_of
from core.errors import UserError

NAME = NAMES["training"][0]


def points(number: int) -> CellPoints:
    made = frame(number, NAME, labelled=True)
    return points_of(made.returns[TOP], laser(), Motion(made.pixel_pose, made.pose))


def export(root: Path, width: int = 8, cells: bool = True) -> Path:
    """Two labelled frames of one segment, a file per return."""
    for number in (2, 7):
        made = points(number)
        table = np.column_stack([made.values[:, :3], made.xyz, made.labels]).astype(np.float32)
        if width == 7:
            table = np.delete(table, 6, 1)  # no instances
        stamp = frame(number, NAME, labelled=False).timestamp
        for part, folder in enumerate(RETURNS, 1):
            own = made.number == part
            path = root / folder / "training" / NAME / f"{stamp}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, table[own, :width])
            if cells:
                pairs = np.stack([made.row[own], made.column[own]], 1).astype(np.uint16)
                np.save(path.with_name(f"{stamp}_row_col.npy"), pairs)
    return root


def build(root: Path, **keys: object) -> ScanDataset:
    section = {"name": "waymo", "root": str(root), **keys}
    return build_dataset(Config({"dataset": section}), "train")


def test_scans_are_the_exported_points(tmp_path):
    scans = build(export(tmp_path))
    assert len(scans) == 2 and scans.token(1).startswith(f"{NAME}/")
    assert [scans.index_of(scans.token(i)) for i in (0, 1)] == [0, 1]
    found, made = scans.load(1).points, points(7)
    order = np.lexsort([np.arange(len(made)), made.number])
    np.testing.assert_array_equal(found["xyz"], made.xyz[order])
    np.testing.assert_array_equal(found["intensity"], np.tanh(made.values[order, 1]))
    np.testing.assert_array_equal(found["range"], made.values[order, 0])
    np.testing.assert_array_equal(found["elongation"], made.values[order, 2])
    np.testing.assert_array_equal(found["label"], made.labels[order, 1])
    np.testing.assert_array_equal(found["instance"], made.labels[order, 0])
    np.testing.assert_array_equal(found["return"], made.number[order])
    cells = scans.cells(1)
    np.testing.assert_array_equal(cells.row, made.row[order])
    np.testing.assert_array_equal(cells.column, made.column[order])
    assert cells.shape == (64, 2650) and cells.images(found["label"]).shape == (2, 64, 2650)
    assert np.isnan(scans.load(0).pose).all() and scans.load(0).cameras == ()
    assert "no_label_zone" not in found


def test_columns_that_were_not_exported(tmp_path):
    scans = build(export(tmp_path / "classes", width=7, cells=False), returns="first")
    found = scans.load(0).points
    assert found["instance"].max() == 0 and found["label"].max() > 0
    assert "row" not in found and "beam" not in found and set(found["return"]) == {1}
    whole = build(tmp_path / "classes")
    with pytest.raises(UserError, match="which cells the points come from was not exported"):
        whole.cells(0)
    bare = build(export(tmp_path / "bare", width=6), frames="all")
    assert len(bare) == 2 and bare.load(0).labels is None and bare.files(0).labels is None
    with pytest.raises(UserError, match="no frame of the train split has labels"):
        build(tmp_path / "bare")


def test_what_exported_points_lack_is_told(tmp_path):
    root = export(tmp_path)
    with pytest.raises(UserError, match="exported points have no poses"):
        build(root, multisweeps={"num_sweeps": 1})
    with pytest.raises(UserError, match=r"dataset\.lasers.*TOP alone"):
        build(root, lasers=["TOP", "REAR"])
    with pytest.raises(UserError, match="has no camera"):
        build(root).check_images()


def first(root: Path, part: str = RETURNS[0], suffix: str = "") -> Path:
    stamp = frame(2, NAME, labelled=False).timestamp
    return root / part / "training" / NAME / f"{stamp}{suffix}.npy"


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((3, 5), np.float32), r"float32 \[3, 5\]; expected"),
        (np.zeros((3, 8), np.int64), r"int64 \[3, 8\]; expected"),
        (np.full((3, 8), np.nan, np.float32), "NaN"),
        (np.full((3, 8), 1e300), "NaN"),
        (np.full((3, 8), 0.5, np.float32), "no whole number"),
        (np.full((3, 8), 23, np.float32), r"label id 23 \(3 points\)"),
        (np.full((3, 8), -1, np.float32), "label id"),
    ],
)
def test_damaged_points(tmp_path, array, match):
    scans = build(export(tmp_path, cells=False))
    np.save(first(tmp_path), array)
    with pytest.raises(UserError, match=match):
        scans.load(0)


@pytest.mark.parametrize(
    "cells",
    [
        np.zeros((2, 2), np.uint16),
        np.zeros((len(points(2)), 2), np.float32),
        np.full((1, 2), 65535, np.uint16),
    ],
)
def test_damaged_cells(tmp_path, cells):
    scans = build(export(tmp_path))
    np.save(first(tmp_path, suffix="_row_col"), cells)
    with pytest.raises(UserError, match="expected uint16"):
        scans.load(0)


def test_cells_beyond_the_range_image(tmp_path):
    scans = build(export(tmp_path))
    path = first(tmp_path, suffix="_row_col")
    np.save(path, np.load(path) + np.uint16(3000))
    with pytest.raises(UserError, match="a point lies in row"):
        scans.cells(0)


def test_a_return_that_is_missing(tmp_path):
    scans = build(export(tmp_path))
    first(tmp_path, RETURNS[1]).unlink()
    with pytest.raises(UserError, match=r"second_return.*does not exist"):
        scans.load(0)
    assert len(scans.load(1).points) == len(points(7))
