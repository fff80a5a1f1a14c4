"""The table of points: every cut and join takes every column along."""

from __future__ import annotations

import numpy as np
import pytest

from core.contracts import Points, Scan


def table(count: int, **columns: np.ndarray) -> Points:
    xyz = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    return Points(xyz=xyz, **columns)


def test_time_and_sweep_are_always_there() -> None:
    points = table(3)
    assert list(points) == ["xyz", "lag", "sweep"] and points["lag"].tolist() == [0, 0, 0]
    assert points["sweep"].tolist() == [0, 0, 0] and points["sweep"].dtype == np.int16
    assert points["lag"].dtype == np.float32 and points.get("label") is None
    assert "label" not in points and len(points) == 3


@pytest.mark.parametrize(
    "rows",
    [np.array([True, False, True]), np.array([2, 0, 0]), slice(1, 3)],
    ids=["mask", "rows", "slice"],
)
def test_a_cut_takes_every_column(rows) -> None:
    maps = np.arange(6, dtype=np.float16).reshape(3, 2)
    points = table(3, label=np.array([1, 2, 3], np.uint8), motion=maps)
    cut = points.take(rows)
    for name in points:
        np.testing.assert_array_equal(cut[name], points[name][rows])
        assert cut[name].dtype == points[name].dtype


def test_a_join_fills_what_a_part_lacks_with_zero() -> None:
    first = table(2, label=np.array([4, 5], np.uint8), motion=np.ones((2, 3), np.float16))
    second = table(1, pasted=np.ones(1, bool), label=np.array([7], np.int64))
    joined = Points.join(first, second)
    assert joined["label"].tolist() == [4, 5, 7] and joined["label"].dtype == np.uint8
    assert joined["pasted"].tolist() == [False, False, True] and joined["pasted"].dtype == bool
    assert joined["motion"].tolist() == [[1] * 3, [1] * 3, [0] * 3]
    assert joined["motion"].dtype == np.float16
    assert Points.join(first) is first and Points.join(first, table(0)) is first
    empty = table(0, score=np.zeros(0, np.float32))
    assert Points.join(first, empty)["score"].tolist() == [0, 0]
    assert len(Points.join(table(0), table(0))) == 0


def test_columns_come_and_go() -> None:
    points = table(2, label=np.array([1, 2], np.uint8))
    changed = points.having(label=None, instance=np.array([3, 0], np.int32))
    assert list(changed) == ["xyz", "lag", "sweep", "instance"] and points["label"].tolist() == [
        1,
        2,
    ]
    with pytest.raises(ValueError, match="column 'score' has 3 rows for 2 points"):
        points.having(score=np.zeros(3))


def test_a_scan_reads_its_columns_by_their_older_names() -> None:
    lag = np.array([0, 0, 0.1], np.float32)
    points = table(
        3,
        lag=lag,
        sweep=np.array([0, 0, 1], np.int16),
        intensity=np.ones(3, np.float32),
        label=np.array([1, 2, 0], np.uint8),
    )
    scan = Scan("a", points)
    assert scan.xyz is points["xyz"] and scan.time_lag is lag and scan.labels is points["label"]
    assert scan.keyframe.tolist() == [True, True, False]
    assert scan.instances is None and scan.pasted is None and np.isnan(scan.pose).all()
    assert scan.having(instance=np.arange(3)).instances.tolist() == [0, 1, 2]
